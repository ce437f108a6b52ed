//! Whether a job that had to repeat work read each row once.
//!
//! When an executor is lost, Ballista repeats stages that were under way from their beginning. It keeps the places of
//! what their tasks had already given, beside those of the repetition, so that the next stage, or the client, would read
//! such rows twice. Here the places are held against the tasks that count.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ballista_core::JobId;
use ballista_core::serde::protobuf::task_status::Status;
use ballista_core::serde::protobuf::{self, SuccessfulTask, job_status};
use ballista_core::serde::scheduler::PartitionLocation;
use ballista_scheduler::cluster::JobState;
use ballista_scheduler::state::execution_graph::{ExecutionGraph, ExecutionGraphBox};
use ballista_scheduler::state::execution_stage::{ExecutionStage, TaskInfo};
use covey_engine::operators::FILES_SKIPPED;
use parking_lot::Mutex;

/// Ballista tells of a job's end a moment before it can be asked for the job.
const GRAPH_WAITS_MAX: usize = 100;
const GRAPH_PAUSE: Duration = Duration::from_millis(10);

/// A job that is not divided into stages by then never will be.
const BEGIN_WAITS_MAX: usize = 3_000;

/// Jobs that are remembered: more than a scheduler loses in all its life.
const REMEMBERED_MAX: usize = 100_000;

/// The jobs that repeated a stage.
#[derive(Clone)]
pub struct Rollbacks {
    jobs: Arc<dyn JobState>,
    repeated: Arc<Mutex<HashSet<JobId>>>,
}

impl Rollbacks {
    pub fn new(jobs: Arc<dyn JobState>) -> Self {
        Self { jobs, repeated: Arc::default() }
    }

    /// Looks whether a job that runs repeats a stage.
    pub fn watch(&self, job: &JobId, graph: &dyn ExecutionGraph) {
        let repeats = graph.stages().values().any(|stage| match stage {
            ExecutionStage::UnResolved(stage) => stage.stage_attempt_num > 0,
            ExecutionStage::Resolved(stage) => stage.stage_attempt_num > 0,
            ExecutionStage::Running(stage) => stage.stage_attempt_num > 0,
            _ => false,
        });
        if repeats {
            let mut repeated = self.repeated.lock();
            if repeated.len() < REMEMBERED_MAX {
                repeated.insert(job.clone());
            }
        }
    }

    /// Whether a job that has ended read each row once.
    pub async fn read_once(&self, job: &JobId) -> bool {
        if !self.repeated.lock().remove(job) {
            return true;
        }
        self.graph(job).await.is_some_and(|graph| is_read_once(graph.as_ref()))
    }

    /// Files that a job that has ended could not read and has left out.
    pub async fn files_skipped(&self, job: &JobId) -> u64 {
        let Some(graph) = self.graph(job).await else { return 0 };
        let stages = graph.stages().values().filter_map(|stage| match stage {
            ExecutionStage::Successful(stage) => Some(&stage.stage_metrics),
            _ => None,
        });
        let counts = stages.flatten().filter_map(|metrics| metrics.sum_by_name(FILES_SKIPPED));
        counts.map(|count| count.as_usize() as u64).sum()
    }

    /// Waits until a job that was submitted has tasks, or is over.
    pub async fn begun(&self, job: &JobId) {
        for _ in 0..BEGIN_WAITS_MAX {
            let status = self.jobs.get_job_status(job).await.ok().flatten().and_then(|job| job.status);
            // Its tasks can be cancelled a moment after it is said to run.
            tokio::time::sleep(GRAPH_PAUSE).await;
            if !matches!(status, None | Some(job_status::Status::Queued(_))) {
                return;
            }
        }
    }

    /// What became of a job that has ended.
    pub async fn graph(&self, job: &JobId) -> Option<ExecutionGraphBox> {
        for _ in 0..GRAPH_WAITS_MAX {
            if let Ok(Some(graph)) = self.jobs.get_execution_graph(job).await {
                return Some(graph);
            }
            tokio::time::sleep(GRAPH_PAUSE).await;
        }
        None
    }
}

/// Whether every stage read what the tasks that count gave, and that once.
fn is_read_once(graph: &dyn ExecutionGraph) -> bool {
    graph.stages().values().all(|stage| {
        let ExecutionStage::Successful(stage) = stage else { return false };
        stage.inputs.iter().all(|(input, output)| {
            let tasks = graph.stages().get(input).and_then(ExecutionStage::task_infos).unwrap_or_default();
            let mut seen = HashSet::new();
            output.partition_locations.values().flatten().all(|location| {
                let place = (location.partition_id.partition_id, location.map_partition_id);
                seen.insert(place) && counts(tasks, location)
            })
        })
    })
}

fn counts(tasks: &[TaskInfo], location: &PartitionLocation) -> bool {
    let task = tasks.get(location.map_partition_id).map(|task| &task.task_status);
    matches!(task, Some(Status::Successful(SuccessfulTask { executor_id, .. })) if *executor_id == location.executor_meta.id)
}

/// The places of a job's rows: of each partition that which was told last, since a repetition comes after.
pub fn latest(locations: Vec<protobuf::PartitionLocation>) -> Vec<protobuf::PartitionLocation> {
    let mut seen = HashSet::new();
    let partition = |location: &protobuf::PartitionLocation| location.partition_id.as_ref().map(|id| id.partition_id);
    let mut latest: Vec<_> = locations.into_iter().rev().filter(|location| seen.insert(partition(location))).collect();
    latest.reverse();
    latest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a partition that was made twice is read from where it was made last, and the order stays.
    #[test]
    fn later_places_count() {
        let location = |partition_id, task| protobuf::PartitionLocation {
            partition_id: Some(protobuf::PartitionId { partition_id, ..Default::default() }),
            file_id: Some(task),
            ..Default::default()
        };
        let told = vec![location(0, 0), location(1, 1), location(2, 2), location(1, 3)];
        let places: Vec<_> = latest(told)
            .iter()
            .map(|location| (location.partition_id.as_ref().unwrap().partition_id, location.file_id.unwrap()))
            .collect();
        assert_eq!(places, [(0, 0), (2, 2), (1, 3)]);
    }
}
