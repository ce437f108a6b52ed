//! Joins by hashing where the table is known to be small, else by sorting.
//!
//! A hash join is several times as quick as a sort-merge join, and keeps one side in memory, where the other can do with
//! disk. So a join whose smaller side is not known, or is too large for a task, is sorted.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{JoinSide, JoinType};
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{HashJoinExec, HashJoinExecBuilder, PartitionMode, SortMergeJoinExec};
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};

use crate::upstream::PlannedExec;

type Key = Arc<dyn PhysicalExpr>;

/// Bytes of a partition of the side that is hashed.
const HASHED_BYTES_MAX: usize = 256 << 20;

/// Bytes of a side that every task gets whole. Below Ballista's own limit of 128 MiB, beyond which it would distribute it.
const COLLECTED_BYTES_MAX: usize = 64 << 20;

/// To hash a byte costs as much as to write and read so many.
const HASHED_COST: usize = 3;

/// Bytes of a side that every task gets whole however small the other side is.
const ALWAYS_COLLECTED_BYTES: usize = 1 << 20;

/// The larger side is hashed only where it is not larger than so many times the other: sizes are guessed.
const SWAPPED_RATIO: usize = 2;

/// What a text is taken to have where nothing is known of a column but its rows.
const TEXT_BYTES: usize = 64;

/// To be applied when sides and modes are chosen, and before rows are distributed and sorted for them.
#[derive(Debug)]
pub(super) struct Joins;

impl PhysicalOptimizerRule for Joins {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let partitions = config.execution.target_partitions.max(1);
        plan.transform_up(|node| {
            let chosen = match (node.downcast_ref::<HashJoinExec>(), node.downcast_ref::<SortMergeJoinExec>()) {
                (Some(join), _) => chosen(join, partitions)?,
                (_, Some(join)) if !may_be_sorted(join.join_type(), join.on(), join.left())? => Some(hashed(join)?),
                (_, Some(join)) if join.filter().is_some() => Some(Arc::new(PlannedExec::new(Arc::clone(&node))) as _),
                _ => None,
            };
            Ok(match chosen {
                Some(join) => Transformed::yes(join),
                None => Transformed::no(node),
            })
        })
        .data()
    }

    fn name(&self) -> &str {
        "joins"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The join as it should be; `None` where it is so.
fn chosen(join: &HashJoinExec, partitions: usize) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    if join.projection.is_some() || join.null_aware {
        return Ok(None);
    }
    let (left, right) = (bytes(join.left().as_ref())?, bytes(join.right().as_ref())?);
    let is_swapped = match (left, right) {
        (Some(left), Some(right)) => left / SWAPPED_RATIO > right,
        (None, Some(_)) => true,
        _ => false,
    };
    if !is_swapped || !join.join_type().supports_swap() {
        return placed(join, left, right, partitions);
    }
    // The join may be below a projection that puts its columns back in order.
    let swapped = join.swap_inputs(PartitionMode::Partitioned)?.transform_up(|node| {
        let join = node.downcast_ref::<HashJoinExec>().filter(|swapped| Arc::ptr_eq(swapped.left(), join.right()));
        Ok(match join.map(|join| placed(join, right, left, partitions)).transpose()?.flatten() {
            Some(join) => Transformed::yes(join),
            None => Transformed::no(node),
        })
    });
    swapped.data().map(Some)
}

/// The join in the mode that its sides, of which the left is hashed, ask for.
fn placed(
    join: &HashJoinExec,
    left: Option<usize>,
    right: Option<usize>,
    partitions: usize,
) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let mode = match left {
        Some(bytes) if may_be_collected(*join.join_type()) && is_collected(bytes, right, partitions) => {
            PartitionMode::CollectLeft
        }
        Some(bytes) if bytes / partitions <= HASHED_BYTES_MAX => PartitionMode::Partitioned,
        _ if may_be_sorted(*join.join_type(), join.on(), join.left())? => return sorted(join).map(Some),
        _ => PartitionMode::Partitioned,
    };
    if *join.partition_mode() == mode {
        return Ok(None);
    }
    Ok(Some(join.builder().with_partition_mode(mode).build_exec()?))
}

/// Whether each task is to read and hash all of a side, where it would be written and read once with the other side.
fn is_collected(bytes: usize, other: Option<usize>, partitions: usize) -> bool {
    let cost = bytes.saturating_mul(partitions).saturating_mul(HASHED_COST);
    let is_worth_it = cost <= bytes.saturating_add(other.unwrap_or(0));
    bytes <= ALWAYS_COLLECTED_BYTES || bytes <= COLLECTED_BYTES_MAX && is_worth_it
}

