//! The end of a fit's query: takes the collapsed rows of each partition and writes them to the warehouse, texts
//! as documents and numbers as blocks. It gives one row for each file that it wrote.

use std::fmt;
use std::sync::Arc;

use covey_udfs::kmeans::Profile;
use covey_udfs::matrix::{Density, Points, TOTAL_WEIGHT_MAX, WEIGHT_ONE, to_unit_length};
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, StringBuilder, UInt64Array,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::common::exec_datafusion_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::TaskContext;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use url::Url;
use uuid::Uuid;

use super::at_end::{one_batch, properties_over};
use crate::blocks::{BLOCK_ROWS_MAX, Documents, encode_points};
use crate::coordinator::ExecutorServices;
use crate::models::functions::{check_feature_values, read_numbers};
use crate::storage::Directory;
use crate::{external, user_err};

/// What the columns of the query are. The last two columns are always `rows` (how many equal rows were
/// collapsed) and `weight` (their total weight).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Features {
    /// The first column is text.
    Text,
    /// The first `n` columns are numbers.
    Columns(usize),
    /// The first column is a list of numbers.
    List,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectSpec {
    pub fit: String,
    pub features: Features,
    /// Whether rows of numbers are scaled to length 1.
    pub unit_length: bool,
    /// Where files go: a directory URL of this fit.
    pub directory: String,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct CollectExec {
    spec: CollectSpec,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl CollectExec {
    pub fn new(spec: CollectSpec, input: Arc<dyn ExecutionPlan>) -> Self {
        let properties = properties_over(&input, Self::output_schema());
        Self { spec, input, properties, metrics: ExecutionPlanMetricsSet::new() }
    }

    pub fn spec(&self) -> &CollectSpec {
        &self.spec
    }

    /// The `executor` that wrote a file; its `url` and `points`; `rows` that went into it; `skipped` rows that were NULL; for numbers
    /// the stored `values` and the `profile` of the block as JSON.
    fn output_schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("executor", DataType::Utf8, false),
            Field::new("url", DataType::Utf8, true),
            Field::new("points", DataType::UInt64, false),
            Field::new("rows", DataType::UInt64, false),
            Field::new("skipped", DataType::UInt64, false),
            Field::new("weight", DataType::UInt64, false),
            Field::new("values", DataType::UInt64, false),
            Field::new("profile", DataType::Utf8, true),
        ]))
    }
}

impl DisplayAs for CollectExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "CollectExec: features={:?}", self.spec.features)
    }
}

