//! EXPLAIN CREATE MODEL: what a fit would do, without doing it.

use std::sync::Arc;

use covey_engine::coordinator::RUNS_AT_ONCE_MAX;
use covey_engine::models::{ModelFeatures, ModelRegistry};
use covey_engine::threads::aside;
use covey_udfs::kmeans::{Init, OVERSAMPLING, OVERSAMPLING_ROUNDS, start_of};
use datafusion::arrow::array::{RecordBatch, StringArray};
use datafusion::error::Result;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::displayable;
use datafusion::prelude::SessionContext;

use super::given::check_given;
use super::prepare::{check_options, collapse, features_of};
use super::{LOCAL_BYTES_MAX, see_free};
use crate::results::explained_schema;
use crate::statements::{CreateModel, Elbow, FitOptions, GivenCentres, Strategy};

/// The steps of the fit, and the plans of its query as EXPLAIN shows them.
///
/// # Errors
/// Where the fit would not begin.
pub(crate) async fn explain_fit(
    models: &ModelRegistry,
    session: Arc<SessionContext>,
    create: &CreateModel,
    query: LogicalPlan,
) -> Result<RecordBatch> {
    if !create.if_not_exists {
        see_free(models, create).await?;
    }
    check_given(models, &session, &create.options).await?;
    let features = features_of(&query)?;
    check_options(&create.options, &features)?;
    let steps = steps(create, &features, session.copied_config().target_partitions());
    let plan = session.state().optimize(&collapse(query, &features)?)?;
    let logical = plan.display_indent().to_string();
    let physical = aside(async move { session.state().create_physical_plan(&plan).await }).await?;
    let physical = displayable(physical.as_ref()).indent(false).to_string();
    Ok(RecordBatch::try_new(
        explained_schema(),
        vec![
            Arc::new(StringArray::from(vec!["fit", "logical_plan", "physical_plan"])),
            Arc::new(StringArray::from(vec![steps, logical, physical])),
        ],
    )?)
}

fn steps(create: &CreateModel, features: &ModelFeatures, partitions: usize) -> String {
    let options = &create.options;
    let mut lines = vec![
        format!("fit of model {:?}", create.name),
        "  prepare: the query below; equal rows become one weighted point; up to ".to_string()
            + &format!("{partitions} files"),
    ];
    match features {
        ModelFeatures::Text { column, .. } => {
            lines.push(format!("  count terms, vectorize: TF-IDF of column {column:?}, one block for each file"));
        }
        ModelFeatures::Columns(columns) => lines.push(format!("  features: {}", columns.join(", "))),
        ModelFeatures::List { column } => lines.push(format!("  features: the numbers of column {column:?}")),
    }
    lines.push(format!("  seed: {}", seeding(options)));
    lines.push(format!("  iterate: {}", iterations(options)));
    lines.push(format!("  strategy: {}", strategy(options.strategy)));
    lines.push("  summarize: sizes, inertia and examples of each cluster; the model is written".to_string());
    lines.join("\n")
}

fn seeding(options: &FitOptions) -> String {
    let n = options.elbow.map_or(options.n_clusters, |elbow| start_of(elbow.k_max));
    match (&options.given, options.init) {
        (Some(GivenCentres::Model(model)), _) => format!("the centres of model {model:?}"),
        (Some(GivenCentres::Table(table)), _) => format!("the rows of table {table:?}"),
        (None, Init::KMeansPlusPlus) => format!("{n} rows by k-means++"),
        (None, Init::KMeansParallel) => {
            format!(
                "{n} rows by k-means||: {OVERSAMPLING_ROUNDS} rounds that draw {} candidates each",
                OVERSAMPLING * n
            )
        }
        (None, Init::Random) => format!("{n} rows at random"),
    }
}

fn iterations(options: &FitOptions) -> String {
    let (runs, iterations) = (options.n_init, options.max_iter);
    match options.elbow {
        Some(elbow) => format!(
            "every k from {} down to {}, {runs} times, {}; at most {iterations} iterations for each",
            elbow.k_max,
            elbow.k_min,
            batch(elbow)
        ),
        None => format!("{runs} runs of at most {iterations} iterations, tol {}", options.tol),
    }
}

fn batch(elbow: Elbow) -> String {
    match elbow.k_batch {
        Some(1) => "one after the other".to_string(),
        Some(n) => format!("up to {n} of them in each pass"),
        None => format!(
            "one after the other (up to {RUNS_AT_ONCE_MAX} in each pass where blocks take more than {} MiB)",
            LOCAL_BYTES_MAX >> 20
        ),
    }
}

fn strategy(strategy: Strategy) -> String {
    let (one, many) =
        ("all iterations as one task, on all cores of an executor", "one job an iteration, on all executors");
    match strategy {
        Strategy::Local => format!("'local': {one}"),
        Strategy::Distributed => format!("'distributed': {many}"),
        Strategy::Auto => format!(
            "'auto': {one} ('local') if the blocks take up to {} MiB, which is known once they are there; else {many} ('distributed')",
            LOCAL_BYTES_MAX >> 20
        ),
    }
}
