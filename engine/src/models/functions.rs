//! `predict`, `predict_path`, `cluster_distance`, `cluster_label` and `cluster_silhouette`: a row to its cluster, by a
//! model.
//!
//! As registered, a function has no model; a statement's plan is rewritten before it is optimized so that each
//! call carries the version of the model it means ([`ModelFunc::bind`]). The arguments stay as they are, and
//! with them the names of columns.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use covey_udfs::kmeans::{CentroidTable, Scratch};
use covey_udfs::matrix::{Density, Row, Rows, to_unit_length};
use covey_udfs::tfidf::Vectorizer;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int32Array, StringArray, UInt64Array};
use datafusion::arrow::compute::{cast, take};
use datafusion::arrow::datatypes::{DataType, Float64Type};
use datafusion::common::exec_err;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::scalar::ScalarValue;
use serde::{Deserialize, Serialize};

use super::cache::{ModelCache, ModelHandle, ModelRef};
use super::{Model, ModelFeatures, UNKNOWN};
use crate::{external, user_err};

/// What a function gives for a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Answer {
    /// The index of the nearest centre.
    Cluster,
    /// The Euclidean distance to it.
    Distance,
    /// The label it was given, NULL if none.
    Label,
    /// The index, and below it those of the models that its rows were clustered by again.
    Path,
    /// (b − a) / max(a, b), where a and b are the distances to the nearest centre and to the next.
    Silhouette,
}

impl Answer {
    const ALL: [Self; 5] = [Self::Cluster, Self::Distance, Self::Label, Self::Path, Self::Silhouette];

    fn function(self) -> &'static str {
        match self {
            Self::Cluster => "predict",
            Self::Distance => "cluster_distance",
            Self::Label => "cluster_label",
            Self::Path => "predict_path",
            Self::Silhouette => "cluster_silhouette",
        }
    }
}

/// One of the functions, with or without its model.
#[derive(Debug)]
pub struct ModelFunc {
    answer: Answer,
    model: Option<Arc<ModelHandle>>,
    signature: Signature,
    documentation: Documentation,
}

/// The functions as registered: names to be resolved.
pub fn model_functions() -> Vec<Arc<ScalarUDF>> {
    Answer::ALL.map(|answer| Arc::new(ScalarUDF::from(ModelFunc::new(answer, None)))).into()
}

impl ModelFunc {
    fn new(answer: Answer, model: Option<Arc<ModelHandle>>) -> Self {
        // Stable: a query sees one version of a model, the next query perhaps another.
        Self { answer, model, signature: Signature::variadic_any(Volatility::Stable), documentation: document(answer) }
    }

    /// Whether the function still needs a model.
    pub fn is_unbound(&self) -> bool {
        self.model.is_none()
    }

    /// This function with its model.
    pub fn bind(&self, model: Arc<ModelHandle>) -> Self {
        Self::new(self.answer, Some(model))
    }

    pub(crate) fn encode(&self, buf: &mut Vec<u8>) -> Result<()> {
        let Some(model) = &self.model else {
            return exec_err!("{} was sent to an executor without its model", self.name());
        };
        serde_json::to_writer(buf, &(self.answer, model.reference())).map_err(external)
    }

    pub(crate) fn decode(buf: &[u8], models: &ModelCache) -> Result<Self> {
        let (answer, reference): (Answer, ModelRef) = serde_json::from_slice(buf).map_err(external)?;
        Ok(Self::new(answer, Some(models.handle(&reference))))
    }

    fn key(&self) -> (Answer, Option<&ModelRef>) {
        (self.answer, self.model.as_ref().map(|model| model.reference()))
    }
}

