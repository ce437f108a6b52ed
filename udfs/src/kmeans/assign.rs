//! One pass over rows: which cluster each belongs to, and what follows from that.

use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use super::bounds::{Bounds, BoundsMut, Drift};
use super::kernel::Found;
use super::{
    CentroidTable, ClusterSum, ClusterSummary, Distinct, FarPoint, FixedPoint, Image, Moments, Ranked, Resident,
    keep_first,
};
use crate::matrix::{Points, Rows};

/// Rows between two looks at the cancel flag, and the least that is worth a thread.
pub(super) const CHUNK_ROWS: usize = 2_048;

/// Where there are few rows, a pass gives each thread so many parts of them, of so many rows at least.
const CHUNKS_PER_THREAD: usize = 16;
const CHUNK_ROWS_MIN: usize = 256;

/// Set from outside to make a running pass return early. A pass then gives `None`.
pub type Cancel = AtomicBool;

/// The label of a row that was not assigned yet.
pub const NO_CLUSTER: u32 = u32::MAX;

/// A row that goes from one cluster to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    pub row: u32,
    /// [`NO_CLUSTER`] at first.
    pub from: u32,
    pub to: u32,
}

/// The cluster of a row and the squared distance to its centre.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Assignment {
    pub cluster: usize,
    pub squared_distance: f64,
}

/// Rows that changed their cluster, and how many were left where they are by their bounds alone.
#[derive(Debug, Default)]
pub(super) struct Reassigned {
    /// Of distinct rows.
    pub moves: Vec<Move>,
    /// Of all rows.
    pub n_skipped: u64,
}

/// Assigns every distinct row to its nearest centre, on all threads of the current pool: brings `labels` up to date and
/// gives what changed. Rows are skipped by their bounds, where there are any, which are brought up to date as well.
pub(super) fn reassign(
    distinct: &Distinct,
    table: &CentroidTable,
    labels: &mut [u32],
    bounds: Option<(&mut Bounds, &Drift)>,
    cancel: &Cancel,
) -> Option<Reassigned> {
    assert_eq!(labels.len(), distinct.len());
    // As even for all threads as chunks of this size let them be.
    let chunk_rows = labels.len().div_ceil(CHUNKS_PER_THREAD * rayon::current_num_threads());
    let chunk_rows = chunk_rows.clamp(CHUNK_ROWS_MIN, CHUNK_ROWS);
    let bounds: Vec<Option<BoundsMut<'_>>> = match bounds {
        Some((bounds, drift)) => bounds.chunks(chunk_rows, drift).into_iter().map(Some).collect(),
        None => (0..labels.len().div_ceil(chunk_rows)).map(|_| None).collect(),
    };
    let chunks: Option<Vec<Reassigned>> = labels
        .par_chunks_mut(chunk_rows)
        .zip(bounds)
        .enumerate()
        .map(|(chunk, (labels, bounds))| {
            if cancel.load(Ordering::Relaxed) {
                return None;
            }
            Some(reassign_chunk(distinct, table, chunk * chunk_rows, labels, bounds))
        })
        .collect();
    let mut all = Reassigned::default();
    for chunk in chunks? {
        all.moves.extend(chunk.moves);
        all.n_skipped += chunk.n_skipped;
    }
    Some(all)
}

fn reassign_chunk(
    distinct: &Distinct,
    table: &CentroidTable,
    start: usize,
    labels: &mut [u32],
    mut bounds: Option<BoundsMut<'_>>,
) -> Reassigned {
    let (points, image) = (distinct.points(), distinct.image());
    let range = start..start + labels.len();
    let Some(bounds) = &mut bounds else {
        let mut found = [NO_CLUSTER; CHUNK_ROWS];
        let found = &mut found[..labels.len()];
        table.labels(&points.rows, image, range, found);
        let mut moves = vec![];
        for (i, (label, &to)) in labels.iter_mut().zip(&*found).enumerate() {
            if *label != to {
                moves.push(Move { row: (start + i) as u32, from: std::mem::replace(label, to), to });
            }
        }
        return Reassigned { moves, n_skipped: 0 };
    };
    let selected = undecided_by_bounds(points, image, table, range.clone(), labels, bounds);
    let n_selected: u64 = selected.iter().map(|&i| distinct.count(start + i as usize)).sum();
    let n_skipped = distinct.count_all(range.clone()) - n_selected;
    let mut found = vec![Found::default(); selected.len()];
    let mut decided = vec![true; selected.len()];
    table.find(&points.rows, image, range, &selected, &mut found, |i, is_decided| decided[i] = is_decided);
    let mut moves = vec![];
    for ((&i, found), is_decided) in selected.iter().zip(&found).zip(decided) {
        let i = i as usize;
        match is_decided {
            true => {
                let (upper, lower) = table.squared_bounds(image, start + i, found.scores);
                bounds.set(i, found.label, found.scores[0], upper, lower);
            }
            false => bounds.forget(i),
        }
        if labels[i] != found.label {
            moves.push(Move { row: (start + i) as u32, from: labels[i], to: found.label });
            labels[i] = found.label;
        }
    }
    Reassigned { moves, n_skipped }
}

