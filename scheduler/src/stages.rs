//! Whether a plan is still right when Ballista has cut it into stages.
//!
//! A stage reads what another has written, and knows nothing of it but columns and partitions: what was sorted, or
//! constant, below a cut is neither above it. So the plan is cut here as Ballista will cut it, and what each operator
//! needs of its inputs is checked again. A plan that does not hold runs whole in one task.

use std::collections::HashMap;
use std::sync::Arc;

use ballista_core::JobId;
use ballista_core::execution_plans::{ShuffleWriter, UnresolvedShuffleExec};
use ballista_scheduler::planner::{DefaultDistributedPlanner, DistributedPlanner};
use covey_engine::distribution::StageCheck;
use covey_engine::upstream::{PlannedExec, kept_as_planned, shares_state};
use datafusion::config::ConfigOptions;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::physical_expr::PartitioningSatisfaction;
use datafusion::physical_plan::joins::{HashJoinExec, PartitionMode, SortMergeJoinExec};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::{Distribution, ExecutionPlan, ExecutionPlanProperties};

/// Cuts plans as Ballista does, and says what would not hold.
#[derive(Debug)]
pub struct BallistaStages;

impl StageCheck for BallistaStages {
    fn objection(&self, plan: &Arc<dyn ExecutionPlan>, options: &ConfigOptions) -> Result<Option<String>> {
        let plan = kept_as_planned(Arc::clone(plan))?;
        let mut planner = DefaultDistributedPlanner::new();
        let stages = planner.plan_query_stages(&JobId::from("check".to_string()), plan, options);
        let stages = match stages {
            Ok(stages) => stages,
            Err(refused) => return Ok(Some(refused.to_string())),
        };
        let stages: HashMap<usize, Arc<dyn ShuffleWriter>> =
            stages.into_iter().map(|stage| (stage.stage_id(), stage)).collect();
        for stage in stages.values() {
            let check = Check { stages: &stages };
            for root in stage.children() {
                let partitions = root.output_partitioning().partition_count();
                if let Some(objection) = check.objection(root, partitions == 1)? {
                    return Ok(Some(objection));
                }
            }
        }
        Ok(None)
    }
}

struct Check<'a> {
    stages: &'a HashMap<usize, Arc<dyn ShuffleWriter>>,
}

impl Check<'_> {
    /// `is_whole`: whether each task reads all of `node`, and not only its partitions.
    fn objection(&self, node: &Arc<dyn ExecutionPlan>, is_whole: bool) -> Result<Option<String>> {
        let children = node.children();
        if children.is_empty() {
            let is_divided = is_whole || node.is::<UnresolvedShuffleExec>() || is_divisible_source(node);
            return Ok((!is_divided).then(|| format!("{} cannot be divided between tasks", node.name())));
        }
        let operator = node.downcast_ref::<PlannedExec>().map_or(node, PlannedExec::operator);
        if operator.is::<RepartitionExec>() {
            return Ok(Some("rows are distributed within a stage".into()));
        }
        let last = children.len() - 1;
        if shares_state(operator) && children[last].output_partitioning().partition_count() != 1 {
            return Ok(Some(format!("partitions of {} share what they have seen", node.name())));
        }
        let required = node.input_distribution_requirements();
        let orders = node.required_input_ordering();
        for (i, child) in children.iter().enumerate() {
            let distribution = required.child_distribution(i).cloned().unwrap_or(Distribution::UnspecifiedDistribution);
            let satisfied = child.output_partitioning().satisfaction(
                &distribution,
                child.equivalence_properties(),
                !is_partitioned_join(operator),
            );
            if satisfied == PartitioningSatisfaction::NotSatisfied {
                return Ok(Some(format!("an input of {} is distributed otherwise", node.name())));
            }
            if let Some(order) = orders.get(i).cloned().flatten() {
                let source = self.source_of_merge(node, child).unwrap_or_else(|| Arc::clone(child));
                let requirement = order.into_single();
                if !source.equivalence_properties().ordering_satisfy_requirement(requirement)? {
                    return Ok(Some(format!("an input of {} is not sorted any more", node.name())));
                }
            }
            let is_read_whole = is_whole || matches!(distribution, Distribution::SinglePartition);
            if let Some(objection) = self.objection(child, is_read_whole)? {
                return Ok(Some(objection));
            }
        }
        if is_partitioned_join(operator) && !has_equal_partitions(&children) {
            return Ok(Some(format!("the sides of {} have other numbers of partitions", node.name())));
        }
        Ok(None)
    }

    /// What a merge reads: partitions that another stage writes keep the order in which they are written.
    fn source_of_merge(
        &self,
        node: &Arc<dyn ExecutionPlan>,
        child: &Arc<dyn ExecutionPlan>,
    ) -> Option<Arc<dyn ExecutionPlan>> {
        let shuffle = child.downcast_ref::<UnresolvedShuffleExec>().filter(|_| node.is::<SortPreservingMergeExec>())?;
        let stage = self.stages.get(&shuffle.stage_id)?;
        stage.children().first().map(|root| Arc::clone(root))
    }
}

