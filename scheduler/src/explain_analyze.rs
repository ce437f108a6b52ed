//! EXPLAIN ANALYZE: the stages of a job that has ended, with what their operators have measured in all tasks.

use std::sync::Arc;

use ballista_scheduler::display::format_stage_metrics;
use ballista_scheduler::state::execution_graph::ExecutionGraph;
use ballista_scheduler::state::execution_stage::ExecutionStage;
use datafusion::arrow::array::{RecordBatch, StringArray};
use datafusion::error::Result;
use datafusion::logical_expr::LogicalPlan;

/// A row of each stage, the first to run first.
///
/// # Errors
/// When rows cannot be made of them.
pub fn measured(graph: &dyn ExecutionGraph) -> Result<RecordBatch> {
    let mut stages: Vec<_> = graph.stages().iter().collect();
    stages.sort_by_key(|(id, _)| **id);
    let of = stages.len();
    let told = stages.into_iter().filter_map(|(id, stage)| match stage {
        ExecutionStage::Successful(stage) => {
            let plan = format_stage_metrics(stage.plan.as_ref(), &stage.stage_metrics);
            Some((format!("stage {id} of {of}, tasks: {}", stage.task_infos.len()), plan))
        }
        _ => None,
    });
    let (names, plans): (Vec<String>, Vec<String>) = told.unzip();
    let columns = [names, plans].map(|texts| Arc::new(StringArray::from(texts)) as _);
    Ok(RecordBatch::try_new(LogicalPlan::explain_schema(), columns.to_vec())?)
}
