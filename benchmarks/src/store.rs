//! Ceph's own gateway for a benchmark, with a proxy in front that counts requests.

use std::io::{BufRead, Write, stdin, stdout};
use std::path::PathBuf;

use clap::Args;
use covey_tests::{Ceph, Requests};

#[derive(Debug, Args)]
pub struct StoreArgs {
    /// A folder that does not exist, for what it holds.
    #[arg(long)]
    folder: PathBuf,
    #[arg(long, default_value = "insights")]
    bucket: String,
}

/// Says where the gateway and the proxy are, then, for each line of input, the requests so far: LIST, other GET, HEAD, PUT.
/// Ends with its input.
///
/// # Errors
/// When the folder cannot be made.
pub fn serve(args: &StoreArgs) -> Result<String, String> {
    std::fs::create_dir_all(&args.folder).map_err(|e| e.to_string())?;
    let runtime = tokio::runtime::Runtime::new().map_err(|e| e.to_string())?;
    let (ceph, requests) = runtime.block_on(async {
        let ceph = Ceph::start(&args.folder).await;
        ceph.make_bucket(&args.bucket);
        let requests = Requests::to(&ceph.endpoint).await;
        (ceph, requests)
    });
    say(&format!("{} {}", ceph.endpoint, requests.endpoint))?;
    for line in stdin().lock().lines() {
        line.map_err(|e| e.to_string())?;
        let lists = requests.count("GET", "list-type=2");
        let gets = requests.count("GET", "") - lists;
        say(&format!("{lists} {gets} {} {}", requests.count("HEAD", ""), requests.count("PUT", "")))?;
    }
    Ok("the store has ended".to_string())
}

fn say(line: &str) -> Result<(), String> {
    let mut out = stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(|e| e.to_string())
}
