//! Centres that a fit is told to begin with: those of a model, or the rows of a table.

use std::sync::Arc;

use covey_engine::failure::plain_text;
use covey_engine::models::functions::{check_feature_values, read_numbers};
use covey_engine::models::{ModelFeatures, ModelRegistry};
use covey_engine::threads::aside;
use covey_engine::{external, user_err};
use covey_udfs::kmeans::{Centroids, Metric};
use covey_udfs::matrix::to_unit_length;
use covey_udfs::tfidf::Vectorizer;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::Column;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, cast};
use datafusion::prelude::{DataFrame, SessionContext};

use super::carry::centres_in;
use super::{Fit, Prepared};
use crate::bind_models;
use crate::statements::{FitOptions, GivenCentres};

/// The column of a table of centres that numbers them, where there is one.
const CLUSTER_COLUMN: &str = "cluster";

/// What can be known of given centres before there are rows.
pub(super) async fn check_given(models: &ModelRegistry, session: &SessionContext, options: &FitOptions) -> Result<()> {
    match &options.given {
        Some(given @ GivenCentres::Model(name)) => {
            let (n, k) = (models.get(name).await?.n_clusters, options.n_clusters);
            if n != k {
                return user_err!("init '{given}' gives {n} centres, but n_clusters is {k}");
            }
            Ok(())
        }
        Some(GivenCentres::Table(name)) => table_of_centres(session, name).await.map(drop),
        None => Ok(()),
    }
}

async fn table_of_centres(session: &SessionContext, name: &str) -> Result<DataFrame> {
    match session.table(name).await {
        Ok(table) => Ok(table),
        Err(error) => user_err!("init 'table:{name}': {}", error.strip_backtrace()),
    }
}

impl Fit<'_> {
    /// The centres that the fit begins with, by its features.
    pub(super) async fn given_centres(&self, prepared: &Prepared) -> Result<Option<Centroids>> {
        let Some(given) = &self.options.given else { return Ok(None) };
        let centres = match given {
            GivenCentres::Model(name) => self.centres_of_model(name, prepared).await?,
            GivenCentres::Table(name) => self.centres_of_table(name, prepared).await?,
        };
        let (n, k, d) = (centres.len(), self.options.n_clusters, prepared.profile.n_features());
        if n > k && matches!(given, GivenCentres::Table(_)) {
            return user_err!("init '{given}' gives more centres than n_clusters, which is {k}");
        }
        if n != k {
            return user_err!("init '{given}' gives {n} centres, but n_clusters is {k}");
        }
        if let Some(wrong) = centres.iter().find(|centre| centre.len() != d) {
            return user_err!("init '{given}': a centre has {} numbers, but the query gives {d} features", wrong.len());
        }
        let values = centres.into_iter().flat_map(|mut values| {
            if self.options.metric == Metric::Cosine {
                to_unit_length(&mut values);
            }
            values
        });
        Centroids::try_new(d, values.collect()).map(Some).map_err(external)
    }

    async fn centres_of_model(&self, name: &str, prepared: &Prepared) -> Result<Vec<Vec<f64>>> {
        let models = self.context.models;
        let old = models.load(models.get(name).await?).await?;
        let clusters: Vec<u32> = (0..old.manifest.n_clusters as u32).collect();
        let (vocabulary, d) = (prepared.vocabulary.as_ref(), prepared.profile.n_features());
        let Some(centres) = centres_in(&old, &clusters, &prepared.features, vocabulary, d) else {
            return user_err!("init 'model:{name}': that model was trained on other features than the query gives");
        };
        Ok(centres.into_iter().map(|centre| centre.values).collect())
    }

    /// In the order of their numbers, or else of their values: rows of a table have none.
    async fn centres_of_table(&self, name: &str, prepared: &Prepared) -> Result<Vec<Vec<f64>>> {
        let table = table_of_centres(&self.context.session, name).await?;
        let (columns, data_type) = match &prepared.features {
            ModelFeatures::Text { column, .. } => (vec![column.clone()], DataType::Utf8),
            ModelFeatures::Columns(columns) => (columns.clone(), DataType::Float64),
            ModelFeatures::List { column } => {
                (vec![column.clone()], DataType::List(Arc::new(Field::new_list_field(DataType::Float64, true))))
            }
        };
        let has = |name: &str| table.schema().has_column_with_unqualified_name(name);
        if let Some(missing) = columns.iter().find(|column| !has(column)) {
            return user_err!("init 'table:{name}': it has no column {missing:?}, which the query clusters");
        }
        let column = |name: &str| Expr::Column(Column::from_name(name));
        // Equal numbers are told apart by the values: the order must not depend on where rows lie.
        let number = has(CLUSTER_COLUMN).then(|| CLUSTER_COLUMN.to_string());
        let order = number.iter().chain(&columns).map(|name| column(name).sort(true, false)).collect();
        let values = columns.iter().map(|name| cast(column(name), data_type.clone()).alias(name));
        // One more than fits is enough to see that they are too many.
        let rows =
            table.sort(order)?.select(values.collect::<Vec<_>>())?.limit(0, Some(self.options.n_clusters + 1))?;
        let rows = bind_models(rows.into_unoptimized_plan(), self.context.models, self.context.cache).await?;
        let session = Arc::clone(&self.context.session);
        let plan = aside(async move { session.state().create_physical_plan(&rows).await }).await?;
        let job = format!("fit {}: given centres", self.id);
        let batches = self.context.cluster.run(&job, Arc::clone(&self.context.session), plan).await?;
        let mut centres = vec![];
        for batch in &batches {
            read_centres(name, batch, prepared, &mut centres)?;
        }
        Ok(centres)
    }
}

fn read_centres(table: &str, batch: &RecordBatch, prepared: &Prepared, centres: &mut Vec<Vec<f64>>) -> Result<()> {
    let columns: Vec<ArrayRef> = batch.columns().to_vec();
    let mut texts = match (&prepared.features, &prepared.vocabulary) {
        (ModelFeatures::Text { params, .. }, Some(vocabulary)) => {
            Some(Vectorizer::try_new(params, vocabulary).map_err(external)?)
        }
        _ => None,
    };
    for i in 0..batch.num_rows() {
        let mut values = vec![];
        match &mut texts {
            Some(vectorizer) if columns[0].is_valid(i) => {
                let text = columns[0].as_string::<i32>().value(i);
                values = vec![0.0; prepared.profile.n_features()];
                vectorizer.row(text).iter().for_each(|&(term, x)| values[term as usize] = x);
                if values.iter().all(|x| *x == 0.0) {
                    return user_err!("init 'table:{table}': {text:?} has no term of the vocabulary");
                }
            }
            None if read_numbers(&columns, i, &mut values) => {
                if let Err(error) = check_feature_values(&values) {
                    return user_err!("init 'table:{table}': {}", plain_text(&error));
                }
            }
            _ => return user_err!("init 'table:{table}': a centre has a NULL"),
        }
        centres.push(values);
    }
    Ok(())
}
