//! Rows as those who look for one more centre see them.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rayon::prelude::*;

use super::race::{Drawn, Race};
use super::{Init, SeedParams};
use crate::kmeans::assign::CHUNK_ROWS;
use crate::kmeans::{Cancel, CentroidTable, Distinct, FixedPoint, Frame, Metric, NO_CLUSTER};
use crate::matrix::{Points, Row};

/// Rows of some blocks that may become centres.
#[derive(Debug)]
pub struct Prospects {
    blocks: Vec<Block>,
    pub(super) metric: Metric,
}

#[derive(Debug)]
struct Block {
    points: Arc<Points>,
    hashes: Vec<u128>,
    distinct: Arc<Distinct>,
    /// Distinct rows that may be nearer to one of the rows tried last than to any centre so far; none where that is not known.
    near: Option<Vec<usize>>,
    nearest: Nearest,
}

/// Of each distinct row of a block, what is nearest to it so far.
#[derive(Debug, Clone)]
pub struct Nearest {
    /// D²: the squared distance to the nearest centre, infinite before there is one.
    squared_distances: Vec<f64>,
    /// Which candidate of k-means|| that is, if it is one.
    candidates: Vec<u32>,
}

/// A row and its place in a race.
#[derive(Debug, Clone, Copy)]
struct Ranked {
    key: u64,
    content_hash: u128,
    block: usize,
    row: usize,
}

impl Prospects {
    /// Blocks, before there is a centre. Where angles count, rows of zeros are none.
    pub fn new(blocks: Vec<(Arc<Points>, Arc<Distinct>)>, metric: Metric) -> Self {
        let block = |(points, distinct)| Block::new(points, distinct, metric);
        Self { blocks: blocks.into_par_iter().map(block).collect(), metric }
    }

    /// Adds a block, before there is a centre.
    pub fn add(&mut self, points: Arc<Points>, distinct: Arc<Distinct>) {
        self.blocks.push(Block::new(points, distinct, self.metric));
    }

    /// Leaves out the rows that seeding does not look at, where there are such: these are the same however rows were left
    /// out of parts before.
    pub fn narrow(self, params: &SeedParams, frame: &Frame) -> Self {
        self.first_of(params.race(), params.init == Init::Random, frame)
    }

    /// The rows that win a race by weight, or all where there are no more.
    fn first_of(self, race: Race, only_distinct: bool, frame: &Frame) -> Self {
        let n_rows: usize = self.blocks.iter().map(|block| block.points.len()).sum();
        if n_rows <= race.n {
            return self;
        }
        let mut ranked = if only_distinct { self.ranked_distinct(race) } else { self.ranked(race) };
        ranked.truncate(race.n);
        let mut points = Points::new(frame.density(), self.blocks[0].points.rows.n_features());
        for Ranked { block, row, .. } in ranked {
            let from = &self.blocks[block].points;
            points.push(from.rows.row(row), from.weights[row]);
        }
        Self { blocks: vec![], metric: self.metric }.with(Arc::new(points), frame)
    }

    /// All of these rows, before there is a centre.
    pub(super) fn of_points(points: Points, frame: &Frame, metric: Metric) -> Self {
        Self { blocks: vec![], metric }.with(Arc::new(points), frame)
    }

    /// One block whose rows were taken up again where they had been left off.
    pub fn resumed(points: Arc<Points>, distinct: Arc<Distinct>, metric: Metric, nearest: Option<Nearest>) -> Self {
        let mut block = Block::new(points, distinct, metric);
        if let Some(nearest) = nearest {
            assert_eq!(nearest.candidates.len(), block.distinct.len());
            block.nearest = nearest;
        }
        Self { blocks: vec![block], metric }
    }

    /// What is nearest to the rows of the last block.
    pub fn into_nearest(self) -> Option<Nearest> {
        self.blocks.into_iter().next_back().map(|block| block.nearest)
    }

