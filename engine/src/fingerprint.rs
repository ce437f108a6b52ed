//! What a stage is, operator by operator, so that an executor can tell whether it decoded what was planned.
//!
//! The wire form of a plan has lost things before without a word: the FILTER of a window function, IGNORE NULLS, grouping
//! sets. Some of them are nowhere in what a plan displays, so windows are taken with all that they are made of.

use std::sync::Arc;

use ballista_core::execution_plans::{ShuffleReaderExec, ShuffleWriter};
use datafusion::arrow::datatypes::Schema;
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column};
use datafusion::physical_expr::window::WindowExpr;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{HashJoinExec, NestedLoopJoinExec, SortMergeJoinExec};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{DisplayFormatType, ExecutionPlan, ExecutionPlanProperties};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::external;
use crate::operators::SingleTaskExec;
use crate::upstream::PlannedExec;

/// What the debug text of a window function has where it is told something: by the plan, or by itself.
const FLAGS_OF_WINDOWS: [&[&str]; 4] = [
    &["is_reversed: true"],
    &["ignore_nulls: true", "ignores_nulls: true"],
    &["is_distinct: true"],
    &["filter: Some("],
];

/// The operators of a stage below its writer, from the root down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint(Vec<Operator>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Operator {
    name: String,
    hash: u64,
}

impl Fingerprint {
    /// Of the plans below a writer.
    pub fn of(plans: &[Arc<dyn ExecutionPlan>]) -> Self {
        let mut operators = vec![];
        for plan in plans {
            add(plan, &mut operators);
        }
        Self(operators)
    }

    /// The first operator that is another than was planned.
    pub fn difference(&self, planned: &Self) -> Option<String> {
        let differing = planned.0.iter().zip(&self.0).find(|(planned, decoded)| planned != decoded);
        match differing {
            Some((planned, decoded)) if planned.name != decoded.name => {
                Some(format!("{} arrived as {}", planned.name, decoded.name))
            }
            Some((planned, _)) => Some(format!("{} arrived otherwise than it was planned", planned.name)),
            None if planned.0.len() != self.0.len() => {
                Some(format!("{} operators arrived of {}", self.0.len(), planned.0.len()))
            }
            None => None,
        }
    }

    /// # Errors
    /// None that could be seen.
    pub fn encode(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(external)
    }

    /// # Errors
    /// When these are other bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(external)
    }
}

/// Whether a node is the root of a stage.
pub fn is_writer(node: &dyn ExecutionPlan) -> bool {
    use ballista_core::execution_plans::{ShuffleWriterExec, SortShuffleWriterExec};
    fn is<T: ShuffleWriter + 'static>(node: &dyn ExecutionPlan) -> bool {
        node.is::<T>()
    }
    is::<ShuffleWriterExec>(node) || is::<SortShuffleWriterExec>(node)
}

fn add(node: &Arc<dyn ExecutionPlan>, operators: &mut Vec<Operator>) {
    let operator = node.downcast_ref::<PlannedExec>().map_or(node, PlannedExec::operator);
    if operator.downcast_ref::<ProjectionExec>().is_some_and(keeps_columns) {
        // Decoding a union puts such above inputs whose columns are never NULL.
        operator.children().into_iter().for_each(|child| add(child, operators));
        return;
    }
    tracing::trace!(target: "covey", description = description(operator.as_ref()), "an operator of a stage");
    operators.push(Operator { name: operator.name().to_string(), hash: hash(&description(operator.as_ref())) });
    if let Some(whole) = operator.downcast_ref::<SingleTaskExec>() {
        add(whole.plan(), operators);
    }
    for child in operator.children() {
        add(child, operators);
    }
}

/// Whether a projection gives the columns of its input as they are.
fn keeps_columns(projection: &ProjectionExec) -> bool {
    let schema = projection.input().schema();
    projection.expr().len() == schema.fields().len()
        && projection.expr().iter().zip(schema.fields()).enumerate().all(|(i, (projected, field))| {
            let cast = projected.expr.downcast_ref::<CastExpr>();
            let same_type = cast.is_none_or(|cast| cast.cast_type() == field.data_type());
            let column = cast.map_or(&projected.expr, CastExpr::expr).downcast_ref::<Column>();
            same_type && projected.alias == *field.name() && column.is_some_and(|column| column.index() == i)
        })
}

