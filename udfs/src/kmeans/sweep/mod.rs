//! Every number of clusters of a range in one run, from the most to the fewest: the two clusters whose merge costs
//! least become one (Ward's criterion), and Lloyd's iterations go on from there. One seeding serves every k, most of
//! what a pass needs to know is known from the k before, and centres that are means of many rows are better starts
//! than rows are: `docs/decisions/0013-elbow.md` has the numbers.
//!
//! [`Sweep`] is a state machine like [`Lloyd`]: whoever runs the passes feeds it.
//!
//! ```text
//! seed start_of(k_max) ─► Lloyd until done ─► record ─► merge ─┐
//!                           ▲                                  │ until k_min
//!                           └──────────────────────────────────┘
//! rises? ─► k's centres and the farthest row ─► Lloyd until done ─► mend       (in order of k, so that none is above)
//! ```

mod knee;
mod measure;
mod pairs;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use knee::choose;
pub use knee::{Choice, ElbowPoint};
pub use measure::{Sample, distances_to_centres};
use pairs::Pairs;
pub use pairs::davies_bouldin;

use super::{Centroids, FarPoint, Iterating, IterationStats, Lloyd, Partial};
use crate::{Result, input_err};

/// Largest `k_max`: the distances between all pairs of centres are held in memory.
pub const SWEEP_CLUSTERS_MAX: usize = 2_000;

/// A sweep begins with one cluster more for so many of `k_max`: seeds are merged before they count.
const HEADROOM: usize = 4;

/// What a sweep up to `k_max` begins with, where there are so many distinct rows.
pub fn start_of(k_max: usize) -> usize {
    k_max + k_max.div_ceil(HEADROOM)
}

/// Two clusters that become one: the rows of `from` come to `to`, and `last` takes the number `from`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Merge {
    pub to: u32,
    pub from: u32,
    pub last: u32,
}

impl Merge {
    /// The number of a cluster after the merge.
    pub fn renumbered(self, cluster: u32) -> u32 {
        match cluster {
            cluster if cluster == self.from => self.to,
            cluster if cluster == self.last => self.from,
            cluster => cluster,
        }
    }
}

/// The coordinates of a centre that are not zero.
type NonZeros = Vec<(u32, f64)>;

/// The solution for one number of clusters.
#[derive(Debug, Clone)]
pub struct SweepStep {
    pub point: ElbowPoint,
    centres: Vec<Arc<NonZeros>>,
    n_features: usize,
}

impl SweepStep {
    pub fn centroids(&self) -> Centroids {
        let mut centroids = Centroids::zeros(self.centres.len(), self.n_features);
        for (cluster, values) in self.centres.iter().enumerate() {
            let centre = Arc::make_mut(centroids.centre_mut(cluster));
            values.iter().for_each(|&(feature, x)| centre[feature as usize] = x);
        }
        centroids
    }
}

/// The state of a sweep.
#[derive(Debug)]
pub struct Sweep {
    lloyd: Lloyd,
    k_min: usize,
    k_max: usize,
    pairs: Pairs,
    /// Non-zeros of the centres, shared by the steps in which a centre is the same; none of those that have moved.
    centres: Vec<Option<Arc<NonZeros>>>,
    /// Σ w·d of the rows of each cluster, quantised.
    distances: Vec<i128>,
    /// Clusters that have changed since their distances were summed.
    is_stale: Vec<bool>,
    n_before: usize,
    /// By falling k.
    steps: Vec<SweepStep>,
}

impl Sweep {
    /// Records one solution, of whatever number of clusters.
    pub fn of_one(lloyd: Lloyd) -> Self {
        Self::new(lloyd, 1, usize::MAX)
    }

    /// Begins where `lloyd` does, and ends there too if that is below `k_max`.
    ///
    /// # Errors
    /// When it is below `k_min`: there are no more distinct rows.
    pub fn try_new(lloyd: Lloyd, k_min: usize, k_max: usize) -> Result<Self> {
        let k = lloyd.centroids().n_clusters();
        if k < k_min {
            return input_err!("k_min is {k_min}, but there are only {k} rows that differ as vectors");
        }
        Ok(Self::new(lloyd, k_min, k_max))
    }

    fn new(lloyd: Lloyd, k_min: usize, k_max: usize) -> Self {
        let k = lloyd.centroids().n_clusters();
        Self {
            lloyd,
            k_min,
            k_max,
            pairs: Pairs::new(k),
            centres: vec![None; k],
            distances: vec![0; k],
            is_stale: vec![true; k],
            n_before: 0,
            steps: vec![],
        }
    }

    fn take_changes(&mut self) {
        for changed in self.lloyd.changed() {
            self.is_stale[changed.cluster] = true;
            self.centres[changed.cluster] = None;
            self.pairs.forget(changed.cluster);
        }
    }

    /// Whether the present number of clusters is one of those asked for.
    pub fn is_asked_for(&self) -> bool {
        (self.k_min..=self.k_max).contains(&self.lloyd.centroids().n_clusters())
    }

    /// The clusters whose rows have to be measured for [`Self::record`].
    pub fn is_stale(&self) -> &[bool] {
        &self.is_stale
    }

