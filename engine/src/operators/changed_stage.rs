//! A stage that arrived otherwise than it was planned: executors refuse it.
//!
//! An error while a plan is decoded ends in a line of a log; that of a stage that is about to run reaches the statement.

use std::fmt;
use std::sync::Arc;

use datafusion::common::internal_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};

/// See the module's documentation.
#[derive(Debug)]
pub struct ChangedStageExec {
    difference: String,
    input: Arc<dyn ExecutionPlan>,
}

impl ChangedStageExec {
    pub fn new(difference: String, input: Arc<dyn ExecutionPlan>) -> Self {
        Self { difference, input }
    }

    /// What is another, in words.
    pub fn difference(&self) -> &str {
        &self.difference
    }
}

impl DisplayAs for ChangedStageExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "ChangedStageExec: {}", self.difference)
    }
}

impl ExecutionPlan for ChangedStageExec {
    fn name(&self) -> &str {
        "ChangedStageExec"
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
        Ok(Arc::new(Self::new(self.difference.clone(), Arc::clone(&children[0]))))
    }

    fn execute(&self, _partition: usize, _context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        internal_err!("a stage arrived otherwise than it was planned: {}", self.difference)
    }
}
