//! Arrow Flight SQL: the one way in for statements, and a few actions for executors.
//!
//! Ballista's own Flight SQL service plans every statement itself, knows none of ours, and refuses writes; so
//! statements are handled here. What only describes the catalog is left to it.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;

use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::server::{FlightSqlService, PeekableFlightDataStream};
use arrow_flight::sql::{
    ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult,
    Any, CommandGetCatalogs, CommandGetDbSchemas, CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables,
    CommandGetXdbcTypeInfo, CommandPreparedStatementQuery, CommandPreparedStatementUpdate, CommandStatementIngest,
    CommandStatementQuery, CommandStatementUpdate, DoPutPreparedStatementResult, ProstMessageExt, SqlInfo,
    TableExistsOption, TableNotExistOption, TicketStatementQuery,
};
use arrow_flight::{
    Action, FlightData, FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest, HandshakeResponse, IpcMessage,
    SchemaAsIpc, Ticket,
};
use ballista_core::flight_proxy_service::BallistaFlightProxyService;
use ballista_flight_sql::BallistaFlightSqlService;
use ballista_flight_sql::backend::{QueryBackend, QueryResult};
use covey_engine::catalog::PUBLIC;
use covey_engine::coordinator::{
    FETCH_ACTION, JOIN_ACTION, OVER_ACTION, PRESENT_ACTION, Progress, RELEASE, REPORT_ACTION,
};
use covey_engine::failure::plain_text;
use covey_engine::threads::aside;
use covey_engine::{external, user_err};
use covey_jobs::{Covey, FitHub, IfMissing, IfThere, Ingest, Prepared, counted};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::ipc::writer::IpcWriteOptions;
use datafusion::common::{TableReference, internal_err};
use datafusion::error::DataFusionError;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use prost::Message;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use crate::cluster::{Answer, SchedulerCluster};
use crate::presence::Presences;
use crate::sessions::{Kept, fork};

/// Bytes of one message in which a published object travels.
const OBJECT_CHUNK_BYTES: usize = 4 << 20;

/// First byte of a ticket: rows on an executor, or rows kept here.
const ON_EXECUTOR: u8 = 0;
const KEPT_HERE: u8 = 1;

type DataStream = Pin<Box<dyn Stream<Item = Result<FlightData, Status>> + Send + 'static>>;
type ActionStream = <CoveyFlightService as FlightService>::DoActionStream;

/// A statement that a client prepared.
#[derive(Clone)]
struct Statement {
    sql: String,
    session: Arc<SessionContext>,
    prepared: Arc<Prepared>,
    /// With the values that were bound to its parameters last.
    bound: Option<Arc<Prepared>>,
}

/// What became of a statement: where its rows are, and how many it has written.
struct Outcome {
    schema: SchemaRef,
    endpoints: Vec<FlightEndpoint>,
    written: i64,
}

/// Rows that a client has not fetched yet.
type Rows = (SchemaRef, Arc<Vec<RecordBatch>>);

#[derive(Clone)]
pub struct CoveyFlightService {
    inner: Arc<Inner>,
}

struct Inner {
    covey: Covey,
    cluster: SchedulerCluster,
    proxy: BallistaFlightProxyService,
    hub: Arc<FitHub>,
    presences: Arc<Presences>,
    shared: Arc<SessionContext>,
    sessions: Kept<Arc<SessionContext>>,
    prepared: Kept<Statement>,
    results: Kept<Rows>,
    catalog: BallistaFlightSqlService<CatalogBackend>,
}

impl CoveyFlightService {
    pub fn new(
        covey: Covey,
        cluster: SchedulerCluster,
        proxy: BallistaFlightProxyService,
        hub: Arc<FitHub>,
        presences: Arc<Presences>,
        shared: Arc<SessionContext>,
    ) -> Self {
        let backend = Arc::new(CatalogBackend { session: Arc::clone(&shared) });
        let catalog = BallistaFlightSqlService::new(backend, proxy.clone());
        let inner = Inner {
            covey,
            cluster,
            proxy,
            hub,
            presences,
            shared,
            sessions: Kept::default(),
            prepared: Kept::default(),
            results: Kept::default(),
            catalog,
        };
        Self { inner: Arc::new(inner) }
    }

