//! Statements that write: what is written is what was asked for, and is seen whole or not at all.

use std::fs;
use std::path::{Path, PathBuf};

use covey_tests::{Sandbox, cell, cells, wait_until};

use crate::files::{bigints, ints, texts, write_parquet};
use crate::{sample_table, sandbox_with_sample};

/// Every file below a folder, by its path from there.
fn files(folder: &Path) -> Vec<String> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut found = vec![];
    walk(folder, &mut found);
    let relative = |path: PathBuf| path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
    let mut found: Vec<String> = found.into_iter().map(relative).collect();
    found.sort_unstable();
    found
}

/// Rows in one relation and not in the other, both ways.
async fn assert_same_rows(sandbox: &Sandbox, a: &str, b: &str) {
    for (a, b) in [(a, b), (b, a)] {
        let count = format!("SELECT count(*) FROM ({a} EXCEPT ALL {b})");
        assert_eq!(cell(&sandbox.sql(&count).await), "0", "{count}");
    }
}

const COLUMNS: &str = "system_id, process_command, year, month, day";

/// Goal: CREATE TABLE AS, INSERT and COPY write every row once, into the directory that it belongs to, however many tasks
/// write, and other tables are made of what they wrote.
#[tokio::test]
async fn rows_go_where_they_belong() {
    let sandbox = sandbox_with_sample(2, 2).await;
    let week = format!("SELECT {COLUMNS} FROM processes WHERE month = 7 AND day <= 7");
    let n = cell(&sandbox.sql(&format!("SELECT count(*) FROM ({week})")).await);

    assert_eq!(cell(&sandbox.sql(&format!("CREATE TABLE plain AS {week}")).await), n);
    assert_same_rows(&sandbox, &format!("SELECT {COLUMNS} FROM plain"), &week).await;
    let tables = sandbox.path("warehouse/tables");
    assert!(files(&tables).len() >= 4, "the tasks of both executors write: {:?}", files(&tables));

    let by_day = format!("CREATE TABLE by_day PARTITIONED BY (year, month, day) AS {week}");
    assert_eq!(cell(&sandbox.sql(&by_day).await), n);
    assert_same_rows(&sandbox, &format!("SELECT {COLUMNS} FROM by_day"), &week).await;
    let days = files(&tables).iter().filter(|file| file.contains("/year=2019/month=07/day=0")).count();
    assert_eq!(days, 7, "one file for each day: {:?}", files(&tables));

    let more = "INSERT INTO by_day (day, month, year, process_command) \
                VALUES (8, 7, 2019, 'a'), (8, 7, 2019, NULL), (1, 12, 2020, 'b'), (1, NULL, 2020, 'c')";
    assert_eq!(cell(&sandbox.sql(more).await), "4");
    let made = sandbox.error("INSERT INTO by_day (day, date) VALUES (1, DATE '2019-07-01')").await;
    assert!(made.contains("\"date\" is made of the partition columns"), "{made}");
    let eighth = sandbox.sql("SELECT * FROM by_day WHERE day = 8 OR year = 2020 ORDER BY process_command").await;
    assert_eq!(
        cells(&eighth),
        [
            ["", "a", "2019", "7", "8", "2019-07-08"],
            ["", "b", "2020", "12", "1", "2020-12-01"],
            ["", "c", "2020", "", "1", ""],
            ["", "", "2019", "7", "8", "2019-07-08"]
        ]
    );

    // Another's lake keeps its way of naming directories.
    for (name, directory) in [("hive", "year=2019/month=7/day=30"), ("plain_days", "2019/07/30")] {
        let lake = sandbox.path(name);
        fs::create_dir_all(lake.join(directory)).unwrap();
        let copied = format!("COPY (SELECT system_id FROM processes LIMIT 1) TO '{}'", lake.join(directory).display());
        sandbox.sql(&format!("{copied} STORED AS PARQUET")).await;
        let table = sample_table().replace("TABLE processes", &format!("TABLE {name}"));
        let table = table.split("LOCATION").next().unwrap();
        sandbox.sql(&format!("{table} LOCATION '{}'", lake.display())).await;
        sandbox.sql(&format!("INSERT INTO {name} VALUES ('s', 2019, 8, 2)")).await;
        let expected = directory.replace("30", if name == "hive" { "2" } else { "02" });
        let expected = expected.replace("month=7", "month=8").replace("/07/", "/08/");
        assert!(files(&lake).iter().any(|file| file.starts_with(&format!("{expected}/part-"))), "{:?}", files(&lake));
    }
}