/// The first bytes of a digest: enough to tell operators apart.
fn hash(text: &str) -> u64 {
    let digest = Sha256::digest(text.as_bytes());
    digest.iter().take(size_of::<u64>()).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

/// All that an operator is, without its inputs.
fn description(node: &dyn ExecutionPlan) -> String {
    let partitions = node.output_partitioning().partition_count();
    format!("{}|{}|{partitions}|{}", node.name(), schema_text(&node.schema()), details(node))
}

/// Names and types. Whether a column may be NULL is worked out anew, and may come out less exact.
fn schema_text(schema: &Schema) -> String {
    let fields = schema.fields().iter();
    fields.map(|field| format!("{}:{}", field.name(), field.data_type())).collect::<Vec<_>>().join(",")
}

fn details(node: &dyn ExecutionPlan) -> String {
    if let Some(reader) = node.downcast_ref::<ShuffleReaderExec>() {
        let files = reader.partition.iter().map(Vec::len).collect::<Vec<_>>();
        return format!("{} {files:?} {}", reader.stage_id, reader.broadcast);
    }
    if node.is::<DataSourceExec>() || node.is::<SingleTaskExec>() {
        // What is displayed of a source is in no certain order.
        return String::new();
    }
    if let Some(window) = node.downcast_ref::<BoundedWindowAggExec>() {
        return format!("{} {:?}", windows_text(window.window_expr()), window.input_order_mode);
    }
    if let Some(window) = node.downcast_ref::<WindowAggExec>() {
        return windows_text(window.window_expr());
    }
    let more = if let Some(aggregate) = node.downcast_ref::<AggregateExec>() {
        aggregate_text(aggregate)
    } else if let Some(join) = node.downcast_ref::<HashJoinExec>() {
        format!("{:?} {:?} {:?} {}", join.null_equality(), join.projection, filter_text(join.filter()), join.null_aware)
    } else if let Some(join) = node.downcast_ref::<NestedLoopJoinExec>() {
        filter_text(join.filter())
    } else if let Some(join) = node.downcast_ref::<SortMergeJoinExec>() {
        format!("{:?} {}", join.null_equality(), filter_text(join.filter().as_ref()))
    } else {
        String::new()
    };
    format!("{} {more} {:?}", displayed(node), node.fetch())
}

/// What is asked of window functions. Their flags can be seen nowhere but in their debug text, all of which does not
/// travel.
fn windows_text(windows: &[Arc<dyn WindowExpr>]) -> String {
    let text = |window: &Arc<dyn WindowExpr>| {
        let debug = format!("{window:?}");
        let flags = FLAGS_OF_WINDOWS.map(|texts| texts.iter().any(|text| debug.contains(text)));
        let of = |exprs: &[Arc<dyn PhysicalExpr>]| exprs.iter().map(ToString::to_string).collect::<Vec<_>>();
        let order: Vec<String> = window.order_by().iter().map(ToString::to_string).collect();
        let (arguments, partition) = (of(&window.expressions()), of(window.partition_by()));
        format!("{} {arguments:?} {partition:?} {order:?} {} {flags:?}", window.name(), window.get_window_frame())
    };
    windows.iter().map(text).collect::<Vec<_>>().join("; ")
}

fn aggregate_text(aggregate: &AggregateExec) -> String {
    let calls = aggregate.aggr_expr().iter().map(|call| {
        format!(
            "{} {} {} {} {:?}",
            call.fun().name(),
            call.is_distinct(),
            call.ignore_nulls(),
            call.is_reversed(),
            call.order_bys().iter().map(ToString::to_string).collect::<Vec<_>>()
        )
    });
    let calls: Vec<String> = calls.collect();
    let filters: Vec<_> =
        aggregate.filter_expr().iter().map(|filter| filter.as_ref().map(ToString::to_string)).collect();
    format!("{calls:?} {filters:?} {:?} {:?}", aggregate.group_expr().groups(), aggregate.limit_options())
}

fn filter_text(filter: Option<&JoinFilter>) -> String {
    filter.map_or_else(String::new, |filter| format!("{} {:?}", filter.expression(), filter.column_indices()))
}

fn displayed(node: &dyn ExecutionPlan) -> String {
    struct Verbose<'a>(&'a dyn ExecutionPlan);
    impl std::fmt::Display for Verbose<'_> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            self.0.fmt_as(DisplayFormatType::Verbose, f)
        }
    }
    Verbose(node).to_string()
}
