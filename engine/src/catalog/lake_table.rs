//! A table whose files lie in directories of partition values, or where patterns or a log say.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::{Statistics, project_schema};
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
use object_store::ObjectStore;
use url::Url;

use super::calendar::{Calendar, DATE};
use super::delta::DeltaLog;
use super::glob::Glob;
use super::layout::PartitionColumn;
use super::lister::{Lister, ListingCache};
use super::listing::Listing;
use super::sample::Sample;
use super::store::CatalogStore;
use crate::operators::{SkipBadFilesExec, write_of};

/// Times that a directory is listed while others publish what they wrote: what is remembered of it, and afresh.
const LISTINGS_MAX: usize = 2;

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
}

/// What says which files a table has.
#[derive(Debug)]
pub(super) enum Files {
    /// Whatever lies below the target's directory.
    Directory,
    Globs(Vec<Glob>),
    Delta(DeltaLog),
}

/// What a table is opened from.
pub(super) struct Parts {
    pub target: WriteTarget,
    pub files: Files,
    pub format: Arc<dyn FileFormat>,
    pub file_schema: SchemaRef,
    pub definition: Option<String>,
    pub listing_age_max: Duration,
    pub skip_bad_files: bool,
    pub sample: Option<Sample>,
    pub writes: Arc<CatalogStore>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct LakeTable {
    target: WriteTarget,
    files: Files,
    format: Arc<dyn FileFormat>,
    schema: TableSchema,
    calendar: Option<Calendar>,
    has_date: bool,
    definition: Option<String>,
    skip_bad_files: bool,
    sample: Option<Sample>,
    listings: ListingCache,
    writes: Arc<CatalogStore>,
}

impl LakeTable {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { target, files, format, file_schema, definition, listing_age_max, skip_bad_files, sample, writes } =
            parts;
        let calendar = Calendar::of(&target.partition_columns);
        let date = calendar.as_ref().and_then(|calendar| calendar.schema().fields().last()).cloned();
        let date = date.filter(|_| file_schema.field_with_name(DATE).is_err());
        let has_date = date.is_some();
        let fields = target.partition_columns.iter().map(|column| Arc::new(column.field()));
        let fields: Vec<FieldRef> = fields.chain(date).collect();
        let schema = TableSchema::builder(file_schema).with_table_partition_cols(fields).build();
        let listings = ListingCache::new(listing_age_max);
        Self { target, files, format, schema, calendar, has_date, definition, skip_bad_files, sample, listings, writes }
    }

    /// The column that is made of others, and so cannot be written.
    pub fn made_column(&self) -> Option<&str> {
        self.has_date.then_some(DATE)
    }

    /// Whether the directory of a file decides a filter.
    fn is_decided_by_directories(&self, filter: &Expr) -> bool {
        let columns = filter.column_refs();
        let partitions = self.schema.table_partition_cols();
        let is_partition = |name: &str| partitions.iter().any(|partition| partition.name() == name);
        // A filter without columns is decided at no level of directories.
        !filter.is_volatile() && !columns.is_empty() && columns.iter().all(|column| is_partition(&column.name))
    }

    /// Where and how rows are added; `None` where there is no directory for them.
    pub fn target(&self) -> Option<&WriteTarget> {
        matches!(self.files, Files::Directory).then_some(&self.target)
    }

    fn root(&self) -> Result<ObjectStoreUrl> {
        ObjectStoreUrl::parse(&self.target.directory[..url::Position::BeforePath])
    }

    /// # Errors
    /// When no store can be made for the table's URL.
    pub fn store(&self, session: &dyn Session) -> Result<Arc<dyn ObjectStore>> {
        session.runtime_env().object_store(self.root()?)
    }

    pub fn format(&self) -> &Arc<dyn FileFormat> {
        &self.format
    }

    /// Reads files of the table as they are, with the columns `file_schema`, and all columns that can be written.
    ///
    /// # Errors
    /// Those of the format.
    pub async fn scan_files(
        &self,
        session: &dyn Session,
        groups: Vec<FileGroup>,
        file_schema: SchemaRef,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let columns = self.schema.table_partition_cols().iter().take(self.target.partition_columns.len());
        let schema =
            TableSchema::builder(file_schema).with_table_partition_cols(columns.cloned().collect::<Vec<_>>()).build();
        let without_made = |mut file: PartitionedFile| {
            file.partition_values.truncate(self.target.partition_columns.len());
            file
        };
        let groups = groups.into_iter().map(|group| group.into_inner().into_iter().map(without_made).collect());
        let config = FileScanConfigBuilder::new(self.root()?, self.format.file_source(schema.clone()))
            .with_file_groups(groups.collect())
            .with_statistics(Statistics::new_unknown(schema.table_schema()))
            .build();
        self.format.create_physical_plan(session, config).await
    }

    /// The files that a query with these filters reads: of each write to the table all or none.
    ///
    /// # Errors
    /// Those of the store, and of directories that are not what they should be.
    pub async fn files(&self, session: &dyn Session, filters: &[Expr]) -> Result<Vec<PartitionedFile>> {
        let store = self.store(session)?;
        let filters = filters.iter().filter(|filter| self.is_decided_by_directories(filter));
        let filters: Vec<Expr> = filters.cloned().collect();
        let (calendar, has_date) = (self.calendar.as_ref(), self.has_date);
        let mut listings = 0;
        loop {
            listings += 1;
            let lister = Lister::new(store.as_ref(), &self.listings, listings > 1, &self.writes);
            let listing = Listing { target: &self.target, calendar, has_date, session, lister: &lister };
            let mut files = match &self.files {
                Files::Directory => listing.files(&filters).await?,
                Files::Globs(globs) => listing.files_of(globs, &filters).await?,
                Files::Delta(log) => {
                    return listing.filtered(listing.dated(log.files(&store, listing.columns()).await?), &filters);
                }
            };
            let before = lister.before().unwrap_or_else(|| self.writes.now());
            let listed = files.iter().filter_map(|file| write_of(&file.object_meta.location)).collect();
            let (directory, is_last) = (self.target.directory.as_str(), listings == LISTINGS_MAX);
            if let Some(hidden) = self.writes.hidden(&before, directory, listed, is_last).await? {
                files.retain(|file| !hidden.contains(&file.object_meta));
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
        let pushdown = |filter: &&Expr| {
            if self.is_decided_by_directories(filter) {
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
        let files = self.files(session, filters).await?;
        if files.is_empty() {
            return Ok(Arc::new(EmptyExec::new(project_schema(&self.schema(), projection)?)));
        }
        let bytes = files.iter().map(|file| file.object_meta.size).sum();
        let statistics = match &self.sample {
            Some(sample) => sample.statistics(&self.schema(), bytes),
            None => Statistics::new_unknown(&self.schema()),
        };
        let groups = FileGroup::new(files).split_files(session.config().target_partitions());
        let source = self.format.file_source(self.schema.clone());
        let config = FileScanConfigBuilder::new(self.root()?, source)
            .with_file_groups(groups)
            .with_statistics(statistics)
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        let scan = self.format.create_physical_plan(session, config).await?;
        if !self.skip_bad_files {
            return Ok(scan);
        }
        let options = session.config_options();
        let split = scan.repartitioned(options.execution.target_partitions, options)?;
        Ok(Arc::new(SkipBadFilesExec::new(split.unwrap_or(scan))))
    }
}
