//! Cluster centres, and the transposed table that the assignment reads.

use crate::matrix::{Density, Row};
use crate::{Result, input_err};

/// Lanes that a compiler may work on at once; tables are padded to a multiple of it.
const LANES: usize = 8;

/// Centres, row-major: `(n_clusters, n_features)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Centroids {
    n_features: usize,
    values: Vec<f64>,
}

impl Centroids {
    pub fn zeros(n_clusters: usize, n_features: usize) -> Self {
        Self { n_features, values: vec![0.0; n_clusters * n_features] }
    }

    /// # Errors
    /// When `values` is not a whole number of rows of `n_features`, or not finite.
    pub fn try_new(n_features: usize, values: Vec<f64>) -> Result<Self> {
        if n_features == 0 || values.is_empty() || !values.len().is_multiple_of(n_features) {
            return input_err!("{} numbers are no centres of {n_features} features", values.len());
        }
        if values.iter().any(|x| !x.is_finite()) {
            return input_err!("a centre has a coordinate that is not finite");
        }
        Ok(Self { n_features, values })
    }

    /// Dense centres of sparse rows.
    pub fn from_rows<'a>(n_features: usize, rows: impl IntoIterator<Item = Row<'a>>) -> Self {
        let mut values = vec![];
        for row in rows {
            let start = values.len();
            values.resize(start + n_features, 0.0);
            for (feature, x) in row.iter() {
                values[start + feature] = x;
            }
        }
        Self { n_features, values }
    }

    pub fn n_clusters(&self) -> usize {
        self.values.len() / self.n_features
    }

    pub fn n_features(&self) -> usize {
        self.n_features
    }

    pub fn centre(&self, cluster: usize) -> &[f64] {
        &self.values[cluster * self.n_features..(cluster + 1) * self.n_features]
    }

    pub(super) fn centre_mut(&mut self, cluster: usize) -> &mut [f64] {
        &mut self.values[cluster * self.n_features..(cluster + 1) * self.n_features]
    }

    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// Σ over clusters of ‖c − other‖²: how far the centres moved.
    pub fn squared_shift(&self, other: &Self) -> f64 {
        self.values.iter().zip(&other.values).fold(0.0, |sum, (a, b)| sum + (a - b) * (a - b))
    }
}

/// Centres transposed to `(n_features, n_clusters)`, clusters padded to full lanes: each non-zero of a row is
/// then one contiguous multiply-add over all clusters. Lanes are clusters, so every cluster's product is
/// summed in ascending feature order and vectorising changes no bit.
#[derive(Debug, Clone)]
pub struct CentroidTable {
    n_clusters: usize,
    n_padded: usize,
    columns: Vec<f64>,
    /// ‖c‖².
    squared_norms: Vec<f64>,
}

impl CentroidTable {
    pub fn new(centroids: &Centroids) -> Self {
        let n_clusters = centroids.n_clusters();
        let n_padded = n_clusters.next_multiple_of(LANES);
        let mut columns = vec![0.0; centroids.n_features() * n_padded];
        let mut squared_norms = vec![0.0; n_clusters];
        for cluster in 0..n_clusters {
            let centre = centroids.centre(cluster);
            for (feature, &c) in centre.iter().enumerate() {
                columns[feature * n_padded + cluster] = c;
            }
            squared_norms[cluster] = centre.iter().fold(0.0, |sum, c| sum + c * c);
        }
        Self { n_clusters, n_padded, columns, squared_norms }
    }

    pub fn n_clusters(&self) -> usize {
        self.n_clusters
    }

    /// A buffer for [`Self::nearest`].
    pub fn scratch(&self) -> Vec<f64> {
        vec![0.0; self.n_padded]
    }

    /// The nearest cluster of `row`, ties to the lowest index, and the squared distance to its centre.
    pub fn nearest(&self, row: Row<'_>, scratch: &mut [f64]) -> (usize, f64) {
        match row.density {
            Density::Dense => {
                self.squared_differences(row, scratch);
                lowest(scratch[..self.n_clusters].iter().copied())
            }
            Density::Sparse => {
                self.products(row, scratch);
                let scores = self.squared_norms.iter().zip(&*scratch).map(|(norm, product)| norm - 2.0 * product);
                let (best, _) = lowest(scores);
                (best, self.squared_distance(row, best))
            }
        }
    }

    /// x·c for every cluster.
    fn products(&self, row: Row<'_>, products: &mut [f64]) {
        products.fill(0.0);
        for (feature, x) in row.iter() {
            for (product, c) in products.iter_mut().zip(self.column(feature)) {
                *product += x * c;
            }
        }
    }

    /// Σ(x − c)² for every cluster, of a row that holds every feature.
    fn squared_differences(&self, row: Row<'_>, sums: &mut [f64]) {
        sums.fill(0.0);
        for (feature, x) in row.iter() {
            for (sum, c) in sums.iter_mut().zip(self.column(feature)) {
                let difference = x - c;
                *sum += difference * difference;
            }
        }
    }

    fn column(&self, feature: usize) -> &[f64] {
        &self.columns[feature * self.n_padded..(feature + 1) * self.n_padded]
    }

    /// ‖x − c‖². Of a sparse row it is ‖c‖² + Σ x·(x − 2c) over the non-zeros; rounding may leave that below zero
    /// where a row lies on its centre, and it is then zero.
    pub fn squared_distance(&self, row: Row<'_>, cluster: usize) -> f64 {
        let pairs = row.iter().map(|(feature, x)| (x, self.columns[feature * self.n_padded + cluster]));
        match row.density {
            Density::Dense => pairs.fold(0.0, |sum, (x, c)| sum + (x - c) * (x - c)),
            Density::Sparse => {
                let sum = pairs.fold(0.0, |sum, (x, c)| sum + x * (x - 2.0 * c));
                (self.squared_norms[cluster] + sum).max(0.0)
            }
        }
    }
}

/// The lowest score and whose it is, ties to the first.
fn lowest(scores: impl Iterator<Item = f64>) -> (usize, f64) {
    scores.enumerate().fold((0, f64::INFINITY), |best, (i, score)| if score < best.1 { (i, score) } else { best })
}
