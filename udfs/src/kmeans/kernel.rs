//! The hot loops of the assignment, compiled once for each instruction set and chosen at run time.
//!
//! They score in `f32` with whatever the processor has, so scores differ in their last bits between instruction sets;
//! labels do not, because a row with a second cluster within its margin is left [`UNDECIDED`] here, and is decided in
//! reference arithmetic by the caller. Lanes are clusters: each non-zero of a row is one contiguous multiply-add over
//! the clusters of a group.
//!
//! What is `unsafe` in this crate is here, in `kernel_avx2.rs`, `kernel_avx512.rs` and `wide.rs`: calling a function that was compiled for an
//! instruction set, after asking the processor whether it has it. `pass` is the safe twin.

#![allow(unsafe_code, reason = "functions compiled for an instruction set are called after the processor was asked")]
#![allow(clippy::needless_range_loop, reason = "iterators of tuples are not inlined into such functions: see `pass`")]

use std::sync::LazyLock;

#[cfg(target_arch = "x86_64")]
use super::{kernel_avx2, kernel_avx512};

/// Clusters that are scored at once: one cache line. `least_two` folds just so many.
pub(super) const LANES: usize = 16;

/// One number for each cluster of a group.
pub(super) type Lanes = [f32; LANES];

/// Rows whose dense scores are computed together, so that a column of the table is loaded once for all of them.
pub(super) const TILE_ROWS: usize = 6;

/// The label of a row that is too close to call in `f32`.
pub(super) const UNDECIDED: u32 = u32::MAX;

/// The centres as the kernels read them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table<'a> {
    /// Coordinates, `(n_groups, n_features)`.
    pub columns: &'a [Lanes],
    /// ‖c‖² of each cluster, `(n_groups)`; infinite where there is none.
    pub norms: &'a [Lanes],
    pub n_features: usize,
    /// A row's margin is its reach times the first, plus the second: twice the error bound of its scores.
    pub margin: (f32, f32),
}

impl<'a> Table<'a> {
    /// The columns of a group.
    #[inline(always)]
    pub fn group(&self, group: usize) -> &'a [Lanes] {
        &self.columns[group * self.n_features..(group + 1) * self.n_features]
    }

    /// Makes a buffer one for this table.
    fn fit(&self, scores: &mut Vec<Lanes>) {
        if scores.len() != self.norms.len() * TILE_ROWS {
            *scores = self.scores();
        }
    }

    /// A buffer for the scores of as many rows as are scored at once.
    pub fn scores(&self) -> Vec<Lanes> {
        vec![[0.0; LANES]; self.norms.len() * TILE_ROWS]
    }
}

/// Rows as the kernels read them: values, and how far each row's scores may err, in units of the largest ‖c‖.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rows<'a> {
    Sparse(SparseRows<'a>),
    /// `(n_rows, n_features)`.
    Dense {
        values: &'a [f32],
        reach: &'a [f32],
    },
}

/// Row `i` is `offsets[i]..offsets[i + 1]` of `indices` and `values`.
#[derive(Debug, Clone, Copy)]
pub(super) struct SparseRows<'a> {
    pub offsets: &'a [usize],
    pub indices: &'a [u32],
    pub values: &'a [f32],
    pub reach: &'a [f32],
}

impl<'a> SparseRows<'a> {
    #[inline(always)]
    pub fn row(&self, i: usize) -> (&'a [u32], &'a [f32]) {
        let range = self.offsets[i]..self.offsets[i + 1];
        (&self.indices[range.clone()], &self.values[range])
    }
}

/// What a row was found to be.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Found {
    /// The nearest cluster, or [`UNDECIDED`].
    pub label: u32,
    /// The lowest score, and the next.
    pub scores: [f32; 2],
}

/// Scores the rows that `selected` names. `scores` is a buffer.
pub(super) fn nearest(
    rows: Rows<'_>,
    selected: &[u32],
    table: Table<'_>,
    found: &mut [Found],
    scores: &mut Vec<Lanes>,
) {
    table.fit(scores);
    INSTRUCTION_SET.nearest(rows, selected, table, found, scores);
}

/// The labels alone of the rows that `selected` names; [`UNDECIDED`] where that is so. `scores` is a buffer.
pub(super) fn label(rows: Rows<'_>, selected: &[u32], table: Table<'_>, labels: &mut [u32], scores: &mut Vec<Lanes>) {
    table.fit(scores);
    INSTRUCTION_SET.label(rows, selected, table, labels, scores);
}

/// The lowest score of each row that `selected` names. `scores` is a buffer.
pub(super) fn lowest_scores(
    rows: Rows<'_>,
    selected: &[u32],
    table: Table<'_>,
    lowest: &mut [f32],
    scores: &mut Vec<Lanes>,
) {
    table.fit(scores);
    INSTRUCTION_SET.lowest_scores(rows, selected, table, lowest, scores);
}

