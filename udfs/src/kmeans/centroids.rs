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
        Self::from_centres(n_features, values.chunks(n_features).map(<[f64]>::to_vec).collect())
    }

    /// # Errors
    /// When there are none, or one has not `n_features` numbers, or they are not finite.
    pub fn from_centres(n_features: usize, centres: Vec<Vec<f64>>) -> Result<Self> {
        let other = centres.iter().map(Vec::len).find(|len| *len != n_features);
        if n_features == 0 || centres.is_empty() || other.is_some() {
            return input_err!("{} numbers are no centre of {n_features} features", other.unwrap_or(0));
        }
        // Without a branch for each number.
        let is_finite = |centre: &Vec<f64>| centre.iter().fold(true, |all, x| all & x.is_finite());
        if !centres.iter().all(is_finite) {
            return input_err!("a centre has a coordinate that is not finite");
        }
        Ok(Self::of(n_features, centres))
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

    /// The coordinates of a centre that are not zero, see [`non_zeros`].
    pub fn non_zeros(&self, cluster: usize) -> Vec<u32> {
        non_zeros(self.centre(cluster))
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

/// The features of the coordinates that are not zero, ascending. -0 is not zero here: by these a centre can be made again to
/// the bit.
pub(super) fn non_zeros(centre: &[f64]) -> Vec<u32> {
    /// Centres of texts are zeros for the most part: so many are looked at together.
    const LOOKED_AT: usize = 16;
    let mut features = vec![];
    for (start, values) in (0..).step_by(LOOKED_AT).zip(centre.chunks(LOOKED_AT)) {
        if values.iter().fold(0, |bits, x| bits | x.to_bits()) != 0 {
            let stored = (start..).zip(values).filter(|(_, x)| x.to_bits() != 0);
            features.extend(stored.map(|(feature, _)| feature));
        }
    }
    features
}
