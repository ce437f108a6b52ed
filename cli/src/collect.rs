//! `covey collect`: one upload of this host's processes, as a cron job on every system of a fleet would send it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use covey_engine::storage::{Directory, ObjectStores, directory_url};
use datafusion::arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::parquet::arrow::ArrowWriter;
use uuid::Uuid;

use crate::args::Storage;

/// Longest command line that is kept, in bytes: some carry whole class paths.
const COMMAND_BYTES_MAX: usize = 64 << 10;

/// Writes one upload to the directory of today (UTC) and says what was written.
///
/// # Errors
/// When /proc cannot be read or the lake not be written.
pub async fn collect(lake: &str, storage: &Storage) -> Result<String, String> {
    let settings = storage.settings()?;
    let commands = commands(Path::new("/proc")).map_err(|e| format!("cannot read the processes of this host: {e}"))?;
    let upload = Uuid::new_v4();
    let today = chrono::Utc::now().date_naive().format("year=%Y/month=%m/day=%d");
    let name = format!("{today}/{upload}.parquet");
    let parquet = parquet(&commands, &upload.to_string(), &system_id().to_string()).map_err(|e| e.to_string())?;
    let url = directory_url(lake).map_err(|e| e.to_string())?;
    let written = async {
        let directory = Directory::open(&ObjectStores::new(settings), &url)?;
        directory.put(&name, parquet.into()).await?;
        directory.url_of(&name)
    };
    let written =
        written.await.map_err(|e: datafusion::error::DataFusionError| format!("cannot write to {url}: {e}"))?;
    Ok(format!("{} processes to {written}", commands.len()))
}

/// The command line of every process; of a kernel thread its name in brackets, as `ps` shows it.
fn commands(proc: &Path) -> std::io::Result<Vec<String>> {
    let mut commands = vec![];
    for entry in fs::read_dir(proc)? {
        let directory = entry?.path();
        let is_process =
            directory.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit));
        if !is_process {
            continue;
        }
        // A process may end while it is read.
        let Ok(arguments) = fs::read(directory.join("cmdline")) else { continue };
        if let Some(command) = command_line(&arguments) {
            commands.push(command);
        } else if let Ok(name) = fs::read_to_string(directory.join("comm")) {
            commands.push(format!("[{}]", name.trim_end()));
        }
    }
    Ok(commands)
}

/// Arguments, which end with NUL each, joined by spaces.
fn command_line(arguments: &[u8]) -> Option<String> {
    let kept = &arguments[..arguments.len().min(COMMAND_BYTES_MAX)];
    let text = String::from_utf8_lossy(kept).replace('\0', " ");
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_string())
}

/// An id of this host that does not change, and does not tell what it was made from.
fn system_id() -> Uuid {
    let machine = fs::read("/etc/machine-id").or_else(|_| fs::read("/etc/hostname")).unwrap_or_default();
    Uuid::new_v5(&Uuid::NAMESPACE_OID, machine.trim_ascii())
}

fn parquet(commands: &[String], upload: &str, system: &str) -> datafusion::parquet::errors::Result<Vec<u8>> {
    let schema = Arc::new(Schema::new(
        ["attachment_id", "system_id", "process_command"].map(|name| Field::new(name, DataType::Utf8, true)).to_vec(),
    ));
    let repeated = |text: &str| Arc::new(StringArray::from_iter_values(commands.iter().map(|_| text))) as ArrayRef;
    let columns = vec![repeated(upload), repeated(system), Arc::new(StringArray::from_iter_values(commands))];
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns)?;
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, None)?;
    writer.write(&batch)?;
    writer.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: this very test run is among the processes, and nothing in the list is empty.
    #[test]
    fn finds_this_process() {
        let commands = commands(Path::new("/proc")).unwrap();
        let me = std::env::args().next().unwrap();
        assert!(commands.iter().any(|command| command.starts_with(&me)), "{me}");
        assert!(commands.iter().all(|command| !command.trim().is_empty()));
        assert_eq!(command_line(b"/bin/sh\0-c\0x y\0").as_deref(), Some("/bin/sh -c x y"));
        assert_eq!(command_line(b""), None);
    }
}
