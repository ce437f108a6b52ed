//! The only place that builds a session, a runtime and a function registry, so that scheduler, executors, the
//! embedded cluster and tests plan and run alike.

use std::sync::Arc;

use ballista_core::extension::{
    SessionConfigExt, ballista_aggregate_functions, ballista_scalar_functions, ballista_window_functions,
};
use ballista_core::optimizer::ballista_default_optimizer_rules;
use ballista_core::registry::BallistaFunctionRegistry;
use datafusion::error::Result;
use datafusion::execution::object_store::ObjectStoreRegistry;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{AggregateUDF, ScalarUDF, WindowUDF};
use datafusion::optimizer::Analyzer;
use datafusion::prelude::SessionConfig;

use crate::catalog::PUBLIC;
use crate::codec::CoveyPhysicalCodec;
use crate::databases::Databases;
use crate::distribution::CoveyQueryPlanner;
use crate::models::functions::model_functions;
use crate::rules::rules;
use crate::series::table_functions;
use crate::upstream::{PlannedWindowFunction, analyzer_rules, with_exact_sum, with_joins_on_nothing};

/// Partitions of the stages of fits and writes where nothing else decides: two tasks each for four cores. A query has as
/// many as the cluster has cores where a session leaves it at this.
pub const PARTITIONS_DEFAULT: usize = 8;

pub const CATALOG: &str = "covey";

/// The option by which joins are planned by hashing.
pub const PREFER_HASH_JOIN: &str = "datafusion.optimizer.prefer_hash_join";

/// The configuration that every session starts from.
pub fn session_config(codec: Arc<CoveyPhysicalCodec>, databases: Arc<Databases>) -> SessionConfig {
    SessionConfig::new_with_ballista()
        .with_information_schema(true)
        .with_default_catalog_and_schema(CATALOG, PUBLIC)
        .with_target_partitions(PARTITIONS_DEFAULT)
        // Scans take a column whose smallest and largest value are equal for a constant, and statistics leave NaN out.
        .with_collect_statistics(false)
        // Ballista's own choice is to sort for every join; see `rules/joins.rs`.
        .set_bool(PREFER_HASH_JOIN, true)
        .with_ballista_physical_extension_codec(codec)
        .with_extension(databases)
}

pub fn runtime_env(stores: Arc<dyn ObjectStoreRegistry>) -> Result<Arc<RuntimeEnv>> {
    Ok(Arc::new(RuntimeEnvBuilder::new().with_object_store_registry(stores).build()?))
}

pub fn session_state(config: SessionConfig, runtime: Arc<RuntimeEnv>) -> SessionState {
    SessionStateBuilder::new()
        .with_default_features()
        .with_config(config)
        .with_runtime_env(runtime)
        .with_optimizer_rules(with_joins_on_nothing(ballista_default_optimizer_rules()))
        .with_scalar_functions(scalar_functions())
        .with_aggregate_functions(aggregate_functions())
        .with_window_functions(window_functions())
        .with_table_function_list(table_functions())
        .with_analyzer_rules([Analyzer::new().rules, analyzer_rules()].concat())
        .with_physical_optimizer_rules(rules())
        .with_query_planner(Arc::new(CoveyQueryPlanner))
        .build()
}

/// The functions by which executors decode plans: those of [`session_state`], so that both always agree.
pub fn function_registry(state: &SessionState) -> Arc<BallistaFunctionRegistry> {
    Arc::new(BallistaFunctionRegistry::from(state))
}

fn scalar_functions() -> Vec<Arc<ScalarUDF>> {
    let mut functions = ballista_scalar_functions();
    functions.extend(covey_udfs::registry::scalar_functions());
    functions.extend(model_functions());
    functions
}

pub(crate) fn window_functions() -> Vec<Arc<WindowUDF>> {
    PlannedWindowFunction::of_all(ballista_window_functions())
}

pub(crate) fn aggregate_functions() -> Vec<Arc<AggregateUDF>> {
    let mut functions = with_exact_sum(ballista_aggregate_functions());
    functions.extend(covey_udfs::registry::aggregate_functions());
    functions
}

#[cfg(test)]
mod tests {
    use datafusion::execution::FunctionRegistry;

    use super::*;
    use crate::models::cache::ModelCache;
    use crate::settings::Settings;
    use crate::storage::ObjectStores;

    /// Goal: whatever a session plans with, executors find by its name, and the functions of `udfs` are among it.
    #[test]
    fn registries_agree() {
        let stores = Arc::new(ObjectStores::new(Settings::default()));
        let codec = Arc::new(CoveyPhysicalCodec::new(Arc::new(ModelCache::new(stores.clone()))));
        let config = session_config(codec, Arc::new(Databases::default()));
        let state = session_state(config, runtime_env(stores).unwrap());
        let registry = function_registry(&state);
        for (name, function) in state.scalar_functions() {
            assert_eq!(registry.udf(name).unwrap().name(), function.name());
        }
        for (name, function) in state.aggregate_functions() {
            assert_eq!(registry.udaf(name).unwrap().name(), function.name());
        }
        for (name, function) in state.window_functions() {
            assert_eq!(registry.udwf(name).unwrap().name(), function.name());
        }
        let ours = covey_udfs::registry::scalar_functions();
        assert!(ours.iter().all(|function| *registry.udf(function.name()).unwrap() == **function));
        let ours = covey_udfs::registry::aggregate_functions();
        assert!(ours.iter().all(|function| *registry.udaf(function.name()).unwrap() == **function));
    }
}