    /// Ends a step: `distances` are Σ w·d, quantised, of the rows of the clusters that are stale.
    pub fn record(&mut self, distances: &[i128], silhouette: Option<f64>) -> &ElbowPoint {
        let stale = self.is_stale.iter().zip(distances);
        let kept = self.distances.iter_mut().zip(stale).filter(|(_, (is_stale, _))| **is_stale);
        kept.for_each(|(kept, (_, distance))| *kept = *distance);
        self.pairs.refresh(&self.lloyd);
        self.is_stale.fill(false);
        let point = ElbowPoint {
            n_clusters: self.lloyd.centroids().n_clusters(),
            n_iter: self.lloyd.history().len() - self.n_before,
            inertia: self.lloyd.inertia_around_means(),
            silhouette,
            davies_bouldin: self.pairs.davies_bouldin(&self.mean_distances()),
        };
        let centroids = self.lloyd.centroids();
        let centre = |(cluster, kept): (usize, &mut Option<Arc<_>>)| {
            Arc::clone(kept.get_or_insert_with(|| Arc::new(non_zeros(centroids.centre(cluster)))))
        };
        let centres = self.centres.iter_mut().enumerate().map(centre).collect();
        self.steps.push(SweepStep { point, centres, n_features: centroids.n_features() });
        &self.steps[self.steps.len() - 1].point
    }

    fn mean_distances(&self) -> Vec<f64> {
        let mean = |(cluster, sum): (usize, &i128)| self.lloyd.scale().mean_distance(*sum, self.lloyd.weight(cluster));
        self.distances.iter().enumerate().map(mean).collect()
    }

    /// Merges the two clusters whose merge costs least. Nothing when no fewer clusters are asked for.
    pub fn merge(&mut self) -> Option<Merge> {
        let k = self.lloyd.centroids().n_clusters();
        if k <= self.k_min.max(1) {
            return None;
        }
        self.pairs.refresh(&self.lloyd);
        let (to, from) = self.pairs.cheapest(&self.lloyd);
        self.lloyd.merge(to, from);
        self.pairs.swap_remove(from);
        self.centres.swap_remove(from);
        self.distances.swap_remove(from);
        self.is_stale.swap_remove(from);
        self.n_before = self.lloyd.history().len();
        self.take_changes();
        Some(Merge { to: to as u32, from: from as u32, last: k as u32 - 1 })
    }

    /// Ends the way down.
    pub fn finish(mut self) -> Finished {
        self.steps.reverse();
        let history = self.lloyd.history().to_vec();
        Finished { steps: self.steps, history, lloyd: self.lloyd }
    }
}

impl Iterating for Sweep {
    fn lloyd(&self) -> &Lloyd {
        &self.lloyd
    }

    fn advance(&mut self, partial: Partial, farthest: &[FarPoint]) {
        self.lloyd.advance(partial, farthest);
        self.take_changes();
    }
}

/// A sweep whose steps may still have to be mended.
#[derive(Debug)]
pub struct Finished {
    /// By rising k.
    pub steps: Vec<SweepStep>,
    pub history: Vec<IterationStats>,
    /// For its parameters.
    lloyd: Lloyd,
}

impl Finished {
    /// The run that begins at the centres of the step before and the row that lies farthest from them.
    pub fn from_below(&self, centroids: &Centroids, farthest: &[FarPoint]) -> Lloyd {
        let init = farthest.first().map_or_else(|| centroids.clone(), |far| centroids.with(far.row.row(0)));
        self.lloyd.restarted(init)
    }

    /// Puts the solution of that run, which has recorded it, in the place of step `i`. It is never above the step before;
    /// what rounding makes of that is taken away.
    pub fn mend(&mut self, i: usize, mended: Sweep) {
        self.history.extend_from_slice(mended.lloyd.history());
        let bound = self.steps[i - 1].point.inertia;
        let step = mended.steps.into_iter().next_back();
        // There is no row to add where every row lies on a centre.
        if let Some(step) = step.filter(|step| step.point.n_clusters == self.steps[i].point.n_clusters) {
            self.steps[i] = step;
        }
        self.steps[i].point.inertia = self.steps[i].point.inertia.min(bound);
    }
}

fn non_zeros(centre: &[f64]) -> NonZeros {
    (0..).zip(centre.iter().copied()).filter(|(_, x)| x.to_bits() != 0).collect()
}

/// The first step, by rising k, whose inertia is above that of the step before.
pub fn first_rise(steps: &[SweepStep]) -> Option<usize> {
    (1..steps.len()).find(|&i| steps[i].point.inertia > steps[i - 1].point.inertia)
}

/// The better of two sweeps at every k, or the only one.
pub fn best_of(best: Option<Vec<SweepStep>>, next: Vec<SweepStep>) -> Vec<SweepStep> {
    let Some(best) = best else { return next };
    let better = |(a, b): (SweepStep, SweepStep)| if b.point.inertia < a.point.inertia { b } else { a };
    best.into_iter().zip(next).map(better).collect()
}

/// The curve of a sweep, what it says, and the centres of that number of clusters. Nothing where there are no steps.
pub fn elbow_of(steps: &[SweepStep]) -> Option<(Centroids, Vec<ElbowPoint>, Choice)> {
    let points: Vec<ElbowPoint> = steps.iter().map(|step| step.point.clone()).collect();
    let choice = if points.is_empty() { return None } else { choose(&points) };
    let chosen = steps.iter().find(|step| step.point.n_clusters == choice.n_clusters())?;
    Some((chosen.centroids(), points, choice))
}
