//! Table functions that read models, the board and the catalog: `model_clusters`, `model_terms`, `model_iterations`,
//! `model_elbow`, `model_examples`, `covey_jobs`, `covey_functions`, `covey_tables`, `covey_columns`. Their rows are made on
//! the scheduler when the query is planned, and are few.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use covey_engine::catalog::Catalog;
use covey_engine::models::{Example, Model, ModelRegistry};
use covey_engine::user_err;
use covey_udfs::kmeans::EXAMPLES_MAX;
use covey_udfs::matrix::WEIGHT_ONE;
use datafusion::arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt32Array, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::{Session, TableFunctionImpl};
use datafusion::datasource::TableProvider;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;

use crate::board::JobBoard;
use crate::{catalog_functions, sql_functions};

/// Terms that `model_terms` gives for each cluster when it is not told.
const TERMS_DEFAULT: usize = 10;

/// Rows nearest and farthest that `model_examples` gives for each cluster when it is not told.
const EXAMPLES_DEFAULT: usize = 3;

/// Terms that `model_clusters` shows of each cluster.
const TERMS_SHOWN: usize = 5;

pub fn register(session: &SessionContext, models: &ModelRegistry, board: &Arc<JobBoard>, catalog: &Catalog) {
    for view in [
        View::Clusters,
        View::Terms { n: TERMS_DEFAULT },
        View::Iterations,
        View::Elbow,
        View::Examples { n: EXAMPLES_DEFAULT },
    ] {
        let name = view.function();
        session.register_udtf(name, Arc::new(ModelFunction { models: models.clone(), view }));
    }
    for table in [
        SystemTable::Jobs(Arc::clone(board)),
        SystemTable::Functions(catalog.clone()),
        SystemTable::Tables(catalog.clone()),
        SystemTable::Columns(catalog.clone()),
    ] {
        session.register_udtf(table.function(), Arc::new(ArgumentlessFunction { table }));
    }
}

/// What a function shows of a model.
#[derive(Debug, Clone, Copy)]
enum View {
    Clusters,
    Terms { n: usize },
    Iterations,
    Elbow,
    Examples { n: usize },
}

impl View {
    fn function(self) -> &'static str {
        match self {
            Self::Clusters => "model_clusters",
            Self::Terms { .. } => "model_terms",
            Self::Iterations => "model_iterations",
            Self::Elbow => "model_elbow",
            Self::Examples { .. } => "model_examples",
        }
    }

    fn schema(self) -> SchemaRef {
        let fields = match self {
            Self::Clusters => vec![
                Field::new("cluster", DataType::UInt32, false),
                Field::new("size", DataType::Float64, false),
                Field::new("share", DataType::Float64, false),
                Field::new("distinct_rows", DataType::UInt64, false),
                Field::new("inertia", DataType::Float64, false),
                Field::new("label", DataType::Utf8, true),
                Field::new("top_terms", DataType::Utf8, false),
                Field::new("example", DataType::Utf8, true),
                Field::new("label_match", DataType::Float64, true),
                Field::new("reclustered_by", DataType::Utf8, true),
            ],
            Self::Terms { .. } => vec![
                Field::new("cluster", DataType::UInt32, false),
                Field::new("rank", DataType::UInt32, false),
                Field::new("term", DataType::Utf8, false),
                Field::new("weight", DataType::Float64, false),
            ],
            Self::Iterations => vec![
                Field::new("run", DataType::UInt32, false),
                Field::new("iteration", DataType::UInt32, false),
                Field::new("clusters", DataType::UInt32, false),
                Field::new("inertia", DataType::Float64, false),
                Field::new("squared_shift", DataType::Float64, false),
                Field::new("empty_clusters", DataType::UInt32, false),
                Field::new("size", DataType::Float64, false),
                Field::new("distinct_rows", DataType::UInt64, false),
                Field::new("executors", DataType::UInt32, false),
                Field::new("distinct_rows_by_executor", DataType::Utf8, false),
                Field::new("cache_hits", DataType::UInt64, false),
                Field::new("cache_misses", DataType::UInt64, false),
                Field::new("spared_rows", DataType::UInt64, false),
            ],
            Self::Examples { .. } => vec![
                Field::new("cluster", DataType::UInt32, false),
                Field::new("kind", DataType::Utf8, false),
                Field::new("rank", DataType::UInt32, false),
                Field::new("distance", DataType::Float64, true),
                Field::new("size", DataType::Float64, false),
                Field::new("example", DataType::Utf8, false),
            ],
            Self::Elbow => vec![
                Field::new("clusters", DataType::UInt32, false),
                Field::new("inertia", DataType::Float64, false),
                Field::new("silhouette", DataType::Float64, true),
                Field::new("davies_bouldin", DataType::Float64, true),
                Field::new("iterations", DataType::UInt32, false),
                Field::new("chosen_by", DataType::Utf8, true),
            ],
        };
        Arc::new(Schema::new(fields))
    }

    fn rows(self, model: &Model) -> Result<RecordBatch> {
        let columns = match self {
            Self::Clusters => cluster_rows(model),
            Self::Terms { n } => term_rows(model, n),
            Self::Iterations => iteration_rows(model),
            Self::Elbow => elbow_rows(model)?,
            Self::Examples { n } => example_rows(model, n),
        };
        Ok(RecordBatch::try_new(self.schema(), columns)?)
    }
}

