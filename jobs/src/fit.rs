//! The driver of a fit: from the query to a model.
//!
//! ```text
//! prepare    the query, equal rows collapsed ............... files of documents (text) or blocks (numbers)
//! vectorize  text only: terms counted, vocabulary, TF-IDF .. blocks
//! iterate    seed, then pass after pass over the blocks .... centroids     (local: all of it as one task)
//! finish     sizes, inertia, examples ...................... model
//! ```
//!
//! Every step is a Ballista job over the same blocks. The driver is one future: dropping it cancels the job that
//! runs, withdraws what was published and removes the intermediate files.

mod hub;
mod iterate;
mod prepare;

use std::sync::Arc;

use covey_engine::models::{Manifest, ModelFeatures, ModelFiles, ModelRegistry, NewModel};
use covey_engine::operators::{BlockWork, BlocksExec, block_source};
use covey_engine::storage::Directory;
use covey_engine::user_err;
use covey_udfs::kmeans::{FixedPoint, Profile};
use covey_udfs::tfidf::Vocabulary;
use datafusion::arrow::array::RecordBatch;
use datafusion::error::Result;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;
use uuid::Uuid;

use crate::Cluster;
use crate::board::JobHandle;
use crate::statements::{CreateModel, FitOptions, Strategy};

pub use hub::FitHub;
use hub::Publication;

/// Blocks up to this many bytes are fitted in one task where the strategy is 'auto': what an executor's block
/// cache holds by default.
const LOCAL_BYTES_MAX: u64 = covey_engine::blocks::BlockCache::BYTES_MAX_DEFAULT as u64;

/// Bytes of a stored value: its index and its number.
const VALUE_BYTES: u64 = 12;

/// What a fit works with.
pub struct FitContext<'a> {
    pub session: Arc<SessionContext>,
    pub cluster: &'a dyn Cluster,
    pub models: &'a ModelRegistry,
    pub warehouse: &'a Directory,
    pub hub: &'a Arc<FitHub>,
    pub job: Arc<JobHandle>,
}

/// The blocks of a fit and what is known of them.
struct Prepared {
    features: ModelFeatures,
    vocabulary: Option<Vocabulary>,
    /// URL of each block, and for text that of its documents.
    blocks: Vec<(String, Option<String>)>,
    profile: Profile,
    n_points: u64,
    n_rows: u64,
    n_skipped: u64,
    /// Stored numbers over all blocks.
    n_values: u64,
}

/// One fit that is under way.
struct Fit<'a> {
    context: &'a FitContext<'a>,
    options: &'a FitOptions,
    id: String,
    published: Publication,
    directory: Directory,
}

/// Fits the model of a statement, whose query is planned and bound, and writes it.
pub async fn create_model(context: &FitContext<'_>, create: &CreateModel, query: LogicalPlan) -> Result<Manifest> {
    let replaces = context.models.find(&create.name).await?;
    if replaces.is_some() && !create.or_replace {
        return user_err!("model {:?} exists; use CREATE OR REPLACE MODEL to train it again", create.name);
    }
    context.cluster.require_executors().await?;
    let id = Uuid::now_v7().to_string();
    let directory = context.warehouse.child("fits")?.child(&id)?;
    let cleanup = RemoveOnDrop(directory.clone());
    let published = context.hub.open(&id, Arc::clone(&context.job));
    let fit = Fit { context, options: &create.options, id, published, directory };
    let new = fit.run(create.name.clone(), query).await?;
    let manifest = context.models.create(new, replaces.as_ref()).await?;
    drop(cleanup);
    Ok(manifest)
}

/// Removes the intermediate files of a fit when it has ended, however it did.
struct RemoveOnDrop(Directory);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        let directory = self.0.clone();
        tokio::spawn(async move {
            if let Err(error) = directory.delete_all().await {
                tracing::warn!(%error, url = %directory.url(), "intermediate files of a fit were left behind");
            }
        });
    }
}

impl Fit<'_> {
    async fn run(&self, name: String, query: LogicalPlan) -> Result<NewModel> {
        let prepared = self.prepare(query).await?;
        let strategy = self.strategy(&prepared);
        self.published.profile(&prepared.profile)?;
        let scale = FixedPoint::new(&prepared.profile);
        let solution = self.iterate(&prepared, &scale, strategy).await?;
        Ok(NewModel {
            name,
            options: self.options.recorded(prepared.vocabulary.is_some()),
            files: ModelFiles {
                centroids: solution.centroids,
                vocabulary: prepared.vocabulary,
                clusters: solution.clusters,
                iterations: solution.iterations,
            },
            features: prepared.features,
            n_iter: solution.n_iter,
            inertia: solution.inertia,
            n_rows: prepared.n_rows,
            n_points: prepared.n_points,
            n_skipped: prepared.n_skipped,
            strategy: if strategy == Strategy::Local { "local" } else { "distributed" }.to_string(),
        })
    }

    fn strategy(&self, prepared: &Prepared) -> Strategy {
        match self.options.strategy {
            Strategy::Auto if prepared.n_values * VALUE_BYTES <= LOCAL_BYTES_MAX => Strategy::Local,
            Strategy::Auto => Strategy::Distributed,
            forced => forced,
        }
    }

    /// Runs work over files as one job of `n_partitions` tasks at most.
    async fn run_blocks(&self, work: BlockWork, urls: &[String], n_partitions: usize) -> Result<Vec<RecordBatch>> {
        self.context.job.stage(work.name());
        let name = format!("fit {}: {}", self.id, work.name());
        let plan: Arc<dyn ExecutionPlan> = Arc::new(BlocksExec::new(work, block_source(urls, n_partitions)?));
        self.context.cluster.run(&name, Arc::clone(&self.context.session), plan).await
    }

    fn n_partitions(&self) -> usize {
        self.context.session.copied_config().target_partitions()
    }
}
