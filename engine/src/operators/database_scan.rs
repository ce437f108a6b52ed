//! Asks a database, on the executor that needs the rows.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{RecordBatch, RecordBatchOptions};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, Partitioning, PlanProperties,
};
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};
use url::Url;

use super::blocks::block_source;
use crate::catalog::{ColumnEntry, schema_of};
use crate::databases::Databases;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DatabaseQuery {
    pub url: Url,
    pub sql: String,
    /// Of its rows; none where only their number is asked for.
    pub columns: Vec<ColumnEntry>,
}

/// The rows of a query to a database. Its input is of one partition with one row, see the module of all operators.
#[derive(Debug)]
pub struct DatabaseScanExec {
    query: DatabaseQuery,
    schema: SchemaRef,
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl DatabaseScanExec {
    /// # Errors
    /// When a column has a type that this version does not know.
    pub fn of(query: DatabaseQuery) -> Result<Self> {
        let input = block_source(&[query.url.to_string()], 1)?;
        Self::new(query, input)
    }

    /// # Errors
    /// When a column has a type that this version does not know.
    pub fn new(query: DatabaseQuery, input: Arc<dyn ExecutionPlan>) -> Result<Self> {
        let schema = schema_of(&query.columns)?;
        let properties = Arc::new(PlanProperties::new(
            EquivalenceProperties::new(Arc::clone(&schema)),
            Partitioning::UnknownPartitioning(input.output_partitioning().partition_count()),
            EmissionType::Incremental,
            Boundedness::Bounded,
        ));
        Ok(Self { query, schema, input, properties })
    }

    pub fn query(&self) -> &DatabaseQuery {
        &self.query
    }
}

impl DisplayAs for DatabaseScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "DatabaseScanExec: {}: {}", self.query.url, self.query.sql)
    }
}

impl ExecutionPlan for DatabaseScanExec {
    fn name(&self) -> &str {
        "DatabaseScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Self::new(self.query.clone(), Arc::clone(&children[0]))?))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let databases = Databases::of(context.session_config())?;
        let (query, schema) = (self.query.clone(), Arc::clone(&self.schema));
        let rows = input.and_then(move |_| ask(Arc::clone(&databases), query.clone(), Arc::clone(&schema)));
        Ok(Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), rows.try_flatten())))
    }
}

/// The rows of a query, with the columns that the plan has.
async fn ask(databases: Arc<Databases>, query: DatabaseQuery, schema: SchemaRef) -> Result<SendableRecordBatchStream> {
    let rows = databases.query(&query.url, query.sql, Arc::clone(&schema)).await?;
    let typed_schema = Arc::clone(&schema);
    let rows = rows.map(move |batch| typed(&batch?, &typed_schema));
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, rows)))
}

/// The rows with the columns that the plan has: what arrives may be typed by its values.
fn typed(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let columns = batch.columns().iter().zip(schema.fields()).map(|(column, field)| cast(column, field.data_type()));
    let columns = columns.collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)?)
}
