//! Every number of clusters of a range in one run, from the most to the fewest: the two clusters whose merge costs
//! least become one (Ward's criterion), and Lloyd's iterations go on from there. One seeding serves every k, most of
//! what a pass needs to know is known from the k before, and centres that are means of many rows are better starts
//! than rows are: `docs/decisions/0013-elbow.md` has the numbers.
//!
//! [`Sweep`] is a state machine like [`Lloyd`]: whoever runs the passes feeds it. Where a pass over the rows is dear, several
//! numbers of clusters share it: their runs begin after one merge, two, three and so on of the same solution.
//!
//! ```text
//! seed start_of(k_max) ─► Lloyd until done ─► record ─► merge, for each of a batch ─┐
//!                           ▲                                                       │ until k_min
//!                           └───────────────────────────────────────────────────────┘
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

/// At most one number of clusters for so many clusters is solved beside others: of those that begin after more merges, more
/// has to be put right.
const BATCH_SHARE: usize = 4;

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

/// The run for one number of clusters, and what is known of its solution.
#[derive(Debug, Clone)]
pub struct Branch {
    lloyd: Lloyd,
    /// What has become of the clusters of the solution that it begins at.
    merges: Vec<Merge>,
    is_asked_for: bool,
    pairs: Pairs,
    /// Non-zeros of the centres, shared by the steps in which a centre is the same; none of those that have moved.
    centres: Vec<Option<Arc<NonZeros>>>,
    /// Σ w·d of the rows of each cluster, quantised.
    distances: Vec<i128>,
    /// Clusters that have changed since their distances were summed.
    is_stale: Vec<bool>,
    step: Option<SweepStep>,
}

impl Branch {
    /// A run that begins by itself.
    pub fn of_one(lloyd: Lloyd) -> Self {
        let k = lloyd.centroids().n_clusters();
        Self {
            lloyd,
            merges: vec![],
            is_asked_for: true,
            pairs: Pairs::new(k),
            centres: vec![None; k],
            distances: vec![0; k],
            is_stale: vec![true; k],
            step: None,
        }
    }

    fn n_clusters(&self) -> usize {
        self.lloyd.centroids().n_clusters()
    }

    /// The merges that lead from the solution before to where this run begins.
    pub fn merges(&self) -> &[Merge] {
        &self.merges
    }

    /// Whether its number of clusters is one of those that are asked for.
    pub fn is_asked_for(&self) -> bool {
        self.is_asked_for
    }

    /// The clusters whose rows have to be measured for [`Self::record`].
    pub fn is_stale(&self) -> &[bool] {
        &self.is_stale
    }

    /// Ends a run: `distances` are Σ w·d, quantised, of the rows of the clusters that are stale.
    pub fn record(&mut self, distances: &[i128], silhouette: Option<f64>) -> &ElbowPoint {
        let stale = self.is_stale.iter().zip(distances);
        let kept = self.distances.iter_mut().zip(stale).filter(|(_, (is_stale, _))| **is_stale);
        kept.for_each(|(kept, (_, distance))| *kept = *distance);
        self.pairs.refresh(&self.lloyd);
        self.is_stale.fill(false);
        let point = ElbowPoint {
            n_clusters: self.n_clusters(),
            n_iter: self.lloyd.history().len(),
            inertia: self.lloyd.inertia_around_means(),
            silhouette,
            davies_bouldin: self.pairs.davies_bouldin(&self.mean_distances()),
        };
        let centroids = self.lloyd.centroids();
        let centre = |(cluster, kept): (usize, &mut Option<Arc<_>>)| {
            Arc::clone(kept.get_or_insert_with(|| Arc::new(stored(centroids, cluster))))
        };
        let centres = self.centres.iter_mut().enumerate().map(centre).collect();
        &self.step.insert(SweepStep { point, centres, n_features: centroids.n_features() }).point
    }

    fn mean_distances(&self) -> Vec<f64> {
        let mean = |(cluster, sum): (usize, &i128)| self.lloyd.scale().mean_distance(*sum, self.lloyd.weight(cluster));
        self.distances.iter().enumerate().map(mean).collect()
    }

    fn take_changes(&mut self) {
        for changed in self.lloyd.changed() {
            self.is_stale[changed.cluster] = true;
            self.centres[changed.cluster] = None;
            self.pairs.forget(changed.cluster);
        }
    }

