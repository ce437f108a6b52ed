//! The life of a scheduler: bind, serve, end when told.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_service_server::FlightServiceServer;
use ballista_core::ConfigProducer;
use ballista_core::config::TaskSchedulingPolicy;
use ballista_core::flight_proxy_service::BallistaFlightProxyService;
use ballista_core::serde::protobuf::scheduler_grpc_server::SchedulerGrpcServer;
use ballista_scheduler::cluster::BallistaCluster;
use ballista_scheduler::config::{SchedulerConfig as BallistaConfig, TaskDistributionPolicy};
use ballista_scheduler::scheduler_process::create_scheduler;
use covey_engine::catalog::Catalog;
use covey_engine::codec::CoveyPhysicalCodec;
use covey_engine::databases::Databases;
use covey_engine::distribution::StageChecks;
use covey_engine::models::cache::ModelCache;
use covey_engine::session::{runtime_env, session_config, session_state};
use covey_engine::storage::{Directory, ObjectStores, directory_url};
use covey_jobs::{Covey, FitHub, sweep};
use datafusion::common::exec_datafusion_err;
use datafusion::error::Result;
use datafusion::prelude::{SessionConfig, SessionContext};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::cluster::{Ballista, SchedulerCluster};
use crate::config::SchedulerConfig;
use crate::flight::CoveyFlightService;
use crate::placement::PlacingCluster;
use crate::presence::Presences;
use crate::rollbacks::Rollbacks;
use crate::stages::BallistaStages;
use crate::upstream::{CheckedReports, Refusals};

/// The largest gRPC message between scheduler, executors and clients.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// An executor that was not heard of for so long is lost: three heartbeats.
const EXECUTOR_SILENT_SECONDS_MAX: u64 = 10;
const EXECUTOR_CHECK_SECONDS: u64 = 1;

/// How long requests under way may take to end when the scheduler is told to. Executors and clients keep their
/// connections open, so waiting for those would take forever.
const GOODBYE_MAX: Duration = Duration::from_secs(2);

/// How long the removal of intermediate files may take at the end.
const CLEANING_MAX: Duration = Duration::from_secs(10);

/// A scheduler that has its port and does not serve yet.
pub struct Bound {
    config: SchedulerConfig,
    listener: TcpListener,
    address: SocketAddr,
}

/// Takes the port. With port 0 the address tells which.
///
/// # Errors
/// When the address cannot be bound.
pub async fn bind(config: SchedulerConfig) -> Result<Bound> {
    let wanted = (config.bind_host.as_str(), config.port);
    let listener = TcpListener::bind(wanted)
        .await
        .map_err(|e| exec_datafusion_err!("cannot listen on {}:{}: {e}", config.bind_host, config.port))?;
    let address = listener.local_addr()?;
    Ok(Bound { config, listener, address })
}

