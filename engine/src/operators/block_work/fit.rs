//! Work that sees all blocks in one task: a whole fit in place, and a whole sweep over numbers of clusters.

use std::sync::Arc;

use covey_udfs::kmeans::{
    self, Awake, Centroids, FixedPoint, Frame, IterationStats, Lloyd, Profile, Prospects, Resident, Sample, SeedParams,
    Spread, Sweep, SweepStep, best_of, elbow_of, in_place,
};
use covey_udfs::matrix::Points;
use datafusion::arrow::array::{ArrayRef, BinaryArray, StringArray, UInt32Array};
use datafusion::common::exec_datafusion_err;
use datafusion::error::Result;
use rayon::prelude::*;

use super::seed::{given, seed_of};
use super::{FitSpec, SeedSpec, SweepSpec, Swept, Task};
use crate::block_cache::HeldBlock;
use crate::coordinator::Progress;
use crate::external;
use crate::operators::blocks::{cancelled, compute};
use crate::operators::partial_wire::encode_centroids;

/// Seeds and iterates in place, all runs side by side over the same rows, and reports every iteration. The steps are those
/// of the distributed way, taken by the same [`Lloyd`], so the result has the same bits.
pub(super) async fn fit(task: Task, spec: FitSpec) -> Result<Vec<ArrayRef>> {
    let given = match spec.seeds.first() {
        Some(first) => given(&task, first).await?,
        None => None,
    };
    let fit = move |held: Held, report: Report<'_>, cancel: &kmeans::Cancel| {
        let run = |seed: &SeedSpec| {
            let init = match &given {
                Some(given) => given.clone(),
                None => held.seed(seed, cancel)?,
            };
            report(Progress::Seeded);
            let mut lloyd = Lloyd::new(spec.lloyd, held.scale.clone(), held.spread.clone(), init);
            let iterated = |stats: &IterationStats| report(Progress::Iterated(stats.clone()));
            in_place::iterate(&mut held.residents(), &mut lloyd, held.frame.clone(), iterated, cancel)
                .ok_or_else(cancelled)?;
            Ok(lloyd)
        };
        spec.seeds.par_iter().map(run).collect::<Result<Vec<Lloyd>>>()
    };
    let runs = run_reporting(task, fit).await?;
    let rows = runs.iter().map(|lloyd| Ok((lloyd.centroids(), serde_json::to_string(lloyd.history())?)));
    Ok(run_rows(rows.collect::<serde_json::Result<Vec<_>>>().map_err(external)?))
}

/// Takes what a task tells of its progress.
type Report<'a> = &'a (dyn Fn(Progress) + Sync);

/// The same for a sweep.
pub(super) async fn sweep(task: Task, spec: SweepSpec) -> Result<Vec<ArrayRef>> {
    let run = move |held: Held, report: Report<'_>, cancel: &kmeans::Cancel| held.sweep(&spec, report, cancel);
    let (centroids, swept) = run_reporting(task, run).await?;
    Ok(run_rows([(&centroids, serde_json::to_string(&swept).map_err(external)?)]))
}

/// Runs work over all blocks of a fit on the threads for computing, while what it reports is passed on.
async fn run_reporting<T: Send + 'static>(
    task: Task,
    work: impl FnOnce(Held, Report<'_>, &kmeans::Cancel) -> Result<T> + Send + 'static,
) -> Result<T> {
    let profile = task.services.profile(&task.fit).await?;
    let blocks = task.blocks().await?;
    let (reports, mut progress) = tokio::sync::mpsc::unbounded_channel();
    let (services, fit) = (Arc::clone(&task.services), task.fit.as_str());
    let reporting = async move {
        while let Some(step) = progress.recv().await {
            services.coordinator.report(fit, step).await?;
        }
        Ok(())
    };
    let computing = compute(move |cancel| {
        let _awake = Awake::new();
        // The channel ends with this closure.
        let report = |step| drop(reports.send(step));
        work(Held::new(blocks, &profile, cancel)?, &report, cancel)
    });
    Ok(futures::try_join!(computing, reporting)?.0)
}

