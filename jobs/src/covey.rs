//! One place that takes SQL and says what becomes of it.

use std::sync::Arc;

use ballista_core::planner::scans_only_information_schema;
use covey_engine::catalog::{Catalog, IfTaken, Snapshot};
use covey_engine::distribution::analyzed;
use covey_engine::models::cache::ModelCache;
use covey_engine::models::{Manifest, ModelRegistry, Parent, check_cluster};
use covey_engine::session::CATALOG;
use covey_engine::storage::{Directory, ObjectStores};
use covey_engine::user_err;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::Column;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::source_as_provider;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::{DdlStatement, Expr, LogicalPlan, LogicalPlanBuilder, cast};
use datafusion::prelude::SessionContext;

use crate::board::{JobBoard, JobHandle};
use crate::definitions::{define, resolve};
use crate::fit::{FitContext, FitHub, create_model, explain_fit, feature_names};
use crate::functions::{SystemTable, register};
use crate::results::{count_schema, created_model, listed_models, optimized, result_schema};
use crate::sql_functions::{expand, expanded_query, function_of};
use crate::statements::{
    ClusterStatement, Commented, CreateModel, Recluster, check_depth, parse, parse_query, quote_cluster, quoted,
    refuse_wrong,
};
use crate::upstream::spell_out_nested_values;
use crate::writes::{
    Writer, name_columns, optimize, remove_old, sweep_tables, take_back_old_writes, take_partitioned_by, write,
};
use crate::{Cluster, bind_models, evaluate, parameters};

/// What every session of one scheduler shares.
pub struct Covey {
    cluster: Arc<dyn Cluster>,
    warehouse: Directory,
    stores: Arc<ObjectStores>,
    catalog: Catalog,
    models: ModelRegistry,
    cache: Arc<ModelCache>,
    hub: Arc<FitHub>,
    board: Arc<JobBoard>,
}

/// A statement that was read and planned, and can be run, once or often.
#[derive(Debug, Clone)]
pub enum Prepared {
    /// One of our statements; the query of CREATE MODEL is planned and bound.
    Ours { statement: ClusterStatement, query: Option<LogicalPlan> },
    /// Runs in the scheduler: it changes the session, or reads what only the scheduler knows.
    Local(LogicalPlan),
    /// Runs on executors.
    Distributed(LogicalPlan),
    /// Writes rows on executors; a table that is created gets directories of the columns `partitioned_by`.
    Write { plan: LogicalPlan, partitioned_by: Vec<String> },
    /// Can be run when values are bound to its parameters.
    Parameterized { plan: LogicalPlan, parameters: usize, partitioned_by: Vec<String> },
}

impl Prepared {
    /// The schema of the rows that the statement gives.
    pub fn schema(&self) -> SchemaRef {
        match self {
            Self::Ours { statement, .. } => result_schema(statement),
            // A view's columns are those of its query, and its definition gives no rows.
            Self::Local(LogicalPlan::Ddl(_)) => Arc::new(Schema::empty()),
            Self::Local(plan) | Self::Distributed(plan) => Arc::clone(plan.schema().inner()),
            Self::Write { .. } => count_schema(),
            Self::Parameterized { plan, .. } if is_write(plan) => count_schema(),
            Self::Parameterized { plan, .. } => Arc::clone(plan.schema().inner()),
        }
    }

    /// The parameters of the statement, with the types that they should have.
    pub fn parameters(&self) -> Result<Schema> {
        match self {
            Self::Parameterized { plan, parameters, .. } => parameters::schema_of(plan, *parameters),
            _ => Ok(Schema::empty()),
        }
    }

    /// The statement with these values in the place of its parameters.
    ///
    /// # Errors
    /// When they do not fit.
    pub fn with_parameters(&self, rows: &[RecordBatch]) -> Result<Self> {
        match self {
            Self::Parameterized { plan, parameters, partitioned_by } => {
                place(parameters::bind(plan, *parameters, rows)?, partitioned_by.clone())
            }
            _ if rows.iter().all(|rows| rows.num_rows() == 0 || rows.num_columns() == 0) => Ok(self.clone()),
            _ => user_err!("values are bound to a statement that has no parameters"),
        }
    }
}

