//! Bad input: one clear error, exit code not 0, and the processes live on.

use std::fs;

use covey_tests::{Sandbox, cell, cells, covey};

use crate::{create_model, sandbox_with_sample};

/// Goal: every mistake is told in words that say what is wrong, and harms no process.
#[tokio::test]
async fn mistakes_are_told() {
    let mut sandbox = sandbox_with_sample(1, 2).await;
    let rubbish = sandbox.path("rubbish/year=2019/month=07/day=01");
    fs::create_dir_all(&rubbish).unwrap();
    fs::write(rubbish.join("part.parquet"), "this is no Parquet file, however long it is").unwrap();
    let rubbish = sandbox.path("rubbish");
    let cases = [
        (create_model("m", ", n_cluster 4"), "did you mean \"n_clusters\""),
        (create_model("m", "").replace("process_command)", "proces_command)"), "proces_command"),
        (create_model("m", "").replace("n_clusters 12", "n_clusters 9999"), "distinct rows"),
        (create_model("m", "").replace("month = 7", "month = 2"), "gave no rows"),
        (create_model("m", "").replace("normalize_command(process_command)", "CAST(NULL AS VARCHAR)"), "with NULL"),
        (create_model("m", "").replace("normalize_command(process_command)", "''"), "distinct rows"),
        (create_model("m", "").replace("AS command", "AS command, day"), "select one text column"),
        (create_model("m", ", min_df 1000000"), "min_df"),
        ("CREATE MODEL m USING KMEANS OPTIONS (min_df 2) AS SELECT 1.0 AS x".into(), "min_df is for a text column"),
        (
            "CREATE MODEL m USING KMEANS OPTIONS (n_clusters 1) AS SELECT CAST('NaN' AS DOUBLE) AS x".into(),
            "finite number",
        ),
        ("CREATE MODEL m USING KMEANS AS SELECT 1.0 AS x, -1 AS weight".into(), "not below 0, got -1"),
        ("CREATE MODEL \"a/b\" USING KMEANS OPTIONS (n_clusters 1) AS SELECT 1.0 AS x".into(), "cannot name a model"),
        ("SELECT predict('nobody', 'x')".into(), "there is no model \"nobody\""),
        ("SELECT predict(process_command, 'x') FROM processes".into(), "literal string"),
        ("SELECT * FROM model_clusters('nobody')".into(), "there is no model"),
        (
            "CREATE MODEL m USING KMEANS OPTIONS (n_clusters 1) AS SELECT 1.0 AS x, 0 AS weight".into(),
            "has the weight 0",
        ),
        ("SELECT nothing FROM processes".into(), "nothing"),
        (format!("SELECT 1{}", " + 1".repeat(100_000)), "chains over 4000"),
        (format!("SELECT g{} FROM (VALUES (1)) AS t(g)", " IS NULL".repeat(100_000)), "chains over 4000"),
        ("SELECT * FROM processes WHERE day = $1".into(), "1 parameters: bind values"),
        (
            "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 3) SELECT count(*) FROM r".into(),
            "WITH RECURSIVE r",
        ),
        ("SELECT count(*) FROM processes WHERE 1 / 0 = 1".into(), "Divide by zero"),
        (
            "CREATE MODEL m USING KMEANS OPTIONS (n_clusters 1) AS SELECT x, w AS weight FROM \
             (VALUES (1.0, 8e12), (1.0, 8e12), (1.0, 8e12), (5.0, 1.0)) AS t(x, w)"
                .into(),
            "the total weight is above the limit",
        ),
        (
            "CREATE MODEL m USING KMEANS OPTIONS (n_clusters 1) AS SELECT arrow_cast(make_array(), 'List(Int64)') AS x"
                .into(),
            "list of features is empty",
        ),
        ("SELEC 1".into(), "SELEC"),
        ("INSERT INTO processes VALUES (1)".into(), ""),
        (
            format!(
                "CREATE EXTERNAL TABLE r STORED AS PARQUET PARTITIONED BY (year, month, day) LOCATION '{}'",
                rubbish.display()
            ),
            "part.parquet",
        ),
        (
            "CREATE EXTERNAL TABLE r STORED AS PARQUET PARTITIONED BY (year) LOCATION '/nowhere/at/all'".into(),
            "/nowhere/at/all",
        ),
    ];
    for (sql, expected) in cases {
        let message = sandbox.error(&sql).await;
        assert!(message.contains(expected), "{sql}\n{message}");
        assert!(!message.contains("stack backtrace"), "{message}");
        sandbox.assert_alive();
    }
    assert!(sandbox.sql("SHOW MODELS").await.iter().all(|batch| batch.num_rows() == 0));
}

/// Goal: the longest chains that are taken run, on scheduler and executors.
#[tokio::test]
async fn long_chains_run() {
    let mut sandbox = sandbox_with_sample(1, 2).await;
    const LONGEST: usize = 4_000;
    let sum = format!("SELECT max(day{}) FROM processes WHERE month = 7", " + 1".repeat(LONGEST));
    assert_eq!(cell(&sandbox.sql(&sum).await), (31 + LONGEST).to_string());
    let any: Vec<String> = (0..LONGEST).map(|i| format!("system_id = 'no-{i}'")).collect();
    let none = format!("SELECT count(*) FROM processes WHERE month = 7 AND ({})", any.join(" OR "));
    assert_eq!(cell(&sandbox.sql(&none).await), "0");
    sandbox.assert_alive();
}

