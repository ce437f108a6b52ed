//! Rows in memory and what is kept of them between iterations.

use std::sync::Arc;

use super::assign::{reassign, squared_distances};
use super::bounds::{Bounds, Drift};
use super::{Cancel, CentroidTable, Distinct, FixedPoint, Frame, Merge, NO_CLUSTER, Partial};
use crate::matrix::Points;

/// A block of a run: its rows, and the cluster of each in the last iteration.
#[derive(Debug, Clone)]
pub struct Resident {
    pub points: Arc<Points>,
    pub distinct: Arc<Distinct>,
    /// Of the distinct rows.
    labels: Vec<u32>,
    bounds: Option<Bounds>,
}

impl Resident {
    /// A block before the first iteration.
    pub fn new(points: Arc<Points>, distinct: Arc<Distinct>) -> Self {
        let labels = vec![NO_CLUSTER; distinct.len()];
        Self::with_labels(points, distinct, labels)
    }

    /// A block after the iteration that gave its distinct rows these labels.
    pub fn with_labels(points: Arc<Points>, distinct: Arc<Distinct>, labels: Vec<u32>) -> Self {
        assert_eq!((distinct.n_rows(), distinct.len()), (points.len(), labels.len()));
        Self { points, distinct, labels, bounds: None }
    }

    /// Reads the rows as kernels do.
    pub fn of_points(points: Arc<Points>, frame: &Frame) -> Self {
        let distinct = Arc::new(Distinct::new(&points, frame));
        Self::new(points, distinct)
    }

    /// The same block before the first iteration.
    pub fn fresh(&self) -> Self {
        Self::new(Arc::clone(&self.points), Arc::clone(&self.distinct))
    }

    /// The cluster of every row.
    pub fn labels(&self) -> Vec<u32> {
        self.distinct.unfold(self.labels.clone())
    }

    /// The clusters of the distinct rows.
    pub fn distinct_labels(&self) -> &[u32] {
        &self.labels
    }

    /// The squared distance of every row to the centre that it is assigned to.
    pub fn squared_distances(&self, table: &CentroidTable) -> Vec<f64> {
        self.distinct.unfold(squared_distances(self.distinct.points(), &self.labels, table))
    }

    pub fn into_distinct_labels(self) -> Vec<u32> {
        self.labels
    }

    /// Takes up bounds where the last pass left them.
    pub fn put_bounds(&mut self, bounds: Option<Bounds>) {
        self.bounds = bounds.filter(|bounds| bounds.n_rows() == self.labels.len());
    }

    /// The bounds that the last pass left, if it kept any.
    pub fn take_bounds(&mut self) -> Option<Bounds> {
        self.bounds.take()
    }

    /// Begins a run at the clusters that these merges leave; nothing is known of them yet but the labels.
    pub fn begin_again(&mut self, merges: &[Merge]) {
        self.bounds = None;
        merges.iter().for_each(|merge| self.merge(*merge));
    }

    /// Renumbers clusters of which two are one now. Of the rows of these no bounds are known any more.
    pub fn merge(&mut self, merge: Merge) {
        for (i, label) in self.labels.iter_mut().enumerate() {
            if *label == merge.to || *label == merge.from {
                self.bounds.iter_mut().for_each(|bounds| bounds.forget(i));
            }
            *label = merge.renumbered(*label);
        }
    }

    /// Assigns every row to the centres of `table`, whatever that changes.
    pub fn relabel(&mut self, table: &CentroidTable, cancel: &Cancel) -> Option<()> {
        self.bounds = None;
        reassign(&self.distinct, table, &mut self.labels, None, cancel).map(drop)
    }

    /// One pass: assigns every row to the centres of `table`, and gives what that changes. With the drift of the run,
    /// bounds are kept from this pass to the next.
    pub fn pass(
        &mut self,
        table: &CentroidTable,
        scale: &FixedPoint,
        drift: Option<&Drift>,
        cancel: &Cancel,
    ) -> Option<Partial> {
        let n_rows = self.distinct.len();
        let bounds = match drift {
            Some(drift) => Some((self.bounds.get_or_insert_with(|| Bounds::unknown(n_rows)), drift)),
            None => {
                self.bounds = None;
                None
            }
        };
        let found = reassign(&self.distinct, table, &mut self.labels, bounds, cancel)?;
        let mut partial = Partial::of_moves(self.distinct.points(), &found.moves, table.n_clusters(), scale);
        partial.n_points = self.points.len() as u64;
        partial.n_moved = found.moves.iter().map(|m| self.distinct.count(m.row as usize)).sum();
        partial.n_skipped = found.n_skipped;
        Some(partial)
    }
}
