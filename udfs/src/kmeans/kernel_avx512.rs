//! The kernels in the words of the processor: AVX-512.
//!
//! A comparison gives the lanes that have a score within the margin of the lowest as the bits of a number, and a row is
//! decided when one bit is set. Nothing branches on where that is: a guess would be wrong for most rows.
//! Six dense rows and four groups are scored at once, in 24 registers, so that what is loaded serves many multiply-adds; of
//! a last group that is half empty only the other half. The scores of sparse rows stay in registers where groups are few.

#![allow(unsafe_code, reason = "lanes are loaded and stored through pointers")]
#![allow(clippy::needless_range_loop, reason = "iterators of tuples are not inlined into such functions: see `kernel`")]

use std::arch::x86_64::{
    __m256, __m512, _CMP_EQ_OQ, _CMP_LE_OQ, _mm256_fmadd_ps, _mm256_fnmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps,
    _mm256_storeu_ps, _mm512_castps512_ps256, _mm512_cmp_ps_mask, _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_loadu_ps,
    _mm512_mask_mov_ps, _mm512_max_ps, _mm512_min_ps, _mm512_reduce_min_ps, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_storeu_ps,
};

use super::kernel::{Found, LANES, Lanes, SparseRows, TILE_ROWS, Table, UNDECIDED, bound};
use super::wide::prefetch;

/// Groups whose products are added up in registers at once; as many have lanes that are the bits of a number.
const GROUPS_AT_ONCE: usize = 4;

/// Short rows are brought to the cache so many before their turn: the processor's own guess comes too late for them.
const ROWS_AHEAD: usize = 4 * TILE_ROWS;
const FETCHED_FEATURES_MAX: usize = 64;

/// What is told of the rows of a pass, and how that is made of the scores of a row.
macro_rules! passes {
    ($told:ty, $decide:ident, $sparse:ident, $few:ident, $dense:ident) => {
        /// A pass over sparse rows. `scores` has room for one row.
        #[target_feature(enable = "avx512f,avx512vl,avx2,fma,popcnt")]
        pub(super) fn $sparse(
            rows: &SparseRows<'_>,
            selected: &[u32],
            table: Table<'_>,
            told: &mut [$told],
            scores: &mut [Lanes],
        ) {
            let n_groups = table.norms.len();
            match n_groups {
                1 => return $few::<1>(rows, selected, table, told),
                2 => return $few::<2>(rows, selected, table, told),
                3 => return $few::<3>(rows, selected, table, told),
                4 => return $few::<4>(rows, selected, table, told),
                _ => {}
            }
            for i in 0..selected.len() {
                let row = selected[i] as usize;
                let (indices, values) = rows.row(row);
                score_sparse(indices, values, table, scores);
                told[i] = $decide::<0>(&scores[..n_groups], table, rows.reach[row]);
            }
        }

        /// The same where there are `N` groups.
        #[target_feature(enable = "avx512f,avx512vl,avx2,fma,popcnt")]
        fn $few<const N: usize>(rows: &SparseRows<'_>, selected: &[u32], table: Table<'_>, told: &mut [$told]) {
            let mut scores = [[0.0; LANES]; N];
            for i in 0..selected.len() {
                let row = selected[i] as usize;
                let (indices, values) = rows.row(row);
                score_groups::<N>(indices, values, table, 0, &mut scores);
                told[i] = $decide::<N>(&scores, table, rows.reach[row]);
            }
        }

        /// A pass over dense rows, `(n_rows, n_features)`. `scores` has room for the rows of a tile.
        #[target_feature(enable = "avx512f,avx512vl,avx2,fma,popcnt")]
        pub(super) fn $dense(
            values: &[f32],
            reach: &[f32],
            selected: &[u32],
            table: Table<'_>,
            told: &mut [$told],
            scores: &mut [Lanes],
        ) {
            let n_groups = table.norms.len();
            let mut i = 0;
            while i < selected.len() {
                fetch_ahead(values, &selected[i..], table.n_features);
                let tile = if selected.len() - i < TILE_ROWS {
                    score_tile::<1>(values, &selected[i..], table, scores);
                    1
                } else {
                    score_tile::<TILE_ROWS>(values, &selected[i..], table, scores);
                    TILE_ROWS
                };
                for row in 0..tile {
                    let scores = &scores[row * n_groups..(row + 1) * n_groups];
                    told[i + row] = $decide::<0>(scores, table, reach[selected[i + row] as usize]);
                }
                i += tile;
            }
        }
    };
}

passes!(f32, lowest, lowest_sparse, lowest_few, lowest_dense);
passes!(u32, label, label_sparse, label_few, label_dense);
passes!(Found, found, nearest_sparse, nearest_few, nearest_dense);

