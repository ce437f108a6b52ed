//! A whole plan as one operator, so that one task runs it.
//!
//! Ballista cuts a plan into stages where it finds what it cuts at, by going down from child to child. The plan inside
//! this node is no child: it is run by DataFusion, in one process, as it was planned. It costs that one task does all
//! the work, and is for plans that would not be right otherwise.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::datatypes::Schema;
use datafusion::common::internal_err;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties, displayable,
    execute_stream,
};

use super::FILES_SKIPPED;

/// See the module's documentation.
#[derive(Debug)]
pub struct SingleTaskExec {
    plan: Arc<dyn ExecutionPlan>,
    /// One partition without rows: what Ballista makes a task of.
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl SingleTaskExec {
    /// # Errors
    /// None that could be seen.
    pub fn try_new(plan: Arc<dyn ExecutionPlan>) -> Result<Self> {
        let input = MemorySourceConfig::try_new_exec(&[vec![]], Arc::new(Schema::empty()), None)?;
        Ok(Self::over(plan, input))
    }

    pub(super) fn over(plan: Arc<dyn ExecutionPlan>, input: Arc<dyn ExecutionPlan>) -> Self {
        let properties = PlanProperties::new(
            plan.equivalence_properties().clone(),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self { plan, input, properties: Arc::new(properties) }
    }

    pub fn plan(&self) -> &Arc<dyn ExecutionPlan> {
        &self.plan
    }
}

impl DisplayAs for SingleTaskExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        let plan = displayable(self.plan.as_ref()).indent(false).to_string();
        write!(f, "SingleTaskExec: {}", plan.trim_end().replace('\n', " <- "))
    }
}

impl ExecutionPlan for SingleTaskExec {
    fn name(&self) -> &str {
        "SingleTaskExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::over(Arc::clone(&self.plan), Arc::clone(&children[0]))))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        if partition != 0 {
            return internal_err!("a plan of one task was asked for partition {partition}");
        }
        execute_stream(Arc::clone(&self.plan), context)
    }

    /// Those that a statement reports: what the operators inside have taken is theirs alone.
    fn metrics(&self) -> Option<MetricsSet> {
        let mut metrics = MetricsSet::new();
        add_reported(self.plan.as_ref(), &mut metrics);
        Some(metrics)
    }
}

fn add_reported(plan: &dyn ExecutionPlan, metrics: &mut MetricsSet) {
    for metric in plan.metrics().iter().flat_map(MetricsSet::iter) {
        if metric.value().name() == FILES_SKIPPED {
            metrics.push(Arc::clone(metric));
        }
    }
    for child in plan.children() {
        add_reported(child.as_ref(), metrics);
    }
}
