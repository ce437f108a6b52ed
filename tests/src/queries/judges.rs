//! Who says what is right: DataFusion in one process, and DuckDB.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::ipc::reader::FileReader;
use datafusion::prelude::{SessionConfig, SessionContext};

use super::compare::Rows;
use super::tables::Table;

const STATEMENT_SECONDS_MAX: u64 = 60;

/// DataFusion as it is, in this process and in one partition, over the same files.
pub struct DataFusion {
    context: SessionContext,
}

impl DataFusion {
    pub async fn new(tables: &[Table], folder: &Path) -> Result<Self, String> {
        // Texts have the types that Ballista gives them: a plain one travels better than a view.
        let config = SessionConfig::new()
            .with_target_partitions(1)
            .set_bool("datafusion.execution.parquet.schema_force_view_types", false)
            .set_bool("datafusion.sql_parser.map_string_types_to_utf8view", false);
        let context = SessionContext::new_with_config(config);
        for table in tables {
            let create = table.create_statement(&table.name, folder);
            context.sql(&create).await.map_err(|e| format!("{create}: {e}"))?;
        }
        Ok(Self { context })
    }

    pub async fn run(&self, sql: &str) -> Result<Rows, String> {
        let running = async {
            let frame = self.context.sql(sql).await.map_err(|e| e.to_string())?;
            let (state, plan) = frame.clone().into_parts();
            let analyzed = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {});
            let schema = Arc::clone(analyzed.map_err(|e| e.to_string())?.schema().inner());
            let batches = frame.collect().await.map_err(|e| e.to_string())?;
            Ok(Rows { schema, batches })
        };
        // A task of its own: a panic in DataFusion is an error of the query.
        match tokio::time::timeout(Duration::from_secs(STATEMENT_SECONDS_MAX), running).await {
            Ok(result) => result,
            Err(_) => Err("no answer in time".into()),
        }
    }
}

/// A question for DuckDB: the tables' folder and the text.
pub struct Asked<'a> {
    pub tables: &'a [Table],
    pub folder: &'a Path,
    pub queries: Vec<String>,
}

/// Asks DuckDB all questions in one batch, and gives the answers in their order.
///
/// # Errors
/// When there is no Python with DuckDB.
pub fn ask_duckdb(asked: &[Asked<'_>], script: &Path) -> Result<Vec<Vec<Result<Rows, String>>>, String> {
    let python = std::env::var("COVEY_TEST_PYTHON")
        .map_err(|_| "COVEY_TEST_PYTHON is not set: tests/run and benchmarks/run set it".to_string())?;
    let mut child = Command::new(python)
        .arg(script)
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot start {}: {e}", script.display()))?;
    let out = |folder: &Path, i: usize| folder.join(format!("duckdb-{i}.arrow"));
    let mut stdin = child.stdin.take().ok_or("the script has no input")?;
    for group in asked {
        let tables: BTreeMap<&str, PathBuf> =
            group.tables.iter().map(|table| (table.name.as_str(), table.whole(group.folder))).collect();
        writeln!(stdin, "{}", serde_json::json!({ "tables": tables })).map_err(|e| e.to_string())?;
        for (i, sql) in group.queries.iter().enumerate() {
            let line = serde_json::json!({ "sql": sql, "out": out(group.folder, i) });
            writeln!(stdin, "{line}").map_err(|e| e.to_string())?;
        }
    }
    drop(stdin);
    let status = child.wait().map_err(|e| e.to_string())?;
    if !status.success() {
        return Err(format!("{} ended with {status}", script.display()));
    }
    let answers = |group: &Asked<'_>| (0..group.queries.len()).map(|i| read(&out(group.folder, i))).collect();
    Ok(asked.iter().map(answers).collect())
}

/// The rows of an answer, or its error. Whatever was read is removed.
fn read(path: &Path) -> Result<Rows, String> {
    let error = path.with_extension("arrow.error");
    if let Ok(text) = std::fs::read_to_string(&error) {
        let _ = std::fs::remove_file(error);
        return Err(text);
    }
    let file = File::open(path).map_err(|e| format!("no answer: {e}"))?;
    let reader = FileReader::try_new(file, None).map_err(|e| e.to_string())?;
    let schema = reader.schema();
    let batches = reader.collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    let _ = std::fs::remove_file(path);
    Ok(Rows { schema, batches })
}