/// All blocks of a fit and how to compute with them.
struct Held {
    blocks: Vec<Arc<HeldBlock>>,
    scale: FixedPoint,
    spread: Spread,
    frame: Frame,
}

impl Held {
    fn new(blocks: Vec<Arc<HeldBlock>>, profile: &Profile, cancel: &kmeans::Cancel) -> Result<Self> {
        let scale = FixedPoint::new(profile);
        let points: Vec<&Points> = blocks.iter().map(|block| block.points.as_ref()).collect();
        let (mean, frame) = in_place::frame_of(&points, profile, &scale, cancel).ok_or_else(cancelled)?;
        let distinct: Vec<_> = blocks.par_iter().map(|block| block.distinct(&frame)).collect();
        let spread = Spread::new(mean, &in_place::squares_of(&distinct, &scale), &scale);
        Ok(Self { blocks, scale, spread, frame })
    }

    fn seed(&self, spec: &SeedSpec, cancel: &kmeans::Cancel) -> Result<Centroids> {
        let rows = |block: &Arc<HeldBlock>| (Arc::clone(&block.points), block.distinct(&self.frame));
        let prospects = Prospects::new(self.blocks.par_iter().map(rows).collect(), spec.metric);
        seed_of(prospects, spec, &self.scale, &self.frame, cancel)
    }

    /// The blocks before the first iteration.
    fn residents(&self) -> Vec<Resident> {
        let resident = |block: &Arc<HeldBlock>| Resident::new(Arc::clone(&block.points), block.distinct(&self.frame));
        self.blocks.par_iter().map(resident).collect()
    }

    fn sweep(&self, spec: &SweepSpec, report: Report<'_>, cancel: &kmeans::Cancel) -> Result<(Centroids, Swept)> {
        let (n, params) = (spec.n_sample, spec.seed.params);
        let random_state = params.random_state;
        let drawn = self.blocks.par_iter().flat_map(|block| Sample::draw(&block.points, n, random_state));
        let sample = Sample::new(drawn.collect(), n, &self.frame, self.scale.n_features());
        let (mut best, mut history): (Option<Vec<SweepStep>>, _) = (None, vec![]);
        for run in 0..spec.n_init {
            let params = SeedParams { random_state: random_state.wrapping_add(run as u64), ..params };
            let init = self.seed(&SeedSpec { params, ..spec.seed.clone() }, cancel)?;
            report(Progress::Seeded);
            let lloyd = Lloyd::new(spec.lloyd, self.scale.clone(), self.spread.clone(), init);
            let sweep = Sweep::try_new(lloyd, spec.k_min, spec.k_max, spec.k_batch).map_err(external)?;
            let iterated = |stats: &IterationStats| report(Progress::Iterated(stats.clone()));
            let (steps, stats) =
                in_place::sweep(&mut self.residents(), sweep, &sample, self.frame.clone(), iterated, cancel)
                    .ok_or_else(cancelled)?;
            history.push(stats);
            best = Some(best_of(best, steps));
        }
        let elbow = best.and_then(|steps| elbow_of(&steps));
        let (centroids, points, choice) =
            elbow.ok_or_else(|| exec_datafusion_err!("a sweep ended without a solution"))?;
        Ok((centroids, Swept { points, choice, history }))
    }
}

/// One row for each run: its centroids, and what else there is to tell.
pub(super) fn run_rows<'a>(runs: impl IntoIterator<Item = (&'a Centroids, String)>) -> Vec<ArrayRef> {
    let (centroids, told): (Vec<_>, Vec<_>) =
        runs.into_iter().map(|(centroids, told)| (encode_centroids(centroids), told)).unzip();
    vec![
        Arc::new(UInt32Array::from_iter_values(0..told.len() as u32)),
        Arc::new(BinaryArray::from_iter_values(centroids)),
        Arc::new(StringArray::from(told)),
    ]
}
