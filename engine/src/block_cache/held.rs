//! A block in memory, and what is kept beside it between the passes of a fit.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use covey_udfs::kmeans::{Bounds, Distinct, Frame, Nearest};
use covey_udfs::matrix::{Density, Points};
use parking_lot::Mutex;

/// A block that an executor holds.
#[derive(Debug)]
pub struct HeldBlock {
    pub points: Arc<Points>,
    /// The rows as passes see them. A block belongs to one fit, so there is one frame.
    distinct: OnceLock<Arc<Distinct>>,
    beside: Arc<KeptBeside>,
}

/// By run of the fit, what the last pass here found of the rows of a block. It outlives the block in memory: it is small,
/// and to find it again takes passes.
#[derive(Debug, Default)]
pub(super) struct KeptBeside {
    /// The clusters that the last iteration gave.
    labels: Mutex<HashMap<usize, Labels>>,
    /// The bounds that it left, where it kept any.
    bounds: Mutex<HashMap<usize, (usize, Bounds)>>,
    /// What was nearest after the last round of k-means||.
    nearest: Mutex<HashMap<usize, (usize, Nearest)>>,
}

#[derive(Debug)]
struct Labels {
    iteration: usize,
    clusters: Vec<u32>,
}

impl HeldBlock {
    pub(super) fn new(points: Arc<Points>, beside: Arc<KeptBeside>) -> Self {
        Self { points, distinct: OnceLock::new(), beside }
    }

    /// Made at the first call, on the threads of the caller.
    pub fn distinct(&self, frame: &Frame) -> Arc<Distinct> {
        if let Some(made) = self.distinct.get() {
            return Arc::clone(made);
        }
        // Not while others wait for the cell: a thread of the pool may take up another's work meanwhile, and wait for itself.
        let made = Arc::new(Distinct::new(&self.points, frame));
        Arc::clone(self.distinct.get_or_init(|| made))
    }

    /// Takes out the clusters that `iteration` of `run` gave the distinct rows, if they are here.
    pub fn take_labels(&self, run: usize, iteration: usize) -> Option<Vec<u32>> {
        let kept = self.beside.labels.lock().remove(&run).filter(|labels| labels.iteration == iteration);
        kept.map(|labels| labels.clusters)
    }

    /// The clusters that `iteration` of `run` gave the distinct rows, if they are here.
    pub fn labels(&self, run: usize, iteration: usize) -> Option<Vec<u32>> {
        let labels = self.beside.labels.lock();
        labels.get(&run).filter(|labels| labels.iteration == iteration).map(|labels| labels.clusters.clone())
    }

    /// Keeps the clusters that `iteration` of `run` gave the distinct rows.
    pub fn keep_labels(&self, run: usize, iteration: usize, clusters: Vec<u32>) {
        self.beside.labels.lock().insert(run, Labels { iteration, clusters });
    }

    /// Drops the labels of runs that are over.
    pub fn keep_only(&self, is_under_way: impl Fn(usize) -> bool) {
        self.beside.labels.lock().retain(|run, _| is_under_way(*run));
        self.beside.bounds.lock().retain(|run, _| is_under_way(*run));
    }

    /// Takes out the bounds that `iteration` of `run` left, if they are here.
    pub fn take_bounds(&self, run: usize, iteration: usize) -> Option<Bounds> {
        let kept = self.beside.bounds.lock().remove(&run).filter(|(of, _)| *of == iteration);
        kept.map(|(_, bounds)| bounds)
    }

    /// Keeps the bounds that `iteration` of `run` leaves.
    pub fn keep_bounds(&self, run: usize, iteration: usize, bounds: Bounds) {
        self.beside.bounds.lock().insert(run, (iteration, bounds));
    }

    /// Takes out what was nearest after `n_rounds` rounds of draws for `run`, if it is here.
    pub fn take_nearest(&self, run: usize, n_rounds: usize) -> Option<Nearest> {
        let kept = self.beside.nearest.lock().remove(&run).filter(|(rounds, _)| *rounds == n_rounds);
        kept.map(|(_, nearest)| nearest)
    }

    /// Keeps what is nearest after `n_rounds` rounds of draws for `run`.
    pub fn keep_nearest(&self, run: usize, n_rounds: usize, nearest: Nearest) {
        self.beside.nearest.lock().insert(run, (n_rounds, nearest));
    }

    /// Bytes that the block takes at most, with its image, the labels and bounds of a run, and its distinct rows where they are copied.
    pub(super) fn memory_bytes(&self) -> usize {
        let rows = &self.points.rows;
        let copied = if rows.density() == Density::Sparse { rows.memory_bytes() } else { 0 };
        rows.memory_bytes()
            + copied
            + size_of_val(rows.values()) / 2
            + self.points.len() * (2 * size_of::<u64>() + 2 * size_of::<u32>() + 3 * size_of::<f32>())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::points;
    use super::*;

    /// Goal: labels are found for the iteration that they belong to, once, and for no other.
    #[test]
    fn labels_belong_to_an_iteration() {
        let block = HeldBlock::new(points(2), Arc::default());
        block.keep_labels(0, 3, vec![1, 0]);
        assert_eq!(block.take_labels(0, 2), None);
        block.keep_labels(0, 3, vec![1, 0]);
        assert_eq!(block.take_labels(0, 3), Some(vec![1, 0]));
        assert_eq!(block.take_labels(0, 3), None);
        (0..3).for_each(|run| block.keep_labels(run, 1, vec![0, 0]));
        block.keep_only(|run| run > 1);
        assert_eq!([0, 1, 2].map(|run| block.labels(run, 1).is_some()), [false, false, true]);
    }
}
