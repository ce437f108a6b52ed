//! Tables of a real PostgreSQL beside those of the lake.

use covey_tests::{PASSWORD, Postgres, Sandbox, cell, cells, project};

use crate::sample_table;

async fn sandbox_of(postgres: &Postgres, password: &str) -> Sandbox {
    let folder = tempfile::tempdir().unwrap();
    let (name, file) = postgres.settings(folder.path(), password);
    let warehouse = folder.path().join("warehouse").display().to_string();
    Sandbox::start_at(folder, &warehouse, &[(name, &file)], 2, 1).await
}

/// An account for each system.
fn fill(postgres: &Postgres, systems: &[String]) {
    let rows: Vec<String> = systems
        .iter()
        .enumerate()
        .map(|(i, id)| {
            let day = 1 + i % 28;
            let flag = if i % 3 == 0 { "NULL" } else { "true" };
            format!("('{id}', {}, '2019-01-{day:02}', {i}.25, '2019-07-{day:02} 23:30:00+02', {flag}, DEFAULT, '{{\"n\": {i}}}')", i % 7)
        })
        .collect();
    postgres.sql(&format!("INSERT INTO sales.\"Accounts\" VALUES {}", rows.join(", ")));
}

/// Goal: accounts that are kept in PostgreSQL are joined with the uploads of the lake, executors ask for the columns and
/// rows that are needed, and the password is to be seen nowhere.
#[tokio::test]
async fn accounts_are_joined_with_uploads() {
    let postgres = Postgres::start().await;
    postgres.sql(
        "CREATE SCHEMA sales; \
         CREATE TABLE sales.\"Accounts\" (id text PRIMARY KEY, account int NOT NULL, opened date, rate numeric(10, 2), \
             at timestamptz, active boolean, key uuid DEFAULT '0190d3c4-6f70-7000-8000-000000000000', doc jsonb); \
         CREATE TABLE empty (a int);",
    );
    let sandbox = sandbox_of(&postgres, PASSWORD).await;
    sandbox.sql(&sample_table()).await;
    let systems = cells(&sandbox.sql("SELECT DISTINCT system_id FROM processes ORDER BY 1").await).concat();
    fill(&postgres, &systems);
    let table = format!("STORED AS POSTGRES LOCATION '{}'", postgres.url);
    sandbox.sql(&format!("CREATE EXTERNAL TABLE accounts {table} OPTIONS ('table' 'sales.\"Accounts\"')")).await;
    sandbox.sql(&format!("CREATE EXTERNAL TABLE empty {table}")).await;

    let described = cells(&sandbox.sql("DESCRIBE accounts").await);
    let types: Vec<&str> = described.iter().map(|row| row[1].as_str()).collect();
    assert_eq!(types[..4], ["Utf8", "Int32", "Date32", "Decimal128(10, 2)"], "{described:?}");
    let n = systems.len().to_string();
    assert_eq!(cell(&sandbox.sql("SELECT count(*) FROM accounts").await), n);
    assert_eq!(cell(&sandbox.sql("SELECT count(*) FROM empty").await), "0");
    assert_eq!(cells(&sandbox.sql("SELECT * FROM empty").await), Vec::<Vec<String>>::new());

    let joined = "SELECT a.account, count(*) AS n, count(DISTINCT p.system_id) FROM processes p \
                  JOIN accounts a ON a.id = p.system_id WHERE p.date = '2019-07-30' AND a.account < 3 GROUP BY 1 ORDER BY 1";
    let rows = cells(&sandbox.sql(joined).await);
    assert_eq!(rows.len(), 3, "{rows:?}");
    let unpruned = "SELECT count(*) FROM processes p, (SELECT id, account FROM accounts) a \
                    WHERE a.id = p.system_id AND p.date = '2019-07-30' AND a.account + 0 < 3";
    let sum: u64 = rows.iter().map(|row| row[1].parse::<u64>().unwrap()).sum();
    assert_eq!(cell(&sandbox.sql(unpruned).await), sum.to_string());
    let log = postgres.log();
    let asked = "SELECT \"Accounts\".\"id\", \"Accounts\".\"account\" FROM \"sales\".\"Accounts\" WHERE (\"Accounts\".\"account\" < 3)";
    assert!(log.contains(asked), "columns and filters are sent: {log}");

    // What is sent, and what is not, makes no difference to the answer.
    let i = |i: usize| systems[i].clone();
    for (filter, is_sent) in [
        ("account IN (1, 2) OR opened > DATE '2019-01-20'".to_string(), true),
        ("rate BETWEEN 3.25 AND 7.25".to_string(), true),
        ("at < TIMESTAMP '2019-07-05T21:30:00Z'".to_string(), true),
        ("active IS NULL".to_string(), true),
        ("NOT active OR active".to_string(), true),
        (format!("id = '{}'", i(3)), true),
        (format!("id LIKE '{}%'", &i(5)[..3]), true),
        (format!("id > '{}'", i(5)), false),
        (format!("id <> '{}'", i(5)), false),
        ("key = '0190D3C4-6F70-7000-8000-000000000000'".to_string(), true),
        ("key = 'no uuid'".to_string(), false),
        ("doc = '{}'".to_string(), false),
        ("upper(id) = 'X'".to_string(), false),
    ] {
        let before = postgres.log().matches("WHERE").count();
        let ids = format!("SELECT id FROM accounts WHERE {filter}");
        let found = cells(&sandbox.sql(&format!("{ids} ORDER BY id")).await);
        let all = "(SELECT *, random() < 2 AS keep FROM accounts)";
        let here = format!("SELECT id FROM {all} WHERE keep AND ({filter}) ORDER BY id");
        assert_eq!(postgres.log().matches("WHERE").count() > before, is_sent, "{filter}");
        assert_eq!(found, cells(&sandbox.sql(&here).await), "{filter}");
    }
    sandbox.sql("SELECT id FROM accounts WHERE account = 2 LIMIT 3").await;
    assert!(postgres.log().contains("LIMIT 3"), "limits are sent");
    let model = "CREATE MODEL m USING KMEANS OPTIONS (n_clusters 3) AS SELECT account, rate FROM accounts";
    assert_eq!(cells(&sandbox.sql(model).await).len(), 1);
    sandbox.sql("CREATE TABLE kept AS SELECT * FROM accounts WHERE account = 1").await;
    assert_eq!(cell(&sandbox.sql("SELECT count(*) > 0 FROM kept").await), "true");

    let shown = ["SHOW ALL", "EXPLAIN VERBOSE SELECT id FROM accounts", "SHOW CREATE TABLE accounts"];
    for statement in shown {
        let shown = cells(&sandbox.sql(statement).await).concat().concat();
        assert!(!shown.contains(PASSWORD), "{statement}: {shown}");
    }
    for log in ["scheduler.log", "executor-0.log", "executor-1.log"] {
        assert!(!sandbox.log(log).contains(PASSWORD), "{log}");
    }
}

