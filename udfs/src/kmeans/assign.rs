//! One pass over rows: which cluster each belongs to, and what follows from that.

use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use super::bounds::{Bounds, BoundsMut, Drift};
use super::frame::Image;
use super::kernel::Found;
use super::{CentroidTable, ClusterSum, ClusterSummary, FarPoint, FixedPoint, Moments, Ranked, SumScratch, keep_first};
use crate::matrix::{Density, Points, Row, Rows};

/// Rows between two looks at the cancel flag, and the least that is worth a thread.
pub(super) const CHUNK_ROWS: usize = 2_048;

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
    pub moves: Vec<Move>,
    pub n_skipped: usize,
}

/// Assigns every row to its nearest centre, on all threads of the current pool: brings `labels` up to date and gives
/// what changed. Rows are skipped by their bounds, where there are any, which are brought up to date as well.
pub(super) fn reassign(
    points: &Points,
    image: &Image,
    table: &CentroidTable,
    labels: &mut [u32],
    bounds: Option<(&mut Bounds, &Drift)>,
    cancel: &Cancel,
) -> Option<Reassigned> {
    assert_eq!(labels.len(), points.len());
    let n_chunks = labels.len().div_ceil(CHUNK_ROWS);
    let bounds: Vec<Option<BoundsMut<'_>>> = match bounds {
        Some((bounds, drift)) => bounds.chunks(CHUNK_ROWS, drift).into_iter().map(Some).collect(),
        None => (0..n_chunks).map(|_| None).collect(),
    };
    let chunks: Option<Vec<Reassigned>> = labels
        .par_chunks_mut(CHUNK_ROWS)
        .zip(bounds)
        .enumerate()
        .map(|(chunk, (labels, bounds))| {
            if cancel.load(Ordering::Relaxed) {
                return None;
            }
            Some(reassign_chunk(points, image, table, chunk * CHUNK_ROWS, labels, bounds))
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
    points: &Points,
    image: &Image,
    table: &CentroidTable,
    start: usize,
    labels: &mut [u32],
    mut bounds: Option<BoundsMut<'_>>,
) -> Reassigned {
    let range = start..start + labels.len();
    let selected = match &mut bounds {
        Some(bounds) => undecided_by_bounds(points, image, table, range.clone(), labels, bounds),
        None => (0..labels.len() as u32).collect(),
    };
    let mut found = vec![Found::default(); selected.len()];
    let mut decided = vec![true; selected.len()];
    table.find(&points.rows, image, range, &selected, &mut found, |i, is_decided| decided[i] = is_decided);
    let mut moves = vec![];
    for ((&i, found), is_decided) in selected.iter().zip(&found).zip(decided) {
        let i = i as usize;
        if let Some(bounds) = &mut bounds {
            match is_decided {
                true => {
                    let (upper, lower) = table.squared_bounds(image, start + i, found.scores);
                    bounds.set(i, found.label, found.scores[0], upper, lower);
                }
                false => bounds.forget(i),
            }
        }
        if labels[i] != found.label {
            moves.push(Move { row: (start + i) as u32, from: labels[i], to: found.label });
            labels[i] = found.label;
        }
    }
    Reassigned { moves, n_skipped: labels.len() - selected.len() }
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
    points: &Points,
    image: &Image,
    table: &CentroidTable,
    start: usize,
    labels: &mut [u32],
    cancel: &Cancel,
) -> Option<()> {
    if cancel.load(Ordering::Relaxed) {
        return None;
    }
    table.labels(&points.rows, image, start..start + labels.len(), labels);
    Some(())
}

/// The assignment of every row, in order.
pub fn assignments(points: &Points, image: &Image, table: &CentroidTable, cancel: &Cancel) -> Option<Vec<Assignment>> {
    let chunks: Option<Vec<Vec<Assignment>>> = (0..points.len())
        .into_par_iter()
        .step_by(CHUNK_ROWS)
        .map(|start| {
            let mut labels = [NO_CLUSTER; CHUNK_ROWS];
            let labels = &mut labels[..CHUNK_ROWS.min(points.len() - start)];
            label_range(points, image, table, start, labels, cancel)?;
            let with_distance = |(i, label): (usize, &u32)| {
                let cluster = *label as usize;
                let squared_distance = table.squared_distance(points.rows.row(start + i), cluster);
                Assignment { cluster, squared_distance }
            };
            Some(labels.iter().enumerate().map(with_distance).collect())
        })
        .collect();
    Some(chunks?.concat())
}

/// Σ w·x and Σ w·‖x − around‖² over all rows; around zero where `around` is empty.
pub fn moments(points: &Points, around: &[f64], scale: &FixedPoint, cancel: &Cancel) -> Option<Moments> {
    let density = points.rows.density();
    let distance = |row: Row<'_>| match density {
        Density::Sparse => row.squared_norm(),
        Density::Dense if around.is_empty() => 0.0,
        Density::Dense => row.iter().fold(0.0, |sum, (i, x)| sum + (x - around[i]) * (x - around[i])),
    };
    let chunk_rows = points.len().div_ceil(rayon::current_num_threads()).max(CHUNK_ROWS);
    (0..points.len())
        .into_par_iter()
        .step_by(chunk_rows)
        .map_init(SumScratch::default, |scratch, start| {
            if cancel.load(Ordering::Relaxed) {
                return None;
            }
            let range = start..(start + chunk_rows).min(points.len());
            let square = |i: usize| {
                i128::from(scale.quantise_distance(distance(points.rows.row(i)))) * i128::from(points.weights[i])
            };
            let squares = range.clone().map(square).sum();
            let n_points = range.len() as u64;
            let rows = range.map(|i| (points.rows.row(i), points.weights[i] as i64));
            Some(Moments { sum: ClusterSum::of_rows(scale, density, rows, scratch), squares, n_points })
        })
        .try_reduce_with(|mut a, b| {
            a.merge(&b);
            Some(a)
        })
        .unwrap_or_else(|| Some(Moments::default()))
}