/// What the rows of a side take in memory, as far as they are known.
fn bytes(side: &dyn ExecutionPlan) -> Result<Option<usize>> {
    let statistics = StatisticsContext::new().compute(side, &StatisticsArgs::new())?;
    let Some(rows) = statistics.num_rows.get_value() else { return Ok(None) };
    let mut texts = HashMap::new();
    text_widths(side, &mut texts)?;
    let width = |field: &FieldRef| match field.data_type() {
        DataType::Boolean => 1,
        of => of.primitive_width().or_else(|| texts.get(field.name()).copied()).unwrap_or(TEXT_BYTES),
    };
    Ok(Some(side.schema().fields().iter().map(width).fold(0, usize::saturating_add).saturating_mul(*rows)))
}

/// What a text takes on the average, by the name of its column where it is scanned. What statistics tell of its bytes
/// further up is still that of the scan, whatever has become of the rows.
fn text_widths(plan: &dyn ExecutionPlan, widths: &mut HashMap<String, usize>) -> Result<()> {
    for child in plan.children() {
        text_widths(child.as_ref(), widths)?;
    }
    if plan.children().is_empty() {
        let statistics = StatisticsContext::new().compute(plan, &StatisticsArgs::new())?;
        let Some(rows) = statistics.num_rows.get_value().filter(|rows| **rows > 0) else { return Ok(()) };
        for (field, column) in plan.schema().fields().iter().zip(&statistics.column_statistics) {
            if let Some(bytes) = column.byte_size.get_value() {
                let known = widths.entry(field.name().clone()).or_default();
                *known = (*known).max(bytes.div_ceil(*rows));
            }
        }
    }
    Ok(())
}

/// Whether each task of a join may have all rows of the left side: where it gives rows for those of the right side only.
/// Ballista would distribute the rows of other joins after all, when it is too late for what is above them.
fn may_be_collected(join_type: JoinType) -> bool {
    use JoinType::{Inner, Right, RightAnti, RightMark, RightSemi};
    matches!(join_type, Inner | Right | RightSemi | RightAnti | RightMark)
}

/// Whether a sort-merge join can compare such keys. Where it gives rows of one side only, it fails for some types, and
/// panics when it meets NaN.
fn may_be_sorted(join_type: JoinType, on: &[(Key, Key)], left: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    use JoinType::{Full, Inner, Left, Right};
    if matches!(join_type, Inner | Left | Right | Full) {
        return Ok(true);
    }
    for (key, _) in on {
        let is_compared = match key.data_type(&left.schema())? {
            DataType::Null | DataType::Boolean | DataType::Decimal128(..) | DataType::Timestamp(_, None) => true,
            DataType::Date32 | DataType::Date64 | DataType::FixedSizeBinary(_) => true,
            of => of.is_integer() || of.is_string() || of.is_binary(),
        };
        if !is_compared {
            return Ok(false);
        }
    }
    Ok(true)
}

fn hashed(join: &SortMergeJoinExec) -> Result<Arc<dyn ExecutionPlan>> {
    let (left, right) = (Arc::clone(join.left()), Arc::clone(join.right()));
    HashJoinExecBuilder::new(left, right, join.on().to_vec(), join.join_type())
        .with_filter(join.filter().clone())
        .with_partition_mode(PartitionMode::Partitioned)
        .with_null_equality(join.null_equality())
        .build_exec()
}

fn sorted(join: &HashJoinExec) -> Result<Arc<dyn ExecutionPlan>> {
    let join = SortMergeJoinExec::try_new(
        Arc::clone(join.left()),
        Arc::clone(join.right()),
        join.on().to_vec(),
        join.filter().map(left_first).transpose()?,
        *join.join_type(),
        vec![SortOptions::default(); join.on().len()],
        join.null_equality(),
    )?;
    // DataFusion moves a projection below such a join without a look at what the filter reads (datafusion-physical-plan
    // 55.2, `SortMergeJoinExec::try_swapping_with_projection`), but not below a node that it does not know.
    Ok(Arc::new(PlannedExec::new(Arc::new(join))))
}

