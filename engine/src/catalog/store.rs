//! The catalog in the warehouse: one file for each of its versions, created only if it is not there. So of two writers
//! one wins, the other looks again, and nobody sees half a change.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use datafusion::common::exec_datafusion_err;
use datafusion::error::Result;
use object_store::ObjectMeta;
use parking_lot::RwLock;
use tokio::sync::Mutex;

use super::replaced::Replaced;
use super::snapshot::Snapshot;
use crate::operators::write_of;
use crate::storage::{Directory, is_not_found};
use crate::{external, user_err};

/// Versions that are kept. Readers list before they read, and a version may be gone by then.
const VERSIONS_KEPT: u64 = 16;

/// Times that a change is tried against writers of other processes.
const COMMIT_ATTEMPTS_MAX: usize = 64;

/// Times that a reader looks for the newest version, where it vanishes before it is read.
const READ_ATTEMPTS_MAX: usize = 8;

/// Writes that are remembered to be over.
const SETTLED_MAX: usize = 100_000;

/// What is known of the catalog, and when it was looked up.
#[derive(Debug, Clone)]
struct Known {
    snapshot: Arc<Snapshot>,
    looked: Instant,
}

/// The directory of the warehouse that knows what writes do.
pub const WRITES: &str = "writes";

/// Lists of replaced files that are remembered.
const REPLACED_MAX: usize = 1_000;

#[derive(Debug)]
pub struct CatalogStore {
    versions: Directory,
    writes: Directory,
    replaced: parking_lot::Mutex<HashMap<String, Arc<Replaced>>>,
    known: RwLock<Known>,
    /// Writers of this process wait for each other; only those of others are raced with.
    writing: Mutex<()>,
    settled: parking_lot::Mutex<Settled>,
}

/// Writes that are known to be over, so that their files need no second look, and when each became known.
#[derive(Debug, Default)]
struct Settled {
    writes: HashMap<String, u64>,
    clock: u64,
    /// Counts the writes of this process.
    own: u64,
}

/// Files that a reader must not see.
#[derive(Debug, Default)]
pub struct Hidden {
    writes: HashSet<String>,
    replaced: Vec<Arc<Replaced>>,
}

impl Hidden {
    pub fn contains(&self, file: &ObjectMeta) -> bool {
        write_of(&file.location).is_some_and(|write| self.writes.contains(write))
            || self.replaced.iter().any(|replaced| replaced.contains(file))
    }
}

/// What is known at a moment.
#[derive(Debug, Clone)]
pub struct Moment {
    snapshot: Arc<Snapshot>,
    clock: u64,
    own: u64,
}

impl Moment {
    /// Whether this process has written nothing between the two.
    pub fn is_as_known_at(&self, other: &Self) -> bool {
        self.own == other.own
    }
}

impl Settled {
    fn add(&mut self, write: &str) {
        if self.writes.len() >= SETTLED_MAX {
            self.writes.clear();
        }
        self.clock += 1;
        self.writes.entry(write.to_string()).or_insert(self.clock);
    }
}

impl CatalogStore {
    /// # Errors
    /// When the newest version cannot be read.
    pub async fn open(warehouse: &Directory) -> Result<Self> {
        let versions = warehouse.child("catalog")?;
        let known = Known { snapshot: read_newest(&versions, None).await?, looked: Instant::now() };
        Ok(Self {
            versions,
            writes: warehouse.child(WRITES)?,
            replaced: Default::default(),
            known: RwLock::new(known),
            writing: Mutex::default(),
            settled: Default::default(),
        })
    }

