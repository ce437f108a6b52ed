//! A whole run over blocks in the memory of one process, on all threads of the current pool.

use rayon::prelude::*;

use super::{
    Cancel, CentroidTable, FarPoint, FixedPoint, Frame, IterationStats, Lloyd, Moments, Partial, Resident, Spread,
    farthest, moments,
};
use crate::matrix::{Density, Points};

/// The moments of several blocks, around `mean` or, where it is empty, around zero. `None` when cancelled.
pub fn moments_of(blocks: &[&Points], mean: &[f64], scale: &FixedPoint, cancel: &Cancel) -> Option<Moments> {
    blocks.par_iter().map(|block| moments(block, mean, scale, cancel)).try_reduce(Moments::default, |mut a, b| {
        a.merge(&b);
        Some(a)
    })
}

/// Where the rows of several blocks lie. `None` when cancelled.
pub fn spread_of(blocks: &[&Points], density: Density, scale: &FixedPoint, cancel: &Cancel) -> Option<Spread> {
    let mean = match density {
        Density::Sparse => vec![],
        Density::Dense => Spread::mean(density, &moments_of(blocks, &[], scale, cancel)?, scale),
    };
    let moments = moments_of(blocks, &mean, scale, cancel)?;
    Some(Spread::new(mean, &moments, scale))
}

/// Takes passes over `blocks` until `lloyd` is done, tells `report` of each, and gives the table of the last centres.
/// `None` when cancelled.
pub fn iterate(
    blocks: &mut [Resident],
    lloyd: &mut Lloyd,
    frame: Frame,
    report: impl Fn(&IterationStats),
    cancel: &Cancel,
) -> Option<CentroidTable> {
    let mut table = CentroidTable::new(lloyd.centroids().clone(), frame);
    while !lloyd.is_done() {
        let partial = pass(blocks, &table, lloyd.scale(), cancel)?;
        let n_empty = lloyd.empty_clusters(&partial).len();
        let far = if n_empty > 0 { farthest_of(blocks, &table, n_empty, cancel)? } else { vec![] };
        report(lloyd.advance(&partial, &far));
        table.update(lloyd.centroids(), lloyd.changed());
    }
    Some(table)
}

/// One pass over several blocks.
pub fn pass(blocks: &mut [Resident], table: &CentroidTable, scale: &FixedPoint, cancel: &Cancel) -> Option<Partial> {
    let passes = blocks.par_iter_mut().map(|block| block.pass(table, scale, cancel));
    let merged = passes.try_reduce_with(|mut a, b| {
        a.merge(&b);
        Some(a)
    });
    merged.unwrap_or_else(|| Some(Partial::zeros(table.n_clusters())))
}

/// The `n` farthest rows of several blocks, farthest first.
pub fn farthest_of(blocks: &[Resident], table: &CentroidTable, n: usize, cancel: &Cancel) -> Option<Vec<FarPoint>> {
    let mut far = vec![];
    for block in blocks {
        far.extend(farthest(&block.points, &block.image, table, n, cancel)?);
    }
    FarPoint::sort(&mut far);
    far.truncate(n);
    Some(far)
}
