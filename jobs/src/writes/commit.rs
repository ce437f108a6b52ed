//! How rows get into the files of a table.
//!
//! ```text
//! plan ─► [repartition by directory] ─► WriteExec on executors ─► staged files ─► commit
//! commit: [hide the write] ─► publish every file ─► [show it]; or put the new table into the catalog
//! ```
//!
//! Nobody sees a part of a write: files are staged until all are complete, and while several are published the catalog
//! hides them. A task that is tried again stages other files, and only those are published that the job speaks of.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use covey_engine::catalog::{Catalog, Replaced, Snapshot, WRITES, WriteTarget};
use covey_engine::failure::{is_out_of_memory, is_refused};
use covey_engine::operators::{ResultSchemaExec, WriteExec, WriteSpec, written};
use covey_engine::staging::Staged;
pub use covey_engine::staging::sweep;
use covey_engine::storage::{Directory, ObjectStores, is_not_found};
use covey_engine::threads::aside;
use covey_engine::{external, user_err};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::exec_datafusion_err;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_expr::expressions::col;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties, Partitioning};
use datafusion::prelude::SessionContext;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use url::Url;
use uuid::Uuid;

use super::replaced::remove_later;
use crate::Cluster;

/// Files that are published at once.
const PUBLISHED_CONCURRENT: usize = 16;

/// A write that is being published for longer has died with its scheduler, and is taken back.
pub const PENDING_MAX: Duration = Duration::from_secs(60 * 60);

/// When what a write that failed has staged is removed: at once, and again for tasks that had not heard of its end.
const SWEEPS: [Duration; 4] =
    [Duration::ZERO, Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(60)];

/// What writes need of the scheduler.
pub struct Writer<'a> {
    pub cluster: &'a dyn Cluster,
    pub session: Arc<SessionContext>,
    pub catalog: &'a Catalog,
    pub warehouse: &'a Directory,
    pub stores: Arc<ObjectStores>,
}

/// Rows that are in the store and not seen yet.
pub struct StagedRows {
    pub write: String,
    pub directory: Url,
    pub files: Vec<Staged>,
    pub rows: u64,
    /// Files in whose place these are.
    pub replaced: Option<Replacement>,
}

/// Files that go when those of a write are seen, under a lock on their directory.
pub struct Replacement {
    pub files: Replaced,
    pub lock: String,
}

impl Writer<'_> {
    /// Runs `input` and stages its rows as files of `target`, or as the one `file` of that name.
    ///
    /// # Errors
    /// Those of the query and of the store.
    pub async fn stage(
        &self,
        name: &str,
        input: LogicalPlan,
        target: &WriteTarget,
        file: Option<String>,
    ) -> Result<StagedRows> {
        self.cluster.require_executors().await?;
        let mut state = self.session.state();
        let plan = planned(name, &state, &input).await?;
        match self.stage_plan(name, plan, target, file.clone()).await {
            Err(error) if is_out_of_memory(&error) && state.config().options().optimizer.prefer_hash_join => {
                tracing::warn!(target: "covey", statement = name, "a join does not fit into memory: it runs again, sorted");
                state.config_mut().options_mut().optimizer.prefer_hash_join = false;
                self.stage_plan(name, planned(name, &state, &input).await?, target, file).await
            }
            result => result,
        }
    }

    /// As [`stage`](Self::stage), of a query that is planned.
    ///
    /// # Errors
    /// Those of the query and of the store.
    pub async fn stage_plan(
        &self,
        name: &str,
        plan: Arc<dyn ExecutionPlan>,
        target: &WriteTarget,
        file: Option<String>,
    ) -> Result<StagedRows> {
        self.stores.uploads(&target.directory)?;
        self.cluster.require_executors().await?;
        let write = Uuid::now_v7().simple().to_string();
        let spec = WriteSpec {
            write: write.clone(),
            directory: target.directory.to_string(),
            file,
            format: target.format.clone(),
            extension: target.extension.clone(),
            options: target.options.clone(),
            partition_columns: target.partition_columns.iter().map(|c| (c.name.clone(), c.naming)).collect(),
        };
        let plan = Arc::new(WriteExec::new(spec.clone(), distributed(plan, &spec)?));
        let swept = SweepOnDrop { stores: Arc::clone(&self.stores), directory: target.directory.clone(), write };
        let batches = self.cluster.run(name, Arc::clone(&self.session), plan).await?;
        let (files, rows) = written(&batches)?;
        let write = swept.disarm();
        Ok(StagedRows { write, directory: target.directory.clone(), files, rows, replaced: None })
    }

    /// Makes staged rows part of a directory that is read already, all at once.
    ///
    /// # Errors
    /// Those of the store. Then nothing is left of them.
    pub async fn commit(&self, staged: StagedRows) -> Result<u64> {
        let (catalog, stores, warehouse) = (self.catalog.clone(), Arc::clone(&self.stores), self.warehouse.clone());
        let is_replacing = staged.replaced.is_some();
        // Once begun it goes on to its end, also when its client has gone.
        let committed = tokio::spawn(async move {
            let rows = staged.rows;
            let result = commit(&catalog, &stores, &warehouse, &staged).await;
            let swept = sweep(&stores, &staged.directory, &staged.write).await;
            if let Err(error) = swept {
                tracing::warn!(target: "covey", directory = %staged.directory, %error, "files of tasks that failed are left");
            }
            if result.is_ok() && is_replacing {
                remove_later(catalog, warehouse, stores, staged.write);
            }
            result.map(|()| rows)
        });
        committed.await.map_err(|e| exec_datafusion_err!("publishing the files failed: {e}"))?
    }
}

