//! Where the tasks of running fits find what was published for them, and where they report.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use covey_engine::coordinator::{GIVEN, MEAN, PROFILE, Progress, candidates_key, centroids_key, drift_key, run_of_key};
use covey_engine::operators::{encode_centroids, encode_drift};
use covey_engine::storage::Directory;
use covey_engine::{external, user_err};
use covey_udfs::kmeans::{Centroids, Drift, Profile};
use datafusion::error::{DataFusionError, Result};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::board::JobHandle;

/// How long a task that was cancelled may take to notice it.
const STRAGGLERS_PAUSE: Duration = Duration::from_millis(500);

/// Fits that were cut off whose directories are looked at again in the end.
const CUT_OFF_KEPT_MAX: usize = 64;

/// Between two looks at whether all fits have ended.
const CLOSE_PAUSE: Duration = Duration::from_millis(10);

/// The fits that run in this process.
#[derive(Debug, Default)]
pub struct FitHub {
    fits: Mutex<HashMap<String, Entry>>,
    closed: watch::Sender<bool>,
    /// What removes the files of fits that have ended.
    cleaning: Mutex<JoinSet<()>>,
    /// Directories of the last fits that were cut off: a task of theirs may have written once more since.
    cut_off: Mutex<VecDeque<Directory>>,
}

#[derive(Debug)]
struct Entry {
    objects: HashMap<String, Bytes>,
    /// By URL of a block, the executor that holds it.
    homes: HashMap<String, String>,
    /// Dropped with the entry, which tells everyone who waits for the end of the fit.
    over: watch::Sender<()>,
    job: Arc<JobHandle>,
}

impl FitHub {
    /// Makes room for a fit, until the result is dropped.
    pub(super) fn open(self: &Arc<Self>, fit: &str, job: Arc<JobHandle>) -> Publication {
        self.fits.lock().insert(
            fit.to_string(),
            Entry { objects: HashMap::new(), homes: HashMap::new(), over: watch::Sender::new(()), job },
        );
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
        let cut_off = std::mem::take(&mut *self.cut_off.lock());
        for directory in cut_off {
            // What could not be removed was said when it was tried first.
            let _ = directory.delete_all().await;
        }
    }

    /// Ready when the process is about to end.
    pub(super) async fn closed(&self) {
        let _ = self.closed.subscribe().wait_for(|closed| *closed).await;
    }

    /// Removes the files of a fit that has ended; [`Self::close`] waits for it. Tasks of a fit that was cut off may
    /// still write: its files are removed again a moment later, and once more when the process ends.
    pub(super) fn remove_files(&self, directory: Directory, cut_off: bool) {
        if cut_off {
            let mut kept = self.cut_off.lock();
            kept.push_back(directory.clone());
            while kept.len() > CUT_OFF_KEPT_MAX {
                kept.pop_front();
            }
        }
        let mut cleaning = self.cleaning.lock();
        while cleaning.try_join_next().is_some() {}
        cleaning.spawn(async move {
            let removing = async {
                directory.delete_all().await?;
                if cut_off {
                    tokio::time::sleep(STRAGGLERS_PAUSE).await;
                    directory.delete_all().await?;
                }
                Ok::<_, DataFusionError>(())
            };
            if let Err(error) = removing.await {
                tracing::warn!(target: "covey", %error, url = %directory.url(), "intermediate files of a fit were left behind");
            }
        });
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

    /// Ready when `fit` is over.
    pub async fn over(&self, fit: &str) {
        let Some(mut over) = self.fits.lock().get(fit).map(|entry| entry.over.subscribe()) else { return };
        // Nothing is ever sent: it ends with its sender.
        while over.changed().await.is_ok() {}
    }

    /// The executor that holds the block of `fit` at `url`.
    pub fn home(&self, fit: &str, url: &str) -> Option<String> {
        self.fits.lock().get(fit).and_then(|entry| entry.homes.get(url).cloned())
    }

    /// From now on `executor` holds the block of `fit` at `url`, as one of its tasks reads it. For blocks only.
    pub fn move_home(&self, fit: &str, url: &str, executor: &str) {
        if let Some(home) = self.fits.lock().get_mut(fit).and_then(|entry| entry.homes.get_mut(url)) {
            *home = executor.to_string();
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

    /// Publishes the mean of all rows.
    pub fn mean(&self, mean: &[f64]) -> Result<()> {
        let centre = Centroids::try_new(mean.len(), mean.to_vec()).map_err(external)?;
        self.put(MEAN.to_string(), encode_centroids(&centre));
        Ok(())
    }

    /// Publishes the centres that a fit was given to begin with.
    pub fn given(&self, centroids: &Centroids) {
        self.put(GIVEN.to_string(), encode_centroids(centroids));
    }

    /// Publishes the centroids that an iteration begins with, and gives their key. Those of the iteration before stay:
    /// a block that comes to another executor finds its labels again by them.
    pub fn centroids(&self, run: usize, iteration: usize, centroids: &Centroids) -> String {
        if let Some(old) = iteration.checked_sub(2) {
            self.remove(&centroids_key(run, old));
        }
        let key = centroids_key(run, iteration);
        self.put(key.clone(), encode_centroids(centroids));
        key
    }

    /// Publishes how far centres have moved before an iteration, which was not of use before.
    pub fn drift(&self, run: usize, iteration: usize, drift: &Drift) {
        if let Some(old) = iteration.checked_sub(1) {
            self.remove(&drift_key(run, old));
        }
        self.put(drift_key(run, iteration), encode_drift(drift));
    }

    /// Publishes the rows that a round of k-means|| has drawn for a run.
    pub fn candidates(&self, run: usize, round: usize, rows: &Centroids) {
        self.put(candidates_key(run, round), encode_centroids(rows));
    }

    /// Withdraws what the first rounds of k-means|| have drawn for a run.
    pub fn forget_candidates(&self, run: usize, n_rounds: usize) {
        (0..n_rounds).for_each(|round| self.remove(&candidates_key(run, round)));
    }

    /// Withdraws what was published for iterations of runs that are over.
    pub fn forget_runs(&self, is_over: impl Fn(usize) -> bool) {
        if let Some(entry) = self.hub.fits.lock().get_mut(&self.fit) {
            entry.objects.retain(|key, _| !run_of_key(key).is_some_and(&is_over));
        }
    }

    /// Tells which executor has written a block, and so holds it.
    pub fn home(&self, url: &str, executor: String) {
        if let Some(entry) = self.hub.fits.lock().get_mut(&self.fit) {
            entry.homes.insert(url.to_string(), executor);
        }
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
