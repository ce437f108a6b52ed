//! A table whose files lie in directories of partition values.

use std::collections::BTreeMap;
use std::sync::Arc;

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
use super::layout::PartitionColumn;
use super::listing::Listing;
use super::store::CatalogStore;
use crate::operators::write_of;

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
}

/// See the module's documentation.
#[derive(Debug)]
pub struct LakeTable {
    target: WriteTarget,
    format: Arc<dyn FileFormat>,
    schema: TableSchema,
    calendar: Option<Calendar>,
    has_date: bool,
    definition: Option<String>,
    writes: Arc<CatalogStore>,
}

impl LakeTable {
    pub(super) fn new(
        target: WriteTarget,
        format: Arc<dyn FileFormat>,
        file_schema: SchemaRef,
        definition: Option<String>,
        writes: Arc<CatalogStore>,
    ) -> Self {
        let calendar = Calendar::of(&target.partition_columns);
        let date = calendar.as_ref().and_then(|calendar| calendar.schema().fields().last()).cloned();
        let date = date.filter(|_| file_schema.field_with_name(DATE).is_err());
        let has_date = date.is_some();
        let fields = target.partition_columns.iter().map(|column| Arc::new(column.field()));
        let fields: Vec<FieldRef> = fields.chain(date).collect();
        let schema = TableSchema::builder(file_schema).with_table_partition_cols(fields).build();
        Self { target, format, schema, calendar, has_date, definition, writes }
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

    /// Where and how rows are added.
    pub fn target(&self) -> &WriteTarget {
        &self.target
    }

    fn store(&self, session: &dyn Session) -> Result<(Arc<dyn ObjectStore>, ObjectStoreUrl)> {
        let root = ObjectStoreUrl::parse(&self.target.directory[..url::Position::BeforePath])?;
        Ok((session.runtime_env().object_store(&root)?, root))
    }

    /// The files that a query with these filters reads: of each write to the table all or none.
    async fn visible_files(
        &self,
        session: &dyn Session,
        store: &dyn ObjectStore,
        filters: &[Expr],
    ) -> Result<Vec<PartitionedFile>> {
        let filters = filters.iter().filter(|filter| self.is_decided_by_directories(filter));
        let filters: Vec<Expr> = filters.cloned().collect();
        let calendar = self.calendar.as_ref();
        let listing = Listing { target: &self.target, calendar, has_date: self.has_date, session, store };
        let mut listings = 0;
        loop {
            listings += 1;
            let before = self.writes.now();
            let mut files = listing.files(&filters).await?;
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
