//! Filters that a task finds while it runs: the keys on the small side of a join leave out what a scan on the other
//! side reads, the rows that are already among the first n leave out the others.
//!
//! Ballista has them off, because a filter that one stage finds does not reach the scans of another. Within a task they
//! do, so each task finds its own: what is planned here is never sent anywhere.

use std::sync::Arc;

use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::filter_pushdown::FilterPushdown;
use datafusion::physical_plan::ExecutionPlan;

/// The plan of a task with them.
pub(crate) fn with_dynamic_filters(
    plan: Arc<dyn ExecutionPlan>,
    options: &ConfigOptions,
) -> Result<Arc<dyn ExecutionPlan>> {
    let mut options = options.clone();
    options.optimizer.enable_dynamic_filter_pushdown = true;
    options.optimizer.enable_join_dynamic_filter_pushdown = true;
    options.optimizer.enable_topk_dynamic_filter_pushdown = true;
    options.optimizer.enable_aggregate_dynamic_filter_pushdown = true;
    FilterPushdown::new_post_optimization().optimize(plan, &options)
}