impl Covey {
    pub fn try_new(
        cluster: Arc<dyn Cluster>,
        warehouse: Directory,
        stores: Arc<ObjectStores>,
        catalog: Catalog,
        cache: Arc<ModelCache>,
        hub: Arc<FitHub>,
    ) -> Result<Self> {
        let models = ModelRegistry::new(&warehouse)?;
        Ok(Self { cluster, warehouse, stores, catalog, models, cache, hub, board: Arc::default() })
    }

    /// Gives the session that all others are made from the catalog, and the functions that read models and the board.
    pub fn register(&self, session: &SessionContext) {
        session.register_catalog(CATALOG, Arc::new(self.catalog.clone()));
        self.catalog.attach(session.state_weak_ref());
        register(session, &self.models, &self.board, &self.catalog);
    }

    pub(crate) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    pub(crate) fn warehouse(&self) -> &Directory {
        &self.warehouse
    }

    /// To be called before anything is said about the catalog: sees what other processes have changed.
    pub async fn refresh(&self) -> Result<()> {
        self.catalog.refresh().await
    }

    /// Puts a statement on the board.
    pub fn start(&self, sql: &str) -> JobHandle {
        self.board.start(sql.trim())
    }

    /// Reads and plans one statement.
    pub async fn prepare(&self, session: &SessionContext, sql: &str) -> Result<Prepared> {
        check_depth(sql)?;
        let sql = &quote_cluster(sql);
        self.catalog.refresh().await?;
        let Some(mut statement) = parse(sql)? else {
            let state = session.state();
            let mut statement = state.sql_to_statement(sql, &state.config().options().sql_parser.dialect)?;
            refuse_wrong(&statement)?;
            // Functions put an argument where they need it, also twice or never.
            let parameters = parameters::number(&mut statement)?;
            expand(&mut statement, &self.catalog.snapshot())?;
            let partitioned_by = take_partitioned_by(&mut statement)?;
            name_columns(session, &mut statement).await?;
            spell_out_nested_values(&mut statement)?;
            let plan = state.statement_to_plan(statement).await?;
            let plan = self.bind(plan).await?;
            return match parameters {
                0 if is_query(&plan) || is_table_of_query(&plan) => place(analyzed(&state, plan)?, partitioned_by),
                0 => place(plan, partitioned_by),
                _ => Ok(Prepared::Parameterized { plan, parameters, partitioned_by }),
            };
        };
        let query = match &mut statement {
            ClusterStatement::CreateModel(create) | ClusterStatement::ExplainCreateModel(create) => {
                let query = expanded_query(&self.training_query(session, create).await?, &self.catalog.snapshot())?;
                let plan = session.state().statement_to_plan(parse_query(&query)?).await?;
                create.query = Some(query);
                Some(self.bind(plan).await?)
            }
            ClusterStatement::Evaluate { name, query } => {
                let query = expanded_query(query, &self.catalog.snapshot())?;
                let plan = session.state().statement_to_plan(parse_query(&query)?).await?;
                Some(self.bind(evaluate::plan(session, name, plan)?).await?)
            }
            ClusterStatement::Optimize { query, .. } => {
                Some(session.state().statement_to_plan(parse_query(query)?).await?)
            }
            _ => None,
        };
        Ok(Prepared::Ours { statement, query })
    }

    /// The query whose rows are clustered. Of a cluster that is clustered again these are its rows of the query that is
    /// given, or else of the one that its model was trained on.
    async fn training_query(&self, session: &SessionContext, create: &CreateModel) -> Result<String> {
        let Some(Recluster { cluster, model }) = &create.recluster else {
            return match &create.query {
                Some(query) => Ok(query.clone()),
                None => user_err!("CREATE MODEL came without its query"),
            };
        };
        if *model == create.name {
            return user_err!("model {model:?} cannot take the place of the model whose cluster it is made of");
        }
        let parent = self.models.get(model).await?;
        check_cluster(&parent, *cluster)?;
        if create.query.is_none() {
            self.check_ancestors(&parent).await?;
        }
        let Some(query) = create.query.clone().or(parent.query) else {
            return user_err!(
                "it is not known what model {model:?} was trained on: give the rows, RECLUSTER {cluster} OF {model} AS SELECT ..."
            );
        };
        let plan = session.state().statement_to_plan(parse_query(&query)?).await?;
        let features = feature_names(&plan).map(|name| quoted(&name)).collect::<Vec<_>>().join(", ");
        Ok(format!("SELECT * FROM ({query}) AS training WHERE predict('{model}', {features}) = {cluster}"))
    }

