//! What a set of rows adds to a cluster: exact, so that any grouping of rows gives the same bits, and sparse, because
//! a cluster of texts has few of the terms.

use super::FixedPoint;
use crate::matrix::{Density, Row};

/// Quantised Σ w·x over some rows and their Σ w; both are negative where rows left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterSum {
    /// Σ w, in weight units.
    pub weight: i64,
    /// Ascending. A feature may be here with a sum of zero.
    features: Vec<u32>,
    /// Of each feature.
    sums: Vec<i128>,
}

impl ClusterSum {
    /// # Panics
    /// When there is not one sum for each feature. Features must ascend.
    pub fn from_parts(weight: i64, features: Vec<u32>, sums: Vec<i128>) -> Self {
        assert_eq!(features.len(), sums.len());
        debug_assert!(features.windows(2).all(|pair| pair[0] < pair[1]));
        Self { weight, features, sums }
    }

    pub fn features(&self) -> &[u32] {
        &self.features
    }

    pub fn sums(&self) -> &[i128] {
        &self.sums
    }

    pub fn iter(&self) -> impl Iterator<Item = (usize, i128)> + '_ {
        self.features.iter().map(|&feature| feature as usize).zip(self.sums.iter().copied())
    }

    /// Nothing was added, or all of it was taken away again.
    pub fn is_zero(&self) -> bool {
        self.weight == 0 && self.sums.iter().all(|sum| *sum == 0)
    }

    /// Adds what other rows add. Of two sums that have different features, those whose sum was zero before are dropped:
    /// sums of dense rows have all features, or none.
    pub fn merge(&mut self, other: &Self) {
        self.weight += other.weight;
        if other.features.is_empty() {
            return;
        }
        if self.features.is_empty() {
            (self.features, self.sums) = (other.features.clone(), other.sums.clone());
            return;
        }
        if self.features == other.features {
            self.sums.iter_mut().zip(&other.sums).for_each(|(sum, x)| *sum += x);
            return;
        }
        let before = std::mem::take(self);
        self.weight = before.weight;
        let (mut ours, mut theirs) = (before.iter().filter(|(_, sum)| *sum != 0).peekable(), other.iter().peekable());
        loop {
            let next = match (ours.peek(), theirs.peek()) {
                (Some((a, _)), Some((b, _))) if a < b => ours.next(),
                (Some((a, _)), Some((b, _))) if a == b => {
                    ours.next().zip(theirs.next()).map(|((feature, a), (_, b))| (feature, a + b))
                }
                (_, Some(_)) => theirs.next(),
                (_, None) => ours.next(),
            };
            let Some((feature, sum)) = next else { return };
            self.features.push(feature as u32);
            self.sums.push(sum);
        }
    }

    /// The sum over rows, each with its weight, in weight units.
    pub fn of_rows<'a>(
        scale: &FixedPoint,
        density: Density,
        rows: impl IntoIterator<Item = (Row<'a>, i64)>,
        scratch: &mut SumScratch,
    ) -> Self {
        match density {
            Density::Sparse => Self::of_sparse_rows(scale, rows, scratch),
            Density::Dense => Self::of_dense_rows(scale, rows),
        }
    }

    fn of_sparse_rows<'a>(
        scale: &FixedPoint,
        rows: impl IntoIterator<Item = (Row<'a>, i64)>,
        scratch: &mut SumScratch,
    ) -> Self {
        scratch.sums.resize(scale.n_features(), 0);
        scratch.is_touched.resize(scale.n_features(), false);
        let (mut weight, mut features) = (0, vec![]);
        for (row, row_weight) in rows {
            weight += row_weight;
            for (feature, x) in row.iter() {
                if !scratch.is_touched[feature] {
                    scratch.is_touched[feature] = true;
                    features.push(feature as u32);
                }
                scratch.sums[feature] += i128::from(scale.quantise_value(feature, x)) * i128::from(row_weight);
            }
        }
        features.sort_unstable();
        let take = |feature: &u32| {
            scratch.is_touched[*feature as usize] = false;
            std::mem::take(&mut scratch.sums[*feature as usize])
        };
        let sums = features.iter().map(take).collect();
        Self { weight, features, sums }
    }

    fn of_dense_rows<'a>(scale: &FixedPoint, rows: impl IntoIterator<Item = (Row<'a>, i64)>) -> Self {
        let mut sums = vec![0; scale.n_features()];
        let mut weight = 0;
        for (row, row_weight) in rows {
            weight += row_weight;
            for ((feature, x), sum) in row.values.iter().enumerate().zip(&mut sums) {
                *sum += i128::from(scale.quantise_value(feature, *x)) * i128::from(row_weight);
            }
        }
        Self { weight, features: (0..sums.len() as u32).collect(), sums }
    }
}

/// Buffers of one thread.
#[derive(Debug, Default)]
pub struct SumScratch {
    /// Zero between uses.
    sums: Vec<i128>,
    is_touched: Vec<bool>,
}
