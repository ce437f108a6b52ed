//! From blocks to centroids, as one task or as one job for each iteration, and the numbers of the result.

use std::collections::BTreeMap;
use std::ops::Range;

use covey_engine::coordinator::{RUNS_AT_ONCE_MAX, centroids_key};
use covey_engine::external;
use covey_engine::models::{ClusterRow, ElbowCurve, Example, IterationRow, PassWork};
use covey_engine::operators::{
    Begins, BlockWork, ExampleRow, FitSpec, RunPass, SeedSpec, SummaryRow, decode_centroids, decode_far_points,
    decode_moments, decode_partial,
};
use covey_udfs::kmeans::{
    Centroids, DistanceSum, Drift, FarPoint, FixedPoint, Frame, Iterating, IterationStats, Lloyd, LloydParams, Moments,
    Partial, SeedParams, Skipping, Spread,
};
use covey_udfs::matrix::{Density, WEIGHT_ONE};
use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::{UInt32Type, UInt64Type};
use datafusion::common::exec_datafusion_err;
use datafusion::error::Result;
use futures::future::try_join_all;

use super::{Fit, Prepared, VALUE_BYTES};
use crate::statements::{FitOptions, Strategy};

/// Most coordinates of all centres of the runs that share passes, those of a sweep included: what the scheduler and a local fit hold of them takes some
/// 64 bytes for each.
const RUNS_COORDINATES_MAX: usize = 1 << 25;

/// The label of a row and its bounds, which each of the runs that share passes keeps beside the blocks.
const BESIDE_ROW_BYTES: u64 = 16;

/// Of all runs together they take so many bytes at most, over all executors, or this part of what the blocks take, if that is
/// more.
const BESIDE_BYTES_FREE: u64 = 256 << 20;
const BESIDE_SHARE: u64 = 2;

/// The best of the runs.
pub(super) struct Solution {
    pub centroids: Centroids,
    pub clusters: Vec<ClusterRow>,
    /// Of all runs.
    pub iterations: Vec<IterationRow>,
    pub n_iter: usize,
    pub inertia: f64,
    pub elbow: Option<ElbowCurve>,
}

/// A run whose passes are jobs.
pub(super) struct Running<S> {
    pub run: usize,
    pub state: S,
    /// Where it begins, if not by itself. Gone with the first iteration.
    begins: Option<Begins>,
    pub iterations: Vec<IterationRow>,
    /// When bounds are kept, and how far centres have moved; none where they never are.
    skipping: Option<(Skipping, Drift)>,
}

impl<S: Iterating> Running<S> {
    pub fn new(run: usize, state: S) -> Self {
        Self { run, state, begins: None, iterations: vec![], skipping: None }
    }

    /// The same, going on from another run.
    pub fn after(self, begins: Option<Begins>) -> Self {
        Self { begins, ..self }
    }

    /// The same, with bounds where they pay.
    pub fn with_bounds(self, skipping: Skipping, frame: &Frame) -> Self {
        let drift = Drift::new(self.state.lloyd().centroids().n_clusters(), frame);
        Self { skipping: Some((skipping, drift)), ..self }
    }

    /// How far centres have moved, if the next pass keeps bounds.
    fn drift(&self) -> Option<&Drift> {
        self.skipping.as_ref().filter(|(skipping, _)| skipping.is_on()).map(|(_, drift)| drift)
    }

    fn advance(&mut self, partial: Partial, far: &[FarPoint]) {
        self.skipping.iter_mut().for_each(|(skipping, _)| skipping.learn(&partial));
        self.state.advance(partial, far);
        self.skipping.iter_mut().for_each(|(_, drift)| drift.add(self.state.lloyd().squared_shifts()));
    }

    /// The iteration to come, counted from 0.
    pub fn iteration(&self) -> usize {
        self.state.lloyd().history().len()
    }

    fn pass(&mut self) -> RunPass {
        let begins = self.begins.take();
        RunPass { run: self.run, iteration: self.iteration(), begins, has_bounds: self.drift().is_some() }
    }
}

/// What one pass of the distributed way gave a run.
struct Pass {
    partial: Partial,
    work: PassWork,
}

impl Pass {
    fn zeros(n_clusters: usize) -> Self {
        Self { partial: Partial::zeros(n_clusters), work: PassWork::default() }
    }
}

