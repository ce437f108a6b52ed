//! Rows in memory and what is kept of them between iterations.

use std::sync::Arc;

use super::{Cancel, CentroidTable, FixedPoint, Frame, Image, NO_CLUSTER, Partial, reassign};
use crate::matrix::Points;

/// A block of a run: its rows, their image, and the cluster of each in the last iteration.
#[derive(Debug, Clone)]
pub struct Resident {
    pub points: Arc<Points>,
    pub image: Arc<Image>,
    labels: Vec<u32>,
}

impl Resident {
    /// A block before the first iteration.
    pub fn new(points: Arc<Points>, image: Arc<Image>) -> Self {
        let labels = vec![NO_CLUSTER; points.len()];
        Self { points, image, labels }
    }

    /// A block after the iteration that gave these labels.
    pub fn with_labels(points: Arc<Points>, image: Arc<Image>, labels: Vec<u32>) -> Self {
        assert_eq!(points.len(), labels.len());
        Self { points, image, labels }
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

    /// Assigns every row to the centres of `table`, whatever that changes.
    pub fn relabel(&mut self, table: &CentroidTable, cancel: &Cancel) -> Option<()> {
        reassign(&self.points, &self.image, table, &mut self.labels, cancel).map(drop)
    }

    /// One pass: assigns every row to the centres of `table`, and gives what that changes.
    pub fn pass(&mut self, table: &CentroidTable, scale: &FixedPoint, cancel: &Cancel) -> Option<Partial> {
        let moves = reassign(&self.points, &self.image, table, &mut self.labels, cancel)?;
        Some(Partial::of_moves(&self.points, &moves, table.n_clusters(), scale))
    }
}
