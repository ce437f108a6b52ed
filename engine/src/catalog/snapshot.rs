//! Every table, view and function at one moment: the content of one file of the catalog.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::error::Result;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::comments::AllComments;
use super::entry::Entry;
use super::function_entry::FunctionEntry;
use crate::{external, user_err};

/// The layout that this version writes and reads.
const FORMAT: u32 = 1;

/// The schema that is always there.
pub const PUBLIC: &str = "public";

/// The schema that describes the others.
const INFORMATION_SCHEMA: &str = "information_schema";

/// Most tables and views of a catalog: each change writes them all.
const ENTRIES_MAX: usize = 20_000;

/// Most functions of a catalog.
const FUNCTIONS_MAX: usize = 2_000;

/// Writes that began last, and are remembered: as many may begin while a reader lists a directory.
const RECENT_MAX: usize = 256;

/// Longest name of a table, view, schema or function, in bytes.
const NAME_BYTES_MAX: usize = 255;

pub type Entries = BTreeMap<String, Arc<Entry>>;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    format: u32,
    /// Counts changes of the catalog.
    pub version: u64,
    schemas: BTreeMap<String, Entries>,
    /// Functions have no schema, as those that are built in have none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    functions: BTreeMap<String, Arc<FunctionEntry>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    comments: AllComments,
    /// Writes of several files that are being published, and since when, in milliseconds of Unix time: their files are
    /// hidden from readers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pending: BTreeMap<String, u64>,
    /// Writes that are taken back: hidden until their files are gone.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    withdrawn: BTreeSet<String>,
    /// Writes whose files have taken the place of others, which are hidden from readers until they are gone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    replacing: BTreeMap<String, Replacing>,
    /// Directories whose files are being rewritten, by whom, and since when.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    locks: BTreeMap<String, (String, u64)>,
    /// Counts writes that were ever pending.
    #[serde(default)]
    pub begun: u64,
    /// The last of them, by their number.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    recent: BTreeMap<u64, String>,
    /// Tells this version from another of the same number and content.
    #[serde(default)]
    pub commit: String,
    /// SHA-256 of this snapshot with this field empty.
    checksum: String,
}

/// A write that has taken the place of files below a directory. Which those are is in the log of writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replacing {
    pub directory: String,
    /// In milliseconds of Unix time.
    pub since: u64,
}

/// What becomes of a name that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfTaken {
    Refuse,
    Keep,
    Replace,
}

impl IfTaken {
    /// What `IF NOT EXISTS` and `OR REPLACE` ask for.
    ///
    /// # Errors
    /// When both are there.
    pub fn of(if_not_exists: bool, or_replace: bool, statement: &str) -> Result<Self> {
        match (if_not_exists, or_replace) {
            (true, true) => user_err!("{statement}: OR REPLACE and IF NOT EXISTS exclude each other"),
            (true, false) => Ok(Self::Keep),
            (false, true) => Ok(Self::Replace),
            (false, false) => Ok(Self::Refuse),
        }
    }
}

impl Default for Snapshot {
    fn default() -> Self {
        let schemas = BTreeMap::from([(PUBLIC.to_string(), Entries::new())]);
        Self {
            format: FORMAT,
            version: 0,
            schemas,
            functions: BTreeMap::new(),
            comments: AllComments::new(),
            pending: BTreeMap::new(),
            withdrawn: BTreeSet::new(),
            replacing: BTreeMap::new(),
            locks: BTreeMap::new(),
            begun: 0,
            recent: BTreeMap::new(),
            commit: String::new(),
            checksum: String::new(),
        }
    }
}

impl Snapshot {
    pub fn schema_names(&self) -> Vec<String> {
        self.schemas.keys().cloned().collect()
    }

    pub fn schema(&self, name: &str) -> Option<&Entries> {
        self.schemas.get(name)
    }

    pub fn entry(&self, schema: &str, name: &str) -> Option<&Arc<Entry>> {
        self.schemas.get(schema)?.get(name)
    }

