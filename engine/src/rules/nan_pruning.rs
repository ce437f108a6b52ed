//! Files are not left out by what their statistics do not know: NaN.
//!
//! NaN is the largest number, and Parquet does not count it among the largest of a column. So a filter that NaN passes,
//! such as `x > 100`, must not leave out row groups whose largest number is smaller. Rows are filtered above the scan all
//! the same.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::datasource::physical_plan::{FileScanConfig, FileScanConfigBuilder, FileSource, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use datafusion::physical_expr::utils::collect_columns;
use datafusion::physical_expr::{PhysicalExpr, conjunction, split_conjunction};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;

#[derive(Debug)]
pub(super) struct NanPruning;

impl PhysicalOptimizerRule for NanPruning {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        // Then it is the scan that filters rows.
        if config.execution.parquet.pushdown_filters {
            return Ok(plan);
        }
        plan.transform_up(|node| {
            Ok(match pruned_safely(&node) {
                Some(scan) => Transformed::yes(scan),
                None => Transformed::no(node),
            })
        })
        .data()
    }

    fn name(&self) -> &str {
        "nan_pruning"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The scan without the filters that NaN may pass; `None` where it has none.
fn pruned_safely(node: &Arc<dyn ExecutionPlan>) -> Option<Arc<dyn ExecutionPlan>> {
    let scan = node.downcast_ref::<DataSourceExec>()?.data_source().downcast_ref::<FileScanConfig>()?;
    let source = scan.file_source().downcast_ref::<ParquetSource>()?;
    if source.table_parquet_options().global.pushdown_filters {
        return None;
    }
    let schema = source.table_schema().table_schema();
    let is_float = |column: &Column| schema.field(column.index()).data_type().is_floating();
    let predicate = source.filter()?;
    let filters = split_conjunction(&predicate);
    // What another filter says of a column may keep NaN out for all.
    let without_nan: HashSet<Column> = filters.iter().filter_map(|filter| fails_for_nan(filter)).collect();
    let is_safe = |filter: &&&Arc<dyn PhysicalExpr>| {
        collect_columns(filter).iter().all(|column| !is_float(column) || without_nan.contains(column))
    };
    let safe: Vec<_> = filters.iter().filter(is_safe).map(|filter| Arc::clone(filter)).collect();
    if safe.len() == filters.len() {
        return None;
    }
    let source = source.with_predicate(conjunction(safe));
    let scan = FileScanConfigBuilder::from(scan.clone()).with_source(Arc::new(source)).build();
    Some(DataSourceExec::from_data_source(scan))
}

/// The column whose comparison with a number a filter is, where that is false for NaN.
fn fails_for_nan(filter: &Arc<dyn PhysicalExpr>) -> Option<Column> {
    let comparison = filter.downcast_ref::<BinaryExpr>()?;
    let (left, right) = (comparison.left(), comparison.right());
    let (column, number, op) = match (left.downcast_ref::<Column>(), right.downcast_ref::<Column>()) {
        (Some(column), None) => (column, right, *comparison.op()),
        (None, Some(column)) => (column, left, comparison.op().swap()?),
        _ => return None,
    };
    let is_nan = |value: &ScalarValue| match value {
        ScalarValue::Float64(Some(number)) => number.is_nan(),
        ScalarValue::Float32(Some(number)) => number.is_nan(),
        _ => !value.data_type().is_numeric(),
    };
    let is_number = number.downcast_ref::<Literal>().is_some_and(|literal| !is_nan(literal.value()));
    let is_below = matches!(op, Operator::Lt | Operator::LtEq | Operator::Eq);
    (is_number && is_below).then(|| column.clone())
}
