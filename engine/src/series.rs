//! `generate_series` and `range`, whose rows also count where no column of theirs is asked for.
//!
//! DataFusion leaves columns out where it generates them, and does not say so when it sends the plan to executors. So
//! they are generated, and left out above.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableFunction, TableFunctionArgs, TableFunctionImpl};
use datafusion::datasource::TableProvider;
use datafusion::error::Result;
use datafusion::functions_table::all_default_table_functions;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::projection::ProjectionExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;

/// The table functions that are built in.
pub fn table_functions() -> Vec<Arc<TableFunction>> {
    let whole = |function: Arc<TableFunction>| {
        let name = function.name().to_string();
        Arc::new(TableFunction::new(name, Arc::new(Whole(function))))
    };
    all_default_table_functions().into_iter().map(whole).collect()
}

#[derive(Debug)]
struct Whole(Arc<TableFunction>);

impl TableFunctionImpl for Whole {
    fn call_with_args(&self, args: TableFunctionArgs) -> Result<Arc<dyn TableProvider>> {
        Ok(Arc::new(WholeTable(self.0.create_table_provider_with_args(args)?)))
    }
}

#[derive(Debug)]
struct WholeTable(Arc<dyn TableProvider>);

#[async_trait]
impl TableProvider for WholeTable {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn table_type(&self) -> TableType {
        self.0.table_type()
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let whole = self.0.scan(session, None, filters, limit).await?;
        let Some(projection) = projection else { return Ok(whole) };
        let schema = whole.schema();
        let columns = projection.iter().map(|&i| {
            let name = schema.field(i).name();
            ProjectionExpr::new(Arc::new(Column::new(name, i)), name.clone())
        });
        Ok(Arc::new(ProjectionExec::try_new(columns.collect::<Vec<_>>(), whole)?))
    }
}
