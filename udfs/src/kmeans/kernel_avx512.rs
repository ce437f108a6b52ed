//! Labels alone in the words of the processor: AVX-512.
//!
//! Where nobody asks for the next score, a row is decided when one lane alone has a score within the margin of the lowest:
//! a comparison gives these lanes as the bits of a number. That takes a third of the instructions of the two lowest scores.

#![allow(unsafe_code, reason = "lanes are loaded and stored through pointers")]
#![allow(clippy::needless_range_loop, reason = "iterators of tuples are not inlined into such functions: see `kernel`")]

use std::arch::x86_64::{
    __m512, _CMP_LE_OQ, _mm512_cmp_ps_mask, _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_loadu_ps, _mm512_min_ps,
    _mm512_reduce_min_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
};

use super::kernel::{LANES, Lanes, TILE_ROWS, Table, UNDECIDED, bound, score_tile};
use super::kernel_avx2::{SparseRows, dense_pass};

/// Groups whose products are added up in registers at once.
const GROUPS_AT_ONCE: usize = 4;

dense_pass!(label_dense, "avx512f,avx512vl,avx2,fma", u32, label);

/// The labels of sparse rows. `scores` has room for one row.
#[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
pub(super) fn label_sparse(
    rows: &SparseRows<'_>,
    selected: &[u32],
    table: Table<'_>,
    labels: &mut [u32],
    scores: &mut [Lanes],
) {
    let n_groups = table.norms.len();
    for i in 0..selected.len() {
        let row = selected[i] as usize;
        let (indices, values) = (&rows.indices[rows.offsets[row]..rows.offsets[row + 1]], rows.values);
        let values = &values[rows.offsets[row]..rows.offsets[row + 1]];
        let mut group = 0;
        while group + GROUPS_AT_ONCE <= n_groups {
            score_groups::<GROUPS_AT_ONCE>(indices, values, table, group, scores);
            group += GROUPS_AT_ONCE;
        }
        match n_groups - group {
            0 => {}
            1 => score_groups::<1>(indices, values, table, group, scores),
            2 => score_groups::<2>(indices, values, table, group, scores),
            _ => score_groups::<3>(indices, values, table, group, scores),
        }
        labels[i] = label(&scores[..n_groups], table, rows.reach[row]);
    }
}

/// ‖c‖² − 2·x·c of groups that follow each other.
#[target_feature(enable = "avx512f")]
fn score_groups<const N: usize>(indices: &[u32], values: &[f32], table: Table<'_>, group: usize, scores: &mut [Lanes]) {
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
        store(&mut scores[group + other], score);
    }
}

/// The cluster with the lowest of these scores, when no other lies within the margin.
#[target_feature(enable = "avx512f")]
fn label(scores: &[Lanes], table: Table<'_>, reach: f32) -> u32 {
    let mut lowest = load(&scores[0]);
    for group in 1..scores.len() {
        lowest = _mm512_min_ps(load(&scores[group]), lowest);
    }
    let bound = _mm512_set1_ps(bound(_mm512_reduce_min_ps(lowest), table, reach));
    let (mut label, mut n_near) = (UNDECIDED, 0);
    for group in 0..scores.len() {
        // All of them where the bound is infinite, and none where it is no number.
        let near = _mm512_cmp_ps_mask::<_CMP_LE_OQ>(load(&scores[group]), bound);
        if near != 0 {
            label = (group * LANES) as u32 + near.trailing_zeros();
            n_near += near.count_ones();
        }
    }
    if n_near == 1 { label } else { UNDECIDED }
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
