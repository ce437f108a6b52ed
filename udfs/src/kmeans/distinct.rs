//! The distinct rows of a block.
//!
//! Texts that differ in words beyond the vocabulary only are one and the same row: more than half of a fleet's command lines
//! are. Passes work on each once, by the weight of all that are equal to it, and all that is summed over rows is the same,
//! as sums are exact. Distinct rows lie in the order of what they begin with, the most frequent terms, so that one finds in
//! the cache what the one before it has read.

use std::sync::Arc;

use rayon::prelude::*;

use super::assign::CHUNK_ROWS;
use super::{Frame, Image};
use crate::matrix::{Density, Points, Row, Rows};

/// Equal rows are put together where at most this share of the rows is distinct.
const DISTINCT_SHARE_MAX: f64 = 0.75;

/// The share is estimated from one in so many of the distinct rows, with all that are equal to them.
const SAMPLE_ONE_IN: u64 = 8;

/// Terms that rows are ordered by, and the bits of a term there: all that a key has room for. Twice as many were not faster.
const KEY_TERMS: usize = 3;
const TERM_BITS: u32 = 21;

/// Terms at either end of a row that its hash is made of.
const HASH_TERMS: usize = 3;

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
    let hashes: Vec<u64> = (0..n).into_par_iter().with_min_len(CHUNK_ROWS).map(|row| hash(rows.row(row))).collect();
    if !is_worth_it(&hashes) {
        return None;
    }
    let (mut of_row, first) = first_equal(rows, &hashes)?;
    if first.len() as f64 > DISTINCT_SHARE_MAX * n as f64 {
        return None;
    }
    let begins = (0..first.len()).into_par_iter().with_min_len(CHUNK_ROWS);
    let mut order: Vec<(u64, u32)> = begins.map(|i| (begin(rows.row(first[i] as usize)), i as u32)).collect();
    order.par_sort_unstable();
    let mut place = vec![0; first.len()];
    for (at, &(_, i)) in (0..).zip(&order) {
        place[i as usize] = at;
    }
    let in_order: Vec<u32> = order.iter().map(|&(_, i)| first[i as usize]).collect();
    let (mut weights, mut n_rows) = (vec![0; first.len()], vec![0; first.len()]);
    for (of_row, weight) in of_row.iter_mut().zip(&points.weights) {
        *of_row = place[*of_row as usize];
        weights[*of_row as usize] += weight;
        n_rows[*of_row as usize] += 1;
    }
    let distinct = Points { rows: rows.gather(&in_order), weights };
    Some((distinct, Folded { of_row, n_rows }))
}

/// By the rows of some hashes, of which there is none without all that are equal to it.
fn is_worth_it(hashes: &[u64]) -> bool {
    let mut sample: Vec<u64> = hashes.iter().copied().filter(|hash| hash % SAMPLE_ONE_IN == 0).collect();
    let n = sample.len();
    sample.sort_unstable();
    sample.dedup();
    n > 0 && sample.len() as f64 <= DISTINCT_SHARE_MAX * n as f64
}

/// For each row the number of the distinct row that it is, and for each distinct row the first row that is equal to it.
/// None where hashes tell them apart badly.
fn first_equal(rows: &Rows, hashes: &[u64]) -> Option<(Vec<u32>, Vec<u32>)> {
    let shards: Vec<Shard> =
        (0..SHARDS).into_par_iter().map(|shard| Shard::new(rows, hashes, shard)).collect::<Option<_>>()?;
    let (mut of_row, mut first) = (vec![0; hashes.len()], vec![]);
    for shard in shards {
        let start = first.len() as u32;
        shard.rows.iter().for_each(|&(row, number)| of_row[row as usize] = start + number);
        first.extend(shard.first);
    }
    Some((of_row, first))
}

/// Rows are looked up in so many parts by their hashes: as many threads do so at once.
const SHARDS: u64 = 4;

/// The rows of a part, each with the number of the distinct row that it is there, and the first row of each of these.
struct Shard {
    rows: Vec<(u32, u32)>,
    first: Vec<u32>,
}

impl Shard {
    /// A hash table with linear probing, as rows are not to be copied to be looked up.
    fn new(rows: &Rows, hashes: &[u64], shard: u64) -> Option<Self> {
        const NONE: u64 = u64::MAX;
        // The lowest bits choose the sample.
        let own = || (0..).zip(hashes).filter(|(_, hash)| (*hash >> 8) % SHARDS == shard);
        let mask = (2 * own().count()).next_power_of_two() - 1;
        // The upper half of the hash, and the number: most rows that differ need not be looked at.
        let mut slots = vec![NONE; mask + 1];
        let mut first: Vec<u32> = vec![];
        let number_of = |(row, &hash): (u32, &u64)| {
            let start = (hash >> 16) as usize;
            for at in (start..start + PROBES_MAX).map(|at| at & mask) {
                let number = slots[at] as u32;
                if slots[at] == NONE {
                    slots[at] = hash >> 32 << 32 | first.len() as u64;
                    first.push(row);
                    return Some((row, slots[at] as u32));
                }
                if slots[at] >> 32 == hash >> 32 && is_equal(rows, first[number as usize] as usize, row as usize) {
                    return Some((row, number));
                }
            }
            None
        };
        let numbered = own().map(number_of).collect::<Option<_>>()?;
        Some(Self { rows: numbered, first })
    }
}

fn is_equal(rows: &Rows, a: usize, b: usize) -> bool {
    let (a, b) = (rows.row(a), rows.row(b));
    let is_same = |(x, y): (&f64, &f64)| x.to_bits() == y.to_bits();
    a.indices == b.indices && a.values.iter().zip(b.values).all(is_same)
}

/// The terms that a row begins with, as a number: rows that share them lie side by side when sorted by it.
fn begin(row: Row<'_>) -> u64 {
    let term = |i: usize| {
        // 0 where the row has ended. Terms beyond what the bits can tell are one, which is but a matter of order.
        row.indices.get(i).map_or(0, |&term| (term + 1).min((1 << TERM_BITS) - 1))
    };
    (0..KEY_TERMS).fold(0, |begin, i| begin << TERM_BITS | u64::from(term(i)))
}

/// Of what a row begins and ends with, which tells most rows apart: rows of equal hashes are compared in the end.
fn hash(row: Row<'_>) -> u64 {
    let n = row.values.len();
    let mut hash = n as u64;
    for i in (0..n.min(HASH_TERMS)).chain(n.saturating_sub(HASH_TERMS)..n) {
        let word = row.values[i].to_bits() ^ u64::from(row.indices[i]) << 40;
        hash = (hash.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    hash ^ hash >> 32
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
}
