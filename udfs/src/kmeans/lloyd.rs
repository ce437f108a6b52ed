//! Lloyd's loop as a state machine: whoever runs the passes, in one task or as jobs on a cluster, feeds it what
//! changed and gets the next centres. Both ways therefore take the same steps.

use std::collections::BTreeMap;
use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::centroids::non_zeros;
use super::{Centroids, ClusterSum, FarPoint, FixedPoint, Moments, Partial, min_len};
use crate::matrix::WEIGHT_ONE;

/// By what rows and centres are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    #[default]
    Euclidean,
    /// Spherical k-means (Dhillon and Modha 2001): rows have the length 1, and so have centres, which are means scaled to
    /// it. Then ‖x − c‖² is 2·(1 − cos), so the nearest centre is that of the smallest angle. A row of zeros lies as far
    /// from every centre, and belongs to the one whose length is rounded down most.
    Cosine,
}

/// What a run goes by; when to stop in scikit-learn's terms.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LloydParams {
    pub metric: Metric,
    pub max_iter: usize,
    /// A run ends when Σ ‖c − c'‖² is no more than this times the mean variance of the features.
    #[serde(with = "crate::exact")]
    pub tol: f64,
}

/// Where all rows lie, and how far from it.
#[derive(Debug, Clone, PartialEq)]
pub struct Spread {
    /// The mean of dense rows; empty where rows are sparse, which are measured from zero.
    pub mean: Vec<f64>,
    /// Σ w·‖x − mean‖² in rows of weight one.
    pub total: f64,
    /// The variance of a feature, the mean of all. Of sparse rows it is not known before they are summed up by cluster.
    mean_variance: Option<f64>,
}

impl Spread {
    /// The mean of dense rows, which their second moments are taken around.
    pub fn mean(moments: &Moments, scale: &FixedPoint) -> Vec<f64> {
        means(&moments.sum, scale).map(|(_, mean)| mean).collect()
    }

    /// From the moments of all rows around `mean`.
    pub fn new(mean: Vec<f64>, moments: &Moments, scale: &FixedPoint) -> Self {
        let total = scale.inertia(moments.squares);
        let variance = total / (moments.sum.weight as f64 / WEIGHT_ONE as f64);
        let mean_variance = (!mean.is_empty()).then(|| variance.max(0.0) / scale.n_features() as f64);
        Self { mean, total, mean_variance }
    }

    /// The variance of sparse rows around their mean, by their sums in clusters.
    fn variance_of(&self, clusters: &[Cluster], scale: &FixedPoint) -> f64 {
        let (mut sums, mut weight) = (vec![0_i128; scale.n_features()], 0);
        for cluster in clusters {
            weight += cluster.sum.weight;
            cluster.sum.iter().for_each(|(feature, sum)| sums[feature] += sum);
        }
        let means = sums.iter().enumerate().filter(|(_, sum)| **sum != 0);
        let means = means.map(|(feature, sum)| scale.mean(feature, *sum, weight as u64));
        let squared_mean = means.fold(0.0, |sum, mean| sum + mean * mean);
        let variance = self.total / (weight as f64 / WEIGHT_ONE as f64) - squared_mean;
        variance.max(0.0) / scale.n_features() as f64
    }
}

fn means<'a>(sum: &'a ClusterSum, scale: &'a FixedPoint) -> impl Iterator<Item = (usize, f64)> + 'a {
    sum.iter().map(|(feature, x)| (feature, scale.mean(feature, x, sum.weight as u64)))
}

/// What one iteration found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IterationStats {
    /// Counted from 1.
    pub iteration: usize,
    #[serde(default)]
    pub n_clusters: usize,
    /// Σ w·d² to the centres that the iteration began with.
    #[serde(with = "crate::exact")]
    pub inertia: f64,
    /// Σ ‖c − c'‖² between the centres before and after.
    #[serde(with = "crate::exact")]
    pub squared_shift: f64,
    pub n_empty: usize,
    /// Rows assigned, each once whatever its weight.
    pub n_points: u64,
    /// Of these, rows that changed their cluster.
    #[serde(default)]
    pub n_moved: u64,
    /// Σ w of the rows assigned, in weight units.
    pub weight: u64,
}

/// What passes are taken for: a run, or a sweep of runs.
pub trait Iterating {
    fn lloyd(&self) -> &Lloyd;

