//! The catalog: tables, views and schemas outlive the scheduler, and no writer loses another's.

use std::fs;

use covey_tests::{cell, cells, covey};

use crate::{create_model, sample_table, sandbox_with_sample};

/// Goal: what was made is there after the scheduler was ended, by its way of being told and by a kill: tables, views over
/// views, views that mean a model, schemas; and a dropped one stays dropped.
#[tokio::test]
async fn tables_views_and_models_outlive_the_scheduler() {
    let mut sandbox = sandbox_with_sample(2, 1).await;
    for statement in [
        create_model("m", ""),
        "CREATE VIEW july AS SELECT system_id, process_command, day FROM processes WHERE month = 7".into(),
        "CREATE VIEW counts (application, n) AS SELECT predict('m', normalize_command(process_command)), count(*) \
         FROM july WHERE day <= 5 GROUP BY 1"
            .into(),
        "CREATE SCHEMA archive".into(),
        sample_table().replace("TABLE processes", "TABLE archive.processes"),
        sample_table().replace("TABLE processes", "TABLE gone"),
        "DROP TABLE gone".into(),
        "COMMENT ON VIEW july IS 'what ran in summer, it''s hot'".into(),
        "COMMENT ON COLUMN archive.processes.year IS 'of the upload'".into(),
        "COMMENT ON MODEL m IS 'twelve of the sample'".into(),
    ] {
        sandbox.sql(&statement).await;
    }
    let questions = [
        "SELECT * FROM counts ORDER BY application",
        "SELECT count(*), max(process_command) FROM archive.processes",
        "SELECT table_schema, table_name, table_type FROM information_schema.tables \
         WHERE table_schema <> 'information_schema' ORDER BY 1, 2",
        "SELECT model, digest FROM (SELECT 1) CROSS JOIN (SELECT 'm' AS model, 1 AS digest)",
        "DESCRIBE july",
        "SHOW MODELS",
        "SELECT table_schema, table_name, kind, format, partitioned_by, comment FROM covey_tables() ORDER BY 1, 2",
        "SELECT table_name, column_name, data_type, comment FROM covey_columns() WHERE comment IS NOT NULL",
    ];
    let mut before = vec![];
    for question in questions {
        before.push(cells(&sandbox.sql(question).await));
    }
    assert_eq!(
        before[2].iter().map(|row| row[1].as_str()).collect::<Vec<_>>(),
        ["processes", "counts", "july", "processes"]
    );
    assert!(before[5][0].contains(&"twelve of the sample".to_string()));
    assert_eq!(before[6][2], ["public", "july", "view", "", "", "what ran in summer, it's hot"]);
    assert_eq!(before[6][0][3..], ["PARQUET", "year, month, day", ""]);
    assert_eq!(before[7], [["processes", "year", "Int32", "of the upload"]]);
    for kill in [false, true] {
        if kill {
            sandbox.scheduler.kill();
        } else {
            sandbox.scheduler.terminate();
        }
        sandbox.restart_scheduler().await;
        for (question, before) in questions.iter().zip(&before) {
            assert_eq!(cells(&sandbox.sql(question).await), *before, "{question}");
        }
    }
    let message = sandbox.error("SELECT count(*) FROM gone").await;
    assert!(message.contains("gone"), "{message}");
    let message = sandbox.error("COMMENT ON COLUMN july.hour IS 'x'").await;
    assert!(message.contains("no column \"hour\"; it has system_id, process_command, day"), "{message}");
    for statement in ["COMMENT ON VIEW july IS NULL", "DROP SCHEMA archive CASCADE", "COMMENT ON MODEL m IS NULL"] {
        sandbox.sql(statement).await;
    }
    let commented = "SELECT (SELECT count(comment) FROM covey_tables()) + (SELECT count(comment) FROM covey_columns())";
    assert_eq!(cell(&sandbox.sql(commented).await), "0");
}

/// Goal: of twenty clients that make and drop tables and views at once nobody's work is lost, nothing is half there, and
/// of those that want the same name one gets it. Method: each keeps every other of its tables; all agree afterwards, also
/// with a scheduler that knows the warehouse only.
#[tokio::test]
async fn twenty_clients_lose_nothing() {
    const CLIENTS: usize = 20;
    let mut sandbox = sandbox_with_sample(1, 2).await;
    let mut clients = tokio::task::JoinSet::new();
    for i in 0..CLIENTS {
        let client = sandbox.client().await;
        clients.spawn(async move {
            for round in 0..4 {
                let name = format!("t_{i}_{round}");
                let table = sample_table().replace("TABLE processes", &format!("TABLE {name}"));
                client.execute(&table).await.unwrap();
                let view = format!("CREATE VIEW v_{i}_{round} AS SELECT count(*) AS n FROM {name}");
                client.execute(&view).await.unwrap();
                if round % 2 == 0 {
                    client.execute(&format!("DROP VIEW v_{i}_{round}")).await.unwrap();
                    client.execute(&format!("DROP TABLE {name}")).await.unwrap();
                }
            }
            client.execute("CREATE VIEW only_one AS SELECT 1 AS one").await.is_ok()
        });
    }
    let winners = clients.join_all().await.into_iter().filter(|won| *won).count();
    assert_eq!(winners, 1);
    let mut expected: Vec<String> = (0..CLIENTS)
        .flat_map(|i| [1, 3].into_iter().flat_map(move |round| [format!("t_{i}_{round}"), format!("v_{i}_{round}")]))
        .chain(["processes".into(), "only_one".into()])
        .collect();
    expected.sort_unstable();
    let names = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1";
    for _ in 0..2 {
        assert_eq!(cells(&sandbox.sql(names).await).concat(), expected);
        assert_eq!(cell(&sandbox.sql("SELECT v.n = (SELECT count(*) FROM processes) FROM v_7_3 v").await), "true");
        sandbox.scheduler.kill();
        sandbox.restart_scheduler().await;
    }
}