/// The rows that their bounds leave to be scored against all centres.
fn undecided_by_bounds(
    points: &Points,
    image: &Image,
    table: &CentroidTable,
    range: std::ops::Range<usize>,
    labels: &[u32],
    bounds: &mut BoundsMut<'_>,
) -> Vec<u32> {
    let (mut left, mut held, mut unmoved) = (vec![], vec![], vec![]);
    for (i, &label) in (0..).zip(labels) {
        if label == NO_CLUSTER {
            left.push(i);
        } else if bounds.holds(i as usize, label) {
            held.push(i);
        } else if table.has_few_moved() && !table.is_moved(label) {
            unmoved.push(i);
        } else {
            left.push(i);
        }
    }
    // A row whose own centre has not moved can only be won by one that has.
    let scores = table.scores_of_moved(&points.rows, image, range.clone(), &unmoved);
    for (i, moved) in unmoved.into_iter().zip(scores) {
        if !moved.is_above(bounds.score(i as usize)) {
            left.push(i);
        } else if table.has_leapt() {
            bounds.lower(i as usize, moved.squared_lower);
        } else {
            bounds.raise(i as usize, moved.squared_lower);
        }
    }
    if table.has_leapt() {
        held = without_won(points, image, table, range, labels, held, bounds, &mut left);
    }
    for i in held {
        if table.is_moved(labels[i as usize]) {
            bounds.forget_score(i as usize);
        }
    }
    left.sort_unstable();
    left
}

/// Of the rows that their bounds hold, those that no centre wins that has leapt; the others are `left`.
#[expect(clippy::too_many_arguments, reason = "a part of the one caller")]
fn without_won(
    points: &Points,
    image: &Image,
    table: &CentroidTable,
    range: std::ops::Range<usize>,
    labels: &[u32],
    mut held: Vec<u32>,
    bounds: &mut BoundsMut<'_>,
    left: &mut Vec<u32>,
) -> Vec<u32> {
    if !table.has_few_moved() {
        left.append(&mut held);
        return held;
    }
    let scores = table.scores_of_moved(&points.rows, image, range, &held);
    let mut scores = scores.into_iter();
    held.retain(|&i| {
        let squared_lower = scores.next().map_or(f64::NAN, |moved| moved.squared_lower);
        let stays = bounds.is_nearer_than(i as usize, labels[i as usize], squared_lower);
        match stays {
            true => bounds.lower(i as usize, squared_lower),
            false => left.push(i),
        }
        stays
    });
    held
}

fn label_range(
    distinct: &Distinct,
    table: &CentroidTable,
    start: usize,
    labels: &mut [u32],
    cancel: &Cancel,
) -> Option<()> {
    if cancel.load(Ordering::Relaxed) {
        return None;
    }
    table.labels(&distinct.points().rows, distinct.image(), start..start + labels.len(), labels);
    Some(())
}

/// The assignment of every row, in order.
pub fn assignments(distinct: &Distinct, table: &CentroidTable, cancel: &Cancel) -> Option<Vec<Assignment>> {
    let points = distinct.points();
    let chunks: Option<Vec<Vec<Assignment>>> = (0..points.len())
        .into_par_iter()
        .step_by(CHUNK_ROWS)
        .map(|start| {
            let mut labels = [NO_CLUSTER; CHUNK_ROWS];
            let labels = &mut labels[..CHUNK_ROWS.min(points.len() - start)];
            label_range(distinct, table, start, labels, cancel)?;
            let mut distances = [0.0; CHUNK_ROWS];
            let distances = &mut distances[..labels.len()];
            table.squared_distances(&points.rows, start, labels, distances);
            let found = labels.iter().zip(distances);
            let found =
                found.map(|(&label, &mut squared_distance)| Assignment { cluster: label as usize, squared_distance });
            Some(found.collect())
        })
        .collect();
    Some(distinct.unfold(chunks?.concat()))
}

