//! `CREATE EXTERNAL TABLE`: what a table is, learned once from its files, and the table made of that.
//!
//! It is a [`LakeTable`]; but files in a known order are DataFusion's listing table.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

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
use futures::StreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use url::Url;

use super::delta::{self, DeltaLog};
use super::drift;
use super::entry::{PartitionEntry, SortEntry, TableEntry, columns_of, schema_of};
use super::glob::{self, Glob, is_glob};
use super::lake_table::{Files, LakeTable, Parts, WriteTarget};
use super::layout::{Naming, PartitionColumn, infer_type, value_text};
use super::lister::LISTING_SECONDS;
use super::options::TableOptions;
use super::probe::{Probe, data_files, named_partitions, probe, probe_globs};
use super::sample::{self, Sample};
use super::store::CatalogStore;
use crate::databases;
use crate::operators::is_of_file;
use crate::storage::directory_url;
use crate::user_err;

/// Files whose schemas are looked up at once.
const SCHEMAS_CONCURRENT: usize = 16;

/// What `STORED AS` takes.
const FORMATS: [&str; 6] = ["PARQUET", "CSV", "JSON", "ARROW", "AVRO", delta::FORMAT];

/// The option that says how text files are compressed, and the ends of the names of those that are.
const COMPRESSION: &str = "format.compression";
const COMPRESSED: [(&str, &str); 4] = [(".gz", "gzip"), (".zst", "zstd"), (".bz2", "bzip2"), (".xz", "xz")];

/// What the catalog has to know of a table that is created: its columns are looked up in its files where they are not
/// declared.
///
/// # Errors
/// When the table asks for what there is not, or its columns cannot be found out.
pub async fn describe(state: &SessionState, cmd: &CreateExternalTable) -> Result<TableEntry> {
    check(cmd)?;
    if databases::is_database(&cmd.file_type) {
        return databases::describe(state, cmd).await;
    }
    let mut cmd = cmd.clone();
    let options = TableOptions::take(&mut cmd)?;
    let locations = absolute(&cmd.locations)?;
    take_compression(&mut cmd, &locations)?;
    let cmd = &cmd;
    let mut entry = TableEntry {
        locations,
        format: cmd.file_type.to_uppercase(),
        options: cmd.options.clone().into_iter().collect(),
        partition_columns: vec![],
        columns: vec![],
        orders: cmd.order_exprs.iter().map(|order| order.iter().map(sort_entry).collect()).collect::<Result<_>>()?,
        managed: false,
        skip_bad_files: options.skip_bad_files,
        listing_seconds: options.listing_seconds,
        sample: None,
        definition: cmd.definition.clone(),
    };
    if entry.format == delta::FORMAT {
        let learned = delta::learn(state, cmd, &entry.locations).await?;
        entry.sample = learned.sample;
        entry.partition_columns =
            learned.partition_columns.iter().map(PartitionEntry::try_new).collect::<Result<_>>()?;
        entry.columns = columns_of(&learned.file_schema)?;
    } else if is_lake(&entry) {
        let Learned { partition_columns, file_schema, sample } = learn(state, cmd, &entry, &options).await?;
        entry.partition_columns = partition_columns.iter().map(PartitionEntry::try_new).collect::<Result<_>>()?;
        entry.columns = columns_of(&file_schema)?;
        entry.sample = sample;
    } else {
        let table = ListingTableFactory::new().create(state, cmd).await?;
        entry.columns = columns_of(&table.schema())?;
    }
    Ok(entry)
}

/// Whether the table is one of ours. Files whose rows are known to be in an order are DataFusion's listing table.
fn is_lake(entry: &TableEntry) -> bool {
    entry.orders.is_empty()
}

/// Whether files of a location come and go.
fn is_directory(location: &str) -> bool {
    let last = location.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    location.ends_with('/') || std::path::Path::new(location).is_dir() || !last.contains('.')
}

