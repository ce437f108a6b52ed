//! A table whose files lie in directories of partition values.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::compute::and_kleene;
use datafusion::arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::{DFSchema, ScalarValue, Statistics, project_schema};
use datafusion::datasource::TableProvider;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::Result;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use url::Url;

use super::layout::{PartitionColumn, is_number, parse_value, value_text};
use super::store::CatalogStore;
use crate::operators::write_of;

/// LIST requests under way at once for one scan.
const LISTS_CONCURRENT: usize = 16;

/// Times that a directory is listed while others publish what they wrote.
const LISTINGS_MAX: usize = 4;

/// Where files of a table are, and how new ones are made.
#[derive(Debug, Clone)]
pub struct WriteTarget {
    pub directory: Url,
    /// As `STORED AS` has it.
    pub format: String,
    /// Part of the name that a data file ends with.
    pub extension: String,
    /// Of the format.
    pub options: BTreeMap<String, String>,
    pub partition_columns: Vec<PartitionColumn>,
    /// Whether the files are the warehouse's own.
    pub managed: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct LakeTable {
    target: WriteTarget,
    format: Arc<dyn FileFormat>,
    schema: TableSchema,
    definition: Option<String>,
    writes: Arc<CatalogStore>,
}

/// A directory at some level of the walk, and the partition values that lead to it.
#[derive(Debug, Clone)]
struct Level {
    path: Path,
    values: Vec<ScalarValue>,
}

impl LakeTable {
    pub(super) fn new(
        target: WriteTarget,
        format: Arc<dyn FileFormat>,
        file_schema: SchemaRef,
        definition: Option<String>,
        writes: Arc<CatalogStore>,
    ) -> Self {
        let fields: Vec<FieldRef> = target.partition_columns.iter().map(|column| Arc::new(column.field())).collect();
        let schema = TableSchema::builder(file_schema).with_table_partition_cols(fields).build();
        Self { target, format, schema, definition, writes }
    }

    /// Where and how rows are added.
    pub fn target(&self) -> &WriteTarget {
        &self.target
    }

    fn store(&self, session: &dyn Session) -> Result<(Arc<dyn ObjectStore>, ObjectStoreUrl)> {
        let root = ObjectStoreUrl::parse(&self.target.directory[..url::Position::BeforePath])?;
        Ok((session.runtime_env().object_store(&root)?, root))
    }

    /// The directories whose values satisfy `filters`, each decided as soon as its columns are known.
    async fn walk(&self, session: &dyn Session, store: &dyn ObjectStore, filters: &[Expr]) -> Result<Vec<Level>> {
        let mut levels = vec![Level { path: Path::from_url_path(self.target.directory.path())?, values: vec![] }];
        for depth in 0..self.target.partition_columns.len() {
            let below: Vec<Vec<Level>> = futures::stream::iter(levels)
                .map(|level| self.descend(store, level, depth))
                .buffered(LISTS_CONCURRENT)
                .try_collect()
                .await?;
            levels = self.prune(session, below.concat(), filters, depth + 1)?;
        }
        Ok(levels)
    }

    async fn descend(&self, store: &dyn ObjectStore, level: Level, depth: usize) -> Result<Vec<Level>> {
        let column = &self.target.partition_columns[depth];
        let mut below = vec![];
        for path in store.list_with_delimiter(Some(&level.path)).await?.common_prefixes {
            let Some(text) = path.filename().and_then(|name| value_text(&column.name, name)) else {
                continue;
            };
            let mut values = level.values.clone();
            values.push(parse_value(column, text, &path)?);
            below.push(Level { path, values });
        }
        Ok(below)
    }

