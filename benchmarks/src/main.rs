//! `covey-bench`: makes data to measure with, runs kernels by themselves, and Ballista as it is.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use covey_benchmarks::ballista::{self, ExecutorArgs, SchedulerArgs};
use covey_benchmarks::fleet::{self, FleetArgs};
use covey_benchmarks::lloyd::{self, LloydArgs};
use covey_benchmarks::queries::{self, QueriesArgs};
use covey_benchmarks::slt::{self, SltArgs};
use covey_benchmarks::store::{self, StoreArgs};

/// The allocator of the processes that are measured for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Data generators, kernels and peers of Covey's benchmarks.
#[derive(Debug, Parser)]
#[command(name = "covey-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Fleet(FleetArgs),
    Lloyd(LloydArgs),
    /// Random queries, held against DataFusion in one process and DuckDB.
    Queries(QueriesArgs),
    /// Foreign sqllogictest files.
    Slt(SltArgs),
    /// Ceph's gateway, and a proxy in front of it that counts requests.
    Store(StoreArgs),
    /// Ballista's own scheduler, with its defaults.
    BallistaScheduler(SchedulerArgs),
    /// Ballista's own executor, with its defaults.
    BallistaExecutor(ExecutorArgs),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Fleet(args) => fleet::write(&args),
        Command::Lloyd(args) => lloyd::run(&args),
        Command::Queries(args) => queries::run(&args),
        Command::Slt(args) => slt::run(&args),
        Command::Store(args) => store::serve(&args),
        Command::BallistaScheduler(args) => ballista::schedule(&args),
        Command::BallistaExecutor(args) => ballista::execute(&args),
    };
    match done {
        Ok(written) => {
            println!("{written}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("covey-bench: {message}");
            ExitCode::FAILURE
        }
    }
}
