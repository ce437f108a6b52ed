//! Draws by exponential race: a row with weight `w`, mass `m` and a number `u` drawn from its content, the seed and the
//! round gets the key `−ln(u) / (w·m)`. The smallest key is a draw by weight times mass, and the n smallest are a
//! weighted sample without replacement (Efraimidis and Spirakis 2006). No total is needed, and nothing depends on the
//! order of rows or on partitions.

use rayon::prelude::*;

use crate::matrix::{Points, Rows};

/// Keys are bounded from below by `(1 − u) / (w·m)` less this share, for the rounding of either.
const SLACK: f64 = 1e-9;

/// A row that was drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawn {
    /// The bits of a key, which order as keys do.
    pub key: u64,
    pub content_hash: u128,
    pub weight: u64,
    /// One row.
    pub row: Rows,
}

impl Drawn {
    fn new(points: &Points, (key, content_hash, i): Entry) -> Self {
        let row = Rows::of_one(points.rows.row(i), points.rows.n_features());
        Self { key, content_hash, weight: points.weights[i], row }
    }

    /// The first `n` of all, in order, rows with equal content once.
    pub fn first(drawn: &mut Vec<Self>, n: usize) {
        drawn.sort_by_key(|drawn| (drawn.key, drawn.content_hash));
        let mut seen = std::collections::HashSet::new();
        drawn.retain(|drawn| seen.insert(drawn.content_hash));
        drawn.truncate(n);
    }
}

/// The bits of a key, the hash of a row's content, and its position.
type Entry = (u64, u128, usize);

/// The race of one round.
#[derive(Debug, Clone, Copy)]
pub(in crate::kmeans) struct Race {
    pub random_state: u64,
    pub round: u64,
    /// How many are drawn.
    pub n: usize,
}

impl Race {
    /// −ln(u) / mass.
    pub fn key(&self, content_hash: u128, mass: f64) -> f64 {
        -libm::log(uniform(content_hash, self.random_state, self.round)) / mass
    }

    /// The first of all rows by weight, in order; equal rows each by themselves.
    pub fn sample(&self, points: &Points) -> Vec<Drawn> {
        let entry = |i: usize| {
            let hash = points.rows.row(i).content_hash();
            (self.key(hash, points.weights[i] as f64).to_bits(), hash, i)
        };
        let with_weight = (0..points.len()).into_par_iter().filter(|&i| points.weights[i] > 0);
        let mut entries: Vec<Entry> = with_weight.map(entry).collect();
        // Equal rows of equal weight have equal keys; which of them it is does not matter.
        entries.par_sort_unstable();
        entries.truncate(self.n);
        entries.into_iter().map(|entry| Drawn::new(points, entry)).collect()
    }

    /// The first of the rows of `range`. Rows of mass 0 take no part.
    pub fn run(
        &self,
        points: &Points,
        hashes: &[u128],
        range: std::ops::Range<usize>,
        mass: impl Fn(usize) -> f64,
    ) -> Vec<Drawn> {
        // By key, ties by content.
        let mut best: Vec<Entry> = Vec::with_capacity(self.n + 1);
        let mut bound = f64::INFINITY;
        for i in range {
            let mass = points.weights[i] as f64 * mass(i);
            if mass <= 0.0 {
                continue;
            }
            let u = uniform(hashes[i], self.random_state, self.round);
            if (1.0 - u) * (1.0 - SLACK) > bound * mass {
                continue;
            }
            let entry = ((-libm::log(u) / mass).to_bits(), hashes[i], i);
            // Equal rows are one, by the best of their keys: they may differ in weight.
            if let Some(same) = best.iter().position(|(_, hash, _)| *hash == hashes[i]) {
                if best[same] <= entry {
                    continue;
                }
                best.remove(same);
            }
            best.insert(best.partition_point(|other| *other < entry), entry);
            best.truncate(self.n);
            if let Some((last, ..)) = best.get(self.n - 1) {
                bound = f64::from_bits(*last);
            }
        }
        best.into_iter().map(|entry| Drawn::new(points, entry)).collect()
    }
}

/// A number in (0, 1) that depends on nothing but a row's content, the seed and the round: the finalizer of
/// SplitMix64 (Steele, Lea and Flood 2014) over their mixture.
pub(super) fn uniform(content_hash: u128, random_state: u64, round: u64) -> f64 {
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
