//! Joins by hashing where the table is known to be small, else by sorting.
//!
//! A hash join is several times as quick as a sort-merge join, and keeps one side in memory, where the other can do with
//! disk. So a join whose smaller side is not known, or is too large for a task, is sorted.

use std::sync::Arc;

use datafusion::arrow::compute::SortOptions;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::error::Result;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode, SortMergeJoinExec};
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};

/// Bytes of a partition of the side that is hashed.
const HASHED_BYTES_MAX: usize = 64 << 20;

/// To be applied when sides and modes are chosen, and before rows are distributed and sorted for them.
#[derive(Debug)]
pub(super) struct Joins;

impl PhysicalOptimizerRule for Joins {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let partitions = config.execution.target_partitions.max(1);
        plan.transform_up(|node| {
            let sorted =
                node.downcast_ref::<HashJoinExec>().map(|join| sorted(join, partitions)).transpose()?.flatten();
            Ok(match sorted {
                Some(join) => Transformed::yes(join),
                None => Transformed::no(node),
            })
        })
        .data()
    }

    fn name(&self) -> &str {
        "joins"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The join by sorting, where it should be one.
fn sorted(join: &HashJoinExec, partitions: usize) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if *join.partition_mode() == PartitionMode::CollectLeft || join.projection.is_some() || join.null_aware {
        return Ok(None);
    }
    let statistics = StatisticsContext::new().compute(join.left().as_ref(), &StatisticsArgs::new())?;
    let known = statistics.total_byte_size;
    if known.get_value().is_some_and(|bytes| bytes / partitions <= HASHED_BYTES_MAX) {
        return Ok(None);
    }
    let join = SortMergeJoinExec::try_new(
        Arc::clone(join.left()),
        Arc::clone(join.right()),
        join.on().to_vec(),
        join.filter().cloned(),
        *join.join_type(),
        vec![SortOptions::default(); join.on().len()],
        join.null_equality(),
    )?;
    Ok(Some(Arc::new(join)))
}
