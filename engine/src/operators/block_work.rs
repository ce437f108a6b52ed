//! The kinds of work on blocks, and what each gives.

mod fit;
mod iterate;
mod seed;
mod summary;
mod texts;

use std::sync::Arc;

use bytes::Bytes;
use covey_udfs::kmeans::{CentroidTable, Choice, ElbowPoint, IterationStats, LloydParams, Merge, Metric, SeedParams};
use covey_udfs::tfidf::TfidfParams;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::execution::object_store::ObjectStoreRegistry;
use serde::{Deserialize, Serialize};

use crate::block_cache::HeldBlock;
use crate::coordinator::{Arithmetic, ExecutorServices};

pub use summary::{ExampleRow, SummaryRow};

/// What to do with the files of a partition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum BlockWork {
    /// Documents → term, document frequency, occurrences.
    CountTerms(TfidfParams),
    /// Documents → blocks; url, points and profile of each.
    Vectorize(VectorizeSpec),
    /// Blocks → for each run the URL of a file with the rows that seeding looks at, below the directory.
    Draw { seeds: Vec<SeedSpec>, directory: String },
    /// Blocks → for each run what a round of k-means|| draws, or at its end the weights of the candidates.
    Oversample(Vec<OversamplePass>),
    /// All files of these in one task → the starting centroids.
    Seed(SeedSpec),
    /// Blocks → the sums of their dense rows, or the squares of all rows around the published mean.
    Moments { around_mean: bool },
    /// Blocks → for each run one partial: what an iteration changes. All runs share the pass. What is known of the rows is
    /// kept for these runs and the others that are named.
    Assign { passes: Vec<RunPass>, kept: Vec<usize> },
    /// Blocks → for each run that has ended the distances of rows to its centres. All runs share the pass.
    Distances(Vec<DistancesPass>),
    /// Blocks → `n` rows and one more that were drawn by weight.
    Sample { n: usize, random_state: u64 },
    /// Blocks → the `n` rows farthest from the centroids under this key.
    Farthest { centroids: String, n: usize },
    /// Blocks → the final numbers of each cluster, for the centroids under each of these keys.
    Summarize { centroids: Vec<String>, documents: Vec<(String, String)> },
    /// All blocks in one task → the final centroids of each run: seeding and every iteration in place.
    Fit(FitSpec),
    /// All blocks in one task → the centroids of the number of clusters that the elbow speaks for, and the elbow.
    Sweep(SweepSpec),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VectorizeSpec {
    pub params: TfidfParams,
    /// URL of the vocabulary file.
    pub vocabulary: String,
    /// Directory URL that blocks are written to.
    pub directory: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeedSpec {
    pub params: SeedParams,
    pub metric: Metric,
    /// Take the centres that the fit has published, and choose none.
    pub given: bool,
    /// Give all distinct rows where there are fewer, and no error.
    pub at_most: bool,
}

/// An iteration of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunPass {
    pub run: usize,
    /// Counted from 0.
    pub iteration: usize,
    /// Of the first iteration of a run that goes on from another.
    pub begins: Option<Begins>,
    /// Bounds are kept beside the blocks; how far centres have moved is published.
    pub has_bounds: bool,
}

/// Where a run begins: as that iteration of another run left the rows, with some clusters merged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Begins {
    pub run: usize,
    pub iteration: usize,
    pub merges: Vec<Merge>,
}

/// Σ w·d, quantised, of the rows of each cluster that is asked for, by the labels of an iteration, to the centroids under
/// this key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DistancesPass {
    pub run: usize,
    pub iteration: usize,
    pub centroids: String,
    pub is_asked_for: Vec<bool>,
}

/// A pass of a run's k-means||.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OversamplePass {
    pub run: usize,
    pub seed: SeedSpec,
    /// The number of the first candidate of each round that is published.
    pub starts: Vec<usize>,
    /// There is no round to come: give the weights of the candidates.
    pub is_last: bool,
}

/// Every number of clusters of a range.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SweepSpec {
    /// Of the first run; it gives as many seeds as there are, if these are fewer.
    pub seed: SeedSpec,
    pub lloyd: LloydParams,
    pub k_min: usize,
    pub k_max: usize,
    /// Most numbers of clusters that are solved side by side.
    pub k_batch: usize,
    pub n_init: usize,
    /// Rows that silhouettes are taken over.
    pub n_sample: usize,
}

/// What a sweep in one task gives beside centroids.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Swept {
    pub points: Vec<ElbowPoint>,
    pub choice: Choice,
    /// Of each run.
    pub history: Vec<Vec<IterationStats>>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FitSpec {
    /// Of each run.
    pub seeds: Vec<SeedSpec>,
    pub lloyd: LloydParams,
}

