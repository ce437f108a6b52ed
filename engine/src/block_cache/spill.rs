//! Blocks on the local disk of an executor, for those that its memory has no room for.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

/// Where blocks are spilled to, and how much of it is taken.
#[derive(Debug)]
pub(super) struct Spill {
    directory: PathBuf,
    bytes_max: u64,
    bytes: Mutex<u64>,
    names: AtomicU64,
}

/// A block on disk; its file goes with it.
#[derive(Debug)]
pub(super) struct SpilledBlock {
    path: PathBuf,
    bytes: u64,
}

impl Spill {
    pub fn new(directory: PathBuf, bytes_max: u64) -> Self {
        Self { directory, bytes_max, bytes: Mutex::new(0), names: AtomicU64::new(0) }
    }

    /// Writes a block file if there is room. What cannot be written is read from the warehouse again, so it is no error.
    pub async fn write(&self, content: Bytes) -> Option<SpilledBlock> {
        let bytes = content.len() as u64;
        if !self.take(bytes) {
            return None;
        }
        let name = format!("{}.arrow", self.names.fetch_add(1, Ordering::Relaxed));
        let block = SpilledBlock { path: self.directory.join(name), bytes };
        let writing = async {
            tokio::fs::create_dir_all(&self.directory).await?;
            tokio::fs::write(&block.path, &content).await
        };
        match writing.await {
            Ok(()) => Some(block),
            Err(error) => {
                tracing::warn!(target: "covey", path = %block.path.display(), %error, "a block could not be spilled");
                self.remove(block);
                None
            }
        }
    }

    /// Frees the place of a block.
    pub fn remove(&self, block: SpilledBlock) {
        *self.bytes.lock() -= block.bytes;
    }

    fn take(&self, bytes: u64) -> bool {
        let mut taken = self.bytes.lock();
        let fits = *taken + bytes <= self.bytes_max;
        *taken += if fits { bytes } else { 0 };
        fits
    }
}

impl SpilledBlock {
    pub fn path(&self) -> PathBuf {
        self.path.clone()
    }
}

impl Drop for SpilledBlock {
    fn drop(&mut self) {
        // The directory goes with the executor's membership, at the latest.
        let _ = std::fs::remove_file(&self.path);
    }
}
