//! What a set of rows adds to a cluster: exact, so that any grouping of rows gives the same bits, and sparse, because
//! a cluster of texts has few of the terms.

use std::sync::{Arc, Mutex, PoisonError};

use super::FixedPoint;
use super::fixed_point::HALVES_ROWS_MAX;
use super::wide::rounded;
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

    /// Of rows that nothing else is told of.
    pub(super) fn of_weight(weight: i64) -> Self {
        Self { weight, ..Self::default() }
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
        if let Some(places) = places_among(&other.features, &self.features) {
            places.into_iter().zip(&other.sums).for_each(|(place, x)| self.sums[place] += x);
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

    /// The same for a sum that is not used any more.
    pub(super) fn absorb(&mut self, other: Self) {
        match self.weight == 0 && self.features.is_empty() {
            true => *self = other,
            false => self.merge(&other),
        }
    }

    /// What some sums add up to.
    pub(super) fn total(sums: Vec<Self>) -> Self {
        let mut total = Self::default();
        sums.into_iter().for_each(|sum| total.absorb(sum));
        total
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
        let slots = scratch.of(scale);
        let (mut weight, mut features) = (0, vec![]);
        for (row, row_weight) in rows {
            weight += row_weight;
            for (&feature, &x) in row.indices.iter().zip(row.values) {
                let slot = &mut slots[feature as usize];
                // Once more where it has come back to zero.
                if slot.sum == 0 {
                    features.push(feature);
                }
                slot.sum += i128::from(rounded(x * slot.factor)) * i128::from(row_weight);
            }
        }
        if features.len() * SCANNED_PER_SORTED > slots.len() {
            features = (0..).zip(&*slots).filter(|(_, slot)| slot.sum != 0).map(|(feature, _)| feature).collect();
        } else {
            features.sort_unstable();
            features.dedup();
        }
        let sums = features.iter().map(|feature| std::mem::take(&mut slots[*feature as usize].sum)).collect();
        Self { weight, features, sums }
    }

    pub(super) fn of_dense_rows<'a>(scale: &FixedPoint, rows: impl IntoIterator<Item = (Row<'a>, i64)>) -> Self {
        let mut sum = DenseSum::default();
        rows.into_iter().for_each(|(row, weight)| sum.add(scale, row.values, weight));
        sum.finish()
    }
}

/// Where features are among others, if these are many more and have all of them; both ascend.
fn places_among(features: &[u32], others: &[u32]) -> Option<Vec<usize>> {
    if features.len() * FEWER > others.len() {
        return None;
    }
    let mut start = 0;
    let place = |feature| {
        start += others[start..].partition_point(|other| other < feature);
        (others.get(start) == Some(feature)).then_some(start)
    };
    features.iter().map(place).collect()
}

/// So many times fewer features are looked up among others, and not gone through beside them.
const FEWER: usize = 8;

/// A sum of dense rows under way. Rows that follow each other with one weight, whatever its sign, are added up as numbers of
/// 53 bits in two halves, whose sums in `f64` are exact, and which vectorise; the weight is multiplied once for all.
#[derive(Debug, Default)]
pub(super) struct DenseSum {
    total_weight: i64,
    /// Of the rows that are not in `sums` yet.
    weight: i64,
    n_rows: usize,
    /// Of the halves of each feature; none before the first row.
    high: Vec<f64>,
    low: Vec<f64>,
    sums: Vec<i128>,
}

impl DenseSum {
    pub fn add(&mut self, scale: &FixedPoint, values: &[f64], weight: i64) {
        if self.sums.is_empty() {
            let d = scale.n_features();
            (self.high, self.low, self.sums) = (vec![0.0; d], vec![0.0; d], vec![0; d]);
        }
        if weight.abs() != self.weight || self.n_rows == HALVES_ROWS_MAX {
            self.flush();
            self.weight = weight.abs();
        }
        self.n_rows += 1;
        self.total_weight += weight;
        let sign = if weight < 0 { -1.0 } else { 1.0 };
        scale.add_halves(values, sign, &mut self.high, &mut self.low);
    }

    fn flush(&mut self) {
        if std::mem::take(&mut self.n_rows) == 0 {
            return;
        }
        for ((sum, high), low) in self.sums.iter_mut().zip(&mut self.high).zip(&mut self.low) {
            let total = FixedPoint::join_halves(std::mem::take(high), std::mem::take(low));
            *sum += total * i128::from(self.weight);
        }
    }

    pub fn finish(mut self) -> ClusterSum {
        self.flush();
        ClusterSum { weight: self.total_weight, features: (0..self.sums.len() as u32).collect(), sums: self.sums }
    }
}

/// The sums of one thread, by feature; zero between uses, all of which are in one scale.
#[derive(Debug, Default)]
pub struct SumScratch(Vec<Slot>);

/// Scratches of a scale that no thread uses: to make one takes longer than a late pass.
#[derive(Debug, Clone, Default)]
pub(super) struct Scratches(Arc<Mutex<Vec<SumScratch>>>);

impl Scratches {
    pub fn take(&self) -> SumScratch {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Takes one back whose sums are zero. Large ones are not kept.
    pub fn put(&self, scratch: SumScratch) {
        if scratch.0.len() <= SLOTS_KEPT_MAX {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(scratch);
        }
    }
}

/// They are no part of what a scale is.
impl PartialEq for Scratches {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// Sums of a scratch that is kept, at most: 4 MiB for each thread.
const SLOTS_KEPT_MAX: usize = 1 << 17;

/// A sum beside the factor of its values, in one cache line: features come in any order.
#[derive(Debug)]
#[repr(align(32))]
struct Slot {
    sum: i128,
    factor: f64,
}

impl SumScratch {
    fn of(&mut self, scale: &FixedPoint) -> &mut [Slot] {
        if self.0.len() != scale.n_features() {
            let slot = |feature| Slot { sum: 0, factor: scale.value_factor(feature) };
            self.0 = (0..scale.n_features()).map(slot).collect();
        }
        &mut self.0
    }
}

/// So many features are looked at in the time in which one is sorted.
const SCANNED_PER_SORTED: usize = 16;
