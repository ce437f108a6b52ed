//! An operator that stays what the planner made it.
//!
//! - **What is wrong.** When Ballista cuts a plan into stages, and again when a stage's inputs are complete, it chooses
//!   the sides and modes of joins anew by its own guess of sizes, and answers aggregates from statistics. By then the plan
//!   has been distributed and sorted for the choice that was made first: rows are lost, doubled or out of order.
//! - **Where.** ballista-scheduler 55.0, `planner.rs` (`maybe_promote_to_broadcast`) and `state/execution_stage.rs`
//!   (`UnresolvedStage::to_resolved`); ballista issues 1055, 2065.
//! - **How it is mended.** Ballista finds the operators that it rewrites by their type. [`PlannedExec`] has another type
//!   and behaves as the operator inside it. Executors decode the operator itself.
//! - **Remove when** Ballista runs a physical plan that it is given as it is. `ballista_chooses_joins_anew` in
//!   `scheduler/src/stages.rs` fails then.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{OrderingRequirements, PhysicalExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::joins::{CrossJoinExec, HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec};
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, InputDistributionRequirements, PlanProperties,
};

use super::rebuilt;

/// See the module's documentation.
#[derive(Debug)]
pub struct PlannedExec {
    operator: Arc<dyn ExecutionPlan>,
}

impl PlannedExec {
    pub fn new(operator: Arc<dyn ExecutionPlan>) -> Self {
        Self { operator }
    }

    pub fn operator(&self) -> &Arc<dyn ExecutionPlan> {
        &self.operator
    }

    /// The operator over inputs that have nothing but a schema: what travels, as its inputs travel by themselves.
    ///
    /// # Errors
    /// When the operator cannot be rebuilt.
    pub fn without_inputs(&self) -> Result<Arc<dyn ExecutionPlan>> {
        let empty = |input: &Arc<dyn ExecutionPlan>| Arc::new(EmptyExec::new(input.schema())) as _;
        let inputs = self.operator.children().into_iter().map(empty).collect();
        rebuilt(&self.operator, inputs)
    }
}

impl DisplayAs for PlannedExec {
    fn fmt_as(&self, kind: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        self.operator.fmt_as(kind, f)
    }
}

impl ExecutionPlan for PlannedExec {
    fn name(&self) -> &str {
        self.operator.name()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.operator.properties()
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        self.operator.input_distribution_requirements()
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        self.operator.required_input_ordering()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        self.operator.maintains_input_order()
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        self.operator.benefits_from_input_partitioning()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.operator.children()
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.operator.apply_expressions(f)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(rebuilt(&self.operator, children)?)))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.operator.execute(partition, context)
    }

    fn metrics(&self) -> Option<MetricsSet> {
        self.operator.metrics()
    }

    fn fetch(&self) -> Option<usize> {
        self.operator.fetch()
    }
}

/// Puts every operator that Ballista would choose anew into a [`PlannedExec`]. To be applied last.
#[derive(Debug)]
pub(crate) struct KeepPlanned;

impl PhysicalOptimizerRule for KeepPlanned {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            Ok(if is_chosen_anew(&node) {
                Transformed::yes(Arc::new(PlannedExec::new(node)) as _)
            } else {
                Transformed::no(node)
            })
        })
        .data()
    }

    fn name(&self) -> &str {
        "keep_planned"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn is_chosen_anew(node: &Arc<dyn ExecutionPlan>) -> bool {
    let node: &dyn Any = node.as_ref();
    node.is::<HashJoinExec>()
        || node.is::<SortMergeJoinExec>()
        || node.is::<NestedLoopJoinExec>()
        || node.is::<CrossJoinExec>()
        || node.is::<AggregateExec>()
}
