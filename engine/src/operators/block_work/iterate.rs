//! One pass over blocks for centroids that the fit has published.

use std::collections::HashMap;
use std::sync::Arc;

use covey_udfs::kmeans::{self, ClusterSummary, FixedPoint, Nearest, Resident, in_place};
use covey_udfs::matrix::Points;
use datafusion::arrow::array::{ArrayRef, BinaryArray, Float64Array, StringArray, UInt32Array, UInt64Array};
use datafusion::error::Result;
use rayon::prelude::*;

use super::Task;
use crate::block_cache::HeldBlock;
use crate::blocks::Documents;
use crate::coordinator::{MEAN, centroids_key};
use crate::operators::blocks::{cancelled, compute};
use crate::operators::partial_wire::{decode_centroids, encode_far_points, encode_moments, encode_partial};

pub(super) async fn moments(task: Task, fit: &str, around_mean: bool) -> Result<Vec<ArrayRef>> {
    let profile = task.services.profile(fit).await?;
    let mean = match around_mean {
        true => decode_centroids(&task.services.coordinator.fetch(fit, MEAN).await?)?.centre(0).to_vec(),
        false => vec![],
    };
    let blocks = task.blocks().await?;
    let n_features = profile.n_features();
    let scale = FixedPoint::new(&profile);
    let moments = compute(move |cancel| {
        let points: Vec<&Points> = blocks.iter().map(|block| block.points.as_ref()).collect();
        in_place::moments_of(&points, &mean, &scale, cancel).ok_or_else(cancelled)
    })
    .await?;
    Ok(result_row(&task, moments.n_points, &encode_moments(n_features, &moments)))
}

/// What an iteration changes: only rows that go to another cluster count. A block that comes from elsewhere has no
/// labels of the iteration before; they are found again by its centroids, which are still published.
pub(super) async fn assign(task: Task, fit: &str, run: usize, iteration: usize) -> Result<Vec<ArrayRef>> {
    let services = &task.services;
    let arithmetic = services.arithmetic(fit).await?;
    let table = services.table(fit, &centroids_key(run, iteration)).await?;
    let n_features = table.centroids().n_features();
    let blocks = task.blocks().await?;
    let before = iteration.checked_sub(1);
    let labels: Vec<Option<Vec<u32>>> =
        blocks.iter().map(|block| before.and_then(|before| block.take_labels(run, before))).collect();
    let table_before = match before {
        Some(before) if labels.contains(&None) => Some(services.table(fit, &centroids_key(run, before)).await?),
        _ => None,
    };
    let partial = compute(move |cancel| {
        let resident = |(block, labels): (&Arc<HeldBlock>, Option<Vec<u32>>)| {
            let (points, image) = (Arc::clone(&block.points), block.image(&arithmetic.frame));
            if let Some(labels) = labels {
                return Ok(Resident::with_labels(points, image, labels));
            }
            let mut resident = Resident::new(points, image);
            if let Some(table) = &table_before {
                resident.relabel(table, cancel).ok_or_else(cancelled)?;
            }
            Ok(resident)
        };
        let mut residents = blocks.par_iter().zip(labels).map(resident).collect::<Result<Vec<_>>>()?;
        let partial = in_place::pass(&mut residents, &table, &arithmetic.scale, None, cancel).ok_or_else(cancelled)?;
        for (block, resident) in blocks.iter().zip(residents) {
            block.keep_labels(run, iteration, resident.into_labels());
        }
        Ok(partial)
    })
    .await?;
    Ok(result_row(&task, partial.n_points, &encode_partial(n_features, &partial)))
}

pub(super) async fn farthest(task: Task, fit: &str, key: &str, n: usize) -> Result<Vec<ArrayRef>> {
    let table = task.services.table(fit, key).await?;
    let blocks = task.blocks().await?;
    let n_features = table.centroids().n_features();
    let n_points = blocks.iter().map(|block| block.points.len() as u64).sum();
    let far = compute(move |cancel| {
        let resident = |block: &Arc<HeldBlock>| Resident::new(Arc::clone(&block.points), block.image(table.frame()));
        let residents: Vec<Resident> = blocks.par_iter().map(resident).collect();
        in_place::farthest_of(&residents, &table, n, cancel).ok_or_else(cancelled)
    })
    .await?;
    Ok(result_row(&task, n_points, &encode_far_points(n_features, &far)))
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
    let (arithmetic, table) = (task.services.arithmetic(fit).await?, task.services.table(fit, key).await?);
    let blocks = task.blocks().await?;
    let documents: HashMap<String, String> = documents.into_iter().collect();
    let mut clusters = vec![(ClusterSummary::default(), None); table.n_clusters()];
    for (url, block) in task.urls.iter().zip(&blocks) {
        let texts = match documents.get(url) {
            Some(url) => Some(Documents::read(task.stores.as_ref(), url).await?),
            None => None,
        };
        let found = {
            let (block, table, arithmetic) = (Arc::clone(block), Arc::clone(&table), Arc::clone(&arithmetic));
            let texts = texts.clone();
            let before = move |a, b| texts.as_ref().is_some_and(|texts| texts.texts.value(a) < texts.texts.value(b));
            let work = move |cancel: &kmeans::Cancel| {
                let image = block.image(&arithmetic.frame);
                let summary = kmeans::summarize(&block.points, &image, &table, &arithmetic.scale, before, cancel);
                summary.ok_or_else(cancelled)
            };
            compute(work).await?
        };
        for (total, part) in clusters.iter_mut().zip(found) {
            let example = |nearest: Nearest| example(&block.points, texts.as_ref(), nearest.position);
            add_summary(total, part, example);
        }
    }
    Ok(summary_rows(&clusters))
}

fn add_summary(
    total: &mut (ClusterSummary, Option<String>),
    part: ClusterSummary,
    example: impl FnOnce(Nearest) -> String,
) {
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
