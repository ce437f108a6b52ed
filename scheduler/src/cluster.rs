//! Ballista's scheduler as the cluster that jobs run on: submit, wait, cancel, fetch.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::{FlightData, Ticket};
use async_trait::async_trait;
use ballista_core::JobId;
use ballista_core::config::BALLISTA_SHUFFLE_COMPRESSION_CODEC;
use ballista_core::flight_proxy_service::BallistaFlightProxyService;
use ballista_core::serde::protobuf::{self, JobStatus, PartitionLocation, job_status};
use ballista_core::serde::scheduler::{Action, ShuffleFileKind};
use ballista_scheduler::cluster::ClusterState;
use ballista_scheduler::scheduler_server::SchedulerServer;
use covey_engine::distribution::{analyzed, physical_plan};
use covey_engine::failure::{is_out_of_memory, open};
use covey_engine::operators::SkipBadFilesExec;
use covey_engine::threads::aside;
use covey_engine::upstream::kept_as_planned;
use covey_engine::user_err;
use covey_jobs::Cluster;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::exec_datafusion_err;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use futures::{Stream, StreamExt, TryStreamExt};
use prost::Message;
use tokio::sync::mpsc;
use tonic::{Request, Status};

use crate::counted_results::{counted, split_count, with_count};
use crate::explain_analyze::measured;
use crate::placement::PlacingCluster;
use crate::rollbacks::{Rollbacks, latest};
use crate::upstream::{Refusals, until_stuck};

pub type Ballista = SchedulerServer<LogicalPlanNode, PhysicalPlanNode>;

/// How long a statement waits for the first executor to register.
const EXECUTOR_WAIT_MAX: Duration = Duration::from_secs(5);
const EXECUTOR_WAIT_PAUSE: Duration = Duration::from_millis(50);

/// Job states that may wait to be read.
const STATUS_BUFFER: usize = 16;

/// Times that a job is run when its rows get lost with the executor that held them, or were read twice.
const JOB_ATTEMPTS_MAX: usize = 4;

/// Results fetched from executors at once by one job.
const FETCHES_CONCURRENT: usize = 8;

/// Bytes of a result that the scheduler fetches itself before it answers.
const FETCHED_BYTES_MAX: u64 = 8 << 20;

/// Partitions of a query: at least so many, and one more for each of so many bytes that its largest scan reads.
const CORES_MIN: usize = 2;
const PARTITION_BYTES: u64 = 512 << 20;
const PARTITIONS_MAX: usize = 512;

/// Ballista's own choice for shuffles.
const CODEC_DEFAULT: &str = "lz4";

/// A finished job: its schema and where its rows are.
pub struct JobOutput {
    job: JobId,
    pub schema: SchemaRef,
    pub tickets: Vec<Vec<u8>>,
    pub n_rows: u64,
    n_bytes: u64,
    /// Files that could not be read and were left out, where the table says so.
    pub files_skipped: u64,
}

impl JobOutput {
    fn try_new(job: JobId, schema: SchemaRef, locations: Vec<PartitionLocation>) -> Result<Self> {
        let locations = latest(locations);
        let rows = |location: &PartitionLocation| {
            location.partition_stats.as_ref().and_then(|stats| u64::try_from(stats.num_rows).ok())
        };
        let bytes = |location: &PartitionLocation| {
            location.partition_stats.as_ref().and_then(|stats| u64::try_from(stats.num_bytes).ok())
        };
        let n_rows = locations.iter().filter_map(rows).sum();
        let n_bytes = locations.iter().filter_map(bytes).sum();
        let with_rows = |location: PartitionLocation| Ok(with_count(rows(&location), &ticket(location)?));
        let tickets = locations.into_iter().map(with_rows).collect::<Result<_>>()?;
        Ok(Self { job, schema, tickets, n_rows, n_bytes, files_skipped: 0 })
    }
}

/// What a query has given.
pub struct Answer {
    pub output: JobOutput,
    /// The rows themselves, where they are few.
    pub rows: Option<Vec<RecordBatch>>,
}