    /// The session of a request; clients that shook no hands share one.
    fn session(&self, metadata: &MetadataMap) -> Result<Arc<SessionContext>, Status> {
        let Some(token) = metadata.get("authorization").and_then(|value| value.to_str().ok()) else {
            return Ok(Arc::clone(&self.inner.shared));
        };
        let token = token.strip_prefix("Bearer ").or_else(|| token.strip_prefix("bearer ")).unwrap_or(token);
        self.inner
            .sessions
            .get(token)
            .ok_or_else(|| Status::unauthenticated("the session is unknown or was idle too long: connect again"))
    }

    /// Runs a statement and says where its rows are.
    async fn execute(&self, sql: &str, session: Arc<SessionContext>, prepared: &Prepared) -> Result<Outcome, Status> {
        let covey = &self.inner.covey;
        match prepared {
            Prepared::Local(plan) => {
                let session = match plan {
                    LogicalPlan::Explain(explain) => self.inner.cluster.session_of(&session, &explain.plan).await,
                    _ => Ok(session),
                };
                let result = covey.run_local(session.map_err(status)?.as_ref(), plan.clone()).await;
                // Looking at the catalog or the board is no work: displays do it all the time.
                let result = match plan {
                    LogicalPlan::Ddl(_) | LogicalPlan::Statement(_) => covey.start(sql).finish(result),
                    _ => result,
                };
                let (schema, batches) = result.map_err(status)?;
                Ok(self.keep(schema, batches))
            }
            Prepared::Ours { statement, query } => {
                let job = Arc::new(covey.start(sql));
                let running = covey.run(&session, statement, query.as_ref(), &job);
                // Whatever a panic has left behind goes with the statement.
                let result = AssertUnwindSafe(running)
                    .catch_unwind()
                    .await
                    .unwrap_or_else(|_| internal_err!("the statement panicked; the log of the scheduler says where"));
                let batch = job.finish(result).map_err(status)?;
                Ok(self.keep(batch.schema(), vec![batch]))
            }
            Prepared::Distributed(LogicalPlan::Analyze(analyzed)) => {
                let job = covey.start(sql);
                job.stage("query");
                let running = async {
                    covey.require_executors().await?;
                    self.inner.cluster.analyze(sql, &session, &analyzed.input).await
                };
                let batch = job.finish(running.await).map_err(status)?;
                Ok(self.keep(batch.schema(), vec![batch]))
            }
            Prepared::Distributed(plan) => {
                let job = covey.start(sql);
                job.stage("query");
                let running = async {
                    covey.require_executors().await?;
                    self.inner.cluster.answer(sql, &session, plan).await
                };
                let result = running.await.inspect(|answer| {
                    job.add_rows(answer.output.n_rows);
                    job.add_files_skipped(answer.output.files_skipped);
                });
                let Answer { output, rows } = job.finish(result).map_err(status)?;
                if let Some(rows) = rows {
                    return Ok(self.keep(output.schema, rows));
                }
                let endpoints = output.tickets.iter().map(|ticket| endpoint(ON_EXECUTOR, ticket)).collect();
                Ok(Outcome { schema: output.schema, endpoints, written: 0 })
            }
            Prepared::Write { plan, partitioned_by } => {
                let job = covey.start(sql);
                job.stage("query");
                let running = covey.write(&session, plan.clone(), partitioned_by).await;
                let written = job.finish(running.inspect(|rows| job.add_rows(*rows))).map_err(status)?;
                let batch = counted(written).map_err(status)?;
                Ok(Outcome { written: written as i64, ..self.keep(batch.schema(), vec![batch]) })
            }
            Prepared::Parameterized { .. } => {
                let unbound = prepared.with_parameters(&[]).map(|_| ());
                Err(covey.start(sql).finish(unbound).map_or_else(status, |()| Status::internal("parameters are bound")))
            }
        }
    }

