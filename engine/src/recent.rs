//! Values that are made once and shared: the most recently used are kept.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;

use datafusion::error::Result;
use parking_lot::Mutex;
use tokio::sync::OnceCell;

/// At most a fixed number of values. Who asks for one that is being made waits for it.
#[derive(Debug)]
pub struct Recent<K, V> {
    n_max: usize,
    kept: Mutex<Kept<K, V>>,
}

#[derive(Debug)]
struct Kept<K, V> {
    values: HashMap<K, (Arc<OnceCell<V>>, u64)>,
    clock: u64,
}

impl<K: Hash + Eq + Clone, V: Clone> Recent<K, V> {
    pub fn new(n_max: usize) -> Self {
        Self { n_max, kept: Mutex::new(Kept { values: HashMap::new(), clock: 0 }) }
    }

    /// The value of `key`, made by `make` when it is not there. A failure is not kept.
    ///
    /// # Errors
    /// When making it fails.
    pub async fn get_or_make(&self, key: K, make: impl Future<Output = Result<V>>) -> Result<V> {
        let cell = self.cell(key);
        cell.get_or_try_init(|| make).await.cloned()
    }

    /// Drops what is kept of these keys.
    pub fn forget(&self, is_old: impl Fn(&K) -> bool) {
        self.kept.lock().values.retain(|key, _| !is_old(key));
    }

    fn cell(&self, key: K) -> Arc<OnceCell<V>> {
        let mut kept = self.kept.lock();
        kept.clock += 1;
        let now = kept.clock;
        if kept.values.len() >= self.n_max
            && !kept.values.contains_key(&key)
            && let Some(oldest) = kept.values.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone())
        {
            kept.values.remove(&oldest);
        }
        let (cell, used) = kept.values.entry(key).or_default();
        *used = now;
        Arc::clone(cell)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a value is made once while it is kept, and the least recently used goes first.
    #[tokio::test]
    async fn keeps_the_most_recent() {
        let recent = Recent::new(2);
        let made = Mutex::new(vec![]);
        for key in [1, 2, 1, 3, 1, 2] {
            let make = async {
                made.lock().push(key);
                Ok(10 * key)
            };
            assert_eq!(recent.get_or_make(key, make).await.unwrap(), 10 * key);
        }
        assert_eq!(*made.lock(), [1, 2, 3, 2]);
    }
}
