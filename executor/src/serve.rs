//! The life of an executor: register, run tasks, leave.
//!
//! Ballista's own `start_executor_process` traps signals and sets a static that poisons every later executor of
//! the process; its parts, used here, do neither.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_service_server::FlightServiceServer;
use ballista_core::error::BallistaError;
use ballista_core::serde::BallistaCodec;
use ballista_core::serde::BallistaLogicalExtensionCodec;
use ballista_core::serde::protobuf::scheduler_grpc_client::SchedulerGrpcClient;
use ballista_core::serde::protobuf::{ExecutorStatus, ExecutorStoppedParams, HeartBeatParams, executor_status};
use ballista_core::{ConfigProducer, RuntimeProducer};
use ballista_executor::executor::{Executor, TasksDrainedFuture};
use ballista_executor::executor_process::{ExecutorProcessConfig, structure_executor_metadata};
use ballista_executor::executor_server;
use ballista_executor::flight_service::BallistaFlightService;
use ballista_executor::health::ExecutorHealth;
use ballista_executor::metrics::LoggingMetricsCollector;
use ballista_executor::runtime_cache::{DefaultSessionRuntimeCache, MemoryPoolPolicy};
use ballista_executor::shutdown::ShutdownNotifier;
use covey_engine::block_cache::{BlockCache, BlockLimits, SharedPool};
use covey_engine::codec::CoveyPhysicalCodec;
use covey_engine::coordinator::ExecutorServices;
use covey_engine::databases::Databases;
use covey_engine::failure::plain_text;
use covey_engine::models::cache::ModelCache;
use covey_engine::session::{function_registry, runtime_env, session_config, session_state};
use covey_engine::storage::ObjectStores;
use datafusion::common::exec_datafusion_err;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::prelude::SessionConfig;
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use uuid::Uuid;

use crate::config::ExecutorConfig;
use crate::coordinator::FlightCoordinator;
use crate::engine::CoveyExecutionEngine;
use crate::memory;
use crate::work_dir::{WorkDir, sweep};

/// How often an executor says that it lives. The scheduler waits for three of these.
const HEARTBEAT_SECONDS: u64 = 3;

/// How long to wait before the scheduler is tried again, and after how many attempts in vain the log says so: first and
/// then again.
const CONNECT_PAUSE: Duration = Duration::from_millis(500);
const CONNECT_ATTEMPTS_TO_WARNING: u32 = 4;
const CONNECT_ATTEMPTS_PER_WARNING: u32 = 20;

/// How long a scheduler may take to answer a connection, or a ping on one that is idle: a machine that has vanished
/// closes nothing.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// How long running tasks may take to end when the executor leaves.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Bytes of Parquet footers that an executor keeps. One is used again while the file's size and time are the same.
const FOOTER_CACHE_BYTES: usize = 256 << 20;

/// Sessions whose runtime is kept.
const SESSIONS_KEPT_MAX: usize = 16;

/// Below the working directory: blocks that memory has no room for.
const BLOCKS: &str = "blocks";

/// The largest gRPC message between scheduler and executors.
const MESSAGE_BYTES_MAX: u32 = 64 << 20;

/// Runs an executor until `shutdown` is ready. It waits for a scheduler that is not there yet, and registers anew
/// when its scheduler has gone or has given it up: a restarted scheduler finds its executors again.
///
/// # Errors
/// When an address cannot be bound or the working directory cannot be made.
pub async fn serve(config: ExecutorConfig, shutdown: impl Future<Output = ()> + Send) -> Result<()> {
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let mut member = tokio::select! {
            () = &mut shutdown => return Ok(()),
            joined = Member::join(&config) => joined?,
        };
        tokio::select! {
            () = &mut shutdown => {
                member.leave().await;
                return Ok(());
            }
            why = member.ended() => {
                tracing::warn!(target: "covey", scheduler = %address(&config), "{why}; registering again");
            }
        }
    }
}

/// An executor that is registered with its scheduler.
struct Member {
    scheduler: SchedulerGrpcClient<Channel>,
    executor: Arc<Executor>,
    notifier: ShutdownNotifier,
    stopped: mpsc::Receiver<bool>,
    results: JoinHandle<Result<()>>,
    tasks: JoinHandle<Result<(), BallistaError>>,
    presence: JoinHandle<()>,
    /// Intermediate results; removed with the membership, as nobody can ask for them afterwards.
    _work_dir: WorkDir,
}

impl Member {
    /// Tries until the scheduler takes this executor.
    async fn join(config: &ExecutorConfig) -> Result<Self> {
        let mut attempts = 0;
        loop {
            let problem = match connect(config).await {
                Ok(channel) => match Self::register(config, channel).await? {
                    Ok(member) => return Ok(member),
                    Err(refused) => format!("refused to register: {refused}"),
                },
                Err(unreachable) => unreachable,
            };
            if attempts % CONNECT_ATTEMPTS_PER_WARNING == CONNECT_ATTEMPTS_TO_WARNING {
                tracing::warn!(target: "covey", scheduler = %address(config), problem, "not registered yet, is covey-scheduler running there?");
            }
            attempts += 1;
            tokio::time::sleep(CONNECT_PAUSE).await;
        }
    }

