//! Statements that write files: INSERT INTO, COPY TO, CREATE TABLE AS, and OPTIMIZE.

mod commit;
mod managed;
mod optimize;
mod replaced;
mod statement;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use covey_engine::catalog::{
    Entry, IfTaken, LakeTable, Naming, PartitionColumn, PartitionEntry, TableEntry, WriteTarget, columns_of,
    file_extension, sample_of,
};
use covey_engine::failure::is_refused;
use covey_engine::storage::{Directory, directory_url};
use covey_engine::user_err;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{Column, DFSchema};
use datafusion::datasource::source_as_provider;
use datafusion::error::Result;
use datafusion::logical_expr::dml::CopyTo;
use datafusion::logical_expr::dml::InsertOp;
use datafusion::logical_expr::{
    CreateMemoryTable, DdlStatement, DmlStatement, Expr, LogicalPlan, LogicalPlanBuilder, WriteOp, cast,
};

use crate::covey::without_dictionaries;
use crate::definitions::{check_names, put, resolve};
use commit::{StagedRows, publish};
pub use commit::{Writer, take_back_old_writes};
pub use managed::{new_directory, remove_files, sweep_tables};
pub use optimize::{Optimized, optimize};
pub use replaced::remove_old;
pub use statement::{name_columns, take_partitioned_by};

/// Runs a statement that writes; the rows that were written. A table that is created gets directories of the columns
/// `partitioned_by`.
///
/// # Errors
/// When it cannot be done. Then nothing was written.
pub async fn write(writer: &Writer<'_>, plan: LogicalPlan, partitioned_by: &[String]) -> Result<u64> {
    match plan {
        LogicalPlan::Dml(statement) => insert(writer, statement).await,
        LogicalPlan::Copy(statement) => copy(writer, statement).await,
        LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(statement)) => {
            create_table_as(writer, statement, partitioned_by).await
        }
        other => user_err!("the statement writes nothing: {}", other.display()),
    }
}

async fn insert(writer: &Writer<'_>, statement: DmlStatement) -> Result<u64> {
    let table = &statement.table_name;
    match statement.op {
        WriteOp::Insert(InsertOp::Append) => {}
        WriteOp::Insert(_) => {
            return user_err!(
                "INSERT INTO {table} adds rows; to replace them all use CREATE OR REPLACE TABLE {table} AS SELECT ..."
            );
        }
        _ => {
            return user_err!(
                "rows of {table} are not changed in place; write those to keep with CREATE OR REPLACE TABLE ... AS SELECT ..."
            );
        }
    }
    let provider = source_as_provider(&statement.target)?;
    let Some(target) = provider.downcast_ref::<LakeTable>().and_then(LakeTable::target) else {
        return user_err!(
            "INSERT INTO {table}: rows are added to tables whose LOCATION is a directory, which this is not"
        );
    };
    let input = without_dictionaries(Arc::unwrap_or_clone(statement.input))?;
    let input = in_types_of(&statement.target.schema(), input)?;
    let staged = writer.stage(&format!("insert into {table}"), input, target, None).await?;
    writer.commit(staged).await
}

/// Rows in the types of a table's columns: values that were bound to parameters may have others.
fn in_types_of(table: &SchemaRef, input: LogicalPlan) -> Result<LogicalPlan> {
    let columns = input.schema().iter().map(|(qualifier, field)| {
        let column = Expr::Column(Column::new(qualifier.cloned(), field.name()));
        match table.field_with_name(field.name()) {
            Ok(of) if of.data_type() != field.data_type() => {
                cast(column, of.data_type().clone()).alias_qualified(qualifier.cloned(), field.name())
            }
            _ => column,
        }
    });
    let columns: Vec<Expr> = columns.collect();
    if columns.iter().all(|column| matches!(column, Expr::Column(_))) {
        return Ok(input);
    }
    LogicalPlanBuilder::from(input).project(columns)?.build()
}

async fn copy(writer: &Writer<'_>, statement: CopyTo) -> Result<u64> {
    let CopyTo { input, output_url, partition_by, file_type, options, .. } = statement;
    let input = without_dictionaries(Arc::unwrap_or_clone(input))?;
    check_columns("COPY", input.schema())?;
    let format = file_type.get_ext().to_uppercase();
    let mut options: BTreeMap<String, String> = options.into_iter().collect();
    let (location, file) = match partition_by.is_empty().then(|| single_file(&output_url)).flatten() {
        Some((directory, file)) => (directory, Some(file)),
        None => (output_url.as_str(), None),
    };
    let compression = file.as_ref().and_then(|file| match file.rsplit('.').next() {
        Some("gz") => Some("gzip"),
        Some("zst") => Some("zstd"),
        _ => None,
    });
    if let Some(compression) = compression {
        options.entry("format.compression".into()).or_insert_with(|| compression.into());
    }
    let target = WriteTarget {
        directory: directory_url(location)?,
        extension: extension(writer, &format, &options)?,
        partition_columns: partition_columns(&partition_by, input.schema(), "COPY")?,
        format,
        options,
    };
    let staged = writer.stage(&format!("copy to {output_url}"), input, &target, file).await?;
    writer.commit(staged).await
}

/// The directory and the name of the file that a location names; `None` where it is a directory.
fn single_file(location: &str) -> Option<(&str, String)> {
    let (directory, file) = match location.rfind('/') {
        Some(slash) => (&location[..=slash], &location[slash + 1..]),
        None => ("./", location),
    };
    let is_file = file.contains('.') && !Path::new(location).is_dir();
    is_file.then(|| (directory, file.to_string()))
}

