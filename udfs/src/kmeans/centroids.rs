//! Cluster centres.

use std::sync::Arc;

use rayon::prelude::*;

use crate::matrix::Row;
use crate::{Result, input_err};

/// Centres, row-major: `(n_clusters, n_features)`. They are large: copies share them until one is written to.
#[derive(Debug, Clone, PartialEq)]
pub struct Centroids {
    n_features: usize,
    values: Arc<Vec<f64>>,
}

impl Centroids {
    pub fn zeros(n_clusters: usize, n_features: usize) -> Self {
        Self { n_features, values: Arc::new(vec![0.0; n_clusters * n_features]) }
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
        Ok(Self { n_features, values: Arc::new(values) })
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
        Self { n_features, values: Arc::new(values) }
    }

    /// No centres, and a reference less to those that there were.
    pub(super) fn let_go(&mut self) {
        self.values = Arc::default();
    }

    /// The last centre takes the place of this one.
    pub(super) fn swap_remove(&mut self, cluster: usize) {
        let last = self.n_clusters() - 1;
        let values = Arc::make_mut(&mut self.values);
        values.copy_within(last * self.n_features.., cluster * self.n_features);
        values.truncate(last * self.n_features);
    }

    /// These and one more.
    pub fn with(&self, row: Row<'_>) -> Self {
        let one = Self::from_rows(self.n_features, [row]);
        Self { n_features: self.n_features, values: Arc::new([&self.values[..], &one.values[..]].concat()) }
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
        &mut Arc::make_mut(&mut self.values)[cluster * self.n_features..(cluster + 1) * self.n_features]
    }

    pub(super) fn par_centres_mut(&mut self) -> impl IndexedParallelIterator<Item = &mut [f64]> {
        if Arc::get_mut(&mut self.values).is_none() {
            self.values = Arc::new(copy_of(&self.values));
        }
        Arc::make_mut(&mut self.values).par_chunks_mut(self.n_features)
    }

    pub fn values(&self) -> &[f64] {
        &self.values
    }
}

/// On all threads, without touching memory where there are zeros only: that of fresh zeros costs nothing until it is touched,
/// and centres of texts have many.
fn copy_of(values: &[f64]) -> Vec<f64> {
    /// Values of a page of memory.
    const PAGE: usize = 4096 / size_of::<f64>();
    let mut copy = vec![0.0; values.len()];
    let pages = copy.par_chunks_mut(PAGE).with_min_len(PAGE).zip(values.par_chunks(PAGE));
    pages.filter(|(_, from)| from.iter().any(|x| x.to_bits() != 0)).for_each(|(to, from)| to.copy_from_slice(from));
    copy
}
