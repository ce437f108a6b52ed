//! Blocks that an executor holds between the passes of a fit: in its memory while there is room, else on its local
//! disk, else they are read from the warehouse again.
//!
//! A pass reads all blocks of a fit, one after the other. To drop the one that was used longest ago would then drop
//! every block just before it is needed, so a fit never displaces its own blocks: what does not fit stays outside.
//! Blocks of other fits make room, the least recently used first, and are spilled to disk. Where queries need memory all
//! of them make room, and are dropped: a query does not wait for a disk.

mod held;
mod pool;
mod spill;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use covey_udfs::matrix::Points;
use datafusion::error::Result;
use datafusion::execution::object_store::ObjectStoreRegistry;
use parking_lot::Mutex;

use crate::blocks::{decode_points, encode_points};
use crate::storage;

pub use held::HeldBlock;
use held::KeptBeside;
pub use pool::SharedPool;
use spill::{Spill, SpilledBlock};

/// Bytes of blocks kept in memory where nothing else is said.
pub const BLOCK_CACHE_BYTES_DEFAULT: usize = 1 << 30;

/// Bytes of blocks kept on the local disk where nothing else is said.
pub const BLOCK_SPILL_BYTES_DEFAULT: u64 = 16 << 30;

/// What an executor may take for blocks.
#[derive(Debug, Clone)]
pub struct BlockLimits {
    /// Memory of the executor, for queries and blocks together.
    pub memory_bytes: usize,
    /// Of it, for blocks at most.
    pub cache_bytes: usize,
    /// On disk.
    pub spill_bytes: u64,
    pub spill_directory: PathBuf,
}

/// Where a block was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Memory,
    Disk,
    Warehouse,
}

/// The blocks of one executor.
#[derive(Debug)]
pub struct BlockCache {
    memory_bytes: usize,
    cache_bytes: usize,
    spill: Spill,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    blocks: HashMap<String, Entry>,
    /// Of blocks in memory.
    bytes: usize,
    /// That queries have reserved.
    reserved: usize,
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    fit: String,
    held: Option<(Arc<HeldBlock>, usize)>,
    spilled: Option<SpilledBlock>,
    beside: Arc<KeptBeside>,
    used: u64,
}

/// A block that was in memory.
type Displaced = (String, Arc<HeldBlock>);

impl BlockCache {
    pub fn new(limits: BlockLimits) -> Self {
        Self {
            memory_bytes: limits.memory_bytes,
            cache_bytes: limits.cache_bytes,
            spill: Spill::new(limits.spill_directory, limits.spill_bytes),
            kept: Mutex::default(),
        }
    }

    /// The block of `fit` at `url`, and where it was.
    pub async fn read(
        self: &Arc<Self>,
        stores: &dyn ObjectStoreRegistry,
        fit: &str,
        url: &str,
    ) -> Result<(Arc<HeldBlock>, Found)> {
        let spilled = match self.kept.lock().touch(url) {
            (Some(block), _) => return Ok((block, Found::Memory)),
            (None, spilled) => spilled,
        };
        if let Some(path) = spilled
            && let Ok(content) = tokio::fs::read(path).await
        {
            let points = Arc::new(decode_points(content.into(), url)?);
            return Ok((self.hold(fit, url, points).await, Found::Disk));
        }
        let points = Arc::new(decode_points(storage::get_url(stores, url).await?, url)?);
        Ok((self.hold(fit, url, points).await, Found::Warehouse))
    }

    /// Keeps a block of `fit` in memory, or else on disk.
    pub async fn hold(self: &Arc<Self>, fit: &str, url: &str, points: Arc<Points>) -> Arc<HeldBlock> {
        let (block, displaced) = self.kept.lock().insert(self, fit, url, points);
        if !displaced.is_empty() {
            let cache = Arc::clone(self);
            let spilling = async move {
                for (url, block) in displaced {
                    cache.spill(&url, &block.points).await;
                }
            };
            // On its own: a file that is half written when its task is cancelled would be nobody's.
            let _ = tokio::spawn(spilling).await;
        }
        block
    }

    async fn spill(&self, url: &str, points: &Arc<Points>) {
        // A warehouse on the local disk is as near.
        if url.starts_with("file:") || self.kept.lock().is_spilled(url) {
            return;
        }
        let points = Arc::clone(points);
        let Ok(Ok(content)) = tokio::task::spawn_blocking(move || encode_points(&points)).await else { return };
        let Some(written) = self.spill.write(content).await else { return };
        let unwanted = match self.kept.lock().blocks.get_mut(url) {
            Some(entry) if entry.spilled.is_none() => entry.spilled.replace(written),
            _ => Some(written),
        };
        unwanted.into_iter().for_each(|block| self.spill.remove(block));
    }