/// Goal: every format comes back as it was copied, NULLs and all that needs quoting, as one file, as a directory and as
/// directories of partitions.
#[tokio::test]
async fn copies_come_back() {
    let sandbox = Sandbox::start(1, 2).await;
    let rows = "SELECT * FROM (VALUES (1, 'a,\"b\"', 1.5, DATE '2019-08-01'), (2, NULL, -0.25, NULL), \
                (3, 'x/y=z %é', NULL, DATE '2019-12-31')) AS t(a, b, c, d)";
    let folder = sandbox.path("out");
    let (columns, mut n) = ("(a BIGINT, b VARCHAR, c DOUBLE, d DATE)", 0);
    let forms = [
        ("PARQUET", "parquet", ""),
        ("CSV", "csv", "OPTIONS (format.has_header true)"),
        ("CSV", "csv.gz", "OPTIONS (format.has_header true, format.compression gzip)"),
        ("CSV", "csv", "OPTIONS (format.delimiter ';', format.has_header false)"),
        ("JSON", "json", ""),
        ("JSON", "json.zst", "OPTIONS (format.compression zstd)"),
        ("ARROW", "arrow", ""),
    ];
    for (format, extension, options) in forms {
        for target in [format!("one.{extension}"), "directory/".to_string()] {
            n += 1;
            let location = folder.join(format!("{n}-{target}")).display().to_string();
            let location = if target.ends_with('/') { format!("{location}/") } else { location };
            sandbox.sql(&format!("COPY ({rows}) TO '{location}' STORED AS {format} {options}")).await;
            let table = format!("CREATE EXTERNAL TABLE t{n} {columns} STORED AS {format}");
            sandbox.sql(&format!("{table} LOCATION '{location}' {options}")).await;
            let typed = "SELECT CAST(a AS BIGINT) AS a, b, CAST(c AS DOUBLE) AS c, d FROM";
            assert_same_rows(&sandbox, &format!("SELECT * FROM t{n}"), &format!("{typed} ({rows})")).await;
            if target.ends_with('/') {
                sandbox.sql(&format!("INSERT INTO t{n} VALUES (4, 'new', 0.5, NULL)")).await;
                assert_eq!(cell(&sandbox.sql(&format!("SELECT max(a) FROM t{n}")).await), "4");
            }
        }
    }
    for column in ["b", "d"] {
        let location = folder.join(format!("by_{column}"));
        let copy = format!("COPY ({rows}) TO '{}' STORED AS PARQUET PARTITIONED BY ({column})", location.display());
        sandbox.sql(&copy).await;
        let table = format!("CREATE EXTERNAL TABLE by_{column} STORED AS PARQUET LOCATION '{}'", location.display());
        sandbox.sql(&table).await;
        let both = [format!("SELECT a, CAST({column} AS VARCHAR) FROM by_{column}"), {
            format!("SELECT a, CAST({column} AS VARCHAR) FROM ({rows})")
        }];
        assert_same_rows(&sandbox, &both[0], &both[1]).await;
    }
}

