//! The manifest: everything about a model but its numbers, as JSON with a checksum of its own.

use std::collections::BTreeMap;

use covey_udfs::tfidf::TfidfParams;
use datafusion::common::exec_err;
use datafusion::error::Result;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{external, user_err};

/// Longest name of a model.
pub const MODEL_NAME_CHARACTERS_MAX: usize = 128;

/// The layout of files that this version writes and reads.
pub const FORMAT: u32 = 1;

/// What a model takes as input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ModelFeatures {
    Text { column: String, params: TfidfParams },
    Columns(Vec<String>),
    List { column: String },
}

/// A file of the model and how to tell that it is whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Below the model's directory.
    pub path: String,
    pub bytes: u64,
    pub sha256: String,
}

/// The option, recorded in a model, that says how rows and centres are compared, and the value that is not the default.
pub const METRIC_OPTION: &str = "metric";
pub const METRIC_COSINE: &str = "cosine";

/// The label of rows that lie too far from every centre.
pub const UNKNOWN: &str = "unknown";

/// The cluster that a model was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    pub model: String,
    pub version: u64,
    pub cluster: u32,
}

/// How alike two centres are, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Likeness(#[serde(with = "covey_udfs::exact")] pub f64);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    pub name: String,
    /// Counts fits of this name; 1 is the first.
    pub version: u64,
    /// Counts changes of labels within a version.
    pub revision: u64,
    /// A dropped model leaves this behind, so that versions go on counting.
    pub dropped: bool,
    pub created_unix_ms: u64,
    /// As given and as defaulted, by name.
    pub options: BTreeMap<String, String>,
    pub features: ModelFeatures,
    pub n_clusters: usize,
    /// What the number of clusters was chosen by, where it was not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen_by: Option<String>,
    pub n_features: usize,
    pub n_iter: usize,
    #[serde(with = "covey_udfs::exact")]
    pub inertia: f64,
    /// Rows of the query, without the skipped ones.
    pub n_rows: u64,
    /// Distinct rows.
    pub n_points: u64,
    /// Rows with a NULL feature, which took no part.
    pub n_skipped: u64,
    pub strategy: String,
    /// SHA-256 over centroids, sizes, vocabulary and options: equal for equal results, however computed.
    pub digest: String,
    pub files: BTreeMap<String, FileEntry>,
    pub labels: BTreeMap<u32, String>,
    /// How alike the centres are, 0 to 1, where a label was carried over from the version before.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub label_matches: BTreeMap<u32, Likeness>,
    /// Rows farther from their centre have the label [`UNKNOWN`].
    #[serde(default, skip_serializing_if = "Option::is_none", with = "covey_udfs::exact::option")]
    pub threshold: Option<f64>,
    /// What people have written about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// The query that the model was trained on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// The cluster whose rows it was trained on, where it is one of another model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
    /// Models that the rows of a cluster were clustered by again. One counts only while it says so itself:
    /// [`Self::is_child`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub children: BTreeMap<u32, String>,
    /// SHA-256 of this manifest with this field empty.
    pub checksum: String,
}

impl Manifest {
    /// What stays of a model that was dropped.
    pub fn tombstone(name: &str, version: u64) -> Self {
        Self {
            format: FORMAT,
            name: name.to_string(),
            version,
            revision: 0,
            dropped: true,
            created_unix_ms: 0,
            options: BTreeMap::new(),
            features: ModelFeatures::Columns(vec![]),
            n_clusters: 0,
            chosen_by: None,
            n_features: 0,
            n_iter: 0,
            inertia: 0.0,
            n_rows: 0,
            n_points: 0,
            n_skipped: 0,
            strategy: String::new(),
            digest: String::new(),
            files: BTreeMap::new(),
            labels: BTreeMap::new(),
            label_matches: BTreeMap::new(),
            threshold: None,
            comment: None,
            query: None,
            parent: None,
            children: BTreeMap::new(),
            checksum: String::new(),
        }
    }

    pub fn encode(&self) -> Result<Vec<u8>> {
        let sealed = Self { checksum: self.own_checksum()?, ..self.clone() };
        serde_json::to_vec_pretty(&sealed).map_err(external)
    }

    pub fn decode(bytes: &[u8], url: &str) -> Result<Self> {
        let manifest: Self = match serde_json::from_slice(bytes) {
            Ok(manifest) => manifest,
            Err(e) => {
                return user_err!(
                    "model manifest {url} is corrupt: {e}; restore it, or use DROP MODEL or CREATE OR REPLACE MODEL"
                );
            }
        };
        if manifest.checksum != manifest.own_checksum()? {
            return user_err!(
                "model manifest {url} is corrupt: its checksum differs; restore it, or use DROP MODEL or CREATE OR REPLACE MODEL"
            );
        }
        if manifest.format != FORMAT {
            return exec_err!("model manifest {url} has format {}, this covey reads {FORMAT}", manifest.format);
        }
        Ok(manifest)
    }

    fn own_checksum(&self) -> Result<String> {
        let unsealed = Self { checksum: String::new(), ..self.clone() };
        Ok(hex_sha256(&serde_json::to_vec(&unsealed).map_err(external)?))
    }

    /// Whether `child` was made of `cluster` of this version: its name may be that of another model by now.
    pub fn is_child(&self, cluster: u32, child: &Self) -> bool {
        let of_this =
            |parent: &Parent| (&parent.model, parent.version, parent.cluster) == (&self.name, self.version, cluster);
        child.parent.as_ref().is_some_and(of_this)
    }

    /// Whether rows are scaled to length 1 before they are compared.
    pub fn has_unit_length(&self) -> bool {
        self.options.get(METRIC_OPTION).is_some_and(|metric| metric == METRIC_COSINE)
    }

    pub fn file_name(&self) -> String {
        format!("{:08}-{:08}.json", self.version, self.revision)
    }
}

pub(super) fn hex_sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// # Errors
/// When `name` cannot name a directory everywhere: it must be 1 to [`MODEL_NAME_CHARACTERS_MAX`] of letters,
/// digits, `_` and `-`.
pub fn check_model_name(name: &str) -> Result<()> {
    let fits = (1..=MODEL_NAME_CHARACTERS_MAX).contains(&name.len());
    if fits && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)) {
        return Ok(());
    }
    user_err!("{name:?} cannot name a model: use 1 to {MODEL_NAME_CHARACTERS_MAX} ASCII letters, digits, '_' and '-'")
}
