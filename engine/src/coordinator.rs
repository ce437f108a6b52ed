//! How a task on an executor talks to the fit that it works for: it fetches what every task of the fit needs
//! (scales, the centroids of an iteration) and reports progress. Not through the plan: a plan travels in one
//! gRPC message and is copied into every task.

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use covey_udfs::kmeans::{CentroidTable, FixedPoint, Frame, IterationStats, Profile};
use covey_udfs::matrix::{Density, Points};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::execution::object_store::ObjectStoreRegistry;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use crate::block_cache::{BlockCache, Found, HeldBlock};
use crate::external;
use crate::operators::{compute, decode_centroids};
use crate::recent::Recent;
use crate::storage::ObjectStores;

/// What a task says about how far it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Progress {
    Seeded,
    Iterated(IterationStats),
}

/// The executor's side of the channel to the scheduler.
#[async_trait]
pub trait Coordinator: Debug + Send + Sync {
    /// The bytes published under `key` by the fit `fit`.
    async fn fetch(&self, fit: &str, key: &str) -> Result<Bytes>;

    async fn report(&self, fit: &str, progress: Progress) -> Result<()>;

    /// Ready when the fit is over, or nobody knows of it any more.
    async fn over(&self, fit: &str);
}

/// What an executor gives to the operators that run on it. Found in a task's session configuration.
#[derive(Debug)]
pub struct ExecutorServices {
    pub executor_id: String,
    pub coordinator: Arc<dyn Coordinator>,
    pub blocks: Arc<BlockCache>,
    pub stores: Arc<ObjectStores>,
    /// Fits whose end is waited for.
    fits: Mutex<HashSet<String>>,
    /// By fit.
    arithmetic: Recent<String, Arc<Arithmetic>>,
    /// By fit and key: tasks of an iteration share one.
    tables: Recent<(String, String), Arc<CentroidTable>>,
}

/// What the passes of a fit compute with.
#[derive(Debug)]
pub struct Arithmetic {
    pub scale: FixedPoint,
    pub frame: Frame,
}

impl ExecutorServices {
    pub fn new(
        executor_id: String,
        coordinator: Arc<dyn Coordinator>,
        blocks: Arc<BlockCache>,
        stores: Arc<ObjectStores>,
    ) -> Self {
        let (arithmetic, tables) = (Recent::new(FITS_KEPT_MAX), Recent::new(TABLES_KEPT_MAX));
        Self { executor_id, coordinator, blocks, stores, fits: Mutex::default(), arithmetic, tables }
    }

    /// # Errors
    /// When the task runs in a process that is no Covey executor.
    pub fn of(context: &TaskContext) -> Result<Arc<Self>> {
        context.session_config().get_extension::<Self>().ok_or_else(|| {
            DataFusionError::Execution("this operator runs on covey executors only, and this process is none".into())
        })
    }

    /// A block of a fit, and where it was. Nothing of the fit is kept beyond its end.
    pub async fn block(
        self: &Arc<Self>,
        stores: &dyn ObjectStoreRegistry,
        fit: &str,
        url: &str,
    ) -> Result<(Arc<HeldBlock>, Found)> {
        let _watch = WatchOnDrop { services: self, fit };
        self.blocks.read(stores, fit, url).await
    }

    /// Keeps a block that was made here until the end of its fit.
    pub async fn hold(self: &Arc<Self>, fit: &str, url: &str, points: Arc<Points>) {
        let _watch = WatchOnDrop { services: self, fit };
        self.blocks.hold(fit, url, points).await;
    }

    fn watch(self: &Arc<Self>, fit: &str) {
        // Without a runtime the executor is stopping.
        let Ok(runtime) = Handle::try_current() else { return };
        if !self.fits.lock().insert(fit.to_string()) {
            return;
        }
        let (services, fit) = (Arc::clone(self), fit.to_string());
        runtime.spawn(async move {
            services.coordinator.over(&fit).await;
            services.fits.lock().remove(&fit);
            services.blocks.forget(&fit);
            tracing::debug!(target: "covey", fit, "the blocks of a fit are dropped");
            services.arithmetic.forget(|of| *of == fit);
            services.tables.forget(|(of, _)| *of == fit);
        });
    }

    /// The profile of all rows of a fit.
    pub async fn profile(&self, fit: &str) -> Result<Profile> {
        let bytes = self.coordinator.fetch(fit, PROFILE).await?;
        serde_json::from_slice(&bytes).map_err(external)
    }