/// ‖c‖² − 2·x·c of all groups.
#[target_feature(enable = "avx512f,avx512vl,avx2,fma,popcnt")]
fn score_sparse(indices: &[u32], values: &[f32], table: Table<'_>, scores: &mut [Lanes]) {
    let n_groups = table.norms.len();
    let mut group = 0;
    while group + GROUPS_AT_ONCE <= n_groups {
        score_groups::<GROUPS_AT_ONCE>(indices, values, table, group, &mut scores[group..]);
        group += GROUPS_AT_ONCE;
    }
    match n_groups - group {
        0 => {}
        1 => score_groups::<1>(indices, values, table, group, &mut scores[group..]),
        2 => score_groups::<2>(indices, values, table, group, &mut scores[group..]),
        _ => score_groups::<3>(indices, values, table, group, &mut scores[group..]),
    }
}

/// The same of `N` groups that follow each other.
#[target_feature(enable = "avx512f,avx512vl,avx2,fma,popcnt")]
fn score_groups<const N: usize>(indices: &[u32], values: &[f32], table: Table<'_>, group: usize, scores: &mut [Lanes]) {
    let (values, scores) = (&values[..indices.len()], &mut scores[..N]);
    let mut columns = [table.group(group); N];
    for other in 1..N {
        columns[other] = table.group(group + other);
    }
    let mut products = [_mm512_setzero_ps(); N];
    for i in 0..indices.len() {
        let (x, feature) = (_mm512_set1_ps(values[i]), indices[i] as usize);
        for other in 0..N {
            products[other] = _mm512_fmadd_ps(x, load(&columns[other][feature]), products[other]);
        }
    }
    let two = _mm512_set1_ps(2.0);
    for other in 0..N {
        let score = _mm512_fnmadd_ps(two, products[other], load(&table.norms[group + other]));
        store(&mut scores[other], score);
    }
}

fn fetch_ahead(values: &[f32], selected: &[u32], n_features: usize) {
    if n_features <= FETCHED_FEATURES_MAX && selected.len() >= ROWS_AHEAD + TILE_ROWS {
        for &row in &selected[ROWS_AHEAD..ROWS_AHEAD + TILE_ROWS] {
            prefetch(&values[row as usize * n_features..][..n_features]);
        }
    }
}

/// ‖c‖² − 2·x·c of the first `ROWS` dense rows that are selected; scores are `(ROWS, n_groups)`.
#[target_feature(enable = "avx512f,avx512vl,avx2,fma,popcnt")]
fn score_tile<const ROWS: usize>(values: &[f32], selected: &[u32], table: Table<'_>, scores: &mut [Lanes]) {
    let mut rows = [values; ROWS];
    for row in 0..ROWS {
        let start = selected[row] as usize * table.n_features;
        rows[row] = &values[start..start + table.n_features];
    }
    let last = table.norms.len() - 1;
    let is_half = table.norms[last][LANES / 2..].iter().all(|norm| *norm == f32::INFINITY);
    let n_groups = if is_half { last } else { last + 1 };
    let mut group = 0;
    while group + GROUPS_AT_ONCE <= n_groups {
        score_part::<ROWS, GROUPS_AT_ONCE, false>(&rows, table, group, scores);
        group += GROUPS_AT_ONCE;
    }
    match (n_groups - group, is_half) {
        (0, false) => {}
        (1, false) => score_part::<ROWS, 1, false>(&rows, table, group, scores),
        (2, false) => score_part::<ROWS, 2, false>(&rows, table, group, scores),
        (_, false) => score_part::<ROWS, 3, false>(&rows, table, group, scores),
        (0, true) => score_part::<ROWS, 0, true>(&rows, table, group, scores),
        (1, true) => score_part::<ROWS, 1, true>(&rows, table, group, scores),
        (2, true) => score_part::<ROWS, 2, true>(&rows, table, group, scores),
        (_, true) => score_part::<ROWS, 3, true>(&rows, table, group, scores),
    }
}

/// The same for `N` groups that follow each other, and half of the next one where `HALF`.
#[target_feature(enable = "avx512f,avx512vl,avx2,fma,popcnt")]
fn score_part<const ROWS: usize, const N: usize, const HALF: bool>(
    rows: &[&[f32]; ROWS],
    table: Table<'_>,
    group: usize,
    scores: &mut [Lanes],
) {
    let (n_groups, d) = (table.norms.len(), table.n_features);
    let mut columns = [table.group(group); N];
    for other in 0..N {
        columns[other] = &table.group(group + other)[..d];
    }
    let half_columns = if HALF { &table.group(group + N)[..d] } else { &[] };
    let mut products = [[_mm512_setzero_ps(); N]; ROWS];
    let mut halves = [_mm256_setzero_ps(); ROWS];
    for feature in 0..d {
        let mut column = [_mm512_setzero_ps(); N];
        for other in 0..N {
            column[other] = load(&columns[other][feature]);
        }
        let half = if HALF { load_half(&half_columns[feature]) } else { _mm256_setzero_ps() };
        for row in 0..ROWS {
            let x = _mm512_set1_ps(rows[row][feature]);
            for other in 0..N {
                products[row][other] = _mm512_fmadd_ps(x, column[other], products[row][other]);
            }
            if HALF {
                halves[row] = _mm256_fmadd_ps(_mm512_castps512_ps256(x), half, halves[row]);
            }
        }
    }
    let two = _mm512_set1_ps(2.0);
    for row in 0..ROWS {
        for other in 0..N {
            let score = _mm512_fnmadd_ps(two, products[row][other], load(&table.norms[group + other]));
            store(&mut scores[row * n_groups + group + other], score);
        }
        if HALF {
            let scores = &mut scores[row * n_groups + group + N];
            // There is no cluster in the other half.
            *scores = [f32::INFINITY; LANES];
            let norms = load_half(&table.norms[group + N]);
            store_half(scores, _mm256_fnmadd_ps(_mm512_castps512_ps256(two), halves[row], norms));
        }
    }
}

