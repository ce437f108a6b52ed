//! Work that sees all blocks in one task: seeding, and a whole fit in place.

use std::sync::Arc;

use covey_udfs::kmeans::{self, Centroids, FixedPoint, Frame, IterationStats, Lloyd, Profile, Resident, in_place};
use covey_udfs::matrix::Points;
use datafusion::arrow::array::{ArrayRef, BinaryArray, StringArray};
use datafusion::error::Result;
use rayon::prelude::*;

use super::{FitSpec, SeedSpec, Task};
use crate::block_cache::HeldBlock;
use crate::coordinator::Progress;
use crate::external;
use crate::operators::blocks::{cancelled, compute};
use crate::operators::partial_wire::encode_centroids;

pub(super) async fn seed(task: Task, spec: SeedSpec) -> Result<Vec<ArrayRef>> {
    let scale = FixedPoint::new(&task.services.profile(&spec.fit).await?);
    let blocks = task.blocks().await?;
    let centroids = compute(move |cancel| seed_blocks(&blocks, &spec, &scale, cancel)).await?;
    Ok(result_row(&centroids, String::from("[]")))
}

fn seed_blocks(
    blocks: &[Arc<HeldBlock>],
    spec: &SeedSpec,
    scale: &FixedPoint,
    cancel: &kmeans::Cancel,
) -> Result<Centroids> {
    let blocks: Vec<&Points> = blocks.iter().map(|block| block.points.as_ref()).collect();
    kmeans::seed(&blocks, spec.n_clusters, spec.init, scale, spec.random_state, cancel)
        .map_err(external)?
        .ok_or_else(cancelled)
}

/// Seeds and iterates in place, and reports every iteration. The steps are those of the distributed way, taken
/// by the same [`Lloyd`], so the result has the same bits.
pub(super) async fn fit(task: Task, spec: FitSpec) -> Result<Vec<ArrayRef>> {
    let profile = task.services.profile(&spec.seed.fit).await?;
    let blocks = task.blocks().await?;
    let (reports, mut progress) = tokio::sync::mpsc::unbounded_channel();
    let fit = spec.seed.fit.clone();
    let services = Arc::clone(&task.services);
    let reporting = async move {
        while let Some(step) = progress.recv().await {
            services.coordinator.report(&fit, step).await?;
        }
        Ok(())
    };
    let computing = compute(move |cancel| {
        // The channel ends with this closure.
        let report = |step| drop(reports.send(step));
        run(&blocks, &spec, &profile, report, cancel)
    });
    let (lloyd, ()) = futures::try_join!(computing, reporting)?;
    Ok(result_row(lloyd.centroids(), serde_json::to_string(lloyd.history()).map_err(external)?))
}

fn run(
    blocks: &[Arc<HeldBlock>],
    spec: &FitSpec,
    profile: &Profile,
    report: impl Fn(Progress),
    cancel: &kmeans::Cancel,
) -> Result<Lloyd> {
    let scale = FixedPoint::new(profile);
    let points: Vec<&Points> = blocks.iter().map(|block| block.points.as_ref()).collect();
    let spread = in_place::spread_of(&points, profile.density, &scale, cancel).ok_or_else(cancelled)?;
    let frame = Frame::new(profile, &spread.mean);
    let init = seed_blocks(blocks, &spec.seed, &scale, cancel)?;
    report(Progress::Seeded);
    let resident = |block: &Arc<HeldBlock>| Resident::new(Arc::clone(&block.points), block.image(&frame));
    let mut residents: Vec<Resident> = blocks.par_iter().map(resident).collect();
    let mut lloyd = Lloyd::new(spec.lloyd, scale, spread, init);
    let iterated = |stats: &IterationStats| report(Progress::Iterated(stats.clone()));
    in_place::iterate(&mut residents, &mut lloyd, frame.clone(), iterated, cancel).ok_or_else(cancelled)?;
    Ok(lloyd)
}

fn result_row(centroids: &Centroids, history: String) -> Vec<ArrayRef> {
    vec![
        Arc::new(BinaryArray::from_vec(vec![&encode_centroids(centroids)])),
        Arc::new(StringArray::from(vec![history])),
    ]
}
