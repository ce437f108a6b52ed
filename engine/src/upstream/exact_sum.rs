//! `sum` of whole and decimal numbers that is right or an error.
//!
//! - **What is wrong.** The sum of numbers too large for its type begins again at the other end: two decimals near 10^38
//!   have a negative sum.
//! - **Where.** datafusion-functions-aggregate 55.2, `sum.rs` (`add_wrapping`).
//! - **How it is mended.** DataFusion adds up in a type that is wide enough for any number of rows, and what comes out is
//!   held against the type of the sum.
//! - **Remove when** `sum` checks. The sums of `tests/slt/decimals.slt` that are errors stay so.

use std::mem::size_of_val;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray};
use datafusion::arrow::compute::{CastOptions, cast_with_options};
use datafusion::arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Field, FieldRef};
use datafusion::error::Result;
use datafusion::functions_aggregate::sum::Sum;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, Expr, GroupsAccumulator, Operator,
    ReversedUDAF, SetMonotonicity, Signature, StatisticsArgs,
};
use datafusion::scalar::ScalarValue;

use crate::{UserError, external};

/// Digits of sums under way of decimals that may leave 128 bits.
const WIDE_DIGITS: u8 = 57;

/// The functions with `sum` replaced.
pub(crate) fn with_exact_sum(functions: Vec<Arc<AggregateUDF>>) -> Vec<Arc<AggregateUDF>> {
    let exact = Arc::new(AggregateUDF::from(ExactSum::default()));
    functions
        .into_iter()
        .map(|function| if function.name() == exact.name() { Arc::clone(&exact) } else { function })
        .collect()
}

/// See the module's documentation.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub struct ExactSum {
    sum: Sum,
}

/// The type in which a sum of `of` cannot overflow; `None` where DataFusion's own is as good.
fn wide(of: &DataType) -> Option<DataType> {
    match of {
        DataType::Int64 | DataType::UInt64 => Some(DataType::Decimal128(DECIMAL128_MAX_PRECISION, 0)),
        // Sums have ten digits more than what goes into them, as far as there are so many.
        DataType::Decimal128(DECIMAL128_MAX_PRECISION, scale) => Some(DataType::Decimal256(WIDE_DIGITS, *scale)),
        _ => None,
    }
}

/// The arguments as for a sum of the wider type.
fn widened<'a>(arguments: &AccumulatorArgs<'a>, of: &DataType) -> AccumulatorArgs<'a> {
    let field = Field::new(arguments.return_field.name(), of.clone(), true);
    AccumulatorArgs {
        return_field: Arc::new(field),
        schema: arguments.schema,
        ignore_nulls: arguments.ignore_nulls,
        order_bys: arguments.order_bys,
        is_reversed: arguments.is_reversed,
        name: arguments.name,
        is_distinct: arguments.is_distinct,
        exprs: arguments.exprs,
        expr_fields: arguments.expr_fields,
    }
}

impl ExactSum {
    /// The type of sums under way, where it is not that of the result.
    fn wide_for(&self, result: &FieldRef, is_distinct: bool) -> Option<DataType> {
        if is_distinct { None } else { wide(result.data_type()) }
    }
}

impl AggregateUDFImpl for ExactSum {
    fn name(&self) -> &str {
        self.sum.name()
    }

    fn signature(&self) -> &Signature {
        self.sum.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.sum.return_type(types)
    }

    fn accumulator(&self, arguments: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let Some(wide) = self.wide_for(&arguments.return_field, arguments.is_distinct) else {
            return self.sum.accumulator(arguments);
        };
        let inner = self.sum.accumulator(widened(&arguments, &wide))?;
        Ok(Box::new(Checked::new(inner, wide, &arguments)))
    }