impl PartialEq for ModelFunc {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for ModelFunc {}

impl Hash for ModelFunc {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

fn document(answer: Answer) -> Documentation {
    let description = match answer {
        Answer::Cluster => "The cluster of a row: the index of the nearest centre, ties to the lowest.",
        Answer::Distance => "The Euclidean distance of a row to the centre of its cluster.",
        Answer::Label => {
            "The label of a row's cluster, NULL where none was set; 'unknown' beyond the threshold of the model. Where the \
             cluster was clustered again, the label there comes first."
        }
        Answer::Path => {
            "The cluster of a row, and after a slash each the clusters of the models that its cluster was clustered by again."
        }
        Answer::Silhouette => {
            "The simplified silhouette of a row: (b − a) / max(a, b), where a and b are the distances to the nearest centre \
             and to the next. NULL where there is but one."
        }
    };
    let syntax = format!("{}('model', feature, ...)", answer.function());
    let section = datafusion::logical_expr::DocSection { include: true, label: "Model Functions", description: None };
    Documentation::builder(section, description, syntax)
        .with_argument("model", "The name of a model, as a literal string.")
        .with_argument(
            "feature",
            "What the model was trained on: one text, numbers, or one list of numbers. NULL gives NULL.",
        )
        .build()
}

impl ScalarUDFImpl for ModelFunc {
    fn name(&self) -> &str {
        self.answer.function()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        if arg_types.len() < 2 {
            return user_err!(
                "{} takes the name of a model and its features: {}('model', feature, ...)",
                self.name(),
                self.name()
            );
        }
        Ok(match self.answer {
            Answer::Cluster => DataType::Int32,
            Answer::Distance | Answer::Silhouette => DataType::Float64,
            Answer::Label | Answer::Path => DataType::Utf8,
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(model) = &self.model else {
            return user_err!("{}: the name of the model must be a literal string", self.name());
        };
        let model = model.get()?;
        let scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let features = ColumnarValue::values_to_arrays(&args.args[1..])?;
        let answers = self.answer_all(&model, &features)?;
        if scalar {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&answers, 0)?));
        }
        if answers.len() == 1 && args.number_rows != 1 {
            let value = ScalarValue::try_from_array(&answers, 0)?;
            return Ok(ColumnarValue::Array(value.to_array_of_size(args.number_rows)?));
        }
        Ok(ColumnarValue::Array(answers))
    }

    fn documentation(&self) -> Option<&Documentation> {
        Some(&self.documentation)
    }
}

impl ModelFunc {
    fn answer_all(&self, model: &Model, features: &[ArrayRef]) -> Result<ArrayRef> {
        Ok(match self.answer {
            Answer::Cluster => {
                let clusters = self.nearest(model, features)?.into_iter();
                Arc::new(Int32Array::from_iter(clusters.map(|found| found.map(|(cluster, _)| cluster as i32))))
            }
            Answer::Distance => {
                let found = self.nearest(model, features)?.into_iter();
                Arc::new(Float64Array::from_iter(found.map(|found| found.map(|(_, squared)| squared.sqrt()))))
            }
            Answer::Silhouette => {
                let silhouette = |table: &CentroidTable, row: Row<'_>, scratch: &mut Scratch| {
                    let [a, b] = table.two_nearest_of(row, scratch);
                    (table.n_clusters() > 1).then_some(if b > 0.0 { 1.0 - (a / b).sqrt() } else { 0.0 })
                };
                let found = self.look(model, features, silhouette)?.into_iter();
                Arc::new(Float64Array::from_iter(found.map(Option::flatten)))
            }
            Answer::Label => Arc::new(StringArray::from_iter(self.labels(model, features)?)),
            Answer::Path => Arc::new(StringArray::from_iter(self.paths(model, features)?)),
        })
    }

    fn nearest(&self, model: &Model, features: &[ArrayRef]) -> Result<Vec<Option<(usize, f64)>>> {
        self.look(model, features, CentroidTable::nearest)
    }

    /// What `look` finds for every row, `None` for NULL.
    fn look<T: Copy>(
        &self,
        model: &Model,
        features: &[ArrayRef],
        look: impl Fn(&CentroidTable, Row<'_>, &mut Scratch) -> T,
    ) -> Result<Vec<Option<T>>> {
        let mut found = vec![];
        FeatureRows::try_new(self.name(), model, features)?.for_each(model, look, |answer| found.push(answer))?;
        Ok(found)
    }

    fn labels(&self, model: &Model, features: &[ArrayRef]) -> Result<Vec<Option<String>>> {
        let blank_is_far =
            matches!(model.manifest.features, ModelFeatures::Text { .. }) || model.manifest.has_unit_length();
        let look = |table: &CentroidTable, row: Row<'_>, scratch: &mut Scratch| {
            let (cluster, squared) = table.nearest(row, scratch);
            // Zeros are near to a centre of many small numbers, and have nothing in common with it.
            let is_blank = blank_is_far && row.values.iter().all(|x| *x == 0.0);
            (cluster, if is_blank { f64::INFINITY } else { squared })
        };
        let mut found = self.look(model, features, look)?;
        let mut labels: Vec<Option<String>> = vec![None; found.len()];
        for (label, nearest) in labels.iter_mut().zip(&mut found) {
            let Some((cluster, squared)) = *nearest else { continue };
            if model.manifest.threshold.is_some_and(|threshold| squared.sqrt() > threshold) {
                *label = Some(UNKNOWN.to_string());
                // It belongs to no cluster, so to none below it.
                *nearest = None;
            } else {
                *label = model.manifest.labels.get(&(cluster as u32)).cloned();
            }
        }
        self.descend(model, features, &found, Self::labels, |i, below| labels[i] = Some(below))?;
        Ok(labels)
    }

