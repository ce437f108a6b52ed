//! The driver of a fit: from the query to a model.
//!
//! ```text
//! prepare    the query, equal rows collapsed ............... files of documents (text) or blocks (numbers)
//! vectorize  text only: terms counted, vocabulary, TF-IDF .. blocks
//! iterate    seed, then pass after pass over the blocks .... centroids     (local: all of it as one task)
//!            n_clusters 'auto': for every k, and the elbow
//! finish     sizes, inertia, examples ...................... model
//! ```
//!
//! Every step is a Ballista job over the same blocks. The driver is one future: dropping it cancels the job that
//! runs, withdraws what was published and removes the intermediate files.

mod carry;
mod explain;
mod given;
mod hub;
mod iterate;
mod prepare;
mod seeds;
mod sweep;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use covey_engine::failure::plain_text;
use covey_engine::models::cache::ModelCache;
use covey_engine::models::{Manifest, ModelFeatures, ModelFiles, ModelRegistry, NewModel, Parent, Seen};
use covey_engine::operators::{BlockWork, BlocksExec, block_source};
use covey_engine::storage::Directory;
use covey_engine::user_err;
use covey_udfs::kmeans::{COORDINATES_MAX, FixedPoint, Profile, start_of};
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

pub(crate) use explain::explain_fit;
use given::check_given;
pub use hub::FitHub;
use hub::Publication;
pub(crate) use prepare::{WEIGHT_COLUMN, feature_names};

/// Blocks up to this many bytes are fitted in one task where the strategy is 'auto': what an executor's block
/// cache holds by default.
const LOCAL_BYTES_MAX: u64 = covey_engine::block_cache::BLOCK_CACHE_BYTES_DEFAULT as u64;

/// Where intermediate files are, below the warehouse: a directory for each fit.
const FITS: &str = "fits";

/// No fit takes so long.
const FIT_AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Bytes of a stored value: its index and its number.
const VALUE_BYTES: u64 = 12;

/// What a fit works with.
pub struct FitContext<'a> {
    pub session: Arc<SessionContext>,
    pub cluster: &'a dyn Cluster,
    pub models: &'a ModelRegistry,
    pub cache: &'a ModelCache,
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
    /// Of all rows, in weight units.
    weight: u128,
    n_skipped: u64,
    /// Stored numbers over all blocks.
    n_values: u64,
}

/// One fit that is under way.
struct Fit<'a> {
    context: &'a FitContext<'a>,
    options: &'a FitOptions,
    id: String,
    // Before the publication, which a process that ends waits for.
    cleanup: RemoveOnDrop,
    published: Publication,
    directory: Directory,
}

/// Fits the model of a statement, whose query is planned and bound, and writes it.
///
/// # Errors
/// Also when the process is told to end meanwhile.
pub async fn create_model(context: &FitContext<'_>, create: &CreateModel, query: LogicalPlan) -> Result<Manifest> {
    tokio::select! {
        made = fit_model(context, create, query) => made,
        () = context.hub.closed() => user_err!("the fit was cancelled: the scheduler is stopping"),
    }
}

async fn fit_model(context: &FitContext<'_>, create: &CreateModel, query: LogicalPlan) -> Result<Manifest> {
    let parent = match &create.recluster {
        Some(recluster) => Some((context.models.get(&recluster.model).await?, recluster.cluster)),
        None => None,
    };
    let seen = see_free(context.models, create).await?;
    context.cluster.require_executors().await?;
    let id = Uuid::now_v7().to_string();
    let directory = context.warehouse.child(FITS)?.child(&id)?;
    let cleanup = RemoveOnDrop { directory: directory.clone(), hub: Arc::clone(context.hub), cut_off: true };
    let published = context.hub.open(&id, Arc::clone(&context.job));
    let mut fit = Fit { context, options: &create.options, id, cleanup, published, directory };
    let mut new = fit.run(create, query).await?;
    let of_parent = |(parent, cluster): &(Manifest, u32)| Parent {
        model: parent.name.clone(),
        version: parent.version,
        cluster: *cluster,
    };
    new.parent = parent.as_ref().map(of_parent);
    fit.cleanup.cut_off = false;
    if seen.exists {
        carry::carry_labels(context.models, &mut new).await;
    }
    let made = context.models.create(new, &seen).await?;
    if let Some((parent, cluster)) = parent {
        let linked = context.models.set_child(&parent.name, parent.version, cluster, &made.name).await;
        if let Err(error) = linked {
            return user_err!(
                "model {:?} is there, but model {:?} does not lead to it: {}",
                made.name,
                parent.name,
                plain_text(&error)
            );
        }
    }
    Ok(made)
}

