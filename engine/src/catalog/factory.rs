//! `CREATE EXTERNAL TABLE`: what a table is, learned once from its files, and the table made of that.
//!
//! A directory is a [`LakeTable`]; single files and globs are DataFusion's listing table.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::{TableProvider, TableProviderFactory};
use datafusion::common::{DFSchema, TableReference};
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::listing_table_factory::ListingTableFactory;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::expr::Sort;
use datafusion::logical_expr::{CreateExternalTable, Expr};

use super::LakeTable;
use super::entry::{PartitionEntry, SortEntry, TableEntry, columns_of, schema_of};
use super::lake_table::WriteTarget;
use super::layout::{Naming, PartitionColumn, infer_type, value_text};
use super::probe::{named_partitions, probe};
use super::store::CatalogStore;
use crate::storage::directory_url;
use crate::user_err;

/// Files of the newest directory whose schemas are merged when a table is created without columns.
const SCHEMA_FILES_MAX: usize = 4;

/// The option that says whether directories are named in one way, so that those of a date are known, or in several.
const DIRECTORY_NAMES: &str = "directory_names";

/// What `STORED AS` takes.
const FORMATS: [&str; 4] = ["PARQUET", "CSV", "JSON", "ARROW"];

/// What the catalog has to know of a table that is created: its columns are looked up in its files where they are not
/// declared.
///
/// # Errors
/// When the table asks for what there is not, or its columns cannot be found out.
pub async fn describe(state: &SessionState, cmd: &CreateExternalTable) -> Result<TableEntry> {
    check(cmd)?;
    let mut cmd = cmd.clone();
    let is_mixed = take_directory_names(&mut cmd)?;
    let cmd = &cmd;
    let mut entry = TableEntry {
        locations: absolute(&cmd.locations)?,
        format: cmd.file_type.to_uppercase(),
        options: cmd.options.clone().into_iter().collect(),
        partition_columns: vec![],
        columns: vec![],
        orders: cmd.order_exprs.iter().map(|order| order.iter().map(sort_entry).collect()).collect::<Result<_>>()?,
        managed: false,
        definition: cmd.definition.clone(),
    };
    if cmd.table_partition_cols.is_empty() && !is_lake(&entry) {
        let table = ListingTableFactory::new().create(state, cmd).await?;
        entry.columns = columns_of(&table.schema())?;
    } else {
        let (mut partition_columns, file_schema) = learn(state, cmd).await?;
        if is_mixed {
            partition_columns.iter_mut().for_each(|column| column.naming.is_regular = false);
        }
        entry.partition_columns = partition_columns.iter().map(PartitionEntry::try_new).collect::<Result<_>>()?;
        entry.columns = columns_of(&file_schema)?;
    }
    Ok(entry)
}

/// Whether a table is one directory, in which files come and go. What names its files is DataFusion's listing table.
fn is_lake(entry: &TableEntry) -> bool {
    let [location] = entry.locations.as_slice() else { return false };
    if !entry.partition_columns.is_empty() {
        return true;
    }
    let last = location.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let is_directory = location.ends_with('/') || Path::new(location).is_dir() || !last.contains('.');
    is_directory && !location.contains(['*', '?', '[', '{']) && entry.orders.is_empty()
}

