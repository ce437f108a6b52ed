//! The same bits, whatever the cluster, the partitions and the files are.

use std::path::{Path, PathBuf};

use covey_tests::{Sandbox, cells, project};
use datafusion::dataframe::DataFrameWriteOptions;
use datafusion::prelude::{ParquetReadOptions, SessionContext};

use crate::{create_model, sample_table};

/// The first five days of the sample with every row in another file, on another of these days: in the order of a hash.
async fn shuffled_lake(folder: &Path) -> PathBuf {
    let lake = folder.join("shuffled");
    let session = SessionContext::new();
    let days = (1..=5).map(|day| project().join(format!("samples/processes/year=2019/month=07/day={day:02}")));
    let days: Vec<String> = days.map(|day| day.display().to_string()).collect();
    let rows = session.read_parquet(days, ParquetReadOptions::default()).await.unwrap();
    session.register_table("rows", rows.into_view()).unwrap();
    let hashed = "SELECT *, md5(concat(process_command, CAST(row_number() OVER () AS VARCHAR))) AS h FROM rows";
    let moved = format!(
        "SELECT process_command, 2019 AS year, 7 AS month, 1 + ascii(left(h, 1)) % 5 AS day FROM ({hashed}) ORDER BY h"
    );
    let moved = session.sql(&moved).await.unwrap();
    let partitions = ["year", "month", "day"].map(String::from).to_vec();
    let options = DataFrameWriteOptions::new().with_partition_by(partitions);
    moved.write_parquet(&lake.display().to_string(), options, None).await.unwrap();
    lake
}

/// Goal: a model's digest is the same on 1, 2 and 3 executors, with 1, 4 and 16 partitions, by both strategies, and with the
/// rows in other files; a given number of clusters and the elbow alike. Method: all of them; where there are several
/// blocks the passes are distributed for real, and each has all rows.
#[tokio::test]
async fn digests_do_not_depend_on_layout() {
    let mut found = vec![];
    for executors in [1, 2, 3] {
        let sandbox = Sandbox::start(executors, 2).await;
        sandbox.sql(&sample_table()).await;
        let shuffled = shuffled_lake(sandbox.folder.path()).await;
        let table = sample_table().replace("TABLE processes", "TABLE shuffled");
        let sample = project().join("samples/processes").display().to_string();
        sandbox.sql(&table.replace(&sample, &shuffled.display().to_string())).await;
        for (partitions, table) in [(1, "processes"), (4, "shuffled"), (16, "processes"), (16, "shuffled")] {
            for (kind, options) in [("given", ""), ("elbow", ", k_max 20, k_batch 2")] {
                let client = sandbox.client().await;
                client.execute(&format!("SET datafusion.execution.target_partitions = {partitions}")).await.unwrap();
                let strategy = if partitions == 1 && executors == 1 { "local" } else { "distributed" };
                let mut statement = create_model("m", &format!("{options}, strategy '{strategy}'"))
                    .replacen("CREATE", "CREATE OR REPLACE", 1)
                    .replacen("FROM processes", &format!("FROM {table}"), 1);
                if kind == "elbow" {
                    statement = statement.replacen("n_clusters 12", "n_clusters 'auto'", 1);
                }
                let made = client.execute(&statement).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
                let digest = cells(&made.batches)[0].last().unwrap().clone();
                let iterations = "SELECT count(DISTINCT distinct_rows), max(distinct_rows), min(executors) FROM model_iterations('m')";
                let iterations = cells(&sandbox.sql(iterations).await);
                assert_eq!(iterations[0][0], "1", "{statement}");
                // At least two blocks for every slot there may be.
                if partitions == 16 {
                    assert_eq!(iterations[0][2], executors.to_string(), "{statement}");
                }
                found.push((kind, digest, iterations[0][1].clone(), format!("{executors} {partitions} {table}")));
            }
        }
    }
    for (i, (kind, digest, rows, how)) in found.iter().enumerate() {
        let first = &found[i % 2];
        assert_eq!((kind, digest, rows), (&first.0, &first.1, &first.2), "{how}");
    }
    assert_eq!(found.len(), 24);
}
