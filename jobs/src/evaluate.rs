//! EVALUATE MODEL: how well a model fits rows, those it was trained on or others.

use std::sync::Arc;

use covey_engine::models::Model;
use covey_engine::threads::aside;
use covey_engine::user_err;
use covey_udfs::WeightUnitsFunc;
use covey_udfs::kmeans::davies_bouldin;
use covey_udfs::matrix::WEIGHT_ONE;
use datafusion::arrow::array::{AsArray, Float64Array, RecordBatch, StringArray, UInt32Array, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Float64Type, Int32Type, Int64Type, Schema, SchemaRef};
use datafusion::common::Column;
use datafusion::error::Result;
use datafusion::execution::FunctionRegistry;
use datafusion::functions_aggregate::expr_fn::{count, sum};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, ScalarUDF, cast, col, lit};
use datafusion::prelude::SessionContext;

use crate::Cluster;
use crate::fit::WEIGHT_COLUMN;

pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("model", DataType::Utf8, false),
        Field::new("version", DataType::UInt64, false),
        Field::new("clusters", DataType::UInt32, false),
        Field::new("rows", DataType::UInt64, false),
        Field::new("size", DataType::Float64, false),
        Field::new("inertia", DataType::Float64, false),
        Field::new("silhouette", DataType::Float64, true),
        Field::new("davies_bouldin", DataType::Float64, true),
    ]))
}

/// The rows of `query` by cluster: how many, Σ w, Σ w·d², Σ w·d, and Σ w·s of the simplified silhouettes. Rows with NULL
/// in a feature take no part.
pub fn plan(session: &SessionContext, model: &str, query: LogicalPlan) -> Result<LogicalPlan> {
    let columns = query.schema().iter().map(|(qualifier, field)| Column::new(qualifier.cloned(), field.name()));
    let (weights, features): (Vec<Column>, Vec<Column>) = columns.partition(|column| column.name == WEIGHT_COLUMN);
    if features.is_empty() {
        return user_err!("the query of EVALUATE MODEL has no column that the model could take");
    }
    let of_row = |function: &str| {
        let model = lit(model);
        let args = std::iter::once(model).chain(features.iter().cloned().map(Expr::Column)).collect();
        Ok::<_, datafusion::error::DataFusionError>(session.udf(function)?.call(args))
    };
    // Weights are checked, and kept, as those of a fit are.
    let units =
        |weight| ScalarUDF::from(WeightUnitsFunc::default()).call(vec![cast(Expr::Column(weight), DataType::Float64)]);
    let weight = |weight| cast(units(weight), DataType::Float64) / lit(WEIGHT_ONE as f64);
    let weight = weights.into_iter().next().map_or(lit(1.0), weight);
    LogicalPlanBuilder::from(query.clone())
        .project(vec![
            of_row("predict")?.alias("of_cluster"),
            of_row("cluster_distance")?.alias("distance"),
            of_row("cluster_silhouette")?.alias("silhouette"),
            weight.alias("weight"),
        ])?
        .filter(col("of_cluster").is_not_null())?
        .aggregate(
            vec![col("of_cluster")],
            vec![
                count(lit(1)).alias("n"),
                sum(col("weight")).alias("size"),
                sum(col("weight") * col("distance") * col("distance")).alias("inertia"),
                sum(col("weight") * col("distance")).alias("distances"),
                sum(col("weight") * col("silhouette")).alias("silhouettes"),
            ],
        )?
        .build()
}

/// Runs a plan of [`plan`], bound to `model`.
pub async fn run(
    cluster: &dyn Cluster,
    session: &Arc<SessionContext>,
    model: &Model,
    plan: LogicalPlan,
) -> Result<RecordBatch> {
    let planning = Arc::clone(session);
    let physical = aside(async move { planning.state().create_physical_plan(&plan).await }).await?;
    let name = format!("evaluate {}", model.manifest.name);
    let batches = cluster.run(&name, Arc::clone(session), physical).await?;
    let (mut rows, mut totals) = (0_u64, [0.0; 3]);
    let mut means: Vec<Option<f64>> = vec![None; model.manifest.n_clusters];
    for batch in &batches {
        let clusters = batch.column(0).as_primitive::<Int32Type>().values();
        let counts = batch.column(1).as_primitive::<Int64Type>().values();
        let number = |column: usize, i: usize| batch.column(column).as_primitive::<Float64Type>().value(i);
        for (i, (cluster, n)) in clusters.iter().zip(counts).enumerate() {
            rows += *n as u64;
            let [size, inertia, distances, silhouettes] = [2, 3, 4, 5].map(|column| number(column, i));
            totals.iter_mut().zip([size, inertia, silhouettes]).for_each(|(total, x)| *total += x);
            if size > 0.0 {
                means[*cluster as usize] = Some(distances / size);
            }
        }
    }
    if rows == 0 {
        return user_err!("the query of EVALUATE MODEL gave no rows without NULL: there is nothing to evaluate");
    }
    let [size, inertia, silhouettes] = totals;
    let silhouette = (model.manifest.n_clusters > 1 && size > 0.0).then(|| silhouettes / size);
    let manifest = &model.manifest;
    Ok(RecordBatch::try_new(
        schema(),
        vec![
            Arc::new(StringArray::from(vec![manifest.name.as_str()])),
            Arc::new(UInt64Array::from(vec![manifest.version])),
            Arc::new(UInt32Array::from(vec![means.iter().flatten().count() as u32])),
            Arc::new(UInt64Array::from(vec![rows])),
            Arc::new(Float64Array::from(vec![size])),
            Arc::new(Float64Array::from(vec![inertia])),
            Arc::new(Float64Array::from(vec![silhouette])),
            Arc::new(Float64Array::from(vec![davies_bouldin(&model.files.centroids, &means)])),
        ],
    )?)
}