/// Goal: what is wrong with a database is told as what it is, and harms nothing else.
#[tokio::test]
async fn database_errors_are_told() {
    let mut postgres = Postgres::start().await;
    postgres.sql("CREATE TABLE t (a int, b int)");
    let wrong = sandbox_of(&postgres, "not-it").await;
    let table = format!("CREATE EXTERNAL TABLE t STORED AS POSTGRES LOCATION '{}'", postgres.url);
    let message = wrong.error(&table).await;
    assert!(message.contains("table t") && message.contains("Authentication failed"), "{message}");
    drop(wrong);

    let mut sandbox = sandbox_of(&postgres, PASSWORD).await;
    let lake = project().join("samples/processes").display().to_string();
    let secret = postgres.url.replace("postgres://", "postgres://me:hidden@");
    for (statement, expected) in [
        (table.replace("TABLE t", "TABLE missing"), "'public.missing' not found"),
        (table.replace(&postgres.url, &secret), "[[database]] of covey.toml"),
        (table.replace("/crm", ""), "names no database"),
        (table.replace("/crm", "/nowhere"), "\"nowhere\" does not exist"),
        (table.replace(&postgres.url, "postgres://127.0.0.1:9/crm"), "who asks?"),
        (table.replace(&postgres.url, &lake), "is no postgres://host:5432/database"),
        (table.replace("TABLE t", "TABLE t (a INT)"), "leave them out"),
        (format!("{table} OPTIONS ('tabel' 't')"), "tabel"),
    ] {
        let message = sandbox.error(&statement).await;
        assert!(message.contains(expected) && !message.contains("hidden"), "{statement}: {message}");
    }
    sandbox.sql(&table).await;
    let message = sandbox.error("INSERT INTO t VALUES (1, 2)").await;
    assert!(message.contains("directory"), "{message}");
    assert_eq!(cell(&sandbox.sql("SELECT count(*) FROM t").await), "0");
    postgres.sql("ALTER TABLE t DROP COLUMN b");
    let message = sandbox.error("SELECT * FROM t").await;
    assert!(message.contains("postgres://127.0.0.1") && message.contains("does not exist"), "{message}");
    postgres.stop();
    let message = sandbox.error("SELECT a FROM t").await;
    assert!(message.contains("postgres://127.0.0.1"), "{message}");
    sandbox.assert_alive();
}
