//! What one part of the data contributes to an iteration. Merging is exact, so any grouping gives the same bits.

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::sums::DenseSum;
use super::wide::prefetch;
use super::{ClusterSum, DistanceSum, FixedPoint, Move, NO_CLUSTER, SumScratch};
use crate::matrix::{Density, Points, Rows};

/// How the sums of the clusters change: rows that stay where they were take no part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partial {
    /// Of each cluster.
    pub changes: Vec<ClusterSum>,
    /// Rows worked on, each counted once whatever its weight.
    pub n_points: u64,
    /// Rows that changed their cluster.
    pub n_moved: u64,
    /// Rows that were left where they are without being scored against all centres.
    pub n_skipped: u64,
}

impl Partial {
    pub fn zeros(n_clusters: usize) -> Self {
        Self { changes: vec![ClusterSum::default(); n_clusters], n_points: 0, n_moved: 0, n_skipped: 0 }
    }

    /// What `moves` of rows of `points`, by ascending row, change.
    pub fn of_moves(points: &Points, moves: &[Move], n_clusters: usize, scale: &FixedPoint) -> Self {
        let in_order = points.rows.density() == Density::Dense && n_clusters * scale.n_features() <= IN_ORDER_MAX;
        let changes = match in_order {
            true => in_order_of_rows(points, moves, n_clusters, scale),
            false => cluster_by_cluster(points, moves, n_clusters, scale),
        };
        Self { changes, n_points: points.len() as u64, n_moved: moves.len() as u64, n_skipped: 0 }
    }

    pub fn n_clusters(&self) -> usize {
        self.changes.len()
    }

    pub fn merge(&mut self, other: &Self) {
        assert_eq!(self.n_clusters(), other.n_clusters());
        self.changes.par_iter_mut().zip(&other.changes).for_each(|(sum, x)| sum.merge(x));
        self.n_points += other.n_points;
        self.n_moved += other.n_moved;
        self.n_skipped += other.n_skipped;
    }
}

/// Coordinates of all clusters up to which their sums fit a core's own cache.
const IN_ORDER_MAX: usize = 1 << 16;

/// Moves that are worth sums of their own.
const MOVES_MIN: usize = 1 << 10;

/// The entries that a thread takes at once are a part of all, and not fewer than this.
const PARTS_PER_THREAD: usize = 2;
const PART_ENTRIES_MIN: usize = 1 << 10;

/// Rows of a cluster lie here and there: they are fetched so many before their turn.
const ROWS_AHEAD: usize = 4;

/// Goes through the rows once, in the order they are stored in, with the sums of all clusters at hand.
fn in_order_of_rows(points: &Points, moves: &[Move], n_clusters: usize, scale: &FixedPoint) -> Vec<ClusterSum> {
    let part = |moves: &[Move]| {
        let mut sums: Vec<DenseSum> = (0..n_clusters).map(|_| DenseSum::default()).collect();
        for (i, m) in moves.iter().enumerate() {
            if let Some(ahead) = moves.get(i + ROWS_AHEAD) {
                prefetch(points.rows.row(ahead.row as usize).values);
            }
            let (values, weight) = (points.rows.row(m.row as usize).values, points.weights[m.row as usize] as i64);
            for (cluster, sign) in sides(m) {
                sums[cluster as usize].add(scale, values, sign * weight);
            }
        }
        sums.into_iter().map(DenseSum::finish).collect()
    };
    let add = |mut a: Vec<ClusterSum>, b: Vec<ClusterSum>| {
        a.iter_mut().zip(&b).for_each(|(sum, x)| sum.merge(x));
        a
    };
    let length = moves.len().div_ceil(rayon::current_num_threads()).max(MOVES_MIN);
    moves.par_chunks(length).map(part).reduce(|| vec![ClusterSum::default(); n_clusters], add)
}

/// Goes through the rows of one cluster after the other. Each thread takes the next part of all entries when it is done
/// with one, and keeps its scratch; a cluster that lies in several parts has several sums.
fn cluster_by_cluster(points: &Points, moves: &[Move], n_clusters: usize, scale: &FixedPoint) -> Vec<ClusterSum> {
    let (starts, entries) = by_cluster(points, moves, n_clusters);
    let n_threads = rayon::current_num_threads();
    let part_length = entries.len().div_ceil(PARTS_PER_THREAD * n_threads).max(PART_ENTRIES_MIN);
    let parts: Vec<usize> = (0..entries.len()).step_by(part_length).collect();
    let next = AtomicUsize::new(0);
    let of_thread = |_| {
        let (mut scratch, mut sums) = (scale.scratches().take(), vec![]);
        while let Some(&start) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
            let end = entries.len().min(start + part_length);
            let first = starts.partition_point(|of| *of <= start) - 1;
            for cluster in (first..n_clusters).take_while(|cluster| starts[*cluster] < end) {
                let range = start.max(starts[cluster])..end.min(starts[cluster + 1]);
                if !range.is_empty() {
                    sums.push((cluster, sum_of(points, &entries[range], scale, &mut scratch)));
                }
            }
        }
        scale.scratches().put(scratch);
        sums
    };
    let threads = (0..n_threads.min(parts.len())).into_par_iter().with_max_len(1);
    let sums: Vec<(usize, ClusterSum)> = threads.flat_map_iter(of_thread).collect();
    let mut of_clusters: Vec<Vec<ClusterSum>> = vec![vec![]; n_clusters];
    sums.into_iter().for_each(|(cluster, sum)| of_clusters[cluster].push(sum));
    // Of one part alone there is nothing to add up.
    let min_len = if parts.len() > 1 { 1 } else { n_clusters };
    of_clusters.into_par_iter().with_min_len(min_len).map(ClusterSum::total).collect()
}

