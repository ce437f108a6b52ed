//! Scans that DataFusion cannot send to executors as they are get a node of ours around them.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;

use crate::operators::{CompressedScanExec, SkipBadFilesExec};

#[derive(Debug)]
pub(super) struct MarkedScans;

impl PhysicalOptimizerRule for MarkedScans {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            let (compressed, skipping) = (CompressedScanExec::around(&node), SkipBadFilesExec::around(&node));
            let is_marked = compressed.is_some() || skipping.is_some();
            let mut scan = compressed.map_or(node, |scan| Arc::new(scan));
            if skipping.is_some() {
                scan = Arc::new(SkipBadFilesExec::new(scan));
            }
            Ok(if is_marked { Transformed::yes(scan) } else { Transformed::no(scan) })
        })
        .data()
    }

    fn name(&self) -> &str {
        "marked_scans"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
