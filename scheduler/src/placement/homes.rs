//! Tasks of fits run on the executors that hold their blocks.
//!
//! A fit passes over the same blocks again and again, and an executor that works on one keeps it. So a partition of a pass
//! goes to the executor that holds its blocks, and waits for it while that works on passes, which are short. Another
//! executor takes it when its home is gone, when its home is busy with the whole of another fit, or when it would
//! otherwise have less than its share of the blocks, as one that has just come.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use ballista_core::JobId;
use ballista_core::serde::protobuf::{AvailableVcores, job_status};
use ballista_core::serde::scheduler::TaskKey;
use ballista_scheduler::cluster::{BoundTask, DistributionPolicy};
use ballista_scheduler::state::execution_graph::{TaskDescription, create_task_info};
use ballista_scheduler::state::execution_stage::RunningStage;
use covey_engine::operators::BlocksExec;
use covey_jobs::FitHub;
use datafusion::physical_plan::ExecutionPlan;

use super::{Jobs, Vcores};

/// Binds the tasks of fits.
#[derive(Debug)]
pub(super) struct Homing {
    hub: Arc<FitHub>,
    /// Of every executor that is alive.
    vcores: Vcores,
}

impl Homing {
    pub fn new(hub: Arc<FitHub>, vcores: Vcores) -> Self {
        Self { hub, vcores }
    }
}

#[async_trait]
impl DistributionPolicy for Homing {
    async fn bind_tasks(
        &self,
        mut budgets: Vec<&mut AvailableVcores>,
        running_jobs: Arc<Jobs>,
    ) -> datafusion::error::Result<Vec<BoundTask>> {
        let mut bound = vec![];
        let mut passing = HashSet::new();
        for job in running_jobs.values() {
            let graph = job.execution_graph.read().await;
            if find_blocks(&graph.physical_plan()).is_some_and(|blocks| blocks.work().is_pass()) {
                passing.extend(graph.running_tasks().into_iter().map(|task| task.executor_id));
            }
        }
        // Ids grow: who came first is served first.
        let mut in_order: Vec<_> = running_jobs.iter().collect();
        in_order.sort_by_key(|(job_id, _)| job_id.as_str());
        for (job_id, job) in in_order {
            if !matches!(job.status, Some(job_status::Status::Running(_))) {
                continue;
            }
            let mut graph = job.execution_graph.write().await;
            let session_id = graph.session_id().to_string();
            let mut seen = vec![];
            while let Some(stage) = graph.fetch_running_stage(&seen) {
                seen.push(stage.stage_id);
                let mut binding = Binding { stage, session_id: &session_id, job_id, bound: &mut bound };
                self.bind_stage(&mut binding, &mut budgets, &mut passing);
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
        passing: &mut HashSet<String>,
    ) {
        let Some(mut homes) = Homes::of(binding.stage, self) else { return };
        let mut strangers = vec![];
        for partition in binding.stage.pending.next_slice(usize::MAX) {
            let home = homes.of_partition(partition);
            match budgets.iter_mut().find(|budget| budget.vcores > 0 && Some(&budget.executor_id) == home) {
                Some(budget) => {
                    if homes.is_pass {
                        passing.insert(budget.executor_id.clone());
                    }
                    binding.bind(budget, partition);
                }
                None => strangers.push(partition),
            }
        }
        let mut waiting = vec![];
        for partition in strangers {
            match homes.adopt(partition, budgets, passing) {
                Some(budget) => {
                    self.move_home(&homes, partition, &budget.executor_id);
                    binding.bind(budget, partition);
                }
                None => waiting.push(partition),
            }
        }
        binding.stage.pending.reschedule(waiting);
    }

    /// What works on all blocks at once moves none of them: the passes after it go where they are.
    fn move_home(&self, homes: &Homes, partition: usize, executor: &str) {
        for url in homes.urls.get(partition).into_iter().flatten().filter(|_| homes.is_pass) {
            tracing::debug!(target: "covey", fit = homes.fit, url, executor, "a block moves");
            self.hub.move_home(&homes.fit, url, executor);
        }
    }
}

/// The homes of a stage's partitions.
struct Homes {
    fit: String,
    is_pass: bool,
    urls: Vec<Vec<String>>,
    /// The living executor that holds most of its blocks; none where none of them holds any.
    of_partition: Vec<Option<String>>,
    /// Partitions by executor, and the executor's vcores.
    loads: HashMap<String, (u32, u32)>,
}

impl Homes {
    fn of(stage: &RunningStage, homing: &Homing) -> Option<Self> {
        let blocks = find_blocks(&stage.plan)?;
        let (fit, urls) = (blocks.fit().to_string(), blocks.urls().unwrap_or_default());
        let living_home = |url: &String| homing.hub.home(&fit, url).filter(|home| homing.vcores.contains_key(home));
        let of_partition: Vec<_> = urls.iter().map(|urls| most_frequent(urls.iter().filter_map(living_home))).collect();
        let mut loads: HashMap<String, (u32, u32)> =
            homing.vcores.iter().map(|(id, vcores)| (id.clone(), (0, *vcores))).collect();
        for home in of_partition.iter().flatten() {
            if let Some((load, _)) = loads.get_mut(home) {
                *load += 1;
            }
        }
        Some(Self { fit, is_pass: blocks.work().is_pass(), urls, of_partition, loads })
    }

    fn of_partition(&self, partition: usize) -> Option<&String> {
        self.of_partition.get(partition).and_then(Option::as_ref)
    }

    /// The free executor that is to have a partition whose home is not free, if there is one: that with the fewest
    /// partitions for its vcores.
    fn adopt<'a>(
        &mut self,
        partition: usize,
        budgets: &'a mut [&mut AvailableVcores],
        passing: &HashSet<String>,
    ) -> Option<&'a mut AvailableVcores> {
        let home = self.of_partition(partition).cloned();
        let load_with = |id: &String, more: u32| {
            let (load, vcores) = self.loads.get(id).copied().unwrap_or((0, 1));
            f64::from(load + more) / f64::from(vcores)
        };
        let free = budgets.iter_mut().filter(|budget| budget.vcores > 0);
        let (load, budget) =
            free.map(|budget| (load_with(&budget.executor_id, 1), budget)).min_by(|(a, _), (b, _)| a.total_cmp(b))?;
        if let Some(home) = &home {
            // It comes back soon, unless it has more than its share.
            if passing.contains(home) && load >= load_with(home, 0) {
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

/// Of several as frequent ones the first.
fn most_frequent(homes: impl Iterator<Item = String>) -> Option<String> {
    let mut counts: Vec<(String, usize)> = vec![];
    for home in homes {
        match counts.iter_mut().find(|(known, _)| *known == home) {
            Some((_, count)) => *count += 1,
            None => counts.push((home, 1)),
        }
    }
    counts.into_iter().rev().max_by_key(|(_, count)| *count).map(|(home, _)| home)
}

/// The operator of a fit in a plan, below what Ballista has put on top.
pub(super) fn find_blocks(plan: &Arc<dyn ExecutionPlan>) -> Option<&BlocksExec> {
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
