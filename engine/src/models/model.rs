//! A model in memory, and the files it is made of.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use covey_udfs::kmeans::{CentroidTable, Centroids, Choice, ElbowPoint, Frame, IterationStats};
use covey_udfs::matrix::Density;
use covey_udfs::tfidf::Vocabulary;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray, Float64Array, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Float64Type, Schema};
use datafusion::common::exec_datafusion_err;
use datafusion::error::Result;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Manifest, ModelFeatures, vocabulary_file};
use crate::blocks::{read_ipc, write_ipc};
use crate::external;

pub(super) const CENTROIDS: &str = "centroids.arrow";
pub(super) const VOCABULARY: &str = "vocabulary.arrow";
pub(super) const CLUSTERS: &str = "clusters.json";
pub(super) const ITERATIONS: &str = "iterations.json";
pub(super) const ELBOW: &str = "elbow.json";

/// The final numbers of one cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterRow {
    pub cluster: u32,
    /// Σ of weights: rows, where the query has no weight.
    #[serde(with = "covey_udfs::exact")]
    pub size: f64,
    /// Distinct rows.
    pub n_points: u64,
    #[serde(with = "covey_udfs::exact")]
    pub inertia: f64,
    /// The row nearest to the centre.
    pub example: Option<String>,
    /// The nearest first.
    #[serde(default)]
    pub nearest: Vec<Example>,
    /// The farthest first.
    #[serde(default)]
    pub farthest: Vec<Example>,
}

/// A row of the training data as an example of its cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// The text, or the numbers.
    pub text: String,
    /// To the centre; none for a text without a known term that was taken for want of others.
    #[serde(with = "covey_udfs::exact::option")]
    pub distance: Option<f64>,
    /// Σ of weights of the rows that are equal to it.
    #[serde(with = "covey_udfs::exact")]
    pub size: f64,
}

/// One iteration and who worked on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IterationRow {
    /// Which of the `n_init` runs.
    pub run: usize,
    pub stats: IterationStats,
    #[serde(flatten)]
    pub work: PassWork,
}

/// Who worked on a pass over the blocks, and where these were.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PassWork {
    /// Distinct rows that each executor assigned.
    pub points_by_executor: BTreeMap<String, u64>,
    /// Blocks that were in the memory of the executor that worked on them, and those that it read. Both 0 where all
    /// iterations were one task, which holds its blocks to the end.
    #[serde(default)]
    pub cache_hits: u64,
    #[serde(default)]
    pub cache_misses: u64,
    /// Rows that were left where they are by their bounds alone.
    #[serde(default)]
    pub skipped: u64,
}

/// What was found for every number of clusters that the model could have had.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ElbowCurve {
    /// By rising number of clusters.
    pub points: Vec<ElbowPoint>,
    pub choice: Choice,
}

/// What a fit found, before it is written.
#[derive(Debug, Clone)]
pub struct ModelFiles {
    pub centroids: Centroids,
    pub vocabulary: Option<Vocabulary>,
    pub clusters: Vec<ClusterRow>,
    pub iterations: Vec<IterationRow>,
    /// Where the number of clusters was not given.
    pub elbow: Option<ElbowCurve>,
}

impl ModelFiles {
    pub fn encode(&self) -> Result<BTreeMap<String, Bytes>> {
        let mut files = BTreeMap::from([
            (CENTROIDS.to_string(), encode_centroids(&self.centroids)?),
            (CLUSTERS.to_string(), serde_json::to_vec(&self.clusters).map_err(external)?.into()),
            (ITERATIONS.to_string(), serde_json::to_vec(&self.iterations).map_err(external)?.into()),
        ]);
        if let Some(vocabulary) = &self.vocabulary {
            files.insert(VOCABULARY.to_string(), vocabulary_file::encode(vocabulary)?);
        }
        if let Some(elbow) = &self.elbow {
            files.insert(ELBOW.to_string(), serde_json::to_vec(elbow).map_err(external)?.into());
        }
        Ok(files)
    }

    pub(super) fn decode(files: &BTreeMap<String, Bytes>, url: &str) -> Result<Self> {
        let file = |name: &str| {
            files.get(name).cloned().ok_or_else(|| exec_datafusion_err!("the model at {url} has no file {name}"))
        };
        Ok(Self {
            centroids: decode_centroids(file(CENTROIDS)?, url)?,
            vocabulary: files.get(VOCABULARY).map(|bytes| vocabulary_file::decode(bytes.clone(), url)).transpose()?,
            clusters: serde_json::from_slice(&file(CLUSTERS)?).map_err(external)?,
            iterations: serde_json::from_slice(&file(ITERATIONS)?).map_err(external)?,
            elbow: files.get(ELBOW).map(|bytes| serde_json::from_slice(bytes).map_err(external)).transpose()?,
        })
    }