    fn paths(&self, model: &Model, features: &[ArrayRef]) -> Result<Vec<Option<String>>> {
        let found = self.nearest(model, features)?;
        let mut paths: Vec<Option<String>> =
            found.iter().map(|found| found.map(|(cluster, _)| cluster.to_string())).collect();
        self.descend(model, features, &found, Self::paths, |i, below| {
            if let Some(path) = &mut paths[i] {
                *path = format!("{path}/{below}");
            }
        })?;
        Ok(paths)
    }

    /// Asks the models below for the rows of their clusters, and tells `each` what they have an answer for.
    fn descend(
        &self,
        model: &Model,
        features: &[ArrayRef],
        found: &[Option<(usize, f64)>],
        ask: impl Fn(&Self, &Model, &[ArrayRef]) -> Result<Vec<Option<String>>>,
        mut each: impl FnMut(usize, String),
    ) -> Result<()> {
        for (cluster, child) in &model.children {
            let is_here = |i: &usize| found[*i].is_some_and(|(found, _)| found == *cluster as usize);
            let rows: Vec<usize> = (0..found.len()).filter(is_here).collect();
            if rows.is_empty() {
                continue;
            }
            let indices = UInt64Array::from_iter_values(rows.iter().map(|i| *i as u64));
            let features: Vec<ArrayRef> =
                features.iter().map(|array| take(array, &indices, None)).collect::<Result<_, _>>()?;
            for (i, answer) in rows.into_iter().zip(ask(self, child, &features)?) {
                answer.into_iter().for_each(|answer| each(i, answer));
            }
        }
        Ok(())
    }
}

/// The features of a batch in the form that a model takes.
enum FeatureRows<'a> {
    Text { texts: ArrayRef, vectorizer: Box<Vectorizer<'a>> },
    Numbers { columns: Vec<ArrayRef>, n_features: usize },
}

impl<'a> FeatureRows<'a> {
    fn try_new(function: &str, model: &'a Model, features: &[ArrayRef]) -> Result<Self> {
        let name = &model.manifest.name;
        match (&model.manifest.features, &model.files.vocabulary) {
            (ModelFeatures::Text { column, params }, Some(vocabulary)) => {
                let [texts] = features else {
                    return user_err!(
                        "{function}: model {name:?} takes one text ({column}), got {} arguments",
                        features.len()
                    );
                };
                if !is_text(texts.data_type()) && !texts.data_type().is_null() {
                    return user_err!(
                        "{function}: model {name:?} takes one text ({column}), got {}",
                        texts.data_type()
                    );
                }
                let vectorizer = Vectorizer::try_new(params, vocabulary).map_err(external)?;
                Ok(Self::Text { texts: cast(texts, &DataType::Utf8)?, vectorizer: Box::new(vectorizer) })
            }
            (ModelFeatures::Columns(columns), _) if features.len() != columns.len() => {
                user_err!(
                    "{function}: model {name:?} takes {} numbers ({}), got {}",
                    columns.len(),
                    columns.join(", "),
                    features.len()
                )
            }
            (ModelFeatures::List { column }, _) if features.len() != 1 => {
                user_err!(
                    "{function}: model {name:?} takes one list of numbers ({column}), got {} arguments",
                    features.len()
                )
            }
            (expected, _) => {
                let is_list = matches!(expected, ModelFeatures::List { .. });
                let wrong = features.iter().map(|array| array.data_type()).find(|data_type| !fits(data_type, is_list));
                if let Some(wrong) = wrong {
                    let kind = if is_list { "one list of numbers" } else { "numbers" };
                    return user_err!("{function}: model {name:?} takes {kind}, got {wrong}");
                }
                let list = DataType::new_list(DataType::Float64, true);
                let to = if is_list { &list } else { &DataType::Float64 };
                let columns = features.iter().map(|array| cast(array, to)).collect::<Result<_, _>>()?;
                Ok(Self::Numbers { columns, n_features: model.manifest.n_features })
            }
        }
    }

