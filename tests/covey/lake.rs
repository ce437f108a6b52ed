//! The lake: both directory layouts, pruning, and SQL against local DataFusion.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use covey_tests::{Sandbox, cell, cells, covey, project};
use datafusion::arrow::array::{ArrayRef, Float64Array, RecordBatch};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::prelude::{ParquetReadOptions, SessionContext};

use crate::sandbox_with_sample;

/// The directories of the sample, without their `name=`.
fn plain_copy(to: &Path) {
    let from = project().join("samples/processes");
    for day in walk(&from, 3) {
        let plain: Vec<String> = day
            .strip_prefix(&from)
            .unwrap()
            .iter()
            .map(|part| part.to_string_lossy().rsplit('=').next().unwrap().to_string())
            .collect();
        let target = to.join(plain.join("/"));
        fs::create_dir_all(&target).unwrap();
        fs::copy(day.join("part-00000.parquet"), target.join("part-00000.parquet")).unwrap();
    }
}

fn walk(folder: &Path, depth: usize) -> Vec<std::path::PathBuf> {
    if depth == 0 {
        return vec![folder.to_path_buf()];
    }
    fs::read_dir(folder).unwrap().flat_map(|entry| walk(&entry.unwrap().path(), depth - 1)).collect()
}

/// Goal: a query for ten days in August reads only those ten directories, in both layouts, however it asks for
/// them. Method: the files that the plan names.
#[tokio::test]
async fn only_the_days_asked_for_are_read() {
    let sandbox = sandbox_with_sample(1, 2).await;
    let plain = sandbox.path("plain");
    plain_copy(&plain);
    let table = "CREATE EXTERNAL TABLE plain STORED AS PARQUET PARTITIONED BY (year, month, day) LOCATION";
    sandbox.sql(&format!("{table} '{}'", plain.display())).await;
    let filters = [
        "year = 2019 AND month = 8 AND day BETWEEN 11 AND 20",
        "year * 10000 + month * 100 + day BETWEEN 20190811 AND 20190820",
        "month IN (8, 9) AND day > 10 AND day <= 20",
        "make_date(year, month, day) BETWEEN DATE '2019-08-11' AND DATE '2019-08-20'",
        "date >= '2019-08-11' AND date < DATE '2019-08-20' + INTERVAL '1 day'",
    ];
    for table in ["processes", "plain"] {
        for filter in filters {
            let plan = cells(&sandbox.sql(&format!("EXPLAIN SELECT system_id FROM {table} WHERE {filter}")).await);
            let plan = &plan.iter().find(|row| row[0] == "physical_plan").unwrap()[1];
            let mut days: Vec<&str> = plan
                .split(['[', ']', ',', ' '])
                .filter_map(|file| file.trim_end_matches(|c: char| c != 't').strip_suffix("/part-00000.parquet"))
                .filter_map(|directory| directory.rsplit('/').next()?.rsplit('=').next())
                .collect();
            days.sort_unstable();
            days.dedup();
            assert_eq!(days, ["11", "12", "13", "14", "15", "16", "17", "18", "19", "20"], "{table}: {filter}\n{plan}");
            assert!(!plan.contains("month=07") && !plan.contains("/07/"), "{plan}");
        }
        let types = format!("SELECT arrow_typeof(year), arrow_typeof(day) FROM {table} LIMIT 1");
        assert_eq!(cells(&sandbox.sql(&types).await), [["Int32", "Int32"]]);
        let beyond = format!("SELECT count(*) FROM {table} WHERE month = 11");
        assert_eq!(cell(&sandbox.sql(&beyond).await), "0");
    }
    let same = "SELECT (SELECT count(*) FROM processes) = (SELECT count(*) FROM plain)";
    assert_eq!(cell(&sandbox.sql(same).await), "true");
}

