//! Runs a file record by record, and goes on after one that fails.

use std::path::Path;

use datafusion_sqllogictest::{DFColumnType, df_value_validator, value_normalizer};
use sqllogictest::{AsyncDB, Record, Runner, parse_file, strict_column_validator};

/// What became of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The file and line.
    pub place: String,
    pub sql: String,
    /// What differs; `None` where the record passed.
    pub failure: Option<String>,
}

/// Runs all statements and queries of `file` in a fresh `engine`; `label` is what `skipif` and `onlyif` name besides it.
///
/// # Errors
/// When the file cannot be read.
pub async fn run_records<D>(file: &Path, label: &str, engine: D) -> Result<Vec<Outcome>, String>
where
    D: AsyncDB<ColumnType = DFColumnType>,
{
    let records = parse_file::<DFColumnType>(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let engine = std::sync::Mutex::new(Some(engine));
    let mut runner = Runner::new(|| {
        let engine = engine.lock().map(|mut engine| engine.take()).ok().flatten();
        async move { Ok(engine.expect("a file has one connection")) }
    });
    runner.add_label(label);
    runner.with_column_validator(strict_column_validator);
    runner.with_normalizer(value_normalizer);
    runner.with_validator(df_value_validator);
    let mut outcomes = vec![];
    for record in records {
        let (loc, sql) = match &record {
            Record::Statement { loc, sql, .. } | Record::Query { loc, sql, .. } => (loc.to_string(), sql.clone()),
            Record::Halt { .. } => break,
            _ => {
                // What cannot fail, or tells the runner something.
                let _ = runner.run_async(record).await;
                continue;
            }
        };
        let failure = runner.run_async(record).await.err().map(|error| error.kind().to_string());
        outcomes.push(Outcome { place: loc, sql, failure });
    }
    runner.shutdown_async().await;
    Ok(outcomes)
}
