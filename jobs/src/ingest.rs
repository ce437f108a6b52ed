//! Rows that a client sends, which become a table or go into one: what notebooks bring a data frame with.
//!
//! ```text
//! rows ─► Parquet files in the warehouse, of no table ─► INSERT, or CREATE TABLE AS, on executors ─► the files go
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use covey_engine::catalog::{TableEntry, columns_of};
use covey_engine::encoder::Encoder;
use covey_engine::storage::Directory;
use covey_engine::user_err;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::error::Result;
use datafusion::logical_expr::{
    CreateMemoryTable, DdlStatement, Expr, LogicalPlan, LogicalPlanBuilder, UNNAMED_TABLE, cast,
};
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;
use futures::stream::BoxStream;

use crate::Covey;
use crate::covey::Prepared;
use crate::definitions::resolve;
use crate::statements::quoted;
use crate::writes::new_directory;

/// Bytes of a file in which rows wait, which the scheduler holds in memory until it is full.
const FILE_BYTES: usize = 64 << 20;

const PARQUET: &str = "PARQUET";

/// Where rows go, and what becomes of a table that is there, or is not.
#[derive(Debug, Clone)]
pub struct Ingest {
    pub table: TableReference,
    pub if_missing: IfMissing,
    pub if_there: IfThere,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfMissing {
    Create,
    Refuse,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfThere {
    Append,
    Replace,
    Refuse,
}

impl Covey {
    /// Writes the rows of a client; how many they are.
    ///
    /// # Errors
    /// When the table is there and should not be, or the other way round, or does not take such rows. Then nothing was
    /// written.
    pub async fn ingest(
        &self,
        session: &Arc<SessionContext>,
        ingest: &Ingest,
        schema: SchemaRef,
        rows: BoxStream<'_, Result<RecordBatch>>,
    ) -> Result<u64> {
        self.refresh().await?;
        let name = resolve(&session.state(), &ingest.table)?;
        let is_there = self.catalog().snapshot().entry(&name.schema, &name.table).is_some();
        check(ingest, is_there)?;
        let waiting = new_directory(self.warehouse())?;
        let written = async {
            put_rows(session, &waiting, &schema, rows).await?;
            let table = self.catalog().open_entry("rows of a client", &waiting_entry(&waiting, &schema)?).await?;
            let plan = match (is_there, ingest.if_there) {
                (true, IfThere::Append) => self.insert(session, &ingest.table, table).await?,
                _ => create(ingest, table)?,
            };
            self.write(session, plan, &[]).await
        };
        let result = written.await;
        waiting.delete_all().await?;
        result
    }

    /// The plan of `INSERT INTO table (columns of the rows) VALUES ...`, with the rows in the place of the values.
    async fn insert(
        &self,
        session: &SessionContext,
        name: &TableReference,
        rows: Arc<dyn TableProvider>,
    ) -> Result<LogicalPlan> {
        let schema = rows.schema();
        let columns: Vec<String> = schema.fields().iter().map(|field| quoted(field.name())).collect();
        let values = vec!["NULL"; columns.len()].join(", ");
        let sql = format!("INSERT INTO {} ({}) VALUES ({values})", name.to_quoted_string(), columns.join(", "));
        let Prepared::Write { plan, .. } = self.prepare(session, &sql).await? else {
            return user_err!("{name} takes no rows");
        };
        let scan = LogicalPlanBuilder::scan(UNNAMED_TABLE, provider_as_source(rows), None)?.build()?;
        let placed = plan.transform_down(|node| match node {
            LogicalPlan::Values(values) => {
                let columns = schema.fields().iter().zip(values.schema.fields());
                let columns = columns.map(|(field, value)| {
                    let column = Expr::Column(Column::new(Some(UNNAMED_TABLE), field.name()));
                    cast(column, value.data_type().clone()).alias(value.name())
                });
                let rows = LogicalPlanBuilder::from(scan.clone()).project(columns.collect::<Vec<_>>())?.build()?;
                Ok(Transformed::yes(rows))
            }
            other => Ok(Transformed::no(other)),
        });
        placed.data()
    }
}

/// # Errors
/// When the table is there and should not be, or the other way round.
fn check(ingest: &Ingest, is_there: bool) -> Result<()> {
    let table = &ingest.table;
    match (is_there, ingest.if_there, ingest.if_missing) {
        (true, IfThere::Refuse, _) => user_err!("table {table} exists already; append to it, or replace it"),
        (false, _, IfMissing::Refuse) => user_err!("there is no table {table} to append to; create it"),
        _ => Ok(()),
    }
}

fn create(ingest: &Ingest, rows: Arc<dyn TableProvider>) -> Result<LogicalPlan> {
    let input = LogicalPlanBuilder::scan(UNNAMED_TABLE, provider_as_source(rows), None)?.build()?;
    Ok(LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(CreateMemoryTable {
        name: ingest.table.clone(),
        constraints: Default::default(),
        input: Arc::new(input),
        if_not_exists: false,
        or_replace: ingest.if_there == IfThere::Replace,
        column_defaults: vec![],
        temporary: false,
    })))
}

fn waiting_entry(directory: &Directory, schema: &SchemaRef) -> Result<TableEntry> {
    Ok(TableEntry {
        locations: vec![directory.url().to_string()],
        format: PARQUET.into(),
        columns: columns_of(schema)?,
        managed: true,
        ..TableEntry::default()
    })
}

/// Writes rows as Parquet files, one after the other.
async fn put_rows(
    session: &SessionContext,
    directory: &Directory,
    schema: &SchemaRef,
    mut rows: BoxStream<'_, Result<RecordBatch>>,
) -> Result<()> {
    let state = session.state();
    let encoder = || Encoder::try_new(PARQUET, &BTreeMap::new(), state.config().options(), schema);
    let (mut n, mut open, mut bytes) = (0, encoder()?, vec![]);
    while let Some(batch) = rows.try_next().await? {
        open.write(&batch)?;
        bytes.extend(open.take());
        if bytes.len() + open.in_progress() >= FILE_BYTES {
            bytes.extend(std::mem::replace(&mut open, encoder()?).finish()?);
            directory.put(&file_name(n), Bytes::from(std::mem::take(&mut bytes))).await?;
            n += 1;
        }
    }
    bytes.extend(open.finish()?);
    directory.put(&file_name(n), Bytes::from(bytes)).await
}

fn file_name(n: usize) -> String {
    format!("rows-{n:05}.parquet")
}
