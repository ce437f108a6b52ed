//! Window functions that executors run as they were planned.
//!
//! - **What is wrong.** A window function loses on its way to an executor that it is to ignore NULLs, and that the planner
//!   has reversed it to spare a sort (`lag` by a descending order becomes `lead`, and is told so by a flag that does not
//!   travel); an aggregate over a window loses its FILTER.
//! - **Where.** datafusion-physical-plan 55.2, `windows/proto.rs`; ballista 55.0.
//! - **How it is mended.** IGNORE NULLS becomes a part of the function, and FILTER its first argument; both travel as what
//!   codecs are given of a function. No function is reversed.
//! - **Remove when** `PhysicalWindowExprNode` has fields for all three. `windows_lose_their_flags` in
//!   `engine/src/codec.rs` fails then.

use std::mem::size_of_val;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray};
use datafusion::arrow::compute::{SortOptions, filter};
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::internal_err;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::logical_expr::expr::{NullTreatment, WindowFunction, WindowFunctionParams};
use datafusion::logical_expr::function::{
    AccumulatorArgs, ExpressionArgs, PartitionEvaluatorArgs, StateFieldsArgs, WindowUDFFieldArgs,
};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Expr, LimitEffect, LogicalPlan, PartitionEvaluator, ReversedUDAF,
    ReversedUDWF, Signature, Volatility, Window, WindowFunctionDefinition, WindowUDF, WindowUDFImpl,
};
use datafusion::optimizer::AnalyzerRule;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::scalar::ScalarValue;

/// A window function that is never reversed, and ignores NULLs where it was told to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PlannedWindowFunction {
    function: Arc<WindowUDF>,
    ignores_nulls: bool,
}

impl PlannedWindowFunction {
    /// The functions as sessions and executors know them.
    pub fn of_all(functions: Vec<Arc<WindowUDF>>) -> Vec<Arc<WindowUDF>> {
        functions.into_iter().map(|function| Self { function, ignores_nulls: false }.into()).collect()
    }

    pub fn ignores_nulls(&self) -> bool {
        self.ignores_nulls
    }

    /// The function that ignores NULLs.
    pub fn ignoring_nulls(function: &WindowUDF) -> Arc<WindowUDF> {
        let planned = match function.inner().downcast_ref::<Self>() {
            Some(planned) => Arc::clone(&planned.function),
            None => Arc::new(function.clone()),
        };
        Self { function: planned, ignores_nulls: true }.into()
    }
}

impl From<PlannedWindowFunction> for Arc<WindowUDF> {
    fn from(function: PlannedWindowFunction) -> Self {
        Self::new(WindowUDF::from(function))
    }
}

impl WindowUDFImpl for PlannedWindowFunction {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn aliases(&self) -> &[String] {
        self.function.aliases()
    }

    fn signature(&self) -> &Signature {
        self.function.signature()
    }

    fn expressions(&self, arguments: ExpressionArgs) -> Vec<Arc<dyn PhysicalExpr>> {
        self.function.inner().expressions(arguments)
    }

    fn partition_evaluator(&self, arguments: PartitionEvaluatorArgs) -> Result<Box<dyn PartitionEvaluator>> {
        let ignores_nulls = self.ignores_nulls || arguments.ignore_nulls();
        self.function.inner().partition_evaluator(PartitionEvaluatorArgs::new(
            arguments.input_exprs(),
            arguments.input_fields(),
            arguments.is_reversed(),
            ignores_nulls,
        ))
    }

    fn field(&self, arguments: WindowUDFFieldArgs) -> Result<FieldRef> {
        self.function.inner().field(arguments)
    }

    fn sort_options(&self) -> Option<SortOptions> {
        self.function.inner().sort_options()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.function.inner().coerce_types(types)
    }

    fn reverse_expr(&self) -> ReversedUDWF {
        match self.function.inner().reverse_expr() {
            ReversedUDWF::Identical => ReversedUDWF::Identical,
            _ => ReversedUDWF::NotSupported,
        }
    }

    fn documentation(&self) -> Option<&datafusion::logical_expr::Documentation> {
        self.function.inner().documentation()
    }

    fn limit_effect(&self, arguments: &[Arc<dyn PhysicalExpr>]) -> LimitEffect {
        self.function.inner().limit_effect(arguments)
    }
}

/// An aggregate over those rows of a window for which its first argument is true.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FilteredAggregate {
    function: Arc<AggregateUDF>,
    signature: Signature,
}

impl FilteredAggregate {
    pub fn new(function: Arc<AggregateUDF>) -> Self {
        Self { function, signature: Signature::variadic_any(Volatility::Immutable) }
    }
}

