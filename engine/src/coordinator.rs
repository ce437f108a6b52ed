//! How a task on an executor talks to the fit that it works for: it fetches what every task of the fit needs
//! (scales, the centroids of an iteration) and reports progress. Not through the plan: a plan travels in one
//! gRPC message and is copied into every task.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use covey_udfs::kmeans::IterationStats;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use serde::{Deserialize, Serialize};

use crate::blocks::BlockCache;

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
}

/// What an executor gives to the operators that run on it. Found in a task's session configuration.
#[derive(Debug)]
pub struct ExecutorServices {
    pub executor_id: String,
    pub coordinator: Arc<dyn Coordinator>,
    pub blocks: BlockCache,
}

impl ExecutorServices {
    /// # Errors
    /// When the task runs in a process that is no Covey executor.
    pub fn of(context: &TaskContext) -> Result<Arc<Self>> {
        context.session_config().get_extension::<Self>().ok_or_else(|| {
            DataFusionError::Execution("this operator runs on covey executors only, and this process is none".into())
        })
    }
}

/// The Flight action that fetches: a JSON pair of fit and key.
pub const FETCH_ACTION: &str = "covey.fetch";

/// The Flight action that reports: a JSON pair of fit and [`Progress`].
pub const REPORT_ACTION: &str = "covey.report";

/// The key under which a fit publishes its scales.
pub const PROFILE: &str = "profile";

/// The key under which a fit publishes the centroids that iteration `iteration` of run `run` begins with.
pub fn centroids_key(run: usize, iteration: usize) -> String {
    format!("centroids/{run}/{iteration}")
}