fn is_divisible_source(node: &Arc<dyn ExecutionPlan>) -> bool {
    node.downcast_ref::<DataSourceExec>().is_some_and(|source| {
        let source = source.data_source();
        source.is::<FileScanConfig>() || source.is::<MemorySourceConfig>()
    })
}

fn is_partitioned_join(operator: &Arc<dyn ExecutionPlan>) -> bool {
    let hashed = operator.downcast_ref::<HashJoinExec>();
    hashed.is_some_and(|join| *join.partition_mode() == PartitionMode::Partitioned)
        || operator.is::<SortMergeJoinExec>()
}

fn has_equal_partitions(children: &[&Arc<dyn ExecutionPlan>]) -> bool {
    children.windows(2).all(|pair| {
        let count = |side: &Arc<dyn ExecutionPlan>| side.output_partitioning().partition_count();
        count(pair[0]) == count(pair[1])
    })
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use datafusion::datasource::MemTable;
    use datafusion::physical_plan::displayable;
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;

    /// DataFusion as it is, with two tables of several partitions.
    fn tables() -> SessionContext {
        let config = SessionConfig::new().with_target_partitions(3).with_round_robin_repartition(false);
        let context = SessionContext::new_with_config(config);
        for name in ["l", "r"] {
            let rows = |from: i64| {
                let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + 4));
                vec![RecordBatch::try_from_iter([("id", ids)]).unwrap()]
            };
            let partitions = vec![rows(0), rows(4), rows(8)];
            let table = MemTable::try_new(partitions[0][0].schema(), partitions).unwrap();
            context.register_table(name, Arc::new(table)).unwrap();
        }
        context
    }

    async fn planned(sql: &str) -> Arc<dyn ExecutionPlan> {
        tables().sql(sql).await.unwrap().create_physical_plan().await.unwrap()
    }

    fn cut(plan: Arc<dyn ExecutionPlan>) -> String {
        let options = ConfigOptions::default();
        let job = JobId::from("job".to_string());
        let stages = DefaultDistributedPlanner::new().plan_query_stages(&job, plan, &options).unwrap();
        stages.iter().map(|stage| displayable(stage.as_ref()).indent(false).to_string()).collect()
    }

    const LEFT_JOIN: &str = "SELECT l.id FROM l LEFT JOIN r ON l.id = r.id";

    /// Goal: a join keeps its mode when the plan is cut. Method: one that Ballista distributes although it was planned to
    /// collect a side; once it leaves such joins alone, `engine/src/upstream/planned.rs` can go.
    #[tokio::test]
    async fn ballista_chooses_joins_anew() {
        let plan = planned(LEFT_JOIN).await;
        let mode = |text: &str| text.split("HashJoinExec: mode=").nth(1).map(|rest| rest[..9].to_string());
        let before = mode(&displayable(plan.as_ref()).indent(false).to_string());
        assert_ne!(mode(&cut(Arc::clone(&plan))), before, "Ballista leaves joins as they are");
        assert_eq!(mode(&cut(kept_as_planned(plan).unwrap())), before);
    }

    /// Goal: what would not be right in several tasks is objected to, and what is, is not.
    #[tokio::test]
    async fn what_would_not_hold_is_objected_to() {
        let objection = async |sql: &str| {
            let plan = planned(sql).await;
            BallistaStages.objection(&plan, &ConfigOptions::default()).unwrap()
        };
        assert_eq!(objection("SELECT id, count(*) FROM l GROUP BY id ORDER BY id").await, None);
        assert_eq!(objection("SELECT count(*) FROM l JOIN r ON l.id = r.id").await, None);
        let shared = objection("SELECT l.id FROM l FULL JOIN r ON l.id < r.id").await;
        assert!(shared.as_ref().is_some_and(|text| text.contains("share what they have seen")), "{shared:?}");
    }
}