/// Σ w·x over all rows, which are dense.
pub fn totals(points: &Points, scale: &FixedPoint, cancel: &Cancel) -> Option<Moments> {
    let chunk_rows = points.len().div_ceil(rayon::current_num_threads()).max(CHUNK_ROWS);
    let chunks = (0..points.len()).into_par_iter().step_by(chunk_rows).map(|start| {
        if cancel.load(Ordering::Relaxed) {
            return None;
        }
        let range = start..(start + chunk_rows).min(points.len());
        let n_points = range.len() as u64;
        let rows = range.map(|i| (points.rows.row(i), points.weights[i] as i64));
        Some(Moments { sum: ClusterSum::of_dense_rows(scale, rows), squares: 0, n_points })
    });
    let merged = chunks.try_reduce_with(|mut a, b| {
        a.merge(&b);
        Some(a)
    });
    merged.unwrap_or_else(|| Some(Moments::default()))
}

/// Σ w·‖x − shift‖² over all rows, and Σ w.
pub fn squares(distinct: &Distinct, scale: &FixedPoint) -> Moments {
    let weights = &distinct.points().weights;
    let weight = weights.iter().map(|weight| *weight as i64).sum();
    let squares = distinct.image().squares(weights, scale);
    Moments { sum: ClusterSum::of_weight(weight), squares, n_points: distinct.n_rows() as u64 }
}

/// The squared distance of every row to the centre that it is assigned to.
pub(super) fn squared_distances(points: &Points, labels: &[u32], table: &CentroidTable) -> Vec<f64> {
    let mut distances = vec![0.0; labels.len()];
    let chunks = distances.par_chunks_mut(CHUNK_ROWS).zip(labels.par_chunks(CHUNK_ROWS)).enumerate();
    chunks.for_each(|(chunk, (distances, labels))| {
        table.squared_distances(&points.rows, chunk * CHUNK_ROWS, labels, distances);
    });
    distances
}

/// The `n` rows farthest from the centres that they are assigned to, farthest first.
pub fn farthest(block: &Resident, table: &CentroidTable, n: usize) -> Vec<FarPoint> {
    let (points, distinct, labels) = (&block.points, &block.distinct, block.distinct_labels());
    let distances = squared_distances(distinct.points(), labels, table);
    let mut found: Vec<usize> = (0..distinct.len()).filter(|&i| distinct.points().weights[i] > 0).collect();
    if n == 0 || found.is_empty() {
        return vec![];
    }
    let farther = |&a: &usize, &b: &usize| distances[b].total_cmp(&distances[a]);
    let last = n.min(found.len()) - 1;
    let least = distances[*found.select_nth_unstable_by(last, farther).1];
    // Everything that ties with the n-th stays in, to be ordered by content.
    let rows = (0..points.len()).filter(|&row| distances[distinct.of_row(row)] >= least && points.weights[row] > 0);
    let far_point = |row: usize| {
        let of = distinct.of_row(row);
        far_point(points, row, labels[of], distances[of])
    };
    let mut far: Vec<FarPoint> = rows.map(far_point).collect();
    FarPoint::sort(&mut far);
    far.truncate(n);
    far
}

fn far_point(points: &Points, i: usize, label: u32, squared_distance: f64) -> FarPoint {
    let row = points.rows.row(i);
    FarPoint {
        squared_distance,
        content_hash: row.content_hash(),
        cluster: label as usize,
        weight: points.weights[i],
        row: Rows::of_one(row, points.rows.n_features()),
    }
}

/// The final numbers of every cluster. `before` orders rows that are equal as vectors, by what they were made of.
pub fn summarize(
    points: &Points,
    distinct: &Distinct,
    table: &CentroidTable,
    scale: &FixedPoint,
    before: impl Fn(usize, usize) -> bool,
    cancel: &Cancel,
) -> Option<Vec<ClusterSummary>> {
    let found = assignments(distinct, table, cancel)?;
    let nearer = |a: &Ranked, b: &Ranked| {
        let (x, y) = ((a.squared_distance, a.content_hash), (b.squared_distance, b.content_hash));
        x < y || x == y && before(a.position, b.position)
    };
    let farther = |a: &Ranked, b: &Ranked| {
        let (x, y) = ((-a.squared_distance, a.content_hash), (-b.squared_distance, b.content_hash));
        x < y || x == y && before(a.position, b.position)
    };
    let mut clusters = vec![ClusterSummary::default(); table.n_clusters()];
    for (position, found) in found.iter().enumerate() {
        let row = points.rows.row(position);
        let cluster = &mut clusters[found.cluster];
        cluster.add(points.weights[position], found.squared_distance, scale);
        let ranked = Ranked { squared_distance: found.squared_distance, content_hash: row.content_hash(), position };
        keep_first(&mut cluster.farthest, ranked, farther);
        // A row without a known term says nothing of its cluster: it is an example only where there are no others.
        let rank = if row.indices.is_empty() { f64::INFINITY } else { found.squared_distance };
        keep_first(&mut cluster.nearest, Ranked { squared_distance: rank, ..ranked }, nearer);
    }
    Some(clusters)
}