impl ExecutionPlan for CollectExec {
    fn name(&self) -> &str {
        "CollectExec"
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
        let files = collect(self.spec.clone(), input, context);
        Ok(one_batch(self.schema(), &self.metrics, partition, files))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

async fn collect(
    spec: CollectSpec,
    mut input: SendableRecordBatchStream,
    context: Arc<TaskContext>,
) -> Result<RecordBatch> {
    let url = Url::parse(&spec.directory).map_err(external)?;
    let stores = Arc::clone(&context.runtime_env().object_store_registry);
    let directory = Directory::open(stores.as_ref(), &url)?;
    let mut writer: Box<dyn Pending> = match spec.features {
        Features::Text => Box::new(PendingDocuments::default()),
        Features::Columns(n) => Box::new(PendingPoints { n_features: Some(n), ..PendingPoints::new(spec.unit_length) }),
        Features::List => Box::new(PendingPoints::new(spec.unit_length)),
    };
    let mut files = Files::new(spec.fit, directory, ExecutorServices::of(&context)?);
    while let Some(batch) = input.next().await {
        let batch = batch?;
        for start in (0..batch.num_rows()).step_by(BLOCK_ROWS_MAX) {
            let rows = (batch.num_rows() - start).min(BLOCK_ROWS_MAX);
            writer.push(&batch.slice(start, rows))?;
            if writer.len() >= BLOCK_ROWS_MAX {
                files.write(writer.as_mut()).await?;
            }
        }
    }
    files.write(writer.as_mut()).await?;
    files.finish()
}

/// Rows that wait to become a file.
trait Pending: Send {
    fn push(&mut self, batch: &RecordBatch) -> Result<()>;
    fn len(&self) -> usize;
    /// Takes everything pushed since the last call.
    fn take(&mut self) -> Result<File>;
}

struct File {
    content: bytes::Bytes,
    /// What the executor may keep in memory.
    points: Option<Arc<Points>>,
    n_points: u64,
    rows: u64,
    skipped: u64,
    weight: u64,
}

/// The files that were written.
struct Files {
    fit: String,
    directory: Directory,
    services: Arc<ExecutorServices>,
    urls: Vec<Option<String>>,
    points: Vec<u64>,
    rows: Vec<u64>,
    skipped: Vec<u64>,
    weights: Vec<u64>,
    values: Vec<u64>,
    profiles: Vec<Option<String>>,
}

impl Files {
    fn new(fit: String, directory: Directory, services: Arc<ExecutorServices>) -> Self {
        let (points, rows, skipped, weights, values) = (vec![], vec![], vec![], vec![], vec![]);
        Self { fit, directory, services, urls: vec![], points, rows, skipped, weights, values, profiles: vec![] }
    }

    /// Writes what is pending under a name that no other attempt of this task uses.
    async fn write(&mut self, pending: &mut dyn Pending) -> Result<()> {
        let file = pending.take()?;
        let mut url = None;
        if file.n_points > 0 {
            let name = format!("{}.arrow", Uuid::new_v4());
            self.directory.put(&name, file.content).await?;
            url = Some(self.directory.url_of(&name)?.to_string());
        }
        let profile = file.points.as_ref().map(|points| serde_json::to_string(&Profile::of(points))).transpose();
        if let (Some(url), Some(points)) = (&url, &file.points) {
            self.services.hold(&self.fit, url, Arc::clone(points)).await;
        }
        self.urls.push(url);
        self.points.push(file.n_points);
        self.rows.push(file.rows);
        self.skipped.push(file.skipped);
        self.weights.push(file.weight);
        self.values.push(file.points.as_ref().map_or(0, |points| points.rows.values().len() as u64));
        self.profiles.push(profile.map_err(external)?);
        Ok(())
    }

    fn finish(self) -> Result<RecordBatch> {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![self.services.executor_id.as_str(); self.urls.len()])),
            Arc::new(StringArray::from(self.urls)),
            Arc::new(UInt64Array::from(self.points)),
            Arc::new(UInt64Array::from(self.rows)),
            Arc::new(UInt64Array::from(self.skipped)),
            Arc::new(UInt64Array::from(self.weights)),
            Arc::new(UInt64Array::from(self.values)),
            Arc::new(StringArray::from(self.profiles)),
        ];
        Ok(RecordBatch::try_new(CollectExec::output_schema(), columns)?)
    }
}

/// The `rows` and `weight` columns, which every collapsed row ends with; the weight in weight units.
struct Counted {
    rows: Int64Array,
    weights: Int64Array,
}

impl Counted {
    fn of(batch: &RecordBatch) -> Result<Self> {
        let n = batch.num_columns();
        let integers = |i: usize| Ok::<_, ArrowError>(cast(batch.column(i), &DataType::Int64)?.as_primitive().clone());
        let weights: Int64Array = integers(n - 1)?;
        // What is too large for an integer is NULL after the cast.
        if weights.null_count() > batch.column(n - 1).null_count() {
            return Err(weight_too_large());
        }
        Ok(Self { rows: integers(n - 2)?, weights })
    }

    fn rows(&self, i: usize) -> u64 {
        self.rows.value(i) as u64
    }

    fn units(&self, i: usize) -> u64 {
        self.weights.value(i) as u64
    }
}

fn add_weight(total: u64, units: u64) -> Result<u64> {
    total.checked_add(units).filter(|total| *total <= TOTAL_WEIGHT_MAX * WEIGHT_ONE).ok_or_else(weight_too_large)
}

