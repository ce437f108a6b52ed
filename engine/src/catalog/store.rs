//! The catalog in the warehouse: one file for each of its versions, created only if it is not there. So of two writers
//! one wins, the other looks again, and nobody sees half a change.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use datafusion::common::exec_datafusion_err;
use datafusion::error::Result;
use object_store::ObjectMeta;
use parking_lot::RwLock;
use tokio::sync::Mutex;
use uuid::Uuid;

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
    /// Those of `change`, and of the warehouse. After one that is not [refused](crate::failure::is_refused) it is not known
    /// whether the catalog was changed.
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
            after.commit = Uuid::new_v4().simple().to_string();
            if self.create(&after).await? {
                self.forget(after.version);
                self.learn(Arc::new(after), Instant::now());
                return Ok(result);
            }
        }
        user_err!("the catalog was changed by others {COMMIT_ATTEMPTS_MAX} times in a row; try again")
    }

    /// Which of the files that a reader has listed below `directory` since `before` it must not see: those of writes that
    /// were pending or have begun meanwhile, and those in whose place others are. `None` when it has to list again, which
    /// is also asked for where that is not needed but gives newer rows; not where this is the `last` time.
    ///
    /// # Errors
    /// Those of the warehouse, and when more writes have begun meanwhile than are known.
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
            let is_hidden = |write: &str| before.snapshot.is_hidden(write);
            if let Some(replaced) = self.replaced(&[&before.snapshot], directory, is_hidden).await? {
                return Ok(Some(Hidden { writes: HashSet::new(), replaced }));
            }
        }
        self.refresh(Duration::ZERO).await?;
        let after = self.snapshot();
        let before = &before.snapshot;
        if before.begun != after.begun && !is_last {
            return Ok(None);
        }
        let Some(meanwhile) = after.begun_after(before.begun) else {
            return user_err!(
                "so many writes have begun while {directory} was listed that it is not known which are whole; try again"
            );
        };
        let is_hidden = |write: &str| meanwhile.contains(write) || before.is_hidden(write) || after.is_hidden(write);
        let (hidden, over): (Vec<&str>, Vec<&str>) = unsettled.into_iter().partition(|write| is_hidden(write));
        {
            let mut settled = self.settled.lock();
            over.into_iter().for_each(|write| settled.add(write));
        }
        let writes: HashSet<String> = hidden.into_iter().map(String::from).collect();
        match self.replaced(&[before, &after], directory, is_hidden).await? {
            Some(replaced) => Ok(Some(Hidden { writes, replaced })),
            None if is_last => user_err!("files of {directory} were removed while it was listed; try again"),
            None => Ok(None),
        }
    }

    /// The files below a directory in whose place those of writes are, but for the writes that are hidden: of those a
    /// reader sees what they replace. `None` where some are gone by now, which it may have listed.
    async fn replaced(
        &self,
        snapshots: &[&Snapshot],
        directory: &str,
        is_hidden: impl Fn(&str) -> bool,
    ) -> Result<Option<Vec<Arc<Replaced>>>> {
        let mut all: BTreeMap<&str, Arc<Replaced>> = BTreeMap::new();
        for (write, replacing) in snapshots.iter().flat_map(|snapshot| snapshot.replacing()) {
            let is_here = replacing.directory.starts_with(directory) || directory.starts_with(&replacing.directory);
            if is_here && !is_hidden(write) && !all.contains_key(write.as_str()) {
                let Some(replaced) = self.replaced_by(write).await? else { return Ok(None) };
                all.insert(write, replaced);
            }
        }
        Ok(Some(all.into_values().collect()))
    }

    /// What a write has replaced; `None` where that is gone.
    async fn replaced_by(&self, write: &str) -> Result<Option<Arc<Replaced>>> {
        if let Some(known) = self.replaced.lock().get(write) {
            return Ok(Some(Arc::clone(known)));
        }
        let read: Arc<Replaced> = match self.writes.get(&Replaced::name(write)).await {
            Ok(bytes) => Arc::new(serde_json::from_slice(&bytes).map_err(external)?),
            Err(error) if is_not_found(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut known = self.replaced.lock();
        if known.len() >= REPLACED_MAX {
            known.clear();
        }
        known.insert(write.to_string(), Arc::clone(&read));
        Ok(Some(read))
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
        let bytes = Bytes::from(snapshot.encode()?);
        if !self.versions.create(&name, bytes).await? {
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

    /// Goal: a reader that lists while others write sees what was there before it began, all of it, and nothing else.
    #[tokio::test]
    async fn readers_see_what_was_there_before() {
        let folder = tempfile::tempdir().unwrap();
        let url = Url::from_directory_path(folder.path()).unwrap();
        let warehouse = Directory::open(&ObjectStores::new(Settings::default()), &url).unwrap();
        let store = CatalogStore::open(&warehouse).await.unwrap();
        let other = CatalogStore::open(&warehouse).await.unwrap();
        let begin = async |write: &str| {
            let begin = |snapshot: &mut Snapshot| {
                snapshot.begin_write(write, 0);
                Ok(())
            };
            other.commit(begin).await.unwrap();
        };
        let end = async |write: &str| other.commit(|snapshot| Ok(snapshot.end_write(write))).await.unwrap();
        let hidden = async |before: &Moment, is_last: bool| {
            let listed = HashSet::from(["old", "pending", "quick", "slow"]);
            let hidden = store.hidden(before, "file:///t/", listed, is_last).await.unwrap();
            hidden.map(|hidden| {
                let mut writes: Vec<String> = hidden.writes.into_iter().collect();
                writes.sort_unstable();
                writes
            })
        };
        begin("old").await;
        end("old").await;
        begin("pending").await;
        store.refresh(Duration::ZERO).await.unwrap();
        let before = store.now();
        begin("quick").await;
        end("quick").await;
        end("pending").await;
        begin("slow").await;
        assert_eq!(hidden(&before, false).await, None, "it lists again");
        assert_eq!(hidden(&before, true).await.unwrap(), ["pending", "quick", "slow"]);
        assert_eq!(hidden(&store.now(), true).await.unwrap(), ["slow"]);
    }

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