    fn keep(&self, schema: SchemaRef, batches: Vec<RecordBatch>) -> Outcome {
        let handle = self.inner.results.insert((Arc::clone(&schema), Arc::new(batches)));
        Outcome { schema, endpoints: vec![endpoint(KEPT_HERE, handle.as_bytes())], written: 0 }
    }

    async fn prepare(&self, session: &Arc<SessionContext>, sql: &str) -> Result<Prepared, Status> {
        let (inner, session, text) = (Arc::clone(&self.inner), Arc::clone(session), sql.to_string());
        match aside(async move { inner.covey.prepare(&session, &text).await }).await {
            Ok(prepared) => Ok(prepared),
            // A statement that cannot be planned has failed all the same.
            failed => self.inner.covey.start(sql).finish(failed).map_err(status),
        }
    }

    fn statement(&self, handle: &[u8]) -> Result<Statement, Status> {
        self.inner.prepared.get(text(handle)?).ok_or_else(unknown_statement)
    }

    /// A statement with the values that a client sends for its parameters.
    async fn bound(&self, handle: &[u8], values: PeekableFlightDataStream) -> Result<Statement, Status> {
        let mut statement = self.statement(handle)?;
        if matches!(*statement.prepared, Prepared::Parameterized { .. }) {
            let values = values.map_err(|status| FlightError::Tonic(Box::new(status)));
            let rows: Vec<RecordBatch> = FlightRecordBatchStream::new_from_flight_data(values).try_collect().await?;
            statement.bound = Some(Arc::new(statement.prepared.with_parameters(&rows).map_err(status)?));
        }
        Ok(statement)
    }

    async fn run(&self, statement: Statement) -> Result<Outcome, Status> {
        let prepared = statement.bound.unwrap_or(statement.prepared);
        self.execute(&statement.sql, statement.session, &prepared).await
    }
}

fn text(handle: &[u8]) -> Result<&str, Status> {
    std::str::from_utf8(handle).map_err(|_| unknown_statement())
}

fn unknown_statement() -> Status {
    Status::not_found("the prepared statement is unknown or was idle too long: prepare it again")
}

fn lost_rows(status: Status) -> Status {
    tracing::warn!(target: "covey", %status, "rows of a result cannot be fetched");
    Status::aborted("rows of the result are lost, because the executor that held them is gone: run the statement again")
}

/// What a client asks for that sends rows.
///
/// # Errors
/// When tables have no such thing.
fn ingest_of(command: CommandStatementIngest) -> Result<Ingest, DataFusionError> {
    if command.temporary {
        return user_err!(
            "ingest into {}: tables stay until they are dropped, there are no temporary ones",
            command.table
        );
    }
    let asked = command.table_definition_options.unwrap_or_default();
    let if_missing = match asked.if_not_exist() {
        TableNotExistOption::Fail => IfMissing::Refuse,
        TableNotExistOption::Create | TableNotExistOption::Unspecified => IfMissing::Create,
    };
    let if_there = match asked.if_exists() {
        TableExistsOption::Append => IfThere::Append,
        TableExistsOption::Replace => IfThere::Replace,
        TableExistsOption::Fail | TableExistsOption::Unspecified => IfThere::Refuse,
    };
    let table = match (command.catalog, command.schema) {
        (Some(catalog), schema) => {
            TableReference::full(catalog, schema.unwrap_or_else(|| PUBLIC.into()), command.table)
        }
        (None, Some(schema)) => TableReference::partial(schema, command.table),
        (None, None) => TableReference::bare(command.table),
    };
    Ok(Ingest { table, if_missing, if_there })
}

