//! Object stores: the only place that names S3 or reads credentials.
//!
//! A store is made the first time a URL of its bucket is used, in every process by itself, from the process's
//! own settings. So credentials are in no plan, and an executor needs no registration to read a new bucket.

mod connect;
mod directory;
mod resumed;
mod told;

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::error::Result;
use datafusion::execution::object_store::ObjectStoreRegistry;
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::multipart::MultipartStore;
use parking_lot::RwLock;
use url::Url;

pub use directory::{Directory, directory_url, get_url, is_not_found};

use crate::settings::Settings;
use crate::user_err;
use connect::connect;

/// Makes and keeps one store per scheme and bucket.
#[derive(Debug)]
pub struct ObjectStores {
    settings: Settings,
    local: Arc<dyn ObjectStore>,
    remote: RwLock<HashMap<String, Remote>>,
}

#[derive(Clone)]
struct Remote {
    store: Arc<dyn ObjectStore>,
    /// Where files can be written in parts that nobody sees before they are put together.
    uploads: Option<Arc<dyn MultipartStore>>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.store.fmt(f)
    }
}

impl ObjectStores {
    pub fn new(settings: Settings) -> Self {
        Self { settings, local: Arc::new(LocalFileSystem::new()), remote: RwLock::default() }
    }

    /// The machine's own disk.
    pub fn local(&self) -> &dyn ObjectStore {
        self.local.as_ref()
    }

    /// The store of a URL by its interface for uploads in parts; `None` where files are renamed instead.
    ///
    /// # Errors
    /// When no store can be made for the URL, or nothing can be written there.
    pub fn uploads(&self, url: &Url) -> Result<Option<Arc<dyn MultipartStore>>> {
        if url.scheme() == "file" {
            return Ok(None);
        }
        match self.remote(url)?.uploads {
            Some(uploads) => Ok(Some(uploads)),
            None => user_err!("{url}: {} stores are only read; write to s3:// or to a directory", url.scheme()),
        }
    }

    fn remote(&self, url: &Url) -> Result<Remote> {
        if let Some(remote) = self.remote.read().get(&bucket_key(url)) {
            return Ok(remote.clone());
        }
        let remote = connect(&self.settings, url)?;
        Ok(self.remote.write().entry(bucket_key(url)).or_insert(remote).clone())
    }
}

impl ObjectStoreRegistry for ObjectStores {
    fn register_store(&self, url: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        let remote = Remote { store, uploads: None };
        self.remote.write().insert(bucket_key(url), remote).map(|before| before.store)
    }

    fn get_store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        if url.scheme() == "file" {
            return Ok(Arc::clone(&self.local));
        }
        Ok(self.remote(url)?.store)
    }
}

fn bucket_key(url: &Url) -> String {
    url[..url::Position::BeforePath].to_string()
}