    fn with(mut self, points: Arc<Points>, frame: &Frame) -> Self {
        let distinct = Arc::new(Distinct::new(&points, frame));
        self.add(points, distinct);
        self
    }

    /// All rows as one block.
    pub fn into_points(self) -> Option<Points> {
        let mut blocks = self.blocks.into_iter().map(|block| Arc::unwrap_or_clone(block.points));
        let mut all = blocks.next()?;
        blocks.for_each(|block| all.append(&block));
        Some(all)
    }

    /// The first rows of a race by weight, equal ones once.
    pub(super) fn first_distinct(&self, race: Race) -> Vec<Row<'_>> {
        let ranked = self.ranked_distinct(race).into_iter().take(race.n);
        ranked.map(|ranked| self.blocks[ranked.block].points.rows.row(ranked.row)).collect()
    }

    fn ranked_distinct(&self, race: Race) -> Vec<Ranked> {
        let (mut seen, mut ranked) = (HashSet::new(), self.ranked(race));
        ranked.retain(|ranked| seen.insert(ranked.content_hash));
        ranked
    }

    /// All rows that may become centres, in the order of a race by weight.
    fn ranked(&self, race: Race) -> Vec<Ranked> {
        let of_block = |(at, block): (usize, &'_ Block)| -> Vec<Ranked> {
            let ranked = |row: usize| {
                let (weight, content_hash) = (block.points.weights[row], block.hashes[row]);
                let key = race.key(content_hash, weight as f64).to_bits();
                (weight > 0 && block.distance(row) > 0.0).then_some(Ranked { key, content_hash, block: at, row })
            };
            (0..block.points.len()).into_par_iter().filter_map(ranked).collect()
        };
        let ranked: Vec<Vec<Ranked>> = self.blocks.par_iter().enumerate().map(of_block).collect();
        let mut ranked = ranked.concat();
        ranked.par_sort_unstable_by_key(|ranked| (ranked.key, ranked.content_hash));
        ranked
    }

    /// The rows that win a race by weight times D², before there is a centre by weight alone, the first of it first. Rows
    /// that are centres take no part. `None` when cancelled.
    pub(super) fn draw(&self, race: Race, cancel: &Cancel) -> Option<Vec<Drawn>> {
        let drawn: Option<Vec<Vec<Drawn>>> = self.blocks.par_iter().map(|block| block.draw(race, cancel)).collect();
        let mut drawn = drawn?.concat();
        Drawn::first(&mut drawn, race.n);
        Some(drawn)
    }

    /// By how much each centre of `trials` would lower Σ w·D², quantised.
    pub(super) fn gains(&mut self, trials: &CentroidTable, scale: &FixedPoint, cancel: &Cancel) -> Option<Vec<i128>> {
        let zero = vec![0; trials.n_clusters()];
        let gains = self.blocks.par_iter_mut().map(|block| block.gains(trials, scale, cancel));
        gains.try_reduce_with(|a, b| Some(sum(a, b))).unwrap_or(Some(zero))
    }

    /// Takes one more centre into account, the only one of `one`.
    pub(super) fn lower(&mut self, one: &CentroidTable, cancel: &Cancel) -> Option<()> {
        self.blocks.par_iter_mut().map(|block| block.lower(one, cancel)).collect()
    }

    /// Takes the candidates of `table` into account, which are numbered from `first`; of equally near ones the first
    /// counts.
    pub fn approach(&mut self, table: &CentroidTable, first: u32, cancel: &Cancel) -> Option<()> {
        self.blocks.par_iter_mut().map(|block| block.approach(table, first, cancel)).collect()
    }

    /// The weight of the rows that are nearest to each of the candidates.
    pub fn weights_of_candidates(&self, n_candidates: usize) -> Vec<u64> {
        let mut weights = vec![0; n_candidates];
        for block in &self.blocks {
            let Block { distinct, nearest, .. } = block;
            let of_rows = nearest.candidates.iter().zip(&distinct.points().weights);
            for (&candidate, weight) in of_rows.filter(|(candidate, _)| **candidate != NO_CLUSTER) {
                weights[candidate as usize] += weight;
            }
        }
        weights
    }
}

