//! Ballista as it is, as a peer: its scheduler and executor with their own defaults, from the same build as Covey.
//!
//! Only what its commands would be told is set: the ports, push scheduling, Flight SQL, and one core for an executor.
//! Stores are made as its own binaries make them, from the environment, but kept where those make one for each request.

use std::sync::Arc;

use ballista_core::config::TaskSchedulingPolicy;
use ballista_core::extension::SessionConfigExt;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::SchedulerConfig;
use ballista_scheduler::scheduler_process::start_server;
use clap::Args;
use covey_engine::settings::Settings;
use covey_engine::storage::ObjectStores;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::SessionConfig;
use tokio::runtime::Runtime;

/// As in its own program.
const STACK_BYTES: usize = 32 << 20;

#[derive(Debug, Args)]
pub struct SchedulerArgs {
    #[arg(long)]
    port: u16,
}

#[derive(Debug, Args)]
pub struct ExecutorArgs {
    #[arg(long)]
    scheduler_port: u16,
    #[arg(long)]
    port: u16,
    #[arg(long)]
    grpc_port: u16,
    #[arg(long, default_value_t = 1)]
    vcores: usize,
    /// A folder for what stages give each other.
    #[arg(long)]
    work_dir: String,
}

fn session_config() -> SessionConfig {
    SessionConfig::new_with_ballista().with_information_schema(true)
}

fn runtime() -> Result<Runtime, String> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().thread_stack_size(STACK_BYTES).build().map_err(|e| e.to_string())
}

/// Serves until it is killed.
///
/// # Errors
/// When the port is taken.
pub fn schedule(args: &SchedulerArgs) -> Result<String, String> {
    let stores = Arc::new(ObjectStores::new(Settings::default()));
    let config = SchedulerConfig {
        bind_port: args.port,
        scheduling_policy: TaskSchedulingPolicy::PushStaged,
        flight_sql: true,
        override_config_producer: Some(Arc::new(session_config)),
        override_session_builder: Some(Arc::new(move |config| {
            let runtime = RuntimeEnvBuilder::new().with_object_store_registry(stores.clone()).build_arc()?;
            Ok(SessionStateBuilder::new().with_runtime_env(runtime).with_config(config).with_default_features().build())
        })),
        ..SchedulerConfig::default()
    };
    let serve = async {
        let cluster = BallistaCluster::new_from_config(&config).await?;
        start_server(cluster, ([127, 0, 0, 1], args.port).into(), Arc::new(config)).await
    };
    runtime()?.block_on(serve).map_err(|e| e.to_string())?;
    Ok("the scheduler has ended".to_string())
}

/// Works until it is killed.
///
/// # Errors
/// When the scheduler does not answer or a port is taken.
pub fn execute(args: &ExecutorArgs) -> Result<String, String> {
    let stores = Arc::new(ObjectStores::new(Settings::default()));
    let config = ExecutorProcessConfig {
        bind_host: "127.0.0.1".into(),
        external_host: Some("127.0.0.1".into()),
        port: args.port,
        grpc_port: args.grpc_port,
        scheduler_host: "127.0.0.1".into(),
        scheduler_port: args.scheduler_port,
        vcores: args.vcores,
        task_scheduling_policy: TaskSchedulingPolicy::PushStaged,
        work_dir: Some(args.work_dir.clone()),
        override_config_producer: Some(Arc::new(session_config)),
        override_runtime_producer: Some(Arc::new(move |_| {
            RuntimeEnvBuilder::new().with_object_store_registry(stores.clone()).build_arc()
        })),
        ..ExecutorProcessConfig::default()
    };
    runtime()?.block_on(start_executor_process(Arc::new(config))).map_err(|e| e.to_string())?;
    Ok("the executor has ended".to_string())
}
