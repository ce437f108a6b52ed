//! Writes the rows of its input into files of a table, each into the directory of its partition values. The files are
//! staged: whoever runs the job publishes them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, UInt32Array, UInt64Array};
use datafusion::arrow::compute::{cast, take_record_batch};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt64Type};
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::StreamExt;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use url::Url;
use uuid::Uuid;
use uuid::fmt::Simple;

use super::at_end::{one_batch, properties_over};
use crate::catalog::{Calendar, Naming, PartitionColumn, date_of};
use crate::coordinator::ExecutorServices;
use crate::encoder::Encoder;
use crate::staging::{Staged, StagingFile};
use crate::{external, user_err};

/// Files that a task has open at once; where rows are for more directories, the one that waits longest is ended.
const OPEN_FILES_MAX: usize = 256;

/// Bytes of unfinished row groups of a task; beyond them the largest is written.
const IN_PROGRESS_BYTES_MAX: usize = 256 << 20;

/// A file that has grown so large is ended and another begun, so that scans can share the work.
const FILE_BYTES_MAX: usize = 512 << 20;

/// What is written where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteSpec {
    /// Names the write in its files: a UUID without hyphens.
    pub write: String,
    /// The URL of the table's directory.
    pub directory: String,
    /// The one file that all rows go to, where it has a name already.
    pub file: Option<String>,
    pub format: String,
    pub extension: String,
    pub options: BTreeMap<String, String>,
    /// Columns that become directories, in their order, and how those are named.
    pub partition_columns: Vec<(String, Naming)>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct WriteExec {
    spec: WriteSpec,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl WriteExec {
    pub fn new(spec: WriteSpec, input: Arc<dyn ExecutionPlan>) -> Self {
        let properties = properties_over(&input, output_schema());
        Self { spec, input, properties, metrics: ExecutionPlanMetricsSet::new() }
    }

    pub fn spec(&self) -> &WriteSpec {
        &self.spec
    }
}

/// One row for each file.
fn output_schema() -> SchemaRef {
    let fields = vec![Field::new("staged", DataType::Utf8, false), Field::new("rows", DataType::UInt64, false)];
    Arc::new(Schema::new(fields))
}

/// The files in rows of a [`WriteExec`], and how many rows went into them.
///
/// # Errors
/// When they are not what a [`WriteExec`] gives.
pub fn written(batches: &[RecordBatch]) -> Result<(Vec<Staged>, u64)> {
    let (mut files, mut rows) = (vec![], 0);
    for batch in batches {
        for staged in batch.column(0).as_string::<i32>().iter().flatten() {
            files.push(serde_json::from_str(staged).map_err(external)?);
        }
        rows += batch.column(1).as_primitive::<UInt64Type>().values().iter().sum::<u64>();
    }
    Ok((files, rows))
}

/// The name of the `n`-th file of a task of a write. Tasks do not know which of the plan's partitions they have, so they
/// tell themselves apart.
fn file_name(spec: &WriteSpec, task: &Uuid, n: usize) -> String {
    format!("part-{n:05}-{}-{}{}", spec.write, task.simple(), spec.extension)
}

/// The write that a file is of, where its name tells.
pub fn write_of(path: &Path) -> Option<&str> {
    let mut parts = path.filename()?.strip_prefix("part-")?.split('-').skip(1);
    parts.next().filter(|write| write.len() == Simple::LENGTH && write.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

impl DisplayAs for WriteExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let columns: Vec<&str> = self.spec.partition_columns.iter().map(|(name, _)| name.as_str()).collect();
        write!(f, "WriteExec: format={}, partitioned_by=[{}]", self.spec.format, columns.join(", "))
    }
}

impl ExecutionPlan for WriteExec {
    fn name(&self) -> &str {
        "WriteExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(self.spec.clone(), Arc::clone(&children[0]))))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let files = write(self.spec.clone(), partition, input, context);
        Ok(one_batch(output_schema(), &self.metrics, partition, files))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

async fn write(
    spec: WriteSpec,
    partition: usize,
    mut input: SendableRecordBatchStream,
    context: Arc<TaskContext>,
) -> Result<RecordBatch> {
    let splitter = Splitter::try_new(&spec, &input.schema())?;
    let mut files = Files::try_new(spec, partition, Arc::clone(&splitter.file_schema), &context)?;
    while let Some(batch) = input.next().await {
        for (directory, rows) in splitter.split(&batch?)? {
            files.write(directory, &rows).await?;
        }
    }
    files.finish().await
}

/// Divides rows by their directories.
struct Splitter {
    partition_columns: Vec<(usize, String, Naming)>,
    file_columns: Vec<usize>,
    file_schema: SchemaRef,
    converter: Option<RowConverter>,
    /// Whether the first three partition columns are year, month and day.
    is_calendar: bool,
}

impl Splitter {
    fn try_new(spec: &WriteSpec, schema: &SchemaRef) -> Result<Self> {
        let partition_columns = spec
            .partition_columns
            .iter()
            .map(|(name, naming)| Ok((schema.index_of(name)?, name.clone(), *naming)))
            .collect::<Result<Vec<_>>>()?;
        let is_file_column = |i: &usize| partition_columns.iter().all(|(column, ..)| column != i);
        let file_columns: Vec<usize> = (0..schema.fields().len()).filter(is_file_column).collect();
        let file_schema = Arc::new(schema.project(&file_columns)?);
        let sort_fields = partition_columns.iter().map(|(i, ..)| SortField::new(schema.field(*i).data_type().clone()));
        let converter = match partition_columns.is_empty() {
            true => None,
            false => Some(RowConverter::new(sort_fields.collect())?),
        };
        let columns = spec.partition_columns.iter().map(|(name, naming)| {
            let data_type = schema.field_with_name(name)?.data_type().clone();
            Ok(PartitionColumn { name: name.clone(), data_type, naming: *naming })
        });
        let is_calendar = Calendar::of(&columns.collect::<Result<Vec<_>>>()?).is_some();
        Ok(Self { partition_columns, file_columns, file_schema, converter, is_calendar })
    }

    /// The directories below the table's, and the rows for each without the partition columns.
    fn split(&self, batch: &RecordBatch) -> Result<Vec<(Vec<String>, RecordBatch)>> {
        let rows = batch.project(&self.file_columns)?;
        let Some(converter) = &self.converter else { return Ok(vec![(vec![], rows)]) };
        if batch.num_rows() == 0 {
            return Ok(vec![]);
        }
        let columns: Vec<ArrayRef> =
            self.partition_columns.iter().map(|(i, ..)| Arc::clone(batch.column(*i))).collect();
        let keys = converter.convert_columns(&columns)?;
        let mut groups: HashMap<&[u8], Vec<u32>> = HashMap::new();
        for (i, key) in keys.iter().enumerate() {
            groups.entry(key.data()).or_default().push(i as u32);
        }
        let mut groups: Vec<Vec<u32>> = groups.into_values().collect();
        // In the order in which they come: the same rows give the same files.
        groups.sort_unstable();
        let texts = columns.iter().map(|column| Ok(cast(column, &DataType::Utf8)?)).collect::<Result<Vec<_>>>()?;
        groups
            .into_iter()
            .map(|group| {
                self.check_day(&texts, group[0] as usize)?;
                let directory = self.directory(&texts, group[0] as usize);
                let rows = if group.len() == batch.num_rows() {
                    rows.clone()
                } else {
                    take_record_batch(&rows, &UInt32Array::from(group))?
                };
                Ok((directory, rows))
            })
            .collect()
    }

    /// # Errors
    /// When the directories are those of a calendar and the row is of no day: its table could not be read any more.
    fn check_day(&self, texts: &[ArrayRef], row: usize) -> Result<()> {
        let Some(columns) = texts.get(..3).filter(|_| self.is_calendar) else { return Ok(()) };
        let values: Vec<ScalarValue> =
            columns.iter().map(|texts| ScalarValue::try_from_array(texts, row)).collect::<Result<_>>()?;
        if values.iter().any(ScalarValue::is_null) || !date_of(&values).is_null() {
            return Ok(());
        }
        user_err!(
            "a row with year {}, month {} and day {} is of no day of the calendar; correct it, or leave it out",
            values[0],
            values[1],
            values[2]
        )
    }

    fn directory(&self, texts: &[ArrayRef], row: usize) -> Vec<String> {
        self.partition_columns
            .iter()
            .zip(texts)
            .map(|((_, name, naming), texts)| {
                let texts = texts.as_string::<i32>();
                naming.directory(name, texts.is_valid(row).then(|| texts.value(row)))
            })
            .collect()
    }
}

/// The files of one task.
struct Files {
    spec: WriteSpec,
    directory: Url,
    partition: usize,
    task: Uuid,
    schema: SchemaRef,
    context: Arc<TaskContext>,
    services: Arc<ExecutorServices>,
    reservation: MemoryReservation,
    open: HashMap<Vec<String>, OpenFile>,
    n_opened: usize,
    clock: u64,
    staged: Vec<String>,
    rows: Vec<u64>,
}

struct OpenFile {
    encoder: Encoder,
    file: StagingFile,
    bytes: usize,
    rows: u64,
    last_used: u64,
}

impl OpenFile {
    /// Hands over what the encoder has ready.
    async fn drain(&mut self) -> Result<()> {
        let bytes = self.encoder.take();
        self.bytes += bytes.len();
        self.file.write(&bytes).await
    }
}

impl Files {
    fn try_new(spec: WriteSpec, partition: usize, schema: SchemaRef, context: &Arc<TaskContext>) -> Result<Self> {
        let reservation = MemoryConsumer::new(format!("WriteExec[{partition}]")).register(context.memory_pool());
        Ok(Self {
            directory: Url::parse(&spec.directory).map_err(external)?,
            services: ExecutorServices::of(context)?,
            context: Arc::clone(context),
            spec,
            partition,
            task: Uuid::new_v4(),
            schema,
            reservation,
            open: HashMap::new(),
            n_opened: 0,
            clock: 0,
            staged: vec![],
            rows: vec![],
        })
    }

    async fn write(&mut self, directory: Vec<String>, rows: &RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        if !self.open.contains_key(&directory) {
            self.make_room().await?;
            let file = self.open_file(&directory).await?;
            self.open.insert(directory.clone(), file);
        }
        self.clock += 1;
        let Some(file) = self.open.get_mut(&directory) else { return Ok(()) };
        file.last_used = self.clock;
        file.encoder.write(rows)?;
        file.rows += rows.num_rows() as u64;
        file.drain().await?;
        if file.bytes + file.encoder.in_progress() > FILE_BYTES_MAX && self.spec.file.is_none() {
            self.end(&directory).await?;
        }
        self.keep_within_memory().await
    }

    async fn open_file(&mut self, directory: &[String]) -> Result<OpenFile> {
        let options = self.context.session_config().options();
        let encoder = Encoder::try_new(&self.spec.format, &self.spec.options, options, &self.schema)?;
        let name = match &self.spec.file {
            Some(name) => name.clone(),
            None => file_name(&self.spec, &self.task, self.n_opened),
        };
        self.n_opened += 1;
        let mut url = self.directory.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(directory).push(&name);
        }
        let stores = &self.services.stores;
        let file = StagingFile::open(stores, &self.directory, &self.spec.write, url).await?;
        Ok(OpenFile { encoder, file, bytes: 0, rows: 0, last_used: self.clock })
    }

    async fn make_room(&mut self) -> Result<()> {
        if self.open.len() < OPEN_FILES_MAX {
            return Ok(());
        }
        let oldest = self.open.iter().min_by_key(|(_, file)| file.last_used).map(|(directory, _)| directory.clone());
        match oldest {
            Some(directory) => self.end(&directory).await,
            None => Ok(()),
        }
    }

    /// Writes the largest row groups while they take more than the task, or its executor, has for them.
    async fn keep_within_memory(&mut self) -> Result<()> {
        loop {
            let in_progress: usize = self.open.values().map(|file| file.encoder.in_progress()).sum();
            let fits = in_progress <= IN_PROGRESS_BYTES_MAX && self.reservation.try_resize(in_progress).is_ok();
            let largest = self.open.values_mut().max_by_key(|file| file.encoder.in_progress());
            match largest {
                Some(file) if !fits && file.encoder.in_progress() > 0 => {
                    let before = file.encoder.in_progress();
                    file.encoder.flush()?;
                    file.drain().await?;
                    if file.encoder.in_progress() >= before {
                        return Ok(());
                    }
                }
                _ => return Ok(()),
            }
        }
    }

    async fn end(&mut self, directory: &[String]) -> Result<()> {
        let Some(OpenFile { encoder, mut file, rows, .. }) = self.open.remove(directory) else { return Ok(()) };
        file.write(&encoder.finish()?).await?;
        self.staged.push(serde_json::to_string(&file.finish().await?).map_err(external)?);
        self.rows.push(rows);
        Ok(())
    }

    async fn finish(mut self) -> Result<RecordBatch> {
        let is_wanted = self.spec.file.is_some() && self.partition == 0;
        if is_wanted && self.n_opened == 0 {
            // A file that was asked for by its name is there also without rows.
            let file = self.open_file(&[]).await?;
            self.open.insert(vec![], file);
        }
        let mut left: Vec<Vec<String>> = self.open.keys().cloned().collect();
        left.sort_unstable();
        for directory in left {
            self.end(&directory).await?;
        }
        let columns: Vec<ArrayRef> =
            vec![Arc::new(StringArray::from(self.staged)), Arc::new(UInt64Array::from(self.rows))];
        Ok(RecordBatch::try_new(output_schema(), columns)?)
    }
}