    /// The inner error is the scheduler's, and may go away.
    async fn register(config: &ExecutorConfig, channel: Channel) -> Result<Result<Self, String>> {
        let coordinator = Arc::new(FlightCoordinator::new(channel.clone()));
        if let Err(refused) = coordinator.ask_to_join().await {
            return Ok(Err(plain_text(&refused)));
        }
        let work_dir = work_dir(config)?;
        let listener = TcpListener::bind((config.bind_host.as_str(), config.port))
            .await
            .map_err(|e| exec_datafusion_err!("cannot listen on {}:{}: {e}", config.bind_host, config.port))?;
        let process = process_config(config, listener.local_addr()?.port()).await?;
        let (executor, codec) = build(config, &process, work_dir.path(), Arc::clone(&coordinator))?;

        let notifier = ShutdownNotifier::new();
        let (stop_send, stopped) = mpsc::channel::<bool>(1);
        let scheduler = SchedulerGrpcClient::new(channel)
            .max_encoding_message_size(MESSAGE_BYTES_MAX as usize)
            .max_decoding_message_size(MESSAGE_BYTES_MAX as usize);
        // Results are served before the scheduler learns of this executor.
        let results = serve_results(listener, work_dir.path().to_path_buf(), notifier.subscribe_for_shutdown());
        let results = tokio::spawn(results);
        let registered = executor_server::startup(
            scheduler.clone(),
            Arc::clone(&process),
            Arc::clone(&executor),
            codec,
            stop_send,
            &notifier,
            ExecutorHealth::new(),
        )
        .await;
        let tasks = match registered {
            Ok(tasks) => tasks,
            Err(refused) => {
                results.abort();
                return Ok(Err(refused.to_string()));
            }
        };
        tracing::info!(target: "covey", id = %process.executor_id, vcores = config.vcores, scheduler = %address(config), "executor registered");
        let presence = tokio::spawn(be_present(coordinator, process.executor_id.clone()));
        Ok(Ok(Self { scheduler, executor, notifier, stopped, results, tasks, presence, _work_dir: work_dir }))
    }

    /// Ready when this executor is no longer a member, with the reason.
    async fn ended(&mut self) -> &'static str {
        // Ballista ends both services when heartbeats are not answered any more, and with them the sender of `stopped`.
        let why = tokio::select! {
            Some(_) = self.stopped.recv() => "the scheduler has given this executor up",
            _ = &mut self.results => "the scheduler is gone",
            _ = &mut self.tasks => "the scheduler is gone",
        };
        self.end();
        why
    }

    /// Tells the scheduler to send no more tasks, and lets those that run end.
    async fn leave(mut self) {
        let executor_id = self.executor.metadata.id.clone();
        let terminating = executor_status::Status::Terminating(String::new());
        let heartbeat = HeartBeatParams {
            executor_id: executor_id.clone(),
            metrics: vec![],
            status: Some(ExecutorStatus { status: Some(terminating) }),
            metadata: Some(self.executor.metadata.clone()),
        };
        let stopped = ExecutorStoppedParams { executor_id, reason: "the executor was told to stop".into() };
        let goodbye = async {
            let _ = self.scheduler.heart_beat_from_executor(heartbeat).await;
            let _ = self.scheduler.executor_stopped(stopped).await;
            TasksDrainedFuture(Arc::clone(&self.executor)).await;
        };
        if tokio::time::timeout(DRAIN_MAX, goodbye).await.is_err() {
            tracing::warn!(target: "covey", "tasks still ran {DRAIN_MAX:?} after the executor was told to stop");
        }
        self.end();
    }

    fn end(&self) {
        let _ = self.notifier.notify_shutdown.send(());
        self.results.abort();
        self.tasks.abort();
        self.presence.abort();
    }
}

/// Lets the scheduler see that this executor lives, also after a connection was lost.
async fn be_present(coordinator: Arc<FlightCoordinator>, executor_id: String) {
    loop {
        coordinator.be_present(&executor_id).await;
        tokio::time::sleep(CONNECT_PAUSE).await;
    }
}

fn work_dir(config: &ExecutorConfig) -> Result<WorkDir> {
    let parent = config.work_dir.clone().unwrap_or_else(std::env::temp_dir);
    let made = WorkDir::make(&parent)
        .map_err(|e| exec_datafusion_err!("cannot make a working directory in {}: {e}", parent.display()));
    tokio::task::spawn_blocking(move || sweep(&parent));
    made
}

fn address(config: &ExecutorConfig) -> String {
    format!("http://{}:{}", config.scheduler_host, config.scheduler_port)
}

