//! Exact Lloyd's k-means on weighted rows, sparse or dense, as pieces that a driver puts together.
//!
//! Every label is defined by the reference arithmetic (`reference`): the lowest score, ties to the lowest index. The
//! kernels (`kernel`) score in `f32` what `frame` makes of rows and centres, and leave undecided what is too close to
//! call. Sums are exact ([`FixedPoint`], [`ClusterSum`]), so they do not depend on the order of rows, blocks, threads or
//! executors, and an iteration only says what it changes.
//!
//! ```text
//! spread, seed ─► Lloyd ─► pass(every block) ─► merge Partials ─► [farthest, if clusters are empty] ─► advance ─┐
//!                   ▲                                                                                          │
//!                   └───────────────────────────── until converged or max_iter ────────────────────────────────┘
//! ```
//!
//! [`in_place`] does all of it over blocks in memory; on a cluster the passes are tasks.

mod assign;
mod awake;
mod bounds;
mod centroids;
mod distinct;
mod fixed_point;
mod frame;
pub mod in_place;
mod kernel;
#[cfg(target_arch = "x86_64")]
mod kernel_avx2;
#[cfg(target_arch = "x86_64")]
mod kernel_avx512;
mod lloyd;
mod partial;
mod reference;
mod resident;
mod seeding;
mod skipping;
mod sums;
mod sweep;
mod table;
mod wide;

pub use assign::{Assignment, Cancel, Move, NO_CLUSTER, assignments, farthest, squares, summarize, totals};
pub use awake::Awake;
pub use bounds::{Bounds, Drift};
pub use centroids::Centroids;
pub use distinct::Distinct;
pub use fixed_point::{DistanceSum, FixedPoint, Profile};
pub use frame::Frame;
use frame::Image;
pub use lloyd::{Changed, Iterating, IterationStats, Lloyd, LloydParams, Metric, Spread};
pub use partial::{ClusterSummary, EXAMPLES_MAX, FarPoint, Moments, Partial, Ranked, keep_first};
pub use resident::Resident;
pub use seeding::{
    Candidates, Drawn, Init, Nearest, OVERSAMPLING, OVERSAMPLING_ROUNDS, Prospects, SEED_POINTS_MAX, SeedParams, seed,
    seed_at_most,
};
pub use skipping::Skipping;
pub use sums::{ClusterSum, SumScratch};
pub use sweep::{
    Branch, Choice, ElbowPoint, Finished, Merge, SWEEP_CLUSTERS_MAX, Sample, Sweep, SweepStep, best_of, davies_bouldin,
    distances_to_centres, elbow_of, first_rise, start_of,
};
pub use table::{CentroidTable, Scratch};

/// Numbers to go through that are worth another thread: to wake one takes as long.
const SHARED_MIN: usize = 1 << 13;

/// The least length of what a thread takes of a loop that goes through so many numbers in all.
fn min_len(work: usize) -> usize {
    if work < SHARED_MIN { usize::MAX } else { 1 }
}

/// Most clusters of one model.
pub const CLUSTERS_MAX: usize = 10_000;

/// Most coordinates of all centres of one model, clusters times features: 2 GiB.
pub const COORDINATES_MAX: usize = 1 << 28;
