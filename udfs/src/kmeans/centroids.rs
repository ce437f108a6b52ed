//! Cluster centres.

use std::sync::Arc;

use rayon::prelude::*;

use crate::matrix::Row;
use crate::{Result, input_err};

/// Centres, `(n_clusters, n_features)`. They are large: copies share each until it is written to.
#[derive(Debug, Clone, PartialEq)]
pub struct Centroids {
    n_features: usize,
    centres: Vec<Arc<Vec<f64>>>,
}

impl Centroids {
    pub fn zeros(n_clusters: usize, n_features: usize) -> Self {
        Self::of(n_features, vec![vec![0.0; n_features]; n_clusters])
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
        Ok(Self::of(n_features, values.chunks(n_features).map(<[f64]>::to_vec)))
    }

    /// Dense centres of sparse rows.
    pub fn from_rows<'a>(n_features: usize, rows: impl IntoIterator<Item = Row<'a>>) -> Self {
        let centre = |row: Row<'_>| {
            let mut values = vec![0.0; n_features];
            row.iter().for_each(|(feature, x)| values[feature] = x);
            values
        };
        Self::of(n_features, rows.into_iter().map(centre))
    }

    fn of(n_features: usize, centres: impl IntoIterator<Item = Vec<f64>>) -> Self {
        Self { n_features, centres: centres.into_iter().map(Arc::new).collect() }
    }

    /// No centres, and a reference less to those that there were.
    pub(super) fn let_go(&mut self) {
        self.centres.clear();
    }

    /// The last centre takes the place of this one.
    pub(super) fn swap_remove(&mut self, cluster: usize) {
        self.centres.swap_remove(cluster);
    }

    /// These and one more.
    pub fn with(&self, row: Row<'_>) -> Self {
        let one = Self::from_rows(self.n_features, [row]);
        Self { n_features: self.n_features, centres: [&self.centres[..], &one.centres].concat() }
    }

    pub fn n_clusters(&self) -> usize {
        self.centres.len()
    }

    pub fn n_features(&self) -> usize {
        self.n_features
    }

    pub fn centre(&self, cluster: usize) -> &[f64] {
        &self.centres[cluster]
    }

    pub(super) fn centre_mut(&mut self, cluster: usize) -> &mut Arc<Vec<f64>> {
        &mut self.centres[cluster]
    }

    pub(super) fn par_centres_mut(&mut self) -> impl IndexedParallelIterator<Item = &mut Arc<Vec<f64>>> {
        self.centres.par_iter_mut()
    }

    /// Of all centres, one after the other.
    pub fn values(&self) -> impl Iterator<Item = f64> {
        self.centres.iter().flat_map(|centre| centre.iter().copied())
    }
}
