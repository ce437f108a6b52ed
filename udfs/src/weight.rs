//! `covey_weight_units`: a row's weight as the integer it is counted with, so that sums over any partitioning
//! are the same. Used by the plan of a fit; not meant for users.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Float64Type};
use datafusion::common::utils::take_function_args;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};
use datafusion_macros::user_doc;

use crate::InputError;
use crate::matrix::weight_units;

#[user_doc(
    doc_section(label = "Math Functions"),
    description = "The weight of a row in units of 2^-20. Internal: fits use it so that weighted sums do not depend on order.",
    syntax_example = "covey_weight_units(weight)",
    argument(name = "weight", description = "A number not below 0. NULL is an error.")
)]
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct WeightUnitsFunc {
    signature: Signature,
}

impl Default for WeightUnitsFunc {
    fn default() -> Self {
        Self { signature: Signature::numeric(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for WeightUnitsFunc {
    fn name(&self) -> &str {
        "covey_weight_units"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [weights] = take_function_args(self.name(), &arrays)?;
        let units = all_units(weights).map_err(|e| DataFusionError::External(Box::new(e)))?;
        Ok(ColumnarValue::Array(Arc::new(units) as ArrayRef))
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.doc()
    }
}

fn all_units(weights: &ArrayRef) -> crate::Result<Int64Array> {
    let weights = cast(weights, &DataType::Float64).map_err(|e| InputError(e.to_string()))?;
    if weights.null_count() > 0 {
        return Err(InputError("a row has the weight NULL: give every row a weight, or leave the column out".into()));
    }
    weights.as_primitive::<Float64Type>().values().iter().map(|&weight| Ok(weight_units(weight)? as i64)).collect()
}
