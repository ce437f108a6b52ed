//! Where the tasks of fits run: on the executors that hold their blocks.
//!
//! A fit passes over the same blocks again and again, and an executor that works on one keeps it. So a partition of a fit
//! goes to the executor that holds its blocks, and waits for it while that works on fits. Another executor takes it when
//! its home is gone, when its home is busy with queries, or when it would otherwise have less than its share of the blocks,
//! as one that has just come. Queries are bound by Ballista.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use ballista_core::JobId;
use ballista_core::error::Result;
use ballista_core::serde::protobuf::{AvailableVcores, ExecutorHeartbeat, job_status};
use ballista_core::serde::scheduler::{ExecutorData, ExecutorMetadata, TaskKey};
use ballista_scheduler::cluster::memory::InMemoryClusterState;
use ballista_scheduler::cluster::{BoundTask, ClusterState, ClusterStateEventStream, DistributionPolicy, ExecutorSlot};
use ballista_scheduler::config::TaskDistributionPolicy;
use ballista_scheduler::state::execution_graph::{TaskDescription, create_task_info};
use ballista_scheduler::state::execution_stage::RunningStage;
use ballista_scheduler::state::task_manager::JobInfoCache;
use covey_engine::operators::BlocksExec;
use covey_jobs::FitHub;
use datafusion::physical_plan::ExecutionPlan;

type Jobs = Arc<HashMap<JobId, JobInfoCache>>;

/// Ballista's cluster state in memory, which sends tasks of fits home.
pub struct HomingCluster {
    inner: InMemoryClusterState,
    hub: Arc<FitHub>,
}

impl HomingCluster {
    pub fn new(hub: Arc<FitHub>) -> Self {
        Self { inner: InMemoryClusterState::default(), hub }
    }
}

#[async_trait]
impl ClusterState for HomingCluster {
    async fn bind_schedulable_tasks(
        &self,
        distribution: TaskDistributionPolicy,
        active_jobs: Jobs,
        executors: Option<HashSet<String>>,
    ) -> Result<Vec<BoundTask>> {
        let (fits, queries) = by_kind(&active_jobs).await;
        let mut bound = vec![];
        if !fits.is_empty() {
            let known = self.inner.registered_executor_metadata().await.into_iter();
            let alive = known.filter(|executor| executors.as_ref().is_none_or(|alive| alive.contains(&executor.id)));
            let vcores = alive.map(|executor| (executor.id, executor.specification.vcores.max(1))).collect();
            let homing = TaskDistributionPolicy::Custom(Arc::new(Homing { hub: Arc::clone(&self.hub), vcores }));
            bound = self.inner.bind_schedulable_tasks(homing, Arc::new(fits), executors.clone()).await?;
        }
        if !queries.is_empty() {
            bound.extend(self.inner.bind_schedulable_tasks(distribution, Arc::new(queries), executors).await?);
        }
        Ok(bound)
    }

