//! Work on the blocks of a fit. The input's rows are URLs of files; each partition is the group of files that
//! one task works on. Every kind of work runs through this one operator.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use datafusion::arrow::array::{AsArray, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::exec_datafusion_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::memory::{DataSourceExec, MemorySourceConfig};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::StreamExt;

use super::at_end::{one_batch, properties_over};
use super::block_work::BlockWork;

/// See the module's documentation.
#[derive(Debug)]
pub struct BlocksExec {
    fit: String,
    work: BlockWork,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl BlocksExec {
    /// Work of `fit`.
    pub fn new(fit: String, work: BlockWork, input: Arc<dyn ExecutionPlan>) -> Self {
        let properties = properties_over(&input, work.schema());
        Self { fit, work, input, properties, metrics: ExecutionPlanMetricsSet::new() }
    }

    pub fn fit(&self) -> &str {
        &self.fit
    }

    pub fn work(&self) -> &BlockWork {
        &self.work
    }

    /// The URLs of each partition, where the input is a [`block_source`].
    pub fn urls(&self) -> Option<Vec<Vec<String>>> {
        let source = self.input.downcast_ref::<DataSourceExec>()?.data_source();
        let groups = source.downcast_ref::<MemorySourceConfig>()?.partitions();
        let urls = |group: &Vec<RecordBatch>| group.iter().flat_map(urls_of).collect();
        Some(groups.iter().map(urls).collect())
    }
}

/// The source of a [`BlocksExec`]: `urls` dealt round-robin to `n_partitions` groups, of which none is empty.
///
/// # Errors
/// When there are no URLs.
pub fn block_source(urls: &[String], n_partitions: usize) -> Result<Arc<dyn ExecutionPlan>> {
    let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("url", DataType::Utf8, false)]));
    let n_groups = n_partitions.clamp(1, urls.len().max(1));
    let groups = (0..n_groups)
        .map(|group| {
            let urls = StringArray::from_iter_values(urls.iter().skip(group).step_by(n_groups));
            Ok(vec![RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(urls)])?])
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(MemorySourceConfig::try_new_exec(&groups, schema, None)?)
}

fn urls_of(batch: &RecordBatch) -> Vec<String> {
    batch.column(0).as_string::<i32>().iter().flatten().map(String::from).collect()
}

impl DisplayAs for BlocksExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "BlocksExec: work={}", self.work.name())
    }
}

impl ExecutionPlan for BlocksExec {
    fn name(&self) -> &str {
        "BlocksExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(self.fit.clone(), self.work.clone(), Arc::clone(&children[0]))))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let mut input = self.input.execute(partition, Arc::clone(&context))?;
        let (fit, work) = (self.fit.clone(), self.work.clone());
        let result = async move {
            let mut urls = vec![];
            while let Some(batch) = input.next().await {
                urls.extend(urls_of(&batch?));
            }
            work.run(fit, urls, context).await
        };
        Ok(one_batch(self.schema(), &self.metrics, partition, result))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// Runs CPU work on the rayon pool. When the caller is dropped (a query was cancelled), the flag that the work
/// was given is set, and the work ends at its next look at it.
///
/// # Errors
/// When the work panics: the task fails, the process lives on.
pub(crate) async fn compute<T: Send + 'static>(
    work: impl FnOnce(&AtomicBool) -> Result<T> + Send + 'static,
) -> Result<T> {
    struct SetOnDrop(Arc<AtomicBool>);
    impl Drop for SetOnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let cancel = Arc::new(AtomicBool::new(false));
    let guard = SetOnDrop(Arc::clone(&cancel));
    let (sender, receiver) = tokio::sync::oneshot::channel();
    rayon::spawn(move || {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&cancel)));
        // The receiver is gone when the query was cancelled.
        let _ = sender.send(result);
    });
    let result = receiver.await;
    drop(guard);
    match result {
        Ok(Ok(result)) => result,
        _ => Err(exec_datafusion_err!("a computation on blocks panicked; the log of the executor says where")),
    }
}

/// The error of work that was told to stop.
pub(super) fn cancelled() -> datafusion::error::DataFusionError {
    exec_datafusion_err!("the fit was cancelled")
}