    /// Adds a table or view; whether it is there now.
    ///
    /// # Errors
    /// When it is taken and `if_taken` refuses that, when there is no such schema, or when a view would select from itself.
    pub fn put(&mut self, schema: &str, name: &str, entry: Entry, if_taken: IfTaken) -> Result<bool> {
        check_name(name)?;
        self.check_cycle(schema, name, &entry)?;
        let n_entries: usize = self.schemas.values().map(BTreeMap::len).sum();
        let kind = entry.kind();
        let Some(entries) = self.schemas.get_mut(schema) else {
            return user_err!("there is no schema {schema:?}; CREATE SCHEMA {schema} makes it");
        };
        match (entries.get(name), if_taken) {
            (Some(_), IfTaken::Keep) => return Ok(false),
            (Some(other), IfTaken::Refuse) => {
                return user_err!(
                    "{} {name:?} exists already; DROP it, or write CREATE OR REPLACE or IF NOT EXISTS",
                    other.kind()
                );
            }
            (Some(other), IfTaken::Replace) if other.kind() != kind => {
                return user_err!("{name:?} is a {}, and a {kind} does not replace it; DROP it first", other.kind());
            }
            (None, _) if n_entries >= ENTRIES_MAX => {
                return user_err!("the catalog has {ENTRIES_MAX} tables and views, which is the most it can have");
            }
            _ => {}
        }
        entries.insert(name.to_string(), Arc::new(entry));
        Ok(true)
    }

    /// # Errors
    /// When `entry` is a view that would select from `schema.name`, also by way of other views.
    fn check_cycle(&self, schema: &str, name: &str, entry: &Entry) -> Result<()> {
        let (mut waiting, mut seen) = (vec![entry], vec![]);
        while let Some(entry) = waiting.pop() {
            let Entry::View(view) = entry else { continue };
            for used in &view.uses {
                if used.0 == schema && used.1 == name {
                    return user_err!("view {name:?} would select from itself");
                }
                if !seen.contains(&used) {
                    seen.push(used);
                    waiting.extend(self.entry(&used.0, &used.1).map(AsRef::as_ref));
                }
            }
        }
        Ok(())
    }

    /// Takes a table or view out.
    ///
    /// # Errors
    /// When it is not there and that is not allowed, or when it is something else than `kind`.
    pub fn remove(&mut self, schema: &str, name: &str, kind: &str, if_exists: bool) -> Result<Option<Arc<Entry>>> {
        match self.entry(schema, name) {
            Some(entry) if entry.kind() == kind => {}
            Some(entry) => {
                return user_err!("{name:?} is a {0}: use DROP {1}", entry.kind(), entry.kind().to_uppercase());
            }
            None if if_exists => return Ok(None),
            None => return user_err!("there is no {kind} {name:?} in schema {schema:?}"),
        }
        self.forget_comments(schema, Some(name));
        Ok(self.schemas.get_mut(schema).and_then(|entries| entries.remove(name)))
    }

    pub(super) fn all_comments(&self) -> &AllComments {
        &self.comments
    }

    pub(super) fn all_comments_mut(&mut self) -> &mut AllComments {
        &mut self.comments
    }

    /// # Errors
    /// When it exists and that is not allowed.
    pub fn add_schema(&mut self, name: &str, if_not_exists: bool) -> Result<()> {
        check_name(name)?;
        if name == INFORMATION_SCHEMA {
            return user_err!("schema {name:?} is the one that describes the others");
        }
        match self.schemas.contains_key(name) {
            true if if_not_exists => {}
            true => return user_err!("schema {name:?} exists already"),
            false => drop(self.schemas.insert(name.to_string(), Entries::new())),
        }
        Ok(())
    }

    /// Takes a schema out, with `cascade` also what is in it; gives what was.
    ///
    /// # Errors
    /// When it is not there, or not empty, and that is not allowed.
    pub fn remove_schema(&mut self, name: &str, if_exists: bool, cascade: bool) -> Result<Entries> {
        match self.schemas.get(name) {
            None if if_exists => return Ok(Entries::new()),
            None => return user_err!("there is no schema {name:?}"),
            Some(_) if name == PUBLIC => return user_err!("schema {name:?} cannot be dropped"),
            Some(entries) if !entries.is_empty() && !cascade => {
                return user_err!(
                    "schema {name:?} has {} tables and views; drop them first, or write DROP SCHEMA {name} CASCADE",
                    entries.len()
                );
            }
            Some(_) => {}
        }
        self.forget_comments(name, None);
        Ok(self.schemas.remove(name).unwrap_or_default())
    }

