//! `covey-bench`: makes data to measure with.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use covey_benchmarks::fleet::{self, FleetArgs};

/// Data generators of Covey's benchmarks.
#[derive(Debug, Parser)]
#[command(name = "covey-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Fleet(FleetArgs),
}

fn main() -> ExitCode {
    let Command::Fleet(args) = Cli::parse().command;
    match fleet::write(&args) {
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
