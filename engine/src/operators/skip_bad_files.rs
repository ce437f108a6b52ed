//! A scan that leaves out the files that it cannot read, instead of failing.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::error::ArrowError;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Statistics, internal_err};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::parquet::errors::ParquetError;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::filter_pushdown::{FilterDescription, FilterPushdownPhase};
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::StreamExt;

use super::single_task::SingleTaskExec;

/// The metric that counts them.
pub const FILES_SKIPPED: &str = "files_skipped";

/// How DataFusion begins what a store says.
const STORE_ERROR: &str = "Object Store error: ";

/// Whether an error says that a file is not what it should be, and not that it could not be had.
pub fn is_of_file(error: &DataFusionError) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut is_format = false;
    while let Some(error) = cause {
        // The text of the store's error is all that is left of it where a footer could not be had.
        if error.is::<object_store::Error>() || error.is::<ParquetError>() && error.to_string().contains(STORE_ERROR) {
            return false;
        }
        is_format |= error.is::<ParquetError>()
            || error.is::<ArrowError>()
            || error.downcast_ref::<std::io::Error>().is_some()
            || matches!(error.downcast_ref(), Some(DataFusionError::ArrowError(..) | DataFusionError::ParquetError(_)));
        cause = error.source();
    }
    is_format
}

/// See the module's documentation. Its input is the scan. What was read of a file before it failed is kept.
///
/// Expressions stay above it: an error of theirs says nothing of a file.
#[derive(Debug)]
pub struct SkipBadFilesExec {
    scan: Arc<dyn ExecutionPlan>,
    metrics: ExecutionPlanMetricsSet,
}

impl SkipBadFilesExec {
    pub fn new(scan: Arc<dyn ExecutionPlan>) -> Self {
        Self { scan, metrics: ExecutionPlanMetricsSet::new() }
    }

    /// Whether files may be left out anywhere in a plan.
    pub fn is_in(plan: &Arc<dyn ExecutionPlan>) -> bool {
        let inside = plan.downcast_ref::<SingleTaskExec>().map(SingleTaskExec::plan);
        plan.is::<Self>() || plan.children().into_iter().chain(inside).any(Self::is_in)
    }

    /// The scan below, which on an executor has others around it.
    fn config(&self) -> Option<FileScanConfig> {
        let mut scan = &self.scan;
        loop {
            if let Some(config) = file_scan(scan) {
                return Some(config.clone());
            }
            scan = scan.children().into_iter().next()?;
        }
    }
}

fn file_scan(scan: &Arc<dyn ExecutionPlan>) -> Option<&FileScanConfig> {
    scan.downcast_ref::<DataSourceExec>()?.data_source().downcast_ref::<FileScanConfig>()
}

impl DisplayAs for SkipBadFilesExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("SkipBadFilesExec")
    }
}

impl ExecutionPlan for SkipBadFilesExec {
    fn name(&self) -> &str {
        "SkipBadFilesExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.scan.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.scan]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    /// The scan must stay right below.
    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    fn statistics_from_inputs(&self, inputs: &[Arc<Statistics>], _args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        Ok(Arc::new(inputs[0].as_ref().clone().to_inexact()))
    }

    /// Filters help the scan to leave out what they leave out anyhow; where it would decide by them, they stay above.
    fn gather_filters_for_pushdown(
        &self,
        _phase: FilterPushdownPhase,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        config: &ConfigOptions,
    ) -> Result<FilterDescription> {
        if config.execution.parquet.pushdown_filters {
            return Ok(FilterDescription::all_unsupported(&filters, &self.children()));
        }
        FilterDescription::from_children(filters, &self.children())
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(Arc::clone(&children[0]))))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let Some(config) = self.config() else {
            return internal_err!("there is no scan of files whose bad ones could be left out");
        };
        let files = config.file_groups.get(partition).map(|group| group.iter().cloned().collect()).unwrap_or_default();
        let reader = Reader {
            scan: Arc::clone(&self.scan),
            left: config.limit,
            config,
            files,
            current: None,
            context,
            skipped: MetricBuilder::new(&self.metrics).counter(FILES_SKIPPED, partition),
        };
        let batches = futures::stream::unfold(reader, |mut reader| async {
            let batch = reader.next().await?;
            Some((batch, reader))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), batches)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// Reads the files of a partition one after the other.
struct Reader {
    scan: Arc<dyn ExecutionPlan>,
    config: FileScanConfig,
    files: VecDeque<PartitionedFile>,
    /// Rows that are still wanted, where the scan has a limit.
    left: Option<usize>,
    current: Option<(String, SendableRecordBatchStream)>,
    context: Arc<TaskContext>,
    skipped: Count,
}

impl Reader {
    async fn next(&mut self) -> Option<Result<RecordBatch>> {
        loop {
            if self.left == Some(0) {
                return None;
            }
            if self.current.is_none() {
                let file = self.files.pop_front()?;
                let name = file.object_meta.location.to_string();
                match self.open(file) {
                    Ok(stream) => self.current = Some((name, stream)),
                    Err(error) => return Some(Err(error)),
                }
            }
            let (name, stream) = self.current.as_mut()?;
            match stream.next().await {
                Some(Ok(batch)) => {
                    self.left = self.left.map(|left| left.saturating_sub(batch.num_rows()));
                    return Some(Ok(batch));
                }
                Some(Err(error)) if is_of_file(&error) => {
                    tracing::warn!(target: "covey", file = name, %error, "a file that cannot be read is left out");
                    self.skipped.add(1);
                    self.current = None;
                }
                Some(Err(error)) => return Some(Err(error)),
                None => self.current = None,
            }
        }
    }

    fn open(&self, file: PartitionedFile) -> Result<SendableRecordBatchStream> {
        let config = FileScanConfigBuilder::from(self.config.clone())
            .with_file_groups(vec![FileGroup::new(vec![file])])
            .with_limit(self.left)
            .build();
        let scan = Arc::clone(&self.scan).transform_up(|node| match file_scan(&node) {
            Some(_) => Ok(Transformed::yes(DataSourceExec::from_data_source(config.clone()) as _)),
            None => Ok(Transformed::no(node)),
        });
        scan.data()?.execute(0, Arc::clone(&self.context))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a store that fails is no file that is bad, also where only the text of its error is left.
    #[test]
    fn stores_are_told_from_files() {
        let store = || object_store::Error::NotFound { path: "a".into(), source: "gone".into() };
        let footer = |error: DataFusionError| {
            let text = format!("Failed to fetch metadata for file a: {error}");
            DataFusionError::from(ParquetError::General(text))
        };
        let parquet = || DataFusionError::from(ParquetError::General("Invalid Parquet file. Corrupt footer".into()));
        for (error, expected) in [
            (DataFusionError::from(store()), false),
            (DataFusionError::from(ParquetError::External(Box::new(store()))), false),
            (footer(store().into()), false),
            (footer(parquet()), true),
            (parquet(), true),
            (DataFusionError::from(ArrowError::CsvError("no number".into())), true),
            (DataFusionError::Execution("something else".into()), false),
        ] {
            assert_eq!(is_of_file(&error), expected, "{error}");
        }
    }
}