#[derive(Clone)]
pub struct SchedulerCluster {
    ballista: Arc<Ballista>,
    proxy: BallistaFlightProxyService,
    rollbacks: Rollbacks,
    members: Arc<PlacingCluster>,
    refusals: Refusals,
    /// Of a session that does not say otherwise.
    partitions: usize,
    address: String,
}

impl SchedulerCluster {
    pub fn new(
        ballista: Arc<Ballista>,
        proxy: BallistaFlightProxyService,
        rollbacks: Rollbacks,
        members: Arc<PlacingCluster>,
        refusals: Refusals,
        partitions: usize,
        address: String,
    ) -> Self {
        Self { ballista, proxy, rollbacks, members, refusals, partitions, address }
    }

    /// Runs a query and gives its rows where they are few, and else the places of them: a few rows are safe from whatever
    /// becomes of executors. Dropping the future cancels the job.
    pub async fn answer(&self, name: &str, session: &SessionContext, plan: &LogicalPlan) -> Result<Answer> {
        let mut attempt = 1;
        loop {
            let output = self.query(name, session, plan).await?;
            if output.n_bytes > FETCHED_BYTES_MAX {
                return Ok(Answer { output, rows: None });
            }
            match self.fetch_all(output.tickets.clone()).await {
                Err(lost) if attempt < JOB_ATTEMPTS_MAX => {
                    tracing::warn!(target: "covey", statement = name, %lost, "rows of a result are lost: the query runs again");
                    attempt += 1;
                }
                rows => return Ok(Answer { output, rows: Some(rows?) }),
            }
        }
    }

    /// Runs a query and gives the places of its rows.
    async fn query(&self, name: &str, session: &SessionContext, plan: &LogicalPlan) -> Result<JobOutput> {
        let mut state = session.state();
        let plan = &analyzed(&state, plan.clone())?;
        let physical = self.planned(&mut state, plan).await?;
        match self.submit(name, of_state(&state), physical).await {
            Err(error) if is_out_of_memory(&error) && state.config().options().optimizer.prefer_hash_join => {
                tracing::warn!(target: "covey", statement = name, "a join does not fit into memory: it runs again, sorted");
                state.config_mut().options_mut().optimizer.prefer_hash_join = false;
                let physical = planned(&state, plan).await?;
                self.submit(name, of_state(&state), physical).await
            }
            result => result,
        }
    }

    /// Runs a query as it always runs, and says what its operators have measured.
    pub async fn analyze(&self, name: &str, session: &SessionContext, plan: &LogicalPlan) -> Result<RecordBatch> {
        let output = self.query(name, session, plan).await?;
        match self.rollbacks.graph(&output.job).await {
            Some(graph) => measured(graph.as_ref()),
            None => user_err!("the job has ended, and what it has measured is forgotten; run the statement again"),
        }
    }

    /// The session as a query would be planned with it.
    pub async fn session_of(&self, session: &SessionContext, plan: &LogicalPlan) -> Result<Arc<SessionContext>> {
        let mut state = session.state();
        self.planned(&mut state, plan).await?;
        Ok(of_state(&state))
    }

    /// The plan with as many partitions as the cluster has cores, and with more where they would be large.
    async fn planned(&self, state: &mut SessionState, plan: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
        let executors = self.members.registered_executor_metadata().await;
        if executors.iter().all(|executor| executor.host == executors[0].host) {
            shuffle_uncompressed(state)?;
        }
        if state.config().target_partitions() != self.partitions {
            return planned(state, plan).await;
        }
        let cores: usize = executors.iter().map(|executor| executor.specification.vcores.max(1) as usize).sum();
        let cores = cores.clamp(CORES_MIN, PARTITIONS_MAX);
        state.config_mut().options_mut().execution.target_partitions = cores;
        let physical = planned(state, plan).await?;
        let wanted = largest_scan(&physical).div_ceil(PARTITION_BYTES) as usize;
        if wanted <= cores {
            return Ok(physical);
        }
        // As many for each core: else some wait for the last.
        let wanted = wanted.next_multiple_of(cores).min(PARTITIONS_MAX);
        state.config_mut().options_mut().execution.target_partitions = wanted;
        planned(state, plan).await
    }

