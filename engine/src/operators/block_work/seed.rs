//! Seeding: each task draws the rows of its blocks that may matter, and one chooses among them.

use std::sync::Arc;

use bytes::Bytes;
use covey_udfs::kmeans::{self, CentroidTable, Centroids, Distinct, Drawn, FixedPoint, Frame, Nearest, Prospects};
use covey_udfs::matrix::Points;
use datafusion::arrow::array::ArrayRef;
use datafusion::error::Result;
use url::Url;
use uuid::Uuid;

use super::fit::run_rows;
use super::iterate::{Tally, result_rows};
use super::{OversamplePass, SeedSpec, Task};
use crate::block_cache::HeldBlock;
use crate::blocks::{decode_points, encode_points};
use crate::coordinator::{Arithmetic, GIVEN, candidates_key};
use crate::external;
use crate::operators::blocks::{cancelled, compute};
use crate::operators::partial_wire::{decode_centroids, encode_drawn, encode_weights};
use crate::storage::{self, Directory};

/// Writes for each run the rows of the blocks that its seeding looks at, where there are any.
pub(super) async fn draw(task: Task, specs: Vec<SeedSpec>, directory: &str) -> Result<Vec<ArrayRef>> {
    let directory = Directory::open(task.stores.as_ref(), &Url::parse(directory).map_err(external)?)?;
    let arithmetic = task.arithmetic().await?;
    let none = |spec: &SeedSpec| Prospects::new(vec![], spec.metric);
    let (mut tally, mut of_runs) = (Tally::default(), specs.iter().map(none).collect::<Vec<_>>());
    for url in &task.urls {
        let block = task.take(url, &mut tally).await?;
        for (prospects, spec) in of_runs.iter_mut().zip(&specs) {
            let (block, frame) = (Arc::clone(&block), arithmetic.frame.clone());
            let rows = move || (Arc::clone(&block.points), block.distinct(&frame));
            *prospects = with_rows(std::mem::replace(prospects, none(spec)), rows, spec, &arithmetic).await?;
        }
    }
    let mut urls = vec![];
    for prospects in of_runs {
        let content = compute(move |_| prospects.into_points().map(|points| encode_points(&points)).transpose());
        urls.push(match content.await? {
            Some(content) => {
                let name = format!("{}.arrow", Uuid::new_v4());
                directory.put(&name, content).await?;
                directory.url_of(&name)?.to_string()
            }
            None => String::new(),
        });
    }
    Ok(result_rows(&task, &tally, urls))
}

/// Takes a pass of k-means|| for each run.
pub(super) async fn oversample(task: Task, passes: Vec<OversamplePass>) -> Result<Vec<ArrayRef>> {
    let arithmetic = task.arithmetic().await?;
    let (mut tally, mut runs) = (Tally::default(), passes.into_iter().map(Oversampling::new).collect::<Vec<_>>());
    for url in &task.urls {
        let block = task.take(url, &mut tally).await?;
        for run in &mut runs {
            run.prepare(&task, &block).await?;
        }
        let arithmetic = Arc::clone(&arithmetic);
        runs = compute(move |cancel| {
            runs.iter_mut().try_for_each(|run| run.pass(&block, &arithmetic, cancel))?;
            Ok(runs)
        })
        .await?;
    }
    let n_features = arithmetic.scale.n_features();
    Ok(result_rows(&task, &tally, runs.into_iter().map(|run| run.result(n_features))))
}

/// A run in a pass of k-means|| that it may share with others.
struct Oversampling {
    pass: OversamplePass,
    /// What was nearest to the rows of the next block, and the rounds that they have not seen since.
    nearest: Option<Nearest>,
    unseen: Vec<(usize, Arc<CentroidTable>)>,
    /// What the blocks so far give.
    drawn: Vec<Drawn>,
    weights: Vec<u64>,
}

impl Oversampling {
    fn new(pass: OversamplePass) -> Self {
        Self { pass, nearest: None, unseen: vec![], drawn: vec![], weights: vec![] }
    }

