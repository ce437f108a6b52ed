//! A lake and a warehouse in an object store: a real S3 server, SeaweedFS from PyPI.

use covey_tests::{Requests, S3, Sandbox, cell, cells, covey_command, project};

use crate::create_model;

/// Goal: lake and warehouse may be in an object store. Method: collect to it, query it, fit on all executors from it,
/// give the model back bit for bit as from disk, replace and drop it.
#[tokio::test]
async fn lake_and_warehouse_in_s3() {
    let folder = tempfile::tempdir().unwrap();
    let s3 = S3::start(folder.path()).await;
    s3.upload(&project().join("samples/processes"));
    let environment = S3::environment(&s3.endpoint);
    let sandbox = Sandbox::start_at(folder, "s3://lake/warehouse", &environment, 2, 1).await;
    let table = |name: &str, at: &str| {
        format!("CREATE EXTERNAL TABLE {name} STORED AS PARQUET PARTITIONED BY (year, month, day) LOCATION '{at}'")
    };
    sandbox.sql(&table("processes", "s3://lake/processes")).await;
    sandbox.sql(&table("local", &project().join("samples/processes").to_string_lossy())).await;
    let same = "SELECT (SELECT count(*) FROM processes WHERE day = 3) = (SELECT count(*) FROM local WHERE day = 3)";
    assert_eq!(cell(&sandbox.sql(same).await), "true");

    let digest = async |statement: &str| cells(&sandbox.sql(statement).await)[0].last().cloned();
    let from_s3 = digest(&create_model("m", ", strategy 'distributed'")).await;
    let from_disk = digest(&create_model("d", "").replace("processes", "local")).await;
    assert_eq!(from_s3, from_disk);
    assert_eq!(cell(&sandbox.sql("SELECT min(executors) FROM model_iterations('m')").await), "2");
    sandbox.sql("ALTER MODEL m SET LABEL 'named' FOR CLUSTER 1").await;
    assert_eq!(cells(&sandbox.sql("SHOW MODELS").await).len(), 2);
    assert!(sandbox.error(&create_model("m", "")).await.contains("exists"));
    sandbox.sql(&create_model("m", "").replacen("CREATE", "CREATE OR REPLACE", 1)).await;
    assert_eq!(cell(&sandbox.sql("SELECT predict('m', 'sshd') = predict('d', 'sshd')").await), "true");
    sandbox.sql("DROP MODEL m").await;
    assert_eq!(cells(&sandbox.sql("SHOW MODELS").await).len(), 1);

    let mut collect = covey_command(&["collect", "--to", "s3://lake/collected"]);
    let output = collect.envs(environment).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    sandbox.sql(&table("collected", "s3://lake/collected")).await;
    assert_eq!(cell(&sandbox.sql("SELECT count(*) > 0 FROM collected").await), "true");
    let nowhere = sandbox.error(&table("nowhere", "s3://no-such-bucket/lake")).await;
    assert!(nowhere.contains("no-such-bucket"), "{nowhere}");
}

/// Goal: a query by date lists its days and nothing else, across the end of a month and whatever it is asked with, and
/// whole months at once. Method: count the LIST requests on their way to the store.
#[tokio::test]
async fn only_the_days_asked_for_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let s3 = S3::start(folder.path()).await;
    s3.upload(&project().join("samples/processes"));
    let requests = Requests::to(&s3.endpoint).await;
    let warehouse = folder.path().join("warehouse").display().to_string();
    let sandbox = Sandbox::start_at(folder, &warehouse, &S3::environment(&requests.endpoint), 1, 2).await;
    let partitioned = "STORED AS PARQUET PARTITIONED BY (year, month, day) LOCATION 's3a://lake/processes'";
    sandbox.sql(&format!("CREATE EXTERNAL TABLE lake {partitioned}")).await;
    sandbox.sql(&format!("CREATE EXTERNAL TABLE mixed {partitioned} OPTIONS ('directory_names' 'mixed')")).await;
    let local = project().join("samples/processes").display().to_string();
    sandbox
        .sql(&format!(
            "CREATE EXTERNAL TABLE local STORED AS PARQUET PARTITIONED BY (year, month, day) LOCATION '{local}'"
        ))
        .await;
    let week = "make_date(year, month, day) BETWEEN DATE '2019-07-28' AND DATE '2019-08-03'";
    for (filter, lists) in [
        (week, 7),
        ("date BETWEEN '2019-07-28' AND '2019-08-03'", 7),
        ("date >= '2019-07-30' AND date < '2019-09-03'", 5),
        ("year = 2019 AND month = 8", 1),
        ("year = 2019 AND month IN (7, 8) AND day = 1", 2),
        ("month = 8 AND day = 1", 2),
        ("date = '2019-07-04' OR date = '2018-07-04'", 2),
        ("date >= '2019-08-30'", 7),
        ("date > '2019-08-03' AND date < '2019-08-01'", 0),
        ("true", 2),
    ] {
        let count = |table: &str| {
            format!("SELECT count(*), min(date), max(date), count(DISTINCT date) FROM {table} WHERE {filter}")
        };
        let before = requests.count("GET", "list-type=2");
        let from_store = cells(&sandbox.sql(&count("lake")).await);
        assert_eq!(requests.count("GET", "list-type=2") - before, lists, "{filter}");
        assert_eq!(from_store, cells(&sandbox.sql(&count("local")).await), "{filter}");
        assert_eq!(from_store, cells(&sandbox.sql(&count("mixed")).await), "{filter}");
    }
}
