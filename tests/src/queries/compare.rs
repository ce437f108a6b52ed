//! Whether two answers are the same: as rows in an order, or in any, with numbers by their value.

use std::cmp::Ordering;
use std::fmt;

use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Float64Type, SchemaRef};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};

use super::generator::OrderKey;

/// How far floating-point numbers may be apart, relative to the larger: sums are taken in any order.
const RELATIVE_ERROR_MAX: f64 = 1e-9;

/// Rows that a difference shows of each side.
const SHOWN_ROWS_MAX: usize = 12;

/// What a statement has given.
#[derive(Debug, Clone)]
pub struct Rows {
    pub schema: SchemaRef,
    pub batches: Vec<RecordBatch>,
}

/// A value, whatever type it came in.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Null,
    /// A whole or decimal number as written, without zeros at its end.
    Exact(String),
    Float(f64),
    Text(String),
}

type Row = Vec<Value>;

impl Rows {
    pub fn len(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn values(&self) -> Vec<Row> {
        self.batches.iter().flat_map(rows_of).collect()
    }

    /// What differs, in words; `None` where nothing does.
    ///
    /// Rows are compared as a set in which a row may be there more than once, and with `order` also by the sequence of its
    /// keys. With `is_cut` and an order that leaves some rows equal, which of them are given is left open.
    pub fn difference(&self, expected: &Self, order: &[OrderKey], is_cut: bool) -> Option<String> {
        let (ours, theirs) = (self.values(), expected.values());
        if ours.len() != theirs.len() {
            return Some(format!("{} rows, not {}{}", ours.len(), theirs.len(), shown(&ours, &theirs)));
        }
        let places: Vec<usize> = order.iter().filter_map(|key| self.schema.index_of(&key.column).ok()).collect();
        let keys = |row: &Row| places.iter().map(|place| row[*place].clone()).collect::<Row>();
        if ours.iter().zip(&theirs).any(|(ours, theirs)| !same_row(&keys(ours), &keys(theirs))) {
            return Some(format!("another order of keys{}", shown(&ours, &theirs)));
        }
        let all_are_keys = places.len() == self.schema.fields().len();
        if is_cut && !all_are_keys {
            return None;
        }
        let (sorted_ours, sorted_theirs) = (sorted(ours.clone()), sorted(theirs.clone()));
        let differs = sorted_ours.iter().zip(&sorted_theirs).any(|(ours, theirs)| !same_row(ours, theirs));
        differs.then(|| format!("other values{}", shown(&sorted_ours, &sorted_theirs)))
    }

    /// What differs between names, types and nullability; `None` where nothing does.
    pub fn schema_difference(&self, expected: &Self) -> Option<String> {
        let (ours, theirs) = (self.schema.fields(), expected.schema.fields());
        if ours.len() != theirs.len() {
            return Some(format!("{} columns, not {}", ours.len(), theirs.len()));
        }
        ours.iter().zip(theirs).find_map(|(ours, theirs)| {
            // A column that may be NULL is announced as such; one that is told to be perhaps is never NULL, no harm done.
            let differs = ours.name() != theirs.name()
                || ours.data_type() != theirs.data_type()
                || !ours.is_nullable() && theirs.is_nullable();
            differs.then(|| format!("column {ours} should be {theirs}"))
        })
    }
}

fn rows_of(batch: &RecordBatch) -> Vec<Row> {
    let columns: Vec<Vec<Value>> = batch.columns().iter().map(|column| values_of(column.as_ref())).collect();
    (0..batch.num_rows()).map(|row| columns.iter().map(|column| column[row].clone()).collect()).collect()
}

fn values_of(column: &dyn Array) -> Vec<Value> {
    let float = matches!(column.data_type(), DataType::Float16 | DataType::Float32 | DataType::Float64)
        .then(|| cast(column, &DataType::Float64).expect("a float is a double"));
    let is_number = column.data_type().is_numeric();
    let options = FormatOptions::default().with_null("NULL");
    let formatter = ArrayFormatter::try_new(column, &options).expect("every type has a text");
    (0..column.len())
        .map(|row| match &float {
            _ if column.is_null(row) => Value::Null,
            Some(float) => Value::Float(float.as_primitive::<Float64Type>().value(row)),
            None if is_number => Value::Exact(without_zeros(&formatter.value(row).to_string())),
            None => Value::Text(formatter.value(row).to_string()),
        })
        .collect()
}

/// `1.50` and `1.5` are one number.
fn without_zeros(number: &str) -> String {
    match number.split_once('.') {
        Some(_) => {
            let short = number.trim_end_matches('0').trim_end_matches('.');
            if short == "-0" { "0".into() } else { short.into() }
        }
        None => number.into(),
    }
}

fn sorted(mut rows: Vec<Row>) -> Vec<Row> {
    // What may be inexact decides last, so that rows that are nearly equal stand at the same place.
    let inexact = |value: &Value| matches!(value, Value::Float(_));
    rows.sort_by(|left, right| {
        let exact = left.iter().zip(right).filter(|(left, right)| !inexact(left) && !inexact(right));
        let rest = left.iter().zip(right).filter(|(left, right)| inexact(left) || inexact(right));
        exact.chain(rest).map(|(left, right)| left.cmp_total(right)).find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
    });
    rows
}

fn same_row(left: &[Value], right: &[Value]) -> bool {
    left.len() == right.len() && left.iter().zip(right).all(|(left, right)| left.is_same(right))
}

impl Value {
    fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Float(left), Self::Float(right)) => same_float(*left, *right),
            (Self::Float(float), Self::Exact(exact)) | (Self::Exact(exact), Self::Float(float)) => {
                exact.parse().is_ok_and(|exact| same_float(*float, exact))
            }
            _ => self == other,
        }
    }

    fn cmp_total(&self, other: &Self) -> Ordering {
        let number = |value: &Self| match value {
            Self::Float(float) => Some(*float),
            Self::Exact(exact) => exact.parse().ok(),
            _ => None,
        };
        match (number(self), number(other)) {
            (Some(left), Some(right)) => positive_zero(left).total_cmp(&positive_zero(right)),
            _ => self.to_string().cmp(&other.to_string()),
        }
    }
}