    /// See [`Lloyd::advance`].
    fn advance(&mut self, partial: Partial, farthest: &[FarPoint]);
}

impl Iterating for Lloyd {
    fn lloyd(&self) -> &Lloyd {
        self
    }

    fn advance(&mut self, partial: Partial, farthest: &[FarPoint]) {
        Self::advance(self, partial, farthest);
    }
}

/// A centre that is not where it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    pub cluster: usize,
    /// Those where it was or is not zero, ascending; none for all.
    features: Option<Vec<u32>>,
}

impl Changed {
    pub fn all_of(cluster: usize) -> Self {
        Self { cluster, features: None }
    }

    /// Those of a centre that was zero before.
    pub(super) fn non_zeros_of(cluster: usize, centre: &[f64]) -> Self {
        Self { cluster, features: Some(non_zeros(centre)) }
    }

    /// How many coordinates there are to go through.
    pub(super) fn n_values(&self, n_features: usize) -> usize {
        self.features.as_ref().map_or(n_features, Vec::len)
    }

    pub(super) fn for_each_feature(&self, n_features: usize, mut each: impl FnMut(usize)) {
        match &self.features {
            Some(features) => features.iter().for_each(|&feature| each(feature as usize)),
            None => (0..n_features).for_each(each),
        }
    }
}

/// One cluster between iterations.
#[derive(Debug, Clone)]
struct Cluster {
    /// Of its rows.
    sum: ClusterSum,
    /// ‖mean − mean of all‖² of its rows.
    squared_norm: f64,
    /// ‖mean − centre‖² of its rows and the centre that they were assigned to.
    squared_way: f64,
    /// ‖mean − centre‖² of its rows and the centre that was made of them: none but by angles.
    squared_gap: f64,
    /// ‖centre‖² of the centre that was made of its rows.
    centre_squared_norm: f64,
    /// Its centre was not made of its rows: it was chosen at the start, or by a relocation, or stayed.
    is_foreign: bool,
    /// The features of such a centre, where they are known.
    own: Option<Vec<u32>>,
}

/// The state of one run.
#[derive(Debug, Clone)]
pub struct Lloyd {
    params: LloydParams,
    scale: FixedPoint,
    spread: Spread,
    centroids: Centroids,
    clusters: Vec<Cluster>,
    changed: Vec<Changed>,
    /// ‖c − c'‖² of each cluster in the last iteration.
    squared_shifts: Vec<f64>,
    history: Vec<IterationStats>,
    /// Iterations of the runs that this one goes on from.
    n_before: usize,
    done: bool,
}

impl Lloyd {
    pub fn new(params: LloydParams, scale: FixedPoint, spread: Spread, init: Centroids) -> Self {
        assert_eq!(scale.n_features(), init.n_features());
        let done = params.max_iter == 0;
        let non_zeros = |cluster| match spread.mean.is_empty() {
            true => Changed::non_zeros_of(cluster, init.centre(cluster)),
            false => Changed::all_of(cluster),
        };
        let changed: Vec<Changed> = (0..init.n_clusters()).into_par_iter().map(non_zeros).collect();
        let cluster = |changed: &Changed| Cluster { own: changed.features.clone(), ..Cluster::empty() };
        let clusters = changed.iter().map(cluster).collect();
        Self {
            params,
            scale,
            spread,
            centroids: init,
            clusters,
            changed,
            squared_shifts: vec![],
            history: vec![],
            n_before: 0,
            done,
        }
    }

    /// The same rows and parameters, from other centres.
    pub fn restarted(&self, init: Centroids) -> Self {
        Self::new(self.params, self.scale.clone(), self.spread.clone(), init)
    }

    /// Goes on with one cluster less: the rows of `from` come to `to`, and the last cluster takes the number `from`.
    pub fn merge(&mut self, to: usize, from: usize) {
        assert!(to < from, "the lower number stays");
        let Self { params, clusters, centroids, changed, scale, spread, .. } = self;
        let (left, right) = clusters.split_at_mut(from);
        left[to].sum.merge(&right[0].sum);
        left[to].is_foreign |= right[0].is_foreign;
        let (_, moved) = left[to].take_mean(to, params.metric, scale, spread, centroids.centre_mut(to));
        clusters.swap_remove(from);
        centroids.swap_remove(from);
        changed.retain(|changed| changed.cluster != to && changed.cluster != from);
        let renumbered = changed.iter_mut().filter(|changed| changed.cluster == clusters.len());
        renumbered.for_each(|changed| changed.cluster = from);
        changed.extend(moved);
    }

