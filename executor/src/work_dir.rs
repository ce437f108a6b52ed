//! The directory of an executor for intermediate results and spilled blocks. It goes with the executor; one that was killed
//! leaves it, and the next executor beside it removes it.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use tempfile::TempDir;

const PREFIX: &str = "covey-executor-";

/// A file that is locked while its executor lives, and its name until it is.
const LOCK: &str = "lock";
const UNLOCKED: &str = "unlocked";

/// A directory of this executor's own.
#[derive(Debug)]
pub struct WorkDir {
    directory: TempDir,
    _lock: File,
}

impl WorkDir {
    /// Below `parent`, which is made where it is missing.
    pub fn make(parent: &Path) -> io::Result<Self> {
        fs::create_dir_all(parent)?;
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
        let unlocked = directory.path().join(UNLOCKED);
        let lock = File::create(&unlocked)?;
        // Whoever sees it by its name finds it locked; where files cannot be locked, nobody removes what is left.
        if lock.lock().is_ok() {
            fs::rename(unlocked, directory.path().join(LOCK))?;
        }
        Ok(Self { directory, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Removes the directories below `parent` whose executors are gone.
pub fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        if is_ours && is_left(&entry.path()) {
            // Another executor may be at it too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn is_left(directory: &Path) -> bool {
    File::open(directory.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what a killed executor has left goes away, and nothing else. Method: a directory whose lock is let go.
    #[test]
    fn only_what_is_left_is_swept() {
        let parent = tempfile::tempdir().unwrap();
        let lives = WorkDir::make(parent.path()).unwrap();
        let WorkDir { directory, _lock } = WorkDir::make(parent.path()).unwrap();
        drop(_lock);
        let left = directory.keep();
        fs::write(left.join("block"), "x").unwrap();
        fs::create_dir(parent.path().join("something-else")).unwrap();
        sweep(parent.path());
        assert!(!left.exists() && lives.path().exists() && parent.path().join("something-else").exists());
    }
}
