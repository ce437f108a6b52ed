//! A lake and a warehouse in object stores: Ceph's own gateway, and SeaweedFS, which starts sooner.

use std::path::Path;

use covey_tests::{Ceph, Requests, S3, Sandbox, cell, cells, covey_command, project, wait_until};

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
    let asked = "'listing_seconds' '0'";
    sandbox.sql(&format!("CREATE EXTERNAL TABLE lake {partitioned} OPTIONS ({asked})")).await;
    let mixed = format!("{partitioned} OPTIONS ({asked}, 'directory_names' 'mixed')");
    sandbox.sql(&format!("CREATE EXTERNAL TABLE mixed {mixed}")).await;
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

/// Goal: listings are remembered as long as the table says, but for what this process has written; footers are read once.
#[tokio::test]
async fn listings_and_footers_are_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let s3 = S3::start(folder.path()).await;
    s3.upload(&project().join("samples/processes"));
    let requests = Requests::to(&s3.endpoint).await;
    let warehouse = folder.path().join("warehouse").display().to_string();
    let sandbox = Sandbox::start_at(folder, &warehouse, &S3::environment(&requests.endpoint), 1, 2).await;
    let table = |name: &str, seconds: u32| {
        format!(
            "CREATE EXTERNAL TABLE {name} STORED AS PARQUET PARTITIONED BY (year, month, day) \
             LOCATION 's3://lake/processes' OPTIONS ('listing_seconds' '{seconds}')"
        )
    };
    sandbox.sql(&table("hour", 3600)).await;
    sandbox.sql(&table("fresh", 0)).await;
    let counted = async |from: &str| {
        let before = ["list-type=2", "parquet"].map(|part| requests.count("GET", part));
        let filter = if from == "large" { "true" } else { "date = '2019-07-04'" };
        let count = format!("SELECT count(*), max(length(process_command)) FROM {from} WHERE {filter}");
        let rows = cells(&sandbox.sql(&count).await)[0][0].parse::<u64>().unwrap();
        let after = ["list-type=2", "parquet"].map(|part| requests.count("GET", part));
        (rows, after[0] - before[0], after[1] - before[1])
    };
    let (n, lists, reads) = counted("hour").await;
    assert_eq!((lists, reads), (1, 1), "a small file is read at once");
    assert_eq!(counted("hour").await, (n, 0, 1));
    let texts =
        "SELECT md5(value::varchar) || md5((value + 1)::varchar) AS process_command FROM generate_series(1, 200000)";
    sandbox.sql(&format!("COPY ({texts}) TO 's3://lake/large/' STORED AS PARQUET")).await;
    sandbox.sql("CREATE EXTERNAL TABLE large STORED AS PARQUET LOCATION 's3://lake/large/'").await;
    let (rows, _, reads) = counted("large").await;
    assert!(rows == 200_000 && reads >= 2, "footer and columns: {reads}");
    let (_, _, reads_again) = counted("large").await;
    assert!(reads_again < reads, "the footer is known: {reads_again} of {reads}");
    assert_eq!(counted("fresh").await.1, 1);
    assert_eq!(counted("fresh").await.1, 1);

    sandbox.sql("INSERT INTO hour (process_command, year, month, day) VALUES ('x', 2019, 7, 4)").await;
    assert_eq!((counted("hour").await.0, counted("hour").await.1), (n + 1, 0), "own writes are seen at once");
    let day = project().join("samples/processes/year=2019/month=07/day=05/part-00000.parquet");
    let upload = sandbox.path("up/processes/year=2019/month=07/day=04");
    std::fs::create_dir_all(&upload).unwrap();
    std::fs::copy(day, upload.join("theirs.parquet")).unwrap();
    s3.upload(&sandbox.path("up/processes"));
    assert_eq!(counted("hour").await.0, n + 1, "what others upload is seen when the listing is old");
    assert!(counted("fresh").await.0 > n + 1);
    let message = sandbox.error(&table("x", 0).replace("'0'", "'soon'")).await;
    assert!(message.contains("a number of seconds up to"), "{message}");
}

/// Settings of one store, and the variable that names their file.
fn settings(folder: &Path, name: &str, stores: &[(&str, &str, &str)]) -> (&'static str, String) {
    let store = |(scope, endpoint, secret): &(&str, &str, &str)| {
        format!(
            "[[store]]\nscope = '{scope}'\nendpoint = '{endpoint}'\nregion = 'us-east-1'\n\
             access_key_id = 'testkey'\nsecret_access_key = '{secret}'\nretry_seconds = 5\n"
        )
    };
    let file = folder.join(name);
    std::fs::write(&file, stores.iter().map(store).collect::<String>()).unwrap();
    ("COVEY_CONFIG", file.display().to_string())
}

