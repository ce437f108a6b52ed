//! What the answers of Covey and of the judges mean together.

use super::compare::Rows;
use super::generator::{Query, Question};
use super::shapes::Form;
use super::tables::Table;

pub type Answer = Result<Rows, String>;

/// What became of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Same,
    /// The two judges differ, for one of the reasons of [`by_definition`], and Covey agrees with DataFusion.
    SameAsDataFusion,
    /// DataFusion in one process is wrong or refuses, and Covey agrees with DuckDB.
    SameAsDuckDb,
    /// DataFusion in one process refuses the query, and so does Covey.
    Refused(String),
    Difference(String),
}

/// Holds Covey's answer against those of the judges.
pub fn judge(
    query: &Query,
    form: Form,
    tables: &[Table],
    ours: &Answer,
    datafusion: &Answer,
    duckdb: &Answer,
) -> Verdict {
    let differs = |ours: &Rows, expected: &Rows| difference(query, form, ours, expected);
    let judges_agree = match (datafusion, duckdb) {
        (Ok(datafusion), Ok(duckdb)) => differs(datafusion, duckdb).is_none(),
        _ => false,
    };
    match (ours, datafusion, duckdb) {
        (Ok(ours), Ok(datafusion), duckdb) => {
            let from_datafusion = differs(ours, datafusion).or_else(|| match form {
                Form::Select | Form::Prepared => ours.schema_difference(datafusion),
                Form::CreateTableAs | Form::Insert => None,
            });
            match (from_datafusion, duckdb) {
                (None, Ok(_)) if judges_agree => Verdict::Same,
                (None, Err(_)) => Verdict::Same,
                (None, Ok(_)) if by_definition(&query.to_sql(), tables).is_some() => Verdict::SameAsDataFusion,
                (None, Ok(duckdb)) => Verdict::Difference(format!(
                    "Covey and DataFusion in one process against DuckDB: {}",
                    differs(ours, duckdb).unwrap_or_default()
                )),
                (Some(_), Ok(duckdb)) if !judges_agree && differs(ours, duckdb).is_none() => Verdict::SameAsDuckDb,
                (Some(text), _) => Verdict::Difference(text),
            }
        }
        (Ok(ours), Err(refused), Ok(duckdb)) => match differs(ours, duckdb) {
            None => Verdict::SameAsDuckDb,
            Some(_) if by_definition(&query.to_sql(), tables).is_some() => Verdict::SameAsDataFusion,
            Some(text) => Verdict::Difference(format!("against DuckDB (DataFusion refuses: {refused}): {text}")),
        },
        (Ok(_), Err(datafusion), Err(_)) => {
            Verdict::Difference(format!("an answer, where both judges refuse: {datafusion}"))
        }
        (Err(_), Err(refused), _) if !is_hang(ours) => Verdict::Refused(refused.clone()),
        (Err(text), _, _) => Verdict::Difference(format!("error: {text}")),
    }
}

fn is_hang(answer: &Answer) -> bool {
    matches!(answer, Err(text) if text.starts_with(super::session::HANGS))
}

/// What differs between two answers to a query; what is read back from a table has no order.
pub fn difference(query: &Query, form: Form, ours: &Rows, expected: &Rows) -> Option<String> {
    let order = match form {
        Form::Select | Form::Prepared => query.order.as_slice(),
        Form::CreateTableAs | Form::Insert => &[],
    };
    ours.difference(expected, order, query.limit.is_some())
}

/// Why DataFusion and DuckDB may answer otherwise without one of them being wrong.
pub fn by_definition(sql: &str, tables: &[Table]) -> Option<&'static str> {
    let has_floats = sql.contains(".f") || sql.contains("DOUBLE");
    let is_odd = tables.iter().any(|table| table.has_odd_floats && sql.contains(&format!("{} AS", table.name)));
    (has_floats && is_odd).then_some("NaN and -0: DataFusion has Arrow's total order, in which 0 and -0 are two values")
}

/// What of a question goes to the judges.
pub fn asked_of_judges(question: &Question) -> Option<&Query> {
    match question {
        Question::Query(query) => Some(query),
        Question::Same(..) => None,
    }
}