impl Fit<'_> {
    pub(super) async fn iterate(
        &self,
        prepared: &Prepared,
        scale: &FixedPoint,
        strategy: Strategy,
    ) -> Result<Solution> {
        let urls: Vec<String> = prepared.blocks.iter().map(|(url, _)| url.clone()).collect();
        let spread = self.spread(&urls, scale, prepared.profile.density, strategy).await?;
        let FitOptions { metric, max_iter, tol, .. } = *self.options;
        let params = LloydParams { metric, max_iter, tol };
        if let Some(elbow) = self.options.elbow {
            return self.sweep(elbow, prepared, scale, spread, params, &urls).await;
        }
        let (mut best, mut all_iterations): (Option<Solution>, _) = (None, vec![]);
        let n_runs = self.options.n_init;
        let step = runs_at_once(self.options.n_clusters, prepared);
        for runs in (0..n_runs).step_by(step).map(|run| run..n_runs.min(run + step)) {
            self.context.job.runs(runs.clone(), n_runs);
            let found = match &spread {
                None => self.run_local(runs.clone(), &urls, params).await?,
                Some(spread) => {
                    let seeds = runs.clone().map(|run| (run, self.seed(run))).collect();
                    let seeds = self.seeds(seeds, &prepared.profile, &urls).await?;
                    let lloyd = |seeds| Lloyd::new(params, scale.clone(), spread.clone(), seeds);
                    let Prepared { profile, n_points, n_values, .. } = prepared;
                    let frame = Frame::new(profile, &spread.mean);
                    let skipping = || Skipping::new(profile.density, *n_points, *n_values);
                    let running = runs.clone().zip(seeds).map(|(run, seeds)| Running::new(run, lloyd(seeds)));
                    let running = running.map(|run| run.with_bounds(skipping(), &frame));
                    let found = self.iterate_distributed(running.collect(), &urls).await?;
                    found.into_iter().map(|run| (run.state.centroids().clone(), run.iterations)).collect()
                }
            };
            let centroids: Vec<&Centroids> = found.iter().map(|(centroids, _)| centroids).collect();
            let summaries = self.summarize(runs.start, &centroids, prepared, scale, &urls).await?;
            for ((centroids, iterations), (clusters, inertia)) in found.into_iter().zip(summaries) {
                let n_iter = iterations.len();
                all_iterations.extend(iterations);
                if best.as_ref().is_none_or(|best| inertia < best.inertia) {
                    best = Some(Solution { centroids, clusters, iterations: vec![], n_iter, inertia, elbow: None });
                }
            }
        }
        let mut best = best.ok_or_else(|| exec_datafusion_err!("a fit ended without a run"))?;
        best.iterations = all_iterations;
        Ok(best)
    }

    pub(super) fn seed(&self, run: usize) -> SeedSpec {
        let params = SeedParams {
            n_clusters: self.options.n_clusters,
            init: self.options.init,
            random_state: self.options.random_state.wrapping_add(run as u64),
        };
        SeedSpec { params, metric: self.options.metric, given: self.options.given.is_some(), at_most: false }
    }

    /// The spread of all rows, by a pass over them; dense rows take one before it, for their mean. Where all iterations run as
    /// one task, that task finds out by itself, and only the mean of dense rows is published for the passes that follow.
    async fn spread(
        &self,
        urls: &[String],
        scale: &FixedPoint,
        density: Density,
        strategy: Strategy,
    ) -> Result<Option<Spread>> {
        let is_local = strategy == Strategy::Local;
        if is_local && density == Density::Sparse {
            return Ok(None);
        }
        let mut mean = vec![];
        if density == Density::Dense {
            mean = Spread::mean(&self.moments(urls, false).await?, scale);
            self.published.mean(&mean)?;
            if is_local {
                return Ok(None);
            }
        }
        Ok(Some(Spread::new(mean, &self.moments(urls, true).await?, scale)))
    }

    async fn moments(&self, urls: &[String], around_mean: bool) -> Result<Moments> {
        let work = BlockWork::Moments { around_mean };
        let batches = self.run_blocks(work, urls, self.n_partitions()).await?;
        let mut moments = Moments::default();
        for part in results(&batches) {
            moments.merge(&decode_moments(part.result)?);
        }
        Ok(moments)
    }

    /// Seeding and all iterations of some runs as one task.
    async fn run_local(
        &self,
        runs: Range<usize>,
        urls: &[String],
        lloyd: LloydParams,
    ) -> Result<Vec<(Centroids, Vec<IterationRow>)>> {
        let spec = FitSpec { seeds: runs.clone().map(|run| self.seed(run)).collect(), lloyd };
        let batches = self.run_blocks(BlockWork::Fit(spec), urls, 1).await?;
        let rows = |(run, (centroids, history)): (usize, (Centroids, String))| {
            let history: Vec<IterationStats> = serde_json::from_str(&history).map_err(external)?;
            Ok((centroids, local_rows(run, history)))
        };
        runs.clone().zip(run_results(&batches, runs.len())?).map(rows).collect()
    }

    /// One job for each iteration, which all runs share, until their states are done. Labels are kept of all of them.
    pub(super) async fn iterate_distributed<S: Iterating + Send + 'static>(
        &self,
        mut running: Vec<Running<S>>,
        urls: &[String],
    ) -> Result<Vec<Running<S>>> {
        let mut done = vec![];
        loop {
            done.extend(running.extract_if(.., |run| run.state.lloyd().is_done()));
            if running.is_empty() {
                done.sort_by_key(|run| run.run);
                return Ok(done);
            }
            let ended = done.iter().map(|run: &Running<S>| run.run).collect();
            let passes = self.assign(&mut running, ended, urls).await?;
            let steps = running.into_iter().zip(passes).map(|(run, pass)| self.advance(run, pass, urls));
            running = try_join_all(steps).await?;
        }
    }

    async fn assign<S: Iterating>(
        &self,
        running: &mut [Running<S>],
        kept: Vec<usize>,
        urls: &[String],
    ) -> Result<Vec<Pass>> {
        for run in &*running {
            self.published.centroids(run.run, run.iteration(), run.state.lloyd().centroids());
            run.drift().into_iter().for_each(|drift| self.published.drift(run.run, run.iteration(), drift));
        }
        let zeros = |run: &Running<S>| Pass::zeros(run.state.lloyd().centroids().n_clusters());
        let mut passes: Vec<Pass> = running.iter().map(zeros).collect();
        let work = BlockWork::Assign { passes: running.iter_mut().map(Running::pass).collect(), kept };
        let batches = self.run_blocks(work, urls, self.n_partitions()).await?;
        for part in results(&batches) {
            let pass = &mut passes[part.of];
            let partial = decode_partial(part.result)?;
            pass.partial.merge(&partial);
            pass.work.skipped += partial.n_skipped;
            *pass.work.points_by_executor.entry(part.executor.to_string()).or_default() += part.points;
            pass.work.cache_hits += part.cache_hits;
            pass.work.cache_misses += part.cache_misses;
        }
        Ok(passes)
    }

    /// Ends an iteration of a run.
    async fn advance<S: Iterating + Send + 'static>(
        &self,
        mut run: Running<S>,
        pass: Pass,
        urls: &[String],
    ) -> Result<Running<S>> {
        let key = centroids_key(run.run, run.iteration());
        let n_empty = run.state.lloyd().empty_clusters(&pass.partial).len();
        let far = if n_empty > 0 { self.farthest(&key, urls, n_empty).await? } else { vec![] };
        let Pass { partial, work } = pass;
        run = computing(move || {
            run.advance(partial, &far);
            run
        })
        .await?;
        if let Some(stats) = run.state.lloyd().history().last() {
            self.context.job.iterated(stats);
            run.iterations.push(IterationRow { run: run.run, stats: stats.clone(), work });
        }
        Ok(run)
    }

    pub(super) async fn farthest(&self, key: &str, urls: &[String], n: usize) -> Result<Vec<FarPoint>> {
        let work = BlockWork::Farthest { centroids: key.to_string(), n };
        let batches = self.run_blocks(work, urls, self.n_partitions()).await?;
        let mut far = vec![];
        for part in results(&batches) {
            far.extend(decode_far_points(part.result)?);
        }
        FarPoint::sort(&mut far);
        far.truncate(n);
        Ok(far)
    }

    /// For each run, from the first one on, the final numbers of each cluster and the inertia.
    pub(super) async fn summarize(
        &self,
        first_run: usize,
        runs: &[&Centroids],
        prepared: &Prepared,
        scale: &FixedPoint,
        urls: &[String],
    ) -> Result<Vec<(Vec<ClusterRow>, f64)>> {
        let keys =
            (first_run..).zip(runs).map(|(run, of)| self.published.centroids(run, self.options.max_iter + 1, of));
        let documents = prepared.blocks.iter().filter_map(|(url, documents)| Some((url.clone(), documents.clone()?)));
        let work = BlockWork::Summarize { centroids: keys.collect(), documents: documents.collect() };
        let batches = self.run_blocks(work, urls, self.n_partitions()).await?;
        let zeros = |of: &&Centroids| vec![SummaryRow::default(); of.n_clusters()];
        let mut totals: Vec<Vec<SummaryRow>> = runs.iter().map(zeros).collect();
        for batch in &batches {
            let [of, clusters] = [0, 1].map(|column| batch.column(column).as_primitive::<UInt32Type>().values());
            let summaries = batch.column(2).as_string::<i32>().iter().flatten();
            for ((of, cluster), summary) in of.iter().zip(clusters).zip(summaries) {
                totals[*of as usize][*cluster as usize].merge(serde_json::from_str(summary).map_err(external)?);
            }
        }
        Ok(totals.into_iter().map(|totals| cluster_rows(totals, scale)).collect())
    }
}

