//! A whole run over blocks in the memory of one process, on all threads of the current pool.

use std::sync::Arc;

use rayon::prelude::*;

use super::bounds::Drift;
use super::skipping::Skipping;
use super::sweep::{Branch, Merge, Sample, Sweep, SweepStep, distances_to_centres, first_rise};
use super::{
    Cancel, CentroidTable, Distinct, FarPoint, FixedPoint, Frame, Iterating, IterationStats, Lloyd, Moments, Partial,
    Profile, Resident, Spread, farthest, squares, totals,
};
use crate::matrix::{Density, Points};

/// Σ w·x over several blocks of dense rows. `None` when cancelled.
pub fn totals_of(blocks: &[&Points], scale: &FixedPoint, cancel: &Cancel) -> Option<Moments> {
    blocks.par_iter().map(|block| totals(block, scale, cancel)).try_reduce(Moments::default, |mut a, b| {
        a.merge(&b);
        Some(a)
    })
}

/// Σ w·‖x − shift‖² over several blocks.
pub fn squares_of(blocks: &[Arc<Distinct>], scale: &FixedPoint) -> Moments {
    let of_blocks = blocks.par_iter().map(|block| squares(block, scale));
    of_blocks.reduce(Moments::default, |mut a, b| {
        a.merge(&b);
        a
    })
}

/// How to read the rows of several blocks: around their mean where they are dense. `None` when cancelled.
pub fn frame_of(
    blocks: &[&Points],
    profile: &Profile,
    scale: &FixedPoint,
    cancel: &Cancel,
) -> Option<(Vec<f64>, Frame)> {
    let mean = match profile.density {
        Density::Sparse => vec![],
        Density::Dense => Spread::mean(&totals_of(blocks, scale, cancel)?, scale),
    };
    let frame = Frame::new(profile, &mean);
    Some((mean, frame))
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
    let table = CentroidTable::of_changed(lloyd.centroids().clone(), frame, lloyd.changed());
    let mut run = Run::new(blocks, table);
    while !lloyd.is_done() {
        run.step(blocks, lloyd, cancel)?;
        lloyd.history().last().into_iter().for_each(&report);
    }
    Some(run.table)
}

/// What is kept between the iterations of a run.
#[derive(Debug)]
struct Run {
    table: CentroidTable,
    drift: Drift,
    skipping: Skipping,
}

impl Run {
    fn new(blocks: &[Resident], table: CentroidTable) -> Self {
        let count = |of: fn(&Points) -> usize| blocks.iter().map(|block| of(block.distinct.points())).sum::<usize>();
        let (n_rows, n_values) = (count(Points::len), count(|points| points.rows.values().len()));
        let frame = table.frame();
        let skipping = Skipping::new(frame.density(), n_rows as u64, n_values as u64);
        let drift = Drift::new(table.n_clusters(), frame);
        Self { table, drift, skipping }
    }

    /// One iteration.
    fn step(&mut self, blocks: &mut [Resident], state: &mut impl Iterating, cancel: &Cancel) -> Option<()> {
        let drift = self.skipping.is_on().then_some(&self.drift);
        let partial = pass(blocks, &self.table, state.lloyd().scale(), drift, cancel)?;
        self.skipping.learn(&partial);
        let n_empty = state.lloyd().empty_clusters(&partial).len();
        let far = if n_empty > 0 { farthest_of(blocks, &self.table, n_empty) } else { vec![] };
        self.table.let_go();
        state.advance(partial, &far);
        let lloyd = state.lloyd();
        self.drift.add(lloyd.squared_shifts());
        self.table.update(lloyd.centroids(), lloyd.changed());
        Some(())
    }

    /// Takes over a merge of two clusters, after `lloyd`.
    fn merge(&mut self, blocks: &mut [Resident], lloyd: &Lloyd, merge: Merge) {
        blocks.par_iter_mut().for_each(|block| block.merge(merge));
        self.drift.swap_remove(merge.from as usize);
        self.table.remove_centre(merge.from as usize, lloyd.centroids(), lloyd.changed());
    }
}

