//! A job that nothing can end any more is an error.
//!
//! - **What is wrong.** An error while Ballista takes a task's report, resolves a stage or resets it is a line of its log.
//!   What should have come of it never does, and the job is running for ever.
//! - **Where.** ballista-scheduler 55.0, `scheduler_server/query_stage_scheduler.rs` (`TaskUpdating`),
//!   `state/execution_graph.rs` (`resolve_stage`, `reset_stages_internal`).
//! - **How it is mended.** A job of which no task runs and none waits, although there are executors, has ended in all but
//!   name: whoever waits for it is told.
//! - **Remove when** such errors fail the job.

use std::time::Duration;

use ballista_core::JobId;
use ballista_scheduler::state::execution_graph::ExecutionGraph;

use crate::cluster::Ballista;

/// How often it is looked.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// Looks in a row at which nothing was under way: between two stages nothing is, for a moment.
const IDLE_LOOKS_MAX: usize = 4;

/// Ready when a job is stuck.
pub(crate) async fn until_stuck(ballista: &Ballista, job: &JobId) {
    let mut idle_looks = 0;
    loop {
        tokio::time::sleep(LOOK_PAUSE).await;
        let jobs = ballista.state.task_manager.get_running_job_cache();
        let is_idle = match jobs.get(job) {
            Some(running) => is_idle(running.execution_graph.read().await.as_ref()),
            None => false,
        };
        idle_looks = if is_idle && ballista.is_ready() { idle_looks + 1 } else { 0 };
        if idle_looks > IDLE_LOOKS_MAX {
            return;
        }
    }
}

fn is_idle(graph: &dyn ExecutionGraph) -> bool {
    graph.available_tasks() == 0 && graph.running_tasks().is_empty()
}