/// An endpoint without an address: rows are fetched from the scheduler, which knows where they are.
fn endpoint(place: u8, handle: &[u8]) -> FlightEndpoint {
    let statement_handle = [&[place], handle].concat().into();
    let ticket = TicketStatementQuery { statement_handle };
    FlightEndpoint::new().with_ticket(Ticket { ticket: ticket.as_any().encode_to_vec().into() })
}

fn flight_info(
    schema: &Schema,
    endpoints: Vec<FlightEndpoint>,
    descriptor: FlightDescriptor,
) -> Result<Response<FlightInfo>, Status> {
    let info = FlightInfo::new()
        .try_with_schema(schema)
        .map_err(|e| Status::internal(format!("the schema of the result cannot be sent: {e}")))?;
    Ok(Response::new(info.with_descriptor(descriptor).with_endpoints(endpoints)))
}

fn schema_bytes(schema: &Schema) -> Result<bytes::Bytes, Status> {
    let message: IpcMessage = SchemaAsIpc::new(schema, &IpcWriteOptions::default())
        .try_into()
        .map_err(|e| Status::internal(format!("a schema cannot be sent: {e}")))?;
    Ok(message.0)
}

/// The error as a client should read it.
fn status(error: DataFusionError) -> Status {
    Status::invalid_argument(plain_text(&error))
}

fn rows(schema: SchemaRef, batches: Vec<RecordBatch>) -> Response<DataStream> {
    let data = FlightDataEncoderBuilder::new()
        .with_schema(schema)
        .build(futures::stream::iter(batches.into_iter().map(Ok)))
        .map_err(|e| Status::internal(format!("the result cannot be sent: {e}")));
    Response::new(Box::pin(data))
}

/// A request as the catalog service takes it: it knows none of our sessions.
fn anonymous<T>(mut request: Request<T>) -> Request<T> {
    request.metadata_mut().remove("authorization");
    request
}

/// Hands the catalog requests to Ballista's service. Written as `async_trait` would, which sees no macros.
macro_rules! catalog {
    ($($info:ident, $get:ident, $command:ty;)*) => { $(
        fn $info<'a, 'b>(
            &'a self,
            query: $command,
            request: Request<FlightDescriptor>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<FlightInfo>, Status>> + Send + 'b>>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(async move {
                self.inner.covey.refresh().await.map_err(status)?;
                self.inner.catalog.$info(query, anonymous(request)).await
            })
        }

        fn $get<'a, 'b>(
            &'a self,
            query: $command,
            request: Request<Ticket>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<DataStream>, Status>> + Send + 'b>>
        where
            'a: 'b,
            Self: 'b,
        {
            Box::pin(async move {
                self.inner.covey.refresh().await.map_err(status)?;
                self.inner.catalog.$get(query, anonymous(request)).await
            })
        }
    )* };
}

#[tonic::async_trait]
impl FlightSqlService for CoveyFlightService {
    type FlightService = Self;

    async fn do_handshake(
        &self,
        _request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Pin<Box<dyn Stream<Item = Result<HandshakeResponse, Status>> + Send>>>, Status> {
        let token = self.inner.sessions.insert(fork(&self.inner.shared));
        let answer = HandshakeResponse { protocol_version: 0, payload: token.clone().into() };
        let mut response: Response<Pin<Box<dyn Stream<Item = _> + Send>>> =
            Response::new(Box::pin(futures::stream::iter([Ok(answer)])));
        let value = format!("Bearer {token}").parse().map_err(|_| Status::internal("a token is no header"))?;
        response.metadata_mut().insert("authorization", value);
        Ok(response)
    }

    /// Ballista's own clients fetch results by its own tickets.
    async fn do_get_fallback(
        &self,
        request: Request<Ticket>,
        _message: Any,
    ) -> Result<Response<<Self as FlightService>::DoGetStream>, Status> {
        self.inner.proxy.do_get(request).await
    }

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let session = self.session(request.metadata())?;
        let prepared = self.prepare(&session, &query.query).await?;
        let outcome = self.execute(&query.query, session, &prepared).await?;
        flight_info(&outcome.schema, outcome.endpoints, request.into_inner())
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let outcome = self.run(self.statement(&query.prepared_statement_handle)?).await?;
        flight_info(&outcome.schema, outcome.endpoints, request.into_inner())
    }

