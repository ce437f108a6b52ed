//! An aggregate without groups has a row, whatever it is of.
//!
//! - **What is wrong.** `EXISTS (SELECT count(*) FROM s WHERE s.k = t.k)` is true for every row of `t`; DataFusion finds
//!   those that have a partner.
//! - **Where.** datafusion-optimizer 55.2, `decorrelate_predicate_subquery.rs`.
//! - **How it is mended.** Such an EXISTS is true, and NOT EXISTS false.
//! - **Remove when** `tests/slt/subqueries.slt` passes in DataFusion where it skips "EXISTS over an aggregate".

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan, lit};
use datafusion::optimizer::AnalyzerRule;

#[derive(Debug)]
pub(crate) struct ExistsOverAggregates;

impl AnalyzerRule for ExistsOverAggregates {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| {
            plan.map_expressions(|expr| {
                expr.transform_up(|part| match part {
                    Expr::Exists(exists) if has_one_row(&exists.subquery.subquery) => {
                        Ok(Transformed::yes(lit(!exists.negated)))
                    }
                    part => Ok(Transformed::no(part)),
                })
            })
        })
        .data()
    }

    fn name(&self) -> &str {
        "exists_over_aggregates"
    }
}

fn has_one_row(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Aggregate(aggregate) => aggregate.group_expr.is_empty(),
        LogicalPlan::Projection(projection) => has_one_row(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => has_one_row(&alias.input),
        LogicalPlan::Sort(sort) => sort.fetch.is_none() && has_one_row(&sort.input),
        _ => false,
    }
}