    /// Over centroids, sizes, vocabulary and options; not over times, layout or strategy.
    pub fn digest(&self, options: &BTreeMap<String, String>) -> String {
        let mut sha = Sha256::new();
        for (name, value) in options {
            sha.update(format!("{name}={value}\n"));
        }
        sha.update((self.centroids.n_features() as u64).to_le_bytes());
        self.centroids.values().for_each(|value| sha.update(value.to_bits().to_le_bytes()));
        for cluster in &self.clusters {
            sha.update(cluster.cluster.to_le_bytes());
            sha.update(cluster.size.to_bits().to_le_bytes());
        }
        if let Some(vocabulary) = &self.vocabulary {
            for (term, idf) in vocabulary.terms().iter().zip(vocabulary.idf()) {
                sha.update(term.as_bytes());
                sha.update([0]);
                sha.update(idf.to_bits().to_le_bytes());
            }
        }
        sha.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn encode_centroids(centroids: &Centroids) -> Result<Bytes> {
    let item = Arc::new(Field::new_list_field(DataType::Float64, false));
    let values = Arc::new(Float64Array::from_iter_values(centroids.values()));
    let lists = FixedSizeListArray::try_new(item, centroids.n_features() as i32, values, None)?;
    let schema = Schema::new(vec![Field::new("centroid", lists.data_type().clone(), false)]);
    write_ipc(&RecordBatch::try_new(Arc::new(schema), vec![Arc::new(lists) as ArrayRef])?)
}

fn decode_centroids(bytes: Bytes, url: &str) -> Result<Centroids> {
    let batch = read_ipc(bytes, url)?;
    let damaged = || exec_datafusion_err!("the centroids of the model at {url} are damaged");
    let lists = batch.column(0).as_fixed_size_list_opt().ok_or_else(damaged)?;
    let values = lists.values().as_primitive_opt::<Float64Type>().ok_or_else(damaged)?;
    Centroids::try_new(lists.value_length() as usize, values.values().to_vec()).map_err(external)
}

/// A model ready to use.
#[derive(Debug)]
pub struct Model {
    pub manifest: Manifest,
    pub files: ModelFiles,
    pub table: CentroidTable,
    /// By cluster, the models that its rows were clustered by again; where the model is used in a query.
    pub children: BTreeMap<u32, Arc<Self>>,
}

impl Model {
    pub fn new(manifest: Manifest, files: ModelFiles) -> Result<Self> {
        let n_features = files.centroids.n_features();
        let consistent = files.centroids.n_clusters() == manifest.n_clusters
            && n_features == manifest.n_features
            && match &manifest.features {
                ModelFeatures::Text { .. } => files.vocabulary.as_ref().is_some_and(|v| v.len() == n_features),
                ModelFeatures::Columns(columns) => columns.len() == n_features,
                ModelFeatures::List { .. } => true,
            };
        if !consistent {
            return Err(exec_datafusion_err!("the files of model {} do not fit its manifest", manifest.name));
        }
        let density = match manifest.features {
            ModelFeatures::Text { .. } => Density::Sparse,
            ModelFeatures::Columns(_) | ModelFeatures::List { .. } => Density::Dense,
        };
        let frame = Frame::of_centroids(density, &files.centroids);
        let table = CentroidTable::new(files.centroids.clone(), frame);
        Ok(Self { manifest, files, table, children: BTreeMap::new() })
    }

    /// The `n` terms with the highest weight at the centre of `cluster`, highest first; ties by term.
    pub fn top_terms(&self, cluster: usize, n: usize) -> Vec<(String, f64)> {
        let centre = self.files.centroids.centre(cluster);
        let mut terms: Vec<(String, f64)> = centre
            .iter()
            .enumerate()
            .filter(|(_, weight)| **weight != 0.0)
            .map(|(feature, weight)| (self.feature_name(feature), *weight))
            .collect();
        terms.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        terms.truncate(n);
        terms
    }

    fn feature_name(&self, feature: usize) -> String {
        match (&self.files.vocabulary, &self.manifest.features) {
            (Some(vocabulary), _) => vocabulary.terms()[feature].clone(),
            (None, ModelFeatures::Columns(columns)) => columns[feature].clone(),
            (None, _) => feature.to_string(),
        }
    }
}