    async fn do_get_statement(
        &self,
        ticket: TicketStatementQuery,
        _request: Request<Ticket>,
    ) -> Result<Response<<Self as FlightService>::DoGetStream>, Status> {
        match ticket.statement_handle.split_first() {
            Some((&ON_EXECUTOR, action)) => {
                let messages = self.inner.cluster.messages(action).await.map_err(lost_rows)?;
                Ok(Response::new(Box::pin(messages)))
            }
            Some((&KEPT_HERE, handle)) => {
                let kept = std::str::from_utf8(handle).ok().and_then(|handle| self.inner.results.take(handle));
                let (schema, batches) = kept.ok_or_else(|| Status::not_found("these rows were fetched already"))?;
                Ok(rows(schema, Arc::unwrap_or_clone(batches)))
            }
            _ => Err(Status::invalid_argument("the ticket is none of this scheduler's")),
        }
    }

    async fn do_put_statement_update(
        &self,
        command: CommandStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        let session = self.session(request.metadata())?;
        let prepared = self.prepare(&session, &command.query).await?;
        Ok(self.execute(&command.query, session, &prepared).await?.written)
    }

    async fn do_put_statement_ingest(
        &self,
        command: CommandStatementIngest,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        let session = self.session(request.metadata())?;
        let job = self.inner.covey.start(&format!("ingest into {}", command.table));
        let written = async {
            let ingest = ingest_of(command)?;
            let rows = request.into_inner().map_err(|status| FlightError::Tonic(Box::new(status)));
            let mut rows = FlightRecordBatchStream::new_from_flight_data(rows);
            let first = rows.try_next().await.map_err(external)?;
            let schema = rows.schema().cloned().unwrap_or_else(|| Arc::new(Schema::empty()));
            let rows = futures::stream::iter(first.map(Ok)).chain(rows.map_err(external));
            self.inner.covey.require_executors().await?;
            job.stage("query");
            self.inner.covey.ingest(&session, &ingest, schema, rows.boxed()).await
        };
        let written = written.await.inspect(|rows| job.add_rows(*rows));
        Ok(job.finish(written).map_err(status)? as i64)
    }

    async fn do_put_prepared_statement_update(
        &self,
        command: CommandPreparedStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        let statement = self.bound(&command.prepared_statement_handle, request.into_inner()).await?;
        Ok(self.run(statement).await?.written)
    }

