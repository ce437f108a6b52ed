//! Models by name: found, written, labelled and dropped.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use datafusion::error::Result;
use url::Url;
use uuid::Uuid;

use super::manifest::{FORMAT, hex_sha256};
use super::{FileEntry, Manifest, Model, ModelFeatures, ModelFiles, check_model_name};
use crate::storage::Directory;
use crate::user_err;

/// Times that a change of a label is tried against other writers.
const LABEL_ATTEMPTS_MAX: usize = 16;

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

    /// The manifest that counts of each model, by name.
    pub async fn list(&self) -> Result<Vec<Manifest>> {
        let (_, names) = self.models.list("").await?;
        let mut manifests = vec![];
        for name in names {
            manifests.extend(self.find(&name).await?);
        }
        Ok(manifests)
    }

    /// The model `name` as it is now, if there is one.
    pub async fn find(&self, name: &str) -> Result<Option<Manifest>> {
        Ok(self.latest(name).await?.filter(|manifest| !manifest.dropped))
    }

    /// # Errors
    /// When there is no model of that name: the message lists those there are.
    pub async fn get(&self, name: &str) -> Result<Manifest> {
        if let Some(manifest) = self.find(name).await? {
            return Ok(manifest);
        }
        let (_, names) = self.models.list("").await?;
        user_err!("there is no model {name:?}; SHOW MODELS lists what there is ({})", names.join(", "))
    }

    async fn latest(&self, name: &str) -> Result<Option<Manifest>> {
        check_model_name(name)?;
        let (files, _) = self.models.list(&format!("{name}/")).await?;
        let Some(file) = files.iter().rfind(|file| file.ends_with(".json")) else {
            return Ok(None);
        };
        let path = format!("{name}/{file}");
        let bytes = self.models.get(&path).await?;
        Manifest::decode(&bytes, self.models.url_of(&path)?.as_str()).map(Some)
    }

    pub fn manifest_url(&self, manifest: &Manifest) -> Result<Url> {
        self.models.url_of(&format!("{}/{}", manifest.name, manifest.file_name()))
    }

    /// Writes a model. `replaces` is what the statement saw when it began; if another writer was quicker since,
    /// this one loses and leaves nothing.
    pub async fn create(&self, new: NewModel, replaces: Option<&Manifest>) -> Result<Manifest> {
        check_model_name(&new.name)?;
        let seen = match replaces {
            Some(manifest) => manifest.version,
            // A dropped model still holds its version.
            None => self.latest(&new.name).await?.map_or(0, |tombstone| tombstone.version),
        };
        let digest = new.files.digest(&new.options);
        let (data, files) = self.write_files(&new).await?;
        let manifest = Manifest {
            format: FORMAT,
            version: seen + 1,
            revision: 0,
            dropped: false,
            created_unix_ms: unix_ms(),
            n_clusters: new.files.centroids.n_clusters(),
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
            labels: BTreeMap::new(),
            checksum: String::new(),
        };
        let now = self.find(&manifest.name).await?.map(|now| now.version);
        let undisturbed = now == replaces.map(|manifest| manifest.version);
        if undisturbed && self.commit(&manifest).await? {
            return Ok(manifest);
        }
        data.delete_all().await?;
        user_err!(
            "model {:?} was created by another statement while this one ran; use CREATE OR REPLACE MODEL to train it again",
            manifest.name
        )
    }

    async fn write_files(&self, new: &NewModel) -> Result<(Directory, BTreeMap<String, FileEntry>)> {
        let below = format!("data/{}", Uuid::new_v4());
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
        if label.is_some_and(|label| label.len() > LABEL_BYTES_MAX) {
            return user_err!("a label may have {LABEL_BYTES_MAX} bytes");
        }
        for _ in 0..LABEL_ATTEMPTS_MAX {
            let mut manifest = self.get(name).await?;
            if cluster as usize >= manifest.n_clusters {
                return user_err!("model {name:?} has clusters 0 to {}, not {cluster}", manifest.n_clusters - 1);
            }
            manifest.revision += 1;
            match label {
                Some(label) => manifest.labels.insert(cluster, label.to_string()),
                None => manifest.labels.remove(&cluster),
            };
            if self.commit(&manifest).await? {
                return Ok(manifest);
            }
        }
        user_err!("model {name:?} was changed by others {LABEL_ATTEMPTS_MAX} times in a row; try again")
    }

    /// Drops a model: it is gone once its tombstone is there; then its files are removed.
    pub async fn drop_model(&self, name: &str) -> Result<()> {
        let manifest = self.get(name).await?;
        let tombstone = Manifest {
            version: manifest.version + 1,
            revision: 0,
            dropped: true,
            files: BTreeMap::new(),
            labels: BTreeMap::new(),
            ..manifest
        };
        if !self.commit(&tombstone).await? {
            return user_err!("model {name:?} was changed by another statement; try again");
        }
        let model = self.models.child(name)?;
        model.child("data")?.delete_all().await?;
        let (files, _) = model.list("").await?;
        for file in files.iter().filter(|file| **file < tombstone.file_name()) {
            model.delete(file).await?;
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
        let bytes = model.get(&entry.path).await?;
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

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}
