//! From the query to blocks.

use std::collections::HashMap;
use std::sync::Arc;

use covey_engine::models::functions::{is_number_list, is_text};
use covey_engine::models::{ModelFeatures, vocabulary_file};
use covey_engine::operators::{BlockWork, CollectExec, CollectSpec, Features, VectorizeSpec};
use covey_engine::threads::aside;
use covey_engine::{external, user_err};
use covey_udfs::WeightUnitsFunc;
use covey_udfs::kmeans::{Metric, Profile};
use covey_udfs::matrix::{Density, TOTAL_WEIGHT_MAX, WEIGHT_ONE};
use covey_udfs::tfidf::{Norm, TERMS_MAX, TermFrequency, Vocabulary};
use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{DataType, UInt64Type};
use datafusion::common::exec_datafusion_err;
use datafusion::error::Result;
use datafusion::functions_aggregate::expr_fn::{count, sum};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ScalarUDF, cast, col, lit};

use super::{Fit, Prepared};
use crate::statements::FitOptions;

/// The column that weighs rows.
pub(crate) const WEIGHT_COLUMN: &str = "weight";

/// Decimal digits of a weight in weight units.
const UNITS_DIGITS: u8 = 19;

impl Fit<'_> {
    pub(super) async fn prepare(&self, query: LogicalPlan) -> Result<Prepared> {
        self.context.job.stage("prepare");
        let features = features_of(&query)?;
        check_options(self.options, &features)?;
        let plan = collapse(query, &features)?;
        let session = Arc::clone(&self.context.session);
        let input = aside(async move { session.state().create_physical_plan(&plan).await }).await?;
        let spec = CollectSpec {
            fit: self.id.clone(),
            features: match &features {
                ModelFeatures::Text { .. } => Features::Text,
                ModelFeatures::Columns(columns) => Features::Columns(columns.len()),
                ModelFeatures::List { .. } => Features::List,
            },
            unit_length: self.options.metric == Metric::Cosine,
            directory: self.directory.child("collected")?.url().to_string(),
        };
        let name = format!("fit {}: prepare", self.id);
        let plan = Arc::new(CollectExec::new(spec, input));
        let batches = self.context.cluster.run(&name, Arc::clone(&self.context.session), plan).await?;
        let mut prepared = Prepared {
            features,
            vocabulary: None,
            blocks: vec![],
            profile: Profile::new(Density::Sparse, 0),
            n_points: 0,
            n_rows: 0,
            weight: 0,
            n_skipped: 0,
            n_values: 0,
        };
        let files = read_collected(&batches, &mut prepared)?;
        self.context.job.add_rows(prepared.n_rows);
        self.check_counts(&prepared)?;
        if let ModelFeatures::Text { params, .. } = &mut prepared.features {
            *params = self.options.tfidf.clone();
            let documents: Vec<String> = files.into_iter().map(|file| file.url).collect();
            self.vectorize(&documents, &mut prepared).await?;
        } else {
            self.merge_blocks(files, &mut prepared)?;
        }
        Ok(prepared)
    }

    fn check_counts(&self, prepared: &Prepared) -> Result<()> {
        if prepared.n_points == 0 {
            let nulls =
                if prepared.n_skipped > 0 { format!(" but {} with NULL", prepared.n_skipped) } else { String::new() };
            return user_err!("the query of CREATE MODEL gave no rows{nulls}: there is nothing to cluster");
        }
        if prepared.weight == 0 {
            return user_err!("every row of the query of CREATE MODEL has the weight 0: there is nothing to cluster");
        }
        if prepared.weight > u128::from(TOTAL_WEIGHT_MAX * WEIGHT_ONE) {
            return user_err!("the total weight is above the limit of {TOTAL_WEIGHT_MAX}");
        }
        // Above that, the elbow is looked for among as many clusters as there are distinct rows.
        let (least, option) = match self.options.elbow {
            Some(elbow) => (elbow.k_min, "k_min"),
            None => (self.options.n_clusters, "n_clusters"),
        };
        if (least as u64) > prepared.n_points {
            return user_err!("{option} is {least}, but there are only {} distinct rows to cluster", prepared.n_points);
        }
        Ok(())
    }

    /// Counts terms, makes the vocabulary, and turns every file of documents into a block.
    async fn vectorize(&self, documents: &[String], prepared: &mut Prepared) -> Result<()> {
        let params = self.options.tfidf.clone();
        let counted = self.run_blocks(BlockWork::CountTerms(params.clone()), documents, self.n_partitions()).await?;
        let vocabulary = Vocabulary::try_new(&params, prepared.n_rows, sum_terms(&counted)?).map_err(external)?;
        let file = "vocabulary.arrow";
        self.directory.put(file, vocabulary_file::encode(&vocabulary)?).await?;
        let spec = VectorizeSpec {
            params,
            vocabulary: self.directory.url_of(file)?.to_string(),
            directory: self.directory.child("blocks")?.url().to_string(),
        };
        let batches = self.run_blocks(BlockWork::Vectorize(spec), documents, self.n_partitions()).await?;
        prepared.vocabulary = Some(vocabulary);
        let mut blocks = vec![];
        for batch in &batches {
            for i in 0..batch.num_rows() {
                let text = |column: usize| batch.column(column).as_string::<i32>().value(i).to_string();
                blocks.push(Block {
                    executor: text(0),
                    url: text(1),
                    documents: Some(text(2)),
                    n_values: batch.column(3).as_primitive::<UInt64Type>().value(i),
                    profile: Some(serde_json::from_str(&text(4)).map_err(external)?),
                });
            }
        }
        self.merge_blocks(blocks, prepared)
    }

    fn merge_blocks(&self, blocks: Vec<Block>, prepared: &mut Prepared) -> Result<()> {
        for Block { executor, url, documents, n_values, profile } in blocks {
            let profile = profile.ok_or_else(|| exec_datafusion_err!("block {url} came without its profile"))?;
            if prepared.blocks.is_empty() {
                prepared.profile = Profile::new(profile.density, profile.n_features());
            }
            let (a, b) = (profile.n_features(), prepared.profile.n_features());
            if a != b {
                return user_err!("a row has {a} features and another {b}: lists must have one length");
            }
            prepared.profile.merge(&profile);
            prepared.n_values += n_values;
            self.published.home(&url, executor);
            prepared.blocks.push((url, documents));
        }
        Ok(())
    }
}

