//! Models by name: found, written, labelled and dropped.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use datafusion::error::{DataFusionError, Result};
use url::Url;
use uuid::Uuid;

use super::manifest::{FORMAT, hex_sha256};
use super::{FileEntry, Likeness, Manifest, Model, ModelFeatures, ModelFiles, Parent, UNKNOWN, check_model_name};
use crate::storage::{Directory, is_not_found};
use crate::user_err;

/// Times that a change of a manifest is tried against other writers.
const REVISION_ATTEMPTS_MAX: usize = 16;

/// Versions of a model that are kept, the one that counts among them: a query that was planned with the one before
/// may still run.
const VERSIONS_KEPT: u64 = 2;

/// Longest label, in bytes.
const LABEL_BYTES_MAX: usize = 1_000;

/// What a fit hands over to become a model.
#[derive(Debug)]
pub struct NewModel {
    pub name: String,
    pub options: BTreeMap<String, String>,
    pub features: ModelFeatures,
    pub files: ModelFiles,
    pub n_iter: usize,
    pub inertia: f64,
    pub n_rows: u64,
    pub n_points: u64,
    pub n_skipped: u64,
    pub strategy: String,
    pub labels: BTreeMap<u32, String>,
    pub label_matches: BTreeMap<u32, Likeness>,
    pub query: String,
    pub parent: Option<Parent>,
}

/// What is there of a model, as a writer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The version that counts, 0 where there was never one. A dropped model still holds its version.
    version: u64,
    pub exists: bool,
}

/// The newest manifest of a model. Its name gives the version even where its content is damaged.
struct Latest {
    version: u64,
    manifest: Result<Manifest>,
}

#[derive(Debug, Clone)]
pub struct ModelRegistry {
    models: Directory,
}

impl ModelRegistry {
    /// The registry in a warehouse.
    pub fn new(warehouse: &Directory) -> Result<Self> {
        Ok(Self { models: warehouse.child("models")? })
    }

    /// Every model by name: the manifest that counts, or why it cannot be read.
    pub async fn list(&self) -> Result<Vec<(String, Result<Manifest>)>> {
        let (_, names) = self.models.list("").await?;
        let mut models = vec![];
        for name in names {
            if let Some(latest) = self.latest(&name).await? {
                models.push((name, latest.manifest));
            }
        }
        models.retain(|(_, manifest)| !matches!(manifest, Ok(manifest) if manifest.dropped));
        Ok(models)
    }

    /// The model `name` as it is now, if there is one.
    ///
    /// # Errors
    /// When its manifest is corrupt.
    pub async fn find(&self, name: &str) -> Result<Option<Manifest>> {
        let latest = self.latest(name).await?.map(|latest| latest.manifest).transpose()?;
        Ok(latest.filter(|manifest| !manifest.dropped))
    }

    /// The models that clusters of `manifest` were clustered by again and that are still there, by cluster.
    pub async fn children(&self, manifest: &Manifest) -> Result<Vec<(u32, Manifest)>> {
        let mut children = vec![];
        for (cluster, name) in &manifest.children {
            if let Some(child) = self.find(name).await?.filter(|child| manifest.is_child(*cluster, child)) {
                children.push((*cluster, child));
            }
        }
        Ok(children)
    }

    /// # Errors
    /// When there is no model of that name: the message lists those there are.
    pub async fn get(&self, name: &str) -> Result<Manifest> {
        if let Some(manifest) = self.find(name).await? {
            return Ok(manifest);
        }
        let names: Vec<String> = self.list().await?.into_iter().map(|(name, _)| name).collect();
        match names.as_slice() {
            [] => user_err!("there is no model {name:?}; CREATE MODEL makes one"),
            names => user_err!("there is no model {name:?}; there are: {}", names.join(", ")),
        }
    }

    /// What a statement that is about to write `name` must know. A corrupt model is there, and can be replaced.
    pub async fn seen(&self, name: &str) -> Result<Seen> {
        Ok(match self.latest(name).await? {
            None => Seen { version: 0, exists: false },
            Some(Latest { version, manifest }) => {
                Seen { version, exists: manifest.is_err() || matches!(manifest, Ok(manifest) if !manifest.dropped) }
            }
        })
    }

    async fn latest(&self, name: &str) -> Result<Option<Latest>> {
        check_model_name(name)?;
        let (files, _) = self.models.list(&format!("{name}/")).await?;
        let Some((version, file)) = files.iter().rev().find_map(|file| Some((version_of(file)?, file))) else {
            return Ok(None);
        };
        let path = format!("{name}/{file}");
        let bytes = match self.models.get(&path).await {
            Err(error) if is_not_found(&error) => return user_err!("model {name:?} was dropped just now"),
            bytes => bytes?,
        };
        let manifest = Manifest::decode(&bytes, self.models.url_of(&path)?.as_str());
        Ok(Some(Latest { version, manifest }))
    }

