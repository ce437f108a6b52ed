//! `covey-scheduler`: flags and signals around [`covey_scheduler::bind`] and serve.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use covey_engine::failure::plain_text;
use covey_scheduler::{SchedulerArgs, bind};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = SchedulerArgs::parse();
    tracing_subscriber::fmt()
        .with_env_filter(args.log.as_str())
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let served = async { bind(args.into()).await?.serve(covey_engine::signals::stopped()).await };
    let result = match covey_engine::threads::runtime() {
        Ok(runtime) => runtime.block_on(served).map_err(|e| plain_text(&e)),
        Err(error) => Err(error.to_string()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("covey-scheduler: {message}");
            ExitCode::FAILURE
        }
    }
}