impl Block {
    fn new(points: Arc<Points>, distinct: Arc<Distinct>, metric: Metric) -> Self {
        let rows = &distinct.points().rows;
        let distance = |i: usize| match metric {
            Metric::Cosine if rows.row(i).values.iter().all(|x| *x == 0.0) => 0.0,
            _ => f64::INFINITY,
        };
        let squared_distances = (0..distinct.len()).map(distance).collect();
        let nearest = Nearest { squared_distances, candidates: vec![NO_CLUSTER; distinct.len()] };
        let hashes: Vec<u128> = (0..distinct.len()).into_par_iter().map(|i| rows.row(i).content_hash()).collect();
        let hashes = distinct.unfold(hashes);
        Self { points, hashes, distinct, near: None, nearest }
    }

    /// D² of a row.
    fn distance(&self, row: usize) -> f64 {
        self.nearest.squared_distances[self.distinct.of_row(row)]
    }

    fn chunks(n: usize) -> impl IndexedParallelIterator<Item = std::ops::Range<usize>> {
        (0..n).into_par_iter().step_by(CHUNK_ROWS).map(move |start| start..n.min(start + CHUNK_ROWS))
    }

    fn draw(&self, race: Race, cancel: &Cancel) -> Option<Vec<Drawn>> {
        let mass = |row: usize| Some(self.distance(row)).filter(|distance| distance.is_finite()).unwrap_or(1.0);
        let chunk =
            |range| (!cancel.load(Ordering::Relaxed)).then(|| race.run(&self.points, &self.hashes, range, mass));
        let drawn: Option<Vec<Vec<Drawn>>> = Self::chunks(self.points.len()).map(chunk).collect();
        Some(drawn?.concat())
    }

    fn gains(&mut self, trials: &CentroidTable, scale: &FixedPoint, cancel: &Cancel) -> Option<Vec<i128>> {
        let near: Vec<Vec<usize>> =
            Self::chunks(self.distinct.len()).map(|range| self.near(trials, range, cancel)).collect::<Option<_>>()?;
        let points = self.distinct.points();
        let of_rows = |rows: &Vec<usize>| {
            let mut gains = vec![0_i128; trials.n_clusters()];
            for &i in rows {
                let (row, before) = (points.rows.row(i), self.nearest.squared_distances[i]);
                for (trial, gain) in gains.iter_mut().enumerate() {
                    let after = trials.squared_distance(row, trial);
                    if after < before {
                        let gained = scale.quantise_distance(before) - scale.quantise_distance(after);
                        *gain += i128::from(gained) * i128::from(points.weights[i]);
                    }
                }
            }
            gains
        };
        let zero = || vec![0; trials.n_clusters()];
        let gains = near.par_iter().map(of_rows).reduce(zero, sum);
        self.near = Some(near.concat());
        Some(gains)
    }

    /// The distinct rows that may be nearer to a centre of `trials` than to any so far.
    fn near(&self, trials: &CentroidTable, range: std::ops::Range<usize>, cancel: &Cancel) -> Option<Vec<usize>> {
        if cancel.load(Ordering::Relaxed) {
            return None;
        }
        let (rows, image) = (&self.distinct.points().rows, self.distinct.image());
        let at_least = trials.squared_distances_at_least(rows, image, range.clone());
        // The bound of a row of which nothing is known is no number.
        let is_far = |i: usize, bound: f64| bound >= trials.frame().squared(self.nearest.squared_distances[i]);
        Some(range.zip(at_least).filter(|(i, bound)| !is_far(*i, *bound)).map(|(i, _)| i).collect())
    }

