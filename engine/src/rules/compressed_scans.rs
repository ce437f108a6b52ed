//! Scans of compressed files, which DataFusion does not send to executors as such, get a node of ours around them.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;

use crate::operators::CompressedScanExec;

#[derive(Debug)]
pub(super) struct CompressedScans;

impl PhysicalOptimizerRule for CompressedScans {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            Ok(match CompressedScanExec::around(&node) {
                Some(scan) => Transformed::yes(Arc::new(scan) as _),
                None => Transformed::no(node),
            })
        })
        .data()
    }

    fn name(&self) -> &str {
        "compressed_scans"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