    /// Drops everything of a fit that is over.
    pub fn forget(&self, fit: &str) {
        let gone = self.kept.lock().forget(fit);
        gone.into_iter().filter_map(|entry| entry.spilled).for_each(|block| self.spill.remove(block));
    }

    /// Takes memory for a query, if there is some or blocks can make room.
    fn try_reserve(&self, bytes: usize) -> bool {
        self.reserve_up_to(self.memory_bytes, bytes)
    }

    /// Takes memory that a query has in use already; blocks make room as far as they can.
    fn reserve(&self, bytes: usize) {
        self.reserve_up_to(usize::MAX, bytes);
    }

    fn reserve_up_to(&self, limit: usize, bytes: usize) -> bool {
        let mut kept = self.kept.lock();
        if kept.reserved + bytes > limit {
            return false;
        }
        kept.reserved += bytes;
        let for_blocks = self.memory_bytes.saturating_sub(kept.reserved);
        let displaced = kept.make_room(for_blocks, None);
        // Large to free: not under the lock. Not spilled: the query would wait for it.
        drop(kept);
        drop(displaced);
        true
    }

    fn release(&self, bytes: usize) {
        let mut kept = self.kept.lock();
        kept.reserved = kept.reserved.saturating_sub(bytes);
    }
}

impl Kept {
    /// The block in memory, or where it is on disk.
    fn touch(&mut self, url: &str) -> (Option<Arc<HeldBlock>>, Option<PathBuf>) {
        self.clock += 1;
        let Some(entry) = self.blocks.get_mut(url) else { return (None, None) };
        entry.used = self.clock;
        let held = entry.held.as_ref().map(|(block, _)| Arc::clone(block));
        (held, entry.spilled.as_ref().map(SpilledBlock::path))
    }

    fn is_spilled(&self, url: &str) -> bool {
        self.blocks.get(url).is_some_and(|entry| entry.spilled.is_some())
    }

    /// The block, and what has no place in memory now: blocks that it displaced, or itself.
    fn insert(
        &mut self,
        cache: &BlockCache,
        fit: &str,
        url: &str,
        points: Arc<Points>,
    ) -> (Arc<HeldBlock>, Vec<Displaced>) {
        if let (Some(held), _) = self.touch(url) {
            return (held, vec![]);
        }
        let used = self.clock;
        let entry = self.blocks.entry(url.to_string()).or_insert_with(|| Entry {
            fit: fit.to_string(),
            held: None,
            spilled: None,
            beside: Arc::default(),
            used,
        });
        let block = Arc::new(HeldBlock::new(points, Arc::clone(&entry.beside)));
        let size = block.memory_bytes();
        let room = cache.cache_bytes.min(cache.memory_bytes.saturating_sub(self.reserved));
        let Some(others) = room.checked_sub(size) else { return (Arc::clone(&block), vec![(url.to_string(), block)]) };
        let mut displaced = self.make_room(others, Some(fit));
        if self.bytes > others {
            displaced.push((url.to_string(), Arc::clone(&block)));
        } else if let Some(entry) = self.blocks.get_mut(url) {
            self.bytes += size;
            entry.held = Some((Arc::clone(&block), size));
        }
        (block, displaced)
    }

    /// Takes blocks out of memory, the least recently used first, until those that stay take `bytes` at most. Those of
    /// `spared` stay.
    fn make_room(&mut self, bytes: usize, spared: Option<&str>) -> Vec<Displaced> {
        let mut displaced = vec![];
        while self.bytes > bytes {
            let held = self.blocks.iter_mut().filter(|(_, entry)| entry.held.is_some());
            let others = held.filter(|(_, entry)| spared != Some(entry.fit.as_str()));
            let Some((url, entry)) = others.min_by_key(|(_, entry)| entry.used) else { break };
            if let Some((block, size)) = entry.held.take() {
                self.bytes -= size;
                displaced.push((url.clone(), block));
            }
        }
        displaced
    }