    /// Begins a new run where this one is, after `n_before` iterations of those before it.
    pub(super) fn begin_again(&mut self, n_before: usize) {
        (self.history, self.n_before) = (vec![], n_before);
        self.done = self.params.max_iter == 0;
    }

    /// Σ w of the rows that a cluster was last assigned, in weight units.
    pub fn weight(&self, cluster: usize) -> u64 {
        self.clusters[cluster].sum.weight.max(0) as u64
    }

    /// ‖c − c'‖² of two centres.
    pub(super) fn squared_distance_between(&self, a: usize, b: usize) -> f64 {
        let (one, other) = (self.centroids.centre(a), self.centroids.centre(b));
        if !self.spread.mean.is_empty() || self.clusters[a].is_foreign || self.clusters[b].is_foreign {
            return one.iter().zip(other).fold(0.0, |sum, (x, y)| sum + (x - y) * (x - y));
        }
        let features = |cluster: usize| self.clusters[cluster].sum.features();
        let fewer = if features(a).len() < features(b).len() { features(a) } else { features(b) };
        let product = fewer.iter().fold(0.0, |sum, &feature| sum + one[feature as usize] * other[feature as usize]);
        (self.clusters[a].centre_squared_norm + self.clusters[b].centre_squared_norm - 2.0 * product).max(0.0)
    }

    /// Σ w·d² of all rows to the centres that were made of the clusters that they were last assigned to.
    pub fn inertia_around_means(&self) -> f64 {
        self.inertia(|cluster| cluster.squared_norm - cluster.squared_gap)
    }

    /// What all rows have around the mean of all, less what the means of the clusters have, which are weighed by `of`.
    fn inertia(&self, of: impl Fn(&Cluster) -> f64) -> f64 {
        let less =
            |inertia: f64, cluster: &Cluster| inertia - cluster.sum.weight as f64 / WEIGHT_ONE as f64 * of(cluster);
        self.clusters.iter().fold(self.spread.total, less).max(0.0)
    }

    pub fn centroids(&self) -> &Centroids {
        &self.centroids
    }

    /// The centres that the last iteration moved, before the first one all.
    pub fn changed(&self) -> &[Changed] {
        &self.changed
    }

    /// The squares of the ways that the last iteration moved the centres by.
    pub fn squared_shifts(&self) -> &[f64] {
        &self.squared_shifts
    }

    pub fn scale(&self) -> &FixedPoint {
        &self.scale
    }

    pub fn history(&self) -> &[IterationStats] {
        &self.history
    }

    pub fn is_done(&self) -> bool {
        self.done
    }

    /// The clusters that are empty once `partial` is added.
    pub fn empty_clusters(&self, partial: &Partial) -> Vec<usize> {
        let weight = |cluster: usize| self.clusters[cluster].sum.weight + partial.changes[cluster].weight;
        (0..self.clusters.len()).filter(|&cluster| weight(cluster) == 0).collect()
    }

    /// Ends an iteration: `partial` is what all rows change when they are assigned to [`Self::centroids`], `farthest`
    /// as many rows as there are then [`Self::empty_clusters`] (fewer where there are not that many).
    pub fn advance(&mut self, partial: Partial, farthest: &[FarPoint]) -> &IterationStats {
        let empty = self.empty_clusters(&partial);
        let Partial { changes, n_points, n_moved, .. } = partial;
        let relocations: Vec<Relocation<'_>> = empty
            .iter()
            .zip(farthest)
            .filter(|(_, point)| point.squared_distance > 0.0)
            .map(|(&to, point)| Relocation { point, to })
            .collect();
        let before = self.centres_of(&relocations);
        let mut shifts = self.take_means(changes);
        // Around the centres before it is more, by the way from each to the mean of the rows.
        let inertia = self.inertia(|cluster| cluster.squared_norm - cluster.squared_way);
        self.relocate(&relocations, &before, &mut shifts);
        let squared_shift = shifts.iter().fold(0.0, |sum, shift| sum + shift);
        self.squared_shifts = shifts;
        let weight = self.clusters.iter().map(|cluster| cluster.sum.weight as u64).sum();
        self.history.push(IterationStats {
            iteration: self.n_before + self.history.len() + 1,
            n_clusters: self.clusters.len(),
            inertia,
            squared_shift,
            n_empty: empty.len(),
            n_points,
            n_moved,
            weight,
        });
        // Labels that did not change give the same sums and so the same bits: no shift at all.
        self.done = squared_shift <= self.squared_shift_max() || self.history.len() >= self.params.max_iter;
        self.history.last().expect("just pushed")
    }

