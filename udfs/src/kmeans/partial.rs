//! What one part of the data contributes to an iteration. Merging is exact, so any grouping gives the same bits.

use super::{Centroids, FixedPoint};
use crate::matrix::{Row, Rows};

/// Weighted sums of the rows of each cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct Partial {
    n_features: usize,
    /// Quantised Σ w·x, `(n_clusters, n_features)`.
    pub sums: Vec<i128>,
    /// Σ w of each cluster, in weight units.
    pub weights: Vec<u64>,
    /// Quantised Σ w·d².
    pub inertia: i128,
    /// Rows worked on, each counted once whatever its weight.
    pub n_points: u64,
}

impl Partial {
    pub fn zeros(n_clusters: usize, n_features: usize) -> Self {
        Self {
            n_features,
            sums: vec![0; n_clusters * n_features],
            weights: vec![0; n_clusters],
            inertia: 0,
            n_points: 0,
        }
    }

    pub fn n_clusters(&self) -> usize {
        self.weights.len()
    }

    pub fn n_features(&self) -> usize {
        self.n_features
    }

    pub fn add(&mut self, scale: &FixedPoint, row: Row<'_>, weight: u64, cluster: usize, squared_distance: f64) {
        self.add_row(scale, row, i128::from(weight), cluster);
        self.weights[cluster] += weight;
        self.inertia += i128::from(scale.quantise_distance(squared_distance)) * i128::from(weight);
        self.n_points += 1;
    }

    fn add_row(&mut self, scale: &FixedPoint, row: Row<'_>, weight: i128, cluster: usize) {
        let sums = &mut self.sums[cluster * self.n_features..(cluster + 1) * self.n_features];
        for (feature, x) in row.iter() {
            sums[feature] += i128::from(scale.quantise_value(feature, x)) * weight;
        }
    }

    pub fn merge(&mut self, other: &Self) {
        assert_eq!((self.n_clusters(), self.n_features), (other.n_clusters(), other.n_features));
        self.sums.iter_mut().zip(&other.sums).for_each(|(sum, x)| *sum += x);
        self.weights.iter_mut().zip(&other.weights).for_each(|(sum, x)| *sum += x);
        self.inertia += other.inertia;
        self.n_points += other.n_points;
    }

    /// Σ w over all rows, in weight units.
    pub fn weight(&self) -> u64 {
        self.weights.iter().sum()
    }

    /// Clusters without a row of positive weight.
    pub fn empty_clusters(&self) -> Vec<usize> {
        (0..self.n_clusters()).filter(|&cluster| self.weights[cluster] == 0).collect()
    }

    /// Gives each empty cluster one of the farthest rows, taken out of the cluster it was in: scikit-learn's
    /// `_relocate_empty_clusters`. Rows that lie on their centre are not moved.
    pub fn relocate(&mut self, scale: &FixedPoint, farthest: &[FarPoint]) {
        for (empty, point) in self.empty_clusters().into_iter().zip(farthest) {
            if point.squared_distance == 0.0 {
                return;
            }
            let row = point.row.row(0);
            self.add_row(scale, row, -i128::from(point.weight), point.cluster);
            self.weights[point.cluster] -= point.weight;
            self.add_row(scale, row, i128::from(point.weight), empty);
            self.weights[empty] = point.weight;
        }
    }

    /// The mean of each cluster; one that is still empty keeps its centre of `before`.
    pub fn means(&self, scale: &FixedPoint, before: &Centroids) -> Centroids {
        let mut means = before.clone();
        for (cluster, &weight) in self.weights.iter().enumerate().filter(|(_, weight)| **weight > 0) {
            let sums = &self.sums[cluster * self.n_features..(cluster + 1) * self.n_features];
            for (feature, (mean, &sum)) in means.centre_mut(cluster).iter_mut().zip(sums).enumerate() {
                *mean = scale.mean(feature, sum, weight);
            }
        }
        means
    }
}

/// A row that lies far from its centre: a candidate for the place of an empty cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct FarPoint {
    pub squared_distance: f64,
    pub content_hash: u128,
    pub cluster: usize,
    pub weight: u64,
    /// The row itself: one row.
    pub row: Rows,
}

impl FarPoint {
    /// Farthest first; ties by content, then by weight, so that the order of rows does not matter.
    pub fn sort(points: &mut [Self]) {
        points.sort_by(|a, b| {
            b.squared_distance
                .total_cmp(&a.squared_distance)
                .then_with(|| a.content_hash.cmp(&b.content_hash))
                .then_with(|| b.weight.cmp(&a.weight))
        });
    }
}

/// One row of a part of the data, by its position there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Nearest {
    pub squared_distance: f64,
    pub content_hash: u128,
    pub position: usize,
}

/// The final numbers of one cluster over a part of the data.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClusterSummary {
    /// Σ w, in weight units.
    pub weight: u64,
    /// Distinct rows.
    pub n_points: u64,
    /// Quantised Σ w·d².
    pub inertia: i128,
    /// The row nearest to the centre, ties by content, then by what the row was made of.
    pub nearest: Option<Nearest>,
}

impl ClusterSummary {
    fn nearer(best: &Nearest, candidate: &Nearest, before: impl Fn(usize, usize) -> bool) -> bool {
        let key = |nearest: &Nearest| (nearest.squared_distance, nearest.content_hash);
        key(candidate) < key(best) || key(candidate) == key(best) && before(candidate.position, best.position)
    }

    pub(super) fn add(
        &mut self,
        weight: u64,
        quantised_distance: i64,
        candidate: Nearest,
        before: impl Fn(usize, usize) -> bool,
    ) {
        self.weight += weight;
        self.n_points += 1;
        self.inertia += i128::from(quantised_distance) * i128::from(weight);
        if self.nearest.is_none_or(|best| Self::nearer(&best, &candidate, before)) {
            self.nearest = Some(candidate);
        }
    }
}
