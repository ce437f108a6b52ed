//! The one integration test binary: real processes, real clients, the sample lake.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod analyst;
mod bits;
mod blocks;
mod catalog;
mod clients;
mod databases;
mod documents;
mod errors;
mod files;
mod fits;
mod functions;
mod lake;
mod lifecycle;
mod models;
mod sql;
mod storage;
mod writes;

use covey_tests::{Sandbox, project};

/// The statement that makes `processes` the sample lake.
fn sample_table() -> String {
    let lake = project().join("samples/processes");
    format!(
        "CREATE EXTERNAL TABLE processes STORED AS PARQUET PARTITIONED BY (year, month, day) LOCATION '{}'",
        lake.display()
    )
}

/// A cluster with the sample lake as `processes`.
async fn sandbox_with_sample(executors: usize, vcores: usize) -> Sandbox {
    let sandbox = Sandbox::start(executors, vcores).await;
    sandbox.sql(&sample_table()).await;
    sandbox
}

/// A fit of five days of the sample, quick and still of many distinct rows.
fn create_model(name: &str, options: &str) -> String {
    format!(
        "CREATE MODEL {name} USING KMEANS OPTIONS (n_clusters 12, max_iter 15, random_state 3{options}) AS \
         SELECT normalize_command(process_command) AS command FROM processes WHERE month = 7 AND day <= 5"
    )
}
