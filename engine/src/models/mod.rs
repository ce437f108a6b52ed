//! Models in the warehouse: what a fit leaves, kept versioned and checksummed, and used by SQL functions.
//!
//! ```text
//! models/NAME/00000002-00000001.json             a manifest: version 2, revision 1 (a label was set); the last one counts
//! models/NAME/data/00000002-ID/centroids.arrow   files of one fit, named by manifests, never changed
//! ```
//!
//! A manifest is written last and only if its name is free, so a model is there whole or not at all, and of two
//! writers one loses with an error. The version before the one that counts is kept, older ones are removed.

pub mod cache;
pub mod functions;
mod manifest;
mod model;
mod registry;
pub mod vocabulary_file;

pub use manifest::{
    FileEntry, Likeness, METRIC_COSINE, METRIC_OPTION, MODEL_NAME_CHARACTERS_MAX, Manifest, ModelFeatures, Parent,
    UNKNOWN, check_model_name,
};
pub use model::{ClusterRow, ElbowCurve, Example, IterationRow, Model, ModelFiles, PassWork};
pub use registry::{ModelRegistry, NewModel, Seen, check_cluster};
