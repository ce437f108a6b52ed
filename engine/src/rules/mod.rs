//! What is changed in physical plans, so that they run on Ballista, and well.

mod compressed_scans;
mod joins;
mod nan_pruning;
mod shuffle_keys;

use std::sync::Arc;

use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;

use crate::upstream::{ConstantRows, JoinsOfOneTask, SwapNestedLoops};

type Rule = Arc<dyn PhysicalOptimizerRule + Send + Sync>;

/// DataFusion's rule that chooses the sides of joins.
const CHOOSES_SIDES: &str = "join_selection";

/// DataFusion's own rules and ours, in the order in which they are applied.
pub(crate) fn rules() -> Vec<Rule> {
    let mut rules = PhysicalOptimizer::new().rules;
    let after = rules.iter().position(|rule| rule.name() == CHOOSES_SIDES).map_or(rules.len(), |i| i + 1);
    rules.insert(after, Arc::new(joins::Joins));
    rules.insert(after, Arc::new(SwapNestedLoops));
    rules.push(Arc::new(nan_pruning::NanPruning));
    rules.push(Arc::new(shuffle_keys::ShuffleKeys));
    rules.push(Arc::new(compressed_scans::CompressedScans));
    rules.push(Arc::new(ConstantRows));
    rules.push(Arc::new(JoinsOfOneTask));
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: joins are looked at when their sides are known, and before rows are distributed for them.
    #[test]
    fn joins_come_in_their_place() {
        let rules = rules();
        let place = |name: &str| rules.iter().position(|rule| rule.name() == name).unwrap();
        assert_eq!(place("joins"), place(CHOOSES_SIDES) + 2);
        assert!(place("joins") < place("EnsureRequirements"));
    }
}
