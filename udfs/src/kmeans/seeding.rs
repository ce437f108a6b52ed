//! Starting centres: greedy k-means++ (Arthur and Vassilvitskii 2007, with the local trials of scikit-learn)
//! and plain random rows, both by exponential race.
//!
//! A row with weight `w` and a number `u` drawn from its content, the seed and the draw gets the key
//! `−ln(u) / (w·D²)`; the smallest key is a draw by weight, and the n smallest are a weighted sample without
//! replacement (Efraimidis and Spirakis 2006). No total is needed and nothing depends on the order of rows or on
//! partitions.

use std::sync::atomic::Ordering;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Cancel, Centroids, FixedPoint, reference};
use crate::matrix::{Points, Row};
use crate::{Result, input_err};

/// k-means++ looks at this many distinct rows at most; of more, a weighted sample is taken.
/// It bounds the k passes of seeding to seconds; `docs/decisions/0005-seeding.md` has the reasons.
pub const SEED_POINTS_MAX: usize = 1 << 18;

/// How starting centres are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Init {
    #[serde(rename = "k-means++")]
    KMeansPlusPlus,
    #[serde(rename = "random")]
    Random,
}

/// A row that may become a centre.
struct Candidate<'a> {
    row: Row<'a>,
    weight: u64,
    content_hash: u128,
    /// Squared distance to the nearest centre chosen so far, infinite before there is one.
    distance: f64,
}

/// Chooses `n_clusters` rows of `blocks` as starting centres. `None` when cancelled.
///
/// # Errors
/// When there are fewer than `n_clusters` distinct rows of positive weight.
pub fn seed(
    blocks: &[&Points],
    n_clusters: usize,
    init: Init,
    scale: &FixedPoint,
    random_state: u64,
    cancel: &Cancel,
) -> Result<Option<Centroids>> {
    let Some(mut candidates) = candidates(blocks, random_state, cancel) else {
        return Ok(None);
    };
    let mut chosen: Vec<Row<'_>> = vec![];
    for round in 0..n_clusters {
        let trials = match init {
            Init::KMeansPlusPlus if round > 0 => 2 + libm::log(n_clusters as f64) as usize,
            _ => 1,
        };
        // Rows are passed over once the fit is cancelled; what they give then is thrown away by the next round.
        let mass = |candidate: &Candidate<'_>| match init {
            _ if cancel.load(Ordering::Relaxed) => 0.0,
            // Before there is a centre, the mass of a row is its weight alone.
            Init::KMeansPlusPlus if round > 0 => candidate.distance,
            // Distance only rules out rows that are centres already.
            _ => f64::from(candidate.distance > 0.0),
        };
        let best = race(&candidates, trials, random_state, round as u64, mass);
        if cancel.load(Ordering::Relaxed) {
            return Ok(None);
        }
        if best.is_empty() {
            return input_err!("n_clusters is {n_clusters}, but there are only {round} distinct rows to cluster");
        }
        chosen.push(take_best(&mut candidates, &best, scale, cancel));
    }
    if cancel.load(Ordering::Relaxed) {
        return Ok(None);
    }
    Ok(Some(Centroids::from_rows(scale.n_features(), chosen)))
}

/// All rows of positive weight, or a weighted sample of [`SEED_POINTS_MAX`] of them. `None` when cancelled.
fn candidates<'a>(blocks: &[&'a Points], random_state: u64, cancel: &Cancel) -> Option<Vec<Candidate<'a>>> {
    let mut candidates: Vec<Candidate<'a>> = blocks
        .par_iter()
        .flat_map(|block| (0..block.len()).into_par_iter().map(move |i| (block.rows.row(i), block.weights[i])))
        .filter(|(_, weight)| *weight > 0 && !cancel.load(Ordering::Relaxed))
        .map(|(row, weight)| Candidate { row, weight, content_hash: row.content_hash(), distance: f64::INFINITY })
        .collect();
    if cancel.load(Ordering::Relaxed) {
        return None;
    }
    if candidates.len() > SEED_POINTS_MAX {
        // A round of its own: no other uses this number.
        candidates.par_sort_by_cached_key(|c| (ordered(key(c, 1.0, random_state, u64::MAX)), c.content_hash));
        candidates.truncate(SEED_POINTS_MAX);
    }
    Some(candidates)
}

