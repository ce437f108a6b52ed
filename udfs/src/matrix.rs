//! The rows that are clustered: compressed rows (CSR) with an integer weight each.
//!
//! Text gives sparse rows, which leave their zeros out. Numbers give dense rows, which hold every feature. Both have
//! one form, so text and numbers share one path; only the arithmetic of distances differs ([`crate::kmeans`]).

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

use crate::{Result, input_err};

/// Weights are stored in units of 2⁻²⁰, so fractional sample weights are quantised once and sums stay exact.
pub const WEIGHT_ONE: u64 = 1 << 20;

/// The largest total weight of a fit, in rows of weight one: 2⁶³ units. Checked when blocks are written.
pub const TOTAL_WEIGHT_MAX: u64 = i64::MAX as u64 / WEIGHT_ONE;

/// Features are indexed by `u32`; this bounds `max_features` and the width of a dense row.
pub const FEATURES_MAX: usize = 1 << 24;

/// Rows that one thread gathers at once.
const GATHERED_AT_ONCE: usize = 2_048;

/// A weight in units of [`WEIGHT_ONE`]⁻¹, rounded to the nearest unit.
///
/// # Errors
/// When `weight` is negative, not finite, above [`TOTAL_WEIGHT_MAX`], or so small that it would round to zero.
pub fn weight_units(weight: f64) -> Result<u64> {
    if !(weight.is_finite() && weight >= 0.0) {
        return input_err!("a weight must be a finite number not below 0, got {weight}");
    }
    if weight > TOTAL_WEIGHT_MAX as f64 {
        return input_err!("a weight must not be above {TOTAL_WEIGHT_MAX}, got {weight}");
    }
    let units = (weight * WEIGHT_ONE as f64).round_ties_even() as u64;
    if units == 0 && weight > 0.0 {
        return input_err!("a weight must be 0 or at least {:e}, got {weight}", 1.0 / WEIGHT_ONE as f64);
    }
    Ok(units)
}

/// Scales a row to length 1; a row of zeros stays one.
pub fn to_unit_length(row: &mut [f64]) {
    // By the largest magnitude first: squares must neither vanish nor overflow.
    let largest = row.iter().fold(0.0_f64, |max, x| max.max(x.abs()));
    if largest == 0.0 {
        return;
    }
    row.iter_mut().for_each(|x| *x /= largest);
    let length = libm::sqrt(row.iter().fold(0.0, |sum, x| sum + x * x));
    row.iter_mut().for_each(|x| *x /= length);
}

/// `n_rows` vectors of `n_features` features. Indices ascend within a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    n_features: usize,
    density: Density,
    /// Row `i` is `offsets[i]..offsets[i + 1]` of `indices` and `values`; `n_rows + 1` entries.
    offsets: Vec<usize>,
    indices: Vec<u32>,
    values: Vec<f64>,
}

/// Which features the rows of a matrix hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Density {
    /// Those that are not zero.
    Sparse,
    /// All.
    Dense,
}

/// One row: feature indices, ascending, and their values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row<'a> {
    pub density: Density,
    pub indices: &'a [u32],
    pub values: &'a [f64],
}

impl<'a> Row<'a> {
    pub fn iter(&self) -> impl Iterator<Item = (usize, f64)> + 'a {
        self.indices.iter().map(|&index| index as usize).zip(self.values.iter().copied())
    }

    /// ‖x‖², summed in ascending feature order.
    pub fn squared_norm(&self) -> f64 {
        self.values.iter().fold(0.0, |sum, x| sum + x * x)
    }

    /// XXH3-128 of the row's canonical bytes: each (index, value) pair, little-endian.
    ///
    /// Every choice that must not depend on the order of rows or on partitions is made by this number.
    pub fn content_hash(&self) -> u128 {
        let mut hasher = XxHash3_128::with_seed(0);
        for (index, value) in self.indices.iter().zip(self.values) {
            hasher.write(&index.to_le_bytes());
            hasher.write(&value.to_bits().to_le_bytes());
        }
        hasher.finish_128()
    }
}

impl Rows {
    pub fn new(density: Density, n_features: usize) -> Self {
        Self { n_features, density, offsets: vec![0], indices: vec![], values: vec![] }
    }