/// Writes the clusters that may be among the `N` nearest, one or two, to the one row that is given, ascending. `scores` is
/// a buffer.
pub(super) fn candidates<const N: usize>(
    row: Rows<'_>,
    table: Table<'_>,
    n_clusters: usize,
    scores: &mut Vec<Lanes>,
    candidates: &mut Vec<u32>,
) {
    if scores.len() < table.norms.len() {
        *scores = table.scores();
    }
    let scores = &mut scores[..table.norms.len()];
    let reach = match row {
        Rows::Sparse(rows) => {
            let (indices, values) = rows.row(0);
            score_sparse(indices, values, table, scores);
            rows.reach[0]
        }
        Rows::Dense { values, reach } => {
            score_tile::<false, 1>(values, &[0], table, scores);
            reach[0]
        }
    };
    let bound = bound(least_two(scores)[N - 1], table, reach);
    let scores = scores.as_flattened()[..n_clusters].iter();
    let nothing_is_known = bound.is_nan() || bound == f32::INFINITY;
    let near = |score: f32| nothing_is_known || score <= bound;
    candidates.clear();
    candidates.extend(scores.zip(0..).filter(|(score, _)| near(**score)).map(|(_, cluster)| cluster));
}

/// What a kernel was compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InstructionSet {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// The one that is used.
pub(super) static INSTRUCTION_SET: LazyLock<InstructionSet> =
    LazyLock::new(|| InstructionSet::available().last().copied().unwrap_or(InstructionSet::Portable));

impl InstructionSet {
    /// Those that this processor has, the fastest last.
    pub fn available() -> Vec<Self> {
        let mut sets = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                sets.push(Self::Avx2);
                let has_popcnt = is_x86_feature_detected!("popcnt");
                if has_popcnt && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
                    sets.push(Self::Avx512);
                }
            }
        }
        sets
    }

    pub fn label(self, rows: Rows<'_>, selected: &[u32], table: Table<'_>, labels: &mut [u32], scores: &mut [Lanes]) {
        match (self, rows) {
            // SAFETY: `available` lists an instruction set only when the processor has it.
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512, Rows::Sparse(rows)) => unsafe {
                kernel_avx512::label_sparse(&rows, selected, table, labels, scores);
            },
            // SAFETY: the same.
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512, Rows::Dense { values, reach }) => unsafe {
                kernel_avx512::label_dense(values, reach, selected, table, labels, scores);
            },
            _ => {
                let mut found = vec![Found::default(); selected.len()];
                self.nearest(rows, selected, table, &mut found, scores);
                labels.iter_mut().zip(&found).for_each(|(label, found)| *label = found.label);
            }
        }
    }

    pub fn lowest_scores(
        self,
        rows: Rows<'_>,
        selected: &[u32],
        table: Table<'_>,
        lowest: &mut [f32],
        scores: &mut [Lanes],
    ) {
        match (self, rows) {
            // SAFETY: `available` lists an instruction set only when the processor has it.
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512, Rows::Sparse(rows)) => unsafe {
                kernel_avx512::lowest_sparse(&rows, selected, table, lowest, scores);
            },
            // SAFETY: the same.
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512, Rows::Dense { values, reach }) => unsafe {
                kernel_avx512::lowest_dense(values, reach, selected, table, lowest, scores);
            },
            _ => {
                let mut found = vec![Found::default(); selected.len()];
                self.nearest(rows, selected, table, &mut found, scores);
                lowest.iter_mut().zip(&found).for_each(|(lowest, found)| *lowest = found.scores[0]);
            }
        }
    }

    pub fn nearest(
        self,
        rows: Rows<'_>,
        selected: &[u32],
        table: Table<'_>,
        found: &mut [Found],
        scores: &mut [Lanes],
    ) {
        match (self, rows) {
            (Self::Portable, _) => pass(rows, selected, table, found, scores),
            // SAFETY: `available` lists an instruction set only when the processor has it.
            #[cfg(target_arch = "x86_64")]
            (Self::Avx2, Rows::Sparse(rows)) => unsafe {
                kernel_avx2::nearest(&rows, selected, table, found, scores);
            },
            // SAFETY: the same.
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512, Rows::Sparse(rows)) => unsafe {
                kernel_avx512::nearest_sparse(&rows, selected, table, found, scores);
            },
            // SAFETY: the same.
            #[cfg(target_arch = "x86_64")]
            (Self::Avx2, Rows::Dense { values, reach }) => unsafe {
                kernel_avx2::nearest_dense(values, reach, selected, table, found, scores);
            },
            // SAFETY: the same.
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512, Rows::Dense { values, reach }) => unsafe {
                kernel_avx512::nearest_dense(values, reach, selected, table, found, scores);
            },
        }
    }
}

// The loops below index slices and use no iterators that give tuples: calls that return aggregates are not inlined
// into functions that are compiled for another instruction set than they are.