fn cluster_rows(totals: Vec<SummaryRow>, scale: &FixedPoint) -> (Vec<ClusterRow>, f64) {
    let mut inertia = DistanceSum::default();
    totals.iter().for_each(|total| inertia.merge(total.inertia));
    let rows = totals.into_iter().enumerate().map(|(cluster, total)| ClusterRow {
        cluster: cluster as u32,
        size: total.weight as f64 / WEIGHT_ONE as f64,
        n_points: total.n_points,
        inertia: scale.inertia_of(total.inertia),
        example: total.nearest.first().map(|nearest| nearest.text.clone()),
        nearest: total.nearest.into_iter().map(example).collect(),
        farthest: total.farthest.into_iter().map(example).collect(),
    });
    (rows.collect(), scale.inertia_of(inertia))
}

fn example(row: ExampleRow) -> Example {
    // A row without a known term lies at a distance too, but that is not what it was ranked by.
    let distance = row.squared_distance.is_finite().then(|| row.squared_distance.sqrt());
    Example { text: row.text, distance, size: row.weight as f64 / WEIGHT_ONE as f64 }
}

/// As many runs share each pass as there is room for: of their centres, and beside the blocks.
pub(super) fn runs_at_once(n_clusters: usize, prepared: &Prepared) -> usize {
    let coordinates = n_clusters.saturating_mul(prepared.profile.n_features()).max(1);
    let beside = prepared.n_points.saturating_mul(BESIDE_ROW_BYTES).max(1);
    let room = BESIDE_BYTES_FREE.max(prepared.n_values.saturating_mul(VALUE_BYTES) / BESIDE_SHARE);
    let runs = (RUNS_COORDINATES_MAX / coordinates).min((room / beside) as usize);
    runs.clamp(1, RUNS_AT_ONCE_MAX)
}