impl Bound {
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` is ready.
    ///
    /// # Errors
    /// When the warehouse cannot be opened or the port fails.
    pub async fn serve(self, shutdown: impl Future<Output = ()> + Send) -> Result<()> {
        let stores = Arc::new(ObjectStores::new(self.config.settings.clone()));
        let warehouse = open_warehouse(&self.config.warehouse, &stores).await?;
        let cache = Arc::new(ModelCache::new(stores.clone()));
        let codec = Arc::new(CoveyPhysicalCodec::new(Arc::clone(&cache)));
        let databases = Arc::new(Databases::new(self.config.settings.clone()));
        let session = self.session(Arc::clone(&codec), databases);
        let runtime = runtime_env(stores.clone())?;
        let shared = Arc::new(SessionContext::new_with_state(session_state(session.clone(), runtime.clone())));

        let ballista = self.ballista_config(session, runtime, codec);
        let hub = Arc::new(FitHub::default());
        let jobs = BallistaCluster::new_from_config(&ballista).await.map_err(ballista_error)?.job_state();
        let rollbacks = Rollbacks::new(Arc::clone(&jobs));
        let placing = Arc::new(PlacingCluster::new(Arc::clone(&hub), rollbacks.clone()));
        let members = Arc::clone(&placing);
        let cluster = BallistaCluster::new(placing, jobs);
        let scheduler = Arc::new(create_scheduler(cluster, Arc::new(ballista)).await.map_err(ballista_error)?);
        let proxy = BallistaFlightProxyService::new(MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX, false, None);
        let address = format!("http://{}", self.address);
        let refusals = Refusals::default();
        let jobs_cluster = SchedulerCluster::new(
            Arc::clone(&scheduler),
            proxy.clone(),
            rollbacks,
            members,
            refusals.clone(),
            self.config.partitions,
            address.clone(),
        );

        if let Err(error) = sweep(&warehouse).await {
            tracing::warn!(target: "covey", %error, "old intermediate files of fits could not be removed");
        }
        let fit_cluster = Arc::new(jobs_cluster.clone());
        let catalog = Catalog::open(&warehouse).await?;
        let covey = Covey::try_new(fit_cluster, warehouse, stores, catalog, cache, Arc::clone(&hub))?;
        covey.register(&shared);
        if let Err(error) = covey.tidy().await {
            tracing::warn!(target: "covey", %error, "files of writes that were cut off could not be removed");
        }
        let presences = Presences::new(Arc::clone(&scheduler));
        let flight = CoveyFlightService::new(covey, jobs_cluster, proxy, Arc::clone(&hub), presences, shared);

        tracing::info!(target: "covey", %address, warehouse = self.config.warehouse, "scheduler ready");
        let incoming = TcpIncoming::from(self.listener).with_nodelay(Some(true));
        let (told, stopping) = oneshot::channel();
        let shutdown = async {
            shutdown.await;
            let _ = told.send(());
        };
        let served = Server::builder()
            .add_service(executors_service(scheduler, refusals))
            .add_service(
                FlightServiceServer::new(flight)
                    .max_decoding_message_size(MESSAGE_BYTES_MAX)
                    .max_encoding_message_size(MESSAGE_BYTES_MAX),
            )
            .serve_with_incoming_shutdown(incoming, shutdown);
        let patience = async {
            // An error means that the server has ended by itself.
            let _ = stopping.await;
            let _ = tokio::time::timeout(CLEANING_MAX, hub.close()).await;
            tokio::time::sleep(GOODBYE_MAX).await;
        };
        tokio::select! {
            result = served => result.map_err(|e| exec_datafusion_err!("the scheduler's port failed: {e}"))?,
            () = patience => {}
        }
        // The server may have ended before the fits that it was asked for.
        let _ = tokio::time::timeout(CLEANING_MAX, hub.close()).await;
        Ok(())
    }

    /// What every session of this scheduler starts from.
    fn session(&self, codec: Arc<CoveyPhysicalCodec>, databases: Arc<Databases>) -> SessionConfig {
        session_config(codec, databases)
            .with_target_partitions(self.config.partitions)
            .with_extension(Arc::new(StageChecks(Arc::new(BallistaStages))))
    }

    fn ballista_config(
        &self,
        session: SessionConfig,
        runtime: Arc<datafusion::execution::runtime_env::RuntimeEnv>,
        codec: Arc<CoveyPhysicalCodec>,
    ) -> BallistaConfig {
        let config_producer: ConfigProducer = Arc::new(move || session.clone());
        BallistaConfig {
            bind_host: self.config.bind_host.clone(),
            external_host: self.config.external_host.clone().unwrap_or_else(|| self.config.bind_host.clone()),
            bind_port: self.address.port(),
            scheduling_policy: TaskSchedulingPolicy::PushStaged,
            task_distribution: TaskDistributionPolicy::RoundRobin,
            executor_timeout_seconds: EXECUTOR_SILENT_SECONDS_MAX,
            no_executors_grace_period_seconds: EXECUTOR_SILENT_SECONDS_MAX,
            expire_dead_executor_interval_seconds: EXECUTOR_CHECK_SECONDS,
            grpc_server_max_decoding_message_size: MESSAGE_BYTES_MAX as u32,
            grpc_server_max_encoding_message_size: MESSAGE_BYTES_MAX as u32,
            grpc_client_max_message_size: MESSAGE_BYTES_MAX as u32,
            override_config_producer: Some(config_producer),
            override_session_builder: Some(Arc::new(move |config| Ok(session_state(config, Arc::clone(&runtime))))),
            override_physical_codec: Some(codec),
            ..BallistaConfig::default()
        }
    }
}

/// Ballista's service for executors.
fn executors_service(scheduler: Arc<Ballista>, refusals: Refusals) -> SchedulerGrpcServer<CheckedReports> {
    SchedulerGrpcServer::new(CheckedReports::new(scheduler, refusals))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// A warehouse in a local directory is made when it is not there.
async fn open_warehouse(location: &str, stores: &Arc<ObjectStores>) -> Result<Directory> {
    let url = directory_url(location)?;
    if url.scheme() == "file"
        && let Ok(path) = url.to_file_path()
    {
        tokio::fs::create_dir_all(&path)
            .await
            .map_err(|e| exec_datafusion_err!("cannot make the warehouse {}: {e}", path.display()))?;
    }
    Directory::open(stores.as_ref(), &url)
}

fn ballista_error(error: ballista_core::error::BallistaError) -> datafusion::error::DataFusionError {
    exec_datafusion_err!("cannot start the scheduler: {error}")
}