    /// One of the rows of a matrix as a matrix of its own.
    pub fn of_one(row: Row<'_>, n_features: usize) -> Self {
        Self {
            n_features,
            density: row.density,
            offsets: vec![0, row.indices.len()],
            indices: row.indices.to_vec(),
            values: row.values.to_vec(),
        }
    }

    /// Takes over CSR parts as read from a file.
    ///
    /// # Errors
    /// When offsets, indices and values do not describe rows with ascending indices below `n_features`, all of
    /// them where the rows are dense, and finite values.
    pub fn try_from_parts(
        density: Density,
        n_features: usize,
        offsets: Vec<usize>,
        indices: Vec<u32>,
        values: Vec<f64>,
    ) -> Result<Self> {
        if n_features > FEATURES_MAX {
            return input_err!("{n_features} features are more than the limit of {FEATURES_MAX}");
        }
        let consistent = offsets.first() == Some(&0)
            && offsets.last() == Some(&indices.len())
            && offsets.windows(2).all(|pair| pair[0] <= pair[1])
            && indices.len() == values.len();
        if !consistent {
            return input_err!("the offsets of a block do not match its indices and values");
        }
        let rows = Self { n_features, density, offsets, indices, values };
        for i in 0..rows.n_rows() {
            let row = rows.row(i);
            let ascending = row.indices.windows(2).all(|pair| pair[0] < pair[1]);
            let in_range = row.indices.last().is_none_or(|&last| (last as usize) < n_features);
            let complete = density == Density::Sparse || row.indices.len() == n_features;
            if !(ascending && in_range && complete && row.values.iter().all(|x| x.is_finite())) {
                return input_err!(
                    "row {i} of a block is damaged: indices must ascend below {n_features} and values be finite"
                );
            }
        }
        Ok(rows)
    }

    /// Appends a row given by ascending `(index, value)` pairs. -0 is 0; sparse rows leave zeros out.
    ///
    /// # Errors
    /// On NaN or infinity, with the position of the value, and when a dense row has not every feature.
    pub fn push(&mut self, row: impl IntoIterator<Item = (u32, f64)>) -> Result<()> {
        let before = self.indices.len();
        for (index, value) in row {
            if !value.is_finite() {
                let i = self.n_rows();
                return input_err!("row {i}, feature {index}: {value} is not a finite number");
            }
            debug_assert!((index as usize) < self.n_features);
            if value != 0.0 || self.density == Density::Dense {
                self.indices.push(index);
                self.values.push(if value == 0.0 { 0.0 } else { value });
            }
        }
        let n_values = self.indices.len() - before;
        if self.density == Density::Dense && n_values != self.n_features {
            return input_err!("row {} has {n_values} features instead of {}", self.n_rows(), self.n_features);
        }
        self.offsets.push(self.indices.len());
        Ok(())
    }

    /// Some of the rows, in this order.
    pub fn gather(&self, rows: &[u32]) -> Self {
        let mut offsets = Vec::with_capacity(rows.len() + 1);
        offsets.push(0);
        let mut end = 0;
        for &row in rows {
            end += self.offsets[row as usize + 1] - self.offsets[row as usize];
            offsets.push(end);
        }
        let (mut indices, mut values) = (vec![0; end], vec![0.0; end]);
        let parts = parts_of_rows(&mut indices, &offsets, GATHERED_AT_ONCE).into_par_iter();
        let parts = parts.zip(parts_of_rows(&mut values, &offsets, GATHERED_AT_ONCE));
        parts.zip(rows.par_chunks(GATHERED_AT_ONCE)).for_each(|((mut indices, mut values), rows)| {
            for row in rows.iter().map(|&row| self.row(row as usize)) {
                indices.split_off_mut(..row.indices.len()).into_iter().for_each(|to| to.copy_from_slice(row.indices));
                values.split_off_mut(..row.values.len()).into_iter().for_each(|to| to.copy_from_slice(row.values));
            }
        });
        Self { n_features: self.n_features, density: self.density, offsets, indices, values }
    }

    /// Appends rows of a matrix of the same kind.
    pub fn append(&mut self, other: &Self) {
        assert_eq!((self.density, self.n_features), (other.density, other.n_features));
        let base = self.indices.len();
        self.offsets.extend(other.offsets[1..].iter().map(|offset| base + offset));
        self.indices.extend_from_slice(&other.indices);
        self.values.extend_from_slice(&other.values);
    }

