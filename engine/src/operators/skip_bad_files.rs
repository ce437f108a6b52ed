//! A scan that leaves out the files that it cannot read, instead of failing.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::error::ArrowError;
use datafusion::common::internal_err;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::parquet::errors::ParquetError;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::StreamExt;

/// The metric that counts them.
pub const FILES_SKIPPED: &str = "files_skipped";

/// Marks the files of a table that says so.
#[derive(Debug, Clone, Copy)]
pub struct SkipIfBad;

/// Whether an error says that a file is not what it should be, and not that it could not be had.
pub fn is_of_file(error: &DataFusionError) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut is_format = false;
    while let Some(error) = cause {
        if error.is::<object_store::Error>() {
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
#[derive(Debug)]
pub struct SkipBadFilesExec {
    scan: Arc<dyn ExecutionPlan>,
    metrics: ExecutionPlanMetricsSet,
}

impl SkipBadFilesExec {
    pub fn new(scan: Arc<dyn ExecutionPlan>) -> Self {
        Self { scan, metrics: ExecutionPlanMetricsSet::new() }
    }

    /// Around a scan of files that are marked; `None` for other nodes.
    pub fn around(scan: &Arc<dyn ExecutionPlan>) -> Option<Self> {
        let mut files = file_scan(scan)?.file_groups.iter().flat_map(FileGroup::iter);
        files.any(|file| file.extension::<SkipIfBad>().is_some()).then(|| Self::new(Arc::clone(scan)))
    }

    /// Whether files may be left out anywhere in a plan.
    pub fn is_in(plan: &Arc<dyn ExecutionPlan>) -> bool {
        plan.is::<Self>() || plan.children().into_iter().any(Self::is_in)
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
