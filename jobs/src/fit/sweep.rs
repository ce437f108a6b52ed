//! Every number of clusters of a range, and the one that the elbow speaks for.

use std::ops::RangeFrom;
use std::sync::Arc;

use covey_engine::coordinator::RUNS_AT_ONCE_MAX;
use covey_engine::external;
use covey_engine::models::{ElbowCurve, IterationRow};
use covey_engine::operators::{
    Begins, BlockWork, DistancesPass, SeedSpec, SweepSpec, Swept, decode_distances, decode_drawn,
};
use covey_udfs::kmeans::{
    Branch, CentroidTable, Centroids, FixedPoint, Frame, Iterating, IterationStats, Lloyd, LloydParams, Sample,
    SeedParams, Skipping, Spread, Sweep, SweepStep, best_of, elbow_of, first_rise, start_of,
};
use datafusion::common::exec_datafusion_err;
use datafusion::error::{DataFusionError, Result};

use super::iterate::{Running, Solution, computing, local_rows, one_result, results, runs_at_once};
use super::{Fit, LOCAL_BYTES_MAX, Prepared, VALUE_BYTES};
use crate::statements::Elbow;

/// What the sweeps of a fit share, where their passes are jobs.
struct Passes<'a> {
    urls: &'a [String],
    prepared: &'a Prepared,
    frame: Frame,
    sample: Arc<Sample>,
}

/// A sweep under way.
struct Descent {
    sweep: Sweep,
    /// Where the next runs begin.
    trunk: Option<Begins>,
    iterations: Vec<IterationRow>,
}

impl Descent {
    fn new(sweep: Sweep) -> Self {
        Self { sweep, trunk: None, iterations: vec![] }
    }

    /// The runs to solve next, named by the first of `ids`.
    fn branch(&mut self, ids: &mut impl Iterator<Item = usize>) -> Vec<Running<Branch>> {
        let runs = self.sweep.branch().into_iter().zip(ids);
        let trunk = &self.trunk;
        let run = |(branch, id): (Branch, usize)| {
            let begins = trunk.clone().map(|trunk| Begins { merges: branch.merges().to_vec(), ..trunk });
            Running::new(id, branch).after(begins)
        };
        runs.map(run).collect()
    }

    /// Takes them back.
    fn take(&mut self, solved: Vec<Running<Branch>>) {
        let end = |run: &Running<Branch>| Begins { run: run.run, iteration: run.iteration() - 1, merges: vec![] };
        self.trunk = solved.last().map(end);
        let mut branches = vec![];
        for run in solved {
            self.iterations.extend(run.iterations);
            branches.push(run.state);
        }
        self.sweep.take(branches);
    }
}