    async fn submit(
        &self,
        name: &str,
        session: Arc<SessionContext>,
        plan: Arc<dyn ExecutionPlan>,
    ) -> Result<JobOutput> {
        let plan = kept_as_planned(plan)?;
        for _ in 0..JOB_ATTEMPTS_MAX {
            let (subscriber, statuses) = mpsc::channel(STATUS_BUFFER);
            let mut refusals = self.refusals.watch();
            let job = self
                .ballista
                .submit_physical_plan(name, Arc::clone(&session), Arc::clone(&plan), Some(subscriber))
                .await
                .map_err(|e| exec_datafusion_err!("cannot submit the job: {e}"))?;
            let (ballista, jobs) = (Arc::clone(&self.ballista), self.rollbacks.clone());
            let guard = CancelOnDrop { ballista, jobs, job: Some(job.clone()) };
            let locations = tokio::select! {
                ended = wait(statuses) => ended?,
                why = refusals.refused(&job) => return user_err!("the job cannot go on: {why}"),
                () = until_stuck(&self.ballista, &job) => {
                    return user_err!("the job stands still: no task of it runs and none waits; the scheduler's log says what it stumbled over")
                }
            };
            guard.disarm();
            if self.rollbacks.read_once(&job).await {
                let files_skipped = self.files_skipped(name, &job, &plan).await;
                return Ok(JobOutput { files_skipped, ..JobOutput::try_new(job, plan.schema(), locations)? });
            }
            tracing::warn!(target: "covey", job = name, "rows were read twice after an executor was lost: it runs again");
        }
        user_err!("executors were lost in each of {JOB_ATTEMPTS_MAX} attempts; see that they last, and try again")
    }

    async fn files_skipped(&self, name: &str, job: &JobId, plan: &Arc<dyn ExecutionPlan>) -> u64 {
        if !SkipBadFilesExec::is_in(plan) {
            return 0;
        }
        let files = self.rollbacks.files_skipped(job).await;
        if files > 0 {
            tracing::warn!(target: "covey", statement = name, files, "files that cannot be read were left out");
        }
        files
    }

    async fn fetch_all(&self, tickets: Vec<Vec<u8>>) -> Result<Vec<RecordBatch>> {
        let batches: Vec<Vec<RecordBatch>> = futures::stream::iter(tickets)
            .map(|ticket| self.fetch(ticket))
            .buffered(FETCHES_CONCURRENT)
            .try_collect()
            .await?;
        Ok(batches.concat())
    }

    /// The messages behind a ticket of a [`JobOutput`].
    ///
    /// # Errors
    /// When its executor is gone; while they are read, when some are missing.
    pub async fn messages(
        &self,
        ticket: &[u8],
    ) -> Result<impl Stream<Item = Result<FlightData, Status>> + use<>, Status> {
        let (rows, ticket) =
            split_count(ticket).ok_or_else(|| Status::invalid_argument("the ticket is none of this scheduler's"))?;
        let response = self.proxy.do_get(Request::new(Ticket { ticket: ticket.to_vec().into() })).await?;
        Ok(counted(response.into_inner(), rows))
    }

    /// The rows behind a ticket.
    async fn fetch(&self, ticket: Vec<u8>) -> Result<Vec<RecordBatch>> {
        let messages = self.messages(&ticket).await.map_err(told)?;
        let data = messages.map_err(|status| FlightError::Tonic(Box::new(status)));
        FlightRecordBatchStream::new_from_flight_data(data)
            .try_collect()
            .await
            .map_err(|e| exec_datafusion_err!("cannot fetch the rows of a job: {e}"))
    }
}

/// A job must be submitted with the settings that it was planned with: Ballista distributes some joins only then, into as
/// many partitions as the session says.
fn of_state(state: &SessionState) -> Arc<SessionContext> {
    Arc::new(SessionContext::new_with_state(state.clone()))
}

/// Where rows go over no network, compressing them costs more than it spares. A session that asks for a codec of its own
/// choice gets it.
fn shuffle_uncompressed(state: &mut SessionState) -> Result<()> {
    let options = state.config_mut().options_mut();
    let is_default = options
        .entries()
        .iter()
        .any(|entry| entry.key == BALLISTA_SHUFFLE_COMPRESSION_CODEC && entry.value.as_deref() == Some(CODEC_DEFAULT));
    if is_default { options.set(BALLISTA_SHUFFLE_COMPRESSION_CODEC, "none") } else { Ok(()) }
}

