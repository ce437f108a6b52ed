//! `predict`, `cluster_distance` and `cluster_label`: a row to its cluster, by a model.
//!
//! As registered, a function has no model; a statement's plan is rewritten before it is optimized so that each
//! call carries the version of the model it means ([`ModelFunc::bind`]). The arguments stay as they are, and
//! with them the names of columns.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use covey_udfs::matrix::{Density, Row, Rows};
use covey_udfs::tfidf::Vectorizer;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, Float64Builder, Int32Builder, StringBuilder};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Float64Type};
use datafusion::common::exec_err;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::scalar::ScalarValue;
use serde::{Deserialize, Serialize};

use super::cache::{ModelCache, ModelHandle, ModelRef};
use super::{Model, ModelFeatures};
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
    [Answer::Cluster, Answer::Distance, Answer::Label]
        .map(|answer| Arc::new(ScalarUDF::from(ModelFunc::new(answer, None))))
        .into()
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
    let (description, syntax) = match answer {
        Answer::Cluster => (
            "The cluster of a row: the index of the nearest centre, ties to the lowest.",
            "predict('model', feature, ...)",
        ),
        Answer::Distance => {
            ("The Euclidean distance of a row to the centre of its cluster.", "cluster_distance('model', feature, ...)")
        }
        Answer::Label => {
            ("The label of a row's cluster, NULL where none was set.", "cluster_label('model', feature, ...)")
        }
    };
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
        match self.answer {
            Answer::Cluster => "predict",
            Answer::Distance => "cluster_distance",
            Answer::Label => "cluster_label",
        }
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
            Answer::Distance => DataType::Float64,
            Answer::Label => DataType::Utf8,
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Some(model) = &self.model else {
            return user_err!("{}: the name of the model must be a literal string", self.name());
        };
        let model = model.get()?;
        let scalar = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let features = ColumnarValue::values_to_arrays(&args.args[1..])?;
        let rows = FeatureRows::try_new(self.name(), &model, &features)?;
        let answers = self.answer_all(&model, rows)?;
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
    fn answer_all(&self, model: &Model, mut rows: FeatureRows<'_>) -> Result<ArrayRef> {
        let mut found: Vec<Option<(usize, f64)>> = Vec::with_capacity(rows.len());
        rows.for_each(model, |nearest| found.push(nearest))?;
        Ok(match self.answer {
            Answer::Cluster => {
                let mut clusters = Int32Builder::with_capacity(found.len());
                found.iter().for_each(|found| clusters.append_option(found.map(|(cluster, _)| cluster as i32)));
                Arc::new(clusters.finish())
            }
            Answer::Distance => {
                let mut distances = Float64Builder::with_capacity(found.len());
                found.iter().for_each(|found| distances.append_option(found.map(|(_, squared)| squared.sqrt())));
                Arc::new(distances.finish())
            }
            Answer::Label => {
                let mut labels = StringBuilder::new();
                let label = |(cluster, _): (usize, f64)| model.manifest.labels.get(&(cluster as u32));
                found.iter().for_each(|found| labels.append_option(found.and_then(label)));
                Arc::new(labels.finish())
            }
        })
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

    fn len(&self) -> usize {
        match self {
            Self::Text { texts, .. } => texts.len(),
            Self::Numbers { columns, .. } => columns.first().map_or(0, |column| column.len()),
        }
    }

    /// Calls `each` with the nearest cluster and squared distance of every row, `None` for NULL.
    fn for_each(&mut self, model: &Model, mut each: impl FnMut(Option<(usize, f64)>)) -> Result<()> {
        let mut scratch = model.table.scratch();
        let (mut indices, mut values): (Vec<u32>, Vec<f64>) = (vec![], vec![]);
        match self {
            Self::Text { texts, vectorizer } => {
                // Command lines repeat: each distinct text of a batch is looked up once.
                let mut seen: HashMap<&str, (usize, f64)> = HashMap::new();
                for text in texts.as_string::<i32>() {
                    each(text.map(|text| {
                        *seen.entry(text).or_insert_with(|| {
                            indices.clear();
                            values.clear();
                            for (index, value) in vectorizer.row(text) {
                                indices.push(*index);
                                values.push(*value);
                            }
                            model.table.nearest(
                                Row { density: Density::Sparse, indices: &indices, values: &values },
                                &mut scratch,
                            )
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
                    let mut dense = Rows::new(Density::Dense, *n_features);
                    dense.push((0..).zip(row.iter().copied())).map_err(external)?;
                    each(Some(model.table.nearest(dense.row(0), &mut scratch)));
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
pub(crate) fn check_feature_values(row: &[f64]) -> Result<()> {
    match row.iter().find(|x| !x.is_finite() || x.abs() > FEATURE_ABS_MAX) {
        Some(x) => user_err!("a feature is {x:e}: it must be a finite number of at most {FEATURE_ABS_MAX:e}"),
        None => Ok(()),
    }
}

/// Reads row `i` of number columns or of one list column; false when any of it is NULL.
pub(crate) fn read_numbers(columns: &[ArrayRef], i: usize, row: &mut Vec<f64>) -> bool {
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