/// The winners of `trials` independent races, each once: draws with replacement by weight times mass. Rows of mass 0
/// take no part.
fn race(
    candidates: &[Candidate<'_>],
    trials: usize,
    random_state: u64,
    round: u64,
    mass: impl Fn(&Candidate<'_>) -> f64 + Sync,
) -> Vec<usize> {
    type Entry = (u64, u128, usize);
    const LAST: Entry = (u64::MAX, u128::MAX, usize::MAX);
    let mut winners: Vec<usize> = candidates
        .par_iter()
        .enumerate()
        .fold(
            || vec![LAST; trials],
            |mut best, (i, candidate)| {
                let mass = mass(candidate);
                if mass > 0.0 {
                    for (trial, best) in best.iter_mut().enumerate() {
                        // Rounds and trials are numbered apart, so that no number is drawn twice.
                        let draw = round << 32 | trial as u64;
                        let key = ordered(key(candidate, mass, random_state, draw));
                        *best = (*best).min((key, candidate.content_hash, i));
                    }
                }
                best
            },
        )
        .reduce(|| vec![LAST; trials], |a, b| a.into_iter().zip(b).map(|(a, b)| a.min(b)).collect())
        .into_iter()
        .filter(|winner| *winner != LAST)
        .map(|(_, _, i)| i)
        .collect();
    winners.sort_unstable_by_key(|&i| candidates[i].content_hash);
    winners.dedup_by_key(|&mut i| candidates[i].content_hash);
    winners
}

/// Takes the trial that leaves the lowest Σ w·D², and lowers every candidate's distance to it.
fn take_best<'a>(candidates: &mut [Candidate<'a>], trials: &[usize], scale: &FixedPoint, cancel: &Cancel) -> Row<'a> {
    let rows: Vec<Row<'a>> = trials.iter().map(|&i| candidates[i].row).collect();
    let trials = Trials::new(Centroids::from_rows(scale.n_features(), rows.iter().copied()));
    let best = if rows.len() == 1 { 0 } else { lowest_potential(candidates, &trials, scale, cancel) };
    candidates
        .par_iter_mut()
        .filter(|_| !cancel.load(Ordering::Relaxed))
        .for_each(|c| c.distance = c.distance.min(trials.squared_distance(c.row, best)));
    rows[best]
}

/// Rows of which one becomes a centre.
struct Trials {
    centres: Centroids,
    squared_norms: Vec<f64>,
}

impl Trials {
    fn new(centres: Centroids) -> Self {
        let squared_norms =
            (0..centres.n_clusters()).map(|trial| reference::squared_norm(centres.centre(trial))).collect();
        Self { centres, squared_norms }
    }

    fn squared_distance(&self, row: Row<'_>, trial: usize) -> f64 {
        reference::squared_distance(row, self.centres.centre(trial), self.squared_norms[trial])
    }
}

fn lowest_potential(candidates: &[Candidate<'_>], trials: &Trials, scale: &FixedPoint, cancel: &Cancel) -> usize {
    let n = trials.squared_norms.len();
    let potentials = candidates
        .par_iter()
        .filter(|_| !cancel.load(Ordering::Relaxed))
        .fold(
            || vec![0_i128; n],
            |mut sums, c| {
                for (trial, sum) in sums.iter_mut().enumerate() {
                    let distance = c.distance.min(trials.squared_distance(c.row, trial));
                    *sum += i128::from(scale.quantise_distance(distance)) * i128::from(c.weight);
                }
                sums
            },
        )
        .reduce(
            || vec![0; n],
            |mut a, b| {
                a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
                a
            },
        );
    (0..n).min_by_key(|&trial| potentials[trial]).unwrap_or(0)
}

/// −ln(u) / (w·mass).
fn key(candidate: &Candidate<'_>, mass: f64, random_state: u64, round: u64) -> f64 {
    -libm::log(uniform(candidate.content_hash, random_state, round)) / (candidate.weight as f64 * mass)
}

/// Positive floats order as their bits do.
fn ordered(key: f64) -> u64 {
    debug_assert!(key >= 0.0);
    key.to_bits()
}

/// A number in (0, 1) that depends on nothing but a row's content, the seed and the round: the finalizer of
/// SplitMix64 (Steele, Lea and Flood 2014) over their mixture.
fn uniform(content_hash: u128, random_state: u64, round: u64) -> f64 {
    let low = mix(content_hash as u64 ^ mix(random_state));
    let bits = mix(low ^ (content_hash >> 64) as u64 ^ mix(round.wrapping_add(0x9e37_79b9_7f4a_7c15)));
    ((bits >> 11) as f64 + 0.5) * (1.0 / (1_u64 << 53) as f64)
}

fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