    /// Keeps the levels for which no filter over the first `n_known` partition columns is false or NULL.
    fn prune(&self, session: &dyn Session, levels: Vec<Level>, filters: &[Expr], n_known: usize) -> Result<Vec<Level>> {
        let known: Vec<FieldRef> = self.schema.table_partition_cols().iter().take(n_known).cloned().collect();
        let newest = known.last().map(|field| field.name().clone()).unwrap_or_default();
        let names: HashSet<&str> = known.iter().map(|field| field.name().as_str()).collect();
        let decidable: Vec<&Expr> = filters
            .iter()
            .filter(|filter| {
                let columns = filter.column_refs();
                // Filters over fewer columns were decided at an earlier level.
                columns.iter().any(|column| column.name == newest)
                    && columns.iter().all(|column| names.contains(column.name.as_str()))
            })
            .collect();
        if decidable.is_empty() || levels.is_empty() {
            return Ok(levels);
        }
        let schema = Arc::new(Schema::new(known));
        let columns = (0..n_known)
            .map(|i| ScalarValue::iter_to_array(levels.iter().map(|level| level.values[i].clone())))
            .collect::<Result<Vec<_>>>()?;
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns)?;
        let df_schema = DFSchema::try_from(schema)?;
        let mut keep = None;
        for filter in decidable {
            let predicate = session.create_physical_expr(filter.clone(), &df_schema)?;
            let decided = predicate.evaluate(&batch)?.into_array(batch.num_rows())?;
            let decided = decided.as_boolean().clone();
            keep = Some(match keep {
                None => decided,
                Some(keep) => and_kleene(&keep, &decided)?,
            });
        }
        let Some(keep) = keep else { return Ok(levels) };
        Ok(levels
            .into_iter()
            .zip(keep.iter())
            .filter(|(_, keep)| *keep == Some(true))
            .map(|(level, _)| level)
            .collect())
    }

    async fn files(&self, store: &dyn ObjectStore, levels: Vec<Level>) -> Result<Vec<PartitionedFile>> {
        let listed: Vec<Vec<PartitionedFile>> = futures::stream::iter(levels)
            .map(|level| async move {
                let found: Vec<ObjectMeta> = store.list(Some(&level.path)).try_collect().await?;
                let data = found.into_iter().filter(|meta| self.is_data(&level.path, meta));
                let file = |meta| PartitionedFile::new_from_meta(meta).with_partition_values(level.values.clone());
                let mut files: Vec<PartitionedFile> = data.map(file).collect();
                files.sort_by(|a, b| a.object_meta.location.cmp(&b.object_meta.location));
                Ok::<_, datafusion::error::DataFusionError>(files)
            })
            .buffered(LISTS_CONCURRENT)
            .try_collect()
            .await?;
        Ok(listed.concat())
    }

    fn is_data(&self, directory: &Path, meta: &ObjectMeta) -> bool {
        let hidden = meta
            .location
            .prefix_match(directory)
            .is_some_and(|mut parts| parts.any(|part| part.as_ref().starts_with(['_', '.'])));
        !hidden && meta.size > 0 && meta.location.as_ref().ends_with(&self.target.extension)
    }

    /// The files that a query with these filters reads: of each write to the table all or none.
    async fn visible_files(
        &self,
        session: &dyn Session,
        store: &dyn ObjectStore,
        filters: &[Expr],
    ) -> Result<Vec<PartitionedFile>> {
        let mut listings = 0;
        loop {
            listings += 1;
            let before = self.writes.now();
            let levels = self.walk(session, store, filters).await?;
            let mut files = self.files(store, levels).await?;
            let listed = files.iter().filter_map(|file| write_of(&file.object_meta.location)).collect();
            if let Some(hidden) = self.writes.hidden_writes(&before, listed, listings == LISTINGS_MAX).await? {
                files.retain(|file| write_of(&file.object_meta.location).is_none_or(|write| !hidden.contains(write)));
                return Ok(files);
            }
        }
    }
}

#[async_trait]
impl TableProvider for LakeTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.schema.table_schema())
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn get_table_definition(&self) -> Option<&str> {
        self.definition.as_deref()
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let partitions: HashSet<&str> =
            self.target.partition_columns.iter().map(|column| column.name.as_str()).collect();
        let decided_by_directories = |filter: &&Expr| {
            let columns = filter.column_refs();
            // A filter without columns is decided at no level of directories.
            let in_directories = columns.iter().all(|column| partitions.contains(column.name.as_str()));
            !filter.is_volatile() && !columns.is_empty() && in_directories
        };
        let pushdown = |filter: &&Expr| {
            if decided_by_directories(filter) {
                TableProviderFilterPushDown::Exact
            } else {
                TableProviderFilterPushDown::Inexact
            }
        };
        Ok(filters.iter().map(pushdown).collect())
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let (store, root) = self.store(session)?;
        let files = self.visible_files(session, store.as_ref(), filters).await?;
        if files.is_empty() {
            return Ok(Arc::new(EmptyExec::new(project_schema(&self.schema(), projection)?)));
        }
        let groups = FileGroup::new(files).split_files(session.config().target_partitions());
        let source = self.format.file_source(self.schema.clone());
        let config = FileScanConfigBuilder::new(root, source)
            .with_file_groups(groups)
            .with_statistics(Statistics::new_unknown(&self.schema()))
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        self.format.create_physical_plan(session, config).await
    }
}