/// Of rows, each with its weight.
fn sum_of(points: &Points, entries: &[(u32, i64)], scale: &FixedPoint, scratch: &mut SumScratch) -> ClusterSum {
    let rows = entries.iter().enumerate().map(|(i, &(row, weight))| {
        if let Some((ahead, _)) = entries.get(i + ROWS_AHEAD) {
            let ahead = points.rows.row(*ahead as usize);
            prefetch(ahead.indices);
            prefetch(ahead.values);
        }
        (points.rows.row(row as usize), weight)
    });
    ClusterSum::of_rows(scale, points.rows.density(), rows, scratch)
}

/// The clusters that a row comes to and leaves, with a sign.
fn sides(m: &Move) -> impl Iterator<Item = (u32, i64)> {
    [(m.to, 1), (m.from, -1)].into_iter().filter(|(cluster, _)| *cluster != NO_CLUSTER)
}

/// Who came to each cluster and who left it, as row and signed weight, and where each cluster's entries begin.
fn by_cluster(points: &Points, moves: &[Move], n_clusters: usize) -> (Vec<usize>, Vec<(u32, i64)>) {
    let mut starts = vec![0; n_clusters + 1];
    for (cluster, _) in moves.iter().flat_map(sides) {
        starts[cluster as usize + 1] += 1;
    }
    (0..n_clusters).for_each(|cluster| starts[cluster + 1] += starts[cluster]);
    let mut next = starts.clone();
    let mut entries = vec![(0, 0); starts[n_clusters]];
    for m in moves {
        let weight = points.weights[m.row as usize] as i64;
        for (cluster, sign) in sides(m) {
            entries[next[cluster as usize]] = (m.row, sign * weight);
            next[cluster as usize] += 1;
        }
    }
    (starts, entries)
}

/// A sum over all rows, whatever their cluster: what the mean and the variance of the features follow from. Of sparse rows
/// only the weight and the squares are summed: their variance follows from the sums of an iteration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moments {
    pub sum: ClusterSum,
    /// Quantised Σ w·‖x − around‖².
    pub squares: i128,
    pub n_points: u64,
}

impl Moments {
    pub fn merge(&mut self, other: &Self) {
        self.sum.merge(&other.sum);
        self.squares += other.squares;
        self.n_points += other.n_points;
    }
}

/// A row that lies far from its centre: a candidate for the place of an empty cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct FarPoint {
    pub squared_distance: f64,
    pub content_hash: u128,
    pub cluster: usize,
    pub weight: u64,
    /// The row itself: one row.
    pub row: Rows,
}

impl FarPoint {
    /// Farthest first; ties by content, then by weight, so that the order of rows does not matter.
    pub fn sort(points: &mut [Self]) {
        points.sort_by(|a, b| {
            b.squared_distance
                .total_cmp(&a.squared_distance)
                .then_with(|| a.content_hash.cmp(&b.content_hash))
                .then_with(|| b.weight.cmp(&a.weight))
        });
    }
}

/// One row of a part of the data, by its position there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ranked {
    pub squared_distance: f64,
    pub content_hash: u128,
    pub position: usize,
}

/// Rows that are kept as examples of a cluster, of the nearest and of the farthest each.
pub const EXAMPLES_MAX: usize = 10;

/// The final numbers of one cluster over a part of the data.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ClusterSummary {
    /// Σ w, in weight units.
    pub weight: u64,
    /// Distinct rows.
    pub n_points: u64,
    pub inertia: DistanceSum,
    /// The rows nearest to the centre, the nearest first; ties by content, then by what a row was made of.
    pub nearest: Vec<Ranked>,
    /// The rows farthest from it, the farthest first.
    pub farthest: Vec<Ranked>,
}

impl ClusterSummary {
    pub(super) fn add(&mut self, weight: u64, squared_distance: f64, scale: &FixedPoint) {
        self.weight += weight;
        self.n_points += 1;
        scale.add_distance(&mut self.inertia, squared_distance, weight);
    }
}

/// Keeps the first [`EXAMPLES_MAX`] of rows that come one by one.
pub fn keep_first<T>(kept: &mut Vec<T>, candidate: T, before: impl Fn(&T, &T) -> bool) {
    if kept.len() == EXAMPLES_MAX && !kept.last().is_some_and(|last| before(&candidate, last)) {
        return;
    }
    let at = kept.partition_point(|other| before(other, &candidate));
    kept.insert(at, candidate);
    kept.truncate(EXAMPLES_MAX);
}