fn extension(writer: &Writer<'_>, format: &str, options: &BTreeMap<String, String>) -> Result<String> {
    let options: HashMap<String, String> = options.clone().into_iter().collect();
    file_extension(&writer.session.state(), format, &options)
}

/// # Errors
/// When a column is not there, or none is left for the files.
fn partition_columns(names: &[String], schema: &DFSchema, statement: &str) -> Result<Vec<PartitionColumn>> {
    let column = |name: &String| {
        let Some(field) = schema.fields().iter().find(|field| field.name() == name) else {
            return user_err!("{statement}: PARTITIONED BY {name:?} is no column of the query");
        };
        let data_type = field.data_type().clone();
        Ok(PartitionColumn { name: name.clone(), naming: Naming::of_new(name, &data_type), data_type })
    };
    let columns = names.iter().map(column).collect::<Result<Vec<_>>>()?;
    if columns.len() >= schema.fields().len() {
        return user_err!("{statement}: with all columns in PARTITIONED BY none is left for the files");
    }
    Ok(columns)
}

/// # Errors
/// When two columns have the same name, or one has no type.
fn check_columns(statement: &str, schema: &DFSchema) -> Result<()> {
    check_names(statement, schema)?;
    match schema.fields().iter().find(|field| *field.data_type() == DataType::Null) {
        Some(field) => {
            user_err!("{statement}: column {:?} is NULL without a type; write CAST(NULL AS ...)", field.name())
        }
        None => Ok(()),
    }
}

async fn create_table_as(writer: &Writer<'_>, create: CreateMemoryTable, partitioned_by: &[String]) -> Result<u64> {
    let statement = format!("table {}", create.name);
    let refused = [
        (create.temporary, "TEMPORARY"),
        (!create.column_defaults.is_empty(), "DEFAULT"),
        (create.constraints.iter().next().is_some(), "PRIMARY KEY or UNIQUE"),
    ];
    if let Some((_, what)) = refused.into_iter().find(|(is_asked, _)| *is_asked) {
        return user_err!("{statement}: tables have no {what}; leave it out");
    }
    let name = resolve(&writer.session.state(), &create.name)?;
    let if_taken = IfTaken::of(create.if_not_exists, create.or_replace, &statement)?;
    let is_empty = matches!(create.input.as_ref(), LogicalPlan::EmptyRelation(empty) if !empty.produce_one_row);
    let input = without_dictionaries(Arc::unwrap_or_clone(create.input))?;
    check_columns(&statement, input.schema())?;
    let target = WriteTarget {
        directory: new_directory(writer.warehouse)?.url().clone(),
        format: "PARQUET".into(),
        extension: extension(writer, "PARQUET", &BTreeMap::new())?,
        options: BTreeMap::new(),
        partition_columns: partition_columns(partitioned_by, input.schema(), &statement)?,
    };
    let entry = managed_entry(&target, input.schema().inner())?;
    // A name that is taken is told before the query runs.
    let trial = Entry::Table(entry.clone());
    if !writer.catalog.snapshot().as_ref().clone().put(&name.schema, &name.table, trial, if_taken)? {
        return Ok(0);
    }
    let staged = match is_empty {
        true => None,
        false => Some(writer.stage(&format!("create table {}", create.name), input, &target, None).await?),
    };
    let rows = staged.as_ref().map_or(0, |staged| staged.rows);
    let remove_all = async || Directory::open(writer.stores.as_ref(), &target.directory)?.delete_all().await;
    let entry = match with_files(writer, staged, entry).await {
        Ok(entry) => entry,
        Err(error) => {
            remove_all().await?;
            return Err(error);
        }
    };
    match put(writer.catalog, &writer.stores, &name, Entry::Table(entry), if_taken).await {
        Ok(true) => Ok(rows),
        Ok(false) => remove_all().await.map(|()| 0),
        Err(error) if is_refused(&error) => {
            remove_all().await?;
            Err(error)
        }
        // The table may be there: its files are removed later if it is not.
        Err(error) => {
            Err(error.context(format!("it is not known whether {statement} is there: look before you try again")))
        }
    }
}

/// Publishes the files of a table that is not in the catalog yet.
async fn with_files(writer: &Writer<'_>, staged: Option<StagedRows>, mut entry: TableEntry) -> Result<TableEntry> {
    if let Some(staged) = staged {
        publish(&writer.stores, &staged.files).await?;
        let files: Vec<String> = staged.files.iter().map(|file| file.url.clone()).collect();
        entry.sample = sample_of(&writer.session.state(), &entry, &files).await;
        writer.catalog.settle(&staged.write);
        commit::sweep(&writer.stores, &staged.directory, &staged.write).await?;
    }
    Ok(entry)
}

/// A new table's columns may be NULL whatever the query says: rows are added later.
fn managed_entry(target: &WriteTarget, schema: &SchemaRef) -> Result<TableEntry> {
    let is_partition = |field: &Field| target.partition_columns.iter().any(|column| column.name == *field.name());
    let in_files = schema.fields().iter().filter(|field| !is_partition(field));
    let columns = Schema::new(in_files.map(|field| Field::clone(field).with_nullable(true)).collect::<Vec<_>>());
    Ok(TableEntry {
        locations: vec![target.directory.to_string()],
        format: target.format.clone(),
        options: target.options.clone(),
        partition_columns: target.partition_columns.iter().map(PartitionEntry::try_new).collect::<Result<_>>()?,
        columns: columns_of(&columns)?,
        managed: true,
        ..TableEntry::default()
    })
}
