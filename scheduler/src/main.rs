//! `covey-scheduler`: flags and signals around [`covey_scheduler::bind`] and serve.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use covey_engine::failure::plain_text;
use covey_scheduler::{SchedulerArgs, SchedulerConfig, bind};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    covey_engine::allocator::keep_for_a_while();
    let args = SchedulerArgs::parse();
    tracing_subscriber::fmt()
        .with_env_filter(args.log.as_str())
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("covey-scheduler: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: SchedulerArgs) -> Result<(), String> {
    let config = SchedulerConfig::try_from(args).map_err(|e| plain_text(&e))?;
    let runtime = covey_engine::threads::runtime().map_err(|e| e.to_string())?;
    let served = runtime.block_on(async { bind(config).await?.serve(covey_engine::signals::stopped()).await });
    covey_engine::threads::end(runtime);
    served.map_err(|e| plain_text(&e))
}