/// Goal: statements of the catalog do what psql's and Spark's do, and mistakes are told.
#[tokio::test]
async fn definitions_behave() {
    let sandbox = sandbox_with_sample(1, 2).await;
    let table = sample_table();
    let again = sandbox.error(&table).await;
    assert!(again.contains("exists already") && again.contains("IF NOT EXISTS"), "{again}");
    sandbox.sql(&table.replace("TABLE", "TABLE IF NOT EXISTS")).await;
    sandbox.sql(&table.replace("CREATE", "CREATE OR REPLACE")).await;
    sandbox.sql("CREATE SCHEMA IF NOT EXISTS s").await;
    sandbox.sql("CREATE SCHEMA IF NOT EXISTS s").await;
    sandbox.sql("CREATE VIEW s.v AS SELECT day FROM processes").await;
    sandbox.sql("CREATE OR REPLACE VIEW s.w AS SELECT * FROM s.v WHERE day = 1").await;
    sandbox.sql("DROP TABLE IF EXISTS nothing").await;
    let mistakes = [
        ("CREATE SCHEMA s", "exists already"),
        ("CREATE VIEW s.v AS SELECT 1 AS one", "exists already"),
        ("CREATE OR REPLACE VIEW s.v AS SELECT day FROM s.w", "select from itself"),
        ("CREATE OR REPLACE VIEW processes AS SELECT 1 AS one", "is a table"),
        ("CREATE VIEW x.v AS SELECT 1 AS one", "no schema \"x\""),
        ("CREATE VIEW other.x.v AS SELECT 1 AS one", "no catalog \"other\""),
        ("CREATE VIEW twice AS SELECT day, day + 0 AS day FROM processes", "day"),
        ("CREATE TEMPORARY VIEW t AS SELECT 1 AS one", "TEMPORARY"),
        ("DROP VIEW processes", "use DROP TABLE"),
        ("DROP TABLE s.v", "use DROP VIEW"),
        ("DROP TABLE nothing", "no table \"nothing\""),
        ("DROP SCHEMA s", "CASCADE"),
        ("DROP SCHEMA public CASCADE", "cannot be dropped"),
        ("CREATE SCHEMA information_schema", "describes the others"),
        ("CREATE DATABASE d", "CREATE SCHEMA"),
    ];
    for (statement, expected) in mistakes {
        let message = sandbox.error(statement).await;
        assert!(message.to_lowercase().contains(&expected.to_lowercase()), "{statement}: {message}");
    }
    // A view whose table is gone is listed and described, and says what is wrong.
    sandbox.sql(&table.replace("TABLE processes", "TABLE p")).await;
    sandbox.sql("CREATE VIEW of_p AS SELECT day FROM p").await;
    sandbox.sql("DROP TABLE p").await;
    assert_eq!(cells(&sandbox.sql("DESCRIBE of_p").await)[0][0], "day");
    let columns = "SELECT count(*) FROM information_schema.columns WHERE table_name IN ('of_p', 'w')";
    assert_eq!(cell(&sandbox.sql(columns).await), "2");
    let message = sandbox.error("SELECT * FROM of_p").await;
    assert!(message.contains("of_p") && message.contains("'p' not found") || message.contains(".p"), "{message}");
    sandbox.sql("DROP SCHEMA s CASCADE").await;
    assert!(sandbox.error("SELECT * FROM s.w").await.contains("s.w"));
    assert_eq!(
        cell(&sandbox.sql("SELECT count(*) FROM information_schema.schemata WHERE schema_name = 's'").await),
        "0"
    );
}

/// Goal: processes that share nothing but a warehouse share its tables; a table without partitions keeps its options; and
/// a damaged catalog is named.
#[test]
fn a_warehouse_is_shared() {
    let folder = tempfile::tempdir().unwrap();
    let warehouse = folder.path().join("w").to_string_lossy().into_owned();
    let file = folder.path().join("hosts.csv");
    fs::write(&file, "host;owner\na;ops\nb;\n").unwrap();
    let run = |sql: &str| {
        let output = covey(&["sql", "--format", "csv", "--warehouse", &warehouse, "-c", sql]);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    let table = format!(
        "CREATE EXTERNAL TABLE hosts STORED AS CSV LOCATION '{}' OPTIONS (format.delimiter ';', format.has_header true)",
        file.display()
    );
    assert_eq!(run(&table), (true, String::new(), String::new()));
    assert_eq!(run("CREATE VIEW owned AS SELECT host FROM hosts WHERE owner IS NOT NULL").2, "");
    assert_eq!(run("SELECT * FROM owned"), (true, "host\na\n".into(), String::new()));
    assert!(run("SHOW CREATE TABLE owned").1.contains("CREATE VIEW owned"));

    let catalog = folder.path().join("w/catalog");
    let newest = fs::read_dir(&catalog).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let text = fs::read_to_string(&newest).unwrap();
    fs::write(&newest, text.replace("hosts.csv", "ghosts.csv")).unwrap();
    let (is_fine, _, err) = run("SELECT 1");
    assert!(!is_fine && err.contains(&*newest.file_name().unwrap().to_string_lossy()), "{err}");
    assert!(err.contains("corrupt") && err.contains("remove it"), "{err}");
    fs::remove_file(newest).unwrap();
    assert!(run("SELECT count(*) FROM hosts").1.contains('2'));
    assert!(!run("SELECT * FROM owned").0);
}
