//! Starting centres: greedy k-means++ (Arthur and Vassilvitskii 2007), k-means|| ([`oversample`]) and plain random rows, all
//! by exponential [`race`].

mod oversample;
mod prospects;
mod race;

use std::sync::atomic::Ordering;

pub(super) use race::Race;
use serde::{Deserialize, Serialize};

pub use oversample::{Candidates, OVERSAMPLING, OVERSAMPLING_ROUNDS};
pub use prospects::{Nearest, Prospects};
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
    #[serde(rename = "k-means||")]
    KMeansParallel,
    #[serde(rename = "random")]
    Random,
}

/// What is to be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeedParams {
    pub n_clusters: usize,
    pub init: Init,
    pub random_state: u64,
}

impl SeedParams {
    /// The race whose first rows are all that is looked at.
    fn race(&self) -> Race {
        let random_state = self.random_state;
        match self.init {
            Init::KMeansPlusPlus => Race { random_state, round: SAMPLE_ROUND, n: SEED_POINTS_MAX },
            Init::KMeansParallel => Race { random_state, round: SAMPLE_ROUND, n: usize::MAX },
            Init::Random => Race { random_state, round: 0, n: self.n_clusters },
        }
    }
}

/// Chooses some of all rows as starting centres. `None` when cancelled.
///
/// # Errors
/// When there are fewer distinct rows of positive weight.
pub fn seed(
    prospects: Prospects,
    params: &SeedParams,
    scale: &FixedPoint,
    frame: &Frame,
    cancel: &Cancel,
) -> Result<Option<Centroids>> {
    let seeds = seed_at_most(prospects, params, scale, frame, cancel);
    let n_clusters = params.n_clusters;
    let n_found = seeds.as_ref().map_or(n_clusters, Centroids::n_clusters);
    if n_found < n_clusters {
        return input_err!(
            "n_clusters is {n_clusters}, but only {n_found} rows differ as vectors, have a weight and, where angles count, are not zero: lower n_clusters"
        );
    }
    Ok(seeds)
}

/// The same, but all distinct rows where there are fewer.
pub fn seed_at_most(
    prospects: Prospects,
    params: &SeedParams,
    scale: &FixedPoint,
    frame: &Frame,
    cancel: &Cancel,
) -> Option<Centroids> {
    if params.init == Init::Random {
        if cancel.load(Ordering::Relaxed) {
            return None;
        }
        return Some(Centroids::from_rows(scale.n_features(), prospects.first_distinct(params.race())));
    }
    let (mut prospects, mut params) = (prospects, *params);
    if params.init == Init::KMeansParallel {
        prospects = prospects.candidates(&params, frame, scale.n_features(), cancel)?;
        params.init = Init::KMeansPlusPlus;
    }
    let mut growth = Growth::new(prospects.narrow(&params, frame), frame, scale.n_features(), params.random_state);
    let mut chosen = Rows::new(frame.density(), scale.n_features());
    for round in 0..params.n_clusters {
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
