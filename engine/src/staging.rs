//! Files that are written whole and seen by nobody until they are published.
//!
//! ```text
//! executor: open ─► write ─► finish ─► Staged ──(rows of a job)──► scheduler: publish, or discard
//! ```
//!
//! In an object store a staged file is an upload whose parts are there and not yet put together; on disk it lies in a
//! hidden directory of the table, from where it is renamed. So what a task that failed, or one that nobody waits for any
//! more, has written is never part of a table, for no reader.

use bytes::{Bytes, BytesMut};
use datafusion::error::Result;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use url::Url;
use uuid::Uuid;

use crate::external;
use crate::operators::write_of;
use crate::storage::{Directory, ObjectStores};

/// Bytes of a part of an upload. Stores want parts of one size, at least 5 MiB, and at most 10,000 of them.
pub const PART_BYTES: usize = 8 << 20;

/// Below a table's directory on disk: files that are not published. Names that begin so are no data, for Spark too.
const STAGING: &str = "_staging";

/// A file that is complete, and what publishing it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// Where it will be.
    pub url: String,
    how: How,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum How {
    /// It lies at another URL.
    Rename { from: String },
    /// Its parts are in the store.
    Upload { id: String, parts: Vec<String> },
}

/// A file that is being written. When it is dropped before it is finished, what was written goes away.
pub struct StagingFile {
    url: Url,
    path: Path,
    buffer: BytesMut,
    target: Option<Target>,
}

enum Target {
    Local { from: Url, upload: Box<dyn MultipartUpload> },
    Remote { store: Arc<dyn MultipartStore>, id: String, parts: Vec<String> },
}

fn path_of(url: &Url) -> Result<Path> {
    Ok(Path::from_url_path(url.path())?)
}

/// Where the files of a write to `directory` wait on disk.
fn staging_directory(directory: &Url, write: &str) -> Result<Url> {
    directory.join(&format!("{STAGING}/{write}/")).map_err(external)
}

impl StagingFile {
    /// Begins a file `url` below `directory`, of the write `write`.
    ///
    /// # Errors
    /// When nothing can be written there.
    pub async fn open(stores: &ObjectStores, directory: &Url, write: &str, url: Url) -> Result<Self> {
        let path = path_of(&url)?;
        let target = match stores.uploads(&url)? {
            Some(store) => {
                let id = store.create_multipart(&path).await?;
                Target::Remote { store, id, parts: vec![] }
            }
            None => {
                let from = staging_directory(directory, write)?.join(&Uuid::new_v4().simple().to_string());
                let from = from.map_err(external)?;
                let upload = stores.local().put_multipart(&path_of(&from)?).await?;
                Target::Local { from, upload }
            }
        };
        Ok(Self { url, path, buffer: BytesMut::new(), target: Some(target) })
    }

    /// Adds to the file; waits for the store whenever a part is full.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        while self.buffer.len() >= PART_BYTES {
            let part = self.buffer.split_to(PART_BYTES).freeze();
            self.put(part).await?;
        }
        Ok(())
    }

    async fn put(&mut self, part: Bytes) -> Result<()> {
        match &mut self.target {
            Some(Target::Local { upload, .. }) => upload.put_part(PutPayload::from_bytes(part)).await?,
            Some(Target::Remote { store, id, parts }) => {
                let part = store.put_part(&self.path, id, parts.len(), PutPayload::from_bytes(part)).await?;
                parts.push(part.content_id);
            }
            None => {}
        }
        Ok(())
    }

    /// Completes the file, which stays unseen.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn finish(mut self) -> Result<Staged> {
        let rest = self.buffer.split().freeze();
        let is_empty = matches!(&self.target, Some(Target::Remote { parts, .. }) if parts.is_empty());
        if !rest.is_empty() || is_empty {
            self.put(rest).await?;
        }
        if let Some(Target::Local { upload, .. }) = &mut self.target {
            upload.complete().await?;
        }
        let how = match self.target.take() {
            Some(Target::Local { from, .. }) => How::Rename { from: from.into() },
            Some(Target::Remote { id, parts, .. }) => How::Upload { id, parts },
            None => return crate::user_err!("a file was finished twice"),
        };
        Ok(Staged { url: self.url.to_string(), how })
    }
}