    pub fn manifest_url(&self, manifest: &Manifest) -> Result<Url> {
        self.models.url_of(&format!("{}/{}", manifest.name, manifest.file_name()))
    }

    /// Writes a model. `seen` is what the statement saw when it began; if another writer was quicker since, this one
    /// loses and leaves nothing.
    pub async fn create(&self, new: NewModel, seen: &Seen) -> Result<Manifest> {
        check_model_name(&new.name)?;
        let version = seen.version + 1;
        let digest = new.files.digest(&new.options);
        let (data, files) = self.write_files(&new, version).await?;
        // What was written about a model is about its name, as comments of tables are.
        let comment = self.find(&new.name).await.ok().flatten().and_then(|before| before.comment);
        let manifest = Manifest {
            format: FORMAT,
            version,
            revision: 0,
            dropped: false,
            created_unix_ms: unix_ms(),
            n_clusters: new.files.centroids.n_clusters(),
            chosen_by: new.files.elbow.as_ref().map(|elbow| elbow.choice.reason().to_string()),
            n_features: new.files.centroids.n_features(),
            name: new.name,
            options: new.options,
            features: new.features,
            n_iter: new.n_iter,
            inertia: new.inertia,
            n_rows: new.n_rows,
            n_points: new.n_points,
            n_skipped: new.n_skipped,
            strategy: new.strategy,
            digest,
            files,
            labels: new.labels,
            label_matches: new.label_matches,
            threshold: None,
            comment,
            query: Some(new.query),
            parent: new.parent,
            children: BTreeMap::new(),
            checksum: String::new(),
        };
        if self.seen(&manifest.name).await? == *seen && self.commit(&manifest).await? {
            self.forget_before(&manifest.name, version.saturating_sub(VERSIONS_KEPT)).await;
            return Ok(manifest);
        }
        data.delete_all().await?;
        user_err!(
            "model {:?} was created by another statement while this one ran, and this one has changed nothing; run it again with CREATE OR REPLACE MODEL",
            manifest.name
        )
    }

    /// Removes versions up to `version`, which no query can mean any more. What cannot be removed now is tried again
    /// at the next version.
    async fn forget_before(&self, name: &str, version: u64) {
        let forgetting = async {
            let model = self.models.child(name)?;
            let (files, _) = model.list("").await?;
            for file in files.iter().filter(|file| version_of(file).is_some_and(|found| found <= version)) {
                model.delete(file).await?;
            }
            let (_, data) = model.list("data/").await?;
            for directory in data.iter().filter(|name| version_of(name).is_some_and(|found| found <= version)) {
                model.child(&format!("data/{directory}"))?.delete_all().await?;
            }
            Ok::<_, DataFusionError>(())
        };
        if let Err(error) = forgetting.await {
            tracing::warn!(target: "covey", model = name, %error, "an old version of a model was left behind");
        }
    }

    async fn write_files(&self, new: &NewModel, version: u64) -> Result<(Directory, BTreeMap<String, FileEntry>)> {
        let below = format!("data/{version:08}-{}", Uuid::new_v4());
        let model = self.models.child(&new.name)?;
        let mut entries = BTreeMap::new();
        for (name, bytes) in new.files.encode()? {
            let path = format!("{below}/{name}");
            let entry = FileEntry { path: path.clone(), bytes: bytes.len() as u64, sha256: hex_sha256(&bytes) };
            model.put(&path, bytes).await?;
            entries.insert(name, entry);
        }
        Ok((model.child(&below)?, entries))
    }

    async fn commit(&self, manifest: &Manifest) -> Result<bool> {
        let path = format!("{}/{}", manifest.name, manifest.file_name());
        self.models.create(&path, Bytes::from(manifest.encode()?)).await
    }

    /// Gives `cluster` a label, or takes it away.
    pub async fn set_label(&self, name: &str, cluster: u32, label: Option<&str>) -> Result<Manifest> {
        label.map_or(Ok(()), check_label)?;
        self.revise(name, |manifest| {
            check_cluster(manifest, cluster)?;
            manifest.label_matches.remove(&cluster);
            match label {
                Some(label) => {
                    manifest.labels.insert(cluster, label.to_string());
                }
                None if manifest.labels.remove(&cluster).is_none() => {
                    return user_err!("cluster {cluster} of model {:?} has no label", manifest.name);
                }
                None => {}
            }
            Ok(())
        })
        .await
    }

    /// Sets the distance beyond which rows are unknown, or takes it away.
    pub async fn set_threshold(&self, name: &str, threshold: Option<f64>) -> Result<Manifest> {
        self.revise(name, |manifest| {
            manifest.threshold = threshold;
            Ok(())
        })
        .await
    }

    /// Sets what is written about the model, or takes it away.
    pub async fn set_comment(&self, name: &str, comment: Option<&str>) -> Result<Manifest> {
        self.revise(name, |manifest| {
            manifest.comment = comment.map(String::from);
            Ok(())
        })
        .await
    }

