//! The rows that our statements give.

use std::sync::Arc;

use covey_engine::failure::plain_text;
use covey_engine::models::Manifest;
use datafusion::arrow::array::{
    ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMillisecondArray, UInt32Array, UInt64Array,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::error::{DataFusionError, Result};

use crate::evaluate;
use crate::statements::ClusterStatement;
use crate::writes::Optimized;

/// Characters of a digest that are shown: enough to tell results apart, and short enough for a table.
const DIGEST_SHOWN: usize = 16;

pub fn result_schema(statement: &ClusterStatement) -> SchemaRef {
    match statement {
        ClusterStatement::CreateModel(_) => created_schema(),
        ClusterStatement::ShowModels => listed_schema(),
        ClusterStatement::ExplainCreateModel(_) => explained_schema(),
        ClusterStatement::Evaluate { .. } => evaluate::schema(),
        ClusterStatement::Optimize { .. } => optimized_schema(),
        ClusterStatement::CreateFunction(_)
        | ClusterStatement::DropFunction { .. }
        | ClusterStatement::Comment { .. }
        | ClusterStatement::DropModel { .. }
        | ClusterStatement::SetLabel { .. }
        | ClusterStatement::SetThreshold { .. } => Arc::new(Schema::empty()),
    }
}

/// The row of statements that write: as DataFusion's.
pub fn count_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("count", DataType::UInt64, false)]))
}

/// # Errors
/// None that could be seen.
pub fn counted(rows: u64) -> Result<RecordBatch> {
    Ok(RecordBatch::try_new(count_schema(), vec![Arc::new(UInt64Array::from(vec![rows]))])?)
}

fn optimized_schema() -> SchemaRef {
    let names = ["directories", "files_before", "files_after", "rows"];
    Arc::new(Schema::new(names.map(|name| Field::new(name, DataType::UInt64, false)).to_vec()))
}

/// The row of OPTIMIZE.
///
/// # Errors
/// None that could be seen.
pub fn optimized(done: Optimized) -> Result<RecordBatch> {
    let counts = [done.directories, done.files_before, done.files_after, done.rows];
    let columns = counts.map(|count| Arc::new(UInt64Array::from(vec![count])) as ArrayRef);
    Ok(RecordBatch::try_new(optimized_schema(), columns.to_vec())?)
}

/// As that of EXPLAIN.
pub fn explained_schema() -> SchemaRef {
    let field = |name| Field::new(name, DataType::Utf8, false);
    Arc::new(Schema::new(vec![field("plan_type"), field("plan")]))
}

/// The row of CREATE MODEL.
pub fn created_model(manifest: Manifest) -> Result<RecordBatch> {
    let name = manifest.name.clone();
    Ok(RecordBatch::try_new(created_schema(), columns(&[(name, Ok(manifest))]))?)
}

/// The rows of SHOW MODELS: each model with what is wrong with its files. One whose manifest cannot be read has its
/// error and nothing else.
pub fn listed_models(models: Vec<(String, Result<Manifest>, Option<DataFusionError>)>) -> Result<RecordBatch> {
    let text = |(_, manifest, error): &(_, Result<Manifest>, Option<DataFusionError>)| {
        error.as_ref().or(manifest.as_ref().err()).map(plain_text)
    };
    let errors: ArrayRef = Arc::new(models.iter().map(text).collect::<StringArray>());
    let models: Vec<_> = models.into_iter().map(|(name, manifest, _)| (name, manifest)).collect();
    let threshold = |(_, manifest): &(_, Result<Manifest>)| manifest.as_ref().ok().and_then(|model| model.threshold);
    let thresholds: ArrayRef = Arc::new(models.iter().map(threshold).collect::<Float64Array>());
    let comment =
        |(_, manifest): &(_, Result<Manifest>)| manifest.as_ref().ok().and_then(|model| model.comment.clone());
    let comments: ArrayRef = Arc::new(models.iter().map(comment).collect::<StringArray>());
    Ok(RecordBatch::try_new(listed_schema(), [columns(&models), vec![thresholds, comments, errors]].concat())?)
}

fn fields() -> Vec<Field> {
    vec![
        Field::new("model", DataType::Utf8, false),
        Field::new("version", DataType::UInt64, true),
        Field::new("clusters", DataType::UInt32, true),
        Field::new("chosen_by", DataType::Utf8, true),
        Field::new("labels", DataType::UInt32, true),
        Field::new("features", DataType::UInt64, true),
        Field::new("rows", DataType::UInt64, true),
        Field::new("distinct_rows", DataType::UInt64, true),
        Field::new("skipped_rows", DataType::UInt64, true),
        Field::new("iterations", DataType::UInt32, true),
        Field::new("inertia", DataType::Float64, true),
        Field::new("strategy", DataType::Utf8, true),
        Field::new("created_at", DataType::Timestamp(TimeUnit::Millisecond, None), true),
        Field::new("digest", DataType::Utf8, true),
    ]
}

fn created_schema() -> SchemaRef {
    Arc::new(Schema::new(fields()))
}

fn listed_schema() -> SchemaRef {
    let mut fields = fields();
    fields.push(Field::new("threshold", DataType::Float64, true));
    fields.push(Field::new("comment", DataType::Utf8, true));
    fields.push(Field::new("error", DataType::Utf8, true));
    Arc::new(Schema::new(fields))
}

fn columns(models: &[(String, Result<Manifest>)]) -> Vec<ArrayRef> {
    fn each<'a, T: 'a>(
        models: &'a [(String, Result<Manifest>)],
        get: fn(&'a Manifest) -> T,
    ) -> impl Iterator<Item = Option<T>> + 'a {
        models.iter().map(move |(_, manifest)| manifest.as_ref().ok().map(get))
    }
    let long = |get: fn(&Manifest) -> u64| -> ArrayRef { Arc::new(UInt64Array::from_iter(each(models, get))) };
    let short = |get: fn(&Manifest) -> u32| -> ArrayRef { Arc::new(UInt32Array::from_iter(each(models, get))) };
    let names = models.iter().map(|(name, _)| name);
    let created = each(models, |model| model.created_unix_ms as i64);
    vec![
        Arc::new(StringArray::from_iter_values(names)),
        long(|model| model.version),
        short(|model| model.n_clusters as u32),
        Arc::new(StringArray::from_iter(each(models, |model| model.chosen_by.as_deref()).map(Option::flatten))),
        short(|model| model.labels.len() as u32),
        long(|model| model.n_features as u64),
        long(|model| model.n_rows),
        long(|model| model.n_points),
        long(|model| model.n_skipped),
        short(|model| model.n_iter as u32),
        Arc::new(Float64Array::from_iter(each(models, |model| model.inertia))),
        Arc::new(StringArray::from_iter(each(models, |model| model.strategy.as_str()))),
        Arc::new(TimestampMillisecondArray::from_iter(created)),
        Arc::new(StringArray::from_iter(each(models, |model| model.digest.get(..DIGEST_SHOWN).unwrap_or_default()))),
    ]
}
