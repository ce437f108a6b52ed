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

/// Files in whose place others are, as they were then: one that was written anew under the same name is another. Of its
/// time only the seconds count: stores tell more of them in a list than when they are asked for one file.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Replaced(HashMap<String, (u64, i64)>);

impl Replaced {
    pub fn new<'a>(files: impl Iterator<Item = &'a ObjectMeta>) -> Self {
        Self(files.map(|file| (file.location.to_string(), Self::version(file))).collect())
    }

    fn version(file: &ObjectMeta) -> (u64, i64) {
        (file.size, file.last_modified.timestamp())
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
        let paths = self.0.keys().map(|path| Ok(Path::parse(path)?)).collect::<Result<Vec<_>>>()?;
        let removed = paths.into_iter().map(|path| self.remove_file(store.as_ref(), path));
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

#[cfg(test)]
mod tests {
    use chrono::{TimeDelta, Timelike};

    use super::*;
    use crate::settings::Settings;
    use crate::storage::ObjectStores;

    /// Goal: what was replaced goes, whatever is in its name, and although stores tell less of its time when they are asked
    /// for one file; what was written anew stays.
    #[tokio::test]
    async fn what_was_replaced_goes() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Url::from_directory_path(folder.path()).unwrap();
        let stores = ObjectStores::new(Settings::default());
        let names = ["host=a%3A80/x.parquet", "host=~ [b]|#/y.parquet", "anew.parquet"];
        for name in names {
            let file = folder.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "x").unwrap();
        }
        let store = stores.get_store(&directory).unwrap();
        let root = Path::from_url_path(directory.path()).unwrap();
        let mut files: Vec<ObjectMeta> = store.list(Some(&root)).try_collect().await.unwrap();
        assert_eq!(files.len(), names.len());
        for file in &mut files {
            let later = (file.last_modified.nanosecond() < 500_000_000).then_some(TimeDelta::milliseconds(400));
            file.last_modified += later.unwrap_or(TimeDelta::milliseconds(-400));
        }
        let replaced = Replaced::new(files.iter());
        std::fs::write(folder.path().join("anew.parquet"), "more").unwrap();
        replaced.remove(&stores, directory.as_str()).await.unwrap();
        assert_eq!(names.map(|name| folder.path().join(name).exists()), [false, false, true]);
        // Again, as after a crash.
        replaced.remove(&stores, directory.as_str()).await.unwrap();
    }
}
