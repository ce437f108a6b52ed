//! One pass over rows: which cluster each belongs to, and what follows from that.

use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use super::{CentroidTable, ClusterSummary, FarPoint, FixedPoint, Nearest, Partial};
use crate::matrix::{Points, Rows};

/// Rows between two looks at the cancel flag, and the least that is worth a thread.
const CHUNK_ROWS: usize = 2_048;

/// Set from outside to make a running pass return early. A pass then gives `None`.
pub type Cancel = AtomicBool;

/// The cluster of a row and the squared distance to its centre.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Assignment {
    pub cluster: usize,
    pub squared_distance: f64,
}

/// Assigns every row to its nearest centre and sums up each cluster, on all threads of the current pool.
pub fn assign(points: &Points, table: &CentroidTable, scale: &FixedPoint, cancel: &Cancel) -> Option<Partial> {
    let zeros = || Partial::zeros(table.n_clusters(), points.rows.n_features());
    let per_thread = points.len().div_ceil(rayon::current_num_threads()).max(CHUNK_ROWS);
    (0..points.len())
        .into_par_iter()
        .step_by(per_thread)
        .map(|start| {
            let mut partial = zeros();
            let range = start..(start + per_thread).min(points.len());
            for_each_assignment(points, range, table, cancel, |i, found| {
                partial.add(scale, points.rows.row(i), points.weights[i], found.cluster, found.squared_distance);
            })?;
            Some(partial)
        })
        .try_reduce_with(|mut sum, partial| {
            sum.merge(&partial);
            Some(sum)
        })
        .unwrap_or_else(|| Some(zeros()))
}

/// The assignment of every row, in order.
pub fn labels(points: &Points, table: &CentroidTable, cancel: &Cancel) -> Option<Vec<Assignment>> {
    let chunks: Option<Vec<Vec<Assignment>>> = (0..points.len())
        .into_par_iter()
        .step_by(CHUNK_ROWS)
        .map(|start| {
            let mut labels = Vec::with_capacity(CHUNK_ROWS);
            let range = start..(start + CHUNK_ROWS).min(points.len());
            for_each_assignment(points, range, table, cancel, |_, found| labels.push(found))?;
            Some(labels)
        })
        .collect();
    Some(chunks?.concat())
}

/// The `n` rows farthest from their centres, farthest first.
pub fn farthest(points: &Points, table: &CentroidTable, n: usize, cancel: &Cancel) -> Option<Vec<FarPoint>> {
    let labels = labels(points, table, cancel)?;
    let mut order: Vec<usize> = (0..points.len()).filter(|&i| points.weights[i] > 0).collect();
    order.sort_by(|&a, &b| labels[b].squared_distance.total_cmp(&labels[a].squared_distance));
    // Everything that ties with the n-th stays in, to be ordered by content.
    if let Some(bound) = order.get(n.saturating_sub(1)).map(|&i| labels[i].squared_distance) {
        order.retain(|&i| labels[i].squared_distance >= bound);
    }
    let mut far: Vec<FarPoint> = order.into_iter().map(|i| far_point(points, i, labels[i])).collect();
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
    table: &CentroidTable,
    scale: &FixedPoint,
    before: impl Fn(usize, usize) -> bool,
    cancel: &Cancel,
) -> Option<Vec<ClusterSummary>> {
    let labels = labels(points, table, cancel)?;
    let mut clusters = vec![ClusterSummary::default(); table.n_clusters()];
    for (position, found) in labels.iter().enumerate() {
        let row = points.rows.row(position);
        // A row without a known term says nothing of its cluster: it is the example only where there is no other.
        let rank = if row.indices.is_empty() { f64::INFINITY } else { found.squared_distance };
        let candidate = Nearest { squared_distance: rank, content_hash: row.content_hash(), position };
        let distance = scale.quantise_distance(found.squared_distance);
        clusters[found.cluster].add(points.weights[position], distance, candidate, &before);
    }
    Some(clusters)
}

fn for_each_assignment(
    points: &Points,
    range: std::ops::Range<usize>,
    table: &CentroidTable,
    cancel: &Cancel,
    mut each: impl FnMut(usize, Assignment),
) -> Option<()> {
    let mut scratch = table.scratch();
    for i in range.clone() {
        if (i - range.start).is_multiple_of(CHUNK_ROWS) && cancel.load(Ordering::Relaxed) {
            return None;
        }
        let (cluster, squared_distance) = table.nearest(points.rows.row(i), &mut scratch);
        each(i, Assignment { cluster, squared_distance });
    }
    Some(())
}
