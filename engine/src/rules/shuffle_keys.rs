//! Functions with a model as keys of a shuffle, such as `PARTITION BY predict(...)`.
//!
//! Ballista sends the keys of a shuffle without the codec of the plan, so a function would arrive without its model.
//! Such keys become columns below the shuffle, and are taken away above it.

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::projection::{ProjectionExec, ProjectionExpr};
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{ExecutionPlan, Partitioning};

use crate::models::functions::ModelFunc;

#[derive(Debug)]
pub(super) struct ShuffleKeys;

impl PhysicalOptimizerRule for ShuffleKeys {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            Ok(match node.downcast_ref::<RepartitionExec>().map(with_plain_keys).transpose()?.flatten() {
                Some(plain) => Transformed::yes(plain),
                None => Transformed::no(node),
            })
        })
        .data()
    }

    fn name(&self) -> &str {
        "shuffle_keys"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The same shuffle by columns; `None` when it is by columns already, or by nothing that needs a model.
fn with_plain_keys(shuffle: &RepartitionExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Partitioning::Hash(keys, n_partitions) = shuffle.partitioning() else {
        return Ok(None);
    };
    if !keys.iter().map(has_model).collect::<Result<Vec<_>>>()?.contains(&true) {
        return Ok(None);
    }
    let input = shuffle.input();
    let n_columns = input.schema().fields().len();
    let mut columns = columns(input.as_ref(), n_columns);
    let mut plain = vec![];
    for (i, key) in keys.iter().enumerate() {
        let name = format!("__shuffle_key_{i}");
        plain.push(Arc::new(Column::new(&name, n_columns + i)) as Arc<dyn PhysicalExpr>);
        columns.push(ProjectionExpr { expr: Arc::clone(key), alias: name });
    }
    let with_keys = Arc::new(ProjectionExec::try_new(columns, Arc::clone(input))?);
    let mut shuffled = RepartitionExec::try_new(with_keys, Partitioning::Hash(plain, *n_partitions))?;
    if shuffle.preserve_order() {
        shuffled = shuffled.with_preserve_order();
    }
    let without_keys = self::columns(&shuffled, n_columns);
    Ok(Some(Arc::new(ProjectionExec::try_new(without_keys, Arc::new(shuffled))?)))
}

/// The first `n` columns of a plan.
fn columns(plan: &dyn ExecutionPlan, n: usize) -> Vec<ProjectionExpr> {
    let schema = plan.schema();
    let fields = schema.fields().iter().enumerate().take(n);
    fields
        .map(|(i, field)| ProjectionExpr { expr: Arc::new(Column::new(field.name(), i)), alias: field.name().clone() })
        .collect()
}

fn has_model(expr: &Arc<dyn PhysicalExpr>) -> Result<bool> {
    let mut found = false;
    expr.apply(|expr| {
        let function = expr.downcast_ref::<ScalarFunctionExpr>();
        found |= function.is_some_and(|function| function.fun().inner().downcast_ref::<ModelFunc>().is_some());
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}