    /// Makes one of the two clusters whose merge costs least.
    fn merge(&mut self) {
        let last = self.n_clusters() - 1;
        self.pairs.refresh(&self.lloyd);
        let (to, from) = self.pairs.cheapest(&self.lloyd);
        self.lloyd.merge(to, from);
        self.pairs.swap_remove(from);
        self.centres.swap_remove(from);
        self.distances.swap_remove(from);
        self.is_stale.swap_remove(from);
        self.take_changes();
        self.merges.push(Merge { to: to as u32, from: from as u32, last: last as u32 });
    }
}

impl Iterating for Branch {
    fn lloyd(&self) -> &Lloyd {
        &self.lloyd
    }

    fn advance(&mut self, partial: Partial, farthest: &[FarPoint]) {
        self.lloyd.advance(partial, farthest);
        self.take_changes();
    }
}

/// The way down. Whoever runs the passes solves what [`Self::branch`] gives and records what is asked for of it, and
/// hands it back to [`Self::take`], until there is no more.
#[derive(Debug)]
pub struct Sweep {
    k_min: usize,
    k_max: usize,
    /// Most numbers of clusters that are solved side by side.
    k_batch: usize,
    /// What to go on from; none while that is being solved.
    trunk: Option<Branch>,
    has_begun: bool,
    /// By falling k.
    steps: Vec<SweepStep>,
    history: Vec<IterationStats>,
}

impl Sweep {
    /// Begins where `lloyd` does, and ends there too if that is below `k_max`.
    ///
    /// # Errors
    /// When it is below `k_min`: there are no more distinct rows.
    pub fn try_new(lloyd: Lloyd, k_min: usize, k_max: usize, k_batch: usize) -> Result<Self> {
        let k = lloyd.centroids().n_clusters();
        if k < k_min {
            return input_err!("k_min is {k_min}, but there are only {k} rows that differ as vectors");
        }
        let trunk = Some(Branch { is_asked_for: k <= k_max, ..Branch::of_one(lloyd) });
        Ok(Self { k_min: k_min.max(1), k_max, k_batch, trunk, has_begun: false, steps: vec![], history: vec![] })
    }

    /// The runs to solve next, by falling k: each merges one pair of clusters more of the last solution. Nothing where no
    /// fewer clusters are asked for.
    pub fn branch(&mut self) -> Vec<Branch> {
        let Some(mut next) = self.trunk.take() else { return vec![] };
        if !std::mem::replace(&mut self.has_begun, true) {
            return vec![next];
        }
        let k = next.n_clusters();
        let n = (k / BATCH_SHARE).clamp(1, self.k_batch.max(1)).min(k - self.k_min);
        (next.merges, next.step) = (vec![], None);
        next.lloyd.begin_again(self.history.len());
        let mut branches = vec![];
        for i in 0..n {
            next.merge();
            next.is_asked_for = next.n_clusters() <= self.k_max;
            // Of those that nobody asks for, the last one is on the way.
            if next.is_asked_for && i + 1 < n {
                branches.push(next.clone());
            }
        }
        match n {
            0 => self.trunk = Some(next),
            _ => branches.push(next),
        }
        branches
    }

    /// Takes back what [`Self::branch`] gave.
    pub fn take(&mut self, branches: Vec<Branch>) {
        for mut branch in branches {
            let n_before = self.history.len();
            let stats = branch.lloyd.history().iter().zip(n_before + 1..);
            self.history.extend(stats.map(|(stats, iteration)| IterationStats { iteration, ..stats.clone() }));
            self.steps.extend(branch.step.take());
            self.trunk = Some(branch);
        }
    }

    /// Ends the way down.
    pub fn finish(mut self) -> Option<Finished> {
        self.steps.reverse();
        Some(Finished { steps: self.steps, history: self.history, lloyd: self.trunk?.lloyd })
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
    pub fn mend(&mut self, i: usize, mended: Branch) {
        let stats = mended.lloyd.history().iter().zip(self.history.len() + 1..);
        let stats: Vec<_> = stats.map(|(stats, iteration)| IterationStats { iteration, ..stats.clone() }).collect();
        self.history.extend(stats);
        let bound = self.steps[i - 1].point.inertia;
        // There is no row to add where every row lies on a centre.
        if let Some(step) = mended.step.filter(|step| step.point.n_clusters == self.steps[i].point.n_clusters) {
            self.steps[i] = step;
        }
        self.steps[i].point.inertia = self.steps[i].point.inertia.min(bound);
    }
}

fn stored(centroids: &Centroids, cluster: usize) -> NonZeros {
    let centre = centroids.centre(cluster);
    centroids.non_zeros(cluster).into_iter().map(|feature| (feature, centre[feature as usize])).collect()
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
