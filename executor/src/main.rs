//! `covey-executor`: flags and signals around [`covey_executor::serve`].

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use covey_engine::failure::plain_text;
use covey_executor::{ExecutorArgs, ExecutorConfig, serve};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    covey_engine::allocator::keep_for_a_while();
    let args = ExecutorArgs::parse();
    tracing_subscriber::fmt()
        .with_env_filter(args.log.as_str())
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("covey-executor: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: ExecutorArgs) -> Result<(), String> {
    let config = ExecutorConfig::try_from(args)?;
    let runtime = covey_engine::threads::runtime().map_err(|e| e.to_string())?;
    rayon::ThreadPoolBuilder::new().num_threads(config.vcores).build_global().map_err(|e| e.to_string())?;
    let served = runtime.block_on(async { serve(config, covey_engine::signals::stopped()).await });
    covey_engine::threads::end(runtime);
    served.map_err(|e| plain_text(&e))
}
