//! When bounds are kept: where they may pay at all, and while they are seen to.

use super::Partial;
use crate::matrix::Density;

/// Bounds are kept once fewer than this share of the rows moved in a pass.
const MOVED_SHARE_MAX: f64 = 0.2;

/// They are given up when they spare less than this share of the rows,
const SKIPPED_SHARE_MIN: f64 = 0.3;

/// and tried again after so many passes.
const PASSES_WITHOUT_BOUNDS: usize = 4;

/// Where a row has fewer values times clusters, to look at its bounds costs as much as to score it.
const SCORED_MIN: f64 = 2_048.0;

/// A value of a sparse row takes as long as so many of a dense one.
const SPARSE_VALUE: f64 = 8.0;

/// Whether bounds pay, by what they were seen to do.
#[derive(Debug, Clone)]
pub struct Skipping {
    /// What it takes to score a row, for each cluster.
    values_per_row: f64,
    /// Passes with bounds in a row; the first of them only finds them.
    n_passes: usize,
    /// Passes until they are tried again.
    pause: usize,
    is_on: bool,
}

impl Skipping {
    /// For so many rows with so many values in all.
    pub fn new(density: Density, n_rows: u64, n_values: u64) -> Self {
        let value = match density {
            Density::Sparse => SPARSE_VALUE,
            Density::Dense => 1.0,
        };
        let values_per_row = value * n_values as f64 / n_rows.max(1) as f64;
        Self { values_per_row, n_passes: 0, pause: 0, is_on: false }
    }

    /// Whether the next pass keeps bounds.
    pub fn is_on(&self) -> bool {
        self.is_on
    }

    /// Takes in what a pass over all rows did.
    pub fn learn(&mut self, pass: &Partial) {
        let share = |n: u64| n as f64 / pass.n_points.max(1) as f64;
        let is_worth_it = self.values_per_row * pass.n_clusters() as f64 >= SCORED_MIN;
        self.pause = self.pause.saturating_sub(1);
        if self.is_on {
            self.n_passes += 1;
            if !is_worth_it {
                self.is_on = false;
            } else if self.n_passes > 1 && share(pass.n_skipped) < SKIPPED_SHARE_MIN {
                (self.is_on, self.pause) = (false, PASSES_WITHOUT_BOUNDS);
            }
        } else if is_worth_it && self.pause == 0 && share(pass.n_moved) < MOVED_SHARE_MAX {
            (self.is_on, self.n_passes) = (true, 0);
        }
    }
}