/// Solves every number of clusters that `sweep` is asked for, and tells `report` of every iteration. Gives the steps by
/// rising k, none of them above the one before, and all iterations. `None` when cancelled.
pub fn sweep(
    blocks: &mut [Resident],
    mut sweep: Sweep,
    sample: &Sample,
    frame: Frame,
    report: impl Fn(&IterationStats) + Sync,
    cancel: &Cancel,
) -> Option<(Vec<SweepStep>, Vec<IterationStats>)> {
    let solver = Solver { sample, frame, report, cancel };
    let mut kept: Option<Run> = None;
    loop {
        kept.iter_mut().for_each(|run| run.table.let_go());
        let mut branches = sweep.branch();
        kept = match &mut branches[..] {
            [] => break,
            [branch] => Some(solver.solve(branch, blocks, kept)?),
            branches => {
                solver.solve_all(branches, blocks)?;
                None
            }
        };
        sweep.take(branches);
    }
    let mut finished = sweep.finish()?;
    while let Some(i) = first_rise(&finished.steps) {
        let centroids = finished.steps[i - 1].centroids();
        let table = CentroidTable::new(centroids.clone(), solver.frame.clone());
        let mut fresh: Vec<Resident> = blocks.iter().map(Resident::fresh).collect();
        let far = farthest_of(&relabelled(&fresh, &table, cancel)?, &table, 1);
        let mut mending = Branch::of_one(finished.from_below(&centroids, &far));
        solver.solve(&mut mending, &mut fresh, None)?;
        finished.mend(i, mending);
    }
    Some((finished.steps, finished.history))
}

/// Solves runs of a sweep over blocks.
struct Solver<'a, R> {
    sample: &'a Sample,
    frame: Frame,
    report: R,
    cancel: &'a Cancel,
}

impl<R: Fn(&IterationStats) + Sync> Solver<'_, R> {
    /// `blocks` are as the solution has left them that the run begins at; `kept` is what it has kept, if it is at hand.
    fn solve(&self, branch: &mut Branch, blocks: &mut [Resident], kept: Option<Run>) -> Option<Run> {
        let mut run = self.begin(branch, blocks, kept);
        while !branch.lloyd().is_done() {
            run.step(blocks, branch, self.cancel)?;
            branch.lloyd().history().last().into_iter().for_each(&self.report);
        }
        if branch.is_asked_for() {
            let distances = distances_of(blocks, &run.table, branch.is_stale(), branch.lloyd().scale());
            branch.record(&distances, self.sample.silhouette(&run.table));
        }
        Some(run)
    }

    fn begin(&self, branch: &Branch, blocks: &mut [Resident], kept: Option<Run>) -> Run {
        if let (Some(mut run), [merge]) = (kept, branch.merges()) {
            run.merge(blocks, branch.lloyd(), *merge);
            return run;
        }
        blocks.par_iter_mut().for_each(|block| block.begin_again(branch.merges()));
        let (centroids, frame) = (branch.lloyd().centroids().clone(), self.frame.clone());
        let table = match branch.merges() {
            [] => CentroidTable::of_changed(centroids, frame, branch.lloyd().changed()),
            _ => CentroidTable::new(centroids, frame),
        };
        Run::new(blocks, table)
    }

    /// The same for several at once. Leaves the blocks as the last one does.
    fn solve_all(&self, branches: &mut [Branch], blocks: &mut [Resident]) -> Option<()> {
        // No copy of what none of them begins with.
        blocks.iter_mut().for_each(|block| drop(block.take_bounds()));
        let mut copies: Vec<Vec<Resident>> = branches.iter().map(|_| blocks.to_vec()).collect();
        let solving = branches.par_iter_mut().zip(&mut copies);
        solving.try_for_each(|(branch, blocks)| self.solve(branch, blocks, None).map(drop))?;
        blocks.swap_with_slice(&mut copies.pop()?);
        Some(())
    }
}

/// Σ w·d of the rows of each cluster that is asked for.
pub fn distances_of(
    blocks: &[Resident],
    table: &CentroidTable,
    is_asked_for: &[bool],
    scale: &FixedPoint,
) -> Vec<i128> {
    let of_block = |block: &Resident| {
        distances_to_centres(block.distinct.points(), block.distinct_labels(), table, is_asked_for, scale)
    };
    let add = |mut a: Vec<i128>, b: Vec<i128>| {
        a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        a
    };
    blocks.par_iter().map(of_block).reduce(|| vec![0; is_asked_for.len()], add)
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

/// The `n` rows of several blocks that are farthest from the centres that they are assigned to, farthest first.
pub fn farthest_of(blocks: &[Resident], table: &CentroidTable, n: usize) -> Vec<FarPoint> {
    let far = blocks.par_iter().flat_map(|block| farthest(block, table, n));
    let mut far: Vec<FarPoint> = far.collect();
    FarPoint::sort(&mut far);
    far.truncate(n);
    far
}

/// The same blocks with every row assigned to the centres of `table`. `None` when cancelled.
pub fn relabelled(blocks: &[Resident], table: &CentroidTable, cancel: &Cancel) -> Option<Vec<Resident>> {
    let relabel = |block: &Resident| {
        let mut block = block.fresh();
        block.relabel(table, cancel)?;
        Some(block)
    };
    blocks.par_iter().map(relabel).collect()
}
