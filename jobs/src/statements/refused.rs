//! What DataFusion takes and answers wrongly: it is refused, with what to write instead.

use std::ops::ControlFlow;

use covey_engine::user_err;
use datafusion::error::Result;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{Join, JoinConstraint, JoinOperator, Select, TableFactor, Visit, Visitor};

/// # Errors
/// When a statement has some of it.
pub fn refuse_wrong(statement: &Statement) -> Result<()> {
    let Statement::Statement(statement) = statement else { return Ok(()) };
    match statement.visit(&mut Wrong) {
        ControlFlow::Break(what) => user_err!("{what}"),
        ControlFlow::Continue(()) => Ok(()),
    }
}

struct Wrong;

impl Visitor for Wrong {
    type Break = &'static str;

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Self::Break> {
        select.from.iter().flat_map(|from| &from.joins).try_for_each(check_join)
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Self::Break> {
        match factor {
            TableFactor::Table { sample: Some(_), .. } | TableFactor::Derived { sample: Some(_), .. } => {
                ControlFlow::Break("there is no TABLESAMPLE: write WHERE random() < 0.01 for one row of a hundred")
            }
            TableFactor::NestedJoin { table_with_joins, .. } => table_with_joins.joins.iter().try_for_each(check_join),
            _ => ControlFlow::Continue(()),
        }
    }
}

/// The column that both sides share would be that of the left side, which has no row.
fn check_join(join: &Join) -> ControlFlow<&'static str> {
    match &join.join_operator {
        JoinOperator::Right(on) | JoinOperator::RightOuter(on) | JoinOperator::FullOuter(on)
            if matches!(on, JoinConstraint::Using(_) | JoinConstraint::Natural) =>
        {
            ControlFlow::Break(
                "a RIGHT or FULL JOIN takes ON, not USING or NATURAL: write ON a.k = b.k, and coalesce(a.k, b.k) for the column",
            )
        }
        _ => ControlFlow::Continue(()),
    }
}
