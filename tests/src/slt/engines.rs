//! The engines that run sqllogictest files.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::datatypes::Schema;
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::ast::{SetExpr, Statement};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion_sqllogictest::{DFColumnType, DFOutput, convert_batches, convert_schema_to_types};
use sqllogictest::{AsyncDB, DBOutput};

use crate::queries::compare::Rows;
use crate::queries::session::Session;

/// Files that the rows of one INSERT go to.
const FILES_OF_AN_INSERT: usize = 4;

/// What stands for a folder of the run's own in a file.
const LAKE: &str = "$LAKE";

/// How long a statement may take: only one that hangs takes longer.
const STATEMENT_SECONDS_MAX: u64 = 60;

#[derive(Debug)]
pub struct EngineError(String);

impl std::fmt::Display for EngineError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for EngineError {}

fn output(rows: Rows) -> Result<DFOutput, EngineError> {
    let types = convert_schema_to_types(rows.schema.fields());
    // What a table says of nullability and metadata is not what these files are about.
    let schema = rows.batches.first().map_or_else(|| Arc::clone(&rows.schema), |batch| batch.schema());
    let schema = Schema::new(schema.fields().clone());
    let cells = convert_batches(&schema, rows.batches, false).map_err(|e| EngineError(e.to_string()))?;
    if cells.is_empty() && types.is_empty() {
        return Ok(DBOutput::StatementComplete(0));
    }
    Ok(DBOutput::Rows { types, rows: cells })
}

/// DataFusion in this process, with whatever session it is given.
pub struct LocalEngine {
    name: &'static str,
    context: SessionContext,
}

impl LocalEngine {
    /// `name` is what `skipif` and `onlyif` call it.
    pub fn new(name: &'static str, context: SessionContext) -> Self {
        Self { name, context }
    }

    async fn rows(&self, sql: &str) -> Result<Rows, EngineError> {
        let text = |e: datafusion::error::DataFusionError| EngineError(e.to_string());
        let frame = self.context.sql(sql).await.map_err(text)?;
        let plan = frame.clone().create_physical_plan().await.map_err(text)?;
        let batches = frame.collect().await.map_err(text)?;
        Ok(Rows { schema: plan.schema(), batches })
    }
}

#[async_trait]
impl AsyncDB for LocalEngine {
    type Error = EngineError;
    type ColumnType = DFColumnType;

    async fn run(&mut self, sql: &str) -> Result<DFOutput, EngineError> {
        match tokio::time::timeout(Duration::from_secs(STATEMENT_SECONDS_MAX), self.rows(sql)).await {
            Ok(rows) => output(rows?),
            Err(_) => Err(EngineError("no answer in time".into())),
        }
    }

    fn engine_name(&self) -> &str {
        self.name
    }

    async fn shutdown(&mut self) {}

    async fn sleep(duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// Covey over its Flight SQL port.
pub struct CoveyEngine {
    session: Session,
    name: &'static str,
    /// Whether the rows of one INSERT go to several files.
    splits_inserts: bool,
    lake: PathBuf,
}

impl CoveyEngine {
    /// For files of ours: the rows of each table are in several files.
    pub fn new(session: Session, lake: PathBuf) -> Self {
        Self { session, name: "covey", splits_inserts: true, lake }
    }

    /// For files of others, which run as they are; `name` is the engine that they are written for.
    pub fn unchanged(session: Session, name: &'static str, lake: PathBuf) -> Self {
        Self { session, name, splits_inserts: false, lake }
    }
}

#[async_trait]
impl AsyncDB for CoveyEngine {
    type Error = EngineError;
    type ColumnType = DFColumnType;

    async fn run(&mut self, sql: &str) -> Result<DFOutput, EngineError> {
        let sql = sql.replace(LAKE, &self.lake.to_string_lossy());
        let statements = if self.splits_inserts { split_insert(&sql) } else { vec![sql] };
        let mut done = None;
        for statement in &statements {
            done = Some(self.session.run(statement).await.map_err(EngineError)?);
        }
        output(done.ok_or_else(|| EngineError("no statement".into()))?)
    }

    fn engine_name(&self) -> &str {
        self.name
    }

    async fn shutdown(&mut self) {}

    async fn sleep(duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// INSERT of several rows as several statements, each of which makes a file; anything else as it is.
fn split_insert(sql: &str) -> Vec<String> {
    let whole = || vec![sql.to_string()];
    let Ok(statements) = Parser::parse_sql(&GenericDialect, sql) else { return whole() };
    let [Statement::Insert(insert)] = statements.as_slice() else { return whole() };
    let Some(SetExpr::Values(values)) = insert.source.as_deref().map(|query| query.body.as_ref()) else {
        return whole();
    };
    let rows = &values.rows;
    if rows.len() < FILES_OF_AN_INSERT {
        return whole();
    }
    rows.chunks(rows.len().div_ceil(FILES_OF_AN_INSERT))
        .map(|rows| {
            let mut part = insert.clone();
            if let Some(SetExpr::Values(values)) = part.source.as_deref_mut().map(|query| query.body.as_mut()) {
                values.rows = rows.to_vec();
            }
            Statement::Insert(part).to_string()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: no row of an INSERT is lost or doubled when it is split, and other statements stay as they are.
    #[test]
    fn inserts_are_split_into_files() {
        let parts = split_insert("INSERT INTO t (a, b) VALUES (1, 'x'), (2, NULL), (3, 'a, b'), (4, ''), (5, '(')");
        assert_eq!(parts.len(), 3);
        assert_eq!(parts[1], "INSERT INTO t (a, b) VALUES (3, 'a, b'), (4, '')");
        assert_eq!(split_insert("INSERT INTO t SELECT 1"), ["INSERT INTO t SELECT 1"]);
        assert_eq!(split_insert("SELECT 1"), ["SELECT 1"]);
    }
}