/// The `n` rows farthest from their centres, farthest first.
pub fn farthest(
    points: &Points,
    image: &Image,
    table: &CentroidTable,
    n: usize,
    cancel: &Cancel,
) -> Option<Vec<FarPoint>> {
    let found = assignments(points, image, table, cancel)?;
    let mut order: Vec<usize> = (0..points.len()).filter(|&i| points.weights[i] > 0).collect();
    order.sort_by(|&a, &b| found[b].squared_distance.total_cmp(&found[a].squared_distance));
    // Everything that ties with the n-th stays in, to be ordered by content.
    if let Some(bound) = order.get(n.saturating_sub(1)).map(|&i| found[i].squared_distance) {
        order.retain(|&i| found[i].squared_distance >= bound);
    }
    let mut far: Vec<FarPoint> = order.into_iter().map(|i| far_point(points, i, found[i])).collect();
    FarPoint::sort(&mut far);
    far.truncate(n);
    Some(far)
}

fn far_point(points: &Points, i: usize, found: Assignment) -> FarPoint {
    let row = points.rows.row(i);
    FarPoint {
        squared_distance: found.squared_distance,
        content_hash: row.content_hash(),
        cluster: found.cluster,
        weight: points.weights[i],
        row: Rows::of_one(row, points.rows.n_features()),
    }
}

/// The final numbers of every cluster. `before` orders rows that are equal as vectors, by what they were made of.
pub fn summarize(
    points: &Points,
    image: &Image,
    table: &CentroidTable,
    scale: &FixedPoint,
    before: impl Fn(usize, usize) -> bool,
    cancel: &Cancel,
) -> Option<Vec<ClusterSummary>> {
    let found = assignments(points, image, table, cancel)?;
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
        cluster.add(points.weights[position], scale.quantise_distance(found.squared_distance));
        let ranked = Ranked { squared_distance: found.squared_distance, content_hash: row.content_hash(), position };
        keep_first(&mut cluster.farthest, ranked, farther);
        // A row without a known term says nothing of its cluster: it is an example only where there are no others.
        let rank = if row.indices.is_empty() { f64::INFINITY } else { found.squared_distance };
        keep_first(&mut cluster.nearest, Ranked { squared_distance: rank, ..ranked }, nearer);
    }
    Some(clusters)
}