/// The lowest of these scores. There are `N` groups, or any number where `N` is 0.
#[target_feature(enable = "avx512f,avx512vl,avx2,fma,popcnt")]
fn lowest<const N: usize>(scores: &[Lanes], _: Table<'_>, _: f32) -> f32 {
    let scores = if N > 0 { &scores[..N] } else { scores };
    let mut lowest = load(&scores[0]);
    for group in 1..scores.len() {
        lowest = _mm512_min_ps(load(&scores[group]), lowest);
    }
    _mm512_reduce_min_ps(lowest)
}

/// The cluster with the lowest of these scores, when no other lies within the margin.
#[target_feature(enable = "avx512f,avx512vl,avx2,fma,popcnt")]
fn label<const N: usize>(scores: &[Lanes], table: Table<'_>, reach: f32) -> u32 {
    let bound = bound(lowest::<N>(scores, table, reach), table, reach);
    // All lanes where the bound is infinite, and none where it is no number.
    one_of::<N, _CMP_LE_OQ>(if N > 0 { &scores[..N] } else { scores }, bound)
}

/// The same with the lowest score and the next.
#[target_feature(enable = "avx512f,avx512vl,avx2,fma,popcnt")]
fn found<const N: usize>(scores: &[Lanes], table: Table<'_>, reach: f32) -> Found {
    let scores = if N > 0 { &scores[..N] } else { scores };
    let (mut first, mut second) = (load(&scores[0]), _mm512_set1_ps(f32::INFINITY));
    for group in 1..scores.len() {
        let score = load(&scores[group]);
        second = _mm512_min_ps(second, _mm512_max_ps(first, score));
        first = _mm512_min_ps(first, score);
    }
    let best = _mm512_reduce_min_ps(first);
    let is_best = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(first, _mm512_set1_ps(best));
    // The lane of the lowest has its next one left; of lanes with the lowest all but one stay.
    let next = _mm512_reduce_min_ps(_mm512_mask_mov_ps(first, is_best & is_best.wrapping_neg(), second));
    let bound = bound(best, table, reach);
    // False for NaN as well.
    let is_decided = next > bound && bound < f32::INFINITY;
    let label = one_of::<N, _CMP_EQ_OQ>(scores, best);
    Found { label: if is_decided { label } else { UNDECIDED }, scores: [best, next] }
}

/// The only cluster whose score compares with `x`.
#[target_feature(enable = "avx512f,avx512vl,avx2,fma,popcnt")]
fn one_of<const N: usize, const COMPARED: i32>(scores: &[Lanes], x: f32) -> u32 {
    let x = _mm512_set1_ps(x);
    let (mut label, mut count) = (0, 0);
    for (start, scores) in (0..).step_by(GROUPS_AT_ONCE * LANES).zip(scores.chunks(GROUPS_AT_ONCE)) {
        let mut bits = 0_u64;
        for group in 0..scores.len() {
            bits |= u64::from(_mm512_cmp_ps_mask::<COMPARED>(load(&scores[group]), x)) << (group * LANES);
        }
        label = if bits == 0 { label } else { start + bits.trailing_zeros() };
        count += bits.count_ones();
    }
    if count == 1 { label } else { UNDECIDED }
}

#[target_feature(enable = "avx512f")]
fn load(lanes: &Lanes) -> __m512 {
    // SAFETY: a group is one register of lanes, which need not be aligned.
    unsafe { _mm512_loadu_ps(lanes.as_ptr()) }
}

#[target_feature(enable = "avx512f")]
fn store(lanes: &mut Lanes, scores: __m512) {
    // SAFETY: as for loads.
    unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), scores) }
}

#[target_feature(enable = "avx512f,avx2")]
fn load_half(lanes: &Lanes) -> __m256 {
    // SAFETY: a group has two registers of half the width.
    unsafe { _mm256_loadu_ps(lanes.as_ptr()) }
}

#[target_feature(enable = "avx512f,avx2")]
fn store_half(lanes: &mut Lanes, scores: __m256) {
    // SAFETY: as for loads.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), scores) }
}