impl BlockWork {
    pub fn name(&self) -> &'static str {
        match self {
            Self::CountTerms(_) => "count terms",
            Self::Vectorize(_) => "vectorize",
            Self::Draw { .. } => "draw",
            Self::Oversample(_) => "oversample",
            Self::Seed(_) => "seed",
            Self::Moments { .. } => "moments",
            Self::Assign { .. } => "assign",
            Self::Farthest { .. } => "farthest",
            Self::Summarize { .. } => "summarize",
            Self::Fit(_) => "fit",
            Self::Sweep(_) => "sweep",
            Self::Distances(_) => "distances",
            Self::Sample { .. } => "sample",
        }
    }

    /// Whether each partition is worked on by itself, once: such tasks are short, whatever becomes of the fit.
    pub fn is_pass(&self) -> bool {
        !matches!(self, Self::Seed(_) | Self::Fit(_) | Self::Sweep(_))
    }

    /// What a fit is at, told in the words of its user.
    pub fn stage(&self) -> &'static str {
        match self {
            Self::CountTerms(_) => "count terms",
            Self::Vectorize(_) => "vectorize",
            // A fit in one task seeds first, and tells when it iterates.
            Self::Draw { .. } | Self::Seed(_) | Self::Fit(_) | Self::Sweep(_) => "seed",
            Self::Moments { .. } | Self::Sample { .. } | Self::Oversample(_) => "seed",
            Self::Assign { .. } | Self::Farthest { .. } | Self::Distances(_) => "iterate",
            Self::Summarize { .. } => "summarize",
        }
    }

    pub(super) fn schema(&self) -> SchemaRef {
        let fields: &[(&str, DataType, bool)] = match self {
            Self::CountTerms(_) => &[
                ("term", DataType::Utf8, false),
                ("documents", DataType::UInt64, false),
                ("occurrences", DataType::UInt64, false),
            ],
            Self::Vectorize(_) => &[
                ("executor", DataType::Utf8, false),
                ("url", DataType::Utf8, false),
                ("documents", DataType::Utf8, false),
                ("values", DataType::UInt64, false),
                ("profile", DataType::Utf8, false),
            ],
            Self::Moments { .. }
            | Self::Draw { .. }
            | Self::Oversample(_)
            | Self::Assign { .. }
            | Self::Farthest { .. }
            | Self::Distances(_)
            | Self::Sample { .. } => &[
                ("executor", DataType::Utf8, false),
                ("of", DataType::UInt32, false),
                ("points", DataType::UInt64, false),
                ("cache_hits", DataType::UInt64, false),
                ("cache_misses", DataType::UInt64, false),
                ("result", DataType::Binary, false),
            ],
            Self::Seed(_) | Self::Fit(_) | Self::Sweep(_) => &[
                ("of", DataType::UInt32, false),
                ("result", DataType::Binary, false),
                ("history", DataType::Utf8, false),
            ],
            Self::Summarize { .. } => &[
                ("of", DataType::UInt32, false),
                ("cluster", DataType::UInt32, false),
                ("summary", DataType::Utf8, false),
            ],
        };
        let field =
            |(name, data_type, nullable): &(&str, DataType, bool)| Field::new(*name, data_type.clone(), *nullable);
        Arc::new(Schema::new(fields.iter().map(field).collect::<Vec<_>>()))
    }

    pub(super) async fn run(self, fit: String, urls: Vec<String>, context: Arc<TaskContext>) -> Result<RecordBatch> {
        let schema = self.schema();
        let task = Task {
            fit,
            services: ExecutorServices::of(&context)?,
            stores: Arc::clone(&context.runtime_env().object_store_registry),
            urls,
        };
        let columns = match self {
            Self::CountTerms(params) => texts::count(task, params).await?,
            Self::Vectorize(spec) => texts::vectorize(task, spec).await?,
            Self::Moments { around_mean } => iterate::moments(task, around_mean).await?,
            Self::Assign { passes, kept } => iterate::assign(task, passes, &kept).await?,
            Self::Distances(passes) => iterate::distances(task, passes).await?,
            Self::Sample { n, random_state } => iterate::sample(task, n, random_state).await?,
            Self::Farthest { centroids, n } => iterate::farthest(task, &centroids, n).await?,
            Self::Summarize { centroids, documents } => iterate::summarize(task, centroids, documents).await?,
            Self::Draw { seeds, directory } => seed::draw(task, seeds, &directory).await?,
            Self::Oversample(passes) => seed::oversample(task, passes).await?,
            Self::Seed(spec) => seed::seed(task, spec).await?,
            Self::Fit(spec) => fit::fit(task, spec).await?,
            Self::Sweep(spec) => fit::sweep(task, spec).await?,
        };
        Ok(RecordBatch::try_new(schema, columns)?)
    }
}

/// What every kind of work needs.
struct Task {
    fit: String,
    services: Arc<ExecutorServices>,
    stores: Arc<dyn ObjectStoreRegistry>,
    urls: Vec<String>,
}

impl Task {
    /// All blocks at once, for work that goes over them again and again.
    async fn blocks(&self) -> Result<Vec<Arc<HeldBlock>>> {
        let mut blocks = Vec::with_capacity(self.urls.len());
        for url in &self.urls {
            blocks.push(self.services.block(self.stores.as_ref(), &self.fit, url).await?.0);
        }
        Ok(blocks)
    }

    async fn arithmetic(&self) -> Result<Arc<Arithmetic>> {
        self.services.arithmetic(&self.fit).await
    }

    async fn table(&self, key: &str) -> Result<Arc<CentroidTable>> {
        self.services.table(&self.fit, key).await
    }

    /// What the fit has published under `key`.
    async fn fetch(&self, key: &str) -> Result<Bytes> {
        self.services.coordinator.fetch(&self.fit, key).await
    }
}
