//! What is in a few files of a table, by which the size of others is judged: joins are planned by it.
//!
//! It is never told as exact: a filter or an aggregate must not be decided by a guess.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use datafusion::datasource::file_format::FileFormat;
use datafusion::error::Result;
use object_store::{ObjectMeta, ObjectStore};
use serde::{Deserialize, Serialize};

/// Files that are looked into.
pub(super) const FILES_MAX: usize = 4;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Of the files themselves.
    bytes: u64,
    rows: u64,
    /// Of the rows in memory, by column.
    #[serde(default)]
    column_bytes: BTreeMap<String, u64>,
    /// Of columns of whole numbers and dates.
    ranges: BTreeMap<String, Range>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Range {
    min: i64,
    max: i64,
}

impl Sample {
    /// What the format tells of the last of `files`; `None` where it tells nothing, or they cannot be read.
    pub async fn of(
        session: &dyn Session,
        store: &Arc<dyn ObjectStore>,
        format: &Arc<dyn FileFormat>,
        schema: &SchemaRef,
        files: &[ObjectMeta],
    ) -> Option<Self> {
        let mut sample = Self { bytes: 0, rows: 0, column_bytes: BTreeMap::new(), ranges: BTreeMap::new() };
        for file in files.iter().rev().take(FILES_MAX) {
            let found = format.infer_stats(session, store, Arc::clone(schema), file).await.ok()?;
            sample.bytes += file.size;
            sample.rows += *found.num_rows.get_value()? as u64;
            for (field, column) in schema.fields().iter().zip(&found.column_statistics) {
                if let Some(bytes) = column.byte_size.get_value() {
                    *sample.column_bytes.entry(field.name().clone()).or_default() += *bytes as u64;
                }
                if let Some(range) = range_of(column) {
                    sample.ranges.entry(field.name().clone()).and_modify(|known| known.extend(range)).or_insert(range);
                }
            }
        }
        (sample.bytes > 0).then_some(sample)
    }

    /// Of files of so many bytes, which have the columns of `schema` and perhaps others.
    pub fn statistics(&self, schema: &Schema, bytes: u64) -> Statistics {
        let scaled = |n: u64| Precision::Inexact((n as f64 * bytes as f64 / self.bytes as f64).ceil() as usize);
        let mut statistics = Statistics::new_unknown(schema);
        statistics.num_rows = scaled(self.rows);
        statistics.total_byte_size = scaled(self.column_bytes.values().sum());
        for (field, column) in schema.fields().iter().zip(&mut statistics.column_statistics) {
            if let Some(bytes) = self.column_bytes.get(field.name()) {
                column.byte_size = scaled(*bytes);
            }
            if let Some(range) = self.ranges.get(field.name()) {
                range.tell(field.data_type(), column);
            }
        }
        statistics
    }
}

fn range_of(column: &ColumnStatistics) -> Option<Range> {
    let whole = |value: &Precision<ScalarValue>| {
        let value = value.get_value().filter(|value| is_whole(&value.data_type()))?;
        match value.cast_to(&DataType::Int32).ok().filter(|_| value.data_type() == DataType::Date32) {
            Some(ScalarValue::Int32(days)) => days.map(i64::from),
            _ => match value.cast_to(&DataType::Int64) {
                Ok(ScalarValue::Int64(number)) => number,
                _ => None,
            },
        }
    };
    Some(Range { min: whole(&column.min_value)?, max: whole(&column.max_value)? })
}

fn is_whole(data_type: &DataType) -> bool {
    data_type.is_integer() || *data_type == DataType::Date32
}

impl Range {
    fn extend(&mut self, other: Self) {
        *self = Self { min: self.min.min(other.min), max: self.max.max(other.max) };
    }

    fn tell(self, data_type: &DataType, column: &mut ColumnStatistics) {
        let value = |number: i64| -> Result<ScalarValue> {
            match data_type {
                DataType::Date32 => Ok(ScalarValue::Date32(i32::try_from(number).ok())),
                other => ScalarValue::Int64(Some(number)).cast_to(other),
            }
        };
        if is_whole(data_type)
            && let (Ok(min), Ok(max)) = (value(self.min), value(self.max))
        {
            column.min_value = Precision::Inexact(min);
            column.max_value = Precision::Inexact(max);
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::Field;

    use super::*;

    /// Goal: a sample of a tenth stands for the whole, as a guess.
    #[test]
    fn a_part_stands_for_the_whole() {
        let known = ColumnStatistics {
            min_value: Precision::Exact(ScalarValue::Int32(Some(-5))),
            max_value: Precision::Exact(ScalarValue::Int32(Some(7))),
            ..ColumnStatistics::new_unknown()
        };
        let days = ColumnStatistics {
            min_value: Precision::Exact(ScalarValue::Date32(Some(17_000))),
            max_value: Precision::Exact(ScalarValue::Date32(Some(18_000))),
            ..ColumnStatistics::new_unknown()
        };
        let ranges = [("n", range_of(&known)), ("d", range_of(&days))];
        let ranges = ranges.into_iter().map(|(name, range)| (name.to_string(), range.unwrap())).collect();
        let column_bytes = [("n", 240), ("d", 120), ("t", 40)].map(|(name, bytes)| (name.to_string(), bytes));
        let sample = Sample { bytes: 100, rows: 30, column_bytes: column_bytes.into(), ranges };
        let fields = [("n", DataType::Int64), ("d", DataType::Date32), ("t", DataType::Utf8)];
        let fields = fields.map(|(name, data_type)| Field::new(name, data_type, true));
        let statistics = sample.statistics(&Schema::new(fields.to_vec()), 1_000);
        assert_eq!(statistics.num_rows, Precision::Inexact(300));
        assert_eq!(statistics.total_byte_size, Precision::Inexact(4_000));
        let [n, d, t] = &statistics.column_statistics[..] else { panic!("three columns") };
        assert_eq!(n.max_value, Precision::Inexact(ScalarValue::Int64(Some(7))));
        assert_eq!(d.min_value, Precision::Inexact(ScalarValue::Date32(Some(17_000))));
        assert_eq!(*t, ColumnStatistics::new_unknown().with_byte_size(Precision::Inexact(400)));
    }
}
