//! What a scheduler can be told.

use std::path::PathBuf;

use clap::Parser;
use clap::builder::RangedU64ValueParser;
use covey_engine::session::PARTITIONS_DEFAULT;
use covey_engine::settings::Settings;
use datafusion::error::{DataFusionError, Result};

/// The scheduler of a Covey cluster: takes SQL over Arrow Flight SQL, plans it, and runs it on the executors that
/// have registered. Clients and executors use the same one port.
///
/// Object stores are configured by covey.toml or the usual AWS_* variables (AWS_ACCESS_KEY_ID,
/// AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, AWS_REGION, ...) of this process. There is no authentication yet: keep the
/// port inside a trusted network.
#[derive(Debug, Clone, Parser)]
#[command(name = "covey-scheduler", version)]
pub struct SchedulerArgs {
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    pub bind_host: String,
    /// The port for clients and executors; 0 takes a free one.
    #[arg(short, long, default_value_t = 50050)]
    pub port: u16,
    /// The host name by which executors reach this scheduler; else the address to listen on.
    #[arg(long)]
    pub external_host: Option<String>,
    /// Where models and the intermediate files of fits are kept: a directory or a URL that scheduler and all
    /// executors can reach, such as s3://bucket/warehouse.
    #[arg(long, env = "COVEY_WAREHOUSE", default_value = "warehouse")]
    pub warehouse: String,
    /// Partitions of a stage where nothing else decides; twice the cores of the cluster is a good choice.
    #[arg(long, default_value_t = PARTITIONS_DEFAULT, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    pub partitions: usize,
    /// The settings of object stores, see docs/stores.md; else covey.toml in the working directory.
    #[arg(long, env = "COVEY_CONFIG")]
    pub config: Option<PathBuf>,
    /// What is logged to standard error, as in RUST_LOG.
    #[arg(long, env = "RUST_LOG", default_value = "warn,covey=info")]
    pub log: String,
}

/// The settings of [`crate::bind`].
#[derive(Debug, Clone)]
pub struct SchedulerConfig {
    pub bind_host: String,
    pub port: u16,
    pub external_host: Option<String>,
    pub warehouse: String,
    pub partitions: usize,
    pub settings: Settings,
}

impl TryFrom<SchedulerArgs> for SchedulerConfig {
    type Error = DataFusionError;

    fn try_from(args: SchedulerArgs) -> Result<Self> {
        Ok(Self {
            bind_host: args.bind_host,
            port: args.port,
            external_host: args.external_host,
            warehouse: args.warehouse,
            partitions: args.partitions,
            settings: Settings::read(args.config.as_deref())?,
        })
    }
}
