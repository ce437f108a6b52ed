//! A join whose condition is never true has an empty side.
//!
//! - **What is wrong.** `t LEFT JOIN (SELECT count(*) AS n FROM s) ON t.a = NULL` gives 0 for `n` where NULL is right: the
//!   condition is moved into the right side, below the aggregate, which then counts nothing and has a row all the same.
//! - **Where.** datafusion-optimizer 55.2, `push_down_filter.rs` (a condition without columns passes every aggregate).
//! - **How it is mended.** The side that finds no partner is replaced by no rows before conditions are moved.
//! - **Remove when** a condition without columns stays above an aggregate without groups.

use std::sync::Arc;

use datafusion::common::JoinType;
use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{EmptyRelation, Expr, Join, LogicalPlan};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};
use datafusion::scalar::ScalarValue;

/// The rule before which conditions have to be where they can be moved from.
const MOVES_CONDITIONS: &str = "push_down_filter";

/// DataFusion's rules with this one in its place.
pub(crate) fn with_joins_on_nothing(
    mut rules: Vec<Arc<dyn OptimizerRule + Send + Sync>>,
) -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let place = rules.iter().position(|rule| rule.name() == MOVES_CONDITIONS).unwrap_or(rules.len());
    rules.insert(place, Arc::new(JoinsOnNothing));
    rules
}

#[derive(Debug)]
struct JoinsOnNothing;

impl OptimizerRule for JoinsOnNothing {
    fn name(&self) -> &str {
        "joins_on_nothing"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(&self, plan: LogicalPlan, _config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        use JoinType::{Full, Inner, Left, LeftAnti, LeftMark, LeftSemi, Right, RightAnti, RightMark, RightSemi};
        let LogicalPlan::Join(join) = plan else { return Ok(Transformed::no(plan)) };
        let is_never =
            join.filter.as_ref().is_some_and(|filter| split_conjunction(filter).into_iter().any(is_never_true));
        let side = match join.join_type {
            Inner | Left | LeftSemi | LeftAnti | LeftMark => &join.right,
            Right | RightSemi | RightAnti | RightMark => &join.left,
            Full => return Ok(Transformed::no(LogicalPlan::Join(join))),
        };
        if !is_never || matches!(side.as_ref(), LogicalPlan::EmptyRelation(_)) {
            return Ok(Transformed::no(LogicalPlan::Join(join)));
        }
        let nothing = EmptyRelation { produce_one_row: false, schema: Arc::clone(side.schema()) };
        let nothing = Arc::new(LogicalPlan::EmptyRelation(nothing));
        let join = match join.join_type {
            Right | RightSemi | RightAnti | RightMark => Join { left: nothing, ..join },
            _ => Join { right: nothing, ..join },
        };
        Ok(Transformed::yes(LogicalPlan::Join(join)))
    }
}

fn is_never_true(condition: &Expr) -> bool {
    matches!(condition, Expr::Literal(ScalarValue::Boolean(None | Some(false)) | ScalarValue::Null, _))
}