/// Goal: a damaged file of the lake is named when a query meets it, and of a model when it is used.
#[tokio::test]
async fn damage_is_named() {
    let mut sandbox = sandbox_with_sample(1, 2).await;
    sandbox.sql(&create_model("m", "")).await;
    let data = fs::read_dir(sandbox.path("warehouse/models/m/data")).unwrap().next().unwrap().unwrap().path();
    let file = data.join("centroids.arrow");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    for sql in ["SELECT predict('m', 'x')", "SELECT * FROM model_terms('m')"] {
        let message = sandbox.error(sql).await;
        assert!(message.contains("is corrupt") && message.contains("centroids.arrow"), "{message}");
    }
    fs::remove_file(&file).unwrap();
    let listed = cells(&sandbox.sql("SHOW MODELS").await);
    assert!(listed[0].last().unwrap().contains("centroids.arrow is lost"), "{listed:?}");
    let manifest = sandbox.path("warehouse/models/m/00000001-00000000.json");
    let text = fs::read_to_string(&manifest).unwrap().replace("\"n_clusters\": 12", "\"n_clusters\": 13");
    fs::write(&manifest, text).unwrap();
    let message = sandbox.error("SELECT * FROM model_terms('m')").await;
    assert!(message.contains("is corrupt") && message.contains("00000001-00000000.json"), "{message}");

    let lake = sandbox.path("lake");
    for day in ["01", "02"] {
        let from =
            covey_tests::project().join(format!("samples/processes/year=2019/month=07/day={day}/part-00000.parquet"));
        let to = lake.join(format!("year=2019/month=07/day={day}"));
        fs::create_dir_all(&to).unwrap();
        fs::copy(from, to.join("part-00000.parquet")).unwrap();
    }
    let broken = lake.join("year=2019/month=07/day=01/part-00000.parquet");
    let bytes = fs::read(&broken).unwrap();
    fs::write(&broken, &bytes[..bytes.len() / 2]).unwrap();
    sandbox
        .sql(&format!(
            "CREATE EXTERNAL TABLE l STORED AS PARQUET PARTITIONED BY (year, month, day) LOCATION '{}'",
            lake.display()
        ))
        .await;
    let message = sandbox.error("SELECT max(process_command) FROM l").await;
    assert!(message.contains("day=01/part-00000.parquet"), "{message}");
    assert_eq!(cell(&sandbox.sql("SELECT count(*) > 0 FROM l WHERE day = 2").await), "true");
    sandbox.assert_alive();
}

/// Goal: a cluster without executors says so, and how to start one.
#[tokio::test]
async fn no_executor_is_an_error() {
    let mut sandbox = Sandbox::start(0, 0).await;
    sandbox.sql(&crate::sample_table()).await;
    for sql in [create_model("m", ""), "SELECT count(*) FROM processes".to_string()] {
        let message = sandbox.error(&sql).await;
        assert!(
            message.contains("no executor has registered") && message.contains("covey-executor --scheduler"),
            "{message}"
        );
    }
    assert_eq!(cell(&sandbox.sql("SELECT 1 + 1").await), "2");
    sandbox.assert_alive();
}

/// Goal: the command tells file, line and statement, and its exit code says that it failed.
#[test]
fn the_command_fails_where_the_script_does() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("s.sql");
    fs::write(&script, "SELECT 1 AS one;\n\n-- the second\nSELECT\n  nothing;\nSELECT 3;\n").unwrap();
    let warehouse = folder.path().join("w");
    let output = covey(&["run", &script.to_string_lossy(), "--warehouse", &warehouse.to_string_lossy()]);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("s.sql:4: statement 2:") && err.contains("nothing"), "{err}");
    assert!(out.contains("| 1 ") && !out.contains("| 3 "), "{out}");
    assert_eq!(covey(&["run", "/no/such/file.sql"]).status.code(), Some(1));
    assert_eq!(covey(&["sql", "SELECT 1", "--scheduler", "http://127.0.0.1:1"]).status.code(), Some(1));
    assert_eq!(covey(&["sql", "--no-such-flag"]).status.code(), Some(2));
}

/// Goal: what would be answered wrongly is refused, with what to write instead.
#[tokio::test]
async fn wrong_answers_are_refused() {
    let sandbox = sandbox_with_sample(1, 1).await;
    for (statement, expected) in [
        ("SELECT count(*) FROM processes TABLESAMPLE (1 PERCENT)", "random() < 0.01"),
        ("SELECT k FROM (VALUES (1)) l(k) RIGHT JOIN (VALUES (4)) r(k) USING (k)", "coalesce(a.k, b.k)"),
        ("SELECT k FROM (VALUES (1)) l(k) NATURAL FULL JOIN (VALUES (4)) r(k)", "coalesce(a.k, b.k)"),
    ] {
        let message = sandbox.error(statement).await;
        assert!(message.contains(expected), "{statement}: {message}");
    }
}
