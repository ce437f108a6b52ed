//! What nodes have in common that take all rows of a partition and give one batch at the end.

use std::future::Future;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::Result;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_expr::EquivalenceProperties;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties};

/// Properties of a unary node that keeps its input's partitions.
pub(super) fn properties_over(input: &Arc<dyn ExecutionPlan>, schema: SchemaRef) -> Arc<PlanProperties> {
    let n_partitions = input.output_partitioning().partition_count();
    Arc::new(PlanProperties::new(
        EquivalenceProperties::new(schema),
        Partitioning::UnknownPartitioning(n_partitions),
        EmissionType::Final,
        Boundedness::Bounded,
    ))
}

/// The stream of the one batch that `work` makes, with its time and rows in the metrics.
pub(super) fn one_batch(
    schema: SchemaRef,
    metrics: &ExecutionPlanMetricsSet,
    partition: usize,
    work: impl Future<Output = Result<RecordBatch>> + Send + 'static,
) -> SendableRecordBatchStream {
    let metrics = BaselineMetrics::new(metrics, partition);
    let batch = futures::stream::once(async move {
        let _timer = metrics.elapsed_compute().timer();
        let batch = work.await?;
        metrics.record_output(batch.num_rows());
        Ok(batch)
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, batch))
}
