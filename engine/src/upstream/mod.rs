//! What mends faults of the engines beneath, a file each: what is wrong, where, and when the file can go.

mod constant_rows;
mod empty_grouping_sets;
mod exact_sum;
mod exists_over_aggregates;
mod in_subqueries;
mod joins_of_one_task;
mod joins_on_nothing;
mod planned;
mod window_functions;

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::optimizer::AnalyzerRule;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::{ChildrenPropertiesMode, ExecutionPlan, ReplaceChildrenOptions};

pub(crate) use constant_rows::ConstantRows;
pub(crate) use exact_sum::with_exact_sum;
pub use joins_of_one_task::shares_state;
pub(crate) use joins_of_one_task::{JoinsOfOneTask, SwapNestedLoops};
pub(crate) use joins_on_nothing::with_joins_on_nothing;
pub use planned::PlannedExec;
pub(crate) use window_functions::{FilteredAggregate, PlannedWindowFunction};

/// A plan that Ballista runs as it is. The last step before it is given away.
///
/// # Errors
/// None that could be seen.
pub fn kept_as_planned(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    planned::KeepPlanned.optimize(plan, &ConfigOptions::default())
}

/// A node over other inputs.
///
/// # Errors
/// When they are none that it could have.
pub(crate) fn rebuilt(
    node: &Arc<dyn ExecutionPlan>,
    children: Vec<Arc<dyn ExecutionPlan>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    Arc::clone(node).replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}

/// Rules for logical plans, to be applied after DataFusion's own.
pub(crate) fn analyzer_rules() -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    vec![
        Arc::new(exists_over_aggregates::ExistsOverAggregates),
        Arc::new(in_subqueries::InSubqueries),
        Arc::new(empty_grouping_sets::EmptyGroupingSets),
        Arc::new(window_functions::KeepWindowFlags),
    ]
}
