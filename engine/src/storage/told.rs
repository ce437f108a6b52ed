//! Errors of remote stores, as a user can act on them.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, ListResult, MultipartId, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

use super::resumed::resumed;

/// A store that says what its errors mean, and goes on reading where an answer breaks.
#[derive(Debug, Clone)]
pub(super) struct Told {
    inner: Arc<dyn ObjectStore>,
    /// Its URL without a path.
    root: String,
    retry_seconds: u64,
}

/// An error with what it means in front.
#[derive(Debug)]
struct Meaning {
    root: String,
    meaning: String,
    source: Error,
}

impl fmt::Display for Meaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.root, self.meaning, self.source)
    }
}

impl std::error::Error for Meaning {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl Told {
    pub(super) fn new(inner: Arc<dyn ObjectStore>, root: String, retry_seconds: u64) -> Self {
        Self { inner, root, retry_seconds }
    }

    fn tell(&self, error: Error) -> Error {
        match self.meaning(&error) {
            Some(meaning) => {
                let source = Meaning { root: self.root.clone(), meaning, source: error };
                Error::Generic { store: "object store", source: Box::new(source) }
            }
            None => error,
        }
    }

    /// What a user can do about an error; `None` where callers tell it apart or it speaks for itself.
    fn meaning(&self, error: &Error) -> Option<String> {
        let keys =
            "access_key_id and secret_access_key of [[store]] in covey.toml, or the AWS_* variables, of this process";
        match error {
            Error::Unauthenticated { .. } | Error::PermissionDenied { .. } => {
                Some(format!("the store refuses the key; check {keys}"))
            }
            // S3 says that for the bucket too.
            Error::NotFound { source, .. } if source.to_string().contains("NoSuchBucket") => {
                Some("there is no such bucket".to_string())
            }
            Error::Generic { source, .. } => {
                let text = source.to_string();
                let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
                if says(&["redirect", "PermanentRedirect", "AuthorizationHeaderMalformed"]) {
                    Some(
                        "the bucket is in another region; set region of [[store]] in covey.toml, or AWS_REGION"
                            .to_string(),
                    )
                } else if says(&["InvalidAccessKeyId", "SignatureDoesNotMatch"]) {
                    Some(format!("the store refuses the key; check {keys}"))
                } else if says(&["NoSuchBucket"]) {
                    Some("there is no such bucket".to_string())
                } else if says(&["instance metadata", "169.254.169.254"]) {
                    Some(format!("no key is set; check {keys}"))
                } else if says(&["Error performing"]) {
                    Some(format!("the store does not answer as it should, tried for up to {} s", self.retry_seconds))
                } else {
                    None
                }
            }
            _ => None,
        }
    }
}

/// Uploads to a store that says what its errors mean.
pub(super) struct ToldUploads {
    pub inner: Arc<dyn MultipartStore>,
    pub told: Arc<Told>,
}

#[async_trait]
impl MultipartStore for ToldUploads {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        self.inner.create_multipart(path).await.map_err(|e| self.told.tell(e))
    }

    async fn put_part(&self, path: &Path, id: &MultipartId, part: usize, data: PutPayload) -> Result<PartId> {
        self.inner.put_part(path, id, part, data).await.map_err(|e| self.told.tell(e))
    }

    async fn complete_multipart(&self, path: &Path, id: &MultipartId, parts: Vec<PartId>) -> Result<PutResult> {
        self.inner.complete_multipart(path, id, parts).await.map_err(|e| self.told.tell(e))
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        self.inner.abort_multipart(path, id).await.map_err(|e| self.told.tell(e))
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Told {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await.map_err(|e| self.tell(e))
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await.map_err(|e| self.tell(e))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let first = self.inner.get_opts(location, options.clone()).await.map_err(|e| self.tell(e))?;
        let (told, location) = (self.clone(), location.clone());
        let again = move |range| {
            let (told, location) = (told.clone(), location.clone());
            let options = GetOptions { range: Some(GetRange::Bounded(range)), ..options.clone() };
            async move { told.inner.get_opts(&location, options).await.map_err(|e| told.tell(e)) }.boxed()
        };
        Ok(resumed(first, again))
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let told = self.clone();
        self.inner.delete_stream(locations).map(move |result| result.map_err(|e| told.tell(e))).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let told = self.clone();
        self.inner.list(prefix).map(move |result| result.map_err(|e| told.tell(e))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await.map_err(|e| self.tell(e))
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await.map_err(|e| self.tell(e))
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await.map_err(|e| self.tell(e))
    }
}
