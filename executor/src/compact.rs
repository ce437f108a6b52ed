//! Texts are written without those that they were cut out of.
//!
//! A column of text views holds on to whole buffers of what it was taken from, also where a filter or a join has left one
//! row of a thousand, and what a stage writes would have all of them in each batch.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, GenericByteViewArray, RecordBatch, RecordBatchOptions};
use datafusion::arrow::datatypes::{ByteViewType, DataType};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
};
use futures::StreamExt;

/// Texts up to so many bytes are in the view itself.
const INLINE_BYTES: u32 = 12;

/// How many times as large as its texts a column's buffers may be.
const WASTE_MAX: usize = 2;

/// Buffers up to so many bytes are not worth a look.
const SMALL_BYTES: usize = 16 << 10;

/// The plan of a stage, whose root writes: what it writes is compact.
pub(crate) fn compacting(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let has_views = |input: &Arc<dyn ExecutionPlan>| {
        let schema = input.schema();
        schema.fields().iter().any(|field| matches!(field.data_type(), DataType::Utf8View | DataType::BinaryView))
    };
    let [input] = plan.children()[..] else { return Ok(plan) };
    if !has_views(input) {
        return Ok(plan);
    }
    let input = Arc::new(CompactExec { input: Arc::clone(input) });
    plan.replace_children(vec![input], ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}

/// Gives what its input gives, in buffers of its own. Without metrics, which are told by the position of the nodes that
/// have them.
#[derive(Debug)]
struct CompactExec {
    input: Arc<dyn ExecutionPlan>,
}

impl DisplayAs for CompactExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("CompactExec")
    }
}

impl ExecutionPlan for CompactExec {
    fn name(&self) -> &str {
        "CompactExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
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
        Ok(Arc::new(Self { input: Arc::clone(&children[0]) }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let schema = input.schema();
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, input.map(|batch| compact(&batch?)))))
    }
}

fn compact(batch: &RecordBatch) -> Result<RecordBatch> {
    let columns = batch.columns().iter().map(|column| match column.data_type() {
        DataType::Utf8View => compact_views(column, column.as_string_view()),
        DataType::BinaryView => compact_views(column, column.as_binary_view()),
        _ => Arc::clone(column),
    });
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(batch.schema(), columns.collect(), &options)?)
}

fn compact_views<T: ByteViewType>(column: &ArrayRef, views: &GenericByteViewArray<T>) -> ArrayRef {
    let held: usize = views.data_buffers().iter().map(|buffer| buffer.len()).sum();
    if held <= SMALL_BYTES {
        return Arc::clone(column);
    }
    let used: usize = views.lengths().filter(|length| *length > INLINE_BYTES).map(|length| length as usize).sum();
    if held <= used * WASTE_MAX { Arc::clone(column) } else { Arc::new(views.gc()) }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::StringViewArray;
    use datafusion::arrow::compute::take;

    use super::*;

    /// Goal: a few rows of many do not carry the others along, and stay what they are.
    #[test]
    fn few_rows_are_small() {
        let texts = (0..10_000).map(|i| (i % 7 > 0).then(|| format!("a text of some length, number {i}")));
        let all: ArrayRef = Arc::new(texts.collect::<StringViewArray>());
        let few = take(&all, &datafusion::arrow::array::UInt32Array::from(vec![5, 700, 9_999]), None).unwrap();
        let batch = RecordBatch::try_from_iter([("t", few), ("u", all.slice(0, 3))]).unwrap();
        let small = compact(&batch).unwrap();
        assert_eq!(small, batch);
        assert!(small.get_array_memory_size() < 2_000 && batch.get_array_memory_size() > 300_000);
        let whole = RecordBatch::try_from_iter([("t", Arc::clone(&all))]).unwrap();
        assert!(Arc::ptr_eq(compact(&whole).unwrap().column(0), &all), "what is compact is not copied");
    }
}
