//! One pass over blocks for centroids that the fit has published.

use std::collections::HashMap;
use std::sync::Arc;

use covey_udfs::kmeans::{
    self, CentroidTable, FarPoint, FixedPoint, Frame, Merge, Moments, Partial, Ranked, Resident, Sample, in_place,
};
use covey_udfs::matrix::Points;
use datafusion::arrow::array::{ArrayRef, BinaryArray, StringArray, UInt32Array, UInt64Array};
use datafusion::error::Result;

use super::Task;
use super::summary::{ExampleRow, SummaryRow};
use crate::block_cache::{Found, HeldBlock};
use crate::blocks::Documents;
use crate::coordinator::centroids_key;
use crate::external;
use crate::operators::blocks::{cancelled, compute};
use crate::operators::partial_wire::{
    encode_distances, encode_drawn, encode_far_points, encode_moments, encode_partial,
};

/// What a task has worked on.
#[derive(Default)]
pub(super) struct Tally {
    n_points: u64,
    /// Blocks that were in memory, and others.
    n_hits: u64,
    n_misses: u64,
}

impl Task {
    /// A block to be worked on next. A pass takes one after the other, so that a task holds one at a time beside what is
    /// in the cache, however many it has.
    pub(super) async fn take(&self, url: &str, tally: &mut Tally) -> Result<Arc<HeldBlock>> {
        let (block, found) = self.services.block(self.stores.as_ref(), &self.fit, url).await?;
        tally.n_points += block.points.len() as u64;
        let of_kind = if found == Found::Memory { &mut tally.n_hits } else { &mut tally.n_misses };
        *of_kind += 1;
        Ok(block)
    }
}

/// The totals of dense rows; or the squares of rows around their mean, which are known once it is published.
pub(super) async fn moments(task: Task, around_mean: bool) -> Result<Vec<ArrayRef>> {
    let profile = Arc::new(task.services.profile(&task.fit).await?);
    let arithmetic = if around_mean { Some(task.arithmetic().await?) } else { None };
    let (mut tally, mut total) = (Tally::default(), Moments::default());
    for url in &task.urls {
        let block = task.take(url, &mut tally).await?;
        let (profile, arithmetic) = (Arc::clone(&profile), arithmetic.clone());
        let moments = compute(move |cancel| match arithmetic {
            Some(arithmetic) => Ok(in_place::squares_of(&[block.distinct(&arithmetic.frame)], &arithmetic.scale)),
            None => {
                let scale = FixedPoint::new(&profile);
                in_place::totals_of(&[block.points.as_ref()], &scale, cancel).ok_or_else(cancelled)
            }
        });
        total.merge(&moments.await?);
    }
    Ok(result_row(&task, &tally, &encode_moments(profile.n_features(), &total)))
}

/// What an iteration changes: only rows that go to another cluster count.
pub(super) async fn assign(task: Task, run: usize, iteration: usize, merges: Vec<Merge>) -> Result<Vec<ArrayRef>> {
    let table = task.table(&centroids_key(run, iteration)).await?;
    let arithmetic = task.arithmetic().await?;
    let merges: Arc<[Merge]> = merges.into();
    let (mut tally, mut total) = (Tally::default(), Partial::zeros(table.n_clusters()));
    for url in &task.urls {
        let block = task.take(url, &mut tally).await?;
        let labelled = match iteration.checked_sub(1) {
            Some(before) => Labelled::after(&task, run, before, block.take_labels(run, before)).await?,
            None => Labelled::Unassigned,
        };
        let (table, arithmetic, merges) = (Arc::clone(&table), Arc::clone(&arithmetic), Arc::clone(&merges));
        total = compute(move |cancel| {
            let mut resident = labelled.resident(&block, &arithmetic.frame, cancel)?;
            merges.iter().for_each(|merge| resident.merge(*merge));
            let partial = resident.pass(&table, &arithmetic.scale, None, cancel).ok_or_else(cancelled)?;
            block.keep_labels(run, iteration, resident.into_distinct_labels());
            total.merge(&partial);
            Ok(total)
        })
        .await?;
    }
    Ok(result_row(&task, &tally, &encode_partial(table.centroids().n_features(), &total)))
}

/// What is known of the clusters of a block's rows after an iteration.
enum Labelled {
    /// There was no iteration.
    Unassigned,
    Known(Vec<u32>),
    /// By the centroids of that iteration, which are still published: a block that comes from elsewhere has no labels.
    By(Arc<CentroidTable>),
}

impl Labelled {
    async fn after(task: &Task, run: usize, iteration: usize, labels: Option<Vec<u32>>) -> Result<Self> {
        match labels {
            Some(labels) => Ok(Self::Known(labels)),
            None => Ok(Self::By(task.table(&centroids_key(run, iteration)).await?)),
        }
    }