/// Seconds of a core where centres are wide: not on the threads that serve.
pub(super) async fn computing<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(external)
}

/// The iterations of a run that was one task.
pub(super) fn local_rows(run: usize, history: Vec<IterationStats>) -> Vec<IterationRow> {
    let row = |stats: IterationStats| {
        let points_by_executor = BTreeMap::from([("local".to_string(), stats.n_points)]);
        IterationRow { run, stats, work: PassWork { points_by_executor, ..PassWork::default() } }
    };
    history.into_iter().map(row).collect()
}

/// What one task of a pass gave.
pub(super) struct Part<'a> {
    executor: &'a str,
    /// For which of the runs that were asked for.
    pub of: usize,
    points: u64,
    cache_hits: u64,
    cache_misses: u64,
    pub result: &'a [u8],
}

/// The rows of a pass.
pub(super) fn results(batches: &[RecordBatch]) -> impl Iterator<Item = Part<'_>> {
    batches.iter().flat_map(|batch| {
        let executors = batch.column(0).as_string::<i32>();
        let of = batch.column(1).as_primitive::<UInt32Type>();
        let [points, hits, misses] = [2, 3, 4].map(|column| batch.column(column).as_primitive::<UInt64Type>());
        let results = batch.column(5).as_binary::<i32>();
        (0..batch.num_rows()).map(move |i| Part {
            executor: executors.value(i),
            of: of.value(i) as usize,
            points: points.value(i),
            cache_hits: hits.value(i),
            cache_misses: misses.value(i),
            result: results.value(i),
        })
    })
}

/// Centroids of each run, and what else is told of it, of work that ran as one task. Large ones come in batches of their own.
pub(super) fn run_results(batches: &[RecordBatch], n_runs: usize) -> Result<Vec<(Centroids, String)>> {
    let of_batch = |batch: &RecordBatch| -> Result<Vec<(u32, (Centroids, String))>> {
        let of = batch.column(0).as_primitive::<UInt32Type>().values().to_vec();
        let (centroids, told) = (batch.column(1).as_binary::<i32>(), batch.column(2).as_string::<i32>());
        let run = |(i, of)| Ok((of, (decode_centroids(centroids.value(i))?, told.value(i).to_string())));
        of.into_iter().enumerate().map(run).collect()
    };
    let mut runs: Vec<_> = batches.iter().map(of_batch).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    if runs.len() != n_runs {
        return Err(exec_datafusion_err!("work that runs as one task gave {} results, and not {n_runs}", runs.len()));
    }
    runs.sort_by_key(|(of, _)| *of);
    Ok(runs.into_iter().map(|(_, run)| run).collect())
}

/// The same of work for one run.
pub(super) fn one_result(batches: &[RecordBatch]) -> Result<(Centroids, String)> {
    run_results(batches, 1).map(|mut runs| runs.swap_remove(0))
}