    /// `one` has one of the rows that were tried last, where there are any.
    fn lower(&mut self, one: &CentroidTable, cancel: &Cancel) -> Option<()> {
        let near = match self.near.take() {
            Some(near) => near,
            None => {
                let chunks = Self::chunks(self.distinct.len()).map(|range| self.near(one, range, cancel));
                chunks.collect::<Option<Vec<_>>>()?.concat()
            }
        };
        for i in near {
            let distance = one.squared_distance(self.distinct.points().rows.row(i), 0);
            self.nearest.squared_distances[i] = self.nearest.squared_distances[i].min(distance);
        }
        Some(())
    }

    fn approach(&mut self, table: &CentroidTable, first: u32, cancel: &Cancel) -> Option<()> {
        let (rows, image) = (&self.distinct.points().rows, self.distinct.image());
        let Nearest { squared_distances, candidates } = &mut self.nearest;
        let chunks = squared_distances.par_chunks_mut(CHUNK_ROWS).zip(candidates.par_chunks_mut(CHUNK_ROWS));
        let chunk = |(chunk, (before, candidates)): (usize, (&mut [f64], &mut [u32]))| {
            if cancel.load(Ordering::Relaxed) {
                return None;
            }
            let start = chunk * CHUNK_ROWS;
            let (mut labels, mut after) = ([0; CHUNK_ROWS], [0.0; CHUNK_ROWS]);
            let (labels, after) = (&mut labels[..before.len()], &mut after[..before.len()]);
            table.labels(rows, image, start..start + labels.len(), labels);
            table.squared_distances(rows, start, labels, after);
            for i in 0..before.len() {
                if after[i] < before[i] {
                    (before[i], candidates[i]) = (after[i], first + labels[i]);
                }
            }
            Some(())
        };
        chunks.enumerate().map(chunk).collect()
    }
}

fn sum(mut a: Vec<i128>, b: Vec<i128>) -> Vec<i128> {
    a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kmeans::Profile;
    use crate::matrix::Density;

    /// Goal: what is left of all rows is what is left of what is left of parts, by both ways of seeding and whatever the
    /// metric. Method: rows with equal ones among them and without values, in parts of any size.
    #[test]
    fn parts_may_be_narrowed_first() {
        let mut points = Points::new(Density::Sparse, 9);
        for i in 0..300_u32 {
            let row =
                if i % 50 == 0 { vec![] } else { vec![(i % 7, 1.0 + f64::from(i % 11)), (8, f64::from(i % 23) - 9.5)] };
            points.rows.push(row).unwrap();
            points.weights.push(u64::from(1 + i % 5));
        }
        let frame = Frame::new(&Profile::of(&points), &[]);
        let part = |range: std::ops::Range<usize>| {
            let mut part = Points::new(Density::Sparse, 9);
            range.for_each(|i| part.push(points.rows.row(i), points.weights[i]));
            Arc::new(part)
        };
        let rows_of = |prospects: Prospects| {
            let points = prospects.into_points().unwrap();
            let mut rows: Vec<_> =
                (0..points.len()).map(|i| (points.rows.row(i).content_hash(), points.weights[i])).collect();
            rows.sort_unstable();
            rows
        };
        for (only_distinct, metric) in [(false, Metric::Euclidean), (true, Metric::Euclidean), (false, Metric::Cosine)]
        {
            let race = Race { random_state: 5, round: 0, n: 40 };
            let none = || Prospects::new(vec![], metric);
            let expected = rows_of(none().with(part(0..300), &frame).first_of(race, only_distinct, &frame));
            assert_eq!(expected.len(), 40);
            let mut narrowed = none();
            for range in [0..10, 10..90, 90..91, 91..300] {
                let first = none().with(part(range), &frame).first_of(race, only_distinct, &frame);
                narrowed = narrowed.with(Arc::new(first.into_points().unwrap()), &frame);
                narrowed = narrowed.first_of(race, only_distinct, &frame);
            }
            assert_eq!(rows_of(narrowed), expected, "{only_distinct} {metric:?}");
        }
    }
}