/// Goal: what is no data in a lake harms no query, what could be is named, and a table may wait for its first upload.
#[tokio::test]
async fn strangers_and_empty_lakes() {
    let sandbox = sandbox_with_sample(1, 2).await;
    let lake = sandbox.path("lake");
    plain_copy(&lake);
    for stranger in ["lost+found", "_temporary/0", ".staging"] {
        fs::create_dir_all(lake.join(stranger)).unwrap();
    }
    let partitioned = "STORED AS PARQUET PARTITIONED BY (year, month, day) LOCATION";
    sandbox.sql(&format!("CREATE EXTERNAL TABLE strange {partitioned} '{}'", lake.display())).await;
    let same = "SELECT (SELECT count(*) FROM processes) = (SELECT count(*) FROM strange WHERE year = 2019)";
    assert_eq!(cell(&sandbox.sql(same).await), "true");
    fs::create_dir_all(lake.join("2019/old/01")).unwrap();
    fs::copy(lake.join("2019/07/01/part-00000.parquet"), lake.join("2019/old/01/part-00000.parquet")).unwrap();
    let message = sandbox.error("SELECT count(*) FROM strange").await;
    assert!(message.contains("2019/old") && message.contains("partition column month"), "{message}");
    assert_eq!(cell(&sandbox.sql("SELECT count(*) FROM strange WHERE year = 2020").await), "0");

    let empty = sandbox.path("empty");
    let undeclared = sandbox.error(&format!("CREATE EXTERNAL TABLE e {partitioned} '{}'", empty.display())).await;
    assert!(undeclared.contains("declare the columns"), "{undeclared}");
    let columns = "(system_id VARCHAR, process_command VARCHAR, year INT, month INT, day INT)";
    sandbox.sql(&format!("CREATE EXTERNAL TABLE e {columns} {partitioned} '{}'", empty.display())).await;
    assert_eq!(cell(&sandbox.sql("SELECT count(*) FROM e WHERE month = 7").await), "0");
    // An upload of a new year is under way: the newest directory with files tells what the columns are.
    for under_way in ["2020/01/01/_temporary", "2019/09/02", "2021"] {
        fs::create_dir_all(lake.join(under_way)).unwrap();
    }
    fs::remove_dir_all(lake.join("2019/old")).unwrap();
    sandbox.sql(&format!("CREATE EXTERNAL TABLE early {partitioned} '{}'", lake.display())).await;
    assert_eq!(cell(&sandbox.sql("SELECT count(*) = (SELECT count(*) FROM processes) FROM early").await), "true");

    // Dates that stand for "never" and "always" are found as others are.
    for far in ["9999/12/31", "0001/01/01"] {
        fs::create_dir_all(lake.join(far)).unwrap();
        fs::copy(lake.join("2019/07/01/part-00000.parquet"), lake.join(far).join("part-00000.parquet")).unwrap();
    }
    let on_day = "SELECT count(*) FROM early WHERE date";
    let n = cell(&sandbox.sql(&format!("{on_day} = '2019-07-01'")).await);
    for far in ["date = '9999-12-31'", "year IN (2018, 9999)", "year < 10", "date < '1850-01-01'", "year > 2100"] {
        assert_eq!(cell(&sandbox.sql(&format!("SELECT count(*) FROM early WHERE {far}")).await), n, "{far}");
    }

    fs::rename(lake.join("2019/07"), sandbox.path("july")).unwrap();
    fs::create_dir_all(empty.join("2019")).unwrap();
    fs::rename(sandbox.path("july"), empty.join("2019/07")).unwrap();
    let filled = "SELECT count(*) = (SELECT count(*) FROM processes WHERE month = 7) FROM e";
    assert_eq!(cell(&sandbox.sql(filled).await), "true");
}

/// Goal: values arrive as they are: encoded names of directories, and NaN among equal numbers, which the statistics of
/// a file leave out.
#[tokio::test]
async fn odd_values_arrive() {
    let sandbox = sandbox_with_sample(1, 2).await;
    let day = project().join("samples/processes/year=2019/month=07/day=01/part-00000.parquet");
    let directory = sandbox.path("apps/app=a&b%20c");
    fs::create_dir_all(&directory).unwrap();
    fs::copy(day, directory.join("part.parquet")).unwrap();
    let at = sandbox.path("apps");
    let table =
        format!("CREATE EXTERNAL TABLE apps STORED AS PARQUET PARTITIONED BY (app) LOCATION '{}'", at.display());
    sandbox.sql(&table).await;
    assert_eq!(cell(&sandbox.sql("SELECT count(*) > 0 FROM apps WHERE app = 'a&b c'").await), "true");

    let folder = sandbox.path("numbers/");
    fs::create_dir_all(&folder).unwrap();
    for (name, numbers) in [("a", vec![7.5; 9]), ("b", vec![8.5; 9]), ("c", vec![2.5, 2.5, f64::NAN])] {
        let batch = RecordBatch::try_from_iter([("x", Arc::new(Float64Array::from(numbers)) as ArrayRef)]).unwrap();
        let file = fs::File::create(folder.join(format!("{name}.parquet"))).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }
    sandbox.sql(&format!("CREATE EXTERNAL TABLE numbers STORED AS PARQUET LOCATION '{}'", folder.display())).await;
    assert_eq!(cell(&sandbox.sql("SELECT count(*) FROM numbers WHERE isnan(x)").await), "1");
    for (filter, n) in [
        ("x > 100", "1"),
        ("x >= 8.5 AND x <= 100", "9"),
        ("100 < x OR x = 2.5", "3"),
        ("NOT x < 8", "10"),
        ("x = 'NaN'::double", "1"),
        ("x BETWEEN 100 AND 'NaN'::double", "1"),
        ("x < 7", "2"),
    ] {
        assert_eq!(cell(&sandbox.sql(&format!("SELECT count(*) FROM numbers WHERE {filter}")).await), n, "{filter}");
    }
    let largest = cells(&sandbox.sql("SELECT x FROM numbers ORDER BY x DESC LIMIT 2").await);
    assert_eq!(largest, [["NaN"], ["8.5"]]);
}