    pub fn functions(&self) -> &BTreeMap<String, Arc<FunctionEntry>> {
        &self.functions
    }

    /// Adds a function; whether it is there now.
    ///
    /// # Errors
    /// When it is taken and `if_taken` refuses that, when it calls what there is not, or would call itself.
    pub fn put_function(&mut self, name: &str, function: FunctionEntry, if_taken: IfTaken) -> Result<bool> {
        check_name(name)?;
        match (self.functions.contains_key(name), if_taken) {
            (true, IfTaken::Keep) => return Ok(false),
            (true, IfTaken::Refuse) => {
                return user_err!(
                    "function {name:?} exists already; DROP it, or write CREATE OR REPLACE or IF NOT EXISTS"
                );
            }
            (false, _) if self.functions.len() >= FUNCTIONS_MAX => {
                return user_err!("the catalog has {FUNCTIONS_MAX} functions, which is the most it can have");
            }
            _ => {}
        }
        let (mut waiting, mut seen) = (function.calls.clone(), vec![]);
        while let Some(called) = waiting.pop() {
            if called == name {
                return user_err!("function {name:?} would call itself");
            }
            let Some(next) = self.functions.get(&called) else {
                return user_err!("function {name:?} calls {called:?}, which was dropped");
            };
            if !seen.contains(&called) {
                waiting.extend(next.calls.iter().cloned());
                seen.push(called);
            }
        }
        self.functions.insert(name.to_string(), Arc::new(function));
        Ok(true)
    }

    /// # Errors
    /// When it is not there and that is not allowed, or when others call it.
    pub fn remove_function(&mut self, name: &str, if_exists: bool) -> Result<()> {
        let caller = self.functions.iter().find(|(_, function)| function.calls.iter().any(|called| called == name));
        if let Some((caller, _)) = caller {
            return user_err!("function {caller:?} calls {name:?}; drop or replace it first");
        }
        match self.functions.remove(name) {
            None if !if_exists => user_err!("there is no function {name:?} made by CREATE FUNCTION"),
            _ => Ok(()),
        }
    }

    /// Hides the files of a write until it is [ended](Self::end_write).
    pub fn begin_write(&mut self, write: &str, now_unix_ms: u64) {
        self.begun += 1;
        self.pending.insert(write.to_string(), now_unix_ms);
        self.recent.insert(self.begun, write.to_string());
        while self.recent.len() > RECENT_MAX {
            self.recent.pop_first();
        }
    }

    /// The writes that have begun after the first `begun`; `None` where so many are not remembered.
    pub fn begun_after(&self, begun: u64) -> Option<BTreeSet<&str>> {
        let recent: BTreeSet<&str> = self.recent.range(begun + 1..).map(|(_, write)| write.as_str()).collect();
        (recent.len() as u64 == self.begun.saturating_sub(begun)).then_some(recent)
    }

    /// Shows the files of a write; whether they were to be shown until now.
    pub fn end_write(&mut self, write: &str) -> bool {
        self.pending.remove(write).is_some()
    }

    /// From now on the write cannot be shown any more; its files stay hidden until they are [gone](Self::forget_write).
    pub fn withdraw_write(&mut self, write: &str) {
        if self.pending.remove(write).is_some() {
            self.withdrawn.insert(write.to_string());
        }
    }

    /// To be called when the files of a write that was withdrawn are gone.
    pub fn forget_write(&mut self, write: &str) {
        self.withdrawn.remove(write);
    }

    pub fn withdrawn(&self) -> &BTreeSet<String> {
        &self.withdrawn
    }

    pub fn is_hidden(&self, write: &str) -> bool {
        self.pending.contains_key(write) || self.withdrawn.contains(write)
    }

    /// Writes that are pending since before this time.
    pub fn pending_since_before(&self, unix_ms: u64) -> Vec<String> {
        self.pending.iter().filter(|(_, since)| **since < unix_ms).map(|(write, _)| write.clone()).collect()
    }

    /// Hides the files in whose place those of a write are.
    pub fn begin_replacing(&mut self, write: &str, directory: &str, now_unix_ms: u64) {
        let replacing = Replacing { directory: directory.to_string(), since: now_unix_ms };
        self.replacing.insert(write.to_string(), replacing);
    }

