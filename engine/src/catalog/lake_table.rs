//! A table whose files lie in directories of partition values.

use std::collections::HashSet;
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

/// LIST requests under way at once for one scan.
const LISTS_CONCURRENT: usize = 16;

/// See the module's documentation.
#[derive(Debug)]
pub struct LakeTable {
    url: Url,
    /// Part of the name that a data file ends with.
    extension: String,
    format: Arc<dyn FileFormat>,
    partition_columns: Vec<PartitionColumn>,
    schema: TableSchema,
    definition: Option<String>,
}

/// A directory at some level of the walk, and the partition values that lead to it.
#[derive(Debug, Clone)]
struct Level {
    path: Path,
    values: Vec<ScalarValue>,
}

impl LakeTable {
    pub fn new(
        url: Url,
        extension: String,
        format: Arc<dyn FileFormat>,
        partition_columns: Vec<PartitionColumn>,
        file_schema: SchemaRef,
        definition: Option<String>,
    ) -> Self {
        let fields: Vec<FieldRef> = partition_columns.iter().map(|column| Arc::new(column.field())).collect();
        let schema = TableSchema::builder(file_schema).with_table_partition_cols(fields).build();
        Self { url, extension, format, partition_columns, schema, definition }
    }

    fn store(&self, session: &dyn Session) -> Result<(Arc<dyn ObjectStore>, ObjectStoreUrl)> {
        let root = ObjectStoreUrl::parse(&self.url[..url::Position::BeforePath])?;
        Ok((session.runtime_env().object_store(&root)?, root))
    }

    /// The directories whose values satisfy `filters`, each decided as soon as its columns are known.
    async fn walk(&self, session: &dyn Session, store: &dyn ObjectStore, filters: &[Expr]) -> Result<Vec<Level>> {
        let mut levels = vec![Level { path: Path::from_url_path(self.url.path())?, values: vec![] }];
        for depth in 0..self.partition_columns.len() {
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
        let column = &self.partition_columns[depth];
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
        !hidden && meta.size > 0 && meta.location.as_ref().ends_with(&self.extension)
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
        let partitions: HashSet<&str> = self.partition_columns.iter().map(|column| column.name.as_str()).collect();
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
        let levels = self.walk(session, store.as_ref(), filters).await?;
        let files = self.files(store.as_ref(), levels).await?;
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

/// What creating a table needs to know of its directories: the values on one path down for each level, and the
/// files at its end.
pub(super) struct Probe {
    pub values: Vec<Vec<String>>,
    pub files: Vec<ObjectMeta>,
}

/// Most directories that are looked into for files when a table is created.
const PROBED_DIRECTORIES_MAX: usize = 256;

/// Looks for the newest directory with files: at every level the last first, numbers before others. An upload may be
/// under way, and a lake may still be empty at any level; then what is told is the way to the newest directory.
pub(super) async fn probe(store: &dyn ObjectStore, url: &Url, columns: &[String], extension: &str) -> Result<Probe> {
    let mut newest: Option<Probe> = None;
    let mut values: Vec<Vec<String>> = vec![];
    let mut waiting = vec![(0, Path::from_url_path(url.path())?)];
    for _ in 0..PROBED_DIRECTORIES_MAX {
        let Some((level, path)) = waiting.pop() else { break };
        values.truncate(level);
        if let Some(column) = columns.get(level) {
            let below = partitions(store, &path, column).await?;
            values.push(below.iter().map(|(text, _)| text.clone()).collect());
            waiting.extend(below.into_iter().map(|(_, path)| (level + 1, path)));
            if !values[level].is_empty() {
                continue;
            }
        }
        let files = if level == columns.len() { data_files(store, &path, extension).await? } else { vec![] };
        let is_found = !files.is_empty();
        values.resize(columns.len(), vec![]);
        let found = Probe { values: values.clone(), files };
        if is_found {
            return Ok(found);
        }
        newest.get_or_insert(found);
    }
    Ok(newest.unwrap_or_else(|| Probe { values: vec![vec![]; columns.len()], files: vec![] }))
}

/// The directories of a partition column and their values, the newest last.
async fn partitions(store: &dyn ObjectStore, path: &Path, column: &str) -> Result<Vec<(String, Path)>> {
    let found = store.list_with_delimiter(Some(path)).await?.common_prefixes;
    let with_value = |path: Path| {
        let text = path.filename().and_then(|name| value_text(column, name))?.to_string();
        Some((text, path))
    };
    let mut below: Vec<(String, Path)> = found.into_iter().filter_map(with_value).collect();
    below.sort_by(|a, b| (is_number(&a.0), &a.1).cmp(&(is_number(&b.0), &b.1)));
    Ok(below)
}

async fn data_files(store: &dyn ObjectStore, path: &Path, extension: &str) -> Result<Vec<ObjectMeta>> {
    let mut files: Vec<ObjectMeta> = store.list(Some(path)).try_collect().await?;
    files.retain(|meta| meta.size > 0 && meta.location.as_ref().ends_with(extension));
    files.sort_by(|a, b| a.location.cmp(&b.location));
    Ok(files)
}