/// The filter with the columns of the left side before those of the right, as a sort-merge join takes them to be. Where the
/// sides of a join were swapped, they are not.
fn left_first(filter: &JoinFilter) -> Result<JoinFilter> {
    let mut order: Vec<usize> = (0..filter.column_indices().len()).collect();
    order.sort_by_key(|place| filter.column_indices()[*place].side == JoinSide::Right);
    let mut places = vec![0; order.len()];
    for (now, before) in order.iter().enumerate() {
        places[*before] = now;
    }
    let moved = |expression: Arc<dyn PhysicalExpr>| {
        let column = expression.downcast_ref::<Column>();
        Ok(match column.map(|column| Column::new(column.name(), places[column.index()])) {
            Some(column) => Transformed::yes(Arc::new(column) as _),
            None => Transformed::no(expression),
        })
    };
    let expression = Arc::clone(filter.expression()).transform_up(moved).data()?;
    let columns = order.iter().map(|place| filter.column_indices()[*place].clone()).collect();
    Ok(JoinFilter::new(expression, columns, Arc::new(filter.schema().project(&order)?)))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use datafusion::arrow::datatypes::{Field, Schema, TimeUnit};
    use datafusion::common::NullEquality;
    use datafusion::datasource::memory::MemorySourceConfig;
    use datafusion::logical_expr::Operator;
    use datafusion::physical_expr::expressions::{binary, col};
    use datafusion::physical_plan::empty::EmptyExec;
    use datafusion::physical_plan::joins::utils::ColumnIndex;

    use super::*;

    fn rows(n: i64) -> Arc<dyn ExecutionPlan> {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..n));
        let batch = RecordBatch::try_from_iter([("k", Arc::clone(&numbers)), ("v", numbers)]).unwrap();
        MemorySourceConfig::try_new_exec(&[vec![batch.clone()]], batch.schema(), None).unwrap()
    }

    /// Goal: the smaller side is the one that is hashed, and collected where that is worth it and safe.
    #[test]
    fn the_smaller_side_is_hashed() {
        const MANY: i64 = 400_000;
        for (left, right, join_type, expected) in [
            (MANY, 10, JoinType::Inner, (JoinType::Inner, PartitionMode::CollectLeft, 10)),
            (MANY, 10, JoinType::LeftAnti, (JoinType::RightAnti, PartitionMode::CollectLeft, 10)),
            (10, MANY, JoinType::LeftSemi, (JoinType::LeftSemi, PartitionMode::Partitioned, 10)),
            (MANY, MANY + 1, JoinType::Inner, (JoinType::Inner, PartitionMode::Partitioned, MANY)),
            (10, MANY, JoinType::Full, (JoinType::Full, PartitionMode::Partitioned, 10)),
        ] {
            let (left, right) = (rows(left), rows(right));
            let on = vec![(col("k", &left.schema()).unwrap(), col("k", &right.schema()).unwrap())];
            let join =
                HashJoinExecBuilder::new(left, right, on, join_type).with_partition_mode(PartitionMode::Partitioned);
            let join = join.build_exec().unwrap();
            let plan = Joins.optimize(Arc::clone(&join), &ConfigOptions::default()).unwrap();
            assert_eq!(plan.schema(), join.schema());
            let join = if plan.is::<HashJoinExec>() { &plan } else { plan.children()[0] };
            let join = join.downcast_ref::<HashJoinExec>().unwrap();
            let statistics = StatisticsContext::new().compute(join.left().as_ref(), &StatisticsArgs::new()).unwrap();
            let hashed = *statistics.num_rows.get_value().unwrap() as i64;
            assert_eq!((*join.join_type(), *join.partition_mode(), hashed), expected);
        }
    }

    /// Goal: keys that a sort-merge join cannot compare are hashed, whatever was planned.
    #[test]
    fn what_cannot_be_sorted_is_hashed() {
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        for (of, join_type, is_sorted) in [
            (DataType::Int64, JoinType::LeftSemi, true),
            (DataType::Utf8View, JoinType::RightAnti, true),
            (DataType::Float64, JoinType::LeftSemi, false),
            (utc.clone(), JoinType::LeftAnti, false),
            (utc, JoinType::Inner, true),
        ] {
            let schema = Arc::new(Schema::new(vec![Field::new("k", of.clone(), true)]));
            let side = || Arc::new(EmptyExec::new(Arc::clone(&schema))) as Arc<dyn ExecutionPlan>;
            let on = vec![(col("k", &schema).unwrap(), col("k", &schema).unwrap())];
            let options = vec![SortOptions::default()];
            let equality = NullEquality::NullEqualsNothing;
            let join = SortMergeJoinExec::try_new(side(), side(), on, None, join_type, options, equality).unwrap();
            let plan = Joins.optimize(Arc::new(join), &ConfigOptions::default()).unwrap();
            assert_eq!(plan.is::<SortMergeJoinExec>(), is_sorted, "{of} {join_type}");
        }
    }

    /// Goal: a filter means the same when its columns are put in order. Method: one whose left column is between those of
    /// the right.
    #[test]
    fn filters_are_put_in_order() {
        let fields = [("r", DataType::Int64), ("l", DataType::Int32), ("s", DataType::Int64)];
        let schema = Arc::new(Schema::new(fields.map(|(name, of)| Field::new(name, of, true)).to_vec()));
        let column = |index: usize| Arc::new(Column::new(schema.field(index).name(), index)) as Arc<dyn PhysicalExpr>;
        let expression = binary(column(2), Operator::Lt, column(0), &schema).unwrap();
        let sides = [(4, JoinSide::Right), (7, JoinSide::Left), (5, JoinSide::Right)];
        let columns = sides.map(|(index, side)| ColumnIndex { index, side });
        let ordered = left_first(&JoinFilter::new(expression, columns.to_vec(), Arc::clone(&schema))).unwrap();
        let places: Vec<(usize, JoinSide)> = ordered.column_indices().iter().map(|c| (c.index, c.side)).collect();
        assert_eq!(places, [(7, JoinSide::Left), (4, JoinSide::Right), (5, JoinSide::Right)]);
        assert_eq!(ordered.expression().to_string(), "s@2 < r@1");
        let names: Vec<&str> = ordered.schema().fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names, ["l", "r", "s"]);
    }
}
