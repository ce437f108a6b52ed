//! OPTIMIZE: many small files of a directory become few.
//!
//! ```text
//! lock ─► files by directory ─► chunks: read ─► write staged ─► [new files are seen, old ones not] ─► old ones go
//! ```
//!
//! A chunk is seen whole or not at all, and what it has done stays when a later one fails.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use covey_engine::catalog::{Catalog, Entry, LakeTable, Replaced, Snapshot, WriteTarget, merged};
use covey_engine::user_err;
use datafusion::arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::FileGroup;
use datafusion::datasource::source_as_provider;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr_rewriter::unnormalize_cols;
use datafusion::logical_expr::{Expr, LogicalPlan};
use futures::{StreamExt, TryStreamExt};
use uuid::Uuid;

use super::commit::{PENDING_MAX, Replacement, Writer, unix_ms};
use crate::definitions::resolve;

/// A file from this size on is left as it is.
const SMALL_BYTES: u64 = 64 << 20;

/// Bytes of small files that become one.
const BIN_BYTES: u64 = 256 << 20;

/// What is rewritten at once: at most so many files and bytes, but for a single directory that has more.
const CHUNK_FILES: usize = 5_000;
const CHUNK_BYTES: u64 = 16 << 30;

/// Footers that are read at once.
const FOOTERS_CONCURRENT: usize = 16;

/// What OPTIMIZE has done.
#[derive(Debug, Clone, Copy, Default)]
pub struct Optimized {
    pub directories: u64,
    pub files_before: u64,
    pub files_after: u64,
    pub rows: u64,
}

/// Small files of one directory that become one.
type Bin = Vec<PartitionedFile>;

/// Rewrites the small files of the table that `query` scans, in the directories that its filters leave.
///
/// # Errors
/// When that cannot be done: the table is not one of directories of Parquet files, a filter is not over its partition
/// columns, or a file cannot be read.
pub async fn optimize(writer: &Writer<'_>, name: &str, query: &LogicalPlan) -> Result<Optimized> {
    let state = writer.session.state();
    refuse_view(writer.catalog, &state, name)?;
    let (table, filters) = scanned(&state, name, query)?;
    let Some(lake) = table.downcast_ref::<LakeTable>() else {
        return user_err!(
            "OPTIMIZE {name}: files are rewritten of tables whose LOCATION is a directory, which this is not"
        );
    };
    let Some(target) = lake.target().filter(|target| target.format == "PARQUET") else {
        return user_err!(
            "OPTIMIZE {name}: files are rewritten of tables STORED AS PARQUET in a directory, which this is not"
        );
    };
    let lock = Lock::take(writer.catalog, target).await?;
    let files = lake.files(&state, &filters).await?;
    let mut done = Optimized::default();
    for chunk in chunks(bins(files)) {
        lock.keep().await?;
        let (rows, files_after) = rewrite(writer, lake, target, &chunk, &lock).await?;
        let directories: BTreeSet<&str> = chunk.iter().map(|bin| directory(&bin[0])).collect();
        done.directories += directories.len() as u64;
        done.files_before += chunk.iter().map(|bin| bin.len() as u64).sum::<u64>();
        done.files_after += files_after;
        done.rows += rows;
    }
    Ok(done)
}

/// # Errors
/// When the name is that of a view.
fn refuse_view(catalog: &Catalog, state: &SessionState, name: &str) -> Result<()> {
    let name = resolve(state, &TableReference::parse_str(name))?;
    match catalog.snapshot().entry(&name.schema, &name.table).map(AsRef::as_ref) {
        Some(Entry::View(_)) => {
            user_err!("OPTIMIZE {0}: {0} is a view; name the table that it selects from", name.table)
        }
        _ => Ok(()),
    }
}

