//! The kernels in the words of the processor: AVX2 with fused multiply-add.
//!
//! What the compiler makes of the multiply-adds of [`super::kernel`] for dense rows is as good as this; what surrounds them
//! is not, and most of the time of rows with few values goes there. Sixteen lanes are two registers;
//! two groups are scored at once, so that a value is broadcast once for both.

#![allow(unsafe_code, reason = "lanes are loaded and stored through pointers")]
#![allow(clippy::needless_range_loop, reason = "iterators of tuples are not inlined into such functions: see `kernel`")]

use std::arch::x86_64::{
    __m256, _CMP_EQ_OQ, _mm_cvtss_f32, _mm_max_ps, _mm_min_ps, _mm_movehl_ps, _mm_shuffle_ps, _mm256_castps256_ps128,
    _mm256_cmp_ps, _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_fnmadd_ps, _mm256_loadu_ps, _mm256_max_ps,
    _mm256_min_ps, _mm256_movemask_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
};

use super::kernel::{Found, LANES, Lanes, SparseRows, TILE_ROWS, Table, UNDECIDED, bound, score_tile};

/// Lanes of a register.
const WIDTH: usize = LANES / 2;

/// The two registers of a group.
type Pair = [__m256; 2];

#[target_feature(enable = "avx2,fma")]
pub(super) fn nearest(
    rows: &SparseRows<'_>,
    selected: &[u32],
    table: Table<'_>,
    found: &mut [Found],
    scores: &mut [Lanes],
) {
    let n_groups = table.norms.len();
    for i in 0..selected.len() {
        let row = selected[i] as usize;
        let (indices, values) = rows.row(row);
        let mut lowest = Lowest::new();
        let mut group = 0;
        while group + 1 < n_groups {
            let [first, second] = score_two(indices, values, table, group);
            lowest.take(first);
            lowest.take(second);
            store(&mut scores[group], first);
            store(&mut scores[group + 1], second);
            group += 2;
        }
        if group < n_groups {
            let last = score_one(indices, values, table, group);
            lowest.take(last);
            store(&mut scores[group], last);
        }
        found[i] = lowest.found(&scores[..n_groups], table, rows.reach[row]);
    }
}

/// A pass over dense rows, `(n_rows, n_features)`: the tile is the compiler's own. `scores` has room for its rows.
#[target_feature(enable = "avx2,fma")]
pub(super) fn nearest_dense(
    values: &[f32],
    reach: &[f32],
    selected: &[u32],
    table: Table<'_>,
    told: &mut [Found],
    scores: &mut [Lanes],
) {
    let n_groups = table.norms.len();
    let mut i = 0;
    while i < selected.len() {
        let tile = if selected.len() - i < TILE_ROWS {
            score_tile::<true, 1>(values, &selected[i..], table, scores);
            1
        } else {
            score_tile::<true, TILE_ROWS>(values, &selected[i..], table, scores);
            TILE_ROWS
        };
        for row in 0..tile {
            let scores = &scores[row * n_groups..(row + 1) * n_groups];
            told[i + row] = found(scores, table, reach[selected[i + row] as usize]);
        }
        i += tile;
    }
}

/// The cluster with the lowest of these scores, when no other lies within the margin.
#[target_feature(enable = "avx2,fma")]
fn found(scores: &[Lanes], table: Table<'_>, reach: f32) -> Found {
    let mut lowest = Lowest::new();
    for group in 0..scores.len() {
        lowest.take(load(&scores[group]));
    }
    lowest.found(scores, table, reach)
}

#[target_feature(enable = "avx2,fma")]
fn score_one(indices: &[u32], values: &[f32], table: Table<'_>, group: usize) -> Pair {
    let columns = table.group(group);
    let mut products = [_mm256_setzero_ps(); 2];
    for i in 0..indices.len() {
        let (x, column) = (_mm256_set1_ps(values[i]), load(&columns[indices[i] as usize]));
        products = [_mm256_fmadd_ps(x, column[0], products[0]), _mm256_fmadd_ps(x, column[1], products[1])];
    }
    scores_of(products, &table.norms[group])
}

/// Two groups that follow each other.
#[target_feature(enable = "avx2,fma")]
fn score_two(indices: &[u32], values: &[f32], table: Table<'_>, group: usize) -> [Pair; 2] {
    let (columns, more) = (table.group(group), table.group(group + 1));
    let (mut a, mut b) = ([_mm256_setzero_ps(); 2], [_mm256_setzero_ps(); 2]);
    for i in 0..indices.len() {
        let (x, feature) = (_mm256_set1_ps(values[i]), indices[i] as usize);
        let (column, other) = (load(&columns[feature]), load(&more[feature]));
        a = [_mm256_fmadd_ps(x, column[0], a[0]), _mm256_fmadd_ps(x, column[1], a[1])];
        b = [_mm256_fmadd_ps(x, other[0], b[0]), _mm256_fmadd_ps(x, other[1], b[1])];
    }
    [scores_of(a, &table.norms[group]), scores_of(b, &table.norms[group + 1])]
}