/// The store of a table's files and, where they are named one by one or by patterns, those.
fn places(table: &str, locations: &[String], is_partitioned: bool) -> Result<(Url, Vec<Glob>)> {
    if let [directory] = locations
        && !is_glob(directory)
        && (is_partitioned || is_directory(directory))
    {
        return Ok((directory_url(directory)?, vec![]));
    }
    let mut roots = vec![];
    let mut globs = vec![];
    for location in locations {
        let (root, found) = glob::parse(location)?;
        roots.push(root);
        globs.extend(found);
    }
    let Some(root) = roots.pop() else { return user_err!("table {table:?} has no location") };
    match roots.iter().find(|other| **other != root) {
        Some(other) => user_err!("table {table:?}: its locations are in {other} and in {root}; a table has one store"),
        None => Ok((directory_url(&root)?, globs)),
    }
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
    if databases::is_database(&entry.format) {
        return databases::open(name, entry);
    }
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
    let is_delta = entry.format == delta::FORMAT;
    let is_partitioned = is_delta || !entry.partition_columns.is_empty();
    let (directory, globs) = places(name, &entry.locations, is_partitioned)?;
    let file_format = if is_delta { "PARQUET" } else { &entry.format };
    let (format, extension) = format(state, name, file_format, &entry.options.clone().into_iter().collect())?;
    let partition_columns = entry.partition_columns.iter().map(PartitionEntry::column).collect::<Result<Vec<_>>>()?;
    let listing_seconds =
        if directory.scheme() == "file" { 0 } else { entry.listing_seconds.unwrap_or(LISTING_SECONDS) };
    let listing_age_max = Duration::from_secs(listing_seconds);
    let files = match globs.is_empty() {
        _ if is_delta => Files::Delta(DeltaLog::new(directory.clone(), listing_age_max)),
        true => Files::Directory,
        false => Files::Globs(globs),
    };
    let target = WriteTarget {
        directory,
        format: entry.format.clone(),
        extension,
        options: entry.options.clone(),
        partition_columns,
    };
    Ok(Arc::new(LakeTable::new(Parts {
        target,
        files,
        format,
        file_schema,
        definition: entry.definition.clone(),
        listing_age_max,
        skip_bad_files: entry.skip_bad_files,
        sample: entry.sample.clone(),
        writes: Arc::clone(writes),
    })))
}

/// What is in some of the files of a table that was just written; `None` where that cannot be told.
pub async fn sample_of(state: &SessionState, entry: &TableEntry, files: &[String]) -> Option<Sample> {
    let schema = schema_of(&entry.columns).ok()?;
    let (format, _) = format(state, "", &entry.format, &entry.options.clone().into_iter().collect()).ok()?;
    let mut found = vec![];
    let mut stores = None;
    for url in files.iter().rev().take(sample::FILES_MAX) {
        let url = Url::parse(url).ok()?;
        let root = ObjectStoreUrl::parse(&url[..url::Position::BeforePath]).ok()?;
        let store = state.runtime_env().object_store(root).ok()?;
        found.push(store.head(&Path::from_url_path(url.path()).ok()?).await.ok()?);
        stores = Some(store);
    }
    Sample::of(state, &stores?, &format, &schema, &found).await
}