/// Goal: a reader sees all rows of a write or none, in the scheduler that writes and in another over the same warehouse.
/// Method: writes of six files each to one table while readers count; every count must be a multiple of the rows of a
/// write, and the last one all of them.
#[tokio::test]
async fn readers_see_a_write_whole() {
    const WRITES: usize = 12;
    let sandbox = sandbox_with_sample(1, 2).await;
    let folder = tempfile::tempdir().unwrap();
    let other = Sandbox::start_at(folder, &sandbox.path("warehouse").to_string_lossy(), &[], 1, 1).await;
    sandbox.sql("CREATE TABLE t (n BIGINT, day INT)").await;
    sandbox.sql("CREATE TABLE by_day PARTITIONED BY (day) AS SELECT 1 AS n, 0 AS day WHERE false").await;
    let known = "SELECT count(*) FROM information_schema.tables WHERE table_name = 'by_day'";
    wait_until("the other scheduler knows the table", async || cell(&other.sql(known).await) == "1").await;
    let (writer, reader, other_reader) = (sandbox.client().await, sandbox.client().await, other.client().await);
    let writing = tokio::spawn(async move {
        for _ in 0..WRITES {
            let insert = "INSERT INTO by_day SELECT value, value % 6 FROM generate_series(1, 600)";
            assert_eq!(cell(&writer.execute(insert).await.unwrap().batches), "600");
        }
    });
    let mut readings = tokio::task::JoinSet::new();
    for reader in [reader, other_reader] {
        readings.spawn(async move {
            let mut seen = vec![];
            while seen.last() != Some(&(600 * WRITES)) {
                let count = reader.execute("SELECT count(*), count(DISTINCT day) FROM by_day").await.unwrap();
                let count = cells(&count.batches)[0][0].parse::<usize>().unwrap();
                assert_eq!(count % 600, 0, "a part of a write was seen");
                assert!(seen.last().is_none_or(|last| *last <= count), "a write was seen and then not: {seen:?}");
                seen.push(count);
            }
        });
    }
    writing.await.unwrap();
    tokio::time::timeout(std::time::Duration::from_secs(60), readings.join_all()).await.unwrap();
    assert_eq!(files(&sandbox.path("warehouse/writes")), Vec::<String>::new());
}

/// Goal: tasks that are tried again, because their executor was killed, write no row twice and leave nothing.
#[tokio::test]
async fn a_killed_executor_writes_nothing_twice() {
    let mut sandbox = sandbox_with_sample(3, 1).await;
    let rows = "SELECT a.system_id, b.process_command, a.day FROM processes a JOIN processes b \
                ON a.month = b.month AND a.day = b.day AND a.system_id = b.system_id WHERE a.month = 7";
    let n = cell(&sandbox.sql(&format!("SELECT count(*) FROM ({rows})")).await);
    let lake = sandbox.path("lake");
    let client = sandbox.client().await;
    let copy = format!("COPY ({rows}) TO '{}/' STORED AS PARQUET PARTITIONED BY (day)", lake.display());
    let copying = tokio::spawn(async move { client.execute(&copy).await });
    wait_until("files are staged", async || !files(&lake.join("_staging")).is_empty()).await;
    sandbox.executors[1].kill();
    let copied = copying.await.unwrap().unwrap_or_else(|e| panic!("{e}\n{}", sandbox.log("scheduler.log")));
    assert_eq!(cell(&copied.batches), n);
    sandbox.sql(&format!("CREATE EXTERNAL TABLE lake STORED AS PARQUET LOCATION '{}/'", lake.display())).await;
    assert_eq!(cell(&sandbox.sql("SELECT count(*) FROM lake").await), n);
    assert!(files(&lake).iter().all(|file| file.starts_with("day=")), "{:?}", files(&lake));
}

