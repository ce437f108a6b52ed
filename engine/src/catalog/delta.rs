//! Delta tables: the log in `_delta_log` says which files count. They are read as other Parquet files are.

use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::CreateExternalTable;
use deltalake_core::logstore::{StorageConfig, default_logstore};
use deltalake_core::table::state::DeltaTableState;
use deltalake_core::{DeltaTable, DeltaTableError};
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{ObjectMeta, ObjectStore};
use tokio::sync::Mutex;
use url::Url;

use super::factory::Learned;
use super::layout::{Naming, PartitionColumn};
use super::sample::Sample;
use crate::storage::directory_url;
use crate::user_err;

/// What `STORED AS` takes.
pub const FORMAT: &str = "DELTA";

/// How the columns of files are named; anything but `none` gives them other names than the table's.
const COLUMN_MAPPING: &str = "delta.columnMapping.mode";

/// What is known of a table's log.
#[derive(Debug)]
pub(super) struct DeltaLog {
    directory: Url,
    age_max: Duration,
    read: Mutex<Option<(Instant, DeltaTable)>>,
}

/// The columns of a table, as its log has them.
///
/// # Errors
/// When there is no log, or it asks for what is not read here.
pub(super) async fn learn(state: &SessionState, cmd: &CreateExternalTable, locations: &[String]) -> Result<Learned> {
    let name = &cmd.name;
    let [location] = locations else { return user_err!("table {name}: a Delta table has one LOCATION") };
    if !cmd.schema.fields().is_empty() || !cmd.table_partition_cols.is_empty() {
        return user_err!("table {name}: its columns and PARTITIONED BY are in the Delta log; leave them out");
    }
    let directory = directory_url(location)?;
    let store = state.runtime_env().object_store(ObjectStoreUrl::parse(&directory[..url::Position::BeforePath])?)?;
    let mut table = opened(&directory, Arc::clone(&store))?;
    table.load().await.map_err(|e| told(&directory, &e))?;
    let snapshot = table.snapshot().map_err(|e| told(&directory, &e))?;
    let metadata = snapshot.metadata();
    if let Some(mode) = metadata.configuration().get(COLUMN_MAPPING).filter(|mode| *mode != "none") {
        return user_err!(
            "table {name}: {directory} has {COLUMN_MAPPING} {mode:?}, which is not read here; rewrite it without"
        );
    }
    let schema = snapshot.snapshot().arrow_schema();
    let names = metadata.partition_columns();
    let column = |name: &String| {
        let data_type = schema.field_with_name(name)?.data_type().clone();
        let naming = Naming { is_regular: false, ..Naming::of_new(name, &data_type) };
        Ok(PartitionColumn { name: name.clone(), data_type, naming })
    };
    let partition_columns = names.iter().map(column).collect::<Result<Vec<_>>>()?;
    let kept: Vec<usize> = (0..schema.fields().len()).filter(|&i| !names.contains(schema.field(i).name())).collect();
    let file_schema = Arc::new(schema.project(&kept)?);
    let files = files_of(&directory, snapshot, &partition_columns)?;
    let files: Vec<ObjectMeta> = files.into_iter().map(|file| file.object_meta).collect();
    let format: Arc<dyn FileFormat> = Arc::new(ParquetFormat::default());
    let sample = Sample::of(state, &store, &format, &file_schema, &files).await;
    Ok(Learned { partition_columns, file_schema, sample })
}

fn opened(directory: &Url, store: Arc<dyn ObjectStore>) -> Result<DeltaTable> {
    let below = Arc::new(PrefixStore::new(Arc::clone(&store), Path::from_url_path(directory.path())?));
    Ok(DeltaTable::new(default_logstore(below, store, directory, &StorageConfig::default())))
}

fn told(directory: &Url, error: &DeltaTableError) -> datafusion::error::DataFusionError {
    crate::external(crate::UserError(format!("{directory} cannot be read as a Delta table: {error}")))
}

impl DeltaLog {
    /// `age_max`: for how long what was read of the log is taken for all that there is.
    pub fn new(directory: Url, age_max: Duration) -> Self {
        Self { directory, age_max, read: Mutex::new(None) }
    }

    /// The files that count now, with their partition values.
    ///
    /// # Errors
    /// When the log cannot be read, or a file has rows that were deleted by a deletion vector.
    pub async fn files(
        &self,
        store: &Arc<dyn ObjectStore>,
        columns: &[PartitionColumn],
    ) -> Result<Vec<PartitionedFile>> {
        let mut read = self.read.lock().await;
        let is_young = read.as_ref().is_some_and(|(at, _)| at.elapsed() < self.age_max);
        if !is_young {
            let at = Instant::now();
            let mut table = match read.take() {
                Some((_, table)) => table,
                None => opened(&self.directory, Arc::clone(store))?,
            };
            table.update_state().await.map_err(|e| told(&self.directory, &e))?;
            *read = Some((at, table));
        }
        let Some((_, table)) = read.as_ref() else { return Ok(vec![]) };
        let snapshot = table.snapshot().map_err(|e| told(&self.directory, &e))?;
        files_of(&self.directory, snapshot, columns)
    }
}

fn files_of(directory: &Url, snapshot: &DeltaTableState, columns: &[PartitionColumn]) -> Result<Vec<PartitionedFile>> {
    let root = Path::from_url_path(directory.path())?;
    let mut files = vec![];
    for file in snapshot.log_data().iter() {
        let path = file.object_store_path();
        if file.deletion_vector_descriptor().is_some() {
            return user_err!(
                "{directory}: rows of {path} are deleted by a deletion vector, which is not read here; REORG TABLE ... APPLY (PURGE) rewrites such files"
            );
        }
        let mut texts = file.partition_values_map();
        let values = columns.iter().map(|column| value(column, texts.remove(&column.name).flatten()));
        let location = Path::from_iter(root.parts().chain(path.parts()));
        let mut found = PartitionedFile::new("", file.size().unsigned_abs());
        // As it is: `new` would escape it once more.
        found.object_meta.location = location;
        files.push(found.with_partition_values(values.collect::<Result<_>>()?));
    }
    files.sort_by(|a, b| a.object_meta.location.cmp(&b.object_meta.location));
    Ok(files)
}

/// A partition value as the log writes it; an empty text is NULL.
fn value(column: &PartitionColumn, text: Option<String>) -> Result<ScalarValue> {
    match text.filter(|text| !text.is_empty()) {
        None => ScalarValue::try_new_null(&column.data_type),
        Some(text) if column.data_type == DataType::Utf8 => Ok(ScalarValue::Utf8(Some(text))),
        Some(text) => ScalarValue::try_from_string(text, &column.data_type),
    }
}