/// Goal: SQL on the cluster gives what local DataFusion gives, row for row.
#[tokio::test]
async fn queries_equal_local_datafusion() {
    let sandbox = sandbox_with_sample(3, 1).await;
    let local = SessionContext::new();
    let lake = project().join("samples/processes").to_string_lossy().into_owned();
    let options = ParquetReadOptions::default().table_partition_cols(vec![
        ("year".into(), datafusion::arrow::datatypes::DataType::Int32),
        ("month".into(), datafusion::arrow::datatypes::DataType::Int32),
        ("day".into(), datafusion::arrow::datatypes::DataType::Int32),
    ]);
    local.register_parquet("processes", lake, options).await.unwrap();
    let queries = [
        "SELECT count(*), count(DISTINCT system_id), min(process_command), max(process_command) FROM processes",
        "SELECT month, day, count(*) FROM processes GROUP BY month, day ORDER BY month, day",
        "SELECT process_command, count(*) AS n FROM processes WHERE process_command LIKE '%nginx%' GROUP BY 1 ORDER BY n DESC, 1 LIMIT 20",
        "SELECT a.system_id, count(*) FROM processes a JOIN (SELECT DISTINCT system_id FROM processes WHERE day = 1) b \
         ON a.system_id = b.system_id WHERE a.month = 8 AND a.day < 4 GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 10",
        "SELECT day, row_number() OVER (ORDER BY n DESC, day) FROM \
         (SELECT day, count(*) AS n FROM processes WHERE month = 8 GROUP BY day) ORDER BY 2",
        "SELECT month, count(*) FROM processes WHERE regexp_like(process_command, '^.usr.*java') GROUP BY ROLLUP(month) ORDER BY 1",
        "SELECT system_id FROM processes WHERE month = 7 UNION SELECT system_id FROM processes WHERE month = 8 ORDER BY 1",
    ];
    for query in queries {
        let expected = local.sql(query).await.unwrap().collect().await.unwrap();
        let (ours, theirs) = (cells(&sandbox.sql(query).await), cells(&expected));
        assert_eq!(ours, theirs, "{query}");
        assert!(!ours.is_empty(), "{query}");
    }
}

/// Goal: joins of every kind give the same, by hashing and by sorting, into however many partitions. Method: sums over
/// joins of tables and of values, held against numbers that are known.
#[tokio::test]
async fn joins_give_the_same_however_done() {
    let sandbox = Sandbox::start(2, 1).await;
    sandbox.sql("CREATE TABLE big AS SELECT value AS a FROM generate_series(1, 1000)").await;
    sandbox.sql("CREATE TABLE few AS SELECT value AS a FROM generate_series(1, 10)").await;
    let at = sandbox.path("csv");
    sandbox.sql(&format!("COPY (SELECT a FROM few WHERE a > 3) TO '{}/' STORED AS CSV", at.display())).await;
    sandbox.sql(&format!("CREATE EXTERNAL TABLE csv (a BIGINT) STORED AS CSV LOCATION '{}/'", at.display())).await;
    let groups = "(SELECT a FROM big GROUP BY a)";
    let queries = [
        (format!("SELECT count(*) FROM {groups} x WHERE a IN (SELECT a FROM few)"), "10"),
        (format!("SELECT count(*) FROM {groups} x WHERE a NOT IN (SELECT a FROM few)"), "990"),
        (format!("SELECT count(*) FROM {groups} x WHERE NOT EXISTS (SELECT 1 FROM few WHERE few.a = x.a)"), "990"),
        (format!("SELECT sum(x.a) FROM {groups} x JOIN (VALUES (1), (2), (3)) AS v(c) ON x.a = v.c"), "6"),
        ("SELECT count(*) FROM (SELECT a FROM few EXCEPT ALL SELECT a FROM csv)".into(), "3"),
        ("SELECT count(*) FROM (SELECT a FROM csv EXCEPT ALL SELECT a FROM few)".into(), "0"),
        ("SELECT count(*) FROM (VALUES (1), (4)) AS v(c) WHERE c NOT IN (SELECT a FROM csv)".into(), "1"),
        ("SELECT count(*) FROM (SELECT a FROM big INTERSECT SELECT a FROM csv)".into(), "7"),
        ("SELECT count(few.a) FROM big LEFT JOIN few ON few.a = big.a".into(), "10"),
        ("SELECT count(*) FROM few FULL JOIN csv ON few.a = csv.a + 5".into(), "15"),
        ("SELECT count(*) FROM big CROSS JOIN csv".into(), "7000"),
    ];
    let client = sandbox.client().await;
    for setting in ["1 = 1", "prefer_hash_join = false", "execution.target_partitions = 3", "prefer_hash_join = true"] {
        let name = if setting.starts_with("prefer") { format!("optimizer.{setting}") } else { setting.to_string() };
        if setting != "1 = 1" {
            client.execute(&format!("SET datafusion.{name}")).await.unwrap();
        }
        for (query, expected) in &queries {
            let answer = client.execute(query).await.unwrap_or_else(|e| panic!("{query}: {e}"));
            assert_eq!(cells(&answer.batches), [[*expected]], "{query} with {name}");
        }
    }
}