    /// To be called when the files that were replaced are gone.
    pub fn end_replacing(&mut self, write: &str) {
        self.replacing.remove(write);
    }

    pub fn replacing(&self) -> &BTreeMap<String, Replacing> {
        &self.replacing
    }

    /// Makes `holder` the only one that rewrites files below a directory.
    ///
    /// # Errors
    /// When another one does, and has begun or gone on after `oldest_unix_ms`.
    pub fn lock(&mut self, directory: &str, holder: &str, now_unix_ms: u64, oldest_unix_ms: u64) -> Result<()> {
        let is_held = |(other, (by, since)): (&String, &(String, u64))| {
            by != holder && *since >= oldest_unix_ms && (other.starts_with(directory) || directory.starts_with(other))
        };
        if self.locks.iter().any(is_held) {
            return user_err!("another statement rewrites files of {directory}; try again when it is done");
        }
        self.locks.insert(directory.to_string(), (holder.to_string(), now_unix_ms));
        Ok(())
    }

    /// # Errors
    /// When the lock was taken over by another one.
    pub fn check_lock(&self, directory: &str, holder: &str) -> Result<()> {
        match self.locks.get(directory) {
            Some((by, _)) if by == holder => Ok(()),
            _ => user_err!("rewriting files of {directory} took so long that another statement took over; try again"),
        }
    }

    pub fn unlock(&mut self, directory: &str, holder: &str) {
        if self.check_lock(directory, holder).is_ok() {
            self.locks.remove(directory);
        }
    }

    /// Directories of the warehouse that tables have.
    pub fn managed_locations(&self) -> Vec<&str> {
        let entries = self.schemas.values().flat_map(BTreeMap::values);
        let managed = entries.filter_map(|entry| match entry.as_ref() {
            Entry::Table(table) if table.managed => Some(table.locations.iter().map(String::as_str)),
            _ => None,
        });
        managed.flatten().collect()
    }

    pub fn encode(&self) -> Result<Vec<u8>> {
        let sealed = Self { checksum: self.own_checksum()?, ..self.clone() };
        serde_json::to_vec_pretty(&sealed).map_err(external)
    }

    /// # Errors
    /// When the bytes are not what was written; `url` is named.
    pub fn decode(bytes: &[u8], url: &str) -> Result<Self> {
        const REMEDY: &str = "restore it, or remove it to go on with the catalog before its last change";
        let snapshot: Self = match serde_json::from_slice(bytes) {
            Ok(snapshot) => snapshot,
            Err(e) => return user_err!("the catalog {url} is corrupt: {e}; {REMEDY}"),
        };
        if snapshot.checksum != snapshot.own_checksum()? {
            return user_err!("the catalog {url} is corrupt: its checksum differs; {REMEDY}");
        }
        if snapshot.format != FORMAT {
            return user_err!("the catalog {url} has format {}, this covey reads {FORMAT}", snapshot.format);
        }
        Ok(snapshot)
    }

