//! The distinct rows of a block.
//!
//! Texts that differ in words beyond the vocabulary only are one and the same row: more than half of a fleet's command lines
//! are. Passes work on each once, by the weight of all that are equal to it, and all that is summed over rows is the same,
//! as sums are exact. Distinct rows lie in the order of what they begin with, the most frequent terms, so that one finds in
//! the cache what the one before it has read.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::assign::CHUNK_ROWS;
use super::wide::prefetch;
use super::{Frame, Image};
use crate::matrix::{Density, Points, Row};

/// Equal rows are put together where at most this share of the rows is distinct.
const DISTINCT_SHARE_MAX: f64 = 0.75;

/// The share is estimated from one in so many of the distinct rows, with all that are equal to them.
const SAMPLE_ONE_IN: u64 = 32;

/// Terms that rows are ordered by, and the bits of a term there: all that a key has room for. Twice as many were not faster.
const KEY_TERMS: usize = 3;
const TERM_BITS: u32 = 21;

/// Terms at either end of a row that its first hash is made of.
const HASH_TERMS: usize = 3;

/// Rows that others are compared with lie here and there: they are fetched so many before their turn.
const ROWS_AHEAD: usize = 4;

/// Places of the hash table that are looked at for a row.
const PROBES_MAX: usize = 256;

/// A block as passes see it.
#[derive(Debug)]
pub struct Distinct {
    points: Arc<Points>,
    image: Image,
    folded: Option<Folded>,
}

/// How the rows of a block became fewer.
#[derive(Debug)]
struct Folded {
    /// Of each row of the block, which of the distinct ones it is.
    of_row: Vec<u32>,
    /// Of each distinct row, how many it stands for.
    n_rows: Vec<u32>,
}

impl Distinct {
    pub fn new(points: &Arc<Points>, frame: &Frame) -> Self {
        let folded = match points.rows.density() {
            // Equal rows of numbers are one before they come to a block.
            Density::Dense => None,
            Density::Sparse => fold(points),
        };
        let (points, folded) = match folded {
            Some((points, folded)) => (Arc::new(points), Some(folded)),
            None => (Arc::clone(points), None),
        };
        let image = Image::new(&points.rows, frame);
        Self { points, image, folded }
    }

    /// The distinct rows, each with the weight of all that it stands for.
    pub fn points(&self) -> &Points {
        &self.points
    }

    pub(super) fn image(&self) -> &Image {
        &self.image
    }

    /// How many distinct rows there are.
    pub fn len(&self) -> usize {
        self.points.len()
    }

    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// How many rows the block has.
    pub fn n_rows(&self) -> usize {
        self.folded.as_ref().map_or(self.len(), |folded| folded.of_row.len())
    }

    /// Which of the distinct rows a row of the block is.
    pub fn of_row(&self, row: usize) -> usize {
        self.folded.as_ref().map_or(row, |folded| folded.of_row[row] as usize)
    }

    /// How many rows a distinct row stands for.
    pub fn count(&self, i: usize) -> u64 {
        self.folded.as_ref().map_or(1, |folded| u64::from(folded.n_rows[i]))
    }

    /// The same for a range of them.
    pub fn count_all(&self, range: Range<usize>) -> u64 {
        match &self.folded {
            Some(folded) => folded.n_rows[range].iter().map(|n| u64::from(*n)).sum(),
            None => range.len() as u64,
        }
    }

    /// What is known of the distinct rows, row by row of the block.
    pub fn unfold<T: Copy>(&self, of_distinct: Vec<T>) -> Vec<T> {
        match &self.folded {
            Some(folded) => folded.of_row.iter().map(|&i| of_distinct[i as usize]).collect(),
            None => of_distinct,
        }
    }
}

