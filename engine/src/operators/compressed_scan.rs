//! A scan of compressed files, which DataFusion sends to executors without saying so.

use std::fmt;
use std::sync::Arc;

use datafusion::common::parsers::CompressionTypeVariant;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::physical_plan::{FileScanConfig, FileScanConfigBuilder};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};

/// See the module's documentation. Its input is the scan.
#[derive(Debug)]
pub struct CompressedScanExec {
    compression: CompressionTypeVariant,
    scan: Arc<dyn ExecutionPlan>,
}

impl CompressedScanExec {
    /// Around a scan that may have lost how its files are compressed.
    pub fn new(compression: CompressionTypeVariant, scan: Arc<dyn ExecutionPlan>) -> Self {
        let scan = compressed(&scan, compression).unwrap_or(scan);
        Self { compression, scan }
    }

    /// Around a scan of files that are compressed; `None` for other nodes.
    pub fn around(scan: &Arc<dyn ExecutionPlan>) -> Option<Self> {
        let compression = file_scan(scan)?.file_compression_type;
        compression.is_compressed().then(|| Self { compression: *compression.get_variant(), scan: Arc::clone(scan) })
    }

    pub fn compression(&self) -> CompressionTypeVariant {
        self.compression
    }
}

fn file_scan(scan: &Arc<dyn ExecutionPlan>) -> Option<&FileScanConfig> {
    scan.downcast_ref::<DataSourceExec>()?.data_source().downcast_ref::<FileScanConfig>()
}

fn compressed(scan: &Arc<dyn ExecutionPlan>, compression: CompressionTypeVariant) -> Option<Arc<dyn ExecutionPlan>> {
    let config = FileScanConfigBuilder::from(file_scan(scan)?.clone())
        .with_file_compression_type(FileCompressionType::from(compression))
        .build();
    Some(DataSourceExec::from_data_source(config))
}

impl DisplayAs for CompressedScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "CompressedScanExec: compression={}", self.compression)
    }
}

impl ExecutionPlan for CompressedScanExec {
    fn name(&self) -> &str {
        "CompressedScanExec"
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
        Ok(Arc::new(Self::new(self.compression, Arc::clone(&children[0]))))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.scan.execute(partition, context)
    }

    fn metrics(&self) -> Option<MetricsSet> {
        None
    }
}
