//! Files in whose place others are: they stay for queries that were planned with them, and go then.

use std::sync::Arc;
use std::time::Duration;

use covey_engine::catalog::{Catalog, Replaced, Snapshot, WRITES};
use covey_engine::external;
use covey_engine::storage::{Directory, ObjectStores, is_not_found};
use datafusion::error::Result;

use super::commit::unix_ms;

/// How long they stay.
const REPLACED_KEPT: Duration = Duration::from_secs(60);

/// Removes the files that a write has replaced, when nobody reads them any more.
pub fn remove_later(catalog: Catalog, warehouse: Directory, stores: Arc<ObjectStores>, write: String) {
    tokio::spawn(async move {
        tokio::time::sleep(REPLACED_KEPT).await;
        if let Err(error) = remove(&catalog, &warehouse, &stores, &write).await {
            tracing::warn!(target: "covey", write, %error, "files that were replaced are left, and hidden");
        }
    });
}

/// Removes what schedulers that have ended have left.
///
/// # Errors
/// Those of the warehouse and of the stores.
pub async fn remove_old(catalog: &Catalog, warehouse: &Directory, stores: &ObjectStores) -> Result<()> {
    let before = unix_ms().saturating_sub(REPLACED_KEPT.as_millis() as u64);
    let snapshot = catalog.snapshot();
    for (write, _) in snapshot.replacing().iter().filter(|(_, replacing)| replacing.since < before) {
        remove(catalog, warehouse, stores, write).await?;
    }
    Ok(())
}

async fn remove(catalog: &Catalog, warehouse: &Directory, stores: &ObjectStores, write: &str) -> Result<()> {
    let Some(directory) = catalog.snapshot().replacing().get(write).map(|replacing| replacing.directory.clone()) else {
        return Ok(());
    };
    let log = warehouse.child(WRITES)?;
    let replaced: Replaced = match log.get(&Replaced::name(write)).await {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(external)?,
        Err(error) if is_not_found(&error) => Replaced::default(),
        Err(error) => return Err(error),
    };
    replaced.remove(stores, &directory).await?;
    let end = |snapshot: &mut Snapshot| {
        snapshot.end_replacing(write);
        Ok(())
    };
    catalog.commit(end).await?;
    log.delete(&Replaced::name(write)).await
}