    async fn do_put_prepared_statement_query(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<DoPutPreparedStatementResult, Status> {
        let handle = query.prepared_statement_handle;
        let statement = self.bound(&handle, request.into_inner()).await?;
        self.inner.prepared.replace(text(&handle)?, statement);
        Ok(DoPutPreparedStatementResult { prepared_statement_handle: Some(handle) })
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        let session = self.session(request.metadata())?;
        let prepared = self.prepare(&session, &query.query).await?;
        let dataset_schema = schema_bytes(&prepared.schema())?;
        let parameter_schema = schema_bytes(&prepared.parameters().map_err(status)?)?;
        let statement = Statement { sql: query.query, session, prepared: Arc::new(prepared), bound: None };
        let handle = self.inner.prepared.insert(statement);
        Ok(ActionCreatePreparedStatementResult {
            prepared_statement_handle: handle.into_bytes().into(),
            dataset_schema,
            parameter_schema,
        })
    }

    async fn do_action_close_prepared_statement(
        &self,
        query: ActionClosePreparedStatementRequest,
        _request: Request<Action>,
    ) -> Result<(), Status> {
        if let Ok(handle) = std::str::from_utf8(&query.prepared_statement_handle) {
            self.inner.prepared.take(handle);
        }
        Ok(())
    }

    /// What executors ask and tell while they work on a fit.
    async fn do_action_fallback(&self, request: Request<Action>) -> Result<Response<ActionStream>, Status> {
        let action = request.into_inner();
        let damaged = |e: serde_json::Error| Status::invalid_argument(format!("{}: {e}", action.r#type));
        let answer = match action.r#type.as_str() {
            FETCH_ACTION => {
                let (fit, key): (String, String) = serde_json::from_slice(&action.body).map_err(damaged)?;
                self.inner.hub.fetch(&fit, &key).map_err(status)?
            }
            REPORT_ACTION => {
                let (fit, progress): (String, Progress) = serde_json::from_slice(&action.body).map_err(damaged)?;
                self.inner.hub.report(&fit, &progress).map_err(status)?;
                bytes::Bytes::new()
            }
            OVER_ACTION => {
                let fit: String = serde_json::from_slice(&action.body).map_err(damaged)?;
                self.inner.hub.over(&fit).await;
                bytes::Bytes::new()
            }
            JOIN_ACTION => {
                let release: String = serde_json::from_slice(&action.body).map_err(damaged)?;
                if release != RELEASE {
                    return Err(Status::failed_precondition(format!(
                        "this scheduler is covey {RELEASE}, the executor is covey {release}: start one of the scheduler's release"
                    )));
                }
                bytes::Bytes::new()
            }
            PRESENT_ACTION => {
                let presence = self.inner.presences.open(serde_json::from_slice(&action.body).map_err(damaged)?);
                let never = futures::stream::once(async move {
                    let _presence = presence;
                    std::future::pending().await
                });
                return Ok(Response::new(Box::pin(never)));
            }
            other => return Err(Status::unimplemented(format!("there is no action {other:?}"))),
        };
        let chunks: Vec<_> = (0..answer.len())
            .step_by(OBJECT_CHUNK_BYTES)
            .map(|start| answer.slice(start..(start + OBJECT_CHUNK_BYTES).min(answer.len())))
            .map(|body| Ok(arrow_flight::Result { body }))
            .collect();
        Ok(Response::new(Box::pin(futures::stream::iter(chunks))))
    }

    catalog! {
        get_flight_info_catalogs, do_get_catalogs, CommandGetCatalogs;
        get_flight_info_schemas, do_get_schemas, CommandGetDbSchemas;
        get_flight_info_tables, do_get_tables, CommandGetTables;
        get_flight_info_table_types, do_get_table_types, CommandGetTableTypes;
        get_flight_info_sql_info, do_get_sql_info, CommandGetSqlInfo;
        get_flight_info_xdbc_type_info, do_get_xdbc_type_info, CommandGetXdbcTypeInfo;
    }

    async fn register_sql_info(&self, _id: i32, _result: &SqlInfo) {}
}

/// The shared session, for questions about the catalog; it runs nothing.
struct CatalogBackend {
    session: Arc<SessionContext>,
}

#[async_trait::async_trait]
impl QueryBackend for CatalogBackend {
    async fn session(&self, _session_id: &str) -> ballista_core::error::Result<Arc<SessionContext>> {
        Ok(Arc::clone(&self.session))
    }

    async fn close_session(&self, _session_id: &str) -> ballista_core::error::Result<()> {
        Ok(())
    }

    async fn execute(
        &self,
        _job_name: &str,
        _ctx: Arc<SessionContext>,
        _plan: LogicalPlan,
    ) -> ballista_core::error::Result<QueryResult> {
        Err(ballista_core::error::BallistaError::NotImplemented("the catalog runs no queries".into()))
    }
}