/// # Errors
/// When the name is taken and the statement does not say that the model may be replaced.
async fn see_free(models: &ModelRegistry, create: &CreateModel) -> Result<Seen> {
    let seen = models.seen(&create.name).await?;
    if seen.exists && !create.or_replace {
        return user_err!("model {:?} exists; use CREATE OR REPLACE MODEL to train it again", create.name);
    }
    Ok(seen)
}

/// Removes the intermediate files of a fit when it has ended, however it did.
struct RemoveOnDrop {
    directory: Directory,
    hub: Arc<FitHub>,
    /// Tasks of the fit may still run, and write.
    cut_off: bool,
}

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        self.hub.remove_files(self.directory.clone(), self.cut_off);
    }
}

/// Removes what fits of killed processes have left. Another scheduler may use the same warehouse, so only what is
/// older than any fit is removed: the name of a fit tells when it began.
pub async fn sweep(warehouse: &Directory) -> Result<()> {
    let fits = warehouse.child(FITS)?;
    let (_, names) = fits.list("").await?;
    for name in names {
        let began = Uuid::parse_str(&name).ok().and_then(|id| id.get_timestamp()).map(|time| time.to_unix().0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if began.is_some_and(|began| now.saturating_sub(Duration::from_secs(began)) > FIT_AGE_MAX) {
            fits.child(&name)?.delete_all().await?;
        }
    }
    Ok(())
}

impl Fit<'_> {
    async fn run(&self, create: &CreateModel, query: LogicalPlan) -> Result<NewModel> {
        check_given(self.context.models, &self.context.session, self.options).await?;
        let prepared = self.prepare(query).await?;
        self.check_coordinates(&prepared)?;
        let strategy = self.strategy(&prepared);
        self.published.profile(&prepared.profile)?;
        let scale = FixedPoint::new(&prepared.profile);
        if let Some(given) = self.given_centres(&prepared).await? {
            self.published.given(&given);
        }
        let solution = self.iterate(&prepared, &scale, strategy).await?;
        Ok(NewModel {
            name: create.name.clone(),
            query: create.query.clone().unwrap_or_default(),
            parent: None,
            labels: BTreeMap::new(),
            label_matches: BTreeMap::new(),
            options: self.options.recorded(prepared.vocabulary.is_some()),
            files: ModelFiles {
                centroids: solution.centroids,
                vocabulary: prepared.vocabulary,
                clusters: solution.clusters,
                iterations: solution.iterations,
                elbow: solution.elbow,
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

    fn check_coordinates(&self, prepared: &Prepared) -> Result<()> {
        let d = prepared.profile.n_features();
        let (k, option) = match self.options.elbow {
            Some(elbow) => (start_of(elbow.k_max), "k_max"),
            None => (self.options.n_clusters, "n_clusters"),
        };
        if k.saturating_mul(d) > COORDINATES_MAX {
            return user_err!(
                "{k} clusters of {d} features have more than the limit of {COORDINATES_MAX} coordinates: lower {option}, or set max_features"
            );
        }
        Ok(())
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
        self.context.job.stage(work.stage());
        let name = format!("fit {}: {}", self.id, work.name());
        let plan: Arc<dyn ExecutionPlan> =
            Arc::new(BlocksExec::new(self.id.clone(), work, block_source(urls, n_partitions)?));
        self.context.cluster.run(&name, Arc::clone(&self.context.session), plan).await
    }

    fn n_partitions(&self) -> usize {
        self.context.session.copied_config().target_partitions()
    }
}
