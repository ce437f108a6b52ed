//! Blocks in the memory of one executor, and what is kept beside them between the iterations of a fit.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use covey_udfs::kmeans::{Frame, Image};
use covey_udfs::matrix::Points;
use datafusion::error::Result;
use datafusion::execution::object_store::ObjectStoreRegistry;
use parking_lot::Mutex;

use crate::blocks::decode_points;
use crate::storage;

/// A block that an executor holds.
#[derive(Debug)]
pub struct HeldBlock {
    pub points: Arc<Points>,
    /// The rows as kernels read them. A block belongs to one fit, so there is one frame.
    image: OnceLock<Arc<Image>>,
    /// By run of the fit, what the last iteration here gave.
    labels: Mutex<HashMap<usize, Labels>>,
}

#[derive(Debug)]
struct Labels {
    iteration: usize,
    clusters: Vec<u32>,
}

impl HeldBlock {
    pub fn new(points: Arc<Points>) -> Self {
        Self { points, image: OnceLock::new(), labels: Mutex::default() }
    }

    /// Made at the first call, on the threads of the caller.
    pub fn image(&self, frame: &Frame) -> Arc<Image> {
        Arc::clone(self.image.get_or_init(|| Arc::new(Image::new(&self.points.rows, frame))))
    }

    /// Takes out the clusters that `iteration` of `run` gave the rows, if they are here.
    pub fn take_labels(&self, run: usize, iteration: usize) -> Option<Vec<u32>> {
        let mut labels = self.labels.lock();
        let kept = labels.remove(&run).filter(|labels| labels.iteration == iteration);
        kept.map(|labels| labels.clusters)
    }

    /// The clusters that `iteration` of `run` gave the rows, if they are here.
    pub fn labels(&self, run: usize, iteration: usize) -> Option<Vec<u32>> {
        let labels = self.labels.lock();
        labels.get(&run).filter(|labels| labels.iteration == iteration).map(|labels| labels.clusters.clone())
    }

    /// Keeps the clusters that `iteration` of `run` gave the rows; earlier runs are over.
    pub fn keep_labels(&self, run: usize, iteration: usize, clusters: Vec<u32>) {
        let mut labels = self.labels.lock();
        labels.clear();
        labels.insert(run, Labels { iteration, clusters });
    }

    /// Bytes that the block takes with its image and the labels of a run.
    fn memory_bytes(&self) -> usize {
        let rows = &self.points.rows;
        rows.memory_bytes()
            + size_of_val(rows.values()) / 2
            + self.points.len() * (size_of::<u64>() + 3 * size_of::<u32>())
    }
}

/// The blocks that an executor holds, the least recently used dropped first when they exceed the budget.
#[derive(Debug)]
pub struct BlockCache {
    bytes_max: usize,
    kept: Mutex<Kept>,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Debug, Default)]
struct Kept {
    blocks: HashMap<String, (Arc<HeldBlock>, u64)>,
    bytes: usize,
    clock: u64,
}

impl BlockCache {
    /// Bytes of blocks kept where nothing else is said.
    pub const BYTES_MAX_DEFAULT: usize = 1 << 30;

    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, kept: Mutex::default(), hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    /// The block at `url`, from memory or else from its store.
    pub async fn read(&self, stores: &dyn ObjectStoreRegistry, url: &str) -> Result<Arc<HeldBlock>> {
        if let Some(block) = self.kept.lock().touch(url) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(block);
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let points = Arc::new(decode_points(storage::get_url(stores, url).await?, url)?);
        Ok(self.insert(url, points))
    }

    /// Holds a block if it fits the budget.
    pub fn insert(&self, url: &str, points: Arc<Points>) -> Arc<HeldBlock> {
        self.kept.lock().insert(url, Arc::new(HeldBlock::new(points)), self.bytes_max)
    }

    /// How many reads were served from memory, and how many were not.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }
}

impl Kept {
    fn touch(&mut self, url: &str) -> Option<Arc<HeldBlock>> {
        self.clock += 1;
        let (block, used) = self.blocks.get_mut(url)?;
        *used = self.clock;
        Some(Arc::clone(block))
    }

    fn insert(&mut self, url: &str, block: Arc<HeldBlock>, bytes_max: usize) -> Arc<HeldBlock> {
        if let Some(held) = self.touch(url) {
            return held;
        }
        let size = block.memory_bytes();
        if size > bytes_max {
            return block;
        }
        while self.bytes + size > bytes_max {
            let Some(oldest) = self.blocks.iter().min_by_key(|(_, (_, used))| *used).map(|(url, _)| url.clone()) else {
                break;
            };
            if let Some((dropped, _)) = self.blocks.remove(&oldest) {
                self.bytes -= dropped.memory_bytes();
            }
        }
        self.bytes += size;
        self.blocks.insert(url.to_string(), (Arc::clone(&block), self.clock));
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use covey_udfs::matrix::Density;

    fn points(n: usize) -> Arc<Points> {
        let mut points = Points::new(Density::Sparse, 4);
        for i in 0..n {
            points.rows.push([(0, 1.0), (3, i as f64 + 0.5)]).unwrap();
            points.weights.push(i as u64 + 1);
        }
        Arc::new(points)
    }

    /// Goal: the cache stays within its budget and drops the least recently used.
    #[test]
    fn the_cache_keeps_its_budget() {
        let block = points(100);
        let size = HeldBlock::new(Arc::clone(&block)).memory_bytes();
        let cache = BlockCache::new(2 * size);
        for url in ["a", "b"] {
            cache.insert(url, Arc::clone(&block));
        }
        assert!(cache.kept.lock().touch("a").is_some());
        cache.insert("c", block);
        assert!(cache.kept.lock().touch("b").is_none());
        assert!(cache.kept.lock().touch("a").is_some());
        assert!(cache.kept.lock().bytes <= 2 * size);
    }

    /// Goal: labels are found for the iteration that they belong to, once, and for no other.
    #[test]
    fn labels_belong_to_an_iteration() {
        let block = HeldBlock::new(points(2));
        block.keep_labels(0, 3, vec![1, 0]);
        assert_eq!(block.take_labels(0, 2), None);
        block.keep_labels(0, 3, vec![1, 0]);
        assert_eq!(block.take_labels(0, 3), Some(vec![1, 0]));
        assert_eq!(block.take_labels(0, 3), None);
    }
}