/// As many numbers of clusters share a pass as were asked for, or one where all blocks are in the memory of one executor: a
/// pass is cheap there, and each can begin where the one before ended. Never more than there is room for.
fn k_batch(elbow: Elbow, prepared: &Prepared) -> usize {
    let is_small = prepared.n_values * VALUE_BYTES <= LOCAL_BYTES_MAX;
    let asked = elbow.k_batch.unwrap_or(if is_small { 1 } else { RUNS_AT_ONCE_MAX });
    asked.min(runs_at_once(start_of(elbow.k_max), prepared))
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
        let k_batch = k_batch(elbow, prepared);
        let (centroids, curve, iterations) = match spread {
            None => self.sweep_local(elbow, k_batch, n_sample, params, urls).await?,
            Some(spread) => {
                let frame = Frame::new(&prepared.profile, &spread.mean);
                let sample = self.sample(n_sample, &frame, scale.n_features(), urls).await?;
                let passes = Passes { urls, prepared, frame, sample };
                let sweep = |init| {
                    let lloyd = Lloyd::new(params, scale.clone(), spread.clone(), init);
                    Sweep::try_new(lloyd, elbow.k_min, elbow.k_max, k_batch).map_err(external)
                };
                self.sweep_distributed(elbow, k_batch, sweep, &passes).await?
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
        k_batch: usize,
        n_sample: usize,
        lloyd: LloydParams,
        urls: &[String],
    ) -> Result<(Centroids, ElbowCurve, Vec<IterationRow>)> {
        let (Elbow { k_min, k_max, .. }, n_init) = (elbow, self.options.n_init);
        let spec = SweepSpec { seed: self.sweep_seed(elbow, 0), lloyd, k_min, k_max, k_batch, n_init, n_sample };
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

    /// Sweeps from several starting centres share passes, as far as there is room beside what each solves at once.
    async fn sweep_distributed(
        &self,
        elbow: Elbow,
        k_batch: usize,
        sweep: impl Fn(Centroids) -> Result<Sweep>,
        passes: &Passes<'_>,
    ) -> Result<(Centroids, ElbowCurve, Vec<IterationRow>)> {
        let n_runs = self.options.n_init;
        let step = (runs_at_once(start_of(elbow.k_max), passes.prepared) / k_batch).max(1);
        let (mut best, mut iterations): (Option<Vec<SweepStep>>, _) = (None, vec![]);
        // Every number of clusters is a run of its own.
        let mut ids = n_runs..;
        for runs in (0..n_runs).step_by(step).map(|run| run..n_runs.min(run + step)) {
            self.context.job.runs(runs.clone(), n_runs);
            let seeds = runs.clone().map(|run| (run, self.sweep_seed(elbow, run))).collect();
            let seeds = self.seeds(seeds, &passes.prepared.profile, passes.urls).await?;
            let descents = seeds.into_iter().map(|init| Ok(Descent::new(sweep(init)?))).collect::<Result<_>>()?;
            let descents = self.sweep_down(descents, &mut ids, passes).await?;
            for (run, descent) in runs.zip(descents) {
                let (steps, rows) = self.mend(descent, &mut ids, passes).await?;
                let row = |(i, row): (usize, IterationRow)| {
                    let stats = IterationStats { iteration: i + 1, ..row.stats };
                    IterationRow { run, stats, ..row }
                };
                iterations.extend(rows.into_iter().enumerate().map(row));
                best = Some(best_of(best, steps));
            }
        }
        let elbow = best.and_then(|steps| elbow_of(&steps));
        let (centroids, points, choice) = elbow.ok_or_else(without_solution)?;
        Ok((centroids, ElbowCurve { points, choice }, iterations))
    }

    /// Takes the same steps as a task that does all of it in place.
    async fn sweep_down(
        &self,
        mut descents: Vec<Descent>,
        ids: &mut RangeFrom<usize>,
        passes: &Passes<'_>,
    ) -> Result<Vec<Descent>> {
        loop {
            let mut names = ids.clone();
            let (branched, running) = computing(move || {
                let running: Vec<_> = descents.iter_mut().map(|descent| descent.branch(&mut names)).collect();
                (descents, running)
            })
            .await?;
            descents = branched;
            let counts: Vec<usize> = running.iter().map(Vec::len).collect();
            ids.start += counts.iter().sum::<usize>();
            let running: Vec<_> = running.into_iter().flatten().collect();
            if running.is_empty() {
                return Ok(descents);
            }
            let mut solved = self.solve(running, passes).await?.into_iter();
            for (descent, n) in descents.iter_mut().zip(counts) {
                descent.take(solved.by_ref().take(n).collect());
            }
            let trunks: Vec<usize> =
                descents.iter().flat_map(|descent| &descent.trunk).map(|trunk| trunk.run).collect();
            self.published.forget_runs(|run| !trunks.contains(&run));
        }
    }

    /// Ends a sweep.
    async fn mend(
        &self,
        descent: Descent,
        ids: &mut RangeFrom<usize>,
        passes: &Passes<'_>,
    ) -> Result<(Vec<SweepStep>, Vec<IterationRow>)> {
        let Descent { sweep, mut iterations, .. } = descent;
        let mut finished = sweep.finish().ok_or_else(without_solution)?;
        while let Some(i) = first_rise(&finished.steps) {
            let centroids = finished.steps[i - 1].centroids();
            let [below, above] = [ids.start, ids.start + 1];
            ids.start += 2;
            let far = self.farthest(&self.published.centroids(below, 0, &centroids), passes.urls, 1).await?;
            let branch = Branch::of_one(finished.from_below(&centroids, &far));
            let solved = self.solve(vec![Running::new(above, branch)], passes).await?.swap_remove(0);
            self.published.forget_runs(|run| [below, above].contains(&run));
            iterations.extend(solved.iterations);
            finished.mend(i, solved.state);
        }
        Ok((finished.steps, iterations))
    }

    /// Takes runs to their ends, and records those that are asked for.
    async fn solve(&self, running: Vec<Running<Branch>>, passes: &Passes<'_>) -> Result<Vec<Running<Branch>>> {
        let Prepared { profile, n_points, n_values, .. } = passes.prepared;
        let skipping = || Skipping::new(profile.density, *n_points, *n_values);
        let running = running.into_iter().map(|run| run.with_bounds(skipping(), &passes.frame)).collect();
        let mut solved = self.iterate_distributed(running, passes.urls).await?;
        let asked_for = solved.iter().filter(|run| run.state.is_asked_for());
        let measuring: Vec<DistancesPass> = asked_for.map(|run| self.measuring(run)).collect();
        let mut distances: Vec<Vec<i128>> = measuring.iter().map(|pass| vec![0; pass.is_asked_for.len()]).collect();
        if measuring.is_empty() {
            return Ok(solved);
        }
        let batches = self.run_blocks(BlockWork::Distances(measuring), passes.urls, self.n_partitions()).await?;
        for part in results(&batches) {
            let sums = &mut distances[part.of];
            let of_part = decode_distances(part.result, sums.len())?;
            sums.iter_mut().zip(of_part).for_each(|(sum, x)| *sum += x);
        }
        let (frame, sample) = (passes.frame.clone(), Arc::clone(&passes.sample));
        computing(move || {
            let asked_for = solved.iter_mut().filter(|run| run.state.is_asked_for());
            for (run, distances) in asked_for.zip(distances) {
                let table = CentroidTable::new(run.state.lloyd().centroids().clone(), frame.clone());
                run.state.record(&distances, sample.silhouette(&table));
            }
            solved
        })
        .await
    }

    fn measuring(&self, solved: &Running<Branch>) -> DistancesPass {
        let (run, next) = (solved.run, solved.iteration());
        DistancesPass {
            run,
            iteration: next - 1,
            centroids: self.published.centroids(run, next, solved.state.lloyd().centroids()),
            is_asked_for: solved.state.is_stale().to_vec(),
        }
    }
}

fn without_solution() -> DataFusionError {
    exec_datafusion_err!("a sweep ended without a solution")
}