    /// # Errors
    /// When a model above `model` is not the one any more whose cluster it was made of: then its rows are not known.
    async fn check_ancestors(&self, model: &Manifest) -> Result<()> {
        let mut below = model.clone();
        while let Some(Parent { model: name, version, cluster }) = below.parent {
            let above = self.models.find(&name).await?.filter(|above| above.version == version);
            let Some(above) = above else {
                return user_err!(
                    "model {:?} was made of cluster {cluster} of version {version} of model {name:?}, which is gone: give the rows with AS SELECT ...",
                    below.name
                );
            };
            below = above;
        }
        Ok(())
    }

    /// The plan with every model it means. A view is checked and kept as it is: it means the models that are there
    /// when it is queried.
    async fn bind(&self, plan: LogicalPlan) -> Result<LogicalPlan> {
        if matches!(plan, LogicalPlan::Ddl(DdlStatement::CreateView(_))) {
            bind_models(plan.clone(), &self.models, &self.cache).await?;
            return Ok(plan);
        }
        bind_models(plan, &self.models, &self.cache).await
    }

    /// # Errors
    /// When the cluster has no executor.
    pub async fn require_executors(&self) -> Result<()> {
        self.cluster.require_executors().await
    }

    /// Runs one of our statements.
    pub async fn run(
        &self,
        session: &Arc<SessionContext>,
        statement: &ClusterStatement,
        query: Option<&LogicalPlan>,
        job: &Arc<JobHandle>,
    ) -> Result<RecordBatch> {
        match (statement, query) {
            (ClusterStatement::CreateModel(create), Some(query)) => {
                self.create_model(session, create, query, job).await
            }
            (ClusterStatement::Evaluate { name, .. }, Some(query)) => {
                self.cluster.require_executors().await?;
                let model = self.models.load(self.models.get(name).await?).await?;
                job.stage("query");
                evaluate::run(self.cluster.as_ref(), session, &model, query.clone()).await
            }
            (ClusterStatement::ExplainCreateModel(create), Some(query)) => {
                explain_fit(&self.models, Arc::clone(session), create, query.clone()).await
            }
            (
                ClusterStatement::CreateModel(_)
                | ClusterStatement::ExplainCreateModel(_)
                | ClusterStatement::Evaluate { .. }
                | ClusterStatement::Optimize { .. },
                None,
            ) => user_err!("the statement came without its query"),
            (ClusterStatement::Optimize { name, .. }, Some(query)) => {
                job.stage("rewrite");
                optimized(optimize(&self.writer(session), name, query).await?)
            }
            (ClusterStatement::SetThreshold { name, threshold }, _) => {
                self.models.set_threshold(name, *threshold).await?;
                Ok(RecordBatch::new_empty(result_schema(statement)))
            }
            (ClusterStatement::CreateFunction(create), _) => {
                let if_taken =
                    IfTaken::of(create.if_not_exists, create.or_replace, &format!("function {}", create.name))?;
                let change = |snapshot: &mut Snapshot| {
                    let function = function_of(&session.state(), snapshot, create)?;
                    snapshot.put_function(&create.name, function, if_taken)
                };
                self.catalog.commit(change).await?;
                Ok(RecordBatch::new_empty(result_schema(statement)))
            }
            (ClusterStatement::DropFunction { name, if_exists }, _) => {
                self.catalog.commit(|snapshot| snapshot.remove_function(name, *if_exists)).await?;
                Ok(RecordBatch::new_empty(result_schema(statement)))
            }
            (ClusterStatement::Comment { on, comment }, _) => {
                self.set_comment(&session.state(), on, comment.as_deref()).await?;
                Ok(RecordBatch::new_empty(result_schema(statement)))
            }
            (ClusterStatement::ShowModels, _) => self.show_models().await,
            (ClusterStatement::DropModel { name, if_exists }, _) => {
                if !*if_exists || self.models.seen(name).await?.exists {
                    self.models.drop_model(name).await?;
                }
                Ok(RecordBatch::new_empty(result_schema(statement)))
            }
            (ClusterStatement::SetLabel { name, cluster, label }, _) => {
                self.models.set_label(name, *cluster, label.as_deref()).await?;
                Ok(RecordBatch::new_empty(result_schema(statement)))
            }
        }
    }