/// ‖c‖² − 2·x·c.
#[target_feature(enable = "avx2,fma")]
fn scores_of(products: Pair, norms: &Lanes) -> Pair {
    let (two, norms) = (_mm256_set1_ps(2.0), load(norms));
    [_mm256_fnmadd_ps(two, products[0], norms[0]), _mm256_fnmadd_ps(two, products[1], norms[1])]
}

#[target_feature(enable = "avx2,fma")]
fn load(lanes: &Lanes) -> Pair {
    let start = lanes.as_ptr();
    // SAFETY: a group has two registers' worth of lanes, which need not be aligned.
    unsafe { [_mm256_loadu_ps(start), _mm256_loadu_ps(start.add(WIDTH))] }
}

#[target_feature(enable = "avx2,fma")]
fn store(lanes: &mut Lanes, pair: Pair) {
    let start = lanes.as_mut_ptr();
    // SAFETY: as for loads.
    unsafe {
        _mm256_storeu_ps(start, pair[0]);
        _mm256_storeu_ps(start.add(WIDTH), pair[1]);
    }
}

/// The lowest score of each lane, and the next.
struct Lowest {
    first: Pair,
    second: Pair,
}

impl Lowest {
    #[target_feature(enable = "avx2,fma")]
    fn new() -> Self {
        let nothing = [_mm256_set1_ps(f32::INFINITY); 2];
        Self { first: nothing, second: nothing }
    }

    #[target_feature(enable = "avx2,fma")]
    fn take(&mut self, scores: Pair) {
        for half in 0..2 {
            let loser = _mm256_max_ps(self.first[half], scores[half]);
            self.first[half] = _mm256_min_ps(self.first[half], scores[half]);
            self.second[half] = _mm256_min_ps(self.second[half], loser);
        }
    }

    /// The lowest of all lanes and the next, by folding halves onto each other.
    #[target_feature(enable = "avx2,fma")]
    fn least_two(&self) -> [f32; 2] {
        let loser = _mm256_max_ps(self.first[0], self.first[1]);
        let first = _mm256_min_ps(self.first[0], self.first[1]);
        let second = _mm256_min_ps(_mm256_min_ps(self.second[0], self.second[1]), loser);
        let (a, b) = (_mm256_castps256_ps128(first), _mm256_extractf128_ps::<1>(first));
        let (c, d) = (_mm256_castps256_ps128(second), _mm256_extractf128_ps::<1>(second));
        let (first, second) = (_mm_min_ps(a, b), _mm_min_ps(_mm_min_ps(c, d), _mm_max_ps(a, b)));
        let (a, b) = (first, _mm_movehl_ps(first, first));
        let (c, d) = (second, _mm_movehl_ps(second, second));
        let (first, second) = (_mm_min_ps(a, b), _mm_min_ps(_mm_min_ps(c, d), _mm_max_ps(a, b)));
        let (a, b) = (first, _mm_shuffle_ps::<1>(first, first));
        let (c, d) = (second, _mm_shuffle_ps::<1>(second, second));
        [_mm_cvtss_f32(_mm_min_ps(a, b)), _mm_cvtss_f32(_mm_min_ps(_mm_min_ps(c, d), _mm_max_ps(a, b)))]
    }

    /// The cluster with the lowest of these scores, when no other lies within the margin.
    #[target_feature(enable = "avx2,fma")]
    fn found(&self, scores: &[Lanes], table: Table<'_>, reach: f32) -> Found {
        let [best, next] = self.least_two();
        let bound = bound(best, table, reach);
        let undecided = Found { label: UNDECIDED, scores: [best, next] };
        // False for NaN as well.
        if !(next > bound && bound < f32::INFINITY) {
            return undecided;
        }
        let wanted = _mm256_set1_ps(best);
        for (group, lanes) in scores.iter().enumerate() {
            let lanes = load(lanes);
            let low = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(lanes[0], wanted));
            let high = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(lanes[1], wanted));
            let hits = low | high << WIDTH;
            if hits != 0 {
                return Found { label: (group * LANES) as u32 + hits.trailing_zeros(), scores: [best, next] };
            }
        }
        undecided
    }
}