/// # Errors
/// When rows are not what the statement was read to give, as where a value of another type was bound to a parameter: the
/// table could not be read any more.
fn check_types(statement: &str, input: &LogicalPlan, plan: &dyn ExecutionPlan) -> Result<()> {
    for (expected, found) in input.schema().fields().iter().zip(plan.schema().fields()) {
        if !is_converted(found.data_type(), expected.data_type()) {
            return user_err!(
                "{statement}: column {:?} is {}, and the rows have {}; write CAST around the value",
                expected.name(),
                expected.data_type(),
                found.data_type()
            );
        }
    }
    Ok(())
}

/// Whether values of one type are written as those of another, if they fit: what DataFusion works out of a query's types
/// before it plans it is not always what it plans.
fn is_converted(found: &DataType, expected: &DataType) -> bool {
    found == expected
        || found.is_numeric() && expected.is_numeric()
        || found.is_string() && expected.is_string()
        || found.is_temporal() && expected.is_temporal()
}

async fn planned(statement: &str, state: &SessionState, input: &LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
    let (analysis, query) = (state.clone(), input.clone());
    let plan = aside(async move { analysis.create_physical_plan(&query).await }).await?;
    check_types(statement, input, plan.as_ref())?;
    Ok(ResultSchemaExec::over(plan, input.schema().inner()))
}

/// The input of a [`WriteExec`]: all rows of a directory in one task, so that it gets few files.
fn distributed(plan: Arc<dyn ExecutionPlan>, spec: &WriteSpec) -> Result<Arc<dyn ExecutionPlan>> {
    let n_partitions = plan.output_partitioning().partition_count();
    if spec.file.is_some() {
        return Ok(if n_partitions == 1 { plan } else { Arc::new(CoalescePartitionsExec::new(plan)) });
    }
    if spec.partition_columns.is_empty() || n_partitions == 1 {
        return Ok(plan);
    }
    let schema = plan.schema();
    let keys = spec.partition_columns.iter().map(|(name, _)| col(name, &schema)).collect::<Result<_>>()?;
    Ok(Arc::new(RepartitionExec::try_new(plan, Partitioning::Hash(keys, n_partitions))?))
}

async fn commit(catalog: &Catalog, stores: &ObjectStores, warehouse: &Directory, staged: &StagedRows) -> Result<()> {
    // One file is whole by itself.
    if staged.files.len() < 2 && staged.replaced.is_none() {
        if let Err(error) = publish(stores, &staged.files).await {
            told_of_files_left(discard(stores, &staged.files).await);
            return Err(error);
        }
        catalog.settle(&staged.write);
        return Ok(());
    }
    let log = warehouse.child(WRITES)?;
    if let Err(error) = begin(catalog, &log, staged).await {
        told_of_files_left(discard(stores, &staged.files).await);
        return Err(error);
    }
    if let Err(error) = publish(stores, &staged.files).await {
        told_of_files_left(take_back(catalog, &log, stores, &staged.write, &staged.files).await);
        return Err(error);
    }
    match catalog.commit(|snapshot| show(snapshot, staged)).await {
        Ok(()) => {}
        Err(error) if is_refused(&error) => {
            told_of_files_left(take_back(catalog, &log, stores, &staged.write, &staged.files).await);
            return Err(error);
        }
        Err(error) => {
            return Err(
                error.context("it is not known whether the rows are there: look before you run the statement again")
            );
        }
    }
    catalog.settle(&staged.write);
    let _ = log.delete(&manifest(&staged.write)).await;
    Ok(())
}

/// The name of the list of a write's files in the log of writes.
fn manifest(write: &str) -> String {
    format!("{write}.json")
}

