//! `covey-scheduler`: flags and signals around [`covey_scheduler::bind`] and serve.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use covey_scheduler::{SchedulerArgs, bind};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let args = SchedulerArgs::parse();
    tracing_subscriber::fmt()
        .with_env_filter(args.log.as_str())
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let served = async { bind(args.into()).await?.serve(covey_engine::signals::terminated()).await };
    match served.await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("covey-scheduler: {}", error.strip_backtrace());
            ExitCode::FAILURE
        }
    }
}
