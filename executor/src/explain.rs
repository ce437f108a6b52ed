//! What went wrong in a task, in words that name the file. Costs something only when a task has failed.

use std::sync::Arc;

use covey_engine::failure::plain_text;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::datasource::physical_plan::FileScanConfig;
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::metadata::ParquetMetaDataReader;
use datafusion::physical_plan::ExecutionPlan;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore};

/// Files that a message names.
const FILES_NAMED_MAX: usize = 3;

/// In the text of errors that come from a store.
const STORE: &str = "object store error";

/// In the text of errors that come from what a file holds.
const OF_A_FILE: [&str; 5] = ["Parquet", "parquet", "Json error", "Csv error", "Error while parsing value"];

/// Bytes at the end of a file that are looked at: the footer of nearly every Parquet file.
const FOOTER_BYTES: u64 = 1 << 20;

/// The error's plain text; where the cause is a damaged file, with its name.
pub(crate) async fn explain(error: &DataFusionError, plan: &Arc<dyn ExecutionPlan>, context: &TaskContext) -> String {
    let text = plain_text(error);
    if !is_of_a_file(error, &text) {
        return text;
    }
    let files = files(plan);
    let mut damaged = vec![];
    let is_parquet = text.contains("Parquet") || text.contains("parquet");
    for (root, path) in files.iter().filter(|_| is_parquet) {
        if let Ok(store) = context.runtime_env().object_store(root)
            && is_damaged(store.as_ref(), path).await
        {
            damaged.push((root, path));
        }
    }
    let suspects = if damaged.is_empty() { files.iter().map(|(root, path)| (root, path)).collect() } else { damaged };
    let names: Vec<String> =
        suspects.iter().take(FILES_NAMED_MAX).map(|(root, path)| format!("{}{path}", root.as_str())).collect();
    let more = if suspects.len() > FILES_NAMED_MAX { ", ..." } else { "" };
    format!("cannot read {}{more}: {text}", names.join(", "))
}

/// Whether the files are worth a look: not where a store has failed, which says by itself what it was asked for, and
/// would be waited for again at each of them.
fn is_of_a_file(error: &DataFusionError, text: &str) -> bool {
    if text.contains(STORE) {
        return false;
    }
    matches!(error.find_root(), DataFusionError::ParquetError(_)) || OF_A_FILE.iter().any(|words| text.contains(words))
}

/// The files that the task was to read.
fn files(plan: &Arc<dyn ExecutionPlan>) -> Vec<(ObjectStoreUrl, Path)> {
    let mut files = vec![];
    let _ = plan.apply(|node| {
        let source = node.downcast_ref::<DataSourceExec>().map(DataSourceExec::data_source);
        if let Some(config) = source.and_then(|source| source.downcast_ref::<FileScanConfig>()) {
            let of_group = config.file_groups.iter().flat_map(|group| group.iter());
            files.extend(of_group.map(|file| (config.object_store_url.clone(), file.object_meta.location.clone())));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    files
}

/// Whether the file has no footer that can be read, or cannot be fetched.
async fn is_damaged(store: &dyn ObjectStore, path: &Path) -> bool {
    let options = GetOptions { range: Some(GetRange::Suffix(FOOTER_BYTES)), ..GetOptions::default() };
    let Ok(found) = store.get_opts(path, options).await else { return true };
    let Ok(end) = found.bytes().await else { return true };
    match ParquetMetaDataReader::new().parse_and_finish(&end) {
        // A larger footer is not judged.
        Ok(_) | Err(ParquetError::NeedMoreData(_)) => false,
        Err(_) => true,
    }
}
