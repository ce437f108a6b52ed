//! Every example of the documents runs: what stands in a block of SQL is SQL.

use std::fs;
use std::path::Path;

use covey_tests::{PASSWORD, Postgres, Sandbox, covey, project};

/// A block of a document, after the line where it begins.
type Block = (usize, String);

/// The blocks of a document in one language.
fn blocks(document: &str, language: &str) -> Vec<Block> {
    let text = fs::read_to_string(project().join(document)).unwrap();
    let mut found: Vec<Block> = vec![];
    let mut block: Option<Block> = None;
    for (line, content) in text.lines().enumerate() {
        match (&mut block, content.strip_prefix("```")) {
            (None, Some(begins)) => {
                block = Some((line + 1, if begins == language { String::new() } else { "\0".into() }));
            }
            (Some(_), Some(_)) => found.extend(block.take().filter(|(_, sql)| !sql.starts_with('\0'))),
            (Some((_, sql)), None) => *sql += &format!("{content}\n"),
            (None, None) => {}
        }
    }
    found
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => assert!(fs::copy(entry.path(), target).unwrap() > 0),
        }
    }
}

/// What the examples are about: lakes below `insights`, files below `data`, and a database.
fn furnish(folder: &Path, postgres: &Postgres) {
    let sample = project().join("samples/processes");
    copy(&sample, &folder.join("insights/processes"));
    for (month, day) in [("07", "01"), ("07", "02"), ("08", "01")] {
        let from = sample.join(format!("year=2019/month={month}/day={day}"));
        copy(&from, &folder.join(format!("insights/2019/{month}/{day}")));
    }
    fs::create_dir_all(folder.join("data")).unwrap();
    let rows = folder.join("data/events.csv.gz").display().to_string();
    let write =
        format!("COPY (SELECT 1 AS id, 'start' AS event) TO '{rows}' STORED AS CSV OPTIONS (format.has_header true)");
    let warehouse = folder.join("embedded").display().to_string();
    let output = covey(&["sql", &write, "--warehouse", &warehouse]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let python = std::env::var("COVEY_TEST_PYTHON").expect("tests/run names a Python with the requirements");
    let uploads = folder.join("insights/uploads").display().to_string();
    let script =
        format!("import pyarrow, deltalake; deltalake.write_deltalake({uploads:?}, pyarrow.table({{'id': [1, 2]}}))");
    let output = std::process::Command::new(python).args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    postgres.sql(
        "CREATE SCHEMA sales; CREATE TABLE sales.accounts (id text, account int, active boolean); \
         INSERT INTO sales.accounts VALUES ('s1', 1, true)",
    );
}

/// Goal: whoever copies an example gets what the document says, and no error.
#[tokio::test]
async fn examples_run() {
    let postgres = Postgres::start().await;
    let folder = tempfile::tempdir().unwrap();
    furnish(folder.path(), &postgres);
    let at = folder.path().display().to_string();
    let (name, file) = postgres.settings(folder.path(), PASSWORD);
    for document in ["README.md", "docs/sql.md", "docs/functions.md"] {
        let own = tempfile::tempdir().unwrap();
        let warehouse = own.path().join("warehouse").display().to_string();
        let sandbox = Sandbox::start_at(own, &warehouse, &[(name, &file)], 2, 1).await;
        let blocks = blocks(document, "sql");
        assert!(!blocks.is_empty(), "{document} has no examples");
        if document == "docs/functions.md" {
            sandbox.sql(&crate::sample_table()).await;
        }
        for (line, block) in blocks {
            let block = block.replace("s3://insights", &format!("{at}/insights"));
            let block =
                block.replace("s3a://insights", &format!("{at}/insights")).replace("'/data/", &format!("'{at}/data/"));
            let block = block.replace("postgres://db.example:5432/crm", &postgres.url);
            let script = sandbox.path("example.sql");
            fs::write(&script, &block).unwrap();
            let output = covey(&["run", &script.display().to_string(), "--scheduler", &sandbox.url]);
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{document}, the example after line {line}: {error}\n{block}");
        }
    }
}