fn cluster_rows(model: &Model) -> Vec<ArrayRef> {
    let clusters = &model.files.clusters;
    let total: f64 = clusters.iter().map(|cluster| cluster.size).sum();
    let terms = |cluster: u32| {
        let terms: Vec<String> =
            model.top_terms(cluster as usize, TERMS_SHOWN).into_iter().map(|(term, _)| term).collect();
        terms.join(" ")
    };
    let manifest = &model.manifest;
    let labels = clusters.iter().map(|cluster| manifest.labels.get(&cluster.cluster));
    let matches = clusters.iter().map(|cluster| Some(manifest.label_matches.get(&cluster.cluster)?.0));
    let children = clusters.iter().map(|cluster| manifest.children.get(&cluster.cluster));
    vec![
        Arc::new(UInt32Array::from_iter_values(clusters.iter().map(|cluster| cluster.cluster))),
        Arc::new(Float64Array::from_iter_values(clusters.iter().map(|cluster| cluster.size))),
        Arc::new(Float64Array::from_iter_values(clusters.iter().map(|cluster| cluster.size / total))),
        Arc::new(UInt64Array::from_iter_values(clusters.iter().map(|cluster| cluster.n_points))),
        Arc::new(Float64Array::from_iter_values(clusters.iter().map(|cluster| cluster.inertia))),
        Arc::new(StringArray::from_iter(labels)),
        Arc::new(StringArray::from_iter_values(clusters.iter().map(|cluster| terms(cluster.cluster)))),
        Arc::new(StringArray::from_iter(clusters.iter().map(|cluster| cluster.example.as_deref()))),
        Arc::new(Float64Array::from_iter(matches)),
        Arc::new(StringArray::from_iter(children)),
    ]
}

fn term_rows(model: &Model, n: usize) -> Vec<ArrayRef> {
    let rows: Vec<(u32, u32, String, f64)> = (0..model.manifest.n_clusters)
        .flat_map(|cluster| {
            let ranked = (1..).zip(model.top_terms(cluster, n));
            ranked.map(move |(rank, (term, weight))| (cluster as u32, rank, term, weight))
        })
        .collect();
    vec![
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| row.0))),
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| row.1))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.2))),
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.3))),
    ]
}

fn iteration_rows(model: &Model) -> Vec<ArrayRef> {
    let rows = &model.files.iterations;
    let executors = |row: &covey_engine::models::IterationRow| {
        let parts: Vec<String> =
            row.work.points_by_executor.iter().map(|(id, points)| format!("{id}={points}")).collect();
        parts.join(" ")
    };
    vec![
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| row.run as u32))),
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| row.stats.iteration as u32))),
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| row.stats.n_clusters as u32))),
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.stats.inertia))),
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.stats.squared_shift))),
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| row.stats.n_empty as u32))),
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.stats.weight as f64 / WEIGHT_ONE as f64))),
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.stats.n_points))),
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| row.work.points_by_executor.len() as u32))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(executors))),
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.work.cache_hits))),
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.work.cache_misses))),
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.work.skipped))),
    ]
}

fn example_rows(model: &Model, n: usize) -> Vec<ArrayRef> {
    type ExampleOf<'a> = (u32, &'static str, u32, &'a Example);
    let mut rows: Vec<ExampleOf<'_>> = vec![];
    for cluster in &model.files.clusters {
        for (kind, examples) in [("nearest", &cluster.nearest), ("farthest", &cluster.farthest)] {
            rows.extend((1..).zip(examples.iter().take(n)).map(|(rank, row)| (cluster.cluster, kind, rank, row)));
        }
    }
    vec![
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| row.0))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.1))),
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| row.2))),
        Arc::new(Float64Array::from_iter(rows.iter().map(|row| row.3.distance))),
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.3.size))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.3.text))),
    ]
}