/// Goal: a write that fails, or whose client goes, leaves no file and no table; what was there before stays.
#[tokio::test]
async fn a_failed_write_leaves_nothing() {
    let sandbox = sandbox_with_sample(2, 1).await;
    sandbox.sql("CREATE TABLE kept AS SELECT 1 AS a").await;
    let before = files(&sandbox.path("warehouse/tables"));
    let fails = "SELECT 100 / (day - 20) AS x, day FROM processes";
    let out = sandbox.path("out");
    for statement in [
        format!("CREATE TABLE failed AS {fails}"),
        format!("CREATE OR REPLACE TABLE kept PARTITIONED BY (day) AS {fails}"),
        format!("INSERT INTO kept SELECT x FROM ({fails})"),
        format!("COPY ({fails}) TO '{}/' STORED AS CSV PARTITIONED BY (day)", out.display()),
    ] {
        let message = sandbox.error(&statement).await;
        assert!(message.contains("Divide by zero"), "{statement}: {message}");
    }
    let client = sandbox.client().await;
    let endless = "COPY (SELECT a.process_command, a.day FROM processes a, processes b) TO";
    let endless = format!("{endless} '{}/' STORED AS CSV", out.display());
    let copying = tokio::spawn(async move { client.execute(&endless).await });
    wait_until("files are staged", async || !files(&out.join("_staging")).is_empty()).await;
    copying.abort();
    let running = "SELECT count(*) FROM covey_jobs() WHERE state = 'running'";
    wait_until("the statement ends", async || cell(&sandbox.sql(running).await) == "0").await;
    let tables = sandbox.path("warehouse/tables");
    wait_until("nothing is left", async || files(&out).is_empty() && files(&tables) == before).await;
    assert!(sandbox.error("SELECT * FROM failed").await.contains("failed"));
    assert_eq!(cells(&sandbox.sql("SELECT * FROM kept").await), [["1"]]);
}