/// The table of an entry.
///
/// # Errors
/// When its format or store cannot be used.
pub async fn open(
    state: &SessionState,
    name: &str,
    entry: &TableEntry,
    writes: &Arc<CatalogStore>,
) -> Result<Arc<dyn TableProvider>> {
    let file_schema = schema_of(&entry.columns)?;
    if !is_lake(entry) {
        let table = TableReference::bare(name.to_string());
        let Some((first, _)) = entry.locations.split_first() else {
            return user_err!("table {name:?} has no location");
        };
        let schema = Arc::new(DFSchema::try_from(file_schema)?);
        let cmd = CreateExternalTable::builder(table, first.clone(), entry.format.clone(), schema)
            .with_locations(entry.locations.clone())
            .with_definition(entry.definition.clone())
            .with_order_exprs(entry.orders.iter().map(|order| order.iter().map(sort).collect()).collect())
            .with_options(entry.options.clone().into_iter().collect())
            .build();
        return ListingTableFactory::new().create(state, &cmd).await;
    }
    let [location] = entry.locations.as_slice() else {
        return user_err!("table {name:?}: a table of directories has one LOCATION, got {}", entry.locations.len());
    };
    let (format, extension) = format(state, name, &entry.format, &entry.options.clone().into_iter().collect())?;
    let partition_columns = entry.partition_columns.iter().map(PartitionEntry::column).collect::<Result<Vec<_>>>()?;
    let target = WriteTarget {
        directory: directory_url(location)?,
        format: entry.format.clone(),
        extension,
        options: entry.options.clone(),
        partition_columns,
    };
    Ok(Arc::new(LakeTable::new(target, format, file_schema, entry.definition.clone(), Arc::clone(writes))))
}

/// # Errors
/// When the statement asks for what tables do not have.
fn check(cmd: &CreateExternalTable) -> Result<()> {
    if !FORMATS.contains(&cmd.file_type.to_uppercase().as_str()) {
        return user_err!("table {}: STORED AS {} is none of {}", cmd.name, cmd.file_type, FORMATS.join(", "));
    }
    let refused = [
        (cmd.unbounded, "UNBOUNDED"),
        (cmd.temporary, "TEMPORARY"),
        (!cmd.column_defaults.is_empty(), "DEFAULT"),
        // Nothing would see to it that they hold.
        (cmd.constraints.iter().next().is_some(), "PRIMARY KEY or UNIQUE"),
        (!cmd.order_exprs.is_empty() && !cmd.table_partition_cols.is_empty(), "WITH ORDER beside PARTITIONED BY"),
    ];
    match refused.into_iter().find(|(is_asked, _)| *is_asked) {
        Some((_, what)) => user_err!("table {}: tables have no {what}; leave it out", cmd.name),
        None => Ok(()),
    }
}

/// Takes our own option out of the table's: whether its directories are named in several ways.
///
/// # Errors
/// When it has a value that it does not take.
fn take_directory_names(cmd: &mut CreateExternalTable) -> Result<bool> {
    let names = [DIRECTORY_NAMES.to_string(), format!("format.{DIRECTORY_NAMES}")];
    let Some(value) = names.iter().find_map(|name| cmd.options.remove(name)) else { return Ok(false) };
    match value.to_lowercase().as_str() {
        "mixed" => Ok(true),
        "regular" => Ok(false),
        _ => user_err!("table {}: {DIRECTORY_NAMES:?} is 'regular' or 'mixed', not {value:?}", cmd.name),
    }
}

/// Relative locations begin where the scheduler was started, also after it is started elsewhere.
fn absolute(locations: &[String]) -> Result<Vec<String>> {
    let absolute = |location: &String| {
        if location.contains("://") {
            return Ok(location.clone());
        }
        Ok(std::path::absolute(location)?.to_string_lossy().into_owned()
            + if location.ends_with('/') { "/" } else { "" })
    };
    locations.iter().map(absolute).collect()
}

fn sort_entry(sort: &Sort) -> Result<SortEntry> {
    match &sort.expr {
        Expr::Column(column) => {
            Ok(SortEntry { column: column.name.clone(), ascending: sort.asc, nulls_first: sort.nulls_first })
        }
        other => user_err!("WITH ORDER takes columns, not {other}"),
    }
}

fn sort(entry: &SortEntry) -> Sort {
    Sort::new(Expr::Column(entry.column.as_str().into()), entry.ascending, entry.nulls_first)
}

/// The end of the names of files of a format.
///
/// # Errors
/// When there is no such format, or an option is not one of its.
pub fn file_extension(state: &SessionState, format_name: &str, options: &HashMap<String, String>) -> Result<String> {
    Ok(format(state, "", format_name, options)?.1)
}

