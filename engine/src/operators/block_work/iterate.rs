//! One pass over blocks for centroids that the fit has published.

use std::collections::HashMap;
use std::sync::Arc;

use covey_udfs::kmeans::{
    self, Bounds, CentroidTable, ClusterSummary, Drift, FarPoint, FixedPoint, Frame, Moments, Partial, Ranked,
    Resident, Sample, in_place,
};
use covey_udfs::matrix::Points;
use datafusion::arrow::array::{Array, ArrayRef, BinaryArray, StringArray, UInt32Array, UInt64Array};
use datafusion::error::{DataFusionError, Result};
use futures::future::try_join_all;

use super::summary::{ExampleRow, SummaryRow};
use super::{DistancesPass, RunPass, Task};
use crate::block_cache::{Found, HeldBlock};
use crate::blocks::Documents;
use crate::coordinator::{Arithmetic, centroids_key, drift_key};
use crate::external;
use crate::operators::blocks::{cancelled, compute};
use crate::operators::partial_wire::{
    decode_drift, encode_distances, encode_drawn, encode_far_points, encode_moments, encode_partial,
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

/// What an iteration of each run changes: only rows that go to another cluster count.
pub(super) async fn assign(task: Task, passes: Vec<RunPass>, kept: &[usize]) -> Result<Vec<ArrayRef>> {
    let arithmetic = task.arithmetic().await?;
    let mut tally = Tally::default();
    let mut runs = try_join_all(passes.into_iter().map(|pass| Running::new(&task, pass))).await?;
    for url in &task.urls {
        let block = task.take(url, &mut tally).await?;
        block.keep_only(|run| kept.contains(&run) || runs.iter().any(|running| running.pass.knows(run)));
        for running in &mut runs {
            running.prepare(&task, &block).await?;
        }
        let arithmetic = Arc::clone(&arithmetic);
        runs = compute(move |cancel| {
            runs.iter_mut().try_for_each(|running| running.pass(&block, &arithmetic, cancel))?;
            Ok(runs)
        })
        .await?;
    }
    let partials = runs.iter().map(|run| encode_partial(run.table.centroids().n_features(), &run.total));
    Ok(result_rows(&task, &tally, partials))
}

impl RunPass {
    /// What is known of the rows after iterations of `run` is of use.
    fn knows(&self, run: usize) -> bool {
        self.run == run || self.begins.as_ref().is_some_and(|begins| begins.run == run)
    }
}

/// A run in a pass that it may share with others.
struct Running {
    pass: RunPass,
    table: Arc<CentroidTable>,
    /// Where bounds are kept.
    drift: Option<Drift>,
    /// Of the next block.
    labelled: Labelled,
    bounds: Option<Bounds>,
    /// What the blocks so far change.
    total: Partial,
}

impl Running {
    async fn new(task: &Task, pass: RunPass) -> Result<Self> {
        let table = task.table(&centroids_key(pass.run, pass.iteration)).await?;
        if let Some(old) = pass.iteration.checked_sub(2) {
            task.services.forget_table(&task.fit, &centroids_key(pass.run, old));
        }
        let drift = match pass.has_bounds {
            true => Some(decode_drift(&task.fetch(&drift_key(pass.run, pass.iteration)).await?, table.n_clusters())?),
            false => None,
        };
        let total = Partial::zeros(table.n_clusters());
        Ok(Self { pass, table, drift, labelled: Labelled::Unassigned, bounds: None, total })
    }

    async fn prepare(&mut self, task: &Task, block: &HeldBlock) -> Result<()> {
        let RunPass { run, iteration, begins, .. } = &self.pass;
        if let Some(begins) = begins {
            // Other runs may begin there too.
            let labels = block.labels(begins.run, begins.iteration);
            self.labelled = Labelled::after(task, begins.run, begins.iteration, labels).await?;
        } else if let Some(before) = iteration.checked_sub(1) {
            self.labelled = Labelled::after(task, *run, before, block.take_labels(*run, before)).await?;
            self.bounds = block.take_bounds(*run, before);
        }
        Ok(())
    }

    fn pass(&mut self, block: &HeldBlock, arithmetic: &Arithmetic, cancel: &kmeans::Cancel) -> Result<()> {
        let RunPass { run, iteration, begins, .. } = &self.pass;
        let labelled = std::mem::replace(&mut self.labelled, Labelled::Unassigned);
        let bounds = self.bounds.take().filter(|_| matches!(labelled, Labelled::Known(_)));
        let mut resident = labelled.resident(block, &arithmetic.frame, cancel)?;
        resident.put_bounds(bounds);
        begins.iter().for_each(|begins| resident.begin_again(&begins.merges));
        let drift = self.drift.as_ref();
        let partial = resident.pass(&self.table, &arithmetic.scale, drift, cancel).ok_or_else(cancelled)?;
        resident.take_bounds().into_iter().for_each(|bounds| block.keep_bounds(*run, *iteration, bounds));
        block.keep_labels(*run, *iteration, resident.into_distinct_labels());
        self.total.merge(&partial);
        Ok(())
    }
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

pub(super) async fn distances(task: Task, passes: Vec<DistancesPass>) -> Result<Vec<ArrayRef>> {
    let arithmetic = task.arithmetic().await?;
    let mut tally = Tally::default();
    let run = async |pass: DistancesPass| {
        let table = task.table(&pass.centroids).await?;
        let total = vec![0; table.n_clusters()];
        Ok::<_, DataFusionError>((Arc::new(pass.is_asked_for), table, (pass.run, pass.iteration), total))
    };
    let mut runs = try_join_all(passes.into_iter().map(run)).await?;
    for url in &task.urls {
        let block = task.take(url, &mut tally).await?;
        for (is_asked_for, table, (run, iteration), total) in &mut runs {
            let labelled = Labelled::after(&task, *run, *iteration, block.labels(*run, *iteration)).await?;
            let (block, arithmetic) = (Arc::clone(&block), Arc::clone(&arithmetic));
            let (table, is_asked_for) = (Arc::clone(table), Arc::clone(is_asked_for));
            let distances = compute(move |cancel| {
                let resident = labelled.resident(&block, &arithmetic.frame, cancel)?;
                Ok(in_place::distances_of(&[resident], &table, &is_asked_for, &arithmetic.scale))
            });
            total.iter_mut().zip(distances.await?).for_each(|(total, part)| *total += part);
        }
    }
    Ok(result_rows(&task, &tally, runs.iter().map(|(.., total)| encode_distances(total))))
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

/// The one result of a task.
pub(super) fn result_row(task: &Task, tally: &Tally, result: &[u8]) -> Vec<ArrayRef> {
    result_rows(task, tally, [result])
}

/// One row for each of the runs that were asked for, in order.
pub(super) fn result_rows(
    task: &Task,
    tally: &Tally,
    results: impl IntoIterator<Item = impl AsRef<[u8]>>,
) -> Vec<ArrayRef> {
    let results = BinaryArray::from_iter_values(results);
    let n = results.len();
    let number = |x: u64| Arc::new(UInt64Array::from(vec![x; n]));
    vec![
        Arc::new(StringArray::from(vec![task.services.executor_id.as_str(); n])),
        Arc::new(UInt32Array::from_iter_values(0..n as u32)),
        number(tally.n_points),
        number(tally.n_hits),
        number(tally.n_misses),
        Arc::new(results),
    ]
}

/// One row for each set of centroids and each of its clusters that has rows here. Examples are the texts of rows, or their
/// numbers.
pub(super) async fn summarize(
    task: Task,
    keys: Vec<String>,
    documents: Vec<(String, String)>,
) -> Result<Vec<ArrayRef>> {
    let arithmetic = task.arithmetic().await?;
    let documents: HashMap<String, String> = documents.into_iter().collect();
    let mut sets = vec![];
    for key in &keys {
        let table = task.table(key).await?;
        let clusters = vec![SummaryRow::default(); table.n_clusters()];
        sets.push((table, clusters));
    }
    for url in &task.urls {
        let block = task.take(url, &mut Tally::default()).await?;
        let texts = match documents.get(url) {
            Some(url) => Some(Arc::new(Documents::read(task.stores.as_ref(), url).await?)),
            None => None,
        };
        for (table, clusters) in &mut sets {
            let found = summaries(&block, table, &arithmetic, texts.clone()).await?;
            for (total, part) in clusters.iter_mut().zip(found) {
                total.add(part, |ranked| example(&block.points, texts.as_deref(), ranked));
            }
        }
    }
    let sets = (0..).zip(sets).flat_map(|(of, (_, clusters))| (0..).zip(clusters).map(move |row| (of, row)));
    let filled: Vec<(u32, (u32, SummaryRow))> = sets.filter(|(_, (_, summary))| summary.n_points > 0).collect();
    let rows = filled.iter().map(|(_, (_, summary))| serde_json::to_string(summary).map_err(external));
    Ok(vec![
        Arc::new(UInt32Array::from_iter_values(filled.iter().map(|(of, _)| *of))),
        Arc::new(UInt32Array::from_iter_values(filled.iter().map(|(_, (cluster, _))| *cluster))),
        Arc::new(StringArray::from_iter_values(rows.collect::<Result<Vec<_>>>()?)),
    ])
}

async fn summaries(
    block: &Arc<HeldBlock>,
    table: &Arc<CentroidTable>,
    arithmetic: &Arc<Arithmetic>,
    texts: Option<Arc<Documents>>,
) -> Result<Vec<ClusterSummary>> {
    let (block, table, arithmetic) = (Arc::clone(block), Arc::clone(table), Arc::clone(arithmetic));
    let before = move |a, b| texts.as_ref().is_some_and(|texts| texts.texts.value(a) < texts.texts.value(b));
    compute(move |cancel| {
        let distinct = block.distinct(&arithmetic.frame);
        let summary = kmeans::summarize(&block.points, &distinct, &table, &arithmetic.scale, before, cancel);
        summary.ok_or_else(cancelled)
    })
    .await
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
