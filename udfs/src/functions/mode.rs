//! `mode(value)`: the most frequent value of a group. An aggregate function: one value from many rows.
//!
//! Executors count what they have each, and what they have counted is put together:
//!
//! ```text
//! rows ─► update_batch ─► state ─┐
//! rows ─► update_batch ─► state ─┴─► merge_batch ─► evaluate
//! ```

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion::common::ScalarValue;
use datafusion::common::cast::as_list_array;
use datafusion::error::Result;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, Documentation, Signature, Volatility};
use datafusion_macros::user_doc;

// What SHOW FUNCTIONS says of it.
#[user_doc(
    doc_section(label = "General Functions"),
    description = "The most frequent value of a group; of several the smallest. NULLs do not count.",
    syntax_example = "mode(value)",
    argument(name = "value", description = "A value of any type.")
)]
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct ModeFunc {
    signature: Signature,
}

impl Default for ModeFunc {
    fn default() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for ModeFunc {
    fn name(&self) -> &str {
        "mode"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(arg_types[0].clone())
    }

    /// What one executor tells the next: the values that it has seen, and how often.
    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let list = |name: &str, data_type: DataType| {
            Arc::new(Field::new_list(name, Field::new_list_field(data_type, true), true))
        };
        Ok(vec![list("values", args.return_field.data_type().clone()), list("counts", DataType::Int64)])
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Counts { data_type: args.return_field.data_type().clone(), counts: HashMap::new() }))
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.doc()
    }
}

/// How often each value was seen.
#[derive(Debug)]
struct Counts {
    data_type: DataType,
    counts: HashMap<ScalarValue, i64>,
}

impl Counts {
    fn add(&mut self, values: &dyn Array, count: impl Fn(usize) -> i64) -> Result<()> {
        for row in (0..values.len()).filter(|&row| values.is_valid(row)) {
            let mut value = ScalarValue::try_from_array(values, row)?;
            // It must not hold on to the batch that it came with.
            value.compact();
            *self.counts.entry(value).or_default() += count(row);
        }
        Ok(())
    }
}

impl Accumulator for Counts {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.add(&values[0], |_| 1)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let (values, counts): (Vec<ScalarValue>, Vec<i64>) = self.counts.drain().unzip();
        let counts = counts.into_iter().map(ScalarValue::from).collect::<Vec<_>>();
        Ok(vec![
            ScalarValue::List(ScalarValue::new_list_nullable(&values, &self.data_type)),
            ScalarValue::List(ScalarValue::new_list_nullable(&counts, &DataType::Int64)),
        ])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let (values, counts) = (as_list_array(&states[0])?, as_list_array(&states[1])?);
        for (values, counts) in values.iter().zip(counts.iter()) {
            let (Some(values), Some(counts)) = (values, counts) else { continue };
            let counts: &Int64Array = counts.as_primitive::<Int64Type>();
            self.add(&values, |row| counts.value(row))?;
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let more = |(a, n): &(&ScalarValue, &i64), (b, m): &(&ScalarValue, &i64)| {
            n.cmp(m).then_with(|| b.partial_cmp(a).unwrap_or(std::cmp::Ordering::Equal))
        };
        match self.counts.iter().max_by(more) {
            Some((value, _)) => Ok(value.clone()),
            None => ScalarValue::try_from(&self.data_type),
        }
    }

    fn size(&self) -> usize {
        let values: usize = self.counts.keys().map(|value| value.size() + size_of::<i64>()).sum();
        size_of_val(self) + values
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::StringArray;

    use super::*;

    fn counted(rows: &[Option<&str>]) -> Counts {
        let mut counts = Counts { data_type: DataType::Utf8, counts: HashMap::new() };
        counts.update_batch(&[Arc::new(StringArray::from(rows.to_vec())) as ArrayRef]).unwrap();
        counts
    }

    /// Goal: parts give what the whole gives, ties go to the smallest value, and NULLs do not count.
    #[test]
    fn parts_give_the_whole() {
        let rows = [Some("b"), Some("a"), None, Some("b"), Some("a"), Some("c"), None, None];
        assert_eq!(counted(&rows).evaluate().unwrap(), ScalarValue::from("a"));
        for cut in 0..=rows.len() {
            let mut whole = counted(&[]);
            for part in [&rows[..cut], &rows[cut..]] {
                let state = counted(part).state().unwrap();
                let state: Vec<ArrayRef> = state.iter().map(|value| value.to_array().unwrap()).collect();
                whole.merge_batch(&state).unwrap();
            }
            assert_eq!(whole.evaluate().unwrap(), ScalarValue::from("a"), "cut at {cut}");
        }
        assert_eq!(counted(&[None]).evaluate().unwrap(), ScalarValue::Utf8(None));
        assert!(counted(&[Some("a")]).size() > counted(&[]).size());
    }
}