    async fn set_comment(&self, state: &SessionState, on: &Commented, comment: Option<&str>) -> Result<()> {
        match on {
            Commented::Model(name) => self.models.set_comment(name, comment).await.map(|_| ()),
            Commented::Table { name, kind } => {
                let name = resolve(state, name)?;
                self.catalog.commit(|snapshot| snapshot.set_comment(&name.schema, &name.table, kind, comment)).await
            }
            Commented::Column { table, column } => {
                let name = resolve(state, table)?;
                let change =
                    |snapshot: &mut Snapshot| snapshot.set_column_comment(&name.schema, &name.table, column, comment);
                self.catalog.commit(change).await
            }
        }
    }

    async fn create_model(
        &self,
        session: &Arc<SessionContext>,
        create: &CreateModel,
        query: &LogicalPlan,
        job: &Arc<JobHandle>,
    ) -> Result<RecordBatch> {
        if create.if_not_exists
            && let Some(manifest) = self.models.find(&create.name).await?
        {
            return created_model(manifest);
        }
        let context = FitContext {
            session: Arc::clone(session),
            cluster: self.cluster.as_ref(),
            models: &self.models,
            cache: &self.cache,
            warehouse: &self.warehouse,
            hub: &self.hub,
            job: Arc::clone(job),
        };
        match create_model(&context, create, query.clone()).await {
            Ok(manifest) => created_model(manifest),
            // Another statement may have been quicker; then the model exists, as was asked for.
            Err(error) if create.if_not_exists => match self.models.find(&create.name).await? {
                Some(manifest) => created_model(manifest),
                None => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    async fn show_models(&self) -> Result<RecordBatch> {
        let mut models = vec![];
        for (name, manifest) in self.models.list().await? {
            let error = match &manifest {
                Ok(manifest) => self.models.check_files(manifest).await.err(),
                Err(_) => None,
            };
            models.push((name, manifest, error));
        }
        listed_models(models)
    }

    /// Runs a statement that writes rows; how many.
    pub async fn write(
        &self,
        session: &Arc<SessionContext>,
        plan: LogicalPlan,
        partitioned_by: &[String],
    ) -> Result<u64> {
        write(&self.writer(session), plan, partitioned_by).await
    }

    fn writer(&self, session: &Arc<SessionContext>) -> Writer<'_> {
        Writer {
            cluster: self.cluster.as_ref(),
            session: Arc::clone(session),
            catalog: &self.catalog,
            warehouse: &self.warehouse,
            stores: Arc::clone(&self.stores),
        }
    }

    /// Cleans up after schedulers that were killed.
    pub async fn tidy(&self) -> Result<()> {
        sweep_tables(&self.catalog, &self.warehouse).await?;
        take_back_old_writes(&self.catalog, &self.warehouse, &self.stores).await?;
        remove_old(&self.catalog, &self.warehouse, &self.stores).await
    }

    /// Runs a local plan to its end.
    pub async fn run_local(
        &self,
        session: &SessionContext,
        plan: LogicalPlan,
    ) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        if let LogicalPlan::Ddl(statement) = &plan {
            define(&self.catalog, &self.stores, &session.state(), statement).await?;
            return Ok((Arc::new(Schema::empty()), vec![]));
        }
        let frame = session.execute_logical_plan(plan).await?;
        let schema = Arc::clone(frame.schema().inner());
        let batches = frame.collect().await?;
        Ok((batches.first().map_or(schema, RecordBatch::schema), batches))
    }
}

/// Where a plan runs.
fn place(plan: LogicalPlan, partitioned_by: Vec<String>) -> Result<Prepared> {
    refuse_recursion(&plan)?;
    if is_write(&plan) {
        return Ok(Prepared::Write { plan, partitioned_by });
    }
    refuse_writes(&plan)?;
    let here = match &plan {
        LogicalPlan::Ddl(_) | LogicalPlan::Statement(_) | LogicalPlan::Explain(_) | LogicalPlan::DescribeTable(_) => {
            true
        }
        _ => scans_only_information_schema(&plan).unwrap_or(false) || scans_only_system_tables(&plan)?,
    };
    let changes_nothing = !matches!(plan, LogicalPlan::Ddl(_) | LogicalPlan::Statement(_) | LogicalPlan::Explain(_));
    let plan = if changes_nothing { without_dictionaries(plan)? } else { plan };
    Ok(if here { Prepared::Local(plan) } else { Prepared::Distributed(plan) })
}

/// Clients are promised a schema before the rows, and not all of them can take dictionaries: such columns of the
/// result become what their dictionaries hold.
pub fn without_dictionaries(plan: LogicalPlan) -> Result<LogicalPlan> {
    let is_dictionary = |data_type: &DataType| matches!(data_type, DataType::Dictionary(_, _));
    if matches!(plan, LogicalPlan::Analyze(_)) || !plan.schema().fields().iter().any(|f| is_dictionary(f.data_type())) {
        return Ok(plan);
    }
    let columns: Vec<Expr> = plan
        .schema()
        .iter()
        .map(|(qualifier, field)| {
            let column = Expr::Column(Column::new(qualifier.cloned(), field.name()));
            match field.data_type() {
                DataType::Dictionary(_, values) => {
                    cast(column, values.as_ref().clone()).alias_qualified(qualifier.cloned(), field.name())
                }
                _ => column,
            }
        })
        .collect();
    LogicalPlanBuilder::from(plan).project(columns)?.build()
}

/// Whether nothing is scanned that executors would be needed for.
fn scans_only_system_tables(plan: &LogicalPlan) -> Result<bool> {
    let mut only = true;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            only = source_as_provider(&scan.source)?.downcast_ref::<SystemTable>().is_some();
        } else if matches!(node, LogicalPlan::Analyze(_)) {
            only = false;
        }
        Ok(if only { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    Ok(only)
}

/// Ballista has no stage for a plan that reads its own result.
fn refuse_recursion(plan: &LogicalPlan) -> Result<()> {
    plan.apply_with_subqueries(|node| match node {
        LogicalPlan::RecursiveQuery(query) => {
            user_err!(
                "WITH RECURSIVE {} is refused: a query that reads its own result does not run on a cluster",
                query.name
            )
        }
        _ => Ok(TreeNodeRecursion::Continue),
    })?;
    Ok(())
}

fn is_write(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::Dml(_) | LogicalPlan::Copy(_) | LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(_)))
}

/// Whether a plan makes a table of what a query gives.
fn is_table_of_query(plan: &LogicalPlan) -> bool {
    matches!(plan, LogicalPlan::Ddl(DdlStatement::CreateMemoryTable(_)))
}

/// Whether a plan gives the rows of a query, and nothing besides.
fn is_query(plan: &LogicalPlan) -> bool {
    let is_another_statement = matches!(
        plan,
        LogicalPlan::Ddl(_)
            | LogicalPlan::Statement(_)
            | LogicalPlan::Explain(_)
            | LogicalPlan::Analyze(_)
            | LogicalPlan::DescribeTable(_)
    );
    !is_another_statement && !is_write(plan)
}

/// A statement that writes is one of its own.
fn refuse_writes(plan: &LogicalPlan) -> Result<()> {
    plan.apply_with_subqueries(|node| match node {
        node if is_write(node) => {
            user_err!(
                "INSERT, COPY and CREATE TABLE AS are statements of their own: to see a plan, EXPLAIN the query alone"
            )
        }
        _ => Ok(TreeNodeRecursion::Continue),
    })?;
    Ok(())
}
