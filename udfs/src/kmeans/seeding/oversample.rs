//! k-means|| (Bahmani et al. 2012): a few passes each draw many rows at once by weight times D²; each of these candidates
//! then weighs what lies nearest to it, and k-means++ chooses among them. The paper draws every row by itself, with a
//! probability that takes the sum of all D²; here a [`Race`] draws a fixed number, which takes none.

use super::race::{Drawn, Race};
use super::{Prospects, SeedParams};
use crate::kmeans::{COORDINATES_MAX, Cancel, CentroidTable, Centroids, Frame};
use crate::matrix::{Density, Points, Rows};

/// Rounds of draws after the first row: what the paper found enough.
pub const OVERSAMPLING_ROUNDS: usize = 5;

/// Rows that a round draws for each cluster: the paper's ℓ.
pub const OVERSAMPLING: usize = 2;

/// The number of the first round of draws: k-means++ counts its own from 0.
const FIRST_ROUND: u64 = 1 << 63;

impl SeedParams {
    /// Fewer rows are drawn where they are so wide that their table would be too large.
    fn oversampling(&self, round: usize, n_features: usize) -> Race {
        let n = (OVERSAMPLING * self.n_clusters).min(COORDINATES_MAX / n_features.max(1)).max(1);
        let n = if round == 0 { 1 } else { n };
        Race { random_state: self.random_state, round: FIRST_ROUND + round as u64, n }
    }

    /// What counts of the rows that parts of the data drew in a round.
    pub fn first_candidates(&self, drawn: &mut Vec<Drawn>, round: usize, n_features: usize) {
        Drawn::first(drawn, self.oversampling(round, n_features).n);
    }
}

/// The rows that were drawn so far.
#[derive(Debug)]
pub struct Candidates {
    rows: Rows,
    /// Where each round begins.
    starts: Vec<usize>,
}

impl Candidates {
    pub fn new(density: Density, n_features: usize) -> Self {
        Self { rows: Rows::new(density, n_features), starts: vec![] }
    }

    /// The number of the first candidate of each round that has drawn rows.
    pub fn starts(&self) -> &[usize] {
        &self.starts
    }

    pub fn len(&self) -> usize {
        self.rows.n_rows()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes what all parts of the data drew in a round, and gives the rows that count. Nothing where there is no row that
    /// is not a candidate yet.
    pub fn take(&mut self, mut drawn: Vec<Drawn>, params: &SeedParams) -> Option<Centroids> {
        let n_features = self.rows.n_features();
        params.first_candidates(&mut drawn, self.starts.len(), n_features);
        if drawn.is_empty() {
            return None;
        }
        self.starts.push(self.rows.n_rows());
        drawn.iter().for_each(|drawn| self.rows.push_row(drawn.row.row(0)));
        Some(Centroids::from_rows(n_features, drawn.iter().map(|drawn| drawn.row.row(0))))
    }

    /// The candidates by the weight of the rows that are nearest to each.
    pub fn into_points(self, weights: Vec<u64>) -> Points {
        assert_eq!(self.len(), weights.len());
        Points { rows: self.rows, weights }
    }
}

impl Prospects {
    /// What these rows give a round of draws.
    pub fn draw_candidates(
        &self,
        params: &SeedParams,
        round: usize,
        n_features: usize,
        cancel: &Cancel,
    ) -> Option<Vec<Drawn>> {
        self.draw(params.oversampling(round, n_features), cancel)
    }

    /// What all rounds over these rows draw. `None` when cancelled.
    pub(super) fn candidates(
        mut self,
        params: &SeedParams,
        frame: &Frame,
        n_features: usize,
        cancel: &Cancel,
    ) -> Option<Self> {
        let mut candidates = Candidates::new(frame.density(), n_features);
        for round in 0..=OVERSAMPLING_ROUNDS {
            let first = candidates.len();
            let drawn = self.draw_candidates(params, round, n_features, cancel)?;
            let Some(rows) = candidates.take(drawn, params) else { break };
            self.approach(&CentroidTable::new(rows, frame.clone()), first as u32, cancel)?;
        }
        let weights = self.weights_of_candidates(candidates.len());
        Some(Self::of_points(candidates.into_points(weights), frame, self.metric))
    }
}
