//! What executors report of tasks, checked before Ballista takes it.
//!
//! - **What is wrong.** A report of a task that does not exist, without a status, or for a stage that is elsewhere, is an
//!   error or a panic inside Ballista's event loop; the error is a line of its log, and all that came in the same message
//!   is dropped with it. A task whose metrics are of another number than those of the first is counted as done, and its
//!   rows are not.
//! - **Where.** ballista-scheduler 55.0, `state/execution_graph.rs` (`update_task_status`), `state/execution_stage.rs`
//!   (`update_task_info`, `update_task_metrics`).
//! - **How it is mended.** Reports are passed on one by one. One that cannot be true fails its job, with words; a second
//!   one of the same task is dropped; metrics that do not fit are left out.
//! - **Remove when** Ballista fails the job of a report that it cannot take.

use std::sync::Arc;

use ballista_core::JobId;
use ballista_core::serde::protobuf::scheduler_grpc_server::SchedulerGrpc;
use ballista_core::serde::protobuf::task_status::Status as Outcome;
use ballista_core::serde::protobuf::{self, TaskStatus};
use ballista_scheduler::state::execution_graph::ExecutionGraph;
use ballista_scheduler::state::execution_stage::{ExecutionStage, RunningStage};
use tokio::sync::broadcast;
use tonic::{Request, Response, Status};

use crate::cluster::Ballista;

/// Refusals that may wait to be seen: those who wait for jobs look at once.
const REFUSALS_KEPT: usize = 256;

/// The jobs whose tasks were reported in a way that cannot be true.
#[derive(Debug, Clone)]
pub(crate) struct Refusals(broadcast::Sender<(JobId, String)>);

impl Default for Refusals {
    fn default() -> Self {
        Self(broadcast::channel(REFUSALS_KEPT).0)
    }
}

/// Refusals from a moment on.
pub(crate) struct Watch(broadcast::Receiver<(JobId, String)>);

impl Refusals {
    pub(crate) fn watch(&self) -> Watch {
        Watch(self.0.subscribe())
    }

    fn refuse(&self, job: JobId, why: String) {
        tracing::error!(target: "covey", %job, why, "a report of a task is refused");
        // Nobody may be waiting for the job any more.
        let _ = self.0.send((job, why));
    }
}

