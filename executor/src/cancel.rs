//! Work that ends when its task is cancelled.
//!
//! Ballista cancels a task by dropping it. That does not reach what its shuffle writers have spawned, and no task at
//! all whose poll does not return, as that of a join that tries millions of pairs: both keep their threads, and with
//! them the place of other tasks. So tasks run on threads of their own, where nobody has to wait for them, and plans
//! look at a flag: wherever rows come in, wherever many are made of few, and while blocks are worked on.

use std::fmt;
use std::future::Future;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use covey_engine::operators::BlocksExec;
use covey_engine::threads::{self, STACK_BYTES};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{FieldRef, Schema};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{exec_datafusion_err, exec_err};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::coop::make_cooperative;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::{Stream, StreamExt};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// How often it is looked whether a task is cancelled that gives nothing.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// The threads on which the tasks of an executor run.
pub(crate) struct TaskThreads(Option<Runtime>);

impl TaskThreads {
    pub fn try_new(n_threads: usize) -> Result<Self> {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(n_threads).thread_name("covey-task").thread_stack_size(STACK_BYTES).enable_all();
        Ok(Self(Some(builder.build()?)))
    }

    /// Runs `work` here. When the result is dropped, `flag` is set and the work ends.
    pub async fn run<T: Send + 'static>(
        &self,
        flag: &CancelFlag,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        // Ballista lets go of the thread of its task runner just when it tells it to end. That thread waits for the
        // threads that come by here.
        threads::linger();
        let Some(runtime) = &self.0 else {
            return exec_err!("the executor is stopping");
        };
        let mut task = CancelOnDrop { flag: flag.clone(), work: runtime.spawn(work) };
        match (&mut task.work).await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(exec_datafusion_err!("the executor is stopping")),
            },
        }
    }
}

impl Drop for TaskThreads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // The last reference may go on a thread that must not wait.
            std::thread::spawn(move || {
                threads::linger();
                threads::end(runtime);
            });
        }
    }
}

/// Whether a task is cancelled.
#[derive(Debug, Clone, Default)]
pub(crate) struct CancelFlag(Arc<AtomicBool>);

impl CancelFlag {
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

struct CancelOnDrop<T> {
    flag: CancelFlag,
    work: JoinHandle<T>,
}

impl<T> Drop for CancelOnDrop<T> {
    fn drop(&mut self) {
        self.flag.0.store(true, Ordering::Relaxed);
        self.work.abort();
    }
}

/// The plan with its leaves and joins looking at `flag`.
pub(crate) fn stoppable(plan: Arc<dyn ExecutionPlan>, flag: &CancelFlag) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_up(|node| {
        let is_leaf = node.children().is_empty();
        let (node, is_join) = match with_watching_filter(&node, flag)? {
            Some(join) => (join, true),
            None => (Arc::clone(&node), is_join(node.as_ref())),
        };
        // Its work takes long before it gives anything, and ends when nobody waits for it.
        let is_work = node.is::<BlocksExec>();
        if is_leaf || is_join || is_work {
            return Ok(Transformed::yes(Arc::new(StoppableExec { input: node, flag: flag.clone() }) as _));
        }
        Ok(Transformed::no(node))
    })
    .data()
}

fn is_join(node: &dyn ExecutionPlan) -> bool {
    node.is::<HashJoinExec>()
        || node.is::<NestedLoopJoinExec>()
        || node.is::<SortMergeJoinExec>()
        || node.is::<CrossJoinExec>()
}

/// A join whose filter looks at `flag`: between two batches of what it gives, a join may try any number of pairs.
fn with_watching_filter(node: &Arc<dyn ExecutionPlan>, flag: &CancelFlag) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if let Some(join) = node.downcast_ref::<HashJoinExec>()
        && let Some(filter) = &join.filter
    {
        return Ok(Some(Arc::new(join.builder().with_filter(Some(watching(filter, flag))).build()?)));
    }
    if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>()
        && let Some(filter) = join.filter()
    {
        let (left, right) = (Arc::clone(join.left()), Arc::clone(join.right()));
        let projection = join.projection().as_ref().map(|columns| columns.to_vec());
        let filter = Some(watching(filter, flag));
        return Ok(Some(Arc::new(NestedLoopJoinExec::try_new(left, right, filter, join.join_type(), projection)?)));
    }
    if let Some(join) = node.downcast_ref::<SortMergeJoinExec>()
        && let Some(filter) = &join.filter
    {
        let join = SortMergeJoinExec::try_new(
            Arc::clone(&join.left),
            Arc::clone(&join.right),
            join.on.clone(),
            Some(watching(filter, flag)),
            join.join_type,
            join.sort_options.clone(),
            join.null_equality,
        )?;
        return Ok(Some(Arc::new(join)));
    }
    Ok(None)
}