    /// A run ends when its centres move by no more.
    fn squared_shift_max(&mut self) -> f64 {
        if self.params.tol == 0.0 {
            return 0.0;
        }
        let (spread, clusters, scale) = (&self.spread, &self.clusters, &self.scale);
        let variance = spread.mean_variance.unwrap_or_else(|| spread.variance_of(clusters, scale));
        self.spread.mean_variance = Some(variance);
        self.params.tol * variance
    }

    /// Moves every centre to the mean of its rows and gives the square of each way.
    fn take_means(&mut self, changes: Vec<ClusterSum>) -> Vec<f64> {
        let Self { params, scale, spread, centroids, clusters, .. } = self;
        let to_do = clusters.iter().zip(&changes).filter(|(_, change)| !change.features().is_empty());
        let work = to_do.map(|(cluster, change)| cluster.sum.features().len() + change.features().len()).sum();
        let moved: Vec<(f64, Option<Changed>)> = clusters
            .par_iter_mut()
            .with_min_len(min_len(work))
            .zip(changes)
            .zip(centroids.par_centres_mut())
            .enumerate()
            .map(|(i, ((cluster, change), centre))| {
                if change.is_zero() && !cluster.is_foreign {
                    cluster.squared_way = cluster.squared_gap;
                    return (0.0, None);
                }
                cluster.sum.absorb(change);
                cluster.take_mean(i, params.metric, scale, spread, centre)
            })
            .collect();
        let (shifts, changed): (Vec<f64>, Vec<Option<Changed>>) = moved.into_iter().unzip();
        self.changed = changed.into_iter().flatten().collect();
        shifts
    }

    /// The centres of the clusters that relocations touch, as they are now.
    fn centres_of(&self, relocations: &[Relocation<'_>]) -> BTreeMap<usize, Vec<f64>> {
        let clusters = relocations.iter().flat_map(|relocation| [relocation.point.cluster, relocation.to]);
        clusters.map(|cluster| (cluster, self.centroids.centre(cluster).to_vec())).collect()
    }

    /// Gives empty clusters the farthest rows, each taken out of the cluster it was in: scikit-learn's
    /// `_relocate_empty_clusters`. It is the centres that move; the sums stay those of the labels.
    fn relocate(&mut self, relocations: &[Relocation<'_>], before: &BTreeMap<usize, Vec<f64>>, shifts: &mut [f64]) {
        let mut scratch = self.scale.scratches().take();
        for (&cluster, before) in before {
            let mut moved = Cluster { is_foreign: true, ..self.clusters[cluster].clone() };
            for Relocation { point, to } in relocations {
                let sign = i64::from(*to == cluster) - i64::from(point.cluster == cluster);
                let row = [(point.row.row(0), sign * point.weight as i64)];
                let density = point.row.density();
                moved.sum.merge(&ClusterSum::of_rows(&self.scale, density, row, &mut scratch));
            }
            let centre = self.centroids.centre_mut(cluster);
            moved.take_mean(cluster, self.params.metric, &self.scale, &self.spread, centre);
            shifts[cluster] = centre.iter().zip(before).fold(0.0, |sum, (a, b)| sum + (a - b) * (a - b));
            (self.clusters[cluster].is_foreign, self.clusters[cluster].own) = (true, None);
            self.changed.retain(|changed| changed.cluster != cluster);
            self.changed.push(Changed::all_of(cluster));
        }
        self.scale.scratches().put(scratch);
    }
}

/// A row that becomes the centre of an empty cluster.
struct Relocation<'a> {
    point: &'a FarPoint,
    to: usize,
}

impl Cluster {
    fn empty() -> Self {
        Self {
            sum: ClusterSum::default(),
            squared_norm: 0.0,
            squared_way: 0.0,
            squared_gap: 0.0,
            centre_squared_norm: 0.0,
            is_foreign: true,
            own: None,
        }
    }

