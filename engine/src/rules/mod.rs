//! What is changed in physical plans, after DataFusion's own rules, so that they run on Ballista.

mod shuffle_keys;

use std::sync::Arc;

use datafusion::physical_optimizer::PhysicalOptimizerRule;

pub(crate) fn rules() -> [Arc<dyn PhysicalOptimizerRule + Send + Sync>; 1] {
    [Arc::new(shuffle_keys::ShuffleKeys)]
}