    async fn prepare(&mut self, task: &Task, block: &HeldBlock) -> Result<()> {
        let OversamplePass { run, starts, .. } = &self.pass;
        let before = starts.len().saturating_sub(1);
        self.nearest = block.take_nearest(*run, before);
        // A block that comes from elsewhere takes all rounds again.
        let from = if self.nearest.is_some() { before } else { 0 };
        self.unseen.clear();
        for (round, start) in starts.iter().enumerate().skip(from) {
            self.unseen.push((*start, task.table(&candidates_key(*run, round)).await?));
        }
        Ok(())
    }

    fn pass(&mut self, block: &HeldBlock, arithmetic: &Arithmetic, cancel: &kmeans::Cancel) -> Result<()> {
        let OversamplePass { run, seed, starts, is_last } = &self.pass;
        let (points, distinct) = (Arc::clone(&block.points), block.distinct(&arithmetic.frame));
        let mut prospects = Prospects::resumed(points, distinct, seed.metric, self.nearest.take());
        let mut n_candidates = 0;
        for (start, table) in self.unseen.drain(..) {
            n_candidates = start + table.n_clusters();
            prospects.approach(&table, start as u32, cancel).ok_or_else(cancelled)?;
        }
        if *is_last {
            self.weights.resize(n_candidates, 0);
            let weights = prospects.weights_of_candidates(n_candidates);
            self.weights.iter_mut().zip(weights).for_each(|(sum, weight)| *sum += weight);
            return Ok(());
        }
        let (params, round, n_features) = (&seed.params, starts.len(), arithmetic.scale.n_features());
        self.drawn.extend(prospects.draw_candidates(params, round, n_features, cancel).ok_or_else(cancelled)?);
        params.first_candidates(&mut self.drawn, round, n_features);
        prospects.into_nearest().into_iter().for_each(|nearest| block.keep_nearest(*run, starts.len(), nearest));
        Ok(())
    }

    fn result(self, n_features: usize) -> Bytes {
        match self.pass.is_last {
            true => encode_weights(&self.weights),
            false => encode_drawn(n_features, self.drawn),
        }
    }
}

/// Chooses among what was drawn, which is read once and not kept.
pub(super) async fn seed(task: Task, spec: SeedSpec) -> Result<Vec<ArrayRef>> {
    if let Some(given) = given(&task, &spec).await? {
        return Ok(run_rows([(&given, String::from("[]"))]));
    }
    let arithmetic = task.arithmetic().await?;
    let mut prospects = Prospects::new(vec![], spec.metric);
    for url in &task.urls {
        let points = Arc::new(decode_points(storage::get_url(task.stores.as_ref(), url).await?, url)?);
        let frame = arithmetic.frame.clone();
        let rows = move || {
            let distinct = Arc::new(Distinct::new(&points, &frame));
            (points, distinct)
        };
        prospects = with_rows(prospects, rows, &spec, &arithmetic).await?;
    }
    let work = move |cancel: &kmeans::Cancel| seed_of(prospects, &spec, &arithmetic.scale, &arithmetic.frame, cancel);
    Ok(run_rows([(&compute(work).await?, String::from("[]"))]))
}

/// Adds rows, and leaves out again what seeding does not look at.
async fn with_rows(
    mut prospects: Prospects,
    rows: impl FnOnce() -> (Arc<Points>, Arc<Distinct>) + Send + 'static,
    spec: &SeedSpec,
    arithmetic: &Arc<Arithmetic>,
) -> Result<Prospects> {
    let (params, arithmetic) = (spec.params, Arc::clone(arithmetic));
    compute(move |_| {
        let (points, distinct) = rows();
        prospects.add(points, distinct);
        Ok(prospects.narrow(&params, &arithmetic.frame))
    })
    .await
}

/// The centres that the fit has published to begin with, if it has.
pub(super) async fn given(task: &Task, spec: &SeedSpec) -> Result<Option<Centroids>> {
    match spec.given {
        true => decode_centroids(&task.fetch(GIVEN).await?).map(Some),
        false => Ok(None),
    }
}

pub(super) fn seed_of(
    prospects: Prospects,
    spec: &SeedSpec,
    scale: &FixedPoint,
    frame: &Frame,
    cancel: &kmeans::Cancel,
) -> Result<Centroids> {
    let seeds = match spec.at_most {
        true => kmeans::seed_at_most(prospects, &spec.params, scale, frame, cancel),
        false => kmeans::seed(prospects, &spec.params, scale, frame, cancel).map_err(external)?,
    };
    seeds.ok_or_else(cancelled)
}
