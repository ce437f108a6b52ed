//! Runs stages as Ballista does, after the models that their plans name are loaded, and explains what fails.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use ballista_core::JobId;
use ballista_core::serde::protobuf::{RuntimeStatsReport, ShuffleWritePartition, TaskColumnStats, WindowStateReport};
use ballista_executor::execution_engine::{DefaultExecutionEngine, ExecutionEngine, QueryStageExecutor};
use covey_engine::failure::{is_for_ballista, seal};
use covey_engine::models::cache::ModelCache;
use covey_engine::operators::{ChangedStageExec, SingleTaskExec};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::prelude::SessionConfig;
use uuid::Uuid;

use crate::cancel::{CancelFlag, TaskThreads, stoppable};
use crate::compact::compacting;
use crate::counted_reads::counting_reads;
use crate::dynamic_filters::{finding_filters, with_dynamic_filters};
use crate::explain::explain;
use crate::small_files::reading_small_files_whole;

pub struct CoveyExecutionEngine {
    ballista: DefaultExecutionEngine,
    models: Arc<ModelCache>,
    runtime: Arc<RuntimeEnv>,
    threads: Arc<TaskThreads>,
}

impl CoveyExecutionEngine {
    /// # Errors
    /// When the threads for `vcores` tasks cannot be started.
    pub fn try_new(models: Arc<ModelCache>, runtime: Arc<RuntimeEnv>, vcores: usize) -> Result<Self> {
        let threads = Arc::new(TaskThreads::try_new(vcores)?);
        Ok(Self { ballista: DefaultExecutionEngine::new(), models, runtime, threads })
    }

    /// The plan of a task as it runs here.
    fn prepared(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        flag: &CancelFlag,
        work_dir: &str,
        config: &SessionConfig,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = plan
            .transform_up(|node| {
                Ok(match node.downcast_ref::<SingleTaskExec>() {
                    Some(whole) => {
                        let inside = self.operators(Arc::clone(whole.plan()), flag, config)?;
                        Transformed::yes(Arc::new(SingleTaskExec::try_new(inside)?) as _)
                    }
                    None => Transformed::no(node),
                })
            })
            .data()?;
        let plan = counting_reads(self.operators(plan, flag, config)?, work_dir)?;
        compacting(plan)
    }

    fn operators(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        flag: &CancelFlag,
        config: &SessionConfig,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let plan = with_dynamic_filters(reading_small_files_whole(plan, &self.runtime)?, config.options())?;
        stoppable(plan, flag)
    }
}

/// What Ballista names the files of a task by. Its own numbers begin again when a stage is repeated, so that an attempt
/// that was cancelled, and still writes, would write into the files of the next one.
fn attempt_number() -> usize {
    (Uuid::new_v4().as_u64_pair().0 >> 1) as usize
}

impl ExecutionEngine for CoveyExecutionEngine {
    fn create_query_stage_exec(
        &self,
        job_id: JobId,
        stage_id: usize,
        _task_id: usize,
        global_output_partition_ids: Vec<usize>,
        plan: Arc<dyn ExecutionPlan>,
        work_dir: &str,
        config: &SessionConfig,
    ) -> Result<Arc<dyn QueryStageExecutor>> {
        if let Some(changed) = plan.downcast_ref::<ChangedStageExec>() {
            let text = format!("stage {stage_id} of job {job_id} is refused: {}", changed.difference());
            return Err(seal(&text));
        }
        let flag = CancelFlag::default();
        let plan = self.prepared(plan, &flag, work_dir, config)?;
        let stage = self.ballista.create_query_stage_exec(
            job_id,
            stage_id,
            attempt_number(),
            global_output_partition_ids,
            Arc::clone(&plan),
            work_dir,
            config,
        )?;
        let (models, threads) = (Arc::clone(&self.models), Arc::clone(&self.threads));
        Ok(Arc::new(CoveyStage { stage, plan, models, threads, flag }))
    }
}

/// A stage that first waits for its models, and whose errors are told in plain words.
struct CoveyStage {
    stage: Arc<dyn QueryStageExecutor>,
    plan: Arc<dyn ExecutionPlan>,
    models: Arc<ModelCache>,
    threads: Arc<TaskThreads>,
    flag: CancelFlag,
}

impl fmt::Debug for CoveyStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stage.fmt(f)
    }
}

impl fmt::Display for CoveyStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stage.fmt(f)
    }
}

#[async_trait]
impl QueryStageExecutor for CoveyStage {
    async fn execute_query_stage(
        &self,
        task_id: usize,
        context: Arc<TaskContext>,
    ) -> Result<Vec<ShuffleWritePartition>> {
        let (stage, plan, models) = (Arc::clone(&self.stage), Arc::clone(&self.plan), Arc::clone(&self.models));
        let context = finding_filters(&plan, context);
        let work = async move {
            models.load_all().await;
            match stage.execute_query_stage(task_id, Arc::clone(&context)).await {
                Err(error) if !is_for_ballista(&error) => Err(seal(&explain(&error, &plan, &context).await)),
                result => result,
            }
        };
        self.threads.run(&self.flag, work).await
    }

    fn collect_plan_metrics(&self) -> Vec<MetricsSet> {
        self.stage.collect_plan_metrics()
    }

    fn collect_runtime_stats_reports(&self) -> Vec<RuntimeStatsReport> {
        self.stage.collect_runtime_stats_reports()
    }

    fn collect_window_state_reports(&self) -> Result<Vec<WindowStateReport>> {
        self.stage.collect_window_state_reports()
    }

    fn collect_column_stats(&self) -> Vec<TaskColumnStats> {
        self.stage.collect_column_stats()
    }
}