    pub async fn arithmetic(&self, fit: &str) -> Result<Arc<Arithmetic>> {
        let make = async {
            let profile = self.profile(fit).await?;
            let mean = match profile.density {
                Density::Sparse => vec![],
                Density::Dense => decode_centroids(&self.coordinator.fetch(fit, MEAN).await?)?.centre(0).to_vec(),
            };
            Ok(Arc::new(Arithmetic { scale: FixedPoint::new(&profile), frame: Frame::new(&profile, &mean) }))
        };
        self.arithmetic.get_or_make(fit.to_string(), make).await
    }

    /// The centroids that the fit has published under `key`.
    pub async fn table(&self, fit: &str, key: &str) -> Result<Arc<CentroidTable>> {
        let make = async {
            let arithmetic = self.arithmetic(fit).await?;
            let bytes = self.coordinator.fetch(fit, key).await?;
            compute(move |_| Ok(Arc::new(CentroidTable::new(decode_centroids(&bytes)?, arithmetic.frame.clone()))))
                .await
        };
        self.tables.get_or_make((fit.to_string(), key.to_string()), make).await
    }

    /// Drops a table that is of no use any more.
    pub fn forget_table(&self, fit: &str, key: &str) {
        self.tables.forget(|(of, kept)| of == fit && kept == key);
    }
}

/// Waits for the end of a fit once something of it may have been kept: also where the task that kept it was cancelled, whose
/// fit may have ended before.
struct WatchOnDrop<'a> {
    services: &'a Arc<ExecutorServices>,
    fit: &'a str,
}

impl Drop for WatchOnDrop<'_> {
    fn drop(&mut self) {
        self.services.watch(self.fit);
    }
}

/// Fits at once whose arithmetic an executor keeps.
const FITS_KEPT_MAX: usize = 8;

/// Tables that an executor keeps: of runs that share passes, those of this iteration and of the one before, for a block that
/// has lost its labels.
const TABLES_KEPT_MAX: usize = 2 * RUNS_AT_ONCE_MAX + 2;

/// Most runs of a fit that share passes.
pub const RUNS_AT_ONCE_MAX: usize = 8;

/// The Flight action that fetches: a JSON pair of fit and key.
pub const FETCH_ACTION: &str = "covey.fetch";

/// The Flight action that reports: a JSON pair of fit and [`Progress`].
pub const REPORT_ACTION: &str = "covey.report";

/// The Flight action that is answered when a fit is over: its name as a JSON string.
pub const OVER_ACTION: &str = "covey.over";

/// The Flight action that comes before an executor registers: the release that it is of, as a JSON string. Answered where
/// the scheduler is of the same: what goes between the two is not kept readable from one release to the next.
pub const JOIN_ACTION: &str = "covey.join";

/// The release of this process.
pub const RELEASE: &str = concat!(env!("CARGO_PKG_VERSION"), ", protocol 1");

/// The Flight action that is never answered: an executor, named by a JSON string, keeps it open while it lives.
pub const PRESENT_ACTION: &str = "covey.present";

/// The key under which a fit publishes the profile of its rows.
pub const PROFILE: &str = "profile";

/// The key under which a fit of dense rows publishes their mean, as one centre.
pub const MEAN: &str = "mean";

/// The key under which a fit publishes the centres that it was given to begin with.
pub const GIVEN: &str = "given";

/// The key under which a fit publishes the centroids that iteration `iteration` of run `run` begins with.
pub fn centroids_key(run: usize, iteration: usize) -> String {
    format!("centroids/{run}/{iteration}")
}

/// The key under which a fit publishes the candidates that a round of k-means|| has drawn for run `run`.
pub fn candidates_key(run: usize, round: usize) -> String {
    format!("candidates/{run}/{round}")
}

/// The key under which a fit publishes how far the centres of run `run` have moved before iteration `iteration`.
pub fn drift_key(run: usize, iteration: usize) -> String {
    format!("drift/{run}/{iteration}")
}

/// The run that a key of iterations belongs to.
pub fn run_of_key(key: &str) -> Option<usize> {
    let of_run = key.strip_prefix("centroids/").or_else(|| key.strip_prefix("drift/"))?;
    of_run.split('/').next()?.parse().ok()
}
