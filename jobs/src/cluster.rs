//! What a fit needs of the cluster it runs on.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::error::Result;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;

#[async_trait]
pub trait Cluster: Send + Sync {
    /// Runs a plan as one job and gives all of its rows. Dropping the future cancels the job.
    async fn run(
        &self,
        name: &str,
        session: Arc<SessionContext>,
        plan: Arc<dyn ExecutionPlan>,
    ) -> Result<Vec<RecordBatch>>;

    /// Waits a moment for an executor to register.
    ///
    /// # Errors
    /// When there is none: it says how to start one.
    async fn require_executors(&self) -> Result<()>;
}
