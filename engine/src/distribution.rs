//! Plans that may be cut into stages, and plans that run whole in one task.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::execution::context::QueryPlanner;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_planner::{DefaultPhysicalPlanner, PhysicalPlanner};

use crate::operators::{ResultSchemaExec, SingleTaskExec};

/// Says what would not hold of a plan that is cut into stages; an extension of the sessions that plan for a cluster.
pub trait StageCheck: fmt::Debug + Send + Sync {
    /// # Errors
    /// When the plan cannot be looked at.
    fn objection(&self, plan: &Arc<dyn ExecutionPlan>, options: &ConfigOptions) -> Result<Option<String>>;
}

/// The [`StageCheck`] of a session.
#[derive(Debug, Clone)]
pub struct StageChecks(pub Arc<dyn StageCheck>);

/// The physical plan of a query, which gives what the logical plan announces.
///
/// # Errors
/// When it cannot be planned.
pub async fn physical_plan(state: &SessionState, plan: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
    let physical = state.create_physical_plan(plan).await?;
    Ok(ResultSchemaExec::over(physical, plan.schema().inner()))
}

/// The plan of a query in which types fit together. Before that, a union has those of its first input.
///
/// # Errors
/// When they do not.
pub fn analyzed(state: &SessionState, plan: LogicalPlan) -> Result<LogicalPlan> {
    state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {})
}

/// Plans as DataFusion does. What cannot be divided between tasks becomes a plan of one task: a slow answer is better
/// than an error, and an error better than a wrong one.
#[derive(Debug)]
pub(crate) struct CoveyQueryPlanner;

#[async_trait]
impl QueryPlanner for CoveyQueryPlanner {
    async fn create_physical_plan(&self, plan: &LogicalPlan, session: &dyn Session) -> Result<Arc<dyn ExecutionPlan>> {
        let planner = DefaultPhysicalPlanner::default();
        let checks = session.config().get_extension::<StageChecks>();
        let (Some(checks), Some(state)) = (checks, session.as_any().downcast_ref::<SessionState>()) else {
            return planner.create_physical_plan(plan, session).await;
        };
        if has_scalar_subquery(plan)? {
            return in_one_task(plan, state, "a scalar subquery that is no join").await;
        }
        let physical = planner.create_physical_plan(plan, state).await?;
        match checks.0.objection(&physical, state.config_options())? {
            None => Ok(physical),
            Some(objection) => in_one_task(plan, state, &objection).await,
        }
    }
}

async fn in_one_task(plan: &LogicalPlan, state: &SessionState, why: &str) -> Result<Arc<dyn ExecutionPlan>> {
    tracing::debug!(target: "covey", why, "a query runs whole in one task");
    let mut state = state.clone();
    let options = state.config_mut().options_mut();
    options.execution.target_partitions = 1;
    options.optimizer.enable_physical_uncorrelated_scalar_subquery = true;
    let physical = DefaultPhysicalPlanner::default().create_physical_plan(plan, &state).await?;
    Ok(Arc::new(SingleTaskExec::try_new(physical)?))
}

/// Whether an optimized plan still has a query in the place of a value.
fn has_scalar_subquery(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expression| {
            expression.apply(|part| {
                found |= matches!(part, Expr::ScalarSubquery(_));
                Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
            })
        })
    })?;
    Ok(found)
}