    fn own_checksum(&self) -> Result<String> {
        let unsealed = Self { checksum: String::new(), ..self.clone() };
        let digest = Sha256::digest(serde_json::to_vec(&unsealed).map_err(external)?);
        Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

fn check_name(name: &str) -> Result<()> {
    if (1..=NAME_BYTES_MAX).contains(&name.len()) {
        return Ok(());
    }
    user_err!("a name has 1 to {NAME_BYTES_MAX} bytes, not {}", name.len())
}

#[cfg(test)]
mod tests {
    use super::super::entry::ViewEntry;
    use super::*;

    fn view_of(names: &[&str]) -> Entry {
        let uses = names.iter().map(|name| (PUBLIC.to_string(), name.to_string())).collect();
        Entry::View(ViewEntry {
            definition: "CREATE VIEW".into(),
            default_schema: PUBLIC.into(),
            columns: vec![],
            uses,
        })
    }

    /// Goal: a view never leads to itself, however long the way.
    #[test]
    fn views_lead_to_no_cycle() {
        let mut snapshot = Snapshot::default();
        for (name, uses) in [("a", vec!["t"]), ("b", vec!["a", "a"]), ("c", vec!["b", "t"])] {
            assert!(snapshot.put(PUBLIC, name, view_of(&uses), IfTaken::Refuse).unwrap());
        }
        let error = snapshot.put(PUBLIC, "a", view_of(&["c"]), IfTaken::Replace).unwrap_err();
        assert!(error.to_string().contains("select from itself"), "{error}");
        assert!(snapshot.put(PUBLIC, "a", view_of(&["a"]), IfTaken::Replace).is_err());
        assert!(snapshot.put(PUBLIC, "c", view_of(&["a"]), IfTaken::Replace).unwrap());
    }

    /// Goal: a function never leads to itself, nor to one that is gone.
    #[test]
    fn functions_lead_to_no_cycle() {
        let function = |calls: &[&str]| FunctionEntry {
            parameters: vec![],
            returns: None,
            body: "1".into(),
            calls: calls.iter().map(ToString::to_string).collect(),
            definition: "CREATE FUNCTION".into(),
        };
        let mut snapshot = Snapshot::default();
        assert!(snapshot.put_function("a", function(&[]), IfTaken::Refuse).unwrap());
        assert!(snapshot.put_function("b", function(&["a"]), IfTaken::Refuse).unwrap());
        assert!(!snapshot.put_function("b", function(&[]), IfTaken::Keep).unwrap());
        for (name, calls, expected) in [
            ("a", ["b"], "would call itself"),
            ("a", ["a"], "would call itself"),
            ("c", ["d"], "was dropped"),
            ("b", ["a"], "exists already"),
        ] {
            let if_taken = if name == "b" { IfTaken::Refuse } else { IfTaken::Replace };
            let message = snapshot.put_function(name, function(&calls), if_taken).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        assert!(snapshot.remove_function("a", true).unwrap_err().to_string().contains("\"b\" calls \"a\""));
        assert!(snapshot.remove_function("z", false).is_err());
        snapshot.remove_function("z", true).unwrap();
        snapshot.remove_function("b", false).unwrap();
        snapshot.remove_function("a", false).unwrap();
        assert!(snapshot.functions().is_empty());
    }

    /// Goal: a reader learns which writes began while it listed, or that they were too many to know.
    #[test]
    fn recent_writes_are_known() {
        let mut snapshot = Snapshot::default();
        for i in 0..2 * RECENT_MAX {
            snapshot.begin_write(&format!("w{i}"), 0);
            snapshot.end_write(&format!("w{i}"));
        }
        let begun = snapshot.begun;
        assert_eq!(snapshot.begun_after(begun), Some(BTreeSet::new()));
        assert_eq!(snapshot.begun_after(begun - 2), Some(BTreeSet::from(["w510", "w511"])));
        assert_eq!(snapshot.begun_after(begun - RECENT_MAX as u64).map(|writes| writes.len()), Some(RECENT_MAX));
        assert_eq!(snapshot.begun_after(begun - RECENT_MAX as u64 - 1), None);
    }

    /// Goal: a write that is taken back cannot be shown, and is hidden until it is forgotten.
    #[test]
    fn withdrawn_writes_stay_hidden() {
        let mut snapshot = Snapshot::default();
        snapshot.begin_write("w", 0);
        snapshot.withdraw_write("w");
        assert!(snapshot.is_hidden("w") && !snapshot.end_write("w") && snapshot.is_hidden("w"));
        snapshot.forget_write("w");
        assert!(!snapshot.is_hidden("w"));
        snapshot.withdraw_write("w");
        assert!(!snapshot.is_hidden("w"));
    }

    /// Goal: what is written is read again, and damage is told.
    #[test]
    fn damage_is_told() {
        let mut snapshot = Snapshot::default();
        snapshot.put(PUBLIC, "v", view_of(&["t"]), IfTaken::Refuse).unwrap();
        snapshot.add_schema("other", false).unwrap();
        let bytes = snapshot.encode().unwrap();
        let back = Snapshot::decode(&bytes, "file:///c").unwrap();
        assert_eq!(
            (back.schema_names(), back.entry(PUBLIC, "v")),
            (snapshot.schema_names(), snapshot.entry(PUBLIC, "v"))
        );
        let text = String::from_utf8(bytes).unwrap();
        for damaged in [text.replace("\"t\"", "\"u\""), text[..text.len() / 2].to_string()] {
            let error = Snapshot::decode(damaged.as_bytes(), "file:///c").unwrap_err().to_string();
            assert!(error.contains("file:///c is corrupt"), "{error}");
        }
    }
}
