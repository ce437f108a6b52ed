//! What an executor can be told.

use std::path::PathBuf;

use clap::Parser;
use clap::builder::RangedU64ValueParser;
use covey_engine::block_cache::{BLOCK_CACHE_BYTES_DEFAULT, BLOCK_SPILL_BYTES_DEFAULT};
use covey_engine::failure::plain_text;
use covey_engine::settings::Settings;

/// An executor of a Covey cluster: runs the tasks that the scheduler sends, and serves their results to other
/// executors. Start as many as there are machines; they find each other through the scheduler.
///
/// Object stores are configured by the usual AWS_* variables (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
/// AWS_ENDPOINT_URL, AWS_REGION, ...) of this process.
#[derive(Debug, Clone, Parser)]
#[command(name = "covey-executor", version)]
pub struct ExecutorArgs {
    /// The scheduler to work for.
    #[arg(long, env = "COVEY_SCHEDULER", default_value = "http://127.0.0.1:50050")]
    pub scheduler: String,
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    pub bind_host: String,
    /// The host name by which the scheduler and other executors reach this one; else the address to listen on.
    #[arg(long)]
    pub external_host: Option<String>,
    /// The port that results are served on; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// The port that tasks arrive on; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    pub task_port: u16,
    /// Tasks at once, and threads for the work on blocks; all cores where not given.
    #[arg(long, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    pub vcores: Option<usize>,
    /// Memory for queries and blocks together, in bytes. Tasks share it equally, as far as blocks leave it, and spill to
    /// disk beyond; blocks give way to queries. The blocks that tasks work on right now come on top. Half of the machine's,
    /// or of what its container may have, where not given.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub memory_bytes: Option<u64>,
    /// Of it, for the blocks of fits at most, in bytes.
    #[arg(long, default_value_t = BLOCK_CACHE_BYTES_DEFAULT)]
    pub block_cache_bytes: usize,
    /// Disk for blocks of a warehouse elsewhere that memory has no room for, in bytes; beyond it they are read again.
    #[arg(long, default_value_t = BLOCK_SPILL_BYTES_DEFAULT)]
    pub block_spill_bytes: u64,
    /// Where intermediate results are kept; a temporary directory where not given.
    #[arg(long)]
    pub work_dir: Option<PathBuf>,
    /// The settings of object stores, see docs/stores.md; else covey.toml in the working directory.
    #[arg(long, env = "COVEY_CONFIG")]
    pub config: Option<PathBuf>,
    /// What is logged to standard error, as in RUST_LOG.
    #[arg(long, env = "RUST_LOG", default_value = "warn,covey=info")]
    pub log: String,
}

/// The settings of [`crate::serve`].
#[derive(Debug, Clone)]
pub struct ExecutorConfig {
    pub scheduler_host: String,
    pub scheduler_port: u16,
    pub bind_host: String,
    pub external_host: Option<String>,
    pub port: u16,
    pub task_port: u16,
    pub vcores: usize,
    pub memory_bytes: Option<u64>,
    pub block_cache_bytes: usize,
    pub block_spill_bytes: u64,
    pub work_dir: Option<PathBuf>,
    pub settings: Settings,
}

impl ExecutorConfig {
    /// An executor on loopback with everything else as it is by default.
    pub fn local(scheduler_port: u16, vcores: usize, settings: Settings) -> Self {
        Self {
            scheduler_host: "127.0.0.1".into(),
            scheduler_port,
            bind_host: "127.0.0.1".into(),
            external_host: None,
            port: 0,
            task_port: 0,
            vcores,
            memory_bytes: None,
            block_cache_bytes: BLOCK_CACHE_BYTES_DEFAULT,
            block_spill_bytes: BLOCK_SPILL_BYTES_DEFAULT,
            work_dir: None,
            settings,
        }
    }
}

impl TryFrom<ExecutorArgs> for ExecutorConfig {
    type Error = String;

    fn try_from(args: ExecutorArgs) -> Result<Self, String> {
        let authority = args.scheduler.split_once("://").map_or(args.scheduler.as_str(), |(_, rest)| rest);
        let (host, port) = authority
            .trim_end_matches('/')
            .rsplit_once(':')
            .and_then(|(host, port)| Some((host.to_string(), port.parse().ok()?)))
            .ok_or_else(|| format!("--scheduler must be http://HOST:PORT, got {:?}", args.scheduler))?;
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            scheduler_host: host,
            scheduler_port: port,
            bind_host: args.bind_host,
            external_host: args.external_host,
            port: args.port,
            task_port: args.task_port,
            vcores: args.vcores.unwrap_or_else(cores),
            memory_bytes: args.memory_bytes,
            block_cache_bytes: args.block_cache_bytes,
            block_spill_bytes: args.block_spill_bytes,
            work_dir: args.work_dir,
            settings: Settings::read(args.config.as_deref()).map_err(|e| plain_text(&e))?,
        })
    }
}