    /// The catalog as it was last seen.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.known.read().snapshot)
    }

    /// What is known now. Readers ask before they list.
    pub fn now(&self) -> Moment {
        let (clock, own) = {
            let settled = self.settled.lock();
            (settled.clock, settled.own)
        };
        Moment { snapshot: self.snapshot(), clock, own }
    }

    /// Looks for changes by other processes, unless that was done less than `age_max` ago.
    pub async fn refresh(&self, age_max: Duration) -> Result<()> {
        let Known { snapshot, looked } = self.known.read().clone();
        if looked.elapsed() < age_max {
            return Ok(());
        }
        let now = Instant::now();
        let newest = read_newest(&self.versions, Some(snapshot)).await?;
        self.learn(newest, now);
        Ok(())
    }

    fn learn(&self, snapshot: Arc<Snapshot>, looked: Instant) {
        let mut known = self.known.write();
        if snapshot.version >= known.snapshot.version {
            *known = Known { snapshot, looked };
        }
    }

    /// Changes the catalog: `change` is applied to its newest version, again if another process was quicker.
    ///
    /// # Errors
    /// Those of `change`, and of the warehouse.
    pub async fn commit<T>(&self, change: impl Fn(&mut Snapshot) -> Result<T>) -> Result<T> {
        let _writing = self.writing.lock().await;
        for attempt in 0..COMMIT_ATTEMPTS_MAX {
            if attempt > 0 {
                self.refresh(Duration::ZERO).await?;
            }
            let before = self.snapshot();
            let mut after = before.as_ref().clone();
            let result = match change(&mut after) {
                // What stands in the way may be gone by now.
                Err(_) if attempt == 0 => continue,
                result => result?,
            };
            if after == *before {
                return Ok(result);
            }
            after.version += 1;
            if self.create(&after).await? {
                self.forget(after.version);
                self.learn(Arc::new(after), Instant::now());
                return Ok(result);
            }
        }
        user_err!("the catalog was changed by others {COMMIT_ATTEMPTS_MAX} times in a row; try again")
    }

    /// Which of the files that a reader has listed below `directory` since `before` it must not see: those of writes that
    /// were pending, and those in whose place others are. `None` when it has to list again, as a write may have begun and
    /// ended meanwhile; not where this is the `last` time, then writes that cannot be told from such ones are hidden.
    pub async fn hidden(
        &self,
        before: &Moment,
        directory: &str,
        listed: HashSet<&str>,
        is_last: bool,
    ) -> Result<Option<Hidden>> {
        let unsettled: Vec<&str> = {
            let settled = self.settled.lock();
            let was_settled = |write: &str| settled.writes.get(write).is_some_and(|since| *since <= before.clock);
            listed.into_iter().filter(|write| !was_settled(write)).collect()
        };
        if unsettled.is_empty() && before.snapshot.begun == self.snapshot().begun {
            let replaced = self.replaced(&before.snapshot, directory, &HashSet::new()).await?;
            return Ok(Some(Hidden { writes: HashSet::new(), replaced }));
        }
        self.refresh(Duration::ZERO).await?;
        let after = self.snapshot();
        let before = &before.snapshot;
        let is_steady = before.begun == after.begun;
        if !is_steady && !is_last {
            return Ok(None);
        }
        let is_hidden = |write: &&str| !is_steady || before.is_pending(write) || after.is_pending(write);
        let (hidden, over): (Vec<&str>, Vec<&str>) = unsettled.into_iter().partition(is_hidden);
        {
            let mut settled = self.settled.lock();
            over.into_iter().for_each(|write| settled.add(write));
        }
        let writes: HashSet<String> = hidden.into_iter().map(String::from).collect();
        // What replaces files that a reader sees it does not see itself.
        let snapshot = if is_steady { &after } else { before };
        let replaced = self.replaced(snapshot, directory, &writes).await?;
        Ok(Some(Hidden { writes, replaced }))
    }

    /// The files below a directory in whose place those of writes are, but for the writes that are `hidden`.
    async fn replaced(
        &self,
        snapshot: &Snapshot,
        directory: &str,
        hidden: &HashSet<String>,
    ) -> Result<Vec<Arc<Replaced>>> {
        let mut all = vec![];
        for (write, replacing) in snapshot.replacing() {
            let is_here = replacing.directory.starts_with(directory) || directory.starts_with(&replacing.directory);
            if is_here && !hidden.contains(write) {
                all.push(self.replaced_by(write).await?);
            }
        }
        Ok(all)
    }

    async fn replaced_by(&self, write: &str) -> Result<Arc<Replaced>> {
        if let Some(known) = self.replaced.lock().get(write) {
            return Ok(Arc::clone(known));
        }
        let read = match self.writes.get(&Replaced::name(write)).await {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(external)?,
            // They are gone by now.
            Err(error) if is_not_found(&error) => Replaced::default(),
            Err(error) => return Err(error),
        };
        let read = Arc::new(read);
        let mut known = self.replaced.lock();
        if known.len() >= REPLACED_MAX {
            known.clear();
        }
        known.insert(write.to_string(), Arc::clone(&read));
        Ok(read)
    }

    /// To be called when a write of this process is over.
    pub fn settle(&self, write: &str) {
        let mut settled = self.settled.lock();
        settled.own += 1;
        settled.add(write);
    }

    /// Writes a version; `false` where another process has written one of that number.
    async fn create(&self, snapshot: &Snapshot) -> Result<bool> {
        let name = file_name(snapshot.version);
        if !self.versions.create(&name, Bytes::from(snapshot.encode()?)).await? {
            return Ok(false);
        }
        // Of a number that is long past the file is gone, and so it can be created again.
        let is_past = newest_version(&self.versions).await? >= snapshot.version + VERSIONS_KEPT;
        if is_past {
            self.versions.delete(&name).await?;
        }
        Ok(!is_past)
    }

    /// Removes a version that nobody reads any more.
    fn forget(&self, newest: u64) {
        let Some(old) = newest.checked_sub(VERSIONS_KEPT).filter(|old| *old > 0) else { return };
        let versions = self.versions.clone();
        tokio::spawn(async move {
            if let Err(error) = versions.delete(&file_name(old)).await {
                tracing::warn!(target: "covey", version = old, %error, "an old version of the catalog was left behind");
            }
        });
    }
}

