//! Starting centres: greedy k-means++ (Arthur and Vassilvitskii 2007) and plain random rows, both by exponential
//! [`race`].

mod prospects;
mod race;

use std::sync::atomic::Ordering;

pub(super) use race::Race;
use serde::{Deserialize, Serialize};

pub use prospects::Prospects;
pub use race::Drawn;

use super::kernel::LANES;
use super::{Cancel, CentroidTable, Centroids, FixedPoint, Frame};
use crate::matrix::{Row, Rows};
use crate::{Result, input_err};

/// k-means++ looks at this many distinct rows at most; of more, a weighted sample is taken.
/// It bounds the k passes of seeding to seconds; `docs/decisions/0005-seeding.md` has the reasons.
pub const SEED_POINTS_MAX: usize = 1 << 18;

/// Rows that are drawn in each round of k-means++, of which the best becomes a centre: as many as a kernel scores at
/// once.
pub const TRIALS: usize = LANES;

/// The round that draws the sample of rows: no other has this number.
const SAMPLE_ROUND: u64 = u64::MAX;

/// How starting centres are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Init {
    #[serde(rename = "k-means++")]
    KMeansPlusPlus,
    #[serde(rename = "random")]
    Random,
}

/// Chooses `n_clusters` of all rows as starting centres. `None` when cancelled.
///
/// # Errors
/// When there are fewer than `n_clusters` distinct rows of positive weight.
pub fn seed(
    prospects: Prospects,
    n_clusters: usize,
    init: Init,
    scale: &FixedPoint,
    frame: &Frame,
    random_state: u64,
    cancel: &Cancel,
) -> Result<Option<Centroids>> {
    let seeds = seed_at_most(prospects, n_clusters, init, scale, frame, random_state, cancel);
    let n_found = seeds.as_ref().map_or(n_clusters, Centroids::n_clusters);
    if n_found < n_clusters {
        return input_err!("n_clusters is {n_clusters}, but there are only {n_found} distinct rows to cluster");
    }
    Ok(seeds)
}

/// The same, but all distinct rows where there are fewer than `n_clusters`.
pub fn seed_at_most(
    prospects: Prospects,
    n_clusters: usize,
    init: Init,
    scale: &FixedPoint,
    frame: &Frame,
    random_state: u64,
    cancel: &Cancel,
) -> Option<Centroids> {
    if init == Init::Random {
        if cancel.load(Ordering::Relaxed) {
            return None;
        }
        let rows = prospects.first_distinct(Race { random_state, round: 0, n: n_clusters });
        return Some(Centroids::from_rows(scale.n_features(), rows));
    }
    let sample = Race { random_state, round: SAMPLE_ROUND, n: SEED_POINTS_MAX };
    let mut growth = Growth::new(prospects.sample(sample, frame), frame, scale.n_features(), random_state);
    let mut chosen = Rows::new(frame.density(), scale.n_features());
    for round in 0..n_clusters {
        let Some(next) = growth.next(round as u64, scale, cancel)? else { break };
        growth.lower(next.row(0), cancel)?;
        chosen.push_row(next.row(0));
    }
    Some(Centroids::from_rows(scale.n_features(), (0..chosen.n_rows()).map(|i| chosen.row(i))))
}

/// The search for centres, one after the other.
#[derive(Debug)]
struct Growth {
    prospects: Prospects,
    /// Room for rows that are tried.
    trials: CentroidTable,
    random_state: u64,
}

impl Growth {
    fn new(prospects: Prospects, frame: &Frame, n_features: usize, random_state: u64) -> Self {
        let trials = CentroidTable::new(Centroids::zeros(TRIALS, n_features), frame.clone());
        Self { prospects, trials, random_state }
    }

    /// The row that is the centre of this round, the best of those drawn by weight times D²; nothing where every row is
    /// a centre already. The first is drawn by weight alone. `None` when cancelled.
    fn next(&mut self, round: u64, scale: &FixedPoint, cancel: &Cancel) -> Option<Option<Rows>> {
        let race = Race { random_state: self.random_state, round, n: if round > 0 { TRIALS } else { 1 } };
        let mut drawn = self.prospects.draw(race, cancel)?;
        let best = match drawn.len() {
            0 => return Some(None),
            1 => 0,
            _ => {
                self.trials.replace(drawn.iter().map(|drawn| drawn.row.row(0)));
                let gains = self.prospects.gains(&self.trials, scale, cancel)?;
                // Of equal ones the first.
                (0..drawn.len()).rev().max_by_key(|&i| gains[i])?
            }
        };
        Some(Some(drawn.swap_remove(best).row))
    }

    /// Takes a centre into account that stays where it is.
    fn lower(&mut self, row: Row<'_>, cancel: &Cancel) -> Option<()> {
        self.trials.replace([row]);
        self.prospects.lower(&self.trials, cancel)
    }
}
