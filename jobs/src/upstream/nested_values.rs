//! VALUES inside the query of an INSERT are rows of their own.
//!
//! - **What is wrong.** `INSERT INTO t SELECT ... FROM (VALUES (1, 2)) AS v(a, b)` is refused, or converts the values to
//!   the types of `t`: DataFusion takes every VALUES of the statement for the rows that are inserted.
//! - **Where.** datafusion-sql 55.2, `statement.rs` (`insert_to_plan`) and `values.rs`.
//! - **How it is mended.** VALUES that are not the source itself are written as UNION ALL of SELECTs.
//! - **Remove when** the schema of the table reaches the outermost VALUES only.

use std::ops::ControlFlow;

use datafusion::error::Result;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{self, Query, SetExpr, Values, VisitMut, VisitorMut};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

/// Writes them out.
///
/// # Errors
/// When what was written cannot be read, which is not known to happen.
pub fn spell_out_nested_values(statement: &mut Statement) -> Result<()> {
    let Statement::Statement(statement) = statement else { return Ok(()) };
    let ast::Statement::Insert(insert) = statement.as_mut() else { return Ok(()) };
    let Some(source) = insert.source.as_mut() else { return Ok(()) };
    if matches!(source.body.as_ref(), SetExpr::Values(_)) {
        return Ok(());
    }
    match source.visit(&mut SpellOut) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error.into()),
    }
}

struct SpellOut;

impl VisitorMut for SpellOut {
    type Break = datafusion::sql::sqlparser::parser::ParserError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Self::Break> {
        let SetExpr::Values(values) = query.body.as_ref() else { return ControlFlow::Continue(()) };
        if values.rows.is_empty() {
            return ControlFlow::Continue(());
        }
        let sql = union_of(&rows(values));
        match Parser::new(&GenericDialect).try_with_sql(&sql).and_then(|mut parser| parser.parse_query()) {
            Ok(spelled) => query.body = spelled.body,
            Err(error) => return ControlFlow::Break(error),
        }
        ControlFlow::Continue(())
    }
}

fn rows(values: &Values) -> Vec<String> {
    let rows = values.rows.iter().map(|row| {
        let columns = row.content.iter().enumerate().map(|(i, value)| format!("{value} AS column{}", i + 1));
        format!("SELECT {}", columns.collect::<Vec<_>>().join(", "))
    });
    rows.collect()
}

/// Halves of halves: many rows are no deep nesting.
fn union_of(rows: &[String]) -> String {
    match rows {
        [row] => row.clone(),
        rows => {
            let (first, second) = rows.split_at(rows.len() / 2);
            format!("({}) UNION ALL ({})", union_of(first), union_of(second))
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::parser::DFParser;

    use super::*;

    fn spelled(sql: &str) -> String {
        let mut statement = DFParser::parse_sql(sql).unwrap().pop_front().unwrap();
        spell_out_nested_values(&mut statement).unwrap();
        statement.to_string()
    }

    /// Goal: VALUES below the source are written out, the source itself and other statements stay.
    #[test]
    fn only_nested_values_are_written_out() {
        let inserted = "INSERT INTO t VALUES (1, 'x')";
        assert_eq!(spelled(inserted), inserted);
        let nested = spelled("INSERT INTO t SELECT a FROM (VALUES (1, 'x'), (NULL, $1)) AS v (a, b)");
        assert!(
            nested.contains("SELECT 1 AS column1, 'x' AS column2) UNION ALL (SELECT NULL AS column1, $1"),
            "{nested}"
        );
        let query = "SELECT * FROM (VALUES (1)) AS v";
        assert_eq!(spelled(query), query);
    }
}
