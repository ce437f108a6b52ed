//! The command line.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use covey_engine::failure::plain_text;
use covey_engine::settings::Settings;

use crate::plot::Picture;

/// Covey: SQL and clustering over a data lake, on this machine or on a cluster.
#[derive(Debug, Parser)]
#[command(name = "covey", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a file of SQL statements.
    Run {
        /// The file; '-' reads standard input.
        file: PathBuf,
        /// Replaces ${NAME} in the file; may be given often.
        #[arg(long = "set", value_name = "NAME=VALUE")]
        variables: Vec<String>,
        #[command(flatten)]
        connection: Connection,
        #[command(flatten)]
        display: Display,
    },
    /// Run one statement, or start a prompt when there is none.
    Sql {
        /// The statement.
        statement: Option<String>,
        /// The same, as psql has it; may be given often.
        #[arg(short, long = "command", value_name = "STATEMENT")]
        commands: Vec<String>,
        #[command(flatten)]
        connection: Connection,
        #[command(flatten)]
        display: Display,
    },
    /// Draw a picture of a model, as SVG and as PNG.
    Plot {
        /// What is drawn.
        #[arg(value_enum)]
        picture: Picture,
        /// The model.
        model: String,
        /// Where to write, without extension; MODEL-PICTURE in this directory where not given.
        #[arg(long)]
        out: Option<PathBuf>,
        #[command(flatten)]
        connection: Connection,
        #[command(flatten)]
        display: Display,
    },
    /// Upload the command lines of this host's processes to a lake, into the directory of today (UTC).
    Collect {
        /// The lake: a directory or a URL such as s3://bucket/processes.
        #[arg(long)]
        to: String,
        #[command(flatten)]
        storage: Storage,
    },
}

/// Where statements run.
#[derive(Debug, Clone, Args)]
pub struct Connection {
    /// The scheduler to send statements to, such as http://host:50050; without it a cluster is started in here.
    #[arg(long, env = "COVEY_SCHEDULER")]
    pub scheduler: Option<String>,
    /// Embedded cluster: where models are kept, a directory or a URL.
    #[arg(long, env = "COVEY_WAREHOUSE", default_value = "warehouse")]
    pub warehouse: String,
    /// Embedded cluster: executors to start.
    #[arg(long, default_value_t = 2, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    pub executors: usize,
    /// Embedded cluster: tasks at once of each executor; the cores shared equally where not given.
    #[arg(long, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    pub vcores: Option<usize>,
    /// Embedded cluster: partitions of a stage where nothing else decides.
    #[arg(long, default_value_t = covey_engine::session::PARTITIONS_DEFAULT, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    pub partitions: usize,
    #[command(flatten)]
    pub storage: Storage,
}

/// Object stores; where the settings are silent the usual AWS_* variables are read.
#[derive(Debug, Clone, Args)]
pub struct Storage {
    /// The settings of object stores, see docs/stores.md; else covey.toml in the working directory.
    #[arg(long, env = "COVEY_CONFIG")]
    pub config: Option<PathBuf>,
}

impl Storage {
    /// # Errors
    /// When the settings cannot be read.
    pub fn settings(&self) -> Result<Settings, String> {
        Settings::read(self.config.as_deref()).map_err(|e| plain_text(&e))
    }
}

/// Ballista logs as errors what statements are told anyway, and the races of a cancelled job.
const LOG_DEFAULT: &str = "error,ballista_scheduler=off,ballista_executor=off";

/// How results are shown.
#[derive(Debug, Clone, Args)]
pub struct Display {
    /// The form of results.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Show no progress; there is none either where standard error is no terminal.
    #[arg(long)]
    pub quiet: bool,
    /// What is logged to standard error, as in RUST_LOG.
    #[arg(long, env = "RUST_LOG", default_value = LOG_DEFAULT)]
    pub log: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table for people.
    Table,
    /// A line for each value, for rows that are too wide for the screen.
    Expanded,
    /// Comma-separated values with a header.
    Csv,
    /// One JSON object a line.
    Json,
}
