//! `IN` and `NOT IN` of a subquery with NULLs, wherever they stand in a condition.
//!
//! - **What is wrong.** `a NOT IN (SELECT x FROM t) OR b` finds rows although `t` has a NULL, which makes the first half
//!   NULL; so does a correlated NOT IN. Only a NOT IN that a whole condition consists of, or one side of an AND, knows
//!   NULL.
//! - **Where.** datafusion-optimizer 55.2, `decorrelate_predicate_subquery.rs` (mark joins have two values).
//! - **How it is mended.** Elsewhere it is spelled out by EXISTS, which has two values: there is a match, there is a NULL,
//!   there is any row.
//! - **Remove when** mark joins know NULL.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, Spans};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::logical_expr::expr::{BinaryExpr, Exists, InSubquery};
use datafusion::logical_expr::{Expr, Filter, LogicalPlan, LogicalPlanBuilder, Operator, Subquery, lit, not};
use datafusion::optimizer::AnalyzerRule;
use datafusion::scalar::ScalarValue;

/// To be applied when types are known.
#[derive(Debug)]
pub(crate) struct InSubqueries;

impl AnalyzerRule for InSubqueries {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| {
            let LogicalPlan::Filter(filter) = plan else { return Ok(Transformed::no(plan)) };
            let spelled = spell_out(filter.predicate.clone(), Place::Conjunct, filter.input.as_ref())?;
            if !spelled.transformed {
                return Ok(Transformed::no(LogicalPlan::Filter(filter)));
            }
            Ok(Transformed::yes(LogicalPlan::Filter(Filter::try_new(spelled.data, filter.input)?)))
        })
        .data()
    }

    fn name(&self) -> &str {
        "in_subqueries"
    }
}

/// Where a part of a condition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It is the condition, or an AND has brought it there.
    Conjunct,
    /// Below AND and OR only: NULL is as good as false.
    Positive,
    /// NULL and false make a difference.
    Any,
}

fn spell_out(expr: Expr, place: Place, rows: &LogicalPlan) -> Result<Transformed<Expr>> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
            let place = if op == Operator::Or && place == Place::Conjunct { Place::Positive } else { place };
            let (left, right) = (spell_out(*left, place, rows)?, spell_out(*right, place, rows)?);
            let transformed = left.transformed || right.transformed;
            let expr = Expr::BinaryExpr(BinaryExpr::new(Box::new(left.data), op, Box::new(right.data)));
            Ok(if transformed { Transformed::yes(expr) } else { Transformed::no(expr) })
        }
        Expr::Not(inner) if matches!(inner.as_ref(), Expr::InSubquery(_)) => match *inner {
            Expr::InSubquery(InSubquery { expr, subquery, negated }) => {
                spell_out(Expr::InSubquery(InSubquery::new(expr, subquery, !negated)), place, rows)
            }
            other => Ok(Transformed::no(not(other))),
        },
        Expr::InSubquery(subquery) => {
            let is_correlated = !subquery.subquery.outer_ref_columns.is_empty();
            let is_known = match place {
                Place::Conjunct => !(subquery.negated && is_correlated),
                Place::Positive => !subquery.negated,
                Place::Any => false,
            };
            if is_known {
                return Ok(Transformed::no(Expr::InSubquery(subquery)));
            }
            spelled(&subquery, place, rows).map(Transformed::yes)
        }
        other => other.map_children(|child| spell_out(child, Place::Any, rows)),
    }
}

fn spelled(asked: &InSubquery, place: Place, rows: &LogicalPlan) -> Result<Expr> {
    let given = Expr::Column(Column::from(asked.subquery.subquery.schema().qualified_field(0)));
    let (outer, references) = outside(asked.expr.as_ref().clone(), rows)?;
    let is_there = exists(&asked.subquery, Some(given.clone().eq(outer)), references)?;
    let has_null = exists(&asked.subquery, Some(given.is_null()), vec![])?;
    let has_row = exists(&asked.subquery, None, vec![])?;
    let is_unknown = has_null.or(asked.expr.as_ref().clone().is_null().and(has_row));
    Ok(match (place, asked.negated) {
        (Place::Any, negated) => {
            let is_in = is_there.or(lit(ScalarValue::Boolean(None)).and(is_unknown));
            if negated { not(is_in) } else { is_in }
        }
        (_, true) => not(is_there).and(not(is_unknown)),
        (_, false) => is_there,
    })
}

/// An expression of the rows as the subquery sees it, and the columns that it looks at.
fn outside(expr: Expr, rows: &LogicalPlan) -> Result<(Expr, Vec<Expr>)> {
    let mut references = vec![];
    let expr = expr.transform_up(|part| {
        let Expr::Column(column) = part else { return Ok(Transformed::no(part)) };
        let (_, field) = rows.schema().qualified_field_from_column(&column)?;
        let reference = Expr::OuterReferenceColumn(Arc::clone(field), column);
        references.push(reference.clone());
        Ok(Transformed::yes(reference))
    });
    Ok((expr.data()?, references))
}

fn exists(subquery: &Subquery, condition: Option<Expr>, references: Vec<Expr>) -> Result<Expr> {
    let plan = LogicalPlanBuilder::from(Arc::clone(&subquery.subquery));
    let plan = match condition {
        Some(condition) => plan.filter(condition)?,
        None => plan,
    };
    let outer_ref_columns = [subquery.outer_ref_columns.clone(), references].concat();
    let subquery = Subquery { subquery: Arc::new(plan.build()?), outer_ref_columns, spans: Spans::new() };
    Ok(Expr::Exists(Exists { subquery, negated: false }))
}
