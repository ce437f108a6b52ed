//! The distances between all pairs of centres, kept from one number of clusters to the next.

use rayon::prelude::*;

use crate::kmeans::{Centroids, Lloyd};

/// ‖c − c'‖² of each pair, below the diagonal.
#[derive(Debug, Clone)]
pub(super) struct Pairs {
    squared: Vec<Vec<f64>>,
    is_stale: Vec<bool>,
}

impl Pairs {
    pub fn new(k: usize) -> Self {
        Self { squared: (0..k).map(|a| vec![0.0; a]).collect(), is_stale: vec![true; k] }
    }

    /// A centre has moved.
    pub fn forget(&mut self, cluster: usize) {
        self.is_stale[cluster] = true;
    }

    /// Takes the distances again of centres that have moved.
    pub fn refresh(&mut self, lloyd: &Lloyd) {
        let is_stale = &self.is_stale;
        self.squared.par_iter_mut().enumerate().for_each(|(a, squared)| {
            for (b, squared) in squared.iter_mut().enumerate() {
                if is_stale[a] || is_stale[b] {
                    *squared = lloyd.squared_distance_between(a, b);
                }
            }
        });
        self.is_stale.fill(false);
    }

    /// The last centre takes the number of this one.
    pub fn swap_remove(&mut self, removed: usize) {
        self.is_stale.swap_remove(removed);
        let Some(last) = self.squared.pop().filter(|last| last.len() != removed) else { return };
        for (other, squared) in last.into_iter().enumerate() {
            match other.cmp(&removed) {
                std::cmp::Ordering::Less => self.squared[removed][other] = squared,
                std::cmp::Ordering::Equal => {}
                std::cmp::Ordering::Greater => self.squared[other][removed] = squared,
            }
        }
    }

    /// The pair whose merge raises inertia least, the lower number first.
    pub fn cheapest(&self, lloyd: &Lloyd) -> (usize, usize) {
        let mut best = (f64::INFINITY, (0, 1));
        for (a, squared) in self.squared.iter().enumerate() {
            let wa = lloyd.weight(a) as f64;
            for (b, squared) in squared.iter().enumerate() {
                let wb = lloyd.weight(b) as f64;
                let cost = if wa * wb > 0.0 { wa * wb / (wa + wb) * squared } else { 0.0 };
                if cost < best.0 {
                    best = (cost, (b, a));
                }
            }
        }
        best.1
    }

    pub fn davies_bouldin(&self, mean_distances: &[f64]) -> Option<f64> {
        let means: Vec<Option<f64>> = mean_distances.iter().copied().map(Some).collect();
        index_of(&means, |a, b| self.squared[a][b])
    }
}

/// The index of Davies and Bouldin (1979), as scikit-learn has it: the mean over clusters of the worst
/// (s + s') / ‖c − c'‖, where s is the mean distance of a cluster's rows to its centre. Clusters without rows, which have no
/// mean, take no part. Nothing where fewer than two are left.
pub fn davies_bouldin(centroids: &Centroids, mean_distances: &[Option<f64>]) -> Option<f64> {
    let squared = |a: usize, b: usize| {
        let pairs = centroids.centre(a).iter().zip(centroids.centre(b));
        pairs.fold(0.0, |sum, (x, y)| sum + (x - y) * (x - y))
    };
    index_of(mean_distances, squared)
}

/// `squared` is asked for pairs with the higher number first.
fn index_of(mean_distances: &[Option<f64>], squared: impl Fn(usize, usize) -> f64) -> Option<f64> {
    let clusters: Vec<(usize, f64)> =
        mean_distances.iter().enumerate().filter_map(|(cluster, mean)| Some((cluster, (*mean)?))).collect();
    if clusters.len() < 2 {
        return None;
    }
    let mut worst = vec![0.0_f64; clusters.len()];
    for (i, (a, mean_a)) in clusters.iter().enumerate() {
        for (j, (b, mean_b)) in clusters[..i].iter().enumerate() {
            let squared = squared(*a, *b);
            // Centres that coincide have no distance to divide by.
            if squared > 0.0 {
                let ratio = (mean_a + mean_b) / libm::sqrt(squared);
                (worst[i], worst[j]) = (worst[i].max(ratio), worst[j].max(ratio));
            }
        }
    }
    Some(worst.iter().sum::<f64>() / clusters.len() as f64)
}