/// The table of a query over one, and the filters, all of which directories decide.
fn scanned(state: &SessionState, name: &str, query: &LogicalPlan) -> Result<(Arc<dyn TableProvider>, Vec<Expr>)> {
    let plan = state.optimize(query)?;
    let mut scan = None;
    let mut other = None;
    plan.apply_with_subqueries(|node| {
        match node {
            LogicalPlan::TableScan(found) => scan = Some(found.clone()),
            LogicalPlan::Filter(filter) => other = Some(filter.predicate.to_string()),
            _ => {}
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    if let Some(predicate) = other {
        return user_err!("OPTIMIZE {name} WHERE takes conditions on the table's partition columns, not {predicate}");
    }
    // A condition that no row satisfies leaves nothing to scan.
    let Some(scan) = scan else {
        return user_err!("OPTIMIZE {name}: there is nothing to do, no directory is asked for");
    };
    Ok((source_as_provider(&scan.source)?, unnormalize_cols(scan.filters)))
}

fn directory(file: &PartitionedFile) -> &str {
    file.object_meta.location.as_ref().rsplit_once('/').map_or("", |(directory, _)| directory)
}

/// The small files of each directory in bins of a good size; those that are alone in theirs stay.
fn bins(files: Vec<PartitionedFile>) -> Vec<Bin> {
    let mut by_values: BTreeMap<String, Bin> = BTreeMap::new();
    for file in files.into_iter().filter(|file| file.object_meta.size < SMALL_BYTES) {
        by_values.entry(directory(&file).to_string()).or_default().push(file);
    }
    let mut bins: Vec<Bin> = vec![];
    for files in by_values.into_values() {
        let mut bytes = 0;
        let mut bin = vec![];
        for file in files {
            if bytes + file.object_meta.size > BIN_BYTES {
                bins.push(std::mem::take(&mut bin));
                bytes = 0;
            }
            bytes += file.object_meta.size;
            bin.push(file);
        }
        bins.push(bin);
    }
    bins.retain(|bin| bin.len() > 1);
    bins
}

fn chunks(bins: Vec<Bin>) -> Vec<Vec<Bin>> {
    let mut chunks: Vec<Vec<Bin>> = vec![];
    let (mut files, mut bytes) = (0, 0);
    for bin in bins {
        let bin_bytes: u64 = bin.iter().map(|file| file.object_meta.size).sum();
        if chunks.is_empty() || files + bin.len() > CHUNK_FILES || bytes + bin_bytes > CHUNK_BYTES {
            chunks.push(vec![]);
            (files, bytes) = (0, 0);
        }
        files += bin.len();
        bytes += bin_bytes;
        if let Some(chunk) = chunks.last_mut() {
            chunk.push(bin);
        }
    }
    chunks
}

async fn rewrite(
    writer: &Writer<'_>,
    lake: &LakeTable,
    target: &WriteTarget,
    bins: &[Bin],
    lock: &Lock,
) -> Result<(u64, u64)> {
    let state = writer.session.state();
    let files: Vec<&PartitionedFile> = bins.iter().flatten().collect();
    let file_schema = schema_of(&state, lake, target, &files).await?;
    // The bins of one partition are read one after the other.
    let n = state.config().target_partitions().min(bins.len());
    let mut groups: Vec<Bin> = vec![vec![]; n];
    bins.iter().enumerate().for_each(|(i, bin)| groups[i * n / bins.len()].extend(bin.iter().cloned()));
    let groups = groups.into_iter().map(FileGroup::new).collect();
    let plan = lake.scan_files(&state, groups, file_schema).await?;
    let mut staged = writer.stage_plan(&format!("optimize {}", target.directory), plan, target, None).await?;
    let replaced = Replaced::new(files.iter().map(|file| &file.object_meta));
    staged.replaced = Some(Replacement { files: replaced, lock: lock.holder.clone() });
    let n_files = staged.files.len() as u64;
    Ok((writer.commit(staged).await?, n_files))
}

/// All columns that the files have, of which the table may know fewer: none is lost.
async fn schema_of(
    state: &SessionState,
    lake: &LakeTable,
    target: &WriteTarget,
    files: &[&PartitionedFile],
) -> Result<SchemaRef> {
    let store = lake.store(state)?;
    let schemas = files.iter().map(|file| async {
        let meta = &file.object_meta;
        let schema = lake.format().infer_schema(state, &store, std::slice::from_ref(meta)).await;
        schema
            .map(|schema| (meta.location.to_string(), schema))
            .map_err(|e| e.context(format!("OPTIMIZE reads {}", meta.location)))
    });
    let schemas = futures::stream::iter(schemas.collect::<Vec<_>>()).buffered(FOOTERS_CONCURRENT);
    let all = merged(&schemas.try_collect::<Vec<_>>().await?)?;
    // A file may repeat its partition columns; the directory decides.
    let is_kept = |field: &FieldRef| target.partition_columns.iter().all(|column| column.name != *field.name());
    Ok(Arc::new(Schema::new(all.fields().iter().filter(|field| is_kept(field)).cloned().collect::<Vec<_>>())))
}

/// Nobody else rewrites files of a directory while this is there.
struct Lock {
    catalog: Catalog,
    directory: String,
    holder: String,
}

impl Lock {
    async fn take(catalog: &Catalog, target: &WriteTarget) -> Result<Self> {
        let holder = Uuid::now_v7().simple().to_string();
        let lock = Self { catalog: catalog.clone(), directory: target.directory.to_string(), holder };
        lock.keep().await?;
        Ok(lock)
    }

    /// Says that it is still used.
    async fn keep(&self) -> Result<()> {
        let now = unix_ms();
        let oldest = now.saturating_sub(PENDING_MAX.as_millis() as u64);
        self.catalog.commit(|snapshot| snapshot.lock(&self.directory, &self.holder, now, oldest)).await
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let (catalog, directory, holder) = (self.catalog.clone(), self.directory.clone(), self.holder.clone());
        tokio::spawn(async move {
            let unlock = |snapshot: &mut Snapshot| {
                snapshot.unlock(&directory, &holder);
                Ok(())
            };
            if let Err(error) = catalog.commit(unlock).await {
                tracing::warn!(target: "covey", directory, %error, "files of the table stay locked for an hour");
            }
        });
    }
}
