//! What a query gives has the types that it was announced with.
//!
//! DataFusion's logical and physical plans now and then differ: in the digits of a decimal, in the kind of a text, in
//! whether a column may be NULL. A client is told the logical ones before the query runs, and a table is made with them.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties};
use futures::StreamExt;

/// Gives the rows of its input as rows of another schema of as many columns.
#[derive(Debug)]
pub struct ResultSchemaExec {
    schema: SchemaRef,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl ResultSchemaExec {
    pub fn new(schema: SchemaRef, input: Arc<dyn ExecutionPlan>) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            input.output_partitioning().clone(),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        Self { schema, input, properties: Arc::new(properties) }
    }

    /// The plan with this schema; itself where it has it. A column of which either says that it may be NULL may be.
    pub fn over(plan: Arc<dyn ExecutionPlan>, schema: &SchemaRef) -> Arc<dyn ExecutionPlan> {
        let has = plan.schema();
        let differs =
            has.fields().iter().zip(schema.fields()).any(|(has, wanted)| {
                has.data_type() != wanted.data_type() || !has.is_nullable() && wanted.is_nullable()
            });
        if !differs || has.fields().len() != schema.fields().len() {
            return plan;
        }
        let fields = has
            .fields()
            .iter()
            .zip(schema.fields())
            .map(|(has, wanted)| wanted.as_ref().clone().with_nullable(has.is_nullable() || wanted.is_nullable()));
        let schema = Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone());
        Arc::new(Self::new(Arc::new(schema), plan))
    }
}

impl DisplayAs for ResultSchemaExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("ResultSchemaExec")
    }
}

impl ExecutionPlan for ResultSchemaExec {
    fn name(&self) -> &str {
        "ResultSchemaExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(Arc::clone(&self.schema), Arc::clone(&children[0]))))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let schema = Arc::clone(&self.schema);
        let rows = input.map(move |batch| of_schema(&batch?, &schema));
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows)))
    }
}

fn of_schema(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let columns = batch.columns().iter().zip(schema.fields());
    let cast_options = CastOptions { safe: false, ..CastOptions::default() };
    let columns = columns.map(|(column, field)| Ok(cast_with_options(column, field.data_type(), &cast_options)?));
    let columns = columns.collect::<Result<_>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}