/// What creating a table needs to know of its directories: their names on one path down for each level, the newest last,
/// and the files at its end.
pub(super) struct Probe {
    pub directories: Vec<Vec<String>>,
    pub files: Vec<ObjectMeta>,
}

/// Most levels of directories of a table.
const PARTITION_COLUMNS_MAX: usize = 64;

/// Most directories that are looked into for files when a table is created.
const PROBED_DIRECTORIES_MAX: usize = 256;

/// Looks for the newest directory with files: at every level the last first, numbers before others. An upload may be
/// under way, and a lake may still be empty at any level; then what is told is the way to the newest directory.
pub(super) async fn probe(store: &dyn ObjectStore, url: &Url, columns: &[String], extension: &str) -> Result<Probe> {
    let mut newest: Option<Probe> = None;
    let mut directories: Vec<Vec<String>> = vec![];
    let mut waiting = vec![(0, Path::from_url_path(url.path())?)];
    for _ in 0..PROBED_DIRECTORIES_MAX {
        let Some((level, path)) = waiting.pop() else { break };
        directories.truncate(level);
        if let Some(column) = columns.get(level) {
            let below = partitions(store, &path, column).await?;
            directories.push(below.iter().filter_map(|path| path.filename().map(ToString::to_string)).collect());
            waiting.extend(below.into_iter().map(|path| (level + 1, path)));
            if !directories[level].is_empty() {
                continue;
            }
        }
        let files = if level == columns.len() { data_files(store, &path, extension).await? } else { vec![] };
        let is_found = !files.is_empty();
        directories.resize(columns.len(), vec![]);
        let found = Probe { directories: directories.clone(), files };
        if is_found {
            return Ok(found);
        }
        newest.get_or_insert(found);
    }
    Ok(newest.unwrap_or_else(|| Probe { directories: vec![vec![]; columns.len()], files: vec![] }))
}

/// The directories of a partition column, the newest last.
async fn partitions(store: &dyn ObjectStore, path: &Path, column: &str) -> Result<Vec<Path>> {
    fn text<'a>(column: &str, path: &'a Path) -> Option<&'a str> {
        path.filename().and_then(|name| value_text(column, name))
    }
    let mut below = store.list_with_delimiter(Some(path)).await?.common_prefixes;
    below.retain(|path| text(column, path).is_some());
    below.sort_by_cached_key(|path| (text(column, path).is_some_and(is_number), path.clone()));
    Ok(below)
}

/// The partition columns of a table that was created without naming them: those in the names of its directories.
pub(super) async fn named_partitions(store: &dyn ObjectStore, url: &Url) -> Result<Vec<String>> {
    let mut path = Path::from_url_path(url.path())?;
    let mut columns: Vec<String> = vec![];
    while columns.len() < PARTITION_COLUMNS_MAX {
        let below = store.list_with_delimiter(Some(&path)).await?.common_prefixes;
        let mut named = below.into_iter().filter_map(|path| {
            let (column, _) = path.filename()?.split_once('=')?;
            let column = (!column.is_empty() && !column.starts_with(['_', '.'])).then(|| column.to_string())?;
            Some((column, path))
        });
        let Some((column, next)) = named.next_back() else { break };
        columns.push(column);
        path = next;
    }
    Ok(columns)
}

async fn data_files(store: &dyn ObjectStore, path: &Path, extension: &str) -> Result<Vec<ObjectMeta>> {
    let mut files: Vec<ObjectMeta> = store.list(Some(path)).try_collect().await?;
    files.retain(|meta| meta.size > 0 && meta.location.as_ref().ends_with(extension));
    files.sort_by(|a, b| a.location.cmp(&b.location));
    Ok(files)
}