/// The columns of a query that are clustered.
pub(crate) fn feature_names(query: &LogicalPlan) -> impl Iterator<Item = String> + '_ {
    query.schema().fields().iter().map(|field| field.name().clone()).filter(|name| name != WEIGHT_COLUMN)
}

/// What the columns of the query mean.
pub(super) fn features_of(query: &LogicalPlan) -> Result<ModelFeatures> {
    let fields: Vec<_> = query.schema().fields().iter().filter(|field| field.name() != WEIGHT_COLUMN).collect();
    match fields.as_slice() {
        [] => user_err!(
            "the query of CREATE MODEL has no column to cluster: select one text column, numbers, or a list of numbers"
        ),
        [one] if is_text(one.data_type()) => {
            Ok(ModelFeatures::Text { column: one.name().clone(), params: Default::default() })
        }
        [one] if is_number_list(one.data_type()) => Ok(ModelFeatures::List { column: one.name().clone() }),
        many => {
            if many.iter().any(|field| !field.data_type().is_numeric()) {
                let columns = many.iter().map(|field| format!("{} {}", field.name(), field.data_type()));
                return user_err!(
                    "the query of CREATE MODEL has the columns {}: select one text column, or numbers only, or one list of numbers, and beside them perhaps {WEIGHT_COLUMN:?}",
                    columns.collect::<Vec<_>>().join(", ")
                );
            }
            Ok(ModelFeatures::Columns(many.iter().map(|field| field.name().clone()).collect()))
        }
    }
}

/// # Errors
/// When options do not go with what is clustered.
pub(super) fn check_options(options: &FitOptions, features: &ModelFeatures) -> Result<()> {
    match (features, options.text_options.first()) {
        (ModelFeatures::Columns(_) | ModelFeatures::List { .. }, Some(option)) => {
            user_err!("option {option} is for a text column, but the query gives numbers")
        }
        (ModelFeatures::Text { .. }, _) if options.metric == Metric::Cosine && options.tfidf.norm != Norm::L2 => {
            user_err!("metric 'cosine' is for rows of length 1: leave out norm, or set norm 'l2'")
        }
        _ => Ok(()),
    }
}

