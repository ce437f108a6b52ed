//! Every SQL function of this crate, once.

use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;

use crate::WeightUnitsFunc;
use crate::text::{NormalizeCommandFunc, TokenizeFunc};

/// The scalar functions that scheduler and executors register alike.
pub fn scalar_functions() -> Vec<Arc<ScalarUDF>> {
    vec![
        Arc::new(ScalarUDF::from(NormalizeCommandFunc::default())),
        Arc::new(ScalarUDF::from(TokenizeFunc::default())),
        Arc::new(ScalarUDF::from(WeightUnitsFunc::default())),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Goal: no function hides another, and each is documented.
    #[test]
    fn names_are_unique_and_documented() {
        let mut names = HashSet::new();
        for function in scalar_functions() {
            assert!(names.insert(function.name().to_string()), "{}", function.name());
            assert!(function.documentation().is_some(), "{}", function.name());
        }
    }
}
