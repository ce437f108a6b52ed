//! Readers that get exactly the rows that were written for them.
//!
//! The scheduler tells a reader how many rows each place has, as its writer counted them. A file that was cut off, or
//! that another attempt of the writer's task has begun again, ends like one that is complete; only the count knows.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use ballista_core::error::BallistaError;
use ballista_core::execution_plans::ShuffleReaderExec;
use ballista_core::serde::protobuf;
use ballista_core::serde::scheduler::PartitionLocation;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};

/// The plan of a task with its readers counting. `work_dir` is where this executor's own files are.
pub(crate) fn counting_reads(plan: Arc<dyn ExecutionPlan>, work_dir: &str) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_up(|node| {
        let Some(reader) = node.downcast_ref::<ShuffleReaderExec>() else { return Ok(Transformed::no(node)) };
        let counted = CountedReadExec { places: places(reader).into(), work_dir: work_dir.into(), input: node };
        Ok(Transformed::yes(Arc::new(counted) as _))
    })
    .data()
}

/// What each partition reads.
fn places(reader: &ShuffleReaderExec) -> Vec<Vec<PartitionLocation>> {
    // All partitions of a broadcast read the first.
    if reader.broadcast { reader.partition.iter().take(1).cloned().collect() } else { reader.partition.clone() }
}

/// Gives what its input gives, and fails where that is not what was written. Without metrics, which are told by the
/// position of the nodes that have them.
#[derive(Debug)]
struct CountedReadExec {
    places: Arc<[Vec<PartitionLocation>]>,
    work_dir: Arc<str>,
    input: Arc<dyn ExecutionPlan>,
}

impl DisplayAs for CountedReadExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("CountedReadExec")
    }
}

impl ExecutionPlan for CountedReadExec {
    fn name(&self) -> &str {
        "CountedReadExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let (places, work_dir) = (Arc::clone(&self.places), Arc::clone(&self.work_dir));
        Ok(Arc::new(Self { places, work_dir, input: Arc::clone(&children[0]) }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = self.input.execute(partition, Arc::clone(&context))?;
        let places = self.places.get(partition).or_else(|| self.places.first()).cloned().unwrap_or_default();
        // A writer that did not count is not held to it.
        let Some(expected) = places.iter().map(written_rows).sum::<Option<u64>>() else { return Ok(rows) };
        let work_dir = Arc::clone(&self.work_dir);
        Ok(Box::pin(CountedStream { rows, seen: 0, expected, reader: Some((places, work_dir, context)), search: None }))
    }
}

fn written_rows(place: &PartitionLocation) -> Option<u64> {
    let stats: protobuf::PartitionStats = place.partition_stats.into();
    u64::try_from(stats.num_rows).ok()
}

type Reader = (Vec<PartitionLocation>, Arc<str>, Arc<TaskContext>);

struct CountedStream {
    rows: SendableRecordBatchStream,
    seen: u64,
    expected: u64,
    /// What is needed to find the place that is damaged.
    reader: Option<Reader>,
    search: Option<BoxFuture<'static, DataFusionError>>,
}

impl RecordBatchStream for CountedStream {
    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }
}

impl Stream for CountedStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(search) = &mut self.search {
            let error = ready!(search.poll_unpin(context));
            self.search = None;
            return Poll::Ready(Some(Err(error)));
        }
        let next = ready!(self.rows.poll_next_unpin(context));
        if let Some(Ok(batch)) = &next {
            self.seen += batch.num_rows() as u64;
        }
        if next.is_none()
            && self.seen != self.expected
            && let Some((places, work_dir, task)) = self.reader.take()
        {
            let (schema, seen, expected) = (self.rows.schema(), self.seen, self.expected);
            let mut search = find_damaged(schema, places, work_dir, task, seen, expected).boxed();
            if let Poll::Ready(error) = search.poll_unpin(context) {
                return Poll::Ready(Some(Err(error)));
            }
            self.search = Some(search);
            return Poll::Pending;
        }
        Poll::Ready(next)
    }
}

/// The error by which the scheduler runs the task again that wrote the place that has another number of rows.
async fn find_damaged(
    schema: SchemaRef,
    places: Vec<PartitionLocation>,
    work_dir: Arc<str>,
    task: Arc<TaskContext>,
    seen: u64,
    expected: u64,
) -> DataFusionError {
    let text = format!("{seen} rows were read where {expected} had been written");
    tracing::warn!(target: "covey", "{text}: they are written again");
    let mut damaged = places.first();
    for place in &places {
        if read_rows(&schema, place, &work_dir, &task).await.ok() != written_rows(place) {
            damaged = Some(place);
            break;
        }
    }
    let Some(place) = damaged else { return DataFusionError::Execution(text) };
    let id = &place.partition_id;
    let executor = place.executor_meta.id.clone();
    let failed = BallistaError::FetchFailed(executor, id.stage_id, place.map_partition_id, text);
    DataFusionError::External(Box::new(failed))
}

async fn read_rows(
    schema: &SchemaRef,
    place: &PartitionLocation,
    work_dir: &str,
    task: &Arc<TaskContext>,
) -> Result<u64> {
    let (stage, partitioning) = (place.partition_id.stage_id, Partitioning::UnknownPartitioning(1));
    let reader = ShuffleReaderExec::try_new(stage, vec![vec![place.clone()]], Arc::clone(schema), partitioning)?;
    let mut rows = reader.with_work_dir(work_dir.to_string()).execute(0, Arc::clone(task))?;
    let mut count = 0;
    while let Some(batch) = rows.next().await {
        count += batch?.num_rows() as u64;
    }
    Ok(count)
}
