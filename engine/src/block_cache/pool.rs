//! The memory pool of a task's queries, out of the memory that an executor shares with its blocks.

use std::fmt;
use std::sync::Arc;

use datafusion::common::resources_datafusion_err;
use datafusion::error::Result;
use datafusion::execution::memory_pool::{FairSpillPool, MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};

use super::BlockCache;

/// A task's own pool, which in the whole takes no more than the blocks of the executor leave or make room for.
#[derive(Debug)]
pub struct SharedPool {
    own: FairSpillPool,
    blocks: Arc<BlockCache>,
}

impl SharedPool {
    /// A pool of `bytes_max` bytes.
    pub fn new(bytes_max: usize, blocks: Arc<BlockCache>) -> Self {
        Self { own: FairSpillPool::new(bytes_max), blocks }
    }
}

impl fmt::Display for SharedPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} shared with blocks", self.own)
    }
}

impl MemoryPool for SharedPool {
    fn name(&self) -> &str {
        "shared with blocks"
    }

    fn register(&self, consumer: &MemoryConsumer) {
        self.own.register(consumer);
    }

    fn unregister(&self, consumer: &MemoryConsumer) {
        self.own.unregister(consumer);
    }

    fn grow(&self, reservation: &MemoryReservation, additional: usize) {
        self.own.grow(reservation, additional);
        self.blocks.reserve(additional);
    }

    fn shrink(&self, reservation: &MemoryReservation, shrink: usize) {
        self.own.shrink(reservation, shrink);
        self.blocks.release(shrink);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        self.own.try_grow(reservation, additional)?;
        if self.blocks.try_reserve(additional) {
            return Ok(());
        }
        self.own.shrink(reservation, additional);
        Err(resources_datafusion_err!(
            "the executor's {} bytes of memory are in use: {} more are not to be had (--memory-bytes)",
            self.blocks.memory_bytes,
            additional
        ))
    }

    fn reserved(&self) -> usize {
        self.own.reserved()
    }

    fn memory_limit(&self) -> MemoryLimit {
        self.own.memory_limit()
    }
}