    fn resident(self, block: &HeldBlock, frame: &Frame, cancel: &kmeans::Cancel) -> Result<Resident> {
        let (points, distinct) = (Arc::clone(&block.points), block.distinct(frame));
        match self {
            Self::Unassigned => Ok(Resident::new(points, distinct)),
            Self::Known(labels) => Ok(Resident::with_labels(points, distinct, labels)),
            Self::By(table) => {
                let mut resident = Resident::new(points, distinct);
                resident.relabel(&table, cancel).ok_or_else(cancelled)?;
                Ok(resident)
            }
        }
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
    let (mut tally, mut total) = (Tally::default(), vec![0; is_asked_for.len()]);
    let is_asked_for: Arc<[bool]> = is_asked_for.into();
    for url in &task.urls {
        let block = task.take(url, &mut tally).await?;
        let labelled = Labelled::after(&task, run, iteration, block.labels(run, iteration)).await?;
        let (table, arithmetic) = (Arc::clone(&table), Arc::clone(&arithmetic));
        let is_asked_for = Arc::clone(&is_asked_for);
        let distances = compute(move |cancel| {
            let resident = labelled.resident(&block, &arithmetic.frame, cancel)?;
            Ok(in_place::distances_of(&[resident], &table, &is_asked_for, &arithmetic.scale))
        });
        total.iter_mut().zip(distances.await?).for_each(|(total, part)| *total += part);
    }
    Ok(result_row(&task, &tally, &encode_distances(&total)))
}

pub(super) async fn sample(task: Task, n: usize, random_state: u64) -> Result<Vec<ArrayRef>> {
    let (mut tally, mut n_features, mut total) = (Tally::default(), 0, vec![]);
    for url in &task.urls {
        let block = task.take(url, &mut tally).await?;
        n_features = block.points.rows.n_features();
        total.extend(compute(move |_| Ok(Sample::draw(&block.points, n, random_state))).await?);
        total = Sample::first(total, n);
    }
    Ok(result_row(&task, &tally, &encode_drawn(n_features, total)))
}

pub(super) async fn farthest(task: Task, key: &str, n: usize) -> Result<Vec<ArrayRef>> {
    let table = task.table(key).await?;
    let (mut tally, mut total) = (Tally::default(), vec![]);
    for url in &task.urls {
        let block = task.take(url, &mut tally).await?;
        let table = Arc::clone(&table);
        let far = compute(move |cancel| {
            let resident = Labelled::By(Arc::clone(&table)).resident(&block, table.frame(), cancel)?;
            Ok(in_place::farthest_of(&[resident], &table, n))
        });
        total.extend(far.await?);
        FarPoint::sort(&mut total);
        total.truncate(n);
    }
    Ok(result_row(&task, &tally, &encode_far_points(table.centroids().n_features(), &total)))
}

pub(super) fn result_row(task: &Task, tally: &Tally, result: &[u8]) -> Vec<ArrayRef> {
    let number = |n: u64| Arc::new(UInt64Array::from(vec![n]));
    vec![
        Arc::new(StringArray::from(vec![task.services.executor_id.as_str()])),
        number(tally.n_points),
        number(tally.n_hits),
        number(tally.n_misses),
        Arc::new(BinaryArray::from_vec(vec![result])),
    ]
}

/// One row for each cluster that has rows here. Examples are the texts of rows, or their numbers.
pub(super) async fn summarize(task: Task, key: &str, documents: Vec<(String, String)>) -> Result<Vec<ArrayRef>> {
    let (arithmetic, table) = (task.arithmetic().await?, task.table(key).await?);
    let documents: HashMap<String, String> = documents.into_iter().collect();
    let mut clusters = vec![SummaryRow::default(); table.n_clusters()];
    for url in &task.urls {
        let block = task.take(url, &mut Tally::default()).await?;
        let texts = match documents.get(url) {
            Some(url) => Some(Documents::read(task.stores.as_ref(), url).await?),
            None => None,
        };
        let found = {
            let (block, table, arithmetic) = (Arc::clone(&block), Arc::clone(&table), Arc::clone(&arithmetic));
            let texts = texts.clone();
            let before = move |a, b| texts.as_ref().is_some_and(|texts| texts.texts.value(a) < texts.texts.value(b));
            let work = move |cancel: &kmeans::Cancel| {
                let distinct = block.distinct(&arithmetic.frame);
                let summary = kmeans::summarize(&block.points, &distinct, &table, &arithmetic.scale, before, cancel);
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
