//! Joins whose tasks would have to know of each other run in one task.
//!
//! - **What is wrong.** A join that collects its left side, and gives rows for those of them that found no partner, or
//!   that found one, keeps in memory which have: all its partitions must be in one process. A nested loop join declares
//!   nothing of the kind, nor does a NOT IN that must know of every NULL; Ballista gives their partitions to several
//!   tasks, each of which takes for unmatched what another has matched.
//! - **Where.** datafusion-physical-plan 55.2, `joins/nested_loop_join.rs` (`required_input_distribution`),
//!   `joins/hash_join/exec.rs`; ballista issue 1055.
//! - **How it is mended.** Where the sides can be swapped, the other side is collected, and rows are given for those of
//!   the side that is read once. Else that side is brought into one partition, and the join runs in one task.
//! - **Remove when** joins declare what they need, or Ballista keeps the partitions of such joins in one task.

use std::sync::Arc;

use datafusion::common::JoinType;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, PartitionMode};
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};

use super::rebuilt;

/// Swaps nested loop joins that give rows of the side that they collect. To be applied before rows are distributed.
#[derive(Debug)]
pub(crate) struct SwapNestedLoops;

impl PhysicalOptimizerRule for SwapNestedLoops {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            let join = node.downcast_ref::<NestedLoopJoinExec>();
            let join =
                join.filter(|join| gives_rows_of_the_left(*join.join_type()) && *join.join_type() != JoinType::Full);
            Ok(match join.map(NestedLoopJoinExec::swap_inputs).transpose()? {
                Some(swapped) => Transformed::yes(swapped),
                None => Transformed::no(node),
            })
        })
        .data()
    }

    fn name(&self) -> &str {
        "swap_nested_loops"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Brings the right side of joins that share state into one partition. To be applied when the plan is distributed.
#[derive(Debug)]
pub(crate) struct JoinsOfOneTask;

impl PhysicalOptimizerRule for JoinsOfOneTask {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            if !shares_state(&node) {
                return Ok(Transformed::no(node));
            }
            let [left, right] = node.children()[..] else { return Ok(Transformed::no(node)) };
            if right.output_partitioning().partition_count() == 1 {
                return Ok(Transformed::no(node));
            }
            let sides = vec![Arc::clone(left), Arc::new(CoalescePartitionsExec::new(Arc::clone(right))) as _];
            Ok(Transformed::yes(rebuilt(&node, sides)?))
        })
        .data()
    }

    fn name(&self) -> &str {
        "joins_of_one_task"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Whether all output partitions of a join must be in one task.
pub fn shares_state(node: &Arc<dyn ExecutionPlan>) -> bool {
    if let Some(join) = node.downcast_ref::<HashJoinExec>() {
        return join.null_aware
            || *join.partition_mode() == PartitionMode::CollectLeft && gives_rows_of_the_left(*join.join_type());
    }
    node.downcast_ref::<NestedLoopJoinExec>().is_some_and(|join| gives_rows_of_the_left(*join.join_type()))
}

/// Whether a join gives rows of its left side when it has seen all of the right one.
fn gives_rows_of_the_left(join_type: JoinType) -> bool {
    use JoinType::{Full, Left, LeftAnti, LeftMark, LeftSemi};
    matches!(join_type, Left | Full | LeftSemi | LeftAnti | LeftMark)
}