/// Goal: Ceph holds lake and warehouse, beside a second store with a key of its own: written to, queried, trained on by
/// three executors, written back, and no key is to be seen anywhere.
#[tokio::test]
async fn lake_and_warehouse_in_ceph() {
    let folder = tempfile::tempdir().unwrap();
    let (ceph, s3) = (Ceph::start(folder.path()).await, S3::start(folder.path()).await);
    ceph.make_bucket("insights");
    let stores = [("s3://insights", ceph.endpoint.as_str(), "testsecret"), ("s3://lake", &s3.endpoint, "testsecret")];
    let (name, file) = settings(folder.path(), "covey.toml", &stores);
    let sandbox = Sandbox::start_at(folder, "s3://insights/warehouse", &[(name, &file)], 3, 1).await;
    let sample = project().join("samples/processes").display().to_string();
    let table = |name: &str, at: &str| {
        format!("CREATE EXTERNAL TABLE {name} STORED AS PARQUET PARTITIONED BY (year, month, day) LOCATION '{at}'")
    };
    // Files that were rewritten are removed a minute later: what is in their names and how old they are must be known then.
    sandbox.sql("CREATE TABLE by_host PARTITIONED BY (host) AS SELECT 1 AS a, 'a:80 ~[b]' AS host").await;
    for a in 2..=4 {
        sandbox.sql(&format!("INSERT INTO by_host VALUES ({a}, 'a:80 ~[b]')")).await;
    }
    assert_eq!(cells(&sandbox.sql("OPTIMIZE by_host").await), [["1", "4", "1", "4"]]);
    let optimized = std::time::Instant::now();
    sandbox.sql(&table("sample", &sample)).await;
    let columns = "attachment_id, system_id, process_command, year, month, day";
    let n = cell(&sandbox.sql("SELECT count(*) FROM sample").await);
    for to in ["s3://insights/processes/", "s3a://lake/processes/"] {
        let copy = format!(
            "COPY (SELECT {columns} FROM sample) TO '{to}' STORED AS PARQUET PARTITIONED BY (year, month, day)"
        );
        assert_eq!(cell(&sandbox.sql(&copy).await), n, "{to}");
    }
    sandbox.sql(&table("processes", "s3a://insights/processes/")).await;
    sandbox.sql(&table("second", "s3://lake/processes/")).await;
    for one in ["processes", "second"] {
        let differ =
            format!("SELECT count(*) FROM (SELECT {columns} FROM sample EXCEPT ALL SELECT {columns} FROM {one})");
        assert_eq!(cell(&sandbox.sql(&differ).await), "0", "{one}");
    }
    let digest = async |statement: &str| cells(&sandbox.sql(statement).await)[0].last().cloned();
    let from_ceph = digest(&create_model("m", ", strategy 'distributed'")).await;
    assert_eq!(from_ceph, digest(&create_model("d", "").replace("processes", "sample")).await);
    assert_eq!(cell(&sandbox.sql("SELECT min(executors) FROM model_iterations('m')").await), "3");

    let labelled = "SELECT process_command, predict('m', process_command) AS cluster, month, day FROM processes";
    sandbox.sql(&format!("CREATE TABLE labelled PARTITIONED BY (month, day) AS {labelled} WHERE day = 3")).await;
    sandbox.sql(&format!("INSERT INTO labelled {labelled} WHERE day = 4")).await;
    let same = format!("SELECT count(*) FROM (({labelled} WHERE day IN (3, 4)) EXCEPT ALL SELECT * FROM labelled)");
    assert_eq!(cell(&sandbox.sql(&same).await), "0");
    sandbox.sql("DROP TABLE labelled").await;

    let shown = ["SHOW ALL", "EXPLAIN VERBOSE SELECT count(*) FROM processes", "SHOW CREATE TABLE processes"];
    for statement in shown {
        let shown = cells(&sandbox.sql(statement).await).concat().concat();
        assert!(!shown.contains("testsecret") && !shown.contains("testkey"), "{statement}: {shown}");
    }
    const REPLACED_KEPT: std::time::Duration = std::time::Duration::from_secs(60);
    tokio::time::sleep(REPLACED_KEPT.saturating_sub(optimized.elapsed())).await;
    wait_until("what was rewritten is removed", async || ceph.objects("insights", "/host=").len() == 1).await;
    assert_eq!(
        cells(&sandbox.sql("SELECT count(*), sum(a), min(host) FROM by_host").await),
        [["4", "10", "a:80 ~[b]"]]
    );

    for log in ["scheduler.log", "executor-0.log"] {
        assert!(!sandbox.log(log).contains("testsecret"), "{log}");
    }
}