async fn process_config(config: &ExecutorConfig, port: u16) -> Result<Arc<ExecutorProcessConfig>> {
    let task_port = match config.task_port {
        0 => free_port(&config.bind_host).await?,
        port => port,
    };
    Ok(Arc::new(ExecutorProcessConfig {
        executor_id: Uuid::new_v4().to_string(),
        bind_host: config.bind_host.clone(),
        external_host: Some(config.external_host.clone().unwrap_or_else(|| config.bind_host.clone())),
        port,
        grpc_port: task_port,
        vcores: config.vcores,
        executor_heartbeat_interval_seconds: HEARTBEAT_SECONDS,
        grpc_max_decoding_message_size: MESSAGE_BYTES_MAX,
        grpc_max_encoding_message_size: MESSAGE_BYTES_MAX,
        ..ExecutorProcessConfig::default()
    }))
}

/// Ballista binds the task port itself and takes a number only.
async fn free_port(host: &str) -> Result<u16> {
    Ok(TcpListener::bind((host, 0)).await?.local_addr()?.port())
}

async fn connect(config: &ExecutorConfig) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(address(config))
        .map_err(|e| format!("{} is no address of a scheduler: {e}", address(config)))?
        .tcp_nodelay(true)
        .http2_adaptive_window(true)
        .connect_timeout(ANSWER_MAX)
        .http2_keep_alive_interval(ANSWER_MAX)
        .keep_alive_timeout(ANSWER_MAX)
        .keep_alive_while_idle(true);
    endpoint.connect().await.map_err(|e| format!("cannot be reached: {}", root(&e)))
}

/// The innermost reason of an error.
fn root<'a>(mut error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    while let Some(source) = error.source() {
        error = source;
    }
    error
}

type Codec = BallistaCodec<LogicalPlanNode, PhysicalPlanNode>;

fn build(
    config: &ExecutorConfig,
    process: &Arc<ExecutorProcessConfig>,
    work_dir: &Path,
    coordinator: Arc<FlightCoordinator>,
) -> Result<(Arc<Executor>, Codec)> {
    let stores = Arc::new(ObjectStores::new(config.settings.clone()));
    let models = Arc::new(ModelCache::new(stores.clone()));
    let codec = Arc::new(CoveyPhysicalCodec::new(Arc::clone(&models)));
    let memory_bytes = config.memory_bytes.unwrap_or_else(|| memory::memory_bytes() / 2) as usize;
    let blocks = Arc::new(BlockCache::new(BlockLimits {
        memory_bytes,
        cache_bytes: config.block_cache_bytes,
        spill_bytes: config.block_spill_bytes,
        spill_directory: work_dir.join(BLOCKS),
    }));
    let services =
        Arc::new(ExecutorServices::new(process.executor_id.clone(), coordinator, Arc::clone(&blocks), stores.clone()));
    let databases = Arc::new(Databases::new(config.settings.clone()));
    let session = session_config(Arc::clone(&codec), databases).with_extension(services);
    let registry = function_registry(&session_state(session.clone(), runtime_env(stores.clone())?));
    let config_producer: ConfigProducer = Arc::new(move || session.clone());

    // One for all sessions, so that a Parquet footer is read once whoever asks.
    let shared = RuntimeEnvBuilder::new()
        .with_object_store_registry(stores.clone())
        .with_metadata_cache_limit(FOOTER_CACHE_BYTES)
        .with_temp_file_path(work_dir)
        .build_arc()?;
    let engine = CoveyExecutionEngine::try_new(models, Arc::clone(&shared), config.vcores)?;
    let base: RuntimeProducer = Arc::new(move |_| Ok(Arc::clone(&shared)));
    let pool = memory_policy(memory_bytes / config.vcores, blocks);
    let cache = DefaultSessionRuntimeCache::new(Arc::clone(&base), pool, SESSIONS_KEPT_MAX);
    let executor = Executor::new(
        structure_executor_metadata(process, config.vcores as u32),
        &work_dir.to_string_lossy(),
        base,
        config_producer,
        registry,
        Arc::new(LoggingMetricsCollector::default()),
        config.vcores,
        Arc::new(engine),
    )
    .with_session_runtime_cache(Some(Arc::new(cache)));
    Ok((Arc::new(executor), Codec::new(Arc::new(BallistaLogicalExtensionCodec::default()), codec)))
}

/// Each task gets its share of the memory, as far as blocks leave it, and spills beyond it.
fn memory_policy(share: usize, blocks: Arc<BlockCache>) -> MemoryPoolPolicy {
    Arc::new(move |base: Arc<RuntimeEnv>, _: &SessionConfig, vcores: u32| {
        let pool = SharedPool::new(share.max(1).saturating_mul(vcores.max(1) as usize), Arc::clone(&blocks));
        RuntimeEnvBuilder::from_runtime_env(&base).with_memory_pool(Arc::new(pool)).build_arc()
    })
}

/// Serves shuffle files to other executors and, through the scheduler, to clients.
async fn serve_results(
    listener: TcpListener,
    work_dir: std::path::PathBuf,
    mut shutdown: ballista_executor::shutdown::Shutdown,
) -> Result<()> {
    let service = FlightServiceServer::new(BallistaFlightService::new(work_dir.to_string_lossy().into_owned()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX as usize)
        .max_encoding_message_size(MESSAGE_BYTES_MAX as usize);
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, shutdown.recv())
        .await
        .map_err(|e| DataFusionError::External(Box::new(e)))
}