    /// Appends a row of a matrix of the same kind.
    pub fn push_row(&mut self, row: Row<'_>) {
        debug_assert_eq!(row.density, self.density);
        self.indices.extend_from_slice(row.indices);
        self.values.extend_from_slice(row.values);
        self.offsets.push(self.indices.len());
    }

    pub fn n_rows(&self) -> usize {
        self.offsets.len() - 1
    }

    pub fn n_features(&self) -> usize {
        self.n_features
    }

    pub fn density(&self) -> Density {
        self.density
    }

    pub fn row(&self, i: usize) -> Row<'_> {
        let range = self.offsets[i]..self.offsets[i + 1];
        Row { density: self.density, indices: &self.indices[range.clone()], values: &self.values[range] }
    }

    pub fn offsets(&self) -> &[usize] {
        &self.offsets
    }

    pub fn indices(&self) -> &[u32] {
        &self.indices
    }

    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// Bytes held in memory.
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&self.offsets[..]) + size_of_val(&self.indices[..]) + size_of_val(&self.values[..])
    }
}

/// What belongs to the values of rows, cut into parts of so many rows.
pub(crate) fn parts_of_rows<'a, T>(mut all: &'a mut [T], offsets: &[usize], n_rows: usize) -> Vec<&'a mut [T]> {
    let ends = offsets.iter().skip(n_rows).step_by(n_rows).copied();
    let last = offsets.last().copied().unwrap_or(0);
    let mut start = 0;
    let part = |end: usize| {
        let part = all.split_off_mut(..end - start);
        start = end;
        part
    };
    ends.chain([last]).map_while(part).collect()
}

/// Rows and the weight of each, in units of [`WEIGHT_ONE`]⁻¹.
#[derive(Debug, Clone, PartialEq)]
pub struct Points {
    pub rows: Rows,
    pub weights: Vec<u64>,
}

impl Points {
    pub fn new(density: Density, n_features: usize) -> Self {
        Self { rows: Rows::new(density, n_features), weights: vec![] }
    }

    pub fn len(&self) -> usize {
        self.weights.len()
    }

    pub fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }

    /// Appends a row of the same features.
    pub fn push(&mut self, row: Row<'_>, weight: u64) {
        self.rows.push_row(row);
        self.weights.push(weight);
    }

    /// Adds the rows of `other`, which has the same features.
    pub fn append(&mut self, other: &Self) {
        self.rows.append(&other.rows);
        self.weights.extend_from_slice(&other.weights);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: bad values never enter a matrix. Method: push NaN and infinity, and parts that disagree.
    #[test]
    fn refuses_damaged_rows() {
        let mut rows = Rows::new(Density::Sparse, 3);
        rows.push([(0, 1.0), (2, -0.0)]).unwrap();
        assert_eq!(rows.row(0).indices, &[0], "-0 is 0 and zeros are not stored");
        let mut dense = Rows::new(Density::Dense, 2);
        dense.push([(0, -0.0), (1, 2.0)]).unwrap();
        assert_eq!(dense.row(0).values[0].to_bits(), 0, "-0 is 0");
        assert!(dense.push([(0, 1.0)]).unwrap_err().0.contains("row 1 has 1 features instead of 2"));
        let parts = |density, offsets, indices, values| Rows::try_from_parts(density, 3, offsets, indices, values);
        assert!(rows.push([(1, f64::NAN)]).unwrap_err().0.contains("row 1, feature 1"));
        assert!(parts(Density::Sparse, vec![0, 2], vec![1, 1], vec![1.0, 1.0]).is_err());
        assert!(parts(Density::Sparse, vec![0, 1], vec![3], vec![1.0]).is_err());
        assert!(parts(Density::Sparse, vec![0, 2], vec![1], vec![1.0]).is_err());
        assert!(parts(Density::Dense, vec![0, 2], vec![0, 1], vec![1.0, 1.0]).is_err());
    }

    /// Goal: weights are exact where they can be and refused where they cannot.
    #[test]
    fn quantises_weights() {
        assert_eq!(weight_units(3.0).unwrap(), 3 * WEIGHT_ONE);
        assert_eq!(weight_units(0.5).unwrap(), WEIGHT_ONE / 2);
        assert_eq!(weight_units(0.0).unwrap(), 0);
        for bad in [-1.0, f64::NAN, f64::INFINITY, 1e-9, 1e300] {
            assert!(weight_units(bad).is_err(), "{bad}");
        }
    }
}