    /// Says that the rows of a cluster of version `version` were clustered again, by model `child`.
    pub async fn set_child(&self, name: &str, version: u64, cluster: u32, child: &str) -> Result<Manifest> {
        self.revise(name, |manifest| {
            if manifest.version != version {
                return user_err!(
                    "model {name:?} was trained again meanwhile, and its cluster {cluster} is another one now (model {child:?} was made of the one before)"
                );
            }
            check_cluster(manifest, cluster)?;
            manifest.children.insert(cluster, child.to_string());
            Ok(())
        })
        .await
    }

    /// Changes the manifest of a model, whatever other writers do.
    async fn revise(&self, name: &str, change: impl Fn(&mut Manifest) -> Result<()>) -> Result<Manifest> {
        for _ in 0..REVISION_ATTEMPTS_MAX {
            let mut manifest = self.get(name).await?;
            change(&mut manifest)?;
            manifest.revision += 1;
            if self.commit(&manifest).await? {
                return Ok(manifest);
            }
        }
        user_err!("model {name:?} was changed by others {REVISION_ATTEMPTS_MAX} times in a row; try again")
    }

    /// Drops a model, also one that is corrupt: it is gone once its tombstone is there; then its files are removed.
    pub async fn drop_model(&self, name: &str) -> Result<()> {
        let seen = self.seen(name).await?;
        if !seen.exists {
            return self.get(name).await.map(|_| ());
        }
        let tombstone = Manifest::tombstone(name, seen.version + 1);
        if !self.commit(&tombstone).await? {
            return user_err!("model {name:?} was changed by another statement; try again");
        }
        self.forget_before(name, seen.version).await;
        Ok(())
    }

    /// Whether the files of a model are there with all of their bytes. What is in them is checked when they are read.
    ///
    /// # Errors
    /// Names the first that is not.
    pub async fn check_files(&self, manifest: &Manifest) -> Result<()> {
        let model = self.models.child(&manifest.name)?;
        let sizes = model.sizes("").await?;
        for entry in manifest.files.values() {
            let url = model.url_of(&entry.path)?;
            match sizes.get(&entry.path) {
                Some(bytes) if *bytes == entry.bytes => {}
                Some(bytes) => return user_err!("{url} is corrupt: it has {bytes} bytes instead of {}", entry.bytes),
                None => return user_err!("{url} is lost"),
            }
        }
        Ok(())
    }

    /// Reads a whole model and checks every file.
    pub async fn load(&self, manifest: Manifest) -> Result<Model> {
        load(&self.models.child(&manifest.name)?, manifest).await
    }
}

/// Reads the files of `manifest` below its model's directory.
pub(super) async fn load(model: &Directory, manifest: Manifest) -> Result<Model> {
    let mut files = BTreeMap::new();
    for (name, entry) in &manifest.files {
        let bytes = match model.get(&entry.path).await {
            Err(error) if is_not_found(&error) => {
                return user_err!(
                    "model {:?} has no file {}: it was dropped or replaced just now, or the file is lost; try again, or train again with CREATE OR REPLACE MODEL",
                    manifest.name,
                    model.url_of(&entry.path)?
                );
            }
            bytes => bytes?,
        };
        if bytes.len() as u64 != entry.bytes || hex_sha256(&bytes) != entry.sha256 {
            return user_err!(
                "model {:?} is corrupt: the checksum of {} differs; restore the file, or train again with CREATE OR REPLACE MODEL",
                manifest.name,
                model.url_of(&entry.path)?
            );
        }
        files.insert(name.clone(), bytes);
    }
    let files = ModelFiles::decode(&files, model.url().as_str())?;
    Model::new(manifest, files)
}

/// # Errors
/// When the model has no such cluster.
pub fn check_cluster(manifest: &Manifest, cluster: u32) -> Result<()> {
    if (cluster as usize) < manifest.n_clusters {
        return Ok(());
    }
    user_err!("model {:?} has clusters 0 to {}, not {cluster}", manifest.name, manifest.n_clusters - 1)
}

/// # Errors
/// When a label says nothing, or what is said of rows that belong to no cluster.
fn check_label(label: &str) -> Result<()> {
    match label {
        _ if label.len() > LABEL_BYTES_MAX => user_err!("a label may have {LABEL_BYTES_MAX} bytes"),
        _ if label.trim().is_empty() => {
            user_err!("a label must not be empty; ALTER MODEL name DROP LABEL FOR CLUSTER n takes one away")
        }
        UNKNOWN => {
            user_err!("{UNKNOWN:?} is no label: cluster_label says that of rows beyond the threshold of the model")
        }
        _ => Ok(()),
    }
}

/// The version in the name of a manifest or of a directory of data.
fn version_of(name: &str) -> Option<u64> {
    name.split_once('-')?.0.parse().ok()
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}
