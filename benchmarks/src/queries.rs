//! Random queries in any number; `tests/src/queries` says what they are.

use std::path::PathBuf;

use clap::Args;
use covey_tests::project;
use covey_tests::queries::run::{self, Options};
use covey_tests::queries::shapes::ClusterKind;

#[derive(Debug, Clone, Args)]
pub struct QueriesArgs {
    /// The seeds, as FIRST..END; each is one pair of a query and a shape.
    #[arg(long, default_value = "0..1000")]
    seeds: String,
    /// A line for each pair goes to this file. A run that finds it goes on where it ended.
    #[arg(long)]
    log: Option<PathBuf>,
    /// Only the pairs of this cluster: one-executor, three-executors, little-memory or killed-executor.
    #[arg(long)]
    cluster: Option<String>,
    /// Says what differs without making it smaller.
    #[arg(long)]
    no_shrink: bool,
}

/// # Errors
/// When an argument is none, a judge cannot be started, or answers differ.
pub fn run(args: &QueriesArgs) -> Result<String, String> {
    let not_a_range = || format!("--seeds {}: write FIRST..END", args.seeds);
    let (first, end) = args.seeds.split_once("..").ok_or_else(not_a_range)?;
    let number = |text: &str| text.parse().map_err(|_| not_a_range());
    let options = Options {
        seeds: number(first)?..number(end)?,
        log: args.log.clone(),
        cluster: args.cluster.as_deref().map(cluster).transpose()?,
        shrinks: !args.no_shrink,
        kills: true,
        script: project().join("tests/python/duckdb_judge.py"),
    };
    let runtime = tokio::runtime::Runtime::new().map_err(|e| e.to_string())?;
    let summary = runtime.block_on(run::run(&options))?;
    match summary.failures.is_empty() {
        true => Ok(summary.to_string()),
        false => Err(summary.to_string()),
    }
}

fn cluster(name: &str) -> Result<ClusterKind, String> {
    Ok(match name {
        "one-executor" => ClusterKind::OneExecutor,
        "three-executors" => ClusterKind::ThreeExecutors,
        "little-memory" => ClusterKind::LittleMemory,
        "killed-executor" => ClusterKind::KilledExecutor,
        other => {
            return Err(format!("--cluster {other}: one-executor, three-executors, little-memory or killed-executor"));
        }
    })
}
