//! Where `f32` is precise: rows and centres are shifted (dense ones, so that what they share does not cancel) and
//! scaled by a power of two before they become `f32`. No label depends on it, only how many rows are decided without
//! reference arithmetic.

use rayon::prelude::*;

use super::assign::CHUNK_ROWS;
use super::{Centroids, FixedPoint, Profile, kernel, wide};
use crate::matrix::{Density, Row, Rows, parts_of_rows};

/// Unit roundoff of `f32`.
const ROUNDOFF: f64 = f32::EPSILON as f64 / 2.0;

/// Everything that is bounded by first-order terms is multiplied by this for the higher ones, and for the rounding of
/// the bounds themselves.
const SLACK: f64 = 1.02;

/// Rows with more values are decided in reference arithmetic: the error bound of their `f32` scores is no longer of
/// first order.
const KERNEL_VALUES_MAX: usize = 1 << 16;

/// Scaled rows with a greater norm are decided in reference arithmetic: they lie far from all that was trained on.
const NORM_MAX: f64 = 1024.0;

/// Added to the largest ‖c‖ where rows are dense. Reference arithmetic errs too, by some n·2⁻⁵²·‖x‖²; that is less
/// than the error of `f32` unless all centres lie this close to the shift.
const REFERENCE_NORM: f64 = 1.0 / 131_072.0;

/// Keeps the bound above what underflow may do to scores near zero.
const MARGIN_MIN: f64 = 1e-30;

/// A shift and a scale.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// Empty where rows are sparse.
    shift: Vec<f64>,
    scale: f64,
}

impl Frame {
    /// For rows of this profile, whose mean is `mean`.
    pub fn new(profile: &Profile, mean: &[f64]) -> Self {
        let shift = if profile.density == Density::Dense { mean.to_vec() } else { vec![] };
        Self { shift, scale: reciprocal(profile.squared_radius_max()) }
    }

    /// For rows of which only the centres are known.
    pub fn of_centroids(density: Density, centroids: &Centroids) -> Self {
        let (k, d) = (centroids.n_clusters(), centroids.n_features());
        let mut shift = vec![];
        if density == Density::Dense {
            shift = vec![0.0; d];
            for cluster in 0..k {
                shift.iter_mut().zip(centroids.centre(cluster)).for_each(|(sum, c)| *sum += c / k as f64);
            }
        }
        let frame = Self { shift, scale: 1.0 };
        let square = |(feature, c): (usize, &f64)| frame.value(feature, *c) * frame.value(feature, *c);
        let radius = |cluster| centroids.centre(cluster).iter().enumerate().map(square).sum();
        let scale = reciprocal((0..k).map(radius).fold(0.0, f64::max));
        Self { scale, ..frame }
    }

    pub(super) fn scale(&self) -> f64 {
        self.scale
    }

    /// A squared distance of the data as one of the frame.
    pub(super) fn squared(&self, squared_distance: f64) -> f64 {
        squared_distance * self.scale * self.scale
    }

    pub(super) fn density(&self) -> Density {
        if self.shift.is_empty() { Density::Sparse } else { Density::Dense }
    }

    /// The image of one value, before it is rounded to `f32`.
    pub(super) fn value(&self, feature: usize, x: f64) -> f64 {
        (x - self.shift.get(feature).copied().unwrap_or(0.0)) * self.scale
    }

    /// Writes the image of a row, and gives its reach and its ‖x‖².
    fn write(&self, row: Row<'_>, image: &mut [f32]) -> (f32, f64) {
        let put = |squared: f64, (x, image): (&f64, &mut f32)| {
            let x = x * self.scale;
            *image = x as f32;
            squared + x * x
        };
        let squared = match row.density {
            Density::Sparse => row.values.iter().zip(image).fold(0.0, put),
            Density::Dense => wide::write_image(row.values, &self.shift, self.scale, image),
        };
        (Self::reach(row.values.len(), libm::sqrt(squared)), squared)
    }

    /// What a table with centres up to this norm, scaled, adds to the margin of a row: see [`kernel::Table::margin`].
    ///
    /// With `u` the unit roundoff, `n` values of a row, `M` the largest ‖c‖: rounding x and c, and adding up n
    /// products, errs by at most (n + 2)·u·‖x‖·M; rounding ‖c‖², subtracting, and the threshold by another
    /// 2·u·M² + 4·u·‖x‖·M. The margin is twice that: one score may be too high, the other too low.
    pub(super) fn margin(&self, norm_max: f64) -> (f32, f32) {
        let norm_max = if self.density() == Density::Dense { norm_max + REFERENCE_NORM } else { norm_max };
        ((norm_max * SLACK) as f32, (10.0 * ROUNDOFF * norm_max * norm_max * SLACK + MARGIN_MIN) as f32)
    }