/// The arguments of the aggregate itself.
fn own<'a>(arguments: &AccumulatorArgs<'a>) -> AccumulatorArgs<'a> {
    AccumulatorArgs {
        return_field: Arc::clone(&arguments.return_field),
        schema: arguments.schema,
        ignore_nulls: arguments.ignore_nulls,
        order_bys: arguments.order_bys,
        is_reversed: arguments.is_reversed,
        name: arguments.name,
        is_distinct: arguments.is_distinct,
        exprs: arguments.exprs.get(1..).unwrap_or_default(),
        expr_fields: arguments.expr_fields.get(1..).unwrap_or_default(),
    }
}

impl AggregateUDFImpl for FilteredAggregate {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn window_function_schema_name(&self, parameters: &WindowFunctionParams) -> Result<String> {
        self.function.window_function_schema_name(&as_written(parameters)?)
    }

    fn window_function_display_name(&self, parameters: &WindowFunctionParams) -> Result<String> {
        self.function.window_function_display_name(&as_written(parameters)?)
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.function.return_type(types.get(1..).unwrap_or_default())
    }

    fn return_field(&self, fields: &[FieldRef]) -> Result<FieldRef> {
        self.function.return_field(fields.get(1..).unwrap_or_default())
    }

    fn is_nullable(&self) -> bool {
        self.function.is_nullable()
    }

    fn accumulator(&self, arguments: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(FilteredAccumulator(self.function.accumulator(own(&arguments))?)))
    }

    fn create_sliding_accumulator(&self, arguments: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(FilteredAccumulator(self.function.create_sliding_accumulator(own(&arguments))?)))
    }

    fn state_fields(&self, arguments: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.function.state_fields(arguments)
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        match self.function.reverse_udf() {
            ReversedUDAF::Identical => ReversedUDAF::Identical,
            _ => ReversedUDAF::NotSupported,
        }
    }

    fn default_value(&self, of: &DataType) -> Result<ScalarValue> {
        self.function.default_value(of)
    }

    fn supports_null_handling_clause(&self) -> bool {
        self.function.supports_null_handling_clause()
    }
}

#[derive(Debug)]
struct FilteredAccumulator(Box<dyn Accumulator>);

impl Accumulator for FilteredAccumulator {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0.update_batch(&chosen(values)?)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0.retract_batch(&chosen(values)?)
    }

    fn supports_retract_batch(&self) -> bool {
        self.0.supports_retract_batch()
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.0.evaluate()
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.0.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.0.state()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.0.merge_batch(states)
    }
}

/// The values of the rows for which the first column is true.
fn chosen(values: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
    let Some((condition, values)) = values.split_first() else {
        return internal_err!("a filtered aggregate came without its condition");
    };
    values.iter().map(|values| Ok(filter(values, condition.as_boolean())?)).collect()
}

/// The call as the statement has it: the condition is no argument there.
fn as_written(parameters: &WindowFunctionParams) -> Result<WindowFunctionParams> {
    let mut written = parameters.clone();
    if written.args.is_empty() {
        return internal_err!("a filtered aggregate came without its condition");
    }
    written.filter = Some(Box::new(written.args.remove(0)));
    Ok(written)
}

/// Makes IGNORE NULLS and FILTER parts of window functions. To be applied when types are known.
#[derive(Debug)]
pub(crate) struct KeepWindowFlags;

impl AnalyzerRule for KeepWindowFlags {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| {
            let LogicalPlan::Window(window) = plan else { return Ok(Transformed::no(plan)) };
            let kept: Vec<Expr> = window
                .window_expr
                .iter()
                .map(|expr| expr.clone().transform_up(keep_flags).data())
                .collect::<Result<_>>()?;
            Ok(Transformed::yes(LogicalPlan::Window(Window::try_new(kept, window.input)?)))
        })
        .data()
    }

    fn name(&self) -> &str {
        "keep_window_flags"
    }
}

fn keep_flags(expr: Expr) -> Result<Transformed<Expr>> {
    let Expr::WindowFunction(mut window) = expr else { return Ok(Transformed::no(expr)) };
    let WindowFunction { fun, params } = window.as_mut();
    match fun {
        WindowFunctionDefinition::WindowUDF(function) => {
            if params.null_treatment == Some(NullTreatment::IgnoreNulls) {
                *fun = WindowFunctionDefinition::WindowUDF(PlannedWindowFunction::ignoring_nulls(function));
            }
        }
        WindowFunctionDefinition::AggregateUDF(function) => {
            if let Some(condition) = params.filter.take() {
                let filtered = AggregateUDF::from(FilteredAggregate::new(Arc::clone(function)));
                *fun = WindowFunctionDefinition::AggregateUDF(Arc::new(filtered));
                params.args.insert(0, *condition);
            }
        }
    }
    Ok(Transformed::yes(Expr::WindowFunction(window)))
}