/// The distinct rows of a block, where they are so much fewer that it is worth it.
fn fold(points: &Points) -> Option<(Points, Folded)> {
    let rows = &points.rows;
    let n = rows.n_rows();
    let mut hashes: Vec<u64> = (0..n).into_par_iter().with_min_len(CHUNK_ROWS).map(|row| hash(rows.row(row))).collect();
    if !is_worth_it(&hashes) {
        return None;
    }
    let each = hashes.par_iter_mut().with_min_len(CHUNK_ROWS).enumerate();
    each.for_each(|(row, hash)| *hash = hash_whole(rows.row(row), *hash));
    let Equal { mut of_row, distinct } = Equal::new(points, &hashes)?;
    if distinct.len() as f64 > DISTINCT_SHARE_MAX * n as f64 {
        return None;
    }
    let begins = distinct.par_iter().with_min_len(CHUNK_ROWS).enumerate();
    // One number, that ties of what rows begin with are in one order always: labels are kept by it.
    let key = |(i, one): (usize, &DistinctRow)| u128::from(begin(rows.row(one.first as usize))) << 32 | i as u128;
    let mut keys: Vec<u128> = begins.map(key).collect();
    keys.par_sort_unstable();
    let order: Vec<u32> = keys.into_iter().map(|key| key as u32).collect();
    let mut place = vec![0; distinct.len()];
    for (at, &i) in (0..).zip(&order) {
        place[i as usize] = at;
    }
    of_row.par_iter_mut().with_min_len(CHUNK_ROWS).for_each(|of_row| *of_row = place[*of_row as usize]);
    let in_order = || order.iter().map(|&i| &distinct[i as usize]);
    let rows = rows.gather(&in_order().map(|one| one.first).collect::<Vec<_>>());
    let points = Points { rows, weights: in_order().map(|one| one.weight).collect() };
    Some((points, Folded { of_row, n_rows: in_order().map(|one| one.n_rows).collect() }))
}

/// By the rows of some hashes, of which there is none without all that are equal to it.
fn is_worth_it(hashes: &[u64]) -> bool {
    let mut sample: Vec<u64> = hashes.iter().copied().filter(|hash| hash % SAMPLE_ONE_IN == 0).collect();
    let n = sample.len();
    sample.sort_unstable();
    sample.dedup();
    n > 0 && sample.len() as f64 <= DISTINCT_SHARE_MAX * n as f64
}

/// Which rows of a block are equal.
struct Equal {
    /// For each row the number of the distinct row that it is.
    of_row: Vec<u32>,
    distinct: Vec<DistinctRow>,
}

/// Rows that are equal.
#[derive(Debug, Clone, Copy)]
struct DistinctRow {
    first: u32,
    n_rows: u32,
    /// Of all of them.
    weight: u64,
}

impl Equal {
    /// None where hashes tell rows apart badly.
    fn new(points: &Points, hashes: &[u64]) -> Option<Self> {
        let shards = (0..SHARDS).into_par_iter().map(|shard| Shard::new(points, hashes, shard));
        let shards: Vec<Shard> = shards.collect::<Option<_>>()?;
        let mut equal = Self { of_row: vec![0; hashes.len()], distinct: vec![] };
        for shard in shards {
            let start = equal.distinct.len() as u32;
            shard.rows.iter().for_each(|&(row, number)| equal.of_row[row as usize] = start + number);
            equal.distinct.extend(shard.distinct);
        }
        equal.tell_apart(points);
        Some(equal)
    }

    /// Rows of one hash may still differ: each that does counts as distinct, also where several of them are equal.
    fn tell_apart(&mut self, points: &Points) {
        let rows = &points.rows;
        let first_of = |of_row: u32| self.distinct[of_row as usize].first as usize;
        let others_of = |(chunk, of_rows): (usize, &[u32])| {
            let mut others = vec![];
            for (i, &of_row) in of_rows.iter().enumerate() {
                if let Some(&ahead) = of_rows.get(i + ROWS_AHEAD) {
                    let ahead = rows.row(first_of(ahead));
                    prefetch(ahead.indices);
                    prefetch(ahead.values);
                }
                let (row, first) = (chunk * CHUNK_ROWS + i, first_of(of_row));
                if row != first && !is_equal(rows.row(row), rows.row(first)) {
                    others.push(row);
                }
            }
            others
        };
        let others: Vec<Vec<usize>> = self.of_row.par_chunks(CHUNK_ROWS).enumerate().map(others_of).collect();
        for row in others.into_iter().flatten() {
            let one = DistinctRow { first: row as u32, n_rows: 1, weight: points.weights[row] };
            let taken = &mut self.distinct[self.of_row[row] as usize];
            taken.n_rows -= one.n_rows;
            taken.weight -= one.weight;
            self.of_row[row] = self.distinct.len() as u32;
            self.distinct.push(one);
        }
    }
}

