//! What is changed in physical plans, after DataFusion's own rules, so that they run on Ballista.

mod marked_scans;
mod shuffle_keys;

use std::sync::Arc;

use datafusion::physical_optimizer::PhysicalOptimizerRule;

pub(crate) fn rules() -> [Arc<dyn PhysicalOptimizerRule + Send + Sync>; 2] {
    [Arc::new(shuffle_keys::ShuffleKeys), Arc::new(marked_scans::MarkedScans)]
}