fn pass(rows: Rows<'_>, selected: &[u32], table: Table<'_>, found: &mut [Found], scores: &mut [Lanes]) {
    match rows {
        Rows::Sparse(rows) => {
            let scores = &mut scores[..table.norms.len()];
            for i in 0..selected.len() {
                let row = selected[i] as usize;
                let (indices, values) = rows.row(row);
                score_sparse(indices, values, table, scores);
                found[i] = lowest(scores, table, rows.reach[row]);
            }
        }
        Rows::Dense { values, reach } => {
            let mut i = 0;
            while i < selected.len() {
                let tile = if selected.len() - i < TILE_ROWS {
                    score_tile::<false, 1>(values, &selected[i..], table, scores);
                    1
                } else {
                    score_tile::<false, TILE_ROWS>(values, &selected[i..], table, scores);
                    TILE_ROWS
                };
                for row in i..i + tile {
                    let scores = &scores[(row - i) * table.norms.len()..(row - i + 1) * table.norms.len()];
                    found[row] = lowest(scores, table, reach[selected[row] as usize]);
                }
                i += tile;
            }
        }
    }
}

#[inline(always)]
fn multiply_add<const FUSED: bool>(x: f32, c: f32, sum: f32) -> f32 {
    if FUSED { x.mul_add(c, sum) } else { x * c + sum }
}

/// ‖c‖² − 2·x·c for every cluster.
fn score_sparse(indices: &[u32], values: &[f32], table: Table<'_>, scores: &mut [Lanes]) {
    let values = &values[..indices.len()];
    for group in 0..table.norms.len() {
        let columns = table.group(group);
        let mut products = [0.0; LANES];
        for i in 0..indices.len() {
            let (x, column) = (values[i], &columns[indices[i] as usize]);
            for lane in 0..LANES {
                products[lane] += x * column[lane];
            }
        }
        for lane in 0..LANES {
            scores[group][lane] = table.norms[group][lane] - 2.0 * products[lane];
        }
    }
}

/// The same for the first `ROWS` dense rows that are selected; scores are `(ROWS, n_groups)`.
#[inline(always)]
pub(super) fn score_tile<const FUSED: bool, const ROWS: usize>(
    values: &[f32],
    selected: &[u32],
    table: Table<'_>,
    scores: &mut [Lanes],
) {
    let n_groups = table.norms.len();
    let mut rows = [values; ROWS];
    for row in 0..ROWS {
        let start = selected[row] as usize * table.n_features;
        rows[row] = &values[start..start + table.n_features];
    }
    for group in 0..n_groups {
        let columns = table.group(group);
        let mut products = [[0.0; LANES]; ROWS];
        for feature in 0..table.n_features {
            for row in 0..ROWS {
                for lane in 0..LANES {
                    products[row][lane] =
                        multiply_add::<FUSED>(rows[row][feature], columns[feature][lane], products[row][lane]);
                }
            }
        }
        for row in 0..ROWS {
            for lane in 0..LANES {
                scores[row * n_groups + group][lane] = table.norms[group][lane] - 2.0 * products[row][lane];
            }
        }
    }
}

/// The lowest score and the next.
#[inline(always)]
fn least_two(scores: &[Lanes]) -> [f32; 2] {
    let (mut first, mut second) = ([f32::INFINITY; LANES], [f32::INFINITY; LANES]);
    for group in scores {
        for lane in 0..LANES {
            let score = group[lane];
            let loser = if score < first[lane] { first[lane] } else { score };
            first[lane] = if score < first[lane] { score } else { first[lane] };
            second[lane] = if loser < second[lane] { loser } else { second[lane] };
        }
    }
    // Halves are folded onto each other: lane by lane, each step would wait for the one before.
    fold::<{ LANES / 2 }>(&mut first, &mut second);
    fold::<{ LANES / 4 }>(&mut first, &mut second);
    fold::<{ LANES / 8 }>(&mut first, &mut second);
    fold::<{ LANES / 16 }>(&mut first, &mut second);
    [first[0], second[0]]
}

/// Lanes `HALF..2 * HALF` onto the first ones.
#[inline(always)]
fn fold<const HALF: usize>(first: &mut Lanes, second: &mut Lanes) {
    for lane in 0..HALF {
        let (a, b) = (first[lane], first[lane + HALF]);
        let loser = if a < b { b } else { a };
        let next = if second[lane] < second[lane + HALF] { second[lane] } else { second[lane + HALF] };
        first[lane] = if a < b { a } else { b };
        second[lane] = if loser < next { loser } else { next };
    }
}

/// The highest score that may belong to the nearest cluster; not finite where nothing is known.
#[inline(always)]
pub(super) fn bound(best: f32, table: Table<'_>, reach: f32) -> f32 {
    best + (reach * table.margin.0 + table.margin.1)
}

/// The cluster with the lowest score, when no other lies within the margin.
#[inline(always)]
fn lowest(scores: &[Lanes], table: Table<'_>, reach: f32) -> Found {
    let [best, next] = least_two(scores);
    let bound = bound(best, table, reach);
    // False for NaN as well.
    if !(next > bound && bound < f32::INFINITY) {
        return Found { label: UNDECIDED, scores: [best, next] };
    }
    let mut labels = [0_u32; LANES];
    for group in 0..scores.len() {
        for lane in 0..LANES {
            let is_best = scores[group][lane] == best;
            labels[lane] = if is_best { (group * LANES + lane) as u32 } else { labels[lane] };
        }
    }
    let mut label = 0;
    for lane in 0..LANES {
        label |= labels[lane];
    }
    Found { label, scores: [best, next] }
}
