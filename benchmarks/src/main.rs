//! `covey-bench`: makes data to measure with, and runs kernels by themselves.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use covey_benchmarks::fleet::{self, FleetArgs};
use covey_benchmarks::lloyd::{self, LloydArgs};

/// The allocator of the processes that are measured for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Data generators and kernels of Covey's benchmarks.
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
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Fleet(args) => fleet::write(&args),
        Command::Lloyd(args) => lloyd::run(&args),
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