/// Gives what its input gives until the task is cancelled, and lets go of its thread now and then. Without metrics,
/// which are told by the position of the nodes that have them.
#[derive(Debug)]
struct StoppableExec {
    input: Arc<dyn ExecutionPlan>,
    flag: CancelFlag,
}

impl DisplayAs for StoppableExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("StoppableExec")
    }
}

impl ExecutionPlan for StoppableExec {
    fn name(&self) -> &str {
        "StoppableExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
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
        Ok(Arc::new(Self { input: Arc::clone(&children[0]), flag: self.flag.clone() }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let (input, flag) = (self.input.execute(partition, context)?, self.flag.clone());
        let schema = input.schema();
        Ok(make_cooperative(Box::pin(RecordBatchStreamAdapter::new(schema, until_set(input, flag)))))
    }
}

/// What `input` gives until `flag` is set, which is looked at for every item, and now and then where none comes: then it is
/// dropped in the middle of its work.
fn until_set<T: Send>(
    input: impl Stream<Item = Result<T>> + Send,
    flag: CancelFlag,
) -> impl Stream<Item = Result<T>> + Send {
    let (looking, at_item) = (flag.clone(), flag.clone());
    let set = async move {
        while !looking.is_set() {
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    };
    let end = futures::stream::once(async move { flag.is_set() })
        .filter_map(|is_set| std::future::ready(is_set.then(cancelled)));
    let watched = input.map(move |item| if at_item.is_set() { cancelled() } else { item });
    watched.take_until(Box::pin(set)).chain(end)
}

fn cancelled<T>() -> Result<T> {
    exec_err!("the task was cancelled")
}

fn watching(filter: &JoinFilter, flag: &CancelFlag) -> JoinFilter {
    let expression = Watching { inner: Arc::clone(filter.expression()), flag: flag.clone() };
    JoinFilter::new(Arc::new(expression), filter.column_indices().to_vec(), Arc::clone(filter.schema()))
}

/// An expression that fails once the task is cancelled.
#[derive(Debug)]
struct Watching {
    inner: Arc<dyn PhysicalExpr>,
    flag: CancelFlag,
}

impl PartialEq for Watching {
    fn eq(&self, other: &Self) -> bool {
        self.inner.eq(&other.inner)
    }
}

impl Eq for Watching {}

impl Hash for Watching {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl fmt::Display for Watching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl PhysicalExpr for Watching {
    fn return_field(&self, input_schema: &Schema) -> Result<FieldRef> {
        self.inner.return_field(input_schema)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        if self.flag.is_set() {
            return cancelled();
        }
        self.inner.evaluate(batch)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.inner]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        Ok(Arc::new(Self { inner: Arc::clone(&children[0]), flag: self.flag.clone() }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_sql(f)
    }
}

#[cfg(test)]
mod tests {
    use covey_engine::operators::{BlockWork, block_source};

    use super::*;

    /// Goal: work on blocks is watched: Ballista does not drop what its shuffle writers read from.
    #[test]
    fn work_on_blocks_is_watched() {
        let work = BlockWork::Moments { around_mean: false };
        let source = block_source(&["file:///block".to_string()], 1).unwrap();
        let plan = stoppable(Arc::new(BlocksExec::new("fit".into(), work, source)), &CancelFlag::default()).unwrap();
        assert!(plan.is::<StoppableExec>() && plan.children()[0].is::<BlocksExec>());
    }

    /// Goal: work that gives nothing yet is let go of when its task is cancelled, and work that ends by itself is left alone.
    #[tokio::test]
    async fn work_is_dropped_when_it_is_cancelled() {
        let (flag, working) = (CancelFlag::default(), Arc::new(()));
        let held = Arc::clone(&working);
        let endless = futures::stream::once(async move {
            let _held = held;
            std::future::pending::<Result<()>>().await
        });
        let mut endless = Box::pin(until_set(endless, flag.clone()));
        assert!(futures::poll!(endless.next()).is_pending());
        flag.0.store(true, Ordering::Relaxed);
        assert!(endless.next().await.is_some_and(|result| result.is_err()));
        assert_eq!(Arc::strong_count(&working), 1);

        let short = until_set(futures::stream::iter([Ok(1), Ok(2)]), CancelFlag::default());
        let given: Vec<i32> = short.map(Result::unwrap).collect().await;
        assert_eq!(given, [1, 2]);
    }
}