    /// Calls `each` with what `look` finds for every row, `None` for NULL.
    fn for_each<T: Copy>(
        &mut self,
        model: &Model,
        look: impl Fn(&CentroidTable, Row<'_>, &mut Scratch) -> T,
        mut each: impl FnMut(Option<T>),
    ) -> Result<()> {
        let mut scratch = model.table.scratch();
        let (mut indices, mut values): (Vec<u32>, Vec<f64>) = (vec![], vec![]);
        match self {
            Self::Text { texts, vectorizer } => {
                // Command lines repeat: each distinct text of a batch is looked up once.
                let mut seen: HashMap<&str, T> = HashMap::new();
                for text in texts.as_string::<i32>() {
                    each(text.map(|text| {
                        *seen.entry(text).or_insert_with(|| {
                            indices.clear();
                            values.clear();
                            for (index, value) in vectorizer.row(text) {
                                indices.push(*index);
                                values.push(*value);
                            }
                            let row = Row { density: Density::Sparse, indices: &indices, values: &values };
                            look(&model.table, row, &mut scratch)
                        })
                    }));
                }
            }
            Self::Numbers { columns, n_features } => {
                let mut row = vec![];
                for i in 0..columns.first().map_or(0, |column| column.len()) {
                    row.clear();
                    if !read_numbers(columns, i, &mut row) {
                        each(None);
                        continue;
                    }
                    if row.len() != *n_features {
                        return user_err!(
                            "model {:?} has {n_features} features, a row has {}",
                            model.manifest.name,
                            row.len()
                        );
                    }
                    check_feature_values(&row)?;
                    if model.manifest.has_unit_length() {
                        to_unit_length(&mut row);
                    }
                    let mut dense = Rows::new(Density::Dense, *n_features);
                    dense.push((0..).zip(row.iter().copied())).map_err(external)?;
                    each(Some(look(&model.table, dense.row(0), &mut scratch)));
                }
            }
        }
        Ok(())
    }
}

/// Whether values are text, in whatever form.
pub fn is_text(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => is_text(values),
        other => matches!(other, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View),
    }
}

/// Whether values are lists of numbers.
pub fn is_number_list(data_type: &DataType) -> bool {
    matches!(data_type, DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _)
        if item.data_type().is_numeric())
}

/// NULL and the empty list have no type of their own.
fn fits(data_type: &DataType, is_list: bool) -> bool {
    let is_list_of_nulls = matches!(data_type, DataType::List(item) if item.data_type().is_null());
    data_type.is_null() || if is_list { is_number_list(data_type) || is_list_of_nulls } else { data_type.is_numeric() }
}

/// Largest magnitude of a feature: its square and sums of squares must stay finite.
const FEATURE_ABS_MAX: f64 = 1e100;

/// # Errors
/// When a feature is NaN, infinite or too large.
pub fn check_feature_values(row: &[f64]) -> Result<()> {
    match row.iter().find(|x| !x.is_finite() || x.abs() > FEATURE_ABS_MAX) {
        Some(x) => user_err!("a feature is {x:e}: it must be a finite number of at most {FEATURE_ABS_MAX:e}"),
        None => Ok(()),
    }
}

/// Reads row `i` of number columns or of one list column; false when any of it is NULL.
pub fn read_numbers(columns: &[ArrayRef], i: usize, row: &mut Vec<f64>) -> bool {
    for column in columns {
        if column.is_null(i) {
            return false;
        }
        match column.as_list_opt::<i32>() {
            None => row.push(column.as_primitive::<Float64Type>().value(i)),
            Some(lists) => {
                let list = lists.value(i);
                if list.null_count() > 0 {
                    return false;
                }
                row.extend_from_slice(list.as_primitive::<Float64Type>().values());
            }
        }
    }
    true
}
