//! Rows in memory and what is kept of them between iterations.

use std::sync::Arc;

use super::assign::reassign;
use super::bounds::{Bounds, Drift};
use super::{Cancel, CentroidTable, FixedPoint, Frame, Image, Merge, NO_CLUSTER, Partial};
use crate::matrix::Points;

/// A block of a run: its rows, their image, and the cluster of each in the last iteration.
#[derive(Debug, Clone)]
pub struct Resident {
    pub points: Arc<Points>,
    pub image: Arc<Image>,
    labels: Vec<u32>,
    bounds: Option<Bounds>,
}

impl Resident {
    /// A block before the first iteration.
    pub fn new(points: Arc<Points>, image: Arc<Image>) -> Self {
        let labels = vec![NO_CLUSTER; points.len()];
        Self::with_labels(points, image, labels)
    }

    /// A block after the iteration that gave these labels.
    pub fn with_labels(points: Arc<Points>, image: Arc<Image>, labels: Vec<u32>) -> Self {
        assert_eq!(points.len(), labels.len());
        Self { points, image, labels, bounds: None }
    }

    /// Reads the rows as kernels do.
    pub fn of_points(points: Arc<Points>, frame: &Frame) -> Self {
        let image = Arc::new(Image::new(&points.rows, frame));
        Self::new(points, image)
    }

    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    pub fn into_labels(self) -> Vec<u32> {
        self.labels
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
        reassign(&self.points, &self.image, table, &mut self.labels, None, cancel).map(drop)
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
        let n_rows = self.points.len();
        let bounds = match drift {
            Some(drift) => Some((self.bounds.get_or_insert_with(|| Bounds::unknown(n_rows)), drift)),
            None => {
                self.bounds = None;
                None
            }
        };
        let found = reassign(&self.points, &self.image, table, &mut self.labels, bounds, cancel)?;
        let mut partial = Partial::of_moves(&self.points, &found.moves, table.n_clusters(), scale);
        partial.n_skipped = found.n_skipped as u64;
        Some(partial)
    }
}