/// Rows are looked up in so many parts by their hashes: as many threads do so at once.
const SHARDS: u64 = 4;

/// The rows of a part, each with the number of the distinct row that it is there.
struct Shard {
    rows: Vec<(u32, u32)>,
    distinct: Vec<DistinctRow>,
}

impl Shard {
    /// A hash table with linear probing, which goes by hashes alone: to look at rows here and there takes longer than all the
    /// rest.
    fn new(points: &Points, hashes: &[u64], shard: u64) -> Option<Self> {
        const NONE: u64 = u64::MAX;
        // The lowest bits choose the sample. Without a branch, which would be guessed wrong for one row in so many.
        let (mut own, mut n_own) = (vec![0_u32; hashes.len()], 0);
        for (row, hash) in (0..).zip(hashes) {
            own[n_own] = row;
            n_own += usize::from((hash >> 8) % SHARDS == shard);
        }
        own.truncate(n_own);
        let mask = (2 * n_own).next_power_of_two() - 1;
        // The upper half of the hash, and the number.
        let mut slots = vec![NONE; mask + 1];
        let (mut distinct, mut rows) = (Vec::with_capacity(n_own), Vec::with_capacity(n_own));
        for row in own {
            let (hash, weight) = (hashes[row as usize], points.weights[row as usize]);
            let (start, tag) = ((hash >> 16) as usize, hash >> 32);
            let mut places = (start..start + PROBES_MAX).map(|at| at & mask);
            let at = places.find(|&at| slots[at] == NONE || slots[at] >> 32 == tag)?;
            if slots[at] == NONE {
                slots[at] = tag << 32 | distinct.len() as u64;
                distinct.push(DistinctRow { first: row, n_rows: 0, weight: 0 });
            }
            let number = slots[at] as u32;
            let one: &mut DistinctRow = &mut distinct[number as usize];
            one.n_rows += 1;
            one.weight += weight;
            rows.push((row, number));
        }
        Some(Self { rows, distinct })
    }
}

fn is_equal(a: Row<'_>, b: Row<'_>) -> bool {
    if a.values.len() != b.values.len() {
        return false;
    }
    // Rows are short, and most that are compared are equal: one loop, and no branch for each value.
    let indices = a.indices.iter().zip(b.indices).map(|(x, y)| u64::from(x ^ y));
    let values = a.values.iter().zip(b.values).map(|(x, y)| x.to_bits() ^ y.to_bits());
    indices.zip(values).fold(0, |all, (x, y)| all | x | y) == 0
}

/// The terms that a row begins with, as a number: rows that share them lie side by side when sorted by it.
fn begin(row: Row<'_>) -> u64 {
    let term = |i: usize| {
        // 0 where the row has ended. Terms beyond what the bits can tell are one, which is but a matter of order.
        row.indices.get(i).map_or(0, |&term| (term + 1).min((1 << TERM_BITS) - 1))
    };
    (0..KEY_TERMS).fold(0, |begin, i| begin << TERM_BITS | u64::from(term(i)))
}

/// Of what a row begins and ends with, which tells most rows apart. As many terms of every row, some more than once where it
/// is short: no branch.
fn hash(row: Row<'_>) -> u64 {
    let Some(last) = row.values.len().checked_sub(1) else { return 0 };
    let ends = (0..HASH_TERMS).flat_map(|i| [i.min(last), last - i.min(last)]);
    ends.fold(last as u64, |hash, i| hash_term(hash, row, i))
}

/// Of all of it, when that is known.
fn hash_whole(row: Row<'_>, hash: u64) -> u64 {
    let middle = HASH_TERMS..row.values.len().saturating_sub(HASH_TERMS);
    let hash = middle.fold(hash, |hash, i| hash_term(hash, row, i));
    hash ^ hash >> 32
}

