//! Files in whose place others are.

use std::collections::HashMap;

use datafusion::error::Result;
use datafusion::execution::object_store::ObjectStoreRegistry;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::external;

/// Files that are removed at once.
const REMOVED_CONCURRENT: usize = 16;

/// Files in whose place others are, as they were then: one that was written anew under the same name is another.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Replaced(HashMap<String, (u64, i64)>);

impl Replaced {
    pub fn new<'a>(files: impl Iterator<Item = &'a ObjectMeta>) -> Self {
        Self(files.map(|file| (file.location.to_string(), Self::version(file))).collect())
    }

    fn version(file: &ObjectMeta) -> (u64, i64) {
        (file.size, file.last_modified.timestamp_millis())
    }

    pub fn contains(&self, file: &ObjectMeta) -> bool {
        self.0.get(file.location.as_ref()) == Some(&Self::version(file))
    }

    /// The name of the list in the log of writes.
    pub fn name(write: &str) -> String {
        format!("{write}.replaced.json")
    }

    /// Removes them from the store of `directory`.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn remove(&self, stores: &dyn ObjectStoreRegistry, directory: &str) -> Result<()> {
        let store = stores.get_store(&Url::parse(directory).map_err(external)?)?;
        let removed = self.0.keys().map(|path| self.remove_file(store.as_ref(), Path::from(path.as_str())));
        let removed = futures::stream::iter(removed.collect::<Vec<_>>()).buffer_unordered(REMOVED_CONCURRENT);
        removed.try_collect().await
    }

    /// One that was written anew meanwhile stays.
    async fn remove_file(&self, store: &dyn ObjectStore, path: Path) -> Result<()> {
        match store.head(&path).await {
            Ok(meta) if self.contains(&meta) => {}
            Ok(_) | Err(object_store::Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        match store.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
