//! Every SQL function of this crate, once: what is listed here works in every client and on every executor.

use std::sync::Arc;

use datafusion::logical_expr::{AggregateUDF, ScalarUDF};

use crate::WeightUnitsFunc;
use crate::functions::{ModeFunc, ProgramNameFunc};
use crate::text::{NormalizeCommandFunc, TokenizeFunc};

/// Functions of one row.
pub fn scalar_functions() -> Vec<Arc<ScalarUDF>> {
    vec![
        Arc::new(ScalarUDF::from(NormalizeCommandFunc::default())),
        Arc::new(ScalarUDF::from(ProgramNameFunc::default())),
        Arc::new(ScalarUDF::from(TokenizeFunc::default())),
        Arc::new(ScalarUDF::from(WeightUnitsFunc::default())),
    ]
}

/// Functions of many rows.
pub fn aggregate_functions() -> Vec<Arc<AggregateUDF>> {
    vec![Arc::new(AggregateUDF::from(ModeFunc::default()))]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Goal: no function hides another, and each is documented.
    #[test]
    fn names_are_unique_and_documented() {
        let mut names = HashSet::new();
        let scalar = scalar_functions();
        let aggregate = aggregate_functions();
        let each = scalar.iter().map(|function| (function.name(), function.documentation()));
        for (name, documentation) in each.chain(aggregate.iter().map(|f| (f.name(), f.documentation()))) {
            assert!(names.insert(name.to_string()), "{name}");
            assert!(documentation.is_some(), "{name}");
        }
    }
}
