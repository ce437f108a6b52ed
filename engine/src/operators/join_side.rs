//! A side of a join, with the size that Ballista is told.
//!
//! When Ballista divides a plan into stages it decides again which joins collect a side in every task, by its own guess
//! of sizes. That is too late, as rows are distributed already for joins that it then lets collect, and it is done with
//! less than was known before. So it is told the size of a side that is collected, and none of one that is distributed.

use std::fmt;
use std::sync::Arc;

use datafusion::common::Statistics;
use datafusion::common::stats::Precision;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};

/// See the module's documentation. Gives the rows of its input.
#[derive(Debug)]
pub struct JoinSideExec {
    bytes: Option<usize>,
    input: Arc<dyn ExecutionPlan>,
}

impl JoinSideExec {
    pub fn new(bytes: Option<usize>, input: Arc<dyn ExecutionPlan>) -> Self {
        Self { bytes, input }
    }

    pub fn bytes(&self) -> Option<usize> {
        self.bytes
    }
}

impl DisplayAs for JoinSideExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        match self.bytes {
            Some(bytes) => write!(f, "JoinSideExec: collected, bytes={bytes}"),
            None => f.write_str("JoinSideExec: distributed"),
        }
    }
}

impl ExecutionPlan for JoinSideExec {
    fn name(&self) -> &str {
        "JoinSideExec"
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
        Ok(Arc::new(Self::new(self.bytes, Arc::clone(&children[0]))))
    }

    fn statistics_from_inputs(&self, _inputs: &[Arc<Statistics>], _args: &StatisticsArgs) -> Result<Arc<Statistics>> {
        let bytes = self.bytes.map_or(Precision::Absent, Precision::Inexact);
        Ok(Arc::new(Statistics { total_byte_size: bytes, ..Statistics::new_unknown(&self.schema()) }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.input.execute(partition, context)
    }

    fn metrics(&self) -> Option<MetricsSet> {
        None
    }
}
