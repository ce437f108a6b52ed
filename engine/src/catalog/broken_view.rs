//! A view whose tables are gone or have changed: it is still listed and described, and a query of it says what is wrong.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;

use crate::failure::plain_text;
use crate::user_err;

/// See the module's documentation.
#[derive(Debug)]
pub struct BrokenView {
    schema: SchemaRef,
    definition: String,
    error: DataFusionError,
}

impl BrokenView {
    pub fn new(schema: SchemaRef, definition: String, error: DataFusionError) -> Self {
        Self { schema, definition, error }
    }
}

#[async_trait]
impl TableProvider for BrokenView {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn get_table_definition(&self) -> Option<&str> {
        Some(&self.definition)
    }

    async fn scan(
        &self,
        _session: &dyn Session,
        _projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        user_err!("{}", plain_text(&self.error))
    }
}
