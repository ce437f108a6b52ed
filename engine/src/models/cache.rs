//! Models in the memory of one process, loaded once each.
//!
//! A SQL function must not wait, so it cannot load its model. The scheduler loads when it resolves the name in a
//! query; an executor sees the reference when it decodes a plan and loads before the stage runs.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::{exec_datafusion_err, exec_err};
use datafusion::error::Result;
use datafusion::execution::object_store::ObjectStoreRegistry;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;
use url::Url;

use super::registry::load;
use super::{Manifest, Model};
use crate::storage::{Directory, is_not_found};
use crate::{external, user_err};

/// Models that no running query uses are dropped when there are more than this.
const MODELS_KEPT_MAX: usize = 16;

/// One version of one model: what travels in a plan.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ModelRef {
    pub name: String,
    pub manifest_url: String,
    pub digest: String,
    /// By cluster, the models below it.
    pub children: Vec<(u32, Self)>,
}

/// A model that is loaded or will be.
#[derive(Debug)]
pub struct ModelHandle {
    reference: ModelRef,
    /// The error as text: every query that needs the model gets it.
    loaded: OnceCell<Result<Arc<Model>, String>>,
}

impl ModelHandle {
    pub fn reference(&self) -> &ModelRef {
        &self.reference
    }

    /// # Errors
    /// When loading failed, or was not waited for.
    pub fn get(&self) -> Result<Arc<Model>> {
        match self.loaded.get() {
            Some(Ok(model)) => Ok(Arc::clone(model)),
            Some(Err(message)) => exec_err!("{message}"),
            None => exec_err!("model {:?} was not loaded before the query ran", self.reference.name),
        }
    }
}

#[derive(Debug)]
pub struct ModelCache {
    stores: Arc<dyn ObjectStoreRegistry>,
    handles: Mutex<HashMap<ModelRef, Arc<ModelHandle>>>,
}

impl ModelCache {
    pub fn new(stores: Arc<dyn ObjectStoreRegistry>) -> Self {
        Self { stores, handles: Mutex::default() }
    }

    /// The handle of a model, to be loaded by [`Self::load_all`].
    pub fn handle(&self, reference: &ModelRef) -> Arc<ModelHandle> {
        let mut handles = self.handles.lock();
        if let Some(handle) = handles.get(reference) {
            return Arc::clone(handle);
        }
        if handles.len() >= MODELS_KEPT_MAX {
            handles.retain(|_, handle| Arc::strong_count(handle) > 1);
        }
        let handle = Arc::new(ModelHandle { reference: reference.clone(), loaded: OnceCell::new() });
        handles.insert(reference.clone(), Arc::clone(&handle));
        handle
    }

    /// Loads every model that a plan has asked for and that is not there yet.
    pub async fn load_all(&self) {
        let waiting: Vec<Arc<ModelHandle>> =
            self.handles.lock().values().filter(|handle| !handle.loaded.initialized()).cloned().collect();
        for handle in waiting {
            self.load(&handle).await;
        }
    }

    /// Loads one model. A failure is kept for its queries and forgotten for later ones.
    pub async fn load(&self, handle: &Arc<ModelHandle>) {
        let loading = async { self.read(&handle.reference).await.map(Arc::new).map_err(|e| e.to_string()) };
        if handle.loaded.get_or_init(|| loading).await.is_err() {
            self.handles.lock().remove(&handle.reference);
        }
    }

    async fn read(&self, reference: &ModelRef) -> Result<Model> {
        let url = Url::parse(&reference.manifest_url).map_err(external)?;
        let directory = Directory::open(self.stores.as_ref(), &url.join(".").map_err(external)?)?;
        let file = url.path_segments().and_then(|mut segments| segments.next_back()).unwrap_or_default();
        let bytes = match directory.get(file).await {
            Err(error) if is_not_found(&error) => {
                return user_err!("model {:?} was dropped while a query used it", reference.name);
            }
            bytes => bytes?,
        };
        let manifest = Manifest::decode(&bytes, url.as_str())?;
        if manifest.digest != reference.digest {
            return Err(exec_datafusion_err!("{url} is not the model that the query was planned with"));
        }
        let mut model = load(&directory, manifest).await?;
        for (cluster, child) in &reference.children {
            model.children.insert(*cluster, Arc::new(Box::pin(self.read(child)).await?));
        }
        Ok(model)
    }
}
