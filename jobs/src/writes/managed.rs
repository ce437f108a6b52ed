//! Directories of tables whose files are the warehouse's own.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use covey_engine::catalog::{Catalog, Entry};
use covey_engine::storage::{Directory, ObjectStores, directory_url};
use datafusion::error::Result;
use uuid::Uuid;

/// Below the warehouse.
const TABLES: &str = "tables";

/// How long the files of a dropped table stay for queries that read them.
const DROPPED_KEPT: Duration = Duration::from_secs(60);

/// A directory that belongs to no table and is younger may be that of a statement under way.
const UNKNOWN_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// A directory for a new table. Its name tells when it was made.
pub fn new_directory(warehouse: &Directory) -> Result<Directory> {
    warehouse.child(TABLES)?.child(&Uuid::now_v7().to_string())
}

/// Removes the files of a table that is no longer in the catalog, once queries that began before have ended.
pub fn remove_files(stores: &Arc<ObjectStores>, dropped: Arc<Entry>) {
    let stores = Arc::clone(stores);
    tokio::spawn(async move {
        tokio::time::sleep(DROPPED_KEPT).await;
        let Entry::Table(table) = dropped.as_ref() else { return };
        for location in table.locations.iter().filter(|_| table.managed) {
            let removed = async { Directory::open(stores.as_ref(), &directory_url(location)?)?.delete_all().await };
            if let Err(error) = removed.await {
                tracing::warn!(target: "covey", location, %error, "files of a dropped table are left");
            }
        }
    });
}

/// Removes the files of dropped tables, and of statements that were cut off, that a scheduler has left when it ended.
///
/// # Errors
/// Those of the warehouse.
pub async fn sweep_tables(catalog: &Catalog, warehouse: &Directory) -> Result<()> {
    let tables = warehouse.child(TABLES)?;
    let snapshot = catalog.snapshot();
    let (_, directories) = tables.list("").await?;
    for name in directories {
        let directory = tables.child(&name)?;
        let is_used = snapshot.managed_locations().contains(&directory.url().as_str());
        if !is_used && made_before(&name, UNKNOWN_KEPT) {
            directory.delete_all().await?;
        }
    }
    Ok(())
}

fn made_before(name: &str, age: Duration) -> bool {
    let made = Uuid::parse_str(name).ok().and_then(|uuid| uuid.get_timestamp());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    made.is_some_and(|made| Duration::from_secs(made.to_unix().0) + age < now)
}
