//! One pass over blocks for centroids that the fit has published.

use std::collections::HashMap;
use std::sync::Arc;

use covey_udfs::kmeans::{self, CentroidTable, FixedPoint, Frame, Merge, Ranked, Resident, Sample, in_place};
use covey_udfs::matrix::Points;
use datafusion::arrow::array::{ArrayRef, BinaryArray, StringArray, UInt32Array, UInt64Array};
use datafusion::error::Result;
use rayon::prelude::*;

use super::summary::{ExampleRow, SummaryRow};
use super::{Blocks, Task};
use crate::block_cache::HeldBlock;
use crate::blocks::Documents;
use crate::coordinator::centroids_key;
use crate::external;
use crate::operators::blocks::{cancelled, compute};
use crate::operators::partial_wire::{
    encode_distances, encode_drawn, encode_far_points, encode_moments, encode_partial,
};

/// The totals of dense rows; or the squares of rows around their mean, which are known once it is published.
pub(super) async fn moments(task: Task, around_mean: bool) -> Result<Vec<ArrayRef>> {
    let profile = task.services.profile(&task.fit).await?;
    let arithmetic = if around_mean { Some(task.arithmetic().await?) } else { None };
    let blocks = task.blocks().await?;
    let n_features = profile.n_features();
    let held = blocks.held.clone();
    let moments = compute(move |cancel| match arithmetic {
        Some(arithmetic) => {
            let image = |block: &Arc<HeldBlock>| block.image(&arithmetic.frame);
            let images: Vec<_> = held.par_iter().map(|block| (block.points.as_ref(), image(block))).collect();
            Ok(in_place::squares_of(&images, &arithmetic.scale))
        }
        None => {
            let points: Vec<&Points> = held.iter().map(|block| block.points.as_ref()).collect();
            in_place::totals_of(&points, &FixedPoint::new(&profile), cancel).ok_or_else(cancelled)
        }
    })
    .await?;
    Ok(result_row(&task, &blocks, &encode_moments(n_features, &moments)))
}

/// What an iteration changes: only rows that go to another cluster count.
pub(super) async fn assign(task: Task, run: usize, iteration: usize, merges: Vec<Merge>) -> Result<Vec<ArrayRef>> {
    let table = task.table(&centroids_key(run, iteration)).await?;
    let arithmetic = task.arithmetic().await?;
    let n_features = table.centroids().n_features();
    let blocks = task.blocks().await?;
    let labelled = match iteration.checked_sub(1) {
        Some(before) => {
            let labels = blocks.held.iter().map(|block| block.take_labels(run, before)).collect();
            Labelled::after(&task, run, before, labels).await?
        }
        None => Labelled::unassigned(&blocks.held),
    };
    let held = blocks.held.clone();
    let partial = compute(move |cancel| {
        let mut residents = labelled.residents(&held, &arithmetic.frame, cancel)?;
        residents.par_iter_mut().for_each(|resident| merges.iter().for_each(|merge| resident.merge(*merge)));
        let partial = in_place::pass(&mut residents, &table, &arithmetic.scale, None, cancel).ok_or_else(cancelled)?;
        for (block, resident) in held.iter().zip(residents) {
            block.keep_labels(run, iteration, resident.into_labels());
        }
        Ok(partial)
    })
    .await?;
    Ok(result_row(&task, &blocks, &encode_partial(n_features, &partial)))
}

/// The labels of blocks after an iteration, where they are known, and how to find the others again: a block that comes
/// from elsewhere has none, but the centroids of that iteration are still published.
struct Labelled {
    labels: Vec<Option<Vec<u32>>>,
    table: Option<Arc<CentroidTable>>,
}

impl Labelled {
    fn unassigned(blocks: &[Arc<HeldBlock>]) -> Self {
        Self { labels: vec![None; blocks.len()], table: None }
    }

    async fn after(task: &Task, run: usize, iteration: usize, labels: Vec<Option<Vec<u32>>>) -> Result<Self> {
        let table = match labels.contains(&None) {
            true => Some(task.table(&centroids_key(run, iteration)).await?),
            false => None,
        };
        Ok(Self { labels, table })
    }

    fn residents(self, blocks: &[Arc<HeldBlock>], frame: &Frame, cancel: &kmeans::Cancel) -> Result<Vec<Resident>> {
        let resident = |(block, labels): (&Arc<HeldBlock>, Option<Vec<u32>>)| {
            let (points, image) = (Arc::clone(&block.points), block.image(frame));
            if let Some(labels) = labels {
                return Ok(Resident::with_labels(points, image, labels));
            }
            let mut resident = Resident::new(points, image);
            if let Some(table) = &self.table {
                resident.relabel(table, cancel).ok_or_else(cancelled)?;
            }
            Ok(resident)
        };
        blocks.par_iter().zip(self.labels).map(resident).collect()
    }
}