async fn planned(state: &SessionState, plan: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
    let (state, plan) = (state.clone(), plan.clone());
    aside(async move { physical_plan(&state, &plan).await }).await
}

/// Bytes of the files of the largest scan of a plan.
fn largest_scan(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    let of_children = plan.children().into_iter().map(largest_scan).max();
    let source = plan.downcast_ref::<DataSourceExec>().map(DataSourceExec::data_source);
    let files = source.and_then(|source| source.downcast_ref::<FileScanConfig>()).map(|scan| &scan.file_groups);
    let files = files.into_iter().flatten().flat_map(|group| group.iter());
    files.map(|file| file.effective_size()).sum::<u64>().max(of_children.unwrap_or(0))
}

fn told(status: Status) -> DataFusionError {
    exec_datafusion_err!("cannot fetch the rows of a job: {}", status.message())
}

async fn wait(mut statuses: mpsc::Receiver<JobStatus>) -> Result<Vec<PartitionLocation>> {
    while let Some(status) = statuses.recv().await {
        match status.status {
            Some(job_status::Status::Successful(done)) => return Ok(done.partition_location),
            Some(job_status::Status::Failed(failed)) => return user_err!("{}", open(&failed.error)),
            _ => {}
        }
    }
    user_err!("the job was cancelled")
}

/// The ticket by which the proxy fetches a partition from the executor that holds it.
fn ticket(location: PartitionLocation) -> Result<Vec<u8>> {
    let damaged = || exec_datafusion_err!("a finished job names a partition without its place");
    let layout = location.layout();
    let partition = location.partition_id.ok_or_else(damaged)?;
    let executor = location.executor_meta.ok_or_else(damaged)?;
    let action = Action::FetchPartition {
        job_id: partition.job_id.into(),
        stage_id: partition.stage_id as usize,
        partition_id: partition.partition_id as usize,
        host: executor.host,
        port: executor.port as u16,
        file_id: location.file_id,
        layout,
        file_kind: ShuffleFileKind::Data,
        byte_ranges: vec![],
    };
    let action: protobuf::Action = action.try_into().map_err(|e| exec_datafusion_err!("{e}"))?;
    Ok(action.encode_to_vec())
}

/// Cancels a job unless it was seen to end.
struct CancelOnDrop {
    ballista: Arc<Ballista>,
    jobs: Rollbacks,
    job: Option<JobId>,
}

impl CancelOnDrop {
    fn disarm(mut self) {
        self.job = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        let Some(job) = self.job.take() else { return };
        let (ballista, jobs) = (Arc::clone(&self.ballista), self.jobs.clone());
        tokio::spawn(async move {
            // One that is cancelled while Ballista still divides it into stages would run all the same.
            jobs.begun(&job).await;
            if let Err(error) = ballista.cancel_job(job.clone()).await {
                tracing::warn!(target: "covey", %job, %error, "a job could not be cancelled");
            }
        });
    }
}

#[async_trait]
impl Cluster for SchedulerCluster {
    async fn run(
        &self,
        name: &str,
        session: Arc<SessionContext>,
        plan: Arc<dyn ExecutionPlan>,
    ) -> Result<Vec<RecordBatch>> {
        let mut attempt = 1;
        loop {
            let output = self.submit(name, Arc::clone(&session), Arc::clone(&plan)).await?;
            match self.fetch_all(output.tickets).await {
                // Its executor ended between the end of the job and here; the others can run it again.
                Err(lost) if attempt < JOB_ATTEMPTS_MAX => {
                    tracing::warn!(target: "covey", job = name, %lost, "rows of a job are lost: it runs again");
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    async fn require_executors(&self) -> Result<()> {
        let began = Instant::now();
        while !self.ballista.is_ready() {
            if began.elapsed() > EXECUTOR_WAIT_MAX {
                return user_err!(
                    "no executor has registered with the scheduler at {0}; start one with: covey-executor --scheduler {0}",
                    self.address
                );
            }
            tokio::time::sleep(EXECUTOR_WAIT_PAUSE).await;
        }
        Ok(())
    }
}