    fn forget(&mut self, fit: &str) -> Vec<Entry> {
        let gone: Vec<Entry> = self.blocks.extract_if(|_, entry| entry.fit == fit).map(|(_, entry)| entry).collect();
        self.bytes -= gone.iter().filter_map(|entry| entry.held.as_ref()).map(|(_, size)| size).sum::<usize>();
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;
    use crate::storage::ObjectStores;
    use covey_udfs::matrix::Density;

    pub(super) fn points(n: usize) -> Arc<Points> {
        let mut points = Points::new(Density::Sparse, 4);
        for i in 0..n {
            points.rows.push([(0, 1.0), (3, i as f64 + 0.5)]).unwrap();
            points.weights.push(i as u64 + 1);
        }
        Arc::new(points)
    }

    fn cache(n_blocks: usize, memory_blocks: usize, directory: &std::path::Path) -> Arc<BlockCache> {
        let size = HeldBlock::new(points(100), Arc::default()).memory_bytes();
        Arc::new(BlockCache::new(BlockLimits {
            memory_bytes: memory_blocks * size,
            cache_bytes: n_blocks * size,
            spill_bytes: BLOCK_SPILL_BYTES_DEFAULT,
            spill_directory: directory.to_path_buf(),
        }))
    }

    async fn found(cache: &Arc<BlockCache>, fit: &str, url: &str) -> Option<Found> {
        let stores = ObjectStores::new(Settings::default());
        cache.read(&stores, fit, url).await.ok().map(|(_, found)| found)
    }

    /// Goal: a fit displaces blocks of other fits, the least recently used first, and never its own; what is displaced is
    /// on disk, and no file is left when the fits are over.
    #[tokio::test]
    async fn the_cache_keeps_its_budget() {
        let directory = tempfile::tempdir().unwrap();
        let cache = cache(2, 9, directory.path());
        for url in ["s3://w/a", "s3://w/b"] {
            cache.hold("old", url, points(100)).await;
        }
        assert_eq!(found(&cache, "old", "s3://w/a").await, Some(Found::Memory));
        cache.hold("new", "s3://w/c", points(100)).await;
        assert_eq!(found(&cache, "old", "s3://w/a").await, Some(Found::Memory));
        cache.hold("new", "s3://w/d", points(100)).await;
        cache.hold("new", "s3://w/e", points(100)).await;
        for (url, at) in [("c", Found::Memory), ("d", Found::Memory), ("e", Found::Disk), ("e", Found::Disk)] {
            assert_eq!(found(&cache, "new", &format!("s3://w/{url}")).await, Some(at), "{url}");
        }
        assert!(cache.kept.lock().bytes <= cache.cache_bytes);
        cache.forget("new");
        assert_eq!(found(&cache, "old", "s3://w/b").await, Some(Found::Disk));
        assert_eq!(found(&cache, "old", "s3://w/b").await, Some(Found::Memory));
        cache.forget("old");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        assert_eq!(cache.kept.lock().bytes, 0);
    }

    /// Goal: a block that comes back to memory finds its labels.
    #[tokio::test]
    async fn labels_outlive_their_block() {
        let directory = tempfile::tempdir().unwrap();
        let cache = cache(1, 9, directory.path());
        cache.hold("fit", "s3://w/a", points(100)).await.keep_labels(0, 5, vec![7; 100]);
        cache.hold("other", "s3://w/b", points(100)).await;
        let stores = ObjectStores::new(Settings::default());
        let (block, found) = cache.read(&stores, "fit", "s3://w/a").await.unwrap();
        assert_eq!((found, block.take_labels(0, 5)), (Found::Disk, Some(vec![7; 100])));
    }

    /// Goal: queries and blocks together keep the executor's memory; blocks give way, and come back when there is room.
    #[tokio::test]
    async fn queries_and_blocks_share_memory() {
        let directory = tempfile::tempdir().unwrap();
        let cache = cache(2, 2, directory.path());
        let size = cache.memory_bytes / 2;
        for url in ["s3://w/a", "s3://w/b"] {
            cache.hold("fit", url, points(100)).await;
        }
        assert!(cache.try_reserve(size));
        assert_eq!(cache.kept.lock().bytes, size);
        assert!(!cache.try_reserve(2 * size));
        cache.hold("fit", "s3://w/c", points(100)).await;
        assert!(cache.kept.lock().bytes <= size);
        cache.release(size);
        assert_eq!(found(&cache, "fit", "s3://w/c").await, Some(Found::Disk));
        assert_eq!(found(&cache, "fit", "s3://w/c").await, Some(Found::Memory));
        cache.reserve(3 * size);
        assert_eq!(cache.kept.lock().bytes, 0);
    }
}