impl Drop for StagingFile {
    fn drop(&mut self) {
        let (Some(target), Ok(runtime)) = (self.target.take(), tokio::runtime::Handle::try_current()) else { return };
        let path = self.path.clone();
        runtime.spawn(async move {
            let aborted = match target {
                Target::Local { mut upload, .. } => upload.abort().await,
                Target::Remote { store, id, .. } => store.abort_multipart(&path, &id).await,
            };
            if let Err(error) = aborted {
                tracing::warn!(target: "covey", %path, %error, "parts of a file that was given up are left in the store");
            }
        });
    }
}

impl Staged {
    fn parsed(&self) -> Result<(Url, Path)> {
        let url = Url::parse(&self.url).map_err(external)?;
        let path = path_of(&url)?;
        Ok((url, path))
    }

    /// Makes the file visible.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn publish(&self, stores: &ObjectStores) -> Result<()> {
        let (url, path) = self.parsed()?;
        match (&self.how, stores.uploads(&url)?) {
            (How::Upload { id, parts }, Some(store)) => {
                let parts = parts.iter().map(|content_id| PartId { content_id: content_id.clone() }).collect();
                store.complete_multipart(&path, id, parts).await?;
            }
            (How::Rename { from }, _) => {
                let from = path_of(&Url::parse(from).map_err(external)?)?;
                stores.local().rename(&from, &path).await?;
            }
            (How::Upload { .. }, None) => return crate::user_err!("{url}: an upload on a disk cannot be published"),
        }
        Ok(())
    }

    /// Removes the file, whether it was published or not. One whose name is not of the write alone may be older than it,
    /// and stays.
    ///
    /// # Errors
    /// Those of the store; that it is gone already is none.
    pub async fn discard(&self, stores: &ObjectStores) -> Result<()> {
        let (url, path) = self.parsed()?;
        if let (How::Upload { id, .. }, Some(store)) = (&self.how, stores.uploads(&url)?) {
            // Fails where it was published or aborted before.
            let _ = store.abort_multipart(&path, id).await;
        }
        let remove = async |url: &Url| {
            let directory = Directory::open(stores, &url.join(".").map_err(external)?)?;
            directory.delete(url.path_segments().and_then(Iterator::last).unwrap_or_default()).await
        };
        if let How::Rename { from } = &self.how {
            remove(&Url::parse(from).map_err(external)?).await?;
        }
        match write_of(&path) {
            Some(_) => remove(&url).await,
            None => Ok(()),
        }
    }
}

/// Removes what was left of the write `write` to `directory`: on disk the files of attempts that failed.
///
/// # Errors
/// Those of the store.
pub async fn sweep(stores: &ObjectStores, directory: &Url, write: &str) -> Result<()> {
    if directory.scheme() != "file" {
        return Ok(());
    }
    Directory::open(stores, &staging_directory(directory, write)?)?.delete_all().await?;
    if let Ok(staging) = directory.join(STAGING).map_err(external)?.to_file_path() {
        // Fails while other writes use it.
        let _ = tokio::fs::remove_dir(staging).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    /// Goal: what is given up goes, but not a file that was there before under a name that users chose.
    #[tokio::test]
    async fn older_files_stay() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Url::from_directory_path(folder.path()).unwrap();
        let stores = ObjectStores::new(Settings::default());
        let write = Uuid::now_v7().simple().to_string();
        let part = format!("part-00000-{write}-{}.csv", Uuid::new_v4().simple());
        for (name, stays) in [("report.csv", true), (part.as_str(), false)] {
            std::fs::write(folder.path().join(name), "older").unwrap();
            let url = directory.join(name).unwrap();
            let mut file = StagingFile::open(&stores, &directory, &write, url).await.unwrap();
            file.write(b"newer").await.unwrap();
            file.finish().await.unwrap().discard(&stores).await.unwrap();
            assert_eq!(folder.path().join(name).exists(), stays, "{name}");
        }
        sweep(&stores, &directory, &write).await.unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