/// Equal rows to one, with how many there were and what they weigh: `features..., rows, weight`.
pub(super) fn collapse(query: LogicalPlan, features: &ModelFeatures) -> Result<LogicalPlan> {
    let columns: Vec<(Expr, String, DataType)> = query
        .schema()
        .iter()
        .map(|(qualifier, field)| {
            let column = Expr::Column(datafusion::common::Column::new(qualifier.cloned(), field.name()));
            (column, field.name().clone(), field.data_type().clone())
        })
        .collect();
    let weight = columns.iter().find(|(_, name, _)| name == WEIGHT_COLUMN).map(|(column, _, _)| column.clone());
    let mut projected = vec![];
    let mut keys = vec![];
    for (i, (column, _, data_type)) in columns.iter().filter(|(_, name, _)| name != WEIGHT_COLUMN).enumerate() {
        let key = format!("feature_{i}");
        let value = match features {
            ModelFeatures::Columns(_) => cast(column.clone(), DataType::Float64),
            ModelFeatures::Text { .. } if matches!(data_type, DataType::Dictionary(_, _)) => {
                cast(column.clone(), DataType::Utf8)
            }
            _ => column.clone(),
        };
        projected.push(value.alias(&key));
        keys.push(col(&key));
    }
    let rows = count(lit(1)).alias("rows");
    let Some(weight) = weight else {
        // Each row weighs one.
        let given = keys.iter().cloned().chain([col("rows"), (col("rows") * lit(WEIGHT_ONE as i64)).alias("weight")]);
        let given: Vec<Expr> = given.collect();
        return LogicalPlanBuilder::from(query)
            .project(projected)?
            .aggregate(keys, vec![rows])?
            .project(given)?
            .build();
    };
    let units = ScalarUDF::from(WeightUnitsFunc::default()).call(vec![cast(weight, DataType::Float64)]);
    // A sum of integers would wrap around unseen.
    projected.push(cast(units, DataType::Decimal128(UNITS_DIGITS, 0)).alias("units"));
    let weight = sum(col("units")).alias("weight");
    LogicalPlanBuilder::from(query).project(projected)?.aggregate(keys, vec![rows, weight])?.build()
}

fn read_collected(batches: &[RecordBatch], prepared: &mut Prepared) -> Result<Vec<Block>> {
    let mut files = vec![];
    for batch in batches {
        let numbers = |column: usize| batch.column(column).as_primitive::<UInt64Type>();
        let total = |column: usize| numbers(column).values().iter().sum::<u64>();
        prepared.n_points += total(2);
        prepared.n_rows += total(3);
        prepared.n_skipped += total(4);
        prepared.weight += u128::from(total(5));
        let [executors, urls, profiles] = [0, 1, 7].map(|column| batch.column(column).as_string::<i32>());
        for i in (0..batch.num_rows()).filter(|&i| urls.is_valid(i)) {
            let profile = match profiles.is_valid(i) {
                true => Some(serde_json::from_str(profiles.value(i)).map_err(external)?),
                false => None,
            };
            files.push(Block {
                executor: executors.value(i).to_string(),
                url: urls.value(i).to_string(),
                documents: None,
                n_values: numbers(6).value(i),
                profile,
            });
        }
    }
    Ok(files)
}

/// A block, who wrote it, and for text the documents that it was made of; or a file of documents, which has no profile.
struct Block {
    executor: String,
    url: String,
    documents: Option<String>,
    n_values: u64,
    profile: Option<Profile>,
}

fn sum_terms(batches: &[RecordBatch]) -> Result<HashMap<String, TermFrequency>> {
    let mut frequencies: HashMap<String, TermFrequency> = HashMap::new();
    for batch in batches {
        let documents = batch.column(1).as_primitive::<UInt64Type>().values();
        let occurrences = batch.column(2).as_primitive::<UInt64Type>().values();
        for (i, term) in batch.column(0).as_string::<i32>().iter().flatten().enumerate() {
            let sum = match frequencies.get_mut(term) {
                Some(sum) => sum,
                None => frequencies.entry(term.to_string()).or_default(),
            };
            sum.documents += documents[i];
            sum.occurrences += occurrences[i];
        }
        if frequencies.len() > TERMS_MAX {
            return user_err!(
                "the texts have over {TERMS_MAX} distinct terms: clean them further, or set token_pattern"
            );
        }
    }
    Ok(frequencies)
}