fn hash_term(hash: u64, row: Row<'_>, i: usize) -> u64 {
    let word = row.values[i].to_bits() ^ u64::from(row.indices[i]) << 40;
    (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kmeans::Profile;

    /// Goal: a row is folded onto a row that is equal to it, no weight is lost, and rows that differ in one bit stay apart,
    /// also where hashes do not look; where few are equal, nothing is folded.
    #[test]
    fn equal_rows_are_folded() {
        let mut points = Points::new(Density::Sparse, 50);
        for i in 0..600_u32 {
            let middle = 1.0 + f64::from(i % 3) * f64::EPSILON;
            let value = |term| [f64::from(1 + i % 50), middle, 1.0][[0, 2, 2, 2, 1, 2, 2, 2, 2, 2][term as usize]];
            points.rows.push((0..10).map(|term| (term * 4, value(term)))).unwrap();
            points.weights.push(u64::from(i));
        }
        points.rows.push([]).unwrap();
        points.weights.push(7);
        let points = Arc::new(points);
        let frame = Frame::new(&Profile::of(&points), &[]);
        let distinct = Distinct::new(&points, &frame);
        assert_eq!((distinct.len(), distinct.n_rows()), (151, 601));
        for row in 0..points.len() {
            assert!(distinct.points().rows.row(distinct.of_row(row)) == points.rows.row(row), "row {row}");
        }
        assert_eq!(distinct.points().weights.iter().sum::<u64>(), points.weights.iter().sum::<u64>());
        assert_eq!((0..151).map(|i| distinct.count(i)).sum::<u64>(), 601);
        let unfolded = distinct.unfold((0..151).collect());
        assert!((0..601).all(|row| unfolded[row] == distinct.of_row(row)));

        let mut few = Points::new(Density::Sparse, 1_000);
        (0..600).for_each(|i| few.rows.push([(i.max(10), 1.0)]).unwrap());
        few.weights = vec![1; 600];
        let few = Arc::new(few);
        let distinct = Distinct::new(&few, &Frame::new(&Profile::of(&few), &[]));
        assert_eq!((distinct.len(), distinct.count(0), distinct.of_row(77)), (600, 1, 77));
    }

    /// Goal: rows that differ stay apart where their hashes are one. Method: a value that makes up in the hash for what the
    /// one before it changes.
    #[test]
    fn rows_of_one_hash_stay_apart() {
        let row = |points: &mut Points, values: [f64; 8]| {
            points.rows.push((0..).zip(values)).unwrap();
            points.weights.push(3);
        };
        let whole = |values: [f64; 8]| {
            let mut one = Points::new(Density::Sparse, 8);
            row(&mut one, values);
            hash_whole(one.rows.row(0), hash(one.rows.row(0)))
        };
        // The terms in the middle come last: 3 and 4.
        let with = |middle: [f64; 2]| [1.0, 2.0, 3.0, middle[0], middle[1], 6.0, 7.0, 8.0];
        let before = |third: f64| {
            let mut one = Points::new(Density::Sparse, 8);
            row(&mut one, with([third, 5.0]));
            hash_term(hash(one.rows.row(0)), one.rows.row(0), 3).rotate_left(23)
        };
        let made_up = |third: f64| f64::from_bits(5.0_f64.to_bits() ^ before(4.0) ^ before(third));
        let third = (0..).map(|i| 4.5 + f64::from(i)).find(|third| made_up(*third).is_normal()).unwrap();
        let (one, other) = (with([4.0, 5.0]), with([third, made_up(third)]));
        assert_eq!(whole(one), whole(other));

        let mut points = Points::new(Density::Sparse, 8);
        // Enough for some to be in the sample.
        let others = (0..400).map(|i| [f64::from(1 + i / 4), 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 9.0]);
        others.for_each(|values| row(&mut points, values));
        [one, other, one, other].into_iter().for_each(|values| row(&mut points, values));
        let points = Arc::new(points);
        let distinct = Distinct::new(&points, &Frame::new(&Profile::of(&points), &[]));
        assert_eq!(distinct.n_rows(), 404);
        for row in 0..points.len() {
            assert!(distinct.points().rows.row(distinct.of_row(row)) == points.rows.row(row), "row {row}");
        }
        // Each of the two that came later counts by itself.
        assert_eq!((distinct.len(), distinct.count(distinct.of_row(401))), (103, 1));
        assert_eq!(distinct.points().weights.iter().sum::<u64>(), 3 * 404);
        assert_eq!((0..103).map(|i| distinct.count(i)).sum::<u64>(), 404);
    }
}
