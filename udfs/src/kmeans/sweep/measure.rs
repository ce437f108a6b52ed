//! How good a clustering is, beside its inertia.

use rayon::prelude::*;

use crate::kmeans::assign::CHUNK_ROWS;
use crate::kmeans::seeding::{Drawn, Race};
use crate::kmeans::{CentroidTable, FixedPoint, Frame, Image};
use crate::matrix::Points;

/// Rows of the sample that silhouettes are taken over, at most,
const SAMPLE_ROWS_MAX: u64 = 2_048;

/// and stored numbers of them.
const SAMPLE_VALUES_MAX: u64 = 1 << 20;

/// The round that draws the sample: no seeding has this number.
const SILHOUETTE_ROUND: u64 = u64::MAX - 1;

/// Rows worked on at once.
const CHUNK: usize = CHUNK_ROWS / 8;

/// Rows drawn without replacement, by weight, that stand for all.
#[derive(Debug)]
pub struct Sample {
    points: Points,
    image: Image,
    /// What each row stands for: its weight over the chance that it was drawn.
    weights: Vec<f64>,
}

impl Sample {
    /// How many rows to draw of `n_points` with `n_values` stored numbers.
    pub fn size(n_points: u64, n_values: u64) -> usize {
        let width = n_values.div_ceil(n_points.max(1)).max(1);
        SAMPLE_ROWS_MAX.min(SAMPLE_VALUES_MAX.div_ceil(width)) as usize
    }

    /// One row more than `n` of a block: those that come first in a race by weight.
    pub fn draw(points: &Points, n: usize, random_state: u64) -> Vec<Drawn> {
        Race { random_state, round: SILHOUETTE_ROUND, n: n + 1 }.sample(points)
    }

    /// One row more than `n` of what was drawn from several blocks.
    pub fn first(mut drawn: Vec<Drawn>, n: usize) -> Vec<Drawn> {
        drawn.sort_by_key(|drawn| (drawn.key, drawn.content_hash));
        drawn.truncate(n + 1);
        drawn
    }

    /// The first `n` of what was drawn from all blocks. Given the key of the row after them, each was drawn with the
    /// chance 1 − e^(−w·key) (Cohen and Kaplan 2007), so that estimates are without bias.
    pub fn new(drawn: Vec<Drawn>, n: usize, frame: &Frame, n_features: usize) -> Self {
        let mut drawn = Self::first(drawn, n);
        let next = drawn.get(n).map(|next| f64::from_bits(next.key));
        drawn.truncate(n);
        let mut points = Points::new(frame.density(), n_features);
        drawn.iter().for_each(|drawn| points.push(drawn.row.row(0), drawn.weight));
        let stands_for = |weight: &u64| {
            let weight = *weight as f64;
            next.map_or(weight, |next| weight / -libm::expm1(-weight * next))
        };
        let weights = points.weights.iter().map(stands_for).collect();
        let image = Image::new(&points.rows, frame);
        Self { points, image, weights }
    }

    /// The simplified silhouette (Hruschka et al. 2004): the mean of (b − a) / max(a, b), where a and b are the distances
    /// of a row to the nearest centre and to the next. Nothing where there is but one.
    pub fn silhouette(&self, table: &CentroidTable) -> Option<f64> {
        if table.n_clusters() < 2 {
            return None;
        }
        let chunk = |start: usize| {
            let range = start..self.points.len().min(start + CHUNK);
            let distances = table.two_nearest(&self.points.rows, &self.image, range);
            distances.into_iter().map(|[a, b]| if b > 0.0 { 1.0 - libm::sqrt(a / b) } else { 0.0 }).collect()
        };
        let chunks: Vec<Vec<f64>> = (0..self.points.len()).into_par_iter().step_by(CHUNK).map(chunk).collect();
        let (mut sum, mut weight) = (0.0, 0.0);
        for (silhouette, stands_for) in chunks.into_iter().flatten().zip(&self.weights) {
            sum += silhouette * stands_for;
            weight += stands_for;
        }
        (weight > 0.0).then(|| sum / weight)
    }
}

/// Σ w·d, quantised, of the rows of each cluster that is asked for to its centre.
pub fn distances_to_centres(
    points: &Points,
    labels: &[u32],
    table: &CentroidTable,
    is_asked_for: &[bool],
    scale: &FixedPoint,
) -> Vec<i128> {
    let k = is_asked_for.len();
    let chunk = |start: usize| {
        let mut sums = vec![0_i128; k];
        let labels = labels.iter().enumerate().take(points.len().min(start + CHUNK_ROWS)).skip(start);
        for (i, cluster) in labels.map(|(i, label)| (i, *label as usize)) {
            if is_asked_for[cluster] {
                let distance = libm::sqrt(table.squared_distance(points.rows.row(i), cluster));
                sums[cluster] += i128::from(scale.quantise_root(distance)) * i128::from(points.weights[i]);
            }
        }
        sums
    };
    (0..points.len()).into_par_iter().step_by(CHUNK_ROWS).map(chunk).reduce(
        || vec![0; k],
        |mut a, b| {
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
            a
        },
    )
}
