//! Exact Lloyd's k-means on weighted sparse rows, as pieces that a driver puts together.
//!
//! The reference arithmetic, which every label and number here is defined by: `f64`, features in ascending
//! order, no fused multiply-add. The score of cluster `j` for row `x` is `‖c_j‖² − 2·(x·c_j)` where rows are sparse,
//! and `Σ(x − c_j)²` where they are dense: the first costs only the non-zeros, and cancels when rows lie far from
//! zero, which normalised text does not and numbers may. The label is the lowest score, ties to the lowest index.
//! Sums are exact ([`FixedPoint`]), so they do not depend on the order of rows, blocks, threads or executors.
//!
//! ```text
//! seed ─► Lloyd ─► assign(every block) ─► merge Partials ─► [farthest, if clusters are empty] ─► advance ─┐
//!           ▲                                                                                            │
//!           └────────────────────────────── until converged or max_iter ─────────────────────────────────┘
//! ```

mod assign;
mod centroids;
mod fixed_point;
mod lloyd;
mod partial;
mod seeding;

pub use assign::{Assignment, Cancel, assign, farthest, labels, summarize};
pub use centroids::{CentroidTable, Centroids};
pub use fixed_point::{FixedPoint, Profile};
pub use lloyd::{IterationStats, Lloyd, LloydParams};
pub use partial::{ClusterSummary, FarPoint, Nearest, Partial};
pub use seeding::{Init, SEED_POINTS_MAX, seed};

/// Most clusters of one model.
pub const CLUSTERS_MAX: usize = 10_000;