/// Goal: tables that Covey made behave as tables, and mistakes are told.
#[tokio::test]
async fn written_tables_behave() {
    let sandbox = sandbox_with_sample(1, 2).await;
    sandbox.sql("CREATE TABLE t AS SELECT 1 AS a, 'x' AS b").await;
    assert_eq!(cell(&sandbox.sql("CREATE TABLE IF NOT EXISTS t AS SELECT 2 AS a").await), "0");
    assert_eq!(cells(&sandbox.sql("SELECT * FROM t").await), [["1", "x"]]);
    sandbox.sql("CREATE OR REPLACE TABLE t AS SELECT a + 1 AS a FROM t").await;
    assert_eq!(cells(&sandbox.sql("SELECT * FROM t").await), [["2"]]);
    sandbox.sql("CREATE TABLE typed (a INT NOT NULL, b VARCHAR, c TIMESTAMP, d DECIMAL(10, 2))").await;
    sandbox.sql("INSERT INTO typed VALUES (1, 'x', TIMESTAMP '2019-08-01 12:00:00', 1.25)").await;
    sandbox.sql("INSERT INTO typed (a) SELECT day FROM processes WHERE day = 3 LIMIT 1").await;
    let typed = cells(&sandbox.sql("SELECT * FROM typed ORDER BY a").await);
    assert_eq!(typed, [["1", "x", "2019-08-01T12:00:00", "1.25"], ["3", "", "", ""]]);
    // Whatever the value, and the name of its column, the row comes back.
    for (name, value) in [("_p", "x"), ("a:b", "x"), ("month", "8"), ("p", "_x"), ("p", ".y/z"), ("p", "lost+found")] {
        sandbox
            .sql(&format!(
                "CREATE OR REPLACE TABLE odd PARTITIONED BY (\"{name}\") AS SELECT 1 AS a, '{value}' AS \"{name}\""
            ))
            .await;
        let found = format!("SELECT \"{name}\" FROM odd WHERE \"{name}\" = '{value}'");
        assert_eq!(cells(&sandbox.sql(&found).await), [[value]], "{name}={value}");
    }
    sandbox
        .sql(
            "CREATE TABLE days PARTITIONED BY (year, month, day) AS SELECT 1 AS a, 2020 AS year, 2 AS month, 29 AS day",
        )
        .await;
    sandbox.sql("CREATE VIEW v AS SELECT * FROM t").await;
    let mistakes = [
        ("INSERT INTO days VALUES (1, 2019, 2, 29)", "year 2019, month 2 and day 29 is of no day"),
        ("CREATE TABLE t AS SELECT 1 AS a", "exists already"),
        ("CREATE TABLE v AS SELECT 1 AS a", "exists already"),
        ("CREATE OR REPLACE TABLE v AS SELECT 1 AS a", "is a view"),
        ("CREATE TABLE x.t AS SELECT 1 AS a", "no schema \"x\""),
        ("CREATE TABLE n AS SELECT NULL AS a", "CAST(NULL AS"),
        ("CREATE TABLE n AS SELECT 1 AS a, 2 AS a", "a"),
        ("CREATE TABLE n PARTITIONED BY (b) AS SELECT 1 AS a", "no column of the query"),
        ("CREATE TABLE n PARTITIONED BY (a) AS SELECT 1 AS a", "none is left"),
        ("CREATE TEMPORARY TABLE n AS SELECT 1 AS a", "Temporary tables"),
        ("CREATE TABLE n (a INT PRIMARY KEY)", "PRIMARY KEY"),
        ("CREATE TABLE n (a INT DEFAULT 1)", "DEFAULT"),
        ("INSERT INTO v VALUES (1)", "directory"),
        ("INSERT INTO nothing VALUES (1)", "nothing"),
        ("INSERT INTO t VALUES (1, 2)", "expected 1"),
        ("INSERT INTO t VALUES ('no number')", "no number"),
        ("INSERT OVERWRITE t VALUES (1)", "CREATE OR REPLACE TABLE"),
        ("UPDATE t SET a = 1", "not changed in place"),
        ("DELETE FROM t", "not changed in place"),
        ("COPY t TO 'http://127.0.0.1:1/x.csv'", "only read"),
        ("COPY t TO 'ftp://host/x.csv'", "ftp"),
        ("COPY t TO '/dev/null/x.csv'", "/dev/null"),
        ("COPY t TO 'x.csv' OPTIONS (format.nonsense 1)", "nonsense"),
        ("EXPLAIN INSERT INTO t VALUES (1)", "EXPLAIN the query"),
    ];
    for (statement, expected) in mistakes {
        let message = sandbox.error(statement).await;
        assert!(message.contains(expected), "{statement}: {message}");
    }
    assert_eq!(cells(&sandbox.sql("SELECT * FROM t").await), [["2"]]);
    assert_eq!(cells(&sandbox.sql("SELECT date FROM days").await), [["2020-02-29"]]);
}

