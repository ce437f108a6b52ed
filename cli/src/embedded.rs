//! A whole cluster inside this process: the scheduler and executors of the server binaries, on loopback.

use covey_executor::ExecutorConfig;
use covey_scheduler::SchedulerConfig;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::args::Connection;

/// A running cluster; it ends when [`Embedded::stop`] is called or the process does.
#[derive(Debug)]
pub struct Embedded {
    url: String,
    executors: Services,
    scheduler: Services,
}

/// Services that are told to stop together.
#[derive(Debug)]
struct Services {
    stop: watch::Sender<bool>,
    running: JoinSet<()>,
}

impl Services {
    fn new() -> Self {
        Self { stop: watch::channel(false).0, running: JoinSet::new() }
    }

    /// Ready when the services are told to stop, or the process ends.
    fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stopped = self.stop.subscribe();
        async move {
            let _ = stopped.wait_for(|stopped| *stopped).await;
        }
    }

    async fn stop(mut self) {
        let _ = self.stop.send(true);
        while self.running.join_next().await.is_some() {}
    }
}

impl Embedded {
    /// # Errors
    /// When the scheduler cannot start.
    pub async fn start(connection: &Connection) -> Result<Self, String> {
        let config = SchedulerConfig {
            bind_host: "127.0.0.1".into(),
            port: 0,
            external_host: None,
            warehouse: connection.warehouse.clone(),
            partitions: connection.partitions,
            settings: connection.storage.settings()?,
        };
        let scheduler = covey_scheduler::bind(config).await.map_err(|e| e.strip_backtrace())?;
        let address = scheduler.address();
        let (mut executors, mut services) = (Services::new(), Services::new());
        let stopped = services.stopped();
        services.running.spawn(report("scheduler", scheduler.serve(stopped)));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let vcores = connection.vcores.unwrap_or(cores / connection.executors).max(1);
        for _ in 0..connection.executors {
            let config = ExecutorConfig::local(address.port(), vcores, connection.storage.settings()?);
            let stopped = executors.stopped();
            executors.running.spawn(report("executor", covey_executor::serve(config, stopped)));
        }
        Ok(Self { url: format!("http://{address}"), executors, scheduler: services })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Stops the executors, which tell the scheduler so, then the scheduler; their temporary files are removed.
    pub async fn stop(self) {
        self.executors.stop().await;
        self.scheduler.stop().await;
    }
}

/// Says when a service ends with an error: the statements that need it will fail, and this is why.
async fn report<E: std::fmt::Display>(service: &'static str, served: impl Future<Output = Result<(), E>>) {
    if let Err(error) = served.await {
        eprintln!("covey: the embedded {service} ended: {error}");
    }
}