/// Goal: a store that is down for a while, that refuses every second request, or whose answers to commits get lost, costs
/// time and nothing else.
#[tokio::test]
async fn a_store_may_falter() {
    let folder = tempfile::tempdir().unwrap();
    let mut ceph = Ceph::start(folder.path()).await;
    ceph.make_bucket("insights");
    let requests = Requests::to(&ceph.endpoint).await;
    let (name, file) = settings(folder.path(), "covey.toml", &[("s3://", &requests.endpoint, "testsecret")]);
    let sandbox = Sandbox::start_at(folder, "s3://insights/warehouse", &[(name, &file)], 2, 1).await;
    let sample = project().join("samples/processes").display().to_string();
    let partitioned = "STORED AS PARQUET PARTITIONED BY (year, month, day)";
    sandbox.sql(&format!("CREATE EXTERNAL TABLE sample {partitioned} LOCATION '{sample}'")).await;
    requests.refuse_one_of(2);
    sandbox.sql("CREATE TABLE copy PARTITIONED BY (year, month, day) AS SELECT system_id, process_command, year, month, day FROM sample").await;
    let count = "SELECT count(*), count(DISTINCT process_command) FROM";
    let expected = cells(&sandbox.sql(&format!("{count} sample")).await);
    assert_eq!(cells(&sandbox.sql(&format!("{count} copy")).await), expected);
    requests.refuse_one_of(0);
    for (statement, commits) in [
        ("CREATE TABLE lost PARTITIONED BY (day) AS SELECT 1 AS a, 1 AS day", 1),
        ("CREATE OR REPLACE TABLE lost PARTITIONED BY (day) AS SELECT 2 AS a, 1 AS day", 1),
        ("INSERT INTO lost VALUES (3, 1), (4, 2)", 2),
        ("CREATE TABLE IF NOT EXISTS other AS SELECT 5 AS a", 1),
    ] {
        requests.lose_answers("PUT /insights/warehouse/catalog/", commits);
        sandbox.sql(statement).await;
        assert_eq!(requests.answers_to_lose(), 0, "{statement}");
    }
    let found = sandbox.sql("SELECT a FROM lost UNION ALL SELECT a FROM other ORDER BY a").await;
    assert_eq!(cells(&found), [["2"], ["3"], ["4"], ["5"]]);

    let before = requests.count("GET", ".parquet");
    let client = sandbox.client().await;
    let counting = tokio::spawn(async move { client.execute(&format!("{count} copy")).await });
    wait_until("files are read", async || requests.count("GET", ".parquet") > before + 3).await;
    ceph.stop_gateway();
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    ceph.start_gateway().await;
    assert_eq!(cells(&counting.await.unwrap().unwrap().batches), expected);

    let (before, client) = (requests.count("GET", ".parquet"), sandbox.client().await);
    let counting = tokio::spawn(async move { client.execute(&format!("{count} copy")).await });
    wait_until("files are read", async || requests.count("GET", ".parquet") > before + 3).await;
    ceph.stop_gateway();
    let message = counting.await.unwrap().map(|rows| cells(&rows.batches)).unwrap_err().to_string();
    assert!(message.contains("the store does not answer as it should"), "{message}");
    assert!(!message.contains("cannot read"), "the store is not asked for every file again: {message}");
}

/// Goal: what is wrong with a store is told as what it is.
#[tokio::test]
async fn store_errors_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let s3 = S3::start(folder.path()).await;
    s3.upload(&project().join("samples/processes"));
    let nobody = "http://127.0.0.1:9";
    let stores = [
        ("s3://lake", s3.endpoint.as_str(), "testsecret"),
        ("s3://wrong", &s3.endpoint, "another"),
        ("s3://missing", &s3.endpoint, "testsecret"),
        ("s3://down", nobody, "testsecret"),
    ];
    let (name, file) = settings(folder.path(), "covey.toml", &stores);
    let warehouse = folder.path().join("warehouse").display().to_string();
    let sandbox = Sandbox::start_at(folder, &warehouse, &[(name, &file)], 1, 1).await;
    let partitioned = "STORED AS PARQUET PARTITIONED BY (year, month, day) LOCATION";
    for (bucket, expected) in [
        ("wrong", "the store refuses the key; check access_key_id"),
        ("missing", "there is no such bucket"),
        ("down", "the store does not answer as it should, tried for up to 5 s"),
    ] {
        for statement in [
            format!("CREATE EXTERNAL TABLE t {partitioned} 's3://{bucket}/processes/'"),
            format!("COPY (SELECT 1 AS a) TO 's3://{bucket}/a.csv'"),
        ] {
            // SeaweedFS makes a bucket that is written to.
            if bucket == "missing" && statement.starts_with("COPY") {
                continue;
            }
            let message = sandbox.error(&statement).await;
            assert!(message.contains(&format!("s3://{bucket}: {expected}")), "{statement}: {message}");
            assert!(!message.contains("testsecret") && !message.contains("another"), "{message}");
        }
    }
    sandbox.sql(&format!("CREATE EXTERNAL TABLE lake {partitioned} 's3://lake/processes/'")).await;
    drop(s3);
    let message = sandbox.error("SELECT count(*) FROM lake").await;
    assert!(message.contains("s3://lake: the store does not answer"), "{message}");
}