/// # Errors
/// When the statement asks for what tables do not have.
fn check(cmd: &CreateExternalTable) -> Result<()> {
    if !FORMATS.contains(&cmd.file_type.to_uppercase().as_str()) && !databases::is_database(&cmd.file_type) {
        let formats = FORMATS.join(", ");
        return user_err!("table {}: STORED AS {} is none of {formats}, POSTGRES", cmd.name, cmd.file_type);
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

/// Text files that are named as compressed ones are, where the statement does not say how they are compressed.
///
/// # Errors
/// When the names say different things.
fn take_compression(cmd: &mut CreateExternalTable, locations: &[String]) -> Result<()> {
    let is_text = ["CSV", "JSON"].iter().any(|text| cmd.file_type.eq_ignore_ascii_case(text));
    if !is_text || cmd.options.keys().any(|name| name.trim_start_matches("format.") == "compression") {
        return Ok(());
    }
    let compression = |location: &String| COMPRESSED.iter().find(|(end, _)| location.ends_with(end));
    let mut named: Vec<Option<&str>> = locations.iter().map(|name| compression(name).map(|(_, name)| *name)).collect();
    named.dedup();
    match named.as_slice() {
        [None] | [] => {}
        [Some(compression)] => drop(cmd.options.insert(COMPRESSION.into(), (*compression).into())),
        _ => return user_err!("table {}: all files of a table are compressed in the same way", cmd.name),
    }
    Ok(())
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

/// What is found out of a table when it is created.
pub(super) struct Learned {
    pub partition_columns: Vec<PartitionColumn>,
    pub file_schema: SchemaRef,
    pub sample: Option<Sample>,
}

/// Looks into the files of a table of directories or patterns.
async fn learn(
    state: &SessionState,
    cmd: &CreateExternalTable,
    entry: &TableEntry,
    options: &TableOptions,
) -> Result<Learned> {
    let is_partitioned = !cmd.table_partition_cols.is_empty();
    let (url, globs) = places(cmd.name.table(), &entry.locations, is_partitioned)?;
    let (format, extension) = format(state, cmd.name.table(), &cmd.file_type, &cmd.options)?;
    let root = ObjectStoreUrl::parse(&url[..url::Position::BeforePath])?;
    let store = state.runtime_env().object_store(&root)?;
    let (names, found) = match globs.is_empty() {
        true => {
            let names = match cmd.table_partition_cols.clone() {
                named if named.is_empty() => named_partitions(store.as_ref(), &url).await?,
                named => named,
            };
            let found = probe(store.as_ref(), &url, &names, &extension).await?;
            (names, found)
        }
        false => {
            let names = cmd.table_partition_cols.clone();
            let found = probe_globs(store.as_ref(), &globs, &names, &extension).await?;
            (names, found)
        }
    };
    let is_irregular = options.has_mixed_names || !globs.is_empty();
    let partition_columns: Vec<PartitionColumn> = names
        .iter()
        .zip(&found.directories)
        .zip(Naming::infer_all(&names, &found.directories))
        .map(|((name, directories), naming)| {
            let values = directories.iter().filter_map(|directory| value_text(name, directory));
            let data_type = declared_type(cmd, name).unwrap_or_else(|| infer_type(name, values));
            let naming = Naming { is_regular: naming.is_regular && !is_irregular, ..naming };
            PartitionColumn { name: name.clone(), naming: naming.of_type(&data_type), data_type }
        })
        .collect();
    let newest = &found.files[found.files.len().saturating_sub(sample::FILES_MAX)..];
    if let Some(file_schema) = declared_file_schema(cmd, &names)? {
        let sample = Sample::of(state, &store, &format, &file_schema, newest).await;
        return Ok(Learned { partition_columns, file_schema, sample });
    }
    if found.files.is_empty() {
        return user_err!("{}", nothing_found(cmd, &url, &globs, &names, &found, &extension));
    }
    let files = match options.merge_schema && globs.is_empty() {
        true => data_files(store.as_ref(), &url, &extension).await?,
        false if options.merge_schema => found.files.clone(),
        false => newest.to_vec(),
    };
    let read = Reading { state, store: &store, format: &format, options };
    let schema = read.schema(files).await.map_err(|e| e.context(format!("table {}", cmd.name)))?;
    let file_schema = without_partition_columns(&schema, &names)?;
    let sample = Sample::of(state, &store, &format, &file_schema, newest).await;
    Ok(Learned { partition_columns, file_schema, sample })
}

/// Why the columns of a table cannot be found out, and what to do.
fn nothing_found(
    cmd: &CreateExternalTable,
    url: &Url,
    globs: &[Glob],
    names: &[String],
    found: &Probe,
    extension: &str,
) -> String {
    const REMEDY: &str = "declare the columns in CREATE EXTERNAL TABLE, or create the table after the first upload";
    let table = &cmd.name;
    if !globs.is_empty() {
        return format!("table {table}: no file is named {}; {REMEDY}", cmd.locations.join(" or "));
    }
    if url.to_file_path().is_ok_and(|path| !path.exists()) {
        return format!(
            "table {table}: {url} does not exist on the machine of the scheduler, where relative locations begin in its working directory; declare the columns in CREATE EXTERNAL TABLE if the first upload is still to come"
        );
    }
    let level = names.iter().zip(&found.directories).find(|(_, directories)| directories.is_empty());
    let missing = match level {
        Some((column, _)) => format!("no directories {column}=VALUE or VALUE for partition column {column:?}"),
        None => format!("no {extension} files in the newest of its directories"),
    };
    format!("table {table}: {url} has {missing}; {REMEDY}")
}

/// How the schemas of files are looked up.
struct Reading<'a> {
    state: &'a SessionState,
    store: &'a Arc<dyn ObjectStore>,
    format: &'a Arc<dyn FileFormat>,
    options: &'a TableOptions,
}

impl Reading<'_> {
    /// The columns of all of `files`, of which those that cannot be read are left out where the table says so.
    async fn schema(&self, files: Vec<ObjectMeta>) -> Result<SchemaRef> {
        let schemas = files.iter().map(|file| self.schema_of(file));
        let schemas = futures::stream::iter(schemas.collect::<Vec<_>>()).buffered(SCHEMAS_CONCURRENT);
        let schemas: Vec<(String, Result<SchemaRef>)> = schemas.collect().await;
        let mut read = vec![];
        let mut bad = None;
        for (file, schema) in schemas {
            match schema {
                Ok(schema) => read.push((file, schema)),
                Err(error) if self.options.skip_bad_files && is_of_file(&error) => bad = Some(error),
                Err(error) => return Err(error),
            }
        }
        match bad {
            Some(error) if read.is_empty() => Err(error.context("none of the files can be read")),
            _ => drift::merged(&read),
        }
    }

    async fn schema_of(&self, file: &ObjectMeta) -> (String, Result<SchemaRef>) {
        let schema = self.format.infer_schema(self.state, self.store, std::slice::from_ref(file)).await;
        let name = file.location.to_string();
        let schema = schema.map_err(|e| e.context(format!("reading the schema of {name}")));
        (name, schema)
    }
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
