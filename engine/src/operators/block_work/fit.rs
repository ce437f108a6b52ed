//! Work that sees all blocks in one task: seeding, and a whole fit in place.

use std::sync::Arc;

use covey_udfs::kmeans::{self, CentroidTable, Centroids, FixedPoint, Lloyd, LloydParams, Partial};
use covey_udfs::matrix::Points;
use datafusion::arrow::array::{ArrayRef, BinaryArray, StringArray};
use datafusion::error::Result;

use super::iterate::{farthest_of, scale};
use super::{FitSpec, SeedSpec, Task};
use crate::coordinator::Progress;
use crate::external;
use crate::operators::blocks::{cancelled, compute};
use crate::operators::partial_wire::encode_centroids;

pub(super) async fn seed(task: Task, spec: SeedSpec) -> Result<Vec<ArrayRef>> {
    let scale = scale(&task, &spec.fit).await?;
    let blocks = task.points().await?;
    let centroids = compute(move |cancel| seed_blocks(&blocks, &spec, &scale, cancel)).await?;
    Ok(result_row(&centroids, String::from("[]")))
}

fn seed_blocks(
    blocks: &[Arc<Points>],
    spec: &SeedSpec,
    scale: &FixedPoint,
    cancel: &kmeans::Cancel,
) -> Result<Centroids> {
    let blocks: Vec<&Points> = blocks.iter().map(AsRef::as_ref).collect();
    kmeans::seed(&blocks, spec.n_clusters, spec.init, scale, spec.random_state, cancel)
        .map_err(external)?
        .ok_or_else(cancelled)
}

/// Seeds and iterates in place, and reports every iteration. The steps are those of the distributed way, taken
/// by the same [`Lloyd`], so the result has the same bits.
pub(super) async fn fit(task: Task, spec: FitSpec) -> Result<Vec<ArrayRef>> {
    let scale = scale(&task, &spec.seed.fit).await?;
    let blocks = task.points().await?;
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
        let init = seed_blocks(&blocks, &spec.seed, &scale, cancel)?;
        let _ = reports.send(Progress::Seeded);
        let params = LloydParams { max_iter: spec.max_iter, squared_shift_min: spec.squared_shift_min };
        let mut lloyd = Lloyd::new(params, scale, init);
        while !lloyd.is_done() {
            let step = iterate(&blocks, &mut lloyd, cancel)?;
            let _ = reports.send(Progress::Iterated(step));
        }
        Ok(lloyd)
    });
    let (lloyd, ()) = futures::try_join!(computing, reporting)?;
    Ok(result_row(lloyd.centroids(), serde_json::to_string(lloyd.history()).map_err(external)?))
}

fn iterate(blocks: &[Arc<Points>], lloyd: &mut Lloyd, cancel: &kmeans::Cancel) -> Result<kmeans::IterationStats> {
    let table = CentroidTable::new(lloyd.centroids());
    let mut total = Partial::zeros(table.n_clusters(), lloyd.scale().n_features());
    for points in blocks {
        total.merge(&kmeans::assign(points, &table, lloyd.scale(), cancel).ok_or_else(cancelled)?);
    }
    let n_empty = total.empty_clusters().len();
    let far = if n_empty > 0 { farthest_of(blocks, &table, n_empty, cancel)? } else { vec![] };
    Ok(lloyd.advance(total, &far).clone())
}

fn result_row(centroids: &Centroids, history: String) -> Vec<ArrayRef> {
    vec![
        Arc::new(BinaryArray::from_vec(vec![&encode_centroids(centroids)])),
        Arc::new(StringArray::from(vec![history])),
    ]
}