    /// Moves `centre` to the mean of the rows, scaled to length 1 where angles count; it stays where there are none. Gives
    /// the square of the way, and what changed.
    fn take_mean(
        &mut self,
        cluster: usize,
        metric: Metric,
        scale: &FixedPoint,
        spread: &Spread,
        centre: &mut Arc<Vec<f64>>,
    ) -> (f64, Option<Changed>) {
        let Ok(weight @ 1..) = u64::try_from(self.sum.weight) else {
            *self = Self { sum: std::mem::take(&mut self.sum), own: self.own.take(), ..Self::empty() };
            return (0.0, None);
        };
        let mean = |feature: usize, sum: i128| if sum == 0 { 0.0 } else { scale.mean(feature, sum, weight) };
        // The direction is that of the sum: rows of zeros, which are in no direction, change nothing of it.
        let total = |feature: usize, sum: i128| scale.mean(feature, sum, 1);
        let length = match metric {
            Metric::Euclidean => 1.0,
            Metric::Cosine => {
                libm::sqrt(self.sum.iter().fold(0.0, |norm, (i, sum)| norm + total(i, sum) * total(i, sum)))
            }
        };
        // Rows of zeros alone have no direction: where angles count, their centre stays.
        let stays = metric == Metric::Cosine && length == 0.0;
        // A centre that was not made of these rows may have coordinates that their sum has not; of dense rows it has all.
        let is_foreign = self.is_foreign || stays;
        let own = match self.own.take() {
            Some(own) => own,
            None if is_foreign && spread.mean.is_empty() => non_zeros(centre),
            None => vec![],
        };
        let gone = without(own, self.sum.features());
        // Of a foreign centre nothing stays, so that it need not be copied where others share it.
        let from = is_foreign.then(|| std::mem::replace(centre, Arc::new(vec![0.0; scale.n_features()])));
        let centre = Arc::make_mut(centre);
        let (mut squared_shift, mut squared_norm, mut squared_way) = (0.0, 0.0, 0.0);
        let (mut squared_gap, mut centre_squared_norm) = (0.0, 0.0);
        for (feature, sum) in gone.iter().map(|feature| (*feature as usize, 0)).chain(self.sum.iter()) {
            let mean = mean(feature, sum);
            let before = from.as_ref().map_or(centre[feature], |from| from[feature]);
            let moved = match metric {
                Metric::Euclidean => mean,
                Metric::Cosine if stays => before,
                Metric::Cosine => total(feature, sum) / length,
            };
            centre[feature] = moved;
            squared_shift += (moved - before) * (moved - before);
            // Means that lie close to each other and far from zero are rounded more than they differ.
            let (from_all, way) = match spread.mean.get(feature) {
                Some(all) => {
                    let less = |other| scale.mean_less(feature, sum, weight, other);
                    (less(*all), less(before))
                }
                None => (mean, mean - before),
            };
            squared_norm += from_all * from_all;
            squared_way += way * way;
            squared_gap += (mean - moved) * (mean - moved);
            centre_squared_norm += moved * moved;
        }
        self.is_foreign = stays;
        (self.squared_norm, self.squared_way) = (squared_norm, squared_way);
        (self.squared_gap, self.centre_squared_norm) = (squared_gap, centre_squared_norm);
        let features = Some(either(gone, self.sum.features()));
        (squared_shift, Some(Changed { cluster, features }))
    }
}

/// Those of the first that are not among the others; both ascend.
fn without(mut features: Vec<u32>, others: &[u32]) -> Vec<u32> {
    let mut others = others.iter().peekable();
    features.retain(|feature| {
        while others.next_if(|other| *other < feature).is_some() {}
        others.next_if_eq(&feature).is_none()
    });
    features
}

/// Those of both, none of which is in the other; all ascend.
fn either(mut features: Vec<u32>, others: &[u32]) -> Vec<u32> {
    let is_merged = features.is_empty() || others.is_empty();
    features.extend(others);
    if !is_merged {
        // Two ascending runs.
        features.sort();
    }
    features
}