    async fn unbind_tasks(&self, executor_slots: Vec<ExecutorSlot>) -> Result<()> {
        self.inner.unbind_tasks(executor_slots).await
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

/// The running jobs that pass over the blocks of fits, and the others.
async fn by_kind(jobs: &Jobs) -> (HashMap<JobId, JobInfoCache>, HashMap<JobId, JobInfoCache>) {
    let (mut fits, mut queries) = (HashMap::new(), HashMap::new());
    for (id, job) in jobs.iter() {
        let is_fit = job.execution_graph.read().await.physical_plan().is::<BlocksExec>();
        let kind = if is_fit { &mut fits } else { &mut queries };
        kind.insert(id.clone(), job.clone());
    }
    (fits, queries)
}

/// Binds the tasks of fits.
#[derive(Debug)]
struct Homing {
    hub: Arc<FitHub>,
    /// Of every executor that is alive.
    vcores: HashMap<String, u32>,
}

#[async_trait]
impl DistributionPolicy for Homing {
    async fn bind_tasks(
        &self,
        mut budgets: Vec<&mut AvailableVcores>,
        running_jobs: Jobs,
    ) -> datafusion::error::Result<Vec<BoundTask>> {
        let mut bound = vec![];
        let mut at_work = HashSet::new();
        for job in running_jobs.values() {
            let running = job.execution_graph.read().await.running_tasks();
            at_work.extend(running.into_iter().map(|task| task.executor_id));
        }
        for (job_id, job) in running_jobs.iter() {
            if !matches!(job.status, Some(job_status::Status::Running(_))) {
                continue;
            }
            let mut graph = job.execution_graph.write().await;
            let session_id = graph.session_id().to_string();
            let mut seen = vec![];
            while let Some(stage) = graph.fetch_running_stage(&seen) {
                seen.push(stage.stage_id);
                let mut binding = Binding { stage, session_id: &session_id, job_id, bound: &mut bound };
                self.bind_stage(&mut binding, &mut budgets, &mut at_work);
            }
        }
        Ok(bound)
    }

    fn name(&self) -> &str {
        "blocks go home"
    }
}

impl Homing {
    /// Binds what can be bound of a stage: first the partitions whose homes are free.
    fn bind_stage(
        &self,
        binding: &mut Binding<'_>,
        budgets: &mut [&mut AvailableVcores],
        at_work: &mut HashSet<String>,
    ) {
        let Some(mut homes) = Homes::of(binding.stage, self) else { return };
        let mut strangers = vec![];
        for partition in binding.stage.pending.next_slice(usize::MAX) {
            let home = homes.of_partition.get(partition).and_then(Option::as_ref);
            match budgets.iter_mut().find(|budget| budget.vcores > 0 && Some(&budget.executor_id) == home) {
                Some(budget) => {
                    at_work.insert(budget.executor_id.clone());
                    binding.bind(budget, partition);
                }
                None => strangers.push(partition),
            }
        }
        let mut waiting = vec![];
        for partition in strangers {
            match homes.adopt(partition, budgets, at_work) {
                Some(budget) => {
                    self.move_home(&homes, partition, &budget.executor_id);
                    binding.bind(budget, partition);
                }
                None => waiting.push(partition),
            }
        }
        binding.stage.pending.reschedule(waiting);
    }

    fn move_home(&self, homes: &Homes, partition: usize, executor: &str) {
        for url in homes.urls.get(partition).into_iter().flatten() {
            tracing::debug!(target: "covey", fit = homes.fit, url, executor, "a block moves");
            self.hub.move_home(&homes.fit, url, executor);
        }
    }
}

/// The homes of a stage's partitions.
struct Homes {
    fit: String,
    urls: Vec<Vec<String>>,
    /// That of its first block; none where no living executor holds it.
    of_partition: Vec<Option<String>>,
    /// Partitions by executor, and the executor's vcores.
    loads: HashMap<String, (u32, u32)>,
}

impl Homes {
    fn of(stage: &RunningStage, homing: &Homing) -> Option<Self> {
        let blocks = find_blocks(&stage.plan)?;
        let (fit, urls) = (blocks.fit().to_string(), blocks.urls()?);
        let home = |urls: &Vec<String>| urls.first().and_then(|url| homing.hub.home(&fit, url));
        let is_alive = |home: &String| homing.vcores.contains_key(home);
        let of_partition: Vec<_> = urls.iter().map(|urls| home(urls).filter(is_alive)).collect();
        let mut loads: HashMap<String, (u32, u32)> =
            homing.vcores.iter().map(|(id, vcores)| (id.clone(), (0, *vcores))).collect();
        for home in of_partition.iter().flatten() {
            if let Some((load, _)) = loads.get_mut(home) {
                *load += 1;
            }
        }
        Some(Self { fit, urls, of_partition, loads })
    }

    /// The free executor that is to have a partition whose home is not free, if there is one: that with the fewest
    /// partitions for its vcores.
    fn adopt<'a>(
        &mut self,
        partition: usize,
        budgets: &'a mut [&mut AvailableVcores],
        at_work: &HashSet<String>,
    ) -> Option<&'a mut AvailableVcores> {
        let home = self.of_partition.get(partition)?.clone();
        let load_with = |id: &String, more: u32| {
            let (load, vcores) = self.loads.get(id).copied().unwrap_or((0, 1));
            f64::from(load + more) / f64::from(vcores)
        };
        let free = budgets.iter_mut().filter(|budget| budget.vcores > 0);
        let (budget, load) = free
            .map(|budget| (load_with(&budget.executor_id, 1), budget))
            .min_by(|(a, _), (b, _)| a.total_cmp(b))
            .map(|(load, budget)| (budget, load))?;
        if let Some(home) = &home {
            // It comes back soon, unless it has more than its share.
            if at_work.contains(home) && load >= load_with(home, 0) {
                return None;
            }
        }
        for (id, change) in [(home.as_ref(), -1), (Some(&budget.executor_id), 1)] {
            if let Some((load, _)) = id.and_then(|id| self.loads.get_mut(id)) {
                *load = load.saturating_add_signed(change);
            }
        }
        Some(budget)
    }
}

/// The operator of a fit in a stage, below what Ballista has put on top.
fn find_blocks(plan: &Arc<dyn ExecutionPlan>) -> Option<&BlocksExec> {
    plan.downcast_ref::<BlocksExec>().or_else(|| plan.children().into_iter().find_map(find_blocks))
}

/// A stage whose tasks are being bound.
struct Binding<'a> {
    stage: &'a mut RunningStage,
    session_id: &'a str,
    job_id: &'a JobId,
    bound: &'a mut Vec<BoundTask>,
}

impl Binding<'_> {
    /// One task for one partition, on one vcore: what is merged inside an executor is merged inside a partition.
    fn bind(&mut self, budget: &mut AvailableVcores, partition: usize) {
        let stage = &mut *self.stage;
        // Ballista numbers tasks by their place in the list.
        let task_id = stage.task_infos.len();
        let mut info = create_task_info(budget.executor_id.clone(), task_id);
        info.global_input_partition_ids = vec![partition];
        info.vcores_consumed = 1;
        stage.task_infos.push(info);
        budget.vcores -= 1;
        let task = TaskDescription {
            session_id: self.session_id.to_string(),
            key: TaskKey { job_id: self.job_id.clone(), stage_id: stage.stage_id, task_id },
            stage_attempt_num: stage.stage_attempt_num,
            task_attempt: stage.task_failure_numbers.get(partition).copied().unwrap_or_default(),
            global_input_partition_ids: vec![partition],
            vcores_consumed: 1,
            plan: Arc::clone(&stage.plan),
            session_config: Arc::clone(&stage.session_config),
        };
        self.bound.push((budget.executor_id.clone(), task));
    }
}
