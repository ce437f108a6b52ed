//! One pass over blocks for centroids that the fit has published.

use std::collections::HashMap;
use std::sync::Arc;

use covey_udfs::kmeans::{self, CentroidTable, ClusterSummary, FarPoint, FixedPoint, Nearest, Partial, Profile};
use covey_udfs::matrix::Points;
use datafusion::arrow::array::{ArrayRef, BinaryArray, Float64Array, StringArray, UInt32Array, UInt64Array};
use datafusion::error::Result;

use super::Task;
use crate::blocks::Documents;
use crate::coordinator::PROFILE;
use crate::external;
use crate::operators::blocks::{cancelled, compute};
use crate::operators::partial_wire::{decode_centroids, encode_far_points, encode_partial};

/// The scales of the fit.
pub(super) async fn scale(task: &Task, fit: &str) -> Result<FixedPoint> {
    let bytes = task.services.coordinator.fetch(fit, PROFILE).await?;
    let profile: Profile = serde_json::from_slice(&bytes).map_err(external)?;
    Ok(FixedPoint::new(&profile))
}

async fn table(task: &Task, fit: &str, key: &str) -> Result<CentroidTable> {
    let bytes = task.services.coordinator.fetch(fit, key).await?;
    Ok(CentroidTable::new(&decode_centroids(&bytes)?))
}

pub(super) async fn assign(task: Task, fit: &str, key: &str) -> Result<Vec<ArrayRef>> {
    let (scale, table) = (scale(&task, fit).await?, table(&task, fit, key).await?);
    let blocks = task.points().await?;
    let partial = compute(move |cancel| {
        let mut total = Partial::zeros(table.n_clusters(), scale.n_features());
        for points in &blocks {
            total.merge(&kmeans::assign(points, &table, &scale, cancel).ok_or_else(cancelled)?);
        }
        Ok(total)
    })
    .await?;
    Ok(result_row(&task, partial.n_points, &encode_partial(&partial)))
}

pub(super) async fn farthest(task: Task, fit: &str, key: &str, n: usize) -> Result<Vec<ArrayRef>> {
    let table = table(&task, fit, key).await?;
    let blocks = task.points().await?;
    let n_features = blocks.first().map_or(0, |block| block.rows.n_features());
    let n_points = blocks.iter().map(|block| block.len() as u64).sum();
    let far = compute(move |cancel| farthest_of(&blocks, &table, n, cancel)).await?;
    Ok(result_row(&task, n_points, &encode_far_points(n_features, &far)))
}

/// The `n` farthest rows of several blocks.
pub(super) fn farthest_of(
    blocks: &[Arc<Points>],
    table: &CentroidTable,
    n: usize,
    cancel: &kmeans::Cancel,
) -> Result<Vec<FarPoint>> {
    let mut far = vec![];
    for points in blocks {
        far.extend(kmeans::farthest(points, table, n, cancel).ok_or_else(cancelled)?);
    }
    FarPoint::sort(&mut far);
    far.truncate(n);
    Ok(far)
}

fn result_row(task: &Task, n_points: u64, result: &[u8]) -> Vec<ArrayRef> {
    vec![
        Arc::new(StringArray::from(vec![task.services.executor_id.as_str()])),
        Arc::new(UInt64Array::from(vec![n_points])),
        Arc::new(BinaryArray::from_vec(vec![result])),
    ]
}

/// One row for each cluster that has rows here. The example is the text of the nearest row, or its numbers.
pub(super) async fn summarize(
    task: Task,
    fit: &str,
    key: &str,
    documents: Vec<(String, String)>,
) -> Result<Vec<ArrayRef>> {
    let (scale, table) = (scale(&task, fit).await?, table(&task, fit, key).await?);
    let blocks = task.points().await?;
    let documents: HashMap<String, String> = documents.into_iter().collect();
    let mut clusters = vec![(ClusterSummary::default(), None); table.n_clusters()];
    let (table, scale) = (Arc::new(table), Arc::new(scale));
    for (url, points) in task.urls.iter().zip(&blocks) {
        let (points, table, scale) = (Arc::clone(points), Arc::clone(&table), Arc::clone(&scale));
        let texts = match documents.get(url) {
            Some(url) => Some(Documents::read(task.stores.as_ref(), url).await?),
            None => None,
        };
        let found = {
            let (points, texts) = (Arc::clone(&points), texts.clone());
            let before = move |a, b| texts.as_ref().is_some_and(|texts| texts.texts.value(a) < texts.texts.value(b));
            let work = move |cancel: &kmeans::Cancel| {
                kmeans::summarize(&points, &table, &scale, before, cancel).ok_or_else(cancelled)
            };
            compute(work).await?
        };
        for (total, part) in clusters.iter_mut().zip(found) {
            let example = |nearest: Nearest| example(&points, texts.as_ref(), nearest.position);
            merge(total, part, example);
        }
    }
    Ok(summary_rows(&clusters))
}

fn merge(total: &mut (ClusterSummary, Option<String>), part: ClusterSummary, example: impl FnOnce(Nearest) -> String) {
    let (sum, text) = total;
    sum.weight += part.weight;
    sum.n_points += part.n_points;
    sum.inertia += part.inertia;
    let Some(candidate) = part.nearest else { return };
    let candidate_text = Some(example(candidate));
    let best = sum.nearest.map(|best| (best.squared_distance, best.content_hash, &*text));
    let nearer = (candidate.squared_distance, candidate.content_hash, &candidate_text);
    if best.is_none_or(|best| nearer < best) {
        sum.nearest = Some(candidate);
        *text = candidate_text;
    }
}

fn example(points: &Points, texts: Option<&Documents>, position: usize) -> String {
    match texts {
        Some(documents) => documents.texts.value(position).to_string(),
        None => {
            let mut dense = vec![0.0; points.rows.n_features()];
            points.rows.row(position).iter().for_each(|(feature, x)| dense[feature] = x);
            format!("{dense:?}")
        }
    }
}

fn summary_rows(clusters: &[(ClusterSummary, Option<String>)]) -> Vec<ArrayRef> {
    let filled: Vec<(usize, &ClusterSummary, &Option<String>)> = clusters
        .iter()
        .enumerate()
        .filter(|(_, (summary, _))| summary.n_points > 0)
        .map(|(cluster, (summary, text))| (cluster, summary, text))
        .collect();
    let nearest = |(_, summary, _): &(usize, &ClusterSummary, &Option<String>)| summary.nearest;
    vec![
        Arc::new(UInt32Array::from_iter_values(filled.iter().map(|(cluster, _, _)| *cluster as u32))),
        Arc::new(UInt64Array::from_iter_values(filled.iter().map(|(_, summary, _)| summary.weight))),
        Arc::new(UInt64Array::from_iter_values(filled.iter().map(|(_, summary, _)| summary.n_points))),
        Arc::new(BinaryArray::from_iter_values(filled.iter().map(|(_, summary, _)| summary.inertia.to_le_bytes()))),
        Arc::new(Float64Array::from_iter(filled.iter().map(|row| nearest(row).map(|n| n.squared_distance)))),
        Arc::new(BinaryArray::from_iter(filled.iter().map(|row| nearest(row).map(|n| n.content_hash.to_be_bytes())))),
        Arc::new(StringArray::from_iter(filled.iter().map(|(_, _, text)| text.as_deref()))),
    ]
}