/// Hides a write until it is shown, and notes what it is about to publish.
async fn begin(catalog: &Catalog, log: &Directory, staged: &StagedRows) -> Result<()> {
    if let Some(replaced) = &staged.replaced {
        let list = serde_json::to_vec(&replaced.files).map_err(external)?;
        log.put(&Replaced::name(&staged.write), Bytes::from(list)).await?;
    }
    let files = serde_json::to_vec(&staged.files).map_err(external)?;
    log.put(&manifest(&staged.write), Bytes::from(files)).await?;
    let begin = |snapshot: &mut Snapshot| {
        snapshot.begin_write(&staged.write, unix_ms());
        Ok(())
    };
    catalog.commit(begin).await
}

/// Takes a write back that was not shown: nobody can show it any more, and it is hidden until all of its files are gone.
async fn take_back(
    catalog: &Catalog,
    log: &Directory,
    stores: &ObjectStores,
    write: &str,
    files: &[Staged],
) -> Result<()> {
    let withdraw = |snapshot: &mut Snapshot| {
        snapshot.withdraw_write(write);
        Ok(())
    };
    catalog.commit(withdraw).await?;
    discard(stores, files).await?;
    let forget = |snapshot: &mut Snapshot| {
        snapshot.forget_write(write);
        Ok(())
    };
    catalog.commit(forget).await?;
    log.delete(&manifest(write)).await?;
    log.delete(&Replaced::name(write)).await
}

fn told_of_files_left(result: Result<()>) {
    if let Err(error) = result {
        tracing::warn!(target: "covey", %error, "files of a write that failed are left, unseen");
    }
}

/// Makes a write seen, and what it replaces unseen.
///
/// # Errors
/// When others took over because it took so long.
fn show(snapshot: &mut Snapshot, staged: &StagedRows) -> Result<()> {
    if let Some(replaced) = &staged.replaced {
        snapshot.check_lock(staged.directory.as_str(), &replaced.lock)?;
        snapshot.begin_replacing(&staged.write, staged.directory.as_str(), unix_ms());
    }
    if !snapshot.end_write(&staged.write) {
        return user_err!("publishing the files took so long that another scheduler took the write back; try again");
    }
    Ok(())
}

/// Makes files visible, in any order. None is being published any more when this ends.
///
/// # Errors
/// Those of the store; some files may be visible then.
pub async fn publish(stores: &ObjectStores, files: &[Staged]) -> Result<()> {
    let has_failed = AtomicBool::new(false);
    let published = files.iter().map(|file| {
        let has_failed = &has_failed;
        async move {
            if has_failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            file.publish(stores).await.inspect_err(|_| has_failed.store(true, Ordering::Relaxed))
        }
        .boxed()
    });
    all_of(published.collect()).await
}

/// Removes files, all that can be.
///
/// # Errors
/// Those of the store: then some may be left.
pub async fn discard(stores: &ObjectStores, files: &[Staged]) -> Result<()> {
    all_of(files.iter().map(|file| file.discard(stores).boxed()).collect()).await
}

/// Does them all, also when one fails.
async fn all_of(steps: Vec<BoxFuture<'_, Result<()>>>) -> Result<()> {
    let done: Vec<Result<()>> = futures::stream::iter(steps).buffer_unordered(PUBLISHED_CONCURRENT).collect().await;
    done.into_iter().collect()
}

/// Takes back the writes of schedulers that died while they published them.
///
/// # Errors
/// Those of the warehouse and of the stores.
pub async fn take_back_old_writes(catalog: &Catalog, warehouse: &Directory, stores: &ObjectStores) -> Result<()> {
    let log = warehouse.child(WRITES)?;
    let before = unix_ms().saturating_sub(PENDING_MAX.as_millis() as u64);
    let snapshot = catalog.snapshot();
    for write in snapshot.pending_since_before(before).iter().chain(snapshot.withdrawn()) {
        let files: Vec<Staged> = match log.get(&manifest(write)).await {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(external)?,
            Err(error) if is_not_found(&error) => vec![],
            Err(error) => return Err(error),
        };
        take_back(catalog, &log, stores, write, &files).await?;
        tracing::warn!(target: "covey", write, "a write that was not published to its end was taken back");
    }
    Ok(())
}

pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// Removes what a job has staged when it fails or is cancelled.
struct SweepOnDrop {
    stores: Arc<ObjectStores>,
    directory: Url,
    write: String,
}

impl SweepOnDrop {
    fn disarm(mut self) -> String {
        std::mem::take(&mut self.write)
    }
}

impl Drop for SweepOnDrop {
    fn drop(&mut self) {
        if self.write.is_empty() {
            return;
        }
        let (stores, directory, write) = (Arc::clone(&self.stores), self.directory.clone(), self.write.clone());
        tokio::spawn(async move {
            for pause in SWEEPS {
                tokio::time::sleep(pause).await;
                if let Err(error) = sweep(&stores, &directory, &write).await {
                    tracing::warn!(target: "covey", %directory, %error, "files of a write that failed are left");
                }
            }
        });
    }
}