/// One zero and one NaN, by which rows are put in order.
fn positive_zero(number: f64) -> f64 {
    if number.is_nan() { f64::NAN } else { number + 0.0 }
}

fn same_float(left: f64, right: f64) -> bool {
    let far = left.abs().max(right.abs()).max(1.0);
    left == right || left.is_nan() && right.is_nan() || (left - right).abs() <= far * RELATIVE_ERROR_MAX
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("NULL"),
            Self::Exact(text) => f.write_str(text),
            Self::Float(float) => write!(f, "{float:?}"),
            Self::Text(text) => write!(f, "'{text}'"),
        }
    }
}

/// The rows from the first on that differs.
fn shown(ours: &[Row], theirs: &[Row]) -> String {
    let same = ours.iter().zip(theirs).take_while(|(ours, theirs)| same_row(ours, theirs)).count();
    let (ours, theirs) = (&ours[same..], &theirs[same..]);
    let text = |rows: &[Row]| {
        let lines = rows.iter().take(SHOWN_ROWS_MAX).map(|row| {
            let cells: Vec<String> = row.iter().map(Value::to_string).collect();
            format!("    {}\n", cells.join(" | "))
        });
        lines.collect::<String>()
    };
    format!("\n  got:\n{}  expected:\n{}", text(ours), text(theirs))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{ArrayRef, Float64Array, Int64Array};

    use super::*;

    fn rows(columns: Vec<(&str, ArrayRef)>) -> Rows {
        let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
        Rows { schema: batch.schema(), batches: vec![batch] }
    }

    fn integers(values: &[Option<i64>]) -> ArrayRef {
        Arc::new(values.iter().copied().collect::<Int64Array>())
    }

    /// Goal: the order counts where one was asked for and nowhere else, and a row too many or too few always does.
    #[test]
    fn answers_are_compared_as_rows() {
        let key = OrderKey { column: "a".into(), is_descending: false, nulls_first: false };
        let a = rows(vec![("a", integers(&[Some(1), None, Some(1)]))]);
        let b = rows(vec![("a", integers(&[None, Some(1), Some(1)]))]);
        assert_eq!(a.difference(&b, &[], false), None);
        assert!(a.difference(&b, std::slice::from_ref(&key), false).unwrap().starts_with("another order"));
        let c = rows(vec![("a", integers(&[Some(1), None, None]))]);
        assert!(a.difference(&c, &[], false).unwrap().starts_with("other values"));
        let d = rows(vec![("a", integers(&[Some(1), None]))]);
        assert!(a.difference(&d, &[], false).unwrap().starts_with("3 rows, not 2"));
    }

    /// Goal: numbers are compared by their value, floats up to what sums in another order may make of them.
    #[test]
    fn numbers_are_compared_by_value() {
        let floats = |values: &[f64]| -> ArrayRef { Arc::new(Float64Array::from(values.to_vec())) };
        let a = rows(vec![("a", floats(&[2.0, f64::NAN, 1e9 + 1e-3]))]);
        let b = rows(vec![("a", floats(&[f64::NAN, 1e9, 2.0]))]);
        assert_eq!(a.difference(&b, &[], false), None);
        let c = rows(vec![("a", floats(&[f64::NAN, 1e9 + 10.0, 2.0]))]);
        assert!(a.difference(&c, &[], false).is_some());
        let whole = rows(vec![("a", integers(&[Some(2)]))]);
        assert_eq!(whole.difference(&rows(vec![("a", floats(&[2.0]))]), &[], false), None);
        assert_eq!(without_zeros("-0.00"), "0");
    }
}
