//! From blocks to centroids, as one task or as one job for each iteration, and the numbers of the result.

use std::collections::BTreeMap;

use covey_engine::external;
use covey_engine::models::{ClusterRow, ElbowCurve, Example, IterationRow, PassWork};
use covey_engine::operators::{
    BlockWork, ExampleRow, FitSpec, SeedSpec, SummaryRow, decode_centroids, decode_far_points, decode_moments,
    decode_partial,
};
use covey_udfs::kmeans::{
    Centroids, FarPoint, FixedPoint, Iterating, IterationStats, Lloyd, LloydParams, Merge, Moments, Partial,
    SeedParams, Spread,
};
use covey_udfs::matrix::{Density, WEIGHT_ONE};
use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::{UInt32Type, UInt64Type};
use datafusion::common::exec_datafusion_err;
use datafusion::error::Result;

use super::{Fit, Prepared};
use crate::statements::{FitOptions, Strategy};

/// Where rows are that seeding chooses among, below the directory of the fit.
const DRAWN: &str = "drawn";

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

/// What one pass of the distributed way gave.
struct Pass {
    partial: Partial,
    work: PassWork,
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
        let mut best: Option<Solution> = None;
        let mut all_iterations = vec![];
        for run in 0..self.options.n_init {
            self.context.job.run(run, self.options.n_init);
            let (centroids, iterations) = match &spread {
                None => self.run_local(run, &urls, params).await?,
                Some(spread) => {
                    let seeds = self.seeds(self.seed(run), &urls).await?;
                    let lloyd = Lloyd::new(params, scale.clone(), spread.clone(), seeds);
                    let (lloyd, iterations) = self.iterate_distributed(run, lloyd, vec![], &urls).await?;
                    (lloyd.centroids().clone(), iterations)
                }
            };
            let clusters = self.summarize(run, &centroids, prepared, scale, &urls).await?;
            let inertia = clusters.1;
            let n_iter = iterations.len();
            all_iterations.extend(iterations);
            if best.as_ref().is_none_or(|best| inertia < best.inertia) {
                best = Some(Solution {
                    centroids,
                    clusters: clusters.0,
                    iterations: vec![],
                    n_iter,
                    inertia,
                    elbow: None,
                });
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

    /// Seeding and all iterations as one task.
    async fn run_local(
        &self,
        run: usize,
        urls: &[String],
        params: LloydParams,
    ) -> Result<(Centroids, Vec<IterationRow>)> {
        let spec = FitSpec { seed: self.seed(run), lloyd: params };
        let batches = self.run_blocks(BlockWork::Fit(spec), urls, 1).await?;
        let (centroids, history) = one_result(&batches)?;
        let history: Vec<IterationStats> = serde_json::from_str(&history).map_err(external)?;
        Ok((centroids, local_rows(run, history)))
    }

    /// The rows that matter are drawn where the blocks are; one task chooses among them.
    pub(super) async fn seeds(&self, seed: SeedSpec, urls: &[String]) -> Result<Centroids> {
        let drawn = if seed.given { urls.to_vec() } else { self.draw(seed.clone(), urls).await? };
        let seeds = one_result(&self.run_blocks(BlockWork::Seed(seed), &drawn, 1).await?)?.0;
        // The next run draws others.
        self.directory.child(DRAWN)?.delete_all().await?;
        Ok(seeds)
    }

    async fn draw(&self, seed: SeedSpec, urls: &[String]) -> Result<Vec<String>> {
        let directory = self.directory.child(DRAWN)?.url().to_string();
        let batches = self.run_blocks(BlockWork::Draw { seed, directory }, urls, self.n_partitions()).await?;
        let files = results(&batches).map(|part| String::from_utf8(part.result.to_vec()).map_err(external));
        let files: Vec<String> = files.collect::<Result<_>>()?;
        Ok(files.into_iter().filter(|url| !url.is_empty()).collect())
    }

    /// One job for each iteration, until `state` is done. Clusters may have been merged since its last iteration.
    pub(super) async fn iterate_distributed<S: Iterating + Send + 'static>(
        &self,
        run: usize,
        mut state: S,
        mut merges: Vec<Merge>,
        urls: &[String],
    ) -> Result<(S, Vec<IterationRow>)> {
        let mut rows = vec![];
        while !state.lloyd().is_done() {
            let iteration = state.lloyd().history().len();
            let key = self.published.centroids(run, iteration, state.lloyd().centroids());
            let n_clusters = state.lloyd().centroids().n_clusters();
            let pass = self.assign(run, iteration, n_clusters, std::mem::take(&mut merges), urls).await?;
            let n_empty = state.lloyd().empty_clusters(&pass.partial).len();
            let far = if n_empty > 0 { self.farthest(&key, urls, n_empty).await? } else { vec![] };
            let Pass { partial, work } = pass;
            state = computing(move || {
                state.advance(&partial, &far);
                state
            })
            .await?;
            if let Some(stats) = state.lloyd().history().last() {
                self.context.job.iterated(stats);
                rows.push(IterationRow { run, stats: stats.clone(), work });
            }
        }
        Ok((state, rows))
    }

    async fn assign(
        &self,
        run: usize,
        iteration: usize,
        n_clusters: usize,
        merges: Vec<Merge>,
        urls: &[String],
    ) -> Result<Pass> {
        let work = BlockWork::Assign { run, iteration, merges };
        let batches = self.run_blocks(work, urls, self.n_partitions()).await?;
        let mut pass = Pass { partial: Partial::zeros(n_clusters), work: PassWork::default() };
        for part in results(&batches) {
            pass.partial.merge(&decode_partial(part.result)?);
            *pass.work.points_by_executor.entry(part.executor.to_string()).or_default() += part.points;
            pass.work.cache_hits += part.cache_hits;
            pass.work.cache_misses += part.cache_misses;
        }
        Ok(pass)
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

    /// The final numbers of each cluster, and the inertia.
    pub(super) async fn summarize(
        &self,
        run: usize,
        centroids: &Centroids,
        prepared: &Prepared,
        scale: &FixedPoint,
        urls: &[String],
    ) -> Result<(Vec<ClusterRow>, f64)> {
        let key = self.published.centroids(run, self.options.max_iter + 1, centroids);
        let documents = prepared.blocks.iter().filter_map(|(url, documents)| Some((url.clone(), documents.clone()?)));
        let work = BlockWork::Summarize { centroids: key, documents: documents.collect() };
        let batches = self.run_blocks(work, urls, self.n_partitions()).await?;
        let mut totals = vec![SummaryRow::default(); centroids.n_clusters()];
        for batch in &batches {
            let clusters = batch.column(0).as_primitive::<UInt32Type>().values();
            for (cluster, summary) in clusters.iter().zip(batch.column(1).as_string::<i32>().iter().flatten()) {
                totals[*cluster as usize].merge(serde_json::from_str(summary).map_err(external)?);
            }
        }
        let inertia = scale.inertia(totals.iter().map(|total| total.inertia).sum());
        let rows = totals.into_iter().enumerate().map(|(cluster, total)| ClusterRow {
            cluster: cluster as u32,
            size: total.weight as f64 / WEIGHT_ONE as f64,
            n_points: total.n_points,
            inertia: scale.inertia(total.inertia),
            example: total.nearest.first().map(|nearest| nearest.text.clone()),
            nearest: total.nearest.into_iter().map(example).collect(),
            farthest: total.farthest.into_iter().map(example).collect(),
        });
        Ok((rows.collect(), inertia))
    }
}

fn example(row: ExampleRow) -> Example {
    // A row without a known term lies at a distance too, but that is not what it was ranked by.
    let distance = row.squared_distance.is_finite().then(|| row.squared_distance.sqrt());
    Example { text: row.text, distance, size: row.weight as f64 / WEIGHT_ONE as f64 }
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
    points: u64,
    cache_hits: u64,
    cache_misses: u64,
    pub result: &'a [u8],
}

/// The rows of a pass.
pub(super) fn results(batches: &[RecordBatch]) -> impl Iterator<Item = Part<'_>> {
    batches.iter().flat_map(|batch| {
        let executors = batch.column(0).as_string::<i32>();
        let [points, hits, misses] = [1, 2, 3].map(|column| batch.column(column).as_primitive::<UInt64Type>());
        let results = batch.column(4).as_binary::<i32>();
        (0..batch.num_rows()).map(move |i| Part {
            executor: executors.value(i),
            points: points.value(i),
            cache_hits: hits.value(i),
            cache_misses: misses.value(i),
            result: results.value(i),
        })
    })
}

/// Centroids and history of work that ran as one task.
pub(super) fn one_result(batches: &[RecordBatch]) -> Result<(Centroids, String)> {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let Some(batch) = batches.iter().find(|batch| batch.num_rows() == 1).filter(|_| rows == 1) else {
        return Err(exec_datafusion_err!("work that runs as one task gave {rows} results"));
    };
    let centroids = decode_centroids(batch.column(0).as_binary::<i32>().value(0))?;
    Ok((centroids, batch.column(1).as_string::<i32>().value(0).to_string()))
}