    fn create_sliding_accumulator(&self, arguments: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let Some(wide) = self.wide_for(&arguments.return_field, arguments.is_distinct) else {
            return self.sum.create_sliding_accumulator(arguments);
        };
        let inner = self.sum.create_sliding_accumulator(widened(&arguments, &wide))?;
        Ok(Box::new(Checked::new(inner, wide, &arguments)))
    }

    fn state_fields(&self, arguments: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let wide = self.wide_for(&arguments.return_field, arguments.is_distinct);
        let fields = self.sum.state_fields(arguments)?;
        let Some(wide) = wide else { return Ok(fields) };
        Ok(fields.iter().map(|field| Arc::new(field.as_ref().clone().with_data_type(wide.clone()))).collect())
    }

    fn groups_accumulator_supported(&self, arguments: AccumulatorArgs) -> bool {
        self.sum.groups_accumulator_supported(arguments)
    }

    fn create_groups_accumulator(&self, arguments: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        let Some(wide) = self.wide_for(&arguments.return_field, arguments.is_distinct) else {
            return self.sum.create_groups_accumulator(arguments);
        };
        let inner = self.sum.create_groups_accumulator(widened(&arguments, &wide))?;
        Ok(Box::new(Checked::new(inner, wide, &arguments)))
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.sum.order_sensitivity()
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.sum.documentation()
    }

    fn set_monotonicity(&self, of: &DataType) -> SetMonotonicity {
        self.sum.set_monotonicity(of)
    }

    fn simplify_expr_op_literal(
        &self,
        call: &AggregateFunction,
        argument: &Expr,
        operator: Operator,
        literal: &Expr,
        argument_is_left: bool,
    ) -> Result<Option<Expr>> {
        self.sum.simplify_expr_op_literal(call, argument, operator, literal, argument_is_left)
    }

    fn value_from_stats(&self, arguments: &StatisticsArgs) -> Option<ScalarValue> {
        self.sum.value_from_stats(arguments)
    }
}

/// An accumulator of the wider type whose result is held against the type that it has to have.
#[derive(Debug)]
struct Checked<A> {
    inner: A,
    wide: DataType,
    result: DataType,
    /// The call, for errors.
    call: String,
}

impl<A> Checked<A> {
    fn new(inner: A, wide: DataType, arguments: &AccumulatorArgs) -> Self {
        Self { inner, wide, result: arguments.return_field.data_type().clone(), call: arguments.name.to_string() }
    }

    fn widen(&self, values: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
        let options = CastOptions { safe: false, ..CastOptions::default() };
        values.iter().map(|values| Ok(cast_with_options(values, &self.wide, &options)?)).collect()
    }

    fn check(&self, sums: &ArrayRef) -> Result<ArrayRef> {
        let options = CastOptions { safe: false, ..CastOptions::default() };
        cast_with_options(sums, &self.result, &options).map_err(|_| {
            external(UserError(format!(
                "{} is too large for {}: cast its argument to a wider type, such as DOUBLE or DECIMAL(38, 0)",
                self.call, self.result
            )))
        })
    }
}

impl Accumulator for Checked<Box<dyn Accumulator>> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = self.widen(values)?;
        self.inner.update_batch(&values)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let values = self.widen(values)?;
        self.inner.retract_batch(&values)
    }

    fn supports_retract_batch(&self) -> bool {
        self.inner.supports_retract_batch()
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let sum = self.inner.evaluate()?.to_array()?;
        ScalarValue::try_from_array(&self.check(&sum)?, 0)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.inner.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.inner.state()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.inner.merge_batch(states)
    }
}

impl GroupsAccumulator for Checked<Box<dyn GroupsAccumulator>> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        let values = self.widen(values)?;
        self.inner.update_batch(&values, groups, filter, total)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let sums = self.inner.evaluate(emit_to)?;
        self.check(&sums)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        self.inner.state(emit_to)
    }

    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.inner.merge_batch(values, groups, total)
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        self.inner.convert_to_state(&self.widen(values)?, filter)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.inner.size()
    }
}
