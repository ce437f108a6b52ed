//! `CREATE EXTERNAL TABLE`: with `PARTITIONED BY` a [`LakeTable`], without it DataFusion's listing table.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::catalog::{Session, TableProvider, TableProviderFactory};
use datafusion::common::exec_datafusion_err;
use datafusion::datasource::listing_table_factory::ListingTableFactory;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::CreateExternalTable;

use super::LakeTable;
use super::lake_table::probe;
use super::layout::{PartitionColumn, infer_type};
use crate::storage::directory_url;
use crate::user_err;

/// Files of the newest directory whose schemas are merged when a table is created without columns.
const SCHEMA_FILES_MAX: usize = 4;

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct LakeTableFactory {
    listing: ListingTableFactory,
}

#[async_trait]
impl TableProviderFactory for LakeTableFactory {
    async fn create(&self, session: &dyn Session, cmd: &CreateExternalTable) -> Result<Arc<dyn TableProvider>> {
        if cmd.table_partition_cols.is_empty() {
            return self.listing.create(session, cmd).await;
        }
        Ok(Arc::new(create(session, cmd).await?))
    }
}

async fn create(session: &dyn Session, cmd: &CreateExternalTable) -> Result<LakeTable> {
    let [location] = cmd.locations.as_slice() else {
        return user_err!("table {}: a partitioned table has one LOCATION, got {}", cmd.name, cmd.locations.len());
    };
    let url = directory_url(location)?;
    let state = session
        .as_any()
        .downcast_ref::<SessionState>()
        .ok_or_else(|| exec_datafusion_err!("tables are created in a session of covey"))?;
    let Some(factory) = state.get_file_format_factory(&cmd.file_type) else {
        return user_err!("table {}: STORED AS {} is none of PARQUET, CSV, JSON, ARROW", cmd.name, cmd.file_type);
    };
    let format = factory.create(state, &cmd.options)?;
    let extension = match format.compression_type() {
        Some(compression) => format.get_ext_with_compression(&compression)?,
        None => format.get_ext(),
    };
    let extension = format!(".{}", extension.trim_start_matches('.'));
    let root = ObjectStoreUrl::parse(&url[..url::Position::BeforePath])?;
    let store = session.runtime_env().object_store(&root)?;
    let found = probe(store.as_ref(), &url, &cmd.table_partition_cols, &extension).await?;
    let partition_columns: Vec<PartitionColumn> = cmd
        .table_partition_cols
        .iter()
        .zip(&found.values)
        .map(|(name, values)| PartitionColumn {
            name: name.clone(),
            data_type: declared_type(cmd, name).unwrap_or_else(|| infer_type(name, values.iter().map(String::as_str))),
        })
        .collect();
    let file_schema = match declared_file_schema(cmd)? {
        Some(schema) => schema,
        None if url.to_file_path().is_ok_and(|path| !path.exists()) => {
            return user_err!(
                "table {}: {url} does not exist on the machine of the scheduler, where relative locations begin in its working directory; declare the columns in CREATE EXTERNAL TABLE if the first upload is still to come",
                cmd.name
            );
        }
        None if found.files.is_empty() => {
            let level = cmd.table_partition_cols.iter().zip(&found.values).find(|(_, values)| values.is_empty());
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
                .infer_schema(session, &store, newest)
                .await
                .map_err(|e| e.context(format!("table {}: reading the schema of {}", cmd.name, newest[0].location)))?;
            without_partition_columns(&schema, &cmd.table_partition_cols)?
        }
    };
    Ok(LakeTable::new(url, extension, format, partition_columns, file_schema, cmd.definition.clone()))
}

fn declared_type(cmd: &CreateExternalTable, column: &str) -> Option<DataType> {
    cmd.schema.field_with_unqualified_name(column).ok().map(|field| field.data_type().clone())
}

fn declared_file_schema(cmd: &CreateExternalTable) -> Result<Option<SchemaRef>> {
    let schema = cmd.schema.inner();
    let declared = schema.fields().iter().any(|field| !cmd.table_partition_cols.contains(field.name()));
    if declared { without_partition_columns(schema, &cmd.table_partition_cols).map(Some) } else { Ok(None) }
}

/// A file may repeat its partition columns; the directory decides.
fn without_partition_columns(schema: &SchemaRef, partition_columns: &[String]) -> Result<SchemaRef> {
    let kept: Vec<usize> =
        (0..schema.fields().len()).filter(|&i| !partition_columns.contains(schema.field(i).name())).collect();
    Ok(Arc::new(schema.project(&kept)?))
}
