//! Which executor runs which task: those of queries as Ballista binds them, those of fits where their blocks are.
//!
//! Ballista keeps a count of free vcores that each binding lowers and each report of a task raises. A task whose stage was
//! rolled back, because another executor was lost, reports in vain: its vcore is gone for good, and after a few losses a
//! cluster stands still. So nothing is counted here: what an executor has free is what the tasks that run leave of it.
//!
//! Queries and fits have all vcores each, and the operating system shares the cores between them. If they shared
//! vcores, a query would wait for the end of a task that fits a model, which may take minutes.

mod homes;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use ballista_core::JobId;
use ballista_core::error::Result;
use ballista_core::serde::protobuf::{AvailableVcores, ExecutorHeartbeat};
use ballista_core::serde::scheduler::{ExecutorData, ExecutorMetadata};
use ballista_scheduler::cluster::memory::InMemoryClusterState;
use ballista_scheduler::cluster::{BoundTask, ClusterState, ClusterStateEventStream, DistributionPolicy, ExecutorSlot};
use ballista_scheduler::config::TaskDistributionPolicy;
use ballista_scheduler::state::task_manager::JobInfoCache;
use covey_jobs::FitHub;

use homes::{Homing, find_blocks};

use crate::rollbacks::Rollbacks;

type Jobs = HashMap<JobId, JobInfoCache>;

/// Vcores by executor.
type Vcores = HashMap<String, u32>;

/// Ballista's cluster state in memory, with our placement of tasks.
pub struct PlacingCluster {
    inner: InMemoryClusterState,
    hub: Arc<FitHub>,
    rollbacks: Rollbacks,
}

impl PlacingCluster {
    pub fn new(hub: Arc<FitHub>, rollbacks: Rollbacks) -> Self {
        Self { inner: InMemoryClusterState::default(), hub, rollbacks }
    }

    /// Of the executors that are alive.
    async fn vcores(&self, alive: Option<&HashSet<String>>) -> Vcores {
        let known = self.inner.registered_executor_metadata().await.into_iter();
        let alive = known.filter(|executor| alive.is_none_or(|alive| alive.contains(&executor.id)));
        alive.map(|executor| (executor.id, executor.specification.vcores.max(1))).collect()
    }

    /// The running jobs that work on the blocks of fits, and the others.
    async fn by_kind(&self, jobs: &Jobs) -> (Jobs, Jobs) {
        let (mut fits, mut queries) = (HashMap::new(), HashMap::new());
        for (id, job) in jobs {
            let graph = job.execution_graph.read().await;
            self.rollbacks.watch(id, graph.as_ref());
            let is_fit = find_blocks(&graph.physical_plan()).is_some();
            let kind = if is_fit { &mut fits } else { &mut queries };
            kind.insert(id.clone(), job.clone());
        }
        (fits, queries)
    }

    /// Binds tasks of these jobs to what their own tasks leave of the executors.
    async fn bind(
        &self,
        policy: TaskDistributionPolicy,
        jobs: Jobs,
        vcores: &Vcores,
        executors: Option<HashSet<String>>,
    ) -> Result<Vec<BoundTask>> {
        if jobs.is_empty() {
            return Ok(vec![]);
        }
        let free = free_vcores(vcores, &jobs).await;
        let jobs = Arc::new(jobs);
        let forget = TaskDistributionPolicy::Custom(Arc::new(Forget));
        self.inner.bind_schedulable_tasks(forget, Arc::clone(&jobs), None).await?;
        self.inner.unbind_tasks(free).await?;
        self.inner.bind_schedulable_tasks(policy, jobs, executors).await
    }
}

#[async_trait]
impl ClusterState for PlacingCluster {
    async fn bind_schedulable_tasks(
        &self,
        distribution: TaskDistributionPolicy,
        active_jobs: Arc<Jobs>,
        executors: Option<HashSet<String>>,
    ) -> Result<Vec<BoundTask>> {
        let (fits, queries) = self.by_kind(&active_jobs).await;
        let vcores = self.vcores(executors.as_ref()).await;
        let homing = Homing::new(Arc::clone(&self.hub), vcores.clone());
        let homing = TaskDistributionPolicy::Custom(Arc::new(homing));
        let mut bound = self.bind(homing, fits, &vcores, executors.clone()).await?;
        bound.extend(self.bind(distribution, queries, &vcores, executors).await?);
        Ok(bound)
    }

    /// Nothing to do: see the module's documentation.
    async fn unbind_tasks(&self, _executor_slots: Vec<ExecutorSlot>) -> Result<()> {
        Ok(())
    }

    async fn register_executor(&self, metadata: ExecutorMetadata, spec: ExecutorData) -> Result<()> {
        self.inner.register_executor(metadata, spec).await
    }

    async fn save_executor_metadata(&self, metadata: ExecutorMetadata) -> Result<()> {
        self.inner.save_executor_metadata(metadata).await
    }

    async fn get_executor_metadata(&self, executor_id: &str) -> Result<ExecutorMetadata> {
        self.inner.get_executor_metadata(executor_id).await
    }

    async fn registered_executor_metadata(&self) -> Vec<ExecutorMetadata> {
        self.inner.registered_executor_metadata().await
    }

    async fn save_executor_heartbeat(&self, heartbeat: ExecutorHeartbeat) -> Result<()> {
        self.inner.save_executor_heartbeat(heartbeat).await
    }

    async fn remove_executor(&self, executor_id: &str) -> Result<()> {
        self.inner.remove_executor(executor_id).await
    }

    fn executor_heartbeats(&self) -> HashMap<String, ExecutorHeartbeat> {
        self.inner.executor_heartbeats()
    }

    fn get_executor_heartbeat(&self, executor_id: &str) -> Option<ExecutorHeartbeat> {
        self.inner.get_executor_heartbeat(executor_id)
    }

    async fn cluster_state_events(&self) -> Result<ClusterStateEventStream> {
        self.inner.cluster_state_events().await
    }
}

/// What the running tasks of `jobs` leave of `vcores`.
async fn free_vcores(vcores: &Vcores, jobs: &Jobs) -> Vec<ExecutorSlot> {
    let mut free = vcores.clone();
    for job in jobs.values() {
        let graph = job.execution_graph.read().await;
        for task in graph.running_tasks() {
            let taken = graph.task_vcores(task.stage_id, task.task_id).unwrap_or(0);
            if let Some(free) = free.get_mut(&task.executor_id) {
                *free = free.saturating_sub(taken);
            }
        }
    }
    free.into_iter().collect()
}

/// Binds nothing, and takes what was free.
#[derive(Debug)]
struct Forget;

#[async_trait]
impl DistributionPolicy for Forget {
    async fn bind_tasks(
        &self,
        budgets: Vec<&mut AvailableVcores>,
        _running_jobs: Arc<Jobs>,
    ) -> datafusion::error::Result<Vec<BoundTask>> {
        budgets.into_iter().for_each(|budget| budget.vcores = 0);
        Ok(vec![])
    }

    fn name(&self) -> &str {
        "forget what is free"
    }
}
