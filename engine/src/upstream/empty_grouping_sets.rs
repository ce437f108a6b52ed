//! GROUP BY of empty grouping sets only is an aggregate without groups.
//!
//! - **What is wrong.** `GROUP BY GROUPING SETS (())` loses its only set on the way to an executor, since sets travel as
//!   one flat list of what they have for each column: there is no row where there should be one.
//! - **Where.** datafusion-physical-plan 55.2, `aggregates/mod.rs` (`try_to_proto`, `try_from_proto`).
//! - **How it is mended.** Such an aggregate is one of all rows, as often as there are sets.
//! - **Remove when** the number of sets travels.

use std::sync::Arc;

use datafusion::arrow::datatypes::Field;
use datafusion::common::tree_node::{Transformed, TransformedResult};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::logical_expr::{Aggregate, Expr, GroupingSet, LogicalPlan, LogicalPlanBuilder, lit};
use datafusion::optimizer::AnalyzerRule;
use datafusion::scalar::ScalarValue;

#[derive(Debug)]
pub(crate) struct EmptyGroupingSets;

impl AnalyzerRule for EmptyGroupingSets {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| match plan {
            LogicalPlan::Aggregate(aggregate) => match empty_sets(&aggregate) {
                Some(sets) => without_groups(&aggregate, sets).map(Transformed::yes),
                None => Ok(Transformed::no(LogicalPlan::Aggregate(aggregate))),
            },
            plan => Ok(Transformed::no(plan)),
        })
        .data()
    }

    fn name(&self) -> &str {
        "empty_grouping_sets"
    }
}

/// How many sets there are, if all of them are empty.
fn empty_sets(aggregate: &Aggregate) -> Option<usize> {
    match aggregate.group_expr.as_slice() {
        [Expr::GroupingSet(GroupingSet::GroupingSets(sets))] if sets.iter().all(Vec::is_empty) => Some(sets.len()),
        _ => None,
    }
}

fn without_groups(aggregate: &Aggregate, sets: usize) -> Result<LogicalPlan> {
    let whole = Aggregate::try_new(Arc::clone(&aggregate.input), vec![], aggregate.aggr_expr.clone())?;
    // The columns are those of before: the number of the set, of which there is nothing to tell, is among them.
    let number = |field: &Field| -> Result<Expr> { Ok(lit(ScalarValue::new_zero(field.data_type())?)) };
    let columns: Vec<Expr> = aggregate
        .schema
        .iter()
        .map(|(qualifier, field)| {
            if field.name() == Aggregate::INTERNAL_GROUPING_ID {
                return Ok(number(field)?.alias(field.name()));
            }
            Ok(Expr::Column((qualifier, field).into()))
        })
        .collect::<Result<_>>()?;
    let one = LogicalPlanBuilder::from(LogicalPlan::Aggregate(whole)).project(columns)?.build()?;
    let mut all = LogicalPlanBuilder::from(one.clone());
    for _ in 1..sets {
        all = all.union(one.clone())?;
    }
    all.build()
}