fn weight_too_large() -> DataFusionError {
    exec_datafusion_err!("the total weight is above the limit of {TOTAL_WEIGHT_MAX}")
}

#[derive(Default)]
struct PendingDocuments {
    texts: StringBuilder,
    rows: Vec<u64>,
    weights: Vec<u64>,
    weight: u64,
    skipped: u64,
}

impl Pending for PendingDocuments {
    fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        let texts = cast(batch.column(0), &DataType::Utf8)?;
        let counted = Counted::of(batch)?;
        for (i, text) in texts.as_string::<i32>().iter().enumerate() {
            let Some(text) = text else {
                self.skipped += counted.rows(i);
                continue;
            };
            let units = counted.units(i);
            self.weight = add_weight(self.weight, units)?;
            self.texts.append_value(text);
            self.rows.push(counted.rows(i));
            self.weights.push(units);
        }
        Ok(())
    }

    fn len(&self) -> usize {
        self.rows.len()
    }

    fn take(&mut self) -> Result<File> {
        let taken = std::mem::take(self);
        let (n_points, rows) = (taken.rows.len() as u64, taken.rows.iter().sum());
        let mut texts = taken.texts;
        let documents = Documents { texts: texts.finish(), rows: taken.rows.into(), weights: taken.weights.into() };
        let content = documents.encode()?;
        Ok(File { content, points: None, n_points, rows, skipped: taken.skipped, weight: taken.weight })
    }
}

#[derive(Default)]
struct PendingPoints {
    /// Known from the plan for columns, from the first row for lists.
    n_features: Option<usize>,
    unit_length: bool,
    points: Option<Points>,
    rows: u64,
    weight: u64,
    skipped: u64,
}

impl PendingPoints {
    fn new(unit_length: bool) -> Self {
        Self { unit_length, ..Self::default() }
    }

    fn push_row(&mut self, row: &mut [f64], rows: u64, units: u64) -> Result<()> {
        if row.is_empty() {
            return user_err!("a list of features is empty: it must have one number for each feature");
        }
        let n_features = *self.n_features.get_or_insert(row.len());
        if row.len() != n_features {
            return user_err!("a row has {} features and another {n_features}: lists must have one length", row.len());
        }
        let points = self.points.get_or_insert_with(|| Points::new(Density::Dense, n_features));
        check_feature_values(row)?;
        if self.unit_length {
            to_unit_length(row);
        }
        points.rows.push((0..).zip(row.iter().copied())).map_err(external)?;
        points.weights.push(units);
        self.weight = add_weight(self.weight, units)?;
        self.rows += rows;
        Ok(())
    }
}

impl Pending for PendingPoints {
    fn push(&mut self, batch: &RecordBatch) -> Result<()> {
        let counted = Counted::of(batch)?;
        let columns: Vec<ArrayRef> = (0..batch.num_columns() - 2)
            .map(|i| match batch.column(i).data_type() {
                DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(_, _) => {
                    cast(batch.column(i), &DataType::new_list(DataType::Float64, true))
                }
                _ => cast(batch.column(i), &DataType::Float64),
            })
            .collect::<Result<_, _>>()?;
        let mut row = vec![];
        for i in 0..batch.num_rows() {
            row.clear();
            if !read_numbers(&columns, i, &mut row) {
                self.skipped += counted.rows(i);
                continue;
            }
            self.push_row(&mut row, counted.rows(i), counted.units(i))?;
        }
        Ok(())
    }

    fn len(&self) -> usize {
        self.points.as_ref().map_or(0, Points::len)
    }

    fn take(&mut self) -> Result<File> {
        let next = Self { n_features: self.n_features, ..Self::new(self.unit_length) };
        let taken = std::mem::replace(self, next);
        let n_points = taken.len() as u64;
        let points = taken.points.map(Arc::new);
        let content = points.as_deref().map(encode_points).transpose()?.unwrap_or_default();
        Ok(File { content, points, n_points, rows: taken.rows, skipped: taken.skipped, weight: taken.weight })
    }
}
