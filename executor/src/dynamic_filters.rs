//! Filters that a task finds while it runs: the keys on the small side of a join leave out what a scan on the other
//! side reads, the rows that are already among the first n leave out the others.
//!
//! Ballista has them off, because a filter that one stage finds does not reach the scans of another. Within a task they
//! do, so each task finds its own: what is planned here is never sent anywhere.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::filter_pushdown::FilterPushdown;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::HashJoinExec;
use datafusion::physical_plan::sorts::sort::SortExec;

/// The plan of a task with them.
///
/// A scan leaves out row groups by the largest value that their statistics tell, and NaN is not in those. So there are
/// none by numbers that may be NaN. Aggregates have none at all: one of `max(x), max(y + 1)` would leave out by x alone.
pub(crate) fn with_dynamic_filters(
    plan: Arc<dyn ExecutionPlan>,
    options: &ConfigOptions,
) -> Result<Arc<dyn ExecutionPlan>> {
    if has_keys_of_floats(&plan)? {
        return Ok(plan);
    }
    let mut options = options.clone();
    enable(&mut options);
    FilterPushdown::new_post_optimization().optimize(plan, &options)
}

/// The context of a task of `plan`: it is there that a join looks whether it may find filters.
pub(crate) fn finding_filters(plan: &Arc<dyn ExecutionPlan>, context: Arc<TaskContext>) -> Arc<TaskContext> {
    if !plan.exists(|node| Ok(node.is::<HashJoinExec>())).unwrap_or(false) {
        return context;
    }
    let mut config = context.session_config().clone();
    enable(config.options_mut());
    let found = TaskContext::new(
        context.task_id(),
        context.session_id(),
        config,
        context.scalar_functions().clone(),
        context.higher_order_functions().clone(),
        context.aggregate_functions().clone(),
        context.window_functions().clone(),
        context.runtime_env(),
    );
    Arc::new(found)
}

fn enable(options: &mut ConfigOptions) {
    options.optimizer.enable_join_dynamic_filter_pushdown = true;
    options.optimizer.enable_topk_dynamic_filter_pushdown = true;
}

/// Whether rows are joined or ordered by numbers that may be NaN.
fn has_keys_of_floats(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    let mut found = false;
    plan.apply(|node| {
        if let Some(join) = node.downcast_ref::<HashJoinExec>() {
            let schema = join.left().schema();
            found |= join.on().iter().any(|(key, _)| is_float(key, &schema));
        } else if let Some(sort) = node.downcast_ref::<SortExec>() {
            let schema = sort.input().schema();
            found |= sort.expr().iter().any(|key| is_float(&key.expr, &schema));
        }
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

fn is_float(key: &Arc<dyn PhysicalExpr>, schema: &SchemaRef) -> bool {
    key.data_type(schema).is_ok_and(|of| of.is_floating())
}
