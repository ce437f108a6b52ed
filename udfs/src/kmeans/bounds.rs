//! Hamerly's bounds (2010): what lets a pass leave a row where it is without scoring it.
//!
//! A row keeps an upper bound of the distance to its centre and a lower bound of that to every other. Centres move:
//! the first grows by the way of its centre, the second shrinks by the longest way of all. While they do not meet, the
//! row stays. Ways are added up once for all rows ([`Drift`]), so a row that is skipped costs a look at three numbers.
//!
//! A row whose own centre has not moved can only be won by one that has. Where few have moved, it is scored against
//! those alone, and compared with the score of its own centre, which is still what it was. Its lower bound then need not
//! shrink: those that moved lie as far as was found, and the others as far as before.
//!
//! All distances are those of the frame, where rows have a norm of about one. Bounds are rounded outward, and a gap as
//! wide as what the reference arithmetic may err by is left between them: a row that is skipped has the label that
//! the reference arithmetic would give it.

use super::Frame;

/// How far apart the bounds of a row must be for it to be skipped: its square is above the error of a squared distance
/// in reference arithmetic, of as many values as a kernel takes.
const GAP: f64 = 1.0 / 32_768.0;

/// Distances are widened by this for the rounding of sums of ways.
const SLACK: f64 = 1e-9;

/// How far centres have moved since the run began.
#[derive(Debug, Clone)]
pub struct Drift {
    /// Of each cluster, the sum of its ways.
    of_cluster: Vec<f64>,
    /// The sum over iterations of the longest way, and that of the last iteration.
    longest: f64,
    last: f64,
    /// From distances of the data to those of the frame.
    scale: f64,
}

impl Drift {
    pub fn new(n_clusters: usize, frame: &Frame) -> Self {
        Self { of_cluster: vec![0.0; n_clusters], longest: 0.0, last: 0.0, scale: frame.scale() }
    }

    /// What [`Self::values`] gave elsewhere, for passes only; none where there are no values.
    pub fn of_values(mut values: Vec<f64>) -> Option<Self> {
        let longest = values.pop()?;
        Some(Self { of_cluster: values, longest, last: 0.0, scale: 1.0 })
    }

    /// The sums of the ways of each cluster, and that of the longest ones.
    pub fn values(&self) -> Vec<f64> {
        self.of_cluster.iter().copied().chain([self.longest]).collect()
    }

    /// The last centre takes the number of this one.
    pub fn swap_remove(&mut self, cluster: usize) {
        self.of_cluster.swap_remove(cluster);
    }

    /// Adds the squares of the ways of an iteration.
    pub fn add(&mut self, squared_shifts: &[f64]) {
        let mut longest: f64 = 0.0;
        for (sum, squared) in self.of_cluster.iter_mut().zip(squared_shifts) {
            let way = libm::sqrt(*squared) * self.scale * (1.0 + SLACK);
            *sum += way;
            longest = longest.max(way);
        }
        self.longest += longest;
        self.last = longest;
    }
}

/// The bounds of the rows of a block, less and plus the drift at the time when they were found.
#[derive(Debug, Clone)]
pub struct Bounds {
    upper: Vec<f32>,
    lower: Vec<f32>,
    /// Of the row's centre, NaN where it is not known.
    scores: Vec<f32>,
}

/// The bounds of some rows in turn.
pub(super) struct BoundsMut<'a> {
    upper: &'a mut [f32],
    lower: &'a mut [f32],
    scores: &'a mut [f32],
    drift: &'a Drift,
}

impl Bounds {
    /// Bounds that skip nothing.
    pub(super) fn unknown(n_rows: usize) -> Self {
        let (upper, lower) = (vec![f32::INFINITY; n_rows], vec![f32::NEG_INFINITY; n_rows]);
        Self { upper, lower, scores: vec![f32::NAN; n_rows] }
    }

    pub(super) fn n_rows(&self) -> usize {
        self.upper.len()
    }

    /// Nothing is known of row `i` any more.
    pub(super) fn forget(&mut self, i: usize) {
        (self.upper[i], self.lower[i], self.scores[i]) = (f32::INFINITY, f32::NEG_INFINITY, f32::NAN);
    }

    /// The bounds of each of the blocks of rows that a pass works on at once.
    pub(super) fn chunks<'a>(&'a mut self, n_rows: usize, drift: &'a Drift) -> Vec<BoundsMut<'a>> {
        let parts =
            self.upper.chunks_mut(n_rows).zip(self.lower.chunks_mut(n_rows)).zip(self.scores.chunks_mut(n_rows));
        parts.map(|((upper, lower), scores)| BoundsMut { upper, lower, scores, drift }).collect()
    }
}

impl BoundsMut<'_> {
    /// Whether row `i`, which is in `cluster`, stays there.
    pub fn holds(&self, i: usize, cluster: u32) -> bool {
        let upper = f64::from(self.upper[i]) + self.drift.of_cluster[cluster as usize];
        upper + GAP < f64::from(self.lower[i]) - self.drift.longest
    }

    /// Whether row `i`, which is in `cluster`, is nearer to its centre than what lies at least at `squared_lower` from it
    /// in the frame.
    pub fn is_nearer_than(&self, i: usize, cluster: u32, squared_lower: f64) -> bool {
        let upper = f64::from(self.upper[i]) + self.drift.of_cluster[cluster as usize];
        upper + GAP < libm::sqrt(squared_lower.max(0.0)) * (1.0 - SLACK)
    }

    /// Centres that moved without a trace in the drift lie at least at `squared_lower` from row `i` in the frame.
    pub fn lower(&mut self, i: usize, squared_lower: f64) {
        let lower = libm::sqrt(squared_lower.max(0.0)) * (1.0 - SLACK) + self.drift.longest;
        self.lower[i] = self.lower[i].min((lower as f32).next_down());
    }

    /// The centres that moved in the last iteration lie at least at `squared_lower` from row `i` in the frame; the others are
    /// as far as they were before it.
    pub fn raise(&mut self, i: usize, squared_lower: f64) {
        let moved = libm::sqrt(squared_lower.max(0.0)) * (1.0 - SLACK) + self.drift.longest;
        let others = f64::from(self.lower[i]) + self.drift.last;
        self.lower[i] = (moved.min(others) as f32).next_down();
    }

    /// The score of row `i` for its own centre, as it was when the row was last scored against all.
    pub fn score(&self, i: usize) -> f32 {
        self.scores[i]
    }

    /// Takes squares of distances in the frame: to the centre of `cluster` at most, and to every other at least.
    pub fn set(&mut self, i: usize, cluster: u32, score: f32, squared_upper: f64, squared_lower: f64) {
        self.scores[i] = score;
        let upper = libm::sqrt(squared_upper.max(0.0)) * (1.0 + SLACK) - self.drift.of_cluster[cluster as usize];
        self.upper[i] = (upper as f32).next_up();
        let lower = libm::sqrt(squared_lower.max(0.0)) * (1.0 - SLACK);
        self.lower[i] = ((lower + self.drift.longest) as f32).next_down();
    }

    /// The centre of row `i` has moved since the row was scored.
    pub fn forget_score(&mut self, i: usize) {
        self.scores[i] = f32::NAN;
    }

    pub fn forget(&mut self, i: usize) {
        (self.upper[i], self.lower[i], self.scores[i]) = (f32::INFINITY, f32::NEG_INFINITY, f32::NAN);
    }
}
