//! Foreign sqllogictest files through the Flight SQL port, beside DataFusion in one process; `tests/src/slt` says how.

use std::path::PathBuf;

use clap::Args;
use covey_tests::Sandbox;
use covey_tests::slt::{ForeignOptions, run_foreign};

#[derive(Debug, Clone, Args)]
pub struct SltArgs {
    /// The folder of the files. Those of DataFusion are in its crate datafusion-sqllogictest.
    folder: PathBuf,
    /// Only files whose path has this in it.
    #[arg(long)]
    only: Option<String>,
    /// The scheduler; a cluster of three executors is started where none is named.
    #[arg(long)]
    scheduler: Option<String>,
    /// Prints every failure.
    #[arg(long)]
    verbose: bool,
}

/// # Errors
/// When the folder cannot be read, or no scheduler answers.
pub fn run(args: &SltArgs) -> Result<String, String> {
    let runtime = tokio::runtime::Runtime::new().map_err(|e| e.to_string())?;
    runtime.block_on(async {
        let mut sandbox = None;
        let url = match &args.scheduler {
            Some(url) => url.clone(),
            None => sandbox.insert(Sandbox::start(3, 1).await).url.clone(),
        };
        let (folder, only) = (args.folder.clone(), args.only.clone());
        let options = ForeignOptions { folder, only, url, is_verbose: args.verbose };
        run_foreign(&options).await.map(|summary| summary.to_string())
    })
}
