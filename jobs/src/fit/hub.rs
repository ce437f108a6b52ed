//! Where the tasks of running fits find what was published for them, and where they report.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use covey_engine::coordinator::{PROFILE, Progress, centroids_key};
use covey_engine::operators::encode_centroids;
use covey_engine::{external, user_err};
use covey_udfs::kmeans::{Centroids, Profile};
use datafusion::error::Result;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::board::JobHandle;

/// Between two looks at whether all fits have ended.
const CLOSE_PAUSE: Duration = Duration::from_millis(10);

/// The fits that run in this process.
#[derive(Debug, Default)]
pub struct FitHub {
    fits: Mutex<HashMap<String, Entry>>,
    closed: watch::Sender<bool>,
    /// What removes the files of fits that have ended.
    cleaning: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct Entry {
    objects: HashMap<String, Bytes>,
    job: Arc<JobHandle>,
}

impl FitHub {
    /// Makes room for a fit, until the result is dropped.
    pub(super) fn open(self: &Arc<Self>, fit: &str, job: Arc<JobHandle>) -> Publication {
        self.fits.lock().insert(fit.to_string(), Entry { objects: HashMap::new(), job });
        Publication { hub: Arc::clone(self), fit: fit.to_string() }
    }

    /// Ends every fit: the process is about to end. Ready when their files are removed.
    pub async fn close(&self) {
        let _ = self.closed.send_replace(true);
        while !self.fits.lock().is_empty() {
            tokio::time::sleep(CLOSE_PAUSE).await;
        }
        let mut cleaning = std::mem::take(&mut *self.cleaning.lock());
        while cleaning.join_next().await.is_some() {}
    }

    /// Ready when the process is about to end.
    pub(super) async fn closed(&self) {
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// Runs what a fit leaves to be done after it, and waits for it before the process ends.
    pub(super) fn clean(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut cleaning = self.cleaning.lock();
        while cleaning.try_join_next().is_some() {}
        cleaning.spawn(work);
    }

    /// What `fit` has published under `key`.
    ///
    /// # Errors
    /// When the fit is over (its tasks should end) or has no such object.
    pub fn fetch(&self, fit: &str, key: &str) -> Result<Bytes> {
        match self.fits.lock().get(fit).map(|entry| entry.objects.get(key).cloned()) {
            Some(Some(bytes)) => Ok(bytes),
            Some(None) => user_err!("fit {fit} has published nothing under {key:?}"),
            None => user_err!("fit {fit} is over"),
        }
    }

    /// Takes a report of a task.
    ///
    /// # Errors
    /// When the fit is over: the task should end.
    pub fn report(&self, fit: &str, progress: &Progress) -> Result<()> {
        let Some(job) = self.fits.lock().get(fit).map(|entry| Arc::clone(&entry.job)) else {
            return user_err!("fit {fit} is over");
        };
        match progress {
            Progress::Seeded => job.stage("iterate"),
            Progress::Iterated(stats) => job.iterated(stats),
        }
        Ok(())
    }
}

/// The published objects of one fit; withdrawn when dropped.
#[derive(Debug)]
pub(super) struct Publication {
    hub: Arc<FitHub>,
    fit: String,
}

impl Publication {
    pub fn profile(&self, profile: &Profile) -> Result<()> {
        self.put(PROFILE.to_string(), serde_json::to_vec(profile).map_err(external)?.into());
        Ok(())
    }

    /// Publishes the centroids of an iteration in place of the one before, and gives their key.
    pub fn centroids(&self, run: usize, iteration: usize, centroids: &Centroids) -> String {
        if let Some(before) = iteration.checked_sub(1) {
            self.remove(&centroids_key(run, before));
        }
        let key = centroids_key(run, iteration);
        self.put(key.clone(), encode_centroids(centroids));
        key
    }

    fn put(&self, key: String, bytes: Bytes) {
        if let Some(entry) = self.hub.fits.lock().get_mut(&self.fit) {
            entry.objects.insert(key, bytes);
        }
    }

    fn remove(&self, key: &str) {
        if let Some(entry) = self.hub.fits.lock().get_mut(&self.fit) {
            entry.objects.remove(key);
        }
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        self.hub.fits.lock().remove(&self.fit);
    }
}