impl Watch {
    /// Ready when a report of `job` was refused, with the reason.
    pub(crate) async fn refused(&mut self, job: &JobId) -> String {
        loop {
            match self.0.recv().await {
                Ok((refused, why)) if refused == *job => return why,
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

/// Ballista's service for executors, with reports checked.
pub(crate) struct CheckedReports {
    ballista: Arc<Ballista>,
    refusals: Refusals,
}

/// What becomes of a report.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Pass,
    WithoutMetrics,
    Drop,
    Refuse(String),
}

impl CheckedReports {
    pub(crate) fn new(ballista: Arc<Ballista>, refusals: Refusals) -> Self {
        Self { ballista, refusals }
    }

    async fn take(&self, executor_id: &str, mut report: TaskStatus) -> Result<(), Status> {
        let job = JobId::from(report.job_id.clone());
        let jobs = self.ballista.state.task_manager.get_running_job_cache();
        let verdict = match jobs.get(&job) {
            Some(running) => verdict(running.execution_graph.read().await.as_ref(), executor_id, &report),
            // The job is over, or not known here.
            None => Verdict::Pass,
        };
        match verdict {
            Verdict::Pass => {}
            Verdict::WithoutMetrics => report.metrics.clear(),
            Verdict::Drop => return Ok(()),
            Verdict::Refuse(why) => {
                self.refusals.refuse(job, format!("executor {executor_id} reported {why}"));
                return Ok(());
            }
        }
        let params =
            protobuf::UpdateTaskStatusParams { executor_id: executor_id.to_string(), task_status: vec![report] };
        SchedulerGrpc::update_task_status(self.ballista.as_ref(), Request::new(params)).await.map(|_| ())
    }
}

fn verdict(graph: &dyn ExecutionGraph, executor_id: &str, report: &TaskStatus) -> Verdict {
    let (stage_id, task) = (report.stage_id as usize, report.task_id as usize);
    let Some(stage) = graph.stages().get(&stage_id) else {
        return Verdict::Refuse(format!("stage {stage_id}, which its job does not have"));
    };
    // Any other stage is over, or begins again: what is told of it comes too late.
    let ExecutionStage::Running(stage) = stage else { return Verdict::Pass };
    let attempt = report.stage_attempt_num as usize;
    if attempt < stage.stage_attempt_num {
        return Verdict::Pass;
    }
    if attempt > stage.stage_attempt_num {
        return Verdict::Refuse(format!("attempt {attempt} of stage {stage_id}, which was not begun"));
    }
    let Some(known) = stage.task_infos.get(task) else {
        return Verdict::Refuse(format!("task {task} of stage {stage_id}, which has {} tasks", stage.task_infos.len()));
    };
    match (&report.status, &known.task_status) {
        (None, _) => Verdict::Refuse(format!("task {task} of stage {stage_id} without saying what became of it")),
        (Some(Outcome::Successful(_)), Outcome::Successful(_)) => Verdict::Drop,
        (Some(Outcome::Successful(done)), _) if done.executor_id != executor_id => {
            Verdict::Refuse(format!("task {task} of stage {stage_id} as done by executor {}", done.executor_id))
        }
        (Some(Outcome::Successful(done)), _) => match impossible_partition(stage, done) {
            Some(partition) => {
                Verdict::Refuse(format!("rows for partition {partition} of stage {stage_id}, which it does not have"))
            }
            None if has_odd_metrics(stage, report) => Verdict::WithoutMetrics,
            None => Verdict::Pass,
        },
        _ => Verdict::Pass,
    }
}

/// A partition that a stage cannot have written.
fn impossible_partition(stage: &RunningStage, done: &protobuf::SuccessfulTask) -> Option<u64> {
    use datafusion::physical_plan::ExecutionPlanProperties;
    let partitions = stage.plan.output_partitioning().partition_count().max(stage.partitions) as u64;
    done.partitions.iter().map(|written| written.partition_id).find(|partition| *partition >= partitions)
}

fn has_odd_metrics(stage: &RunningStage, report: &TaskStatus) -> bool {
    let is_incomplete = report.metrics.iter().flat_map(|set| &set.metrics).any(|metric| metric.metric.is_none());
    let other_number = stage.stage_metrics.as_ref().is_some_and(|known| known.len() != report.metrics.len());
    !report.metrics.is_empty() && (is_incomplete || other_number)
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl SchedulerGrpc for CheckedReports {
    async fn update_task_status(
        &self,
        request: Request<protobuf::UpdateTaskStatusParams>,
    ) -> Answer<protobuf::UpdateTaskStatusResult> {
        let protobuf::UpdateTaskStatusParams { executor_id, task_status } = request.into_inner();
        for report in task_status {
            self.take(&executor_id, report).await?;
        }
        Ok(Response::new(protobuf::UpdateTaskStatusResult { success: true }))
    }

    async fn poll_work(&self, request: Request<protobuf::PollWorkParams>) -> Answer<protobuf::PollWorkResult> {
        self.ballista.poll_work(request).await
    }

    async fn register_executor(
        &self,
        request: Request<protobuf::RegisterExecutorParams>,
    ) -> Answer<protobuf::RegisterExecutorResult> {
        SchedulerGrpc::register_executor(self.ballista.as_ref(), request).await
    }

    async fn heart_beat_from_executor(
        &self,
        request: Request<protobuf::HeartBeatParams>,
    ) -> Answer<protobuf::HeartBeatResult> {
        self.ballista.heart_beat_from_executor(request).await
    }

    async fn create_update_session(
        &self,
        request: Request<protobuf::CreateUpdateSessionParams>,
    ) -> Answer<protobuf::CreateUpdateSessionResult> {
        self.ballista.create_update_session(request).await
    }

    async fn remove_session(
        &self,
        request: Request<protobuf::RemoveSessionParams>,
    ) -> Answer<protobuf::RemoveSessionResult> {
        self.ballista.remove_session(request).await
    }

    type ExecuteQueryPushStream = <Ballista as SchedulerGrpc>::ExecuteQueryPushStream;

    async fn execute_query_push(
        &self,
        request: Request<protobuf::ExecuteQueryParams>,
    ) -> Answer<Self::ExecuteQueryPushStream> {
        self.ballista.execute_query_push(request).await
    }

    async fn execute_query(
        &self,
        request: Request<protobuf::ExecuteQueryParams>,
    ) -> Answer<protobuf::ExecuteQueryResult> {
        self.ballista.execute_query(request).await
    }

    async fn get_job_status(
        &self,
        request: Request<protobuf::GetJobStatusParams>,
    ) -> Answer<protobuf::GetJobStatusResult> {
        self.ballista.get_job_status(request).await
    }

    async fn get_job_metrics(
        &self,
        request: Request<protobuf::GetJobMetricsParams>,
    ) -> Answer<protobuf::GetJobMetricsResult> {
        self.ballista.get_job_metrics(request).await
    }

    async fn executor_stopped(
        &self,
        request: Request<protobuf::ExecutorStoppedParams>,
    ) -> Answer<protobuf::ExecutorStoppedResult> {
        self.ballista.executor_stopped(request).await
    }

    async fn cancel_job(&self, request: Request<protobuf::CancelJobParams>) -> Answer<protobuf::CancelJobResult> {
        SchedulerGrpc::cancel_job(self.ballista.as_ref(), request).await
    }

    async fn clean_job_data(
        &self,
        request: Request<protobuf::CleanJobDataParams>,
    ) -> Answer<protobuf::CleanJobDataResult> {
        self.ballista.clean_job_data(request).await
    }
}
