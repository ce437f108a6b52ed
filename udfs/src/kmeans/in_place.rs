//! A whole run over blocks in the memory of one process, on all threads of the current pool.

use rayon::prelude::*;

use super::bounds::Drift;
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
    let mut drift = Drift::new(lloyd.centroids().n_clusters(), &frame);
    let mut table = CentroidTable::new(lloyd.centroids().clone(), frame);
    let mut skipping = Skipping::default();
    while !lloyd.is_done() {
        let partial = pass(blocks, &table, lloyd.scale(), skipping.is_on().then_some(&drift), cancel)?;
        skipping.learn(&partial);
        let n_empty = lloyd.empty_clusters(&partial).len();
        let far = if n_empty > 0 { farthest_of(blocks, &table, n_empty, cancel)? } else { vec![] };
        report(lloyd.advance(&partial, &far));
        drift.add(lloyd.squared_shifts());
        table.update(lloyd.centroids(), lloyd.changed());
    }
    Some(table)
}

/// Bounds are kept once fewer than this share of the rows moved in a pass.
const MOVED_SHARE_MAX: f64 = 0.2;

/// They are given up when they spare less than this share of the rows,
const SKIPPED_SHARE_MIN: f64 = 0.3;

/// and tried again after so many passes.
const PASSES_WITHOUT_BOUNDS: usize = 4;

/// Whether bounds pay, by what they were seen to do.
#[derive(Debug, Default)]
struct Skipping {
    /// Passes with bounds in a row; the first of them only finds them.
    n_passes: usize,
    /// Passes until they are tried again.
    pause: usize,
    is_on: bool,
}

impl Skipping {
    fn is_on(&self) -> bool {
        self.is_on
    }

    fn learn(&mut self, pass: &Partial) {
        let share = |n: u64| n as f64 / pass.n_points.max(1) as f64;
        self.pause = self.pause.saturating_sub(1);
        if self.is_on {
            self.n_passes += 1;
            if self.n_passes > 1 && share(pass.n_skipped) < SKIPPED_SHARE_MIN {
                *self = Self { pause: PASSES_WITHOUT_BOUNDS, ..Self::default() };
            }
        } else if self.pause == 0 && share(pass.n_moved) < MOVED_SHARE_MAX {
            *self = Self { is_on: true, ..Self::default() };
        }
    }
}

/// One pass over several blocks.
pub fn pass(
    blocks: &mut [Resident],
    table: &CentroidTable,
    scale: &FixedPoint,
    drift: Option<&Drift>,
    cancel: &Cancel,
) -> Option<Partial> {
    let passes = blocks.par_iter_mut().map(|block| block.pass(table, scale, drift, cancel));
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