fn elbow_rows(model: &Model) -> Result<Vec<ArrayRef>> {
    let Some(elbow) = &model.files.elbow else {
        return user_err!(
            "model {:?} has no elbow: its number of clusters was given; n_clusters 'auto' looks for it",
            model.manifest.name
        );
    };
    let points = &elbow.points;
    let chosen = |k: usize| (k == elbow.choice.n_clusters()).then(|| elbow.choice.reason());
    Ok(vec![
        Arc::new(UInt32Array::from_iter_values(points.iter().map(|point| point.n_clusters as u32))),
        Arc::new(Float64Array::from_iter_values(points.iter().map(|point| point.inertia))),
        Arc::new(Float64Array::from_iter(points.iter().map(|point| point.silhouette))),
        Arc::new(Float64Array::from_iter(points.iter().map(|point| point.davies_bouldin))),
        Arc::new(UInt32Array::from_iter_values(points.iter().map(|point| point.n_iter as u32))),
        Arc::new(StringArray::from_iter(points.iter().map(|point| chosen(point.n_clusters)))),
    ])
}

/// `model_clusters('m')`, `model_terms('m' [, n])`, `model_iterations('m')`, `model_elbow('m')`,
/// `model_examples('m' [, n])`.
#[derive(Debug)]
struct ModelFunction {
    models: ModelRegistry,
    view: View,
}

impl TableFunctionImpl for ModelFunction {
    fn call(&self, args: &[Expr]) -> Result<Arc<dyn TableProvider>> {
        let function = self.view.function();
        let name = match args.first() {
            Some(Expr::Literal(value, _)) => value.try_as_str().flatten(),
            _ => None,
        };
        let count = |limit: usize| match args.get(1) {
            Some(Expr::Literal(value, _)) => value.to_string().parse().ok().filter(|n| *n <= limit),
            _ => None,
        };
        let view = match (self.view, args.get(1)) {
            (view, None) => Some(view),
            (View::Terms { .. }, Some(_)) => count(usize::MAX).map(|n| View::Terms { n }),
            (View::Examples { .. }, Some(_)) => count(EXAMPLES_MAX).map(|n| View::Examples { n }),
            (_, Some(_)) => None,
        };
        let (Some(name), Some(view), true) = (name, view, args.len() <= 2) else {
            let (more, numbers) = match self.view {
                View::Terms { .. } => (" [, terms]", ", and how many terms as a whole number".to_string()),
                View::Examples { .. } => {
                    (" [, examples]", format!(", and how many examples as a whole number up to {EXAMPLES_MAX}"))
                }
                _ => ("", String::new()),
            };
            return user_err!(
                "{function} takes the name of a model as a literal string{numbers}: {function}('model'{more})"
            );
        };
        Ok(Arc::new(SystemTable::Model { models: self.models.clone(), name: name.to_string(), view }))
    }
}

#[derive(Debug)]
struct ArgumentlessFunction {
    table: SystemTable,
}

impl TableFunctionImpl for ArgumentlessFunction {
    fn call(&self, args: &[Expr]) -> Result<Arc<dyn TableProvider>> {
        if !args.is_empty() {
            return user_err!("{} takes no arguments", self.table.function());
        }
        Ok(Arc::new(self.table.clone()))
    }
}

/// A table that only the scheduler knows. A query over nothing else runs there, also when executors are busy.
#[derive(Clone)]
pub enum SystemTable {
    #[expect(private_interfaces, reason = "made by this module only")]
    Model {
        models: ModelRegistry,
        name: String,
        view: View,
    },
    Jobs(Arc<JobBoard>),
    Functions(Catalog),
    Tables(Catalog),
    Columns(Catalog),
}

impl SystemTable {
    fn function(&self) -> &'static str {
        match self {
            Self::Model { view, .. } => view.function(),
            Self::Jobs(_) => "covey_jobs",
            Self::Functions(_) => "covey_functions",
            Self::Tables(_) => "covey_tables",
            Self::Columns(_) => "covey_columns",
        }
    }
}

impl fmt::Debug for SystemTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Model { name, .. } => write!(f, "{}({name:?})", self.function()),
            _ => write!(f, "{}()", self.function()),
        }
    }
}

#[async_trait]
impl TableProvider for SystemTable {
    fn schema(&self) -> SchemaRef {
        match self {
            Self::Model { view, .. } => view.schema(),
            Self::Jobs(_) => JobBoard::schema(),
            Self::Functions(_) => sql_functions::listed_schema(),
            Self::Tables(_) => catalog_functions::tables_schema(),
            Self::Columns(_) => catalog_functions::columns_schema(),
        }
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        _session: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let batch = match self {
            Self::Model { models, name, view } => {
                let mut manifest = models.get(name).await?;
                let children = models.children(&manifest).await?;
                manifest.children = children.into_iter().map(|(cluster, child)| (cluster, child.name)).collect();
                view.rows(&models.load(manifest).await?)?
            }
            Self::Jobs(board) => board.rows()?,
            Self::Functions(catalog) => sql_functions::listed(&catalog.snapshot())?,
            Self::Tables(catalog) => catalog_functions::tables(&catalog.snapshot())?,
            Self::Columns(catalog) => catalog_functions::table_columns(&catalog.snapshot())?,
        };
        Ok(MemorySourceConfig::try_new_exec(&[vec![batch]], self.schema(), projection.cloned())?)
    }
}
