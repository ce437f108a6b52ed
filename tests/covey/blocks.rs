//! Where the blocks of fits are, and what is read for them.

use covey_tests::{Requests, S3, Sandbox, cell, cells, project, wait_until};

use crate::create_model;

/// A lake and a warehouse in S3 with every request counted, and three executors.
struct Counted {
    requests: Requests,
    sandbox: Sandbox,
    _s3: S3,
}

impl Counted {
    async fn start(executor_arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let s3 = S3::start(folder.path()).await;
        s3.upload(&project().join("samples/processes"));
        let requests = Requests::to(&s3.endpoint).await;
        let environment = S3::environment(&requests.endpoint);
        let mut sandbox = Sandbox::start_at(folder, "s3://lake/warehouse", &environment, 0, 1).await;
        for i in 0..3 {
            sandbox.add_executor_with(1, executor_arguments);
            sandbox.wait_for_log(&format!("executor-{i}.log"), "executor registered", 1).await;
        }
        let table = "CREATE EXTERNAL TABLE processes STORED AS PARQUET PARTITIONED BY (year, month, day) \
                     LOCATION 's3://lake/processes'";
        sandbox.sql(table).await;
        Self { requests, sandbox, _s3: s3 }
    }

    /// A distributed fit of so many iterations, and the requests that it took: GETs of the lake's files, of the blocks, and
    /// of all else.
    async fn fit(&self, iterations: usize) -> [u64; 3] {
        let of = |part| self.requests.count("GET", part);
        let counts = || [of("processes/year"), of("/blocks/"), of("") - of("processes/year") - of("/blocks/")];
        let before = counts();
        let options = format!(", strategy 'distributed', init 'random', n_init 1, tol 0, max_iter {iterations}");
        let fit = create_model("m", &options).replacen("CREATE", "CREATE OR REPLACE", 1).replace("max_iter 15, ", "");
        self.sandbox.sql(&fit).await;
        let done = "SELECT count(*), count(DISTINCT distinct_rows), min(executors) FROM model_iterations('m')";
        let expected = [iterations.to_string(), "1".to_string(), "3".to_string()];
        assert_eq!(cells(&self.sandbox.sql(done).await), [expected]);
        let after = counts();
        [0, 1, 2].map(|i| after[i] - before[i])
    }

    async fn hits_and_misses(&self) -> (u64, u64) {
        let sums = "SELECT sum(cache_hits), sum(cache_misses) FROM model_iterations('m') WHERE iteration > 1";
        let sums = cells(&self.sandbox.sql(sums).await);
        (sums[0][0].parse().unwrap(), sums[0][1].parse().unwrap())
    }
}

/// A sample of five days has as many blocks as the cluster has partitions; an executor that has made a third of them or more
/// may give one away to another, which reads it once.
const BLOCKS_MOVED_MAX: u64 = 4;

fn assert_reads(short: &[u64; 3], long: &[u64; 3]) {
    // The second fit finds footers of files in the memory of executors.
    assert!(long[0] <= short[0], "GETs of the lake's files: {short:?} {long:?}");
    assert!(short[1] <= BLOCKS_MOVED_MAX && long[1] <= BLOCKS_MOVED_MAX, "GETs of blocks: {short:?} {long:?}");
}

/// Goal: a fit reads lake and blocks once, however many iterations it takes: after the first, blocks are in the memory
/// of the executor that works on them. Method: a proxy counts requests to a real S3 server; three executors, eight
/// blocks.
#[tokio::test]
async fn reads_do_not_grow_with_iterations() {
    let counted = Counted::start(&[]).await;
    let short = counted.fit(3).await;
    let long = counted.fit(8).await;
    assert_reads(&short, &long);
    let (hits, misses) = counted.hits_and_misses().await;
    assert!(hits >= 7 * 6 && hits >= 99 * misses, "{hits} {misses}");
}

/// Goal: what memory has no room for is read from the local disk, also if there is no room at all; a fit that is cut off
/// leaves nothing there, in the warehouse and among the models.
#[tokio::test]
async fn blocks_are_spilled() {
    let disk = tempfile::tempdir().unwrap();
    let arguments = ["--block-cache-bytes", "0", "--work-dir", &disk.path().to_string_lossy()];
    let counted = Counted::start(&arguments).await;
    let files = || {
        let works = std::fs::read_dir(disk.path()).unwrap().map(|work| work.unwrap().path().join("blocks"));
        works.filter_map(|blocks| std::fs::read_dir(blocks).ok()).flatten().count()
    };
    let short = counted.fit(3).await;
    let long = counted.fit(8).await;
    assert_reads(&short, &long);
    assert_eq!(counted.hits_and_misses().await.0, 0);
    wait_until("spilled blocks go with their fit", async || files() == 0).await;

    let client = counted.sandbox.client().await;
    let long = create_model("cut", ", strategy 'distributed', tol 0, n_init 1000");
    let fit = tokio::spawn(async move { client.execute(&long).await });
    let iterating = "SELECT count(*) > 0 FROM covey_jobs() WHERE state = 'running' AND iteration >= 1";
    while cell(&counted.sandbox.sql(iterating).await) != "true" {
        assert!(!fit.is_finished(), "{:?}", fit.await);
    }
    assert!(files() > 0);
    fit.abort();
    wait_until("spilled blocks go with their fit", async || files() == 0).await;
    let models = cells(&counted.sandbox.sql("SHOW MODELS").await);
    assert!(models.iter().all(|model| model[0] == "m"), "{models:?}");
}
