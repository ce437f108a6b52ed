//! What files of a table may be: of several formats, named by patterns, with columns that come and go, and damaged.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow_avro::writer::AvroWriter;
use covey_tests::{Sandbox, cell, cells, project};
use datafusion::arrow::array::{ArrayRef, Float32Array, Int32Array, Int64Array, RecordBatch, StringArray};
use datafusion::parquet::arrow::ArrowWriter;

use crate::sandbox_with_sample;

/// Writes a Parquet file, and the directories that it lies in.
pub fn write_parquet(file: &Path, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let mut writer = ArrowWriter::try_new(fs::File::create(file).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

pub fn ints(values: &[i32]) -> ArrayRef {
    Arc::new(Int32Array::from(values.to_vec()))
}

pub fn bigints(values: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(values.to_vec()))
}

pub fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn table(name: &str, at: &Path, options: &str) -> String {
    let at = at.display();
    format!("CREATE EXTERNAL TABLE {name} STORED AS PARQUET PARTITIONED BY (day) LOCATION '{at}' {options}")
}

/// Goal: columns that come, go and get wider from day to day are read as with Spark's mergeSchema, also those that come
/// after the table was created, and what has no common type is an error that says what to do.
#[tokio::test]
async fn columns_come_and_go() {
    let sandbox = Sandbox::start(2, 1).await;
    let lake = sandbox.path("lake");
    let floats = Arc::new(Float32Array::from(vec![0.5, 1.5])) as ArrayRef;
    let first = vec![("id", ints(&[1, 2])), ("gone", texts(&["x", "y"])), ("load", floats)];
    write_parquet(&lake.join("day=1/a.parquet"), first);
    write_parquet(&lake.join("day=2/a.parquet"), vec![("added", texts(&["z"])), ("id", bigints(&[1 << 40]))]);
    sandbox.sql(&table("merged", &lake, "OPTIONS ('merge_schema' 'true')")).await;
    sandbox.sql(&table("newest", &lake, "")).await;

    let all = "SELECT id, arrow_typeof(id), added, gone, load, day FROM merged ORDER BY id";
    let rows = [
        ["1", "Int64", "", "x", "0.5", "1"],
        ["2", "Int64", "", "y", "1.5", "1"],
        ["1099511627776", "Int64", "z", "", "", "2"],
    ];
    assert_eq!(cells(&sandbox.sql(all).await), rows);
    let newest = cells(&sandbox.sql("SELECT * FROM newest ORDER BY id").await);
    assert_eq!(newest, [["", "1", "1"], ["", "2", "1"], ["z", "1099511627776", "2"]]);
    assert_eq!(cells(&sandbox.sql("SELECT id FROM merged WHERE gone IS NULL AND id > 5").await), [["1099511627776"]]);
    assert_eq!(cell(&sandbox.sql("SELECT sum(load) FROM merged WHERE added IS NULL").await), "2.0");

    // A day that comes later has a narrower column, lacks others, and brings one that the table does not know.
    write_parquet(&lake.join("day=3/a.parquet"), vec![("new", ints(&[7])), ("id", ints(&[3]))]);
    assert_eq!(cells(&sandbox.sql("SELECT id, added FROM merged WHERE day = 3").await), [["3", ""]]);
    assert_eq!(cell(&sandbox.sql("SELECT count(*) FROM merged").await), "4");

    write_parquet(&lake.join("day=4/a.parquet"), vec![("id", texts(&["four"]))]);
    let message = sandbox.error(&table("mixed", &lake, "OPTIONS ('merge_schema' 'true')")).await;
    for part in ["table mixed", "\"id\" is", "day=4/a.parquet", "declare it in CREATE EXTERNAL TABLE"] {
        assert!(message.contains(part), "{message}");
    }
    let message = sandbox.error("SELECT sum(id) FROM merged").await;
    assert!(message.contains("day=4/a.parquet") || message.contains("four"), "{message}");
    let declared = table("declared", &lake, "").replace("declared STORED", "declared (id VARCHAR, day INT) STORED");
    sandbox.sql(&declared).await;
    let ids = cells(&sandbox.sql("SELECT id FROM declared ORDER BY id").await).concat();
    assert_eq!(ids, ["1", "1099511627776", "2", "3", "four"]);
    let message = sandbox.error(&table("wrong", &lake, "OPTIONS ('merge_schema' 'yes')")).await;
    assert!(message.contains("'true' or 'false'"), "{message}");
}

/// Goal: a file that is no whole file of its format is named; where the table says so it is left out and counted, and
/// everything else is read.
#[tokio::test]
async fn bad_files_are_named_or_skipped() {
    let sandbox = Sandbox::start(2, 1).await;
    let lake = sandbox.path("lake");
    for day in 1..=6 {
        write_parquet(&lake.join(format!("day={day}/a.parquet")), vec![("id", ints(&[day, day + 10]))]);
    }
    sandbox.sql(&table("strict", &lake, "")).await;
    sandbox.sql(&table("lenient", &lake, "OPTIONS ('skip_bad_files' 'true')")).await;
    let half = lake.join("day=2/half.parquet");
    let whole = fs::read(lake.join("day=2/a.parquet")).unwrap();
    fs::write(&half, &whole[..whole.len() / 2]).unwrap();
    let sum = async |table: &str| cells(&sandbox.sql(&format!("SELECT count(*), sum(id) FROM {table}")).await);
    let message = sandbox.error("SELECT count(*), sum(id) FROM strict").await;
    assert!(message.contains("day=2/half.parquet"), "{message}");
    assert_eq!(cells(&sandbox.sql("SELECT sum(id) FROM strict WHERE day <> 2").await), [["88"]]);
    fs::write(lake.join("day=5/empty.parquet"), "").unwrap();
    fs::write(lake.join("day=5/text.parquet"), "this is no Parquet file but a text\n".repeat(9)).unwrap();
    assert_eq!(sum("lenient").await, [["12", "102"]]);
    assert_eq!(cells(&sandbox.sql("SELECT id FROM lenient WHERE day = 5 ORDER BY id LIMIT 1").await), [["5"]]);
    // What a query does with a value is no matter of the file.
    let divided = sandbox.error("SELECT sum(10 / (id - 3)) FROM lenient").await;
    assert!(divided.contains("ivide by zero"), "{divided}");
    let counted = "SELECT files_skipped FROM covey_jobs() WHERE statement LIKE 'SELECT count%FROM lenient'";
    // The empty one is no file of data at all.
    assert_eq!(cells(&sandbox.sql(counted).await), [["2"]]);
    let log = format!("{}{}", sandbox.log("executor-0.log"), sandbox.log("executor-1.log"));
    assert!(log.contains("a file that cannot be read is left out") && log.contains("day=2/half.parquet"), "{log}");
    // A table can be made while the newest file is damaged.
    fs::create_dir_all(lake.join("day=7")).unwrap();
    fs::write(lake.join("day=7/half.parquet"), &whole[..whole.len() / 2]).unwrap();
    let message = sandbox.error(&table("late", &lake, "")).await;
    assert!(message.contains("day=7/half.parquet"), "{message}");
    sandbox.sql(&table("late", &lake, "OPTIONS ('skip_bad_files' 'true', 'merge_schema' 'true')")).await;
    assert_eq!(sum("late").await, [["12", "102"]]);

    let texts = sandbox.path("texts/");
    fs::create_dir_all(&texts).unwrap();
    fs::write(texts.join("good.json"), "{\"a\": 1}\n{\"a\": 2}\n").unwrap();
    fs::write(texts.join("half.json"), "{\"a\": 4}\n{\"a\": 8").unwrap();
    for (name, options) in [("strict_json", ""), ("lenient_json", "OPTIONS ('skip_bad_files' 'true')")] {
        let at = texts.display();
        sandbox.sql(&format!("CREATE EXTERNAL TABLE {name} (a INT) STORED AS JSON LOCATION '{at}' {options}")).await;
    }
    let message = sandbox.error("SELECT sum(a) FROM strict_json").await;
    assert!(message.contains("half.json"), "{message}");
    let good = cell(&sandbox.sql("SELECT sum(a) FROM lenient_json WHERE a < 4").await);
    assert_eq!(good, "3");
}

/// Goal: Avro, and texts that are compressed as their names say, are tables, as files and as directories by day.
#[tokio::test]
async fn formats_are_read() {
    let sandbox = Sandbox::start(2, 1).await;
    let folder = sandbox.path("");
    let batch = RecordBatch::try_from_iter([("id", bigints(&[1, 2, 3])), ("name", texts(&["a", "b", "ü"]))]).unwrap();
    for day in 1..=4 {
        let directory = folder.join(format!("avro/day={day}"));
        fs::create_dir_all(&directory).unwrap();
        let file = fs::File::create(directory.join("a.avro")).unwrap();
        let mut writer = AvroWriter::new(file, batch.schema().as_ref().clone()).unwrap();
        writer.write(&batch).unwrap();
        writer.finish().unwrap();
    }
    let avro = table("avro", &folder.join("avro"), "").replace("PARQUET", "AVRO");
    sandbox.sql(&avro).await;
    let found = cells(&sandbox.sql("SELECT count(*), sum(id), max(name), max(day) FROM avro WHERE day > 1").await);
    assert_eq!(found, [["9", "18", "ü", "4"]]);

    let rows = "SELECT * FROM (VALUES (1, 'a,b'), (2, 'c\nd'), (3, NULL)) AS t(id, name)";
    for (format, extension, compression) in [
        ("CSV", "csv.gz", "gzip"),
        ("JSON", "json.gz", "gzip"),
        ("JSON", "json.zst", "zstd"),
        ("CSV", "csv.zst", "zstd"),
    ] {
        let name = extension.replace('.', "_");
        let file = folder.join(format!("one.{extension}")).display().to_string();
        let options = format!("OPTIONS (format.compression {compression})");
        sandbox.sql(&format!("COPY ({rows}) TO '{file}' STORED AS {format} {options}")).await;
        let magic = fs::read(&file).unwrap();
        assert!(magic.starts_with(&[0x1f, 0x8b]) || magic.starts_with(&[0x28, 0xb5]), "{file} is compressed");
        // Neither says how it is compressed.
        sandbox.sql(&format!("CREATE EXTERNAL TABLE {name} STORED AS {format} LOCATION '{file}'")).await;
        let both = format!("SELECT count(*) FROM (SELECT CAST(id AS BIGINT), name FROM {name} INTERSECT {rows})");
        assert_eq!(cell(&sandbox.sql(&both).await), "3", "{extension}");
    }
    let message = sandbox.error("CREATE EXTERNAL TABLE x STORED AS ORC LOCATION '/tmp/x/'").await;
    assert!(message.contains("ORC is none of PARQUET, CSV, JSON, ARROW, AVRO"), "{message}");
}

/// Goal: locations are patterns as PySpark's users write them, with and without partition columns, new files included.
#[tokio::test]
async fn patterns_name_files() {
    let sandbox = sandbox_with_sample(2, 1).await;
    let sample = project().join("samples/processes").display().to_string();
    let patterns = [
        ("year=2019/month={07,08}/*/*.parquet", "true"),
        ("year=2019/month=08/day=1?/", "month = 8 AND day BETWEEN 10 AND 19"),
        ("year=*/month=07/day=0[1-3]/part-*.parquet", "month = 7 AND day <= 3"),
        ("year=2019/month=0{7/day=30,8/day=0{1,2}}", "(month = 7 AND day = 30) OR (month = 8 AND day <= 2)"),
    ];
    for (i, (pattern, filter)) in patterns.into_iter().enumerate() {
        for (name, partitioned) in [("bare", ""), ("typed", "PARTITIONED BY (year, month, day)")] {
            let at = format!("LOCATION '{sample}/{pattern}'");
            sandbox.sql(&format!("CREATE EXTERNAL TABLE {name}_{i} STORED AS PARQUET {partitioned} {at}")).await;
            let columns = if partitioned.is_empty() { "" } else { ", min(date), max(date), count(DISTINCT date)" };
            let query = |from: &str| format!("SELECT count(*), count(DISTINCT process_command){columns} FROM {from}");
            let expected = cells(&sandbox.sql(&query(&format!("processes WHERE {filter}"))).await);
            assert_eq!(cells(&sandbox.sql(&query(&format!("{name}_{i}"))).await), expected, "{pattern} {partitioned}");
        }
    }
    let pruned =
        "SELECT count(*) = (SELECT count(*) FROM processes WHERE date = '2019-08-12') FROM typed_1 WHERE day = 12";
    assert_eq!(cell(&sandbox.sql(pruned).await), "true");

    let lake = sandbox.path("lake");
    write_parquet(&lake.join("2019/07/01/a.parquet"), vec![("id", ints(&[1]))]);
    write_parquet(&lake.join("2019/08/01/a.parquet"), vec![("id", ints(&[2]))]);
    write_parquet(&lake.join("2019/09/01/a.parquet"), vec![("id", ints(&[4]))]);
    let at = format!("'{}/2019/{{07,08}}/*/*.parquet'", lake.display());
    sandbox.sql(&format!("CREATE EXTERNAL TABLE months STORED AS PARQUET LOCATION {at}")).await;
    assert_eq!(cell(&sandbox.sql("SELECT sum(id) FROM months").await), "3");
    write_parquet(&lake.join("2019/08/02/b.parquet"), vec![("id", ints(&[8]))]);
    write_parquet(&lake.join("2019/08/02/_c.parquet"), vec![("id", ints(&[16]))]);
    assert_eq!(cell(&sandbox.sql("SELECT sum(id) FROM months").await), "11");

    for (at, expected) in [
        (format!("{}/2020/*/*.parquet", lake.display()), "no file is named"),
        (format!("{}/2019/{{07/*.parquet", lake.display()), "a brace is not closed"),
    ] {
        let message = sandbox.error(&format!("CREATE EXTERNAL TABLE x STORED AS PARQUET LOCATION '{at}'")).await;
        assert!(message.contains(expected), "{message}");
    }
    let message = sandbox.error("INSERT INTO months VALUES (1)").await;
    assert!(message.contains("directory"), "{message}");
}

/// Goal: a Delta table is what its log says, as another program writes it: partitions, columns added, files taken out.
/// Method: Python's deltalake writes, and says what is there.
#[tokio::test]
async fn delta_tables_are_read() {
    let sandbox = Sandbox::start(2, 1).await;
    let lake = sandbox.path("delta");
    let write = |script: &str| {
        let python = std::env::var("COVEY_TEST_PYTHON").expect("tests/run names a Python with the requirements");
        let head = format!(
            "import pyarrow as pa, deltalake\nlake = {:?}\n\
             rows = lambda **columns: pa.table(columns)\n",
            lake.display().to_string()
        );
        let output = std::process::Command::new(python).args(["-c", &format!("{head}{script}")]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    write(
        "for m in (7, 8):\n    for d in (1, 2, 3):\n        t = rows(year=pa.array([2019] * 10, pa.int32()), month=pa.array([m] * 10, pa.int32()), \
         day=pa.array([d] * 10, pa.int32()), id=list(range(10)), name=['a b/c'] * 10)\n        \
         deltalake.write_deltalake(lake, t, mode='append', partition_by=['year', 'month', 'day'])\n",
    );
    let at = lake.display();
    sandbox
        .sql(&format!("CREATE EXTERNAL TABLE d STORED AS DELTA LOCATION '{at}' OPTIONS ('listing_seconds' '0')"))
        .await;
    let counted = "SELECT count(*), sum(id), min(date), max(date), count(DISTINCT name) FROM d";
    assert_eq!(cells(&sandbox.sql(counted).await), [["60", "270", "2019-07-01", "2019-08-03", "1"]]);
    let plan = "EXPLAIN SELECT id FROM d WHERE date BETWEEN '2019-07-03' AND '2019-08-01'";
    let plan = cells(&sandbox.sql(plan).await).concat().concat();
    assert_eq!(plan.matches(".parquet").count(), 2, "{plan}");

    let odd = sandbox.path("odd").display().to_string();
    write(&format!("deltalake.write_deltalake({odd:?}, rows(a=[1, 2], p=['a b/c:d%', 'é']), partition_by=['p'])"));
    sandbox.sql(&format!("CREATE EXTERNAL TABLE odd STORED AS DELTA LOCATION '{odd}'")).await;
    assert_eq!(cells(&sandbox.sql("SELECT p, a FROM odd ORDER BY a").await), [["a b/c:d%", "1"], ["é", "2"]]);
    write("deltalake.DeltaTable(lake).delete('day = 2 AND month = 7')");
    write("deltalake.DeltaTable(lake).optimize.compact()");
    write(
        "t = rows(year=pa.array([2019], pa.int32()), month=pa.array([9], pa.int32()), day=pa.array([1], pa.int32()), id=[100], \
         name=[None], extra=[1.5])\ndeltalake.write_deltalake(lake, t, mode='append', schema_mode='merge')",
    );
    assert_eq!(cells(&sandbox.sql(counted).await), [["51", "325", "2019-07-01", "2019-09-01", "1"]]);
    sandbox.sql(&format!("CREATE OR REPLACE EXTERNAL TABLE d STORED AS DELTA LOCATION '{at}'")).await;
    assert_eq!(cells(&sandbox.sql("SELECT count(extra), sum(extra), count(*) FROM d").await), [["1", "1.5", "51"]]);
    for (statement, expected) in [
        ("INSERT INTO d (id) VALUES (1)".to_string(), "directory"),
        (format!("CREATE EXTERNAL TABLE e STORED AS DELTA LOCATION '{at}-not'"), "cannot be read as a Delta table"),
        (format!("CREATE EXTERNAL TABLE e STORED AS DELTA PARTITIONED BY (day) LOCATION '{at}'"), "in the Delta log"),
        ("OPTIMIZE d".to_string(), "STORED AS PARQUET"),
    ] {
        let message = sandbox.error(&statement).await;
        assert!(message.contains(expected), "{statement}: {message}");
    }
}