/// Goal: OPTIMIZE makes few files of a day's many and changes no answer, not even of queries that run meanwhile; columns
/// that the table does not know stay in the files; only the days asked for are rewritten.
#[tokio::test]
async fn small_files_become_few() {
    const FILES: i32 = 300;
    let sandbox = Sandbox::start(2, 1).await;
    let lake = sandbox.path("lake");
    let late = |i: i32| if i % 2 == 0 { vec![("late", texts(&["x"]))] } else { vec![] };
    for day in 1..=3 {
        write_parquet(&lake.join(format!("day={day}/first.parquet")), vec![("id", bigints(&[0])), ("n", ints(&[day]))]);
    }
    let at = lake.display().to_string();
    let by_day = "STORED AS PARQUET PARTITIONED BY (day) LOCATION";
    sandbox.sql(&format!("CREATE EXTERNAL TABLE t {by_day} '{at}'")).await;
    for (day, i) in (1..=3).flat_map(|day| (1..FILES).map(move |i| (day, i))) {
        let mut columns = vec![("n", ints(&[i])), ("id", bigints(&[i64::from(i)]))];
        columns.extend(late(i));
        write_parquet(&lake.join(format!("day={day}/upload-{i}.parquet")), columns);
    }
    let all = "SELECT day, count(*), sum(id), sum(n), count(DISTINCT id) FROM t GROUP BY day ORDER BY day";
    let expected = cells(&sandbox.sql(all).await);
    assert_eq!(expected.iter().map(|row| row[1].as_str()).collect::<Vec<_>>(), ["300", "300", "300"]);

    let done = cells(&sandbox.sql("OPTIMIZE t WHERE day = 1").await);
    assert_eq!(done, [["1", "300", "1", "300"]]);
    assert_eq!(cells(&sandbox.sql(all).await), expected);
    let reader = sandbox.client().await;
    let (rows, query) = (expected.clone(), all.to_string());
    let reading = tokio::spawn(async move {
        for _ in 0..12 {
            assert_eq!(cells(&reader.execute(&query).await.unwrap().batches), rows, "while files are rewritten");
        }
    });
    let done = cells(&sandbox.sql("OPTIMIZE TABLE t").await);
    assert_eq!(done, [["2", "600", "2", "600"]]);
    reading.await.unwrap();
    assert_eq!(cells(&sandbox.sql(all).await), expected);
    assert_eq!(cells(&sandbox.sql("OPTIMIZE t").await), [["0", "0", "0", "0"]]);
    let plan = cells(&sandbox.sql("EXPLAIN SELECT * FROM t").await).concat().concat();
    assert_eq!(plan.matches(".parquet").count(), 3, "{plan}");
    sandbox.sql(&format!("CREATE OR REPLACE EXTERNAL TABLE t {by_day} '{at}'")).await;
    let kept = "SELECT count(late), count(*) FROM t WHERE day = 2";
    assert_eq!(cells(&sandbox.sql(kept).await), [["149", "300"]]);

    sandbox.sql("CREATE VIEW v AS SELECT * FROM t").await;
    sandbox.sql(&format!("COPY (SELECT 1 AS a) TO '{at}.csv/' STORED AS CSV")).await;
    sandbox.sql(&format!("CREATE EXTERNAL TABLE csv (a INT) STORED AS CSV LOCATION '{at}.csv/'")).await;
    for (statement, expected) in [
        ("OPTIMIZE v", "OPTIMIZE v"),
        ("OPTIMIZE csv", "STORED AS PARQUET"),
        ("OPTIMIZE missing", "missing"),
        ("OPTIMIZE t WHERE id = 1", "partition columns"),
        ("OPTIMIZE t WHERE nothing = 1", "nothing"),
        ("OPTIMIZE t SET x", "the end of the statement"),
    ] {
        let message = sandbox.error(statement).await;
        assert!(message.contains(expected), "{statement}: {message}");
    }
}

/// Goal: two that rewrite the files of one table do not get into each other's way, nor does one that adds to it.
#[tokio::test]
async fn one_rewrites_at_a_time() {
    let sandbox = Sandbox::start(2, 1).await;
    sandbox.sql("CREATE TABLE t PARTITIONED BY (day) AS SELECT 0 AS n, 1 AS day").await;
    for i in 1..20 {
        sandbox.sql(&format!("INSERT INTO t VALUES ({i}, 1), ({i}, 2)")).await;
    }
    let mut running = tokio::task::JoinSet::new();
    for statement in ["OPTIMIZE t", "OPTIMIZE t", "INSERT INTO t VALUES (100, 1)", "OPTIMIZE t WHERE day = 2"] {
        let client = sandbox.client().await;
        running.spawn(async move { client.execute(statement).await.map(|answer| cells(&answer.batches)) });
    }
    for ended in running.join_all().await {
        if let Err(message) = ended {
            assert!(message.contains("another statement rewrites files"), "{message}");
        }
    }
    let all = "SELECT count(*), sum(n), count(DISTINCT day) FROM t";
    assert_eq!(cells(&sandbox.sql(all).await), [["40", "480", "2"]]);
    sandbox.sql("OPTIMIZE t").await;
    assert_eq!(cells(&sandbox.sql(all).await), [["40", "480", "2"]]);
}
