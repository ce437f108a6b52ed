//! Rows that a query brings along keep their number and their limit.
//!
//! - **What is wrong.** Ballista swaps a row of constants that a task is not to give (`SELECT 400 UNION ALL ...`) for an
//!   empty source, which has other metrics. The scheduler cannot add such metrics up, logs that, and the job never ends.
//!   Of rows in memory it drops the limit that was pushed into them: `SELECT * FROM (VALUES (1), (2), (3)) LIMIT 2` gives
//!   three.
//! - **Where.** ballista-scheduler 55.0, `state/task_builder.rs` (`select_output_partitions`), and
//!   `state/execution_graph.rs` (`update_task_status`).
//! - **How it is mended.** Both leaves become rows in memory, which tasks can be given parts of, and the limit stands
//!   above them.
//! - **Remove when** `select_output_partitions` keeps the kind of a leaf and its fetch.

use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions, new_null_array};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::limit::LocalLimitExec;
use datafusion::physical_plan::placeholder_row::PlaceholderRowExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion::scalar::ScalarValue;

#[derive(Debug)]
pub(crate) struct ConstantRows;

impl PhysicalOptimizerRule for ConstantRows {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            Ok(match in_memory(&node)? {
                Some(source) => Transformed::yes(source),
                None => Transformed::no(node),
            })
        })
        .data()
    }

    fn name(&self) -> &str {
        "constant_rows"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn in_memory(node: &Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let partitions = node.output_partitioning().partition_count();
    if node.is::<PlaceholderRowExec>() {
        return source(&node.schema(), vec![vec![placeholder_row(&node.schema())?]; partitions]).map(Some);
    }
    if node.is::<EmptyExec>() {
        return source(&node.schema(), vec![vec![]; partitions]).map(Some);
    }
    let Some(data) = node.downcast_ref::<DataSourceExec>() else { return Ok(None) };
    let (true, Some(fetch)) = (data.data_source().is::<MemorySourceConfig>(), node.fetch()) else { return Ok(None) };
    Ok(Some(Arc::new(LocalLimitExec::new(Arc::clone(node), fetch))))
}

fn source(schema: &SchemaRef, partitions: Vec<Vec<RecordBatch>>) -> Result<Arc<dyn ExecutionPlan>> {
    Ok(MemorySourceConfig::try_new_exec(&partitions, Arc::clone(schema), None)?)
}

/// What a placeholder gives: its columns are never asked for.
fn placeholder_row(schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = schema.fields().iter().map(|field| match field.is_nullable() {
        true => Ok(new_null_array(field.data_type(), 1)),
        false => ScalarValue::new_default(field.data_type())?.to_array(),
    });
    let columns = columns.collect::<Result<_>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}
