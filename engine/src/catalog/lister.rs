//! LIST requests of queries, and what is remembered of their answers.
//!
//! A store over the network is asked again after [`LISTING_SECONDS`], or what the table says: so long may files that
//! other processes have put there stay unseen. What this process has written is seen at once. A disk is always asked.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::error::Result;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ListResult, ObjectMeta, ObjectStore};
use parking_lot::Mutex;

use super::store::{CatalogStore, Moment};

/// How old a listing of a store over the network may be, in seconds, where the table does not say.
pub const LISTING_SECONDS: u64 = 1;

/// Most files and directories that are remembered for one table.
const REMEMBERED_MAX: usize = 200_000;

/// The listings of one table.
#[derive(Debug)]
pub(super) struct ListingCache {
    age_max: Duration,
    listings: Mutex<HashMap<(Path, Depth), Listed>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Depth {
    /// Only what lies directly in a directory.
    One,
    All,
}

#[derive(Debug, Clone)]
struct Listed {
    found: Arc<ListResult>,
    /// What was known of writes before the store was asked.
    moment: Moment,
    at: Instant,
}

impl Listed {
    fn len(&self) -> usize {
        self.found.objects.len() + self.found.common_prefixes.len()
    }
}

impl ListingCache {
    pub fn new(age_max: Duration) -> Self {
        Self { age_max, listings: Mutex::default() }
    }

    fn find(&self, key: &(Path, Depth), now: &Moment) -> Option<Listed> {
        let listed = self.listings.lock().get(key)?.clone();
        (listed.at.elapsed() < self.age_max && listed.moment.is_as_known_at(now)).then_some(listed)
    }

    fn remember(&self, key: (Path, Depth), listed: Listed) {
        if self.age_max.is_zero() {
            return;
        }
        let mut listings = self.listings.lock();
        listings.retain(|_, listed| listed.at.elapsed() < self.age_max);
        let n: usize = listings.values().map(Listed::len).sum();
        if n + listed.len() <= REMEMBERED_MAX {
            listings.insert(key, listed);
        }
    }
}

/// Lists for one query.
pub(super) struct Lister<'a> {
    store: &'a dyn ObjectStore,
    memory: Option<Memory<'a>>,
    /// What was known of writes before the oldest of the listings that were used.
    oldest: Mutex<Option<(Instant, Moment)>>,
}

struct Memory<'a> {
    cache: &'a ListingCache,
    /// Whether the store is asked whatever is remembered.
    is_fresh: bool,
    writes: &'a CatalogStore,
}

impl<'a> Lister<'a> {
    /// One that remembers nothing.
    pub fn of_store(store: &'a dyn ObjectStore) -> Self {
        Self { store, memory: None, oldest: Mutex::default() }
    }

    /// One with a memory, which is not asked but only told where `is_fresh`.
    pub fn new(store: &'a dyn ObjectStore, cache: &'a ListingCache, is_fresh: bool, writes: &'a CatalogStore) -> Self {
        Self { store, memory: Some(Memory { cache, is_fresh, writes }), oldest: Mutex::default() }
    }

    pub fn store(&self) -> &dyn ObjectStore {
        self.store
    }

    /// What was known of writes before any of the listings that were used, if there were any.
    pub fn before(self) -> Option<Moment> {
        self.oldest.into_inner().map(|(_, moment)| moment)
    }

    /// All files below a directory.
    pub async fn files(&self, directory: &Path) -> Result<Arc<ListResult>> {
        self.listed(directory, Depth::All).await
    }

    /// The files and directories in a directory.
    pub async fn entries(&self, directory: &Path) -> Result<Arc<ListResult>> {
        self.listed(directory, Depth::One).await
    }

    async fn listed(&self, directory: &Path, depth: Depth) -> Result<Arc<ListResult>> {
        let Some(memory) = &self.memory else { return Ok(Arc::new(self.ask(directory, depth).await?)) };
        let key = (directory.clone(), depth);
        let moment = memory.writes.now();
        let remembered = if memory.is_fresh { None } else { memory.cache.find(&key, &moment) };
        let listed = match remembered {
            Some(listed) => listed,
            None => {
                let at = Instant::now();
                let found = Arc::new(self.ask(directory, depth).await?);
                let listed = Listed { found, moment, at };
                memory.cache.remember(key, listed.clone());
                listed
            }
        };
        let mut oldest = self.oldest.lock();
        if oldest.as_ref().is_none_or(|(at, _)| listed.at < *at) {
            *oldest = Some((listed.at, listed.moment));
        }
        Ok(listed.found)
    }

    async fn ask(&self, directory: &Path, depth: Depth) -> Result<ListResult> {
        if depth == Depth::One {
            return Ok(self.store.list_with_delimiter(Some(directory)).await?);
        }
        let objects: Vec<ObjectMeta> = self.store.list(Some(directory)).try_collect().await?;
        Ok(ListResult { common_prefixes: vec![], objects })
    }
}