    /// The other factor of the margin, of a row with `n` values and this norm, scaled.
    fn reach(n: usize, norm: f64) -> f32 {
        if n > KERNEL_VALUES_MAX || norm.is_nan() || norm > NORM_MAX {
            return f32::INFINITY;
        }
        (2.0 * (2.0 * (n as f64 + 2.0) + 6.0) * ROUNDOFF * norm * SLACK) as f32
    }
}

/// 2⁻ᵉ for the smallest e with `√squared ≤ 2ᵉ`.
fn reciprocal(squared: f64) -> f64 {
    if squared == 0.0 {
        return 1.0;
    }
    let (_, exponent) = libm::frexp(libm::sqrt(squared));
    libm::ldexp(1.0, -exponent)
}

/// Rows as the kernels read them, beside the rows that they are the image of.
#[derive(Debug, Clone)]
pub struct Image {
    density: Density,
    values: Vec<f32>,
    reach: Vec<f32>,
    /// ‖x‖² of each row, before its values were rounded.
    squared_norms: Vec<f64>,
    frame_scale: f64,
}

impl Image {
    pub fn new(rows: &Rows, frame: &Frame) -> Self {
        assert_eq!(rows.density(), frame.density());
        let n = rows.n_rows();
        let mut image = Self {
            density: rows.density(),
            values: vec![0.0; rows.values().len()],
            reach: vec![0.0; n],
            squared_norms: vec![0.0; n],
            frame_scale: frame.scale,
        };
        let values = parts_of_rows(&mut image.values, rows.offsets(), CHUNK_ROWS);
        let of_rows = image.reach.par_chunks_mut(CHUNK_ROWS).zip(image.squared_norms.par_chunks_mut(CHUNK_ROWS));
        of_rows.zip(values).enumerate().for_each(|(chunk, ((reach, squared_norms), values))| {
            let mut values = values;
            for (i, (reach, squared_norm)) in reach.iter_mut().zip(squared_norms).enumerate() {
                let row = rows.row(chunk * CHUNK_ROWS + i);
                let (of_row, after) = std::mem::take(&mut values).split_at_mut(row.values.len());
                values = after;
                (*reach, *squared_norm) = frame.write(row, of_row);
            }
        });
        image
    }

    pub(super) fn clear(&mut self) {
        self.values.clear();
        self.reach.clear();
        self.squared_norms.clear();
    }

    pub(super) fn push(&mut self, row: Row<'_>, frame: &Frame) {
        let start = self.values.len();
        self.values.resize(start + row.values.len(), 0.0);
        let (reach, squared_norm) = frame.write(row, &mut self.values[start..]);
        self.reach.push(reach);
        self.squared_norms.push(squared_norm);
    }

    /// Σ w·‖x − shift‖² of rows of these weights, quantised.
    pub(super) fn squares(&self, weights: &[u64], scale: &FixedPoint) -> i128 {
        let square = |(squared_norm, weight): (&f64, &u64)| {
            let squared_distance = squared_norm / self.frame_scale / self.frame_scale;
            i128::from(scale.quantise_distance(squared_distance)) * i128::from(*weight)
        };
        self.squared_norms.par_iter().zip(weights).with_min_len(CHUNK_ROWS).map(square).sum()
    }

    /// ‖x‖² of a row in the frame, and how far its scores may err.
    pub(super) fn squared_norm_and_reach(&self, row: usize) -> (f64, f32) {
        (self.squared_norms[row], self.reach[row])
    }

    /// The only row of this image, which is that of `row`. `offsets` are zero and the number of its values.
    pub(super) fn of_row<'a>(&'a self, row: Row<'a>, offsets: &'a [usize; 2]) -> kernel::Rows<'a> {
        match self.density {
            Density::Sparse => {
                let (values, reach) = (&self.values, &self.reach);
                kernel::Rows::Sparse(kernel::SparseRows { offsets, indices: row.indices, values, reach })
            }
            Density::Dense => kernel::Rows::Dense { values: &self.values, reach: &self.reach },
        }
    }

    /// A range of `rows`, which this is the image of, for a kernel.
    pub(super) fn range<'a>(&'a self, rows: &'a Rows, range: std::ops::Range<usize>) -> kernel::Rows<'a> {
        let reach = &self.reach[range.clone()];
        match self.density {
            Density::Sparse => kernel::Rows::Sparse(kernel::SparseRows {
                offsets: &rows.offsets()[range.start..=range.end],
                indices: rows.indices(),
                values: &self.values,
                reach,
            }),
            Density::Dense => {
                let d = rows.n_features();
                kernel::Rows::Dense { values: &self.values[range.start * d..range.end * d], reach }
            }
        }
    }
}