pub(super) async fn distances(
    task: Task,
    run: usize,
    iteration: usize,
    key: &str,
    is_asked_for: Vec<bool>,
) -> Result<Vec<ArrayRef>> {
    let (arithmetic, table) = (task.arithmetic().await?, task.table(key).await?);
    let blocks = task.blocks().await?;
    let labels = blocks.held.iter().map(|block| block.labels(run, iteration)).collect();
    let labelled = Labelled::after(&task, run, iteration, labels).await?;
    let held = blocks.held.clone();
    let distances = compute(move |cancel| {
        let residents = labelled.residents(&held, &arithmetic.frame, cancel)?;
        Ok(in_place::distances_of(&residents, &table, &is_asked_for, &arithmetic.scale))
    })
    .await?;
    Ok(result_row(&task, &blocks, &encode_distances(&distances)))
}

pub(super) async fn sample(task: Task, n: usize, random_state: u64) -> Result<Vec<ArrayRef>> {
    let blocks = task.blocks().await?;
    let n_features = blocks.held.first().map_or(0, |block| block.points.rows.n_features());
    let held = blocks.held.clone();
    let drawn = compute(move |_| {
        let drawn = held.par_iter().flat_map(|block| Sample::draw(&block.points, n, random_state));
        Ok(Sample::first(drawn.collect(), n))
    })
    .await?;
    Ok(result_row(&task, &blocks, &encode_drawn(n_features, drawn)))
}

pub(super) async fn farthest(task: Task, key: &str, n: usize) -> Result<Vec<ArrayRef>> {
    let table = task.table(key).await?;
    let blocks = task.blocks().await?;
    let n_features = table.centroids().n_features();
    let held = blocks.held.clone();
    let far = compute(move |cancel| {
        let resident = |block: &Arc<HeldBlock>| Resident::new(Arc::clone(&block.points), block.image(table.frame()));
        let residents: Vec<Resident> = held.par_iter().map(resident).collect();
        let residents = in_place::relabelled(&residents, &table, cancel).ok_or_else(cancelled)?;
        Ok(in_place::farthest_of(&residents, &table, n))
    })
    .await?;
    Ok(result_row(&task, &blocks, &encode_far_points(n_features, &far)))
}

fn result_row(task: &Task, blocks: &Blocks, result: &[u8]) -> Vec<ArrayRef> {
    let number = |n: u64| Arc::new(UInt64Array::from(vec![n]));
    vec![
        Arc::new(StringArray::from(vec![task.services.executor_id.as_str()])),
        number(blocks.n_points),
        number(blocks.n_hits),
        number(blocks.held.len() as u64 - blocks.n_hits),
        Arc::new(BinaryArray::from_vec(vec![result])),
    ]
}

/// One row for each cluster that has rows here. Examples are the texts of rows, or their numbers.
pub(super) async fn summarize(task: Task, key: &str, documents: Vec<(String, String)>) -> Result<Vec<ArrayRef>> {
    let (arithmetic, table) = (task.arithmetic().await?, task.table(key).await?);
    let blocks = task.blocks().await?;
    let documents: HashMap<String, String> = documents.into_iter().collect();
    let mut clusters = vec![SummaryRow::default(); table.n_clusters()];
    for (url, block) in task.urls.iter().zip(&blocks.held) {
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
            total.add(part, |ranked| example(&block.points, texts.as_ref(), ranked));
        }
    }
    let filled: Vec<(u32, SummaryRow)> = (0..).zip(clusters).filter(|(_, summary)| summary.n_points > 0).collect();
    let rows = filled.iter().map(|(_, summary)| serde_json::to_string(summary).map_err(external));
    Ok(vec![
        Arc::new(UInt32Array::from_iter_values(filled.iter().map(|(cluster, _)| *cluster))),
        Arc::new(StringArray::from_iter_values(rows.collect::<Result<Vec<_>>>()?)),
    ])
}

fn example(points: &Points, texts: Option<&Documents>, ranked: Ranked) -> ExampleRow {
    let text = match texts {
        Some(documents) => documents.texts.value(ranked.position).to_string(),
        None => {
            let mut dense = vec![0.0; points.rows.n_features()];
            points.rows.row(ranked.position).iter().for_each(|(feature, x)| dense[feature] = x);
            format!("{dense:?}")
        }
    };
    ExampleRow {
        squared_distance: ranked.squared_distance,
        content_hash: format!("{:032x}", ranked.content_hash),
        weight: points.weights[ranked.position],
        text,
    }
}