fn file_name(version: u64) -> String {
    format!("{version:012}.json")
}

fn version_of(file: &str) -> Option<u64> {
    file.strip_suffix(".json")?.parse().ok()
}

async fn newest_version(versions: &Directory) -> Result<u64> {
    let (files, _) = versions.list("").await?;
    Ok(files.iter().filter_map(|file| version_of(file)).max().unwrap_or(0))
}

/// The newest version, or `known` where there is none above it.
async fn read_newest(versions: &Directory, known: Option<Arc<Snapshot>>) -> Result<Arc<Snapshot>> {
    for _ in 0..READ_ATTEMPTS_MAX {
        let newest = newest_version(versions).await?;
        match &known {
            Some(known) if known.version >= newest => return Ok(Arc::clone(known)),
            None if newest == 0 => return Ok(Arc::default()),
            _ => {}
        }
        let name = file_name(newest);
        match versions.get(&name).await {
            Ok(bytes) => return Ok(Arc::new(Snapshot::decode(&bytes, versions.url_of(&name)?.as_str())?)),
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Err(exec_datafusion_err!("the catalog {} changes faster than it can be read", versions.url()))
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::super::entry::{Entry, ViewEntry};
    use super::super::snapshot::{IfTaken, PUBLIC};
    use super::*;
    use crate::settings::Settings;
    use crate::storage::ObjectStores;

    /// Goal: writers of several processes lose none of each other's tables. Method: stores that share nothing but the
    /// directory, each adding and removing at once.
    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn writers_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let url = Url::from_directory_path(folder.path()).unwrap();
        let stores = ObjectStores::new(Settings::default());
        let warehouse = Directory::open(&stores, &url).unwrap();
        let late = CatalogStore::open(&warehouse).await.unwrap();
        let view = || {
            Entry::View(ViewEntry {
                definition: "CREATE VIEW".into(),
                default_schema: PUBLIC.into(),
                columns: vec![],
                uses: vec![],
            })
        };
        let writers = (0..4).map(|writer| {
            let warehouse = warehouse.clone();
            tokio::spawn(async move {
                let store = CatalogStore::open(&warehouse).await.unwrap();
                for i in 0..10 {
                    let name = format!("w{writer}_{i}");
                    store.commit(|s| s.put(PUBLIC, &name, view(), IfTaken::Refuse)).await.unwrap();
                    if i % 2 == 1 {
                        store.commit(|s| s.remove(PUBLIC, &name, "view", false)).await.unwrap();
                    }
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        // One that has slept through it all still changes the newest version.
        late.commit(|s| s.add_schema("late", false)).await.unwrap();
        let store = CatalogStore::open(&warehouse).await.unwrap();
        let names: Vec<String> = store.snapshot().schema(PUBLIC).unwrap().keys().cloned().collect();
        let expected: Vec<String> =
            (0..4).flat_map(|writer| (0..10).step_by(2).map(move |i| format!("w{writer}_{i}"))).collect();
        assert_eq!(names, expected);
        assert_eq!(store.snapshot().version, 61);
        assert!(store.snapshot().schema("late").is_some());
    }
}