fn format(
    state: &SessionState,
    table: &str,
    name: &str,
    options: &HashMap<String, String>,
) -> Result<(Arc<dyn FileFormat>, String)> {
    let Some(factory) = state.get_file_format_factory(name) else {
        return user_err!("table {table}: STORED AS {name} is none of {}", FORMATS.join(", "));
    };
    let format = factory.create(state, options)?;
    let extension = match format.compression_type() {
        Some(compression) => format.get_ext_with_compression(&compression)?,
        None => format.get_ext(),
    };
    Ok((format, format!(".{}", extension.trim_start_matches('.'))))
}

/// The partition columns and the columns of the files of a partitioned table.
async fn learn(state: &SessionState, cmd: &CreateExternalTable) -> Result<(Vec<PartitionColumn>, SchemaRef)> {
    let [location] = cmd.locations.as_slice() else {
        return user_err!("table {}: a partitioned table has one LOCATION, got {}", cmd.name, cmd.locations.len());
    };
    let url = directory_url(location)?;
    let (format, extension) = format(state, cmd.name.table(), &cmd.file_type, &cmd.options)?;
    let root = ObjectStoreUrl::parse(&url[..url::Position::BeforePath])?;
    let store = state.runtime_env().object_store(&root)?;
    let names = match cmd.table_partition_cols.clone() {
        named if named.is_empty() => named_partitions(store.as_ref(), &url).await?,
        named => named,
    };
    let found = probe(store.as_ref(), &url, &names, &extension).await?;
    let partition_columns: Vec<PartitionColumn> = names
        .iter()
        .zip(&found.directories)
        .zip(Naming::infer_all(&names, &found.directories))
        .map(|((name, directories), naming)| {
            let values = directories.iter().filter_map(|directory| value_text(name, directory));
            PartitionColumn {
                name: name.clone(),
                data_type: declared_type(cmd, name).unwrap_or_else(|| infer_type(name, values)),
                naming,
            }
        })
        .collect();
    let file_schema = match declared_file_schema(cmd, &names)? {
        Some(schema) => schema,
        None if url.to_file_path().is_ok_and(|path| !path.exists()) => {
            return user_err!(
                "table {}: {url} does not exist on the machine of the scheduler, where relative locations begin in its working directory; declare the columns in CREATE EXTERNAL TABLE if the first upload is still to come",
                cmd.name
            );
        }
        None if found.files.is_empty() => {
            let level = names.iter().zip(&found.directories).find(|(_, directories)| directories.is_empty());
            let missing = match level {
                Some((column, _)) => format!("no directories {column}=VALUE or VALUE for partition column {column:?}"),
                None => format!("no {extension} files in the newest of its directories"),
            };
            return user_err!(
                "table {}: {url} has {missing}; declare the columns in CREATE EXTERNAL TABLE, or create the table after the first upload",
                cmd.name
            );
        }
        None => {
            let newest = &found.files[found.files.len().saturating_sub(SCHEMA_FILES_MAX)..];
            let schema = format
                .infer_schema(state, &store, newest)
                .await
                .map_err(|e| e.context(format!("table {}: reading the schema of {}", cmd.name, newest[0].location)))?;
            without_partition_columns(&schema, &names)?
        }
    };
    Ok((partition_columns, file_schema))
}

fn declared_type(cmd: &CreateExternalTable, column: &str) -> Option<DataType> {
    cmd.schema.field_with_unqualified_name(column).ok().map(|field| field.data_type().clone())
}

fn declared_file_schema(cmd: &CreateExternalTable, partition_columns: &[String]) -> Result<Option<SchemaRef>> {
    let schema = cmd.schema.inner();
    let declared = schema.fields().iter().any(|field| !partition_columns.contains(field.name()));
    if declared { without_partition_columns(schema, partition_columns).map(Some) } else { Ok(None) }
}

/// A file may repeat its partition columns; the directory decides.
fn without_partition_columns(schema: &SchemaRef, partition_columns: &[String]) -> Result<SchemaRef> {
    let kept: Vec<usize> =
        (0..schema.fields().len()).filter(|&i| !partition_columns.contains(schema.field(i).name())).collect();
    Ok(Arc::new(schema.project(&kept)?))
}
