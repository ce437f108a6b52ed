//! Directories of a store, and objects by their names in them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::object_store::ObjectStoreRegistry;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use url::Url;

use crate::{external, user_err};

/// Reads a directory or URL as a user writes it: `s3://bucket/dir`, `file:///dir`, `/dir` or `dir`. The result
/// ends in `/`, so that names can be joined to it.
///
/// # Errors
/// When it is neither a URL nor a path that can be made absolute.
pub fn directory_url(text: &str) -> Result<Url> {
    let url = if text.contains("://") {
        Url::parse(text).map_err(|e| external(crate::UserError(format!("{text:?} is no URL: {e}"))))?
    } else {
        let absolute = std::path::absolute(text).map_err(|e| DataFusionError::Execution(format!("{text}: {e}")))?;
        match Url::from_directory_path(&absolute) {
            Ok(url) => url,
            Err(()) => return user_err!("{text:?} is neither a URL nor a path"),
        }
    };
    if url.path().ends_with('/') {
        return Ok(url);
    }
    let mut directory = url;
    directory.set_path(&format!("{}/", directory.path()));
    Ok(directory)
}

/// A directory in a store, and the objects below it by relative name.
#[derive(Debug, Clone)]
pub struct Directory {
    store: Arc<dyn ObjectStore>,
    url: Url,
}

impl Directory {
    /// # Errors
    /// When no store can be made for the URL.
    pub fn open(stores: &dyn ObjectStoreRegistry, url: &Url) -> Result<Self> {
        Ok(Self { store: stores.get_store(url)?, url: url.clone() })
    }

    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The directory `name` below this one.
    ///
    /// # Errors
    /// When `name` cannot be part of a URL.
    pub fn child(&self, name: &str) -> Result<Self> {
        Ok(Self { store: Arc::clone(&self.store), url: self.url_of(&format!("{name}/"))? })
    }

    pub fn url_of(&self, name: &str) -> Result<Url> {
        self.url.join(name).map_err(external)
    }

    fn path_of(&self, name: &str) -> Result<Path> {
        Ok(Path::from_url_path(self.url_of(name)?.path())?)
    }

    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<()> {
        self.store.put(&self.path_of(name)?, PutPayload::from_bytes(bytes)).await?;
        Ok(())
    }

    /// Writes `name` unless it exists; `false` when it does. The one way in which anything is committed: so the bytes must
    /// be like no others, by a name or number that nobody else writes.
    ///
    /// # Errors
    /// Those of the store: then it may have been written.
    pub async fn create(&self, name: &str, bytes: Bytes) -> Result<bool> {
        let options = PutOptions::from(PutMode::Create);
        let put = self.store.put_opts(&self.path_of(name)?, PutPayload::from_bytes(bytes.clone()), options).await;
        let error = match put {
            Ok(_) => return Ok(true),
            Err(error) => error,
        };
        // A store whose answer was lost is asked again, and then says that it is there, or that it fails.
        match self.get(name).await {
            Ok(found) => Ok(found == bytes),
            Err(missing) if is_not_found(&missing) && matches!(error, object_store::Error::AlreadyExists { .. }) => {
                Ok(false)
            }
            Err(_) => Err(error.into()),
        }
    }

    pub async fn get(&self, name: &str) -> Result<Bytes> {
        Ok(self.store.get(&self.path_of(name)?).await?.bytes().await?)
    }

    /// Names of the objects and of the directories directly below `name`, sorted.
    pub async fn list(&self, name: &str) -> Result<(Vec<String>, Vec<String>)> {
        let found = self.store.list_with_delimiter(Some(&self.path_of(name)?)).await?;
        let last = |path: &Path| path.filename().unwrap_or_default().to_string();
        let mut objects: Vec<String> = found.objects.iter().map(|object| last(&object.location)).collect();
        let mut directories: Vec<String> = found.common_prefixes.iter().map(last).collect();
        objects.sort_unstable();
        directories.sort_unstable();
        Ok((objects, directories))
    }

    /// Bytes of every object below `name`, by its name from there.
    pub async fn sizes(&self, name: &str) -> Result<BTreeMap<String, u64>> {
        let below = self.path_of(name)?;
        let found: Vec<ObjectMeta> = self.store.list(Some(&below)).try_collect().await?;
        let relative = |meta: &ObjectMeta| {
            let parts: Vec<_> = meta.location.prefix_match(&below)?.collect();
            Some((parts.iter().map(AsRef::as_ref).collect::<Vec<_>>().join("/"), meta.size))
        };
        Ok(found.iter().filter_map(relative).collect())
    }

    pub async fn delete(&self, name: &str) -> Result<()> {
        match self.store.delete(&self.path_of(name)?).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Removes everything below this directory.
    pub async fn delete_all(&self) -> Result<()> {
        let path = Path::from_url_path(self.url.path())?;
        let found: Vec<Path> = self.store.list(Some(&path)).map_ok(|meta| meta.location).try_collect().await?;
        let mut deleted = self.store.delete_stream(futures::stream::iter(found.into_iter().map(Ok)).boxed());
        while let Some(result) = deleted.next().await {
            match result {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
        if self.url.scheme() == "file" {
            // A local store leaves the empty directories behind.
            if let Ok(directory) = self.url.to_file_path() {
                let _ = tokio::fs::remove_dir_all(directory).await;
            }
        }
        Ok(())
    }
}

/// Whether an object was asked for that is not there.
pub fn is_not_found(error: &DataFusionError) -> bool {
    matches!(error.find_root(), DataFusionError::ObjectStore(error) if matches!(**error, object_store::Error::NotFound { .. }))
}

/// Reads one object by its whole URL.
pub async fn get_url(stores: &dyn ObjectStoreRegistry, url: &str) -> Result<Bytes> {
    let url = Url::parse(url).map_err(external)?;
    let store = stores.get_store(&url)?;
    Ok(store.get(&Path::from_url_path(url.path())?).await?.bytes().await?)
}
