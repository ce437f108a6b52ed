//! Every number of clusters of a range, and the one that the elbow speaks for.

use std::sync::Arc;

use covey_engine::external;
use covey_engine::models::{ElbowCurve, IterationRow};
use covey_engine::operators::{BlockWork, SeedSpec, SweepSpec, Swept, decode_distances, decode_drawn};
use covey_udfs::kmeans::{
    CentroidTable, Centroids, FixedPoint, Frame, Iterating, Lloyd, LloydParams, Profile, Sample, SeedParams, Spread,
    Sweep, SweepStep, best_of, elbow_of, first_rise, start_of,
};
use datafusion::common::exec_datafusion_err;
use datafusion::error::Result;

use super::iterate::{Running, Solution, computing, local_rows, one_result, results};
use super::{Fit, Prepared};
use crate::statements::Elbow;

/// What the sweeps of a fit share, where their passes are jobs.
struct Passes<'a> {
    urls: &'a [String],
    profile: &'a Profile,
    frame: Frame,
    sample: Arc<Sample>,
}

impl Fit<'_> {
    /// All numbers of clusters, as one task where `spread` is none.
    pub(super) async fn sweep(
        &self,
        elbow: Elbow,
        prepared: &Prepared,
        scale: &FixedPoint,
        spread: Option<Spread>,
        params: LloydParams,
        urls: &[String],
    ) -> Result<Solution> {
        let n_sample = Sample::size(prepared.n_points, prepared.n_values);
        let (centroids, curve, iterations) = match spread {
            None => self.sweep_local(elbow, n_sample, params, urls).await?,
            Some(spread) => {
                let frame = Frame::new(&prepared.profile, &spread.mean);
                let sample = self.sample(n_sample, &frame, scale.n_features(), urls).await?;
                let passes = Passes { urls, profile: &prepared.profile, frame, sample };
                self.sweep_distributed(elbow, scale, &spread, params, &passes).await?
            }
        };
        let chosen = curve.points.iter().find(|point| point.n_clusters == curve.choice.n_clusters());
        let n_iter = chosen.map_or(0, |point| point.n_iter);
        let mut summaries = self.summarize(self.options.n_init, &[&centroids], prepared, scale, urls).await?;
        let (clusters, inertia) = summaries.swap_remove(0);
        Ok(Solution { centroids, clusters, iterations, n_iter, inertia, elbow: Some(curve) })
    }

    fn sweep_seed(&self, elbow: Elbow, run: usize) -> SeedSpec {
        let seed = self.seed(run);
        SeedSpec { params: SeedParams { n_clusters: start_of(elbow.k_max), ..seed.params }, at_most: true, ..seed }
    }

    async fn sweep_local(
        &self,
        elbow: Elbow,
        n_sample: usize,
        lloyd: LloydParams,
        urls: &[String],
    ) -> Result<(Centroids, ElbowCurve, Vec<IterationRow>)> {
        let Elbow { k_min, k_max } = elbow;
        let spec =
            SweepSpec { seed: self.sweep_seed(elbow, 0), lloyd, k_min, k_max, n_init: self.options.n_init, n_sample };
        let batches = self.run_blocks(BlockWork::Sweep(spec), urls, 1).await?;
        let (centroids, swept) = one_result(&batches)?;
        let Swept { points, choice, history } = serde_json::from_str(&swept).map_err(external)?;
        let rows = history.into_iter().enumerate().flat_map(|(run, history)| local_rows(run, history));
        Ok((centroids, ElbowCurve { points, choice }, rows.collect()))
    }

    async fn sample(&self, n: usize, frame: &Frame, n_features: usize, urls: &[String]) -> Result<Arc<Sample>> {
        let work = BlockWork::Sample { n, random_state: self.options.random_state };
        let mut drawn = vec![];
        for part in results(&self.run_blocks(work, urls, self.n_partitions()).await?) {
            drawn.extend(decode_drawn(part.result)?);
        }
        Ok(Arc::new(Sample::new(drawn, n, frame, n_features)))
    }

    async fn sweep_distributed(
        &self,
        elbow: Elbow,
        scale: &FixedPoint,
        spread: &Spread,
        params: LloydParams,
        passes: &Passes<'_>,
    ) -> Result<(Centroids, ElbowCurve, Vec<IterationRow>)> {
        let (mut best, mut iterations): (Option<Vec<SweepStep>>, _) = (None, vec![]);
        for run in 0..self.options.n_init {
            self.context.job.runs(run..run + 1, self.options.n_init);
            let seeds = vec![(run, self.sweep_seed(elbow, run))];
            let init = self.seeds(seeds, passes.profile, passes.urls).await?.swap_remove(0);
            let lloyd = Lloyd::new(params, scale.clone(), spread.clone(), init);
            let sweep = Sweep::try_new(lloyd, elbow.k_min, elbow.k_max).map_err(external)?;
            let steps = self.sweep_down(run, sweep, passes, &mut iterations).await?;
            best = Some(best_of(best, steps));
        }
        let elbow = best.and_then(|steps| elbow_of(&steps));
        let (centroids, points, choice) =
            elbow.ok_or_else(|| exec_datafusion_err!("a sweep ended without a solution"))?;
        Ok((centroids, ElbowCurve { points, choice }, iterations))
    }

    /// One run of a sweep: the same steps as those of a task that does all of it in place.
    async fn sweep_down(
        &self,
        run: usize,
        mut sweep: Sweep,
        passes: &Passes<'_>,
        iterations: &mut Vec<IterationRow>,
    ) -> Result<Vec<SweepStep>> {
        let mut merges = vec![];
        loop {
            let running = Running::new(run, sweep).after(merges);
            let solved = self.iterate_one(running, passes.urls, iterations).await?;
            sweep = if solved.is_asked_for() { self.record(run, solved, passes).await? } else { solved };
            let (merged, merge) = computing(move || {
                let merge = sweep.merge();
                (sweep, merge)
            })
            .await?;
            sweep = merged;
            match merge {
                Some(merge) => merges = vec![merge],
                None => break,
            }
        }
        let mut finished = sweep.finish();
        let mut mending_run = self.options.n_init;
        while let Some(i) = first_rise(&finished.steps) {
            let centroids = finished.steps[i - 1].centroids();
            mending_run += 1;
            let key = self.published.centroids(mending_run, 0, &centroids);
            let far = self.farthest(&key, passes.urls, 1).await?;
            mending_run += 1;
            let lloyd = finished.from_below(&centroids, &far);
            let mut rows = vec![];
            let lloyd = self.iterate_one(Running::new(mending_run, lloyd), passes.urls, &mut rows).await?;
            iterations.extend(rows.into_iter().map(|row| IterationRow { run, ..row }));
            finished.mend(i, self.record(mending_run, Sweep::of_one(lloyd), passes).await?);
        }
        Ok(finished.steps)
    }

    async fn iterate_one<S: Iterating + Send + 'static>(
        &self,
        running: Running<S>,
        urls: &[String],
        iterations: &mut Vec<IterationRow>,
    ) -> Result<S> {
        let run = self.iterate_distributed(vec![running], urls).await?.swap_remove(0);
        iterations.extend(run.iterations);
        Ok(run.state)
    }

    /// Measures the solution that `sweep` has come to, and records it.
    async fn record(&self, run: usize, mut sweep: Sweep, passes: &Passes<'_>) -> Result<Sweep> {
        let centroids = sweep.lloyd().centroids().clone();
        let work = BlockWork::Distances {
            run,
            iteration: sweep.lloyd().history().len() - 1,
            centroids: self.published.solution(run, &centroids),
            is_asked_for: sweep.is_stale().to_vec(),
        };
        let mut distances = vec![0_i128; centroids.n_clusters()];
        for part in results(&self.run_blocks(work, passes.urls, self.n_partitions()).await?) {
            let of_part = decode_distances(part.result, distances.len())?;
            distances.iter_mut().zip(of_part).for_each(|(sum, x)| *sum += x);
        }
        let (frame, sample) = (passes.frame.clone(), Arc::clone(&passes.sample));
        computing(move || {
            sweep.record(&distances, sample.silhouette(&CentroidTable::new(centroids, frame)));
            sweep
        })
        .await
    }
}