/// Goal: real processes of this host become a lake that can be queried. Method: two uploads of one day.
#[test]
fn collected_processes_are_a_lake() {
    let folder = tempfile::tempdir().unwrap();
    let lake = folder.path().join("lake").to_string_lossy().into_owned();
    for _ in 0..2 {
        let output = covey(&["collect", "--to", &lake]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("processes to file://"));
    }
    let warehouse = folder.path().join("w").to_string_lossy().into_owned();
    let sql = format!(
        "CREATE EXTERNAL TABLE p STORED AS PARQUET PARTITIONED BY (year, month, day) LOCATION '{lake}'; \
         SELECT count(DISTINCT attachment_id) AS uploads, count(DISTINCT system_id) AS systems, \
                count(*) FILTER (WHERE process_command LIKE '%covey collect%') AS me FROM p WHERE year >= 2024"
    );
    let output = covey(&["sql", &sql, "--format", "csv", "--warehouse", &warehouse]);
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && out.trim() == "uploads,systems,me\n2,1,2",
        "{out}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Goal: EXPLAIN shows the plan that runs, and EXPLAIN ANALYZE what all tasks of it have measured.
#[tokio::test]
async fn queries_are_explained() {
    let sandbox = sandbox_with_sample(2, 2).await;
    let query = "SELECT system_id, count(*) FROM processes WHERE month = 8 GROUP BY system_id";
    let plan = cells(&sandbox.sql(&format!("EXPLAIN {query}")).await).concat().concat();
    assert!(plan.contains("Hash([system_id@0], 4)") && plan.contains("{4 groups:"), "as many tasks as cores: {plan}");
    let n = cell(&sandbox.sql("SELECT count(*) FROM processes WHERE month = 8").await);
    let systems = cell(&sandbox.sql("SELECT count(DISTINCT system_id) FROM processes WHERE month = 8").await);
    let stages = cells(&sandbox.sql(&format!("EXPLAIN ANALYZE {query}")).await);
    assert_eq!(stages.len(), 2, "{stages:?}");
    assert!(stages[0][0].starts_with("stage 1 of 2, tasks: ") && !stages[0][0].ends_with(": 1"), "{stages:?}");
    let measured = |stage: &str, operator: &str| {
        let line = stage.lines().find(|line| line.trim_start().starts_with(operator)).unwrap();
        line.split_once("metrics=[output_rows=").unwrap().1.split(&[',', ']']).next().unwrap().to_string()
    };
    assert_eq!(measured(&stages[0][1], "DataSourceExec"), format!("{:.1} K", n.parse::<f64>().unwrap() / 1000.0));
    assert_eq!(measured(&stages[1][1], "AggregateExec"), systems);
    // Joins are done as they were planned.
    let join = "SELECT count(*) FROM processes a JOIN processes b ON a.attachment_id = b.attachment_id AND a.day = b.day \
                JOIN (SELECT system_id, max(day) AS day FROM processes GROUP BY system_id) AS s \
                ON a.system_id = s.system_id AND a.day = s.day";
    let modes = async |explain: &str| {
        let plan = cells(&sandbox.sql(&format!("{explain} {join}")).await).concat().concat();
        ["mode=Partitioned, join", "mode=CollectLeft, join", "SortMergeJoinExec"].map(|mode| plan.matches(mode).count())
    };
    let planned = modes("EXPLAIN").await;
    assert_eq!(planned.iter().sum::<usize>(), 2);
    assert_eq!(modes("EXPLAIN ANALYZE").await, planned);
    assert_eq!(cell(&sandbox.sql("SELECT count(*) FROM generate_series(1, 10)").await), "10");
    assert_eq!(cell(&sandbox.sql("SELECT sum(value) FROM range(1, 10) WHERE value > 7").await), "17");
}
