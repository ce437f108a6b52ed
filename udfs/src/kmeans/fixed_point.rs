//! Exact sums: every value is quantised once, by a power of two, to 53 bits; products with integer weights
//! are added up in `i128`. With weights below 2⁶³ in total a sum stays below 2¹¹⁶, so it cannot overflow, and
//! it does not depend on the order of its terms.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::assign::CHUNK_ROWS;
use super::sums::Scratches;
use super::wide::{self, rounded};
use crate::matrix::{Density, Points, Row};

/// Bits of a quantised value: those of an `f64`'s mantissa.
const BITS: i32 = 52;
/// Largest shift, so that its power of two is finite. Below 2⁻⁹⁴⁸ a value keeps fewer bits.
const SHIFT_MAX: i32 = 1_000;

/// Bits of the lower half of a quantised value.
pub(super) const HALF_BITS: i32 = 26;
/// Half of a quantised value times this is a sum that `f64` holds exactly.
pub(super) const HALVES_ROWS_MAX: usize = 1 << 24;
/// Added to a number of at most 51 bits and taken away again, it rounds it to an integer, ties to even: in two additions,
/// which vectorise everywhere.
pub(super) const ROUND: f64 = (3_u64 << 51) as f64;

/// What the scales are derived from: the range of every feature and the largest norm over all rows, exact whatever
/// the order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    pub density: Density,
    /// For each feature, the smallest and the largest x; zero is among them where rows are sparse.
    #[serde(with = "crate::exact::all")]
    value_min: Vec<f64>,
    #[serde(with = "crate::exact::all")]
    value_max: Vec<f64>,
    /// The largest ‖x‖² of sparse rows.
    #[serde(with = "crate::exact")]
    squared_norm_max: f64,
}

impl Profile {
    pub fn new(density: Density, n_features: usize) -> Self {
        let (least, most) = match density {
            Density::Sparse => (0.0, 0.0),
            Density::Dense => (f64::INFINITY, f64::NEG_INFINITY),
        };
        Self { density, value_min: vec![least; n_features], value_max: vec![most; n_features], squared_norm_max: 0.0 }
    }

    pub fn of(points: &Points) -> Self {
        let nothing = || Self::new(points.rows.density(), points.rows.n_features());
        let chunk_rows = points.len().div_ceil(rayon::current_num_threads()).max(CHUNK_ROWS);
        let part = |start: usize| {
            let mut profile = nothing();
            (start..points.len().min(start + chunk_rows)).for_each(|i| profile.add(points.rows.row(i)));
            profile
        };
        let parts = (0..points.len()).into_par_iter().step_by(chunk_rows).map(part);
        parts.reduce(nothing, |mut a, b| {
            a.merge(&b);
            a
        })
    }

    pub fn n_features(&self) -> usize {
        self.value_min.len()
    }

    fn add(&mut self, row: Row<'_>) {
        if row.density == Density::Dense {
            return wide::widen(row.values, &mut self.value_min, &mut self.value_max);
        }
        // Zero is in every range. Most values widen none, and so write nothing that the next would wait for. One loop for
        // all: where it ends is guessed wrong once for each row.
        let mut squared_norm = 0.0;
        for (feature, x) in row.iter() {
            squared_norm += x * x;
            if x > self.value_max[feature] {
                self.value_max[feature] = x;
            } else if x < self.value_min[feature] {
                self.value_min[feature] = x;
            }
        }
        self.squared_norm_max = self.squared_norm_max.max(squared_norm);
    }

    pub fn merge(&mut self, other: &Self) {
        assert_eq!((self.density, self.n_features()), (other.density, other.n_features()));
        self.value_min.iter_mut().zip(&other.value_min).for_each(|(min, x)| *min = min.min(*x));
        self.value_max.iter_mut().zip(&other.value_max).for_each(|(max, x)| *max = max.max(*x));
        self.squared_norm_max = self.squared_norm_max.max(other.squared_norm_max);
    }

    fn ranges(&self) -> impl Iterator<Item = (f64, f64)> {
        self.value_min.iter().copied().zip(self.value_max.iter().copied())
    }

    /// No row is farther from zero where rows are sparse, or from the mean of all where they are dense.
    pub(super) fn squared_radius_max(&self) -> f64 {
        match self.density {
            Density::Sparse => self.squared_norm_max,
            Density::Dense => self.squared_distance_max(),
        }
    }

    /// No row is farther from a centre, which lies in the convex hull of the rows. Of sparse rows the norms bound it
    /// more tightly than the ranges of their many features do.
    fn squared_distance_max(&self) -> f64 {
        match self.density {
            Density::Sparse => 4.0 * self.squared_norm_max,
            Density::Dense => self.ranges().fold(0.0, |sum, (min, max)| sum + (max - min) * (max - min)),
        }
    }
}

/// Σ w·d² of some rows, the same whatever their order: in two parts, so that rows near their centres count beside rows that
/// lie 2⁵² times as far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DistanceSum {
    high: i128,
    low: i128,
}

impl DistanceSum {
    pub fn merge(&mut self, other: Self) {
        self.high += other.high;
        self.low += other.low;
    }
}

/// The units of the lower part of a distance, in one of the higher.
const LOW_UNIT: f64 = (1_u64 << BITS) as f64;

/// The powers of two by which values, distances and their squares are quantised in one fit.
#[derive(Debug, Clone, PartialEq)]
pub struct FixedPoint {
    value_factors: Vec<f64>,
    distance_factor: f64,
    root_factor: f64,
    scratches: Scratches,
}

impl FixedPoint {
    pub fn new(profile: &Profile) -> Self {
        Self {
            root_factor: factor(libm::sqrt(profile.squared_distance_max())),
            value_factors: profile.ranges().map(|(min, max)| factor(min.abs().max(max.abs()))).collect(),
            distance_factor: factor(profile.squared_distance_max()),
            scratches: Scratches::default(),
        }
    }

    pub fn n_features(&self) -> usize {
        self.value_factors.len()
    }

    pub(super) fn scratches(&self) -> &Scratches {
        &self.scratches
    }

    /// Values of a feature times this are quantised by rounding.
    pub(super) fn value_factor(&self, feature: usize) -> f64 {
        self.value_factors[feature]
    }

    pub fn quantise_value(&self, feature: usize, x: f64) -> i64 {
        rounded(x * self.value_factors[feature])
    }

    /// Adds the quantised values of a dense row to sums of their halves, or takes them away: what [`Self::quantise_value`]
    /// gives is the first times 2²⁶ plus the second.
    pub(super) fn add_halves(&self, values: &[f64], sign: f64, high: &mut [f64], low: &mut [f64]) {
        wide::add_halves(values, &self.value_factors, sign, high, low);
    }

    /// A sum of whole values from the sums of their halves.
    pub(super) fn join_halves(high: f64, low: f64) -> i128 {
        (i128::from(high as i64) << HALF_BITS) + i128::from(low as i64)
    }

    pub fn quantise_distance(&self, squared_distance: f64) -> i64 {
        rounded(squared_distance * self.distance_factor)
    }

    /// A distance, not its square.
    pub fn quantise_root(&self, distance: f64) -> i64 {
        rounded(distance * self.root_factor)
    }

    /// Σ w·d as summed, divided by Σ w; zero where there are no rows.
    pub fn mean_distance(&self, sum: i128, weight: u64) -> f64 {
        if weight == 0 { 0.0 } else { sum as f64 / weight as f64 / self.root_factor }
    }

    /// Σ w·x as summed, divided by Σ w: the mean, rounded twice.
    pub fn mean(&self, feature: usize, sum: i128, weight: u64) -> f64 {
        (sum as f64 / weight as f64) / self.value_factors[feature]
    }

    /// The mean less another number, rounded as the difference is: it does not cancel.
    pub fn mean_less(&self, feature: usize, sum: i128, weight: u64, other: f64) -> f64 {
        let other = other * self.value_factors[feature];
        let whole = other.round_ties_even();
        let sum = sum - whole as i128 * i128::from(weight);
        (sum as f64 / weight as f64 - (other - whole)) / self.value_factors[feature]
    }

    /// Adds a row.
    pub(super) fn add_distance(&self, sum: &mut DistanceSum, squared_distance: f64, weight: u64) {
        let whole = squared_distance * self.distance_factor;
        let high = rounded(whole);
        sum.high += i128::from(high) * i128::from(weight);
        sum.low += i128::from(rounded((whole - high as f64) * LOW_UNIT)) * i128::from(weight);
    }

    /// Σ w·d² in rows of weight one.
    pub fn inertia_of(&self, sum: DistanceSum) -> f64 {
        let whole = sum.high as f64 + sum.low as f64 / LOW_UNIT;
        whole / self.distance_factor / crate::matrix::WEIGHT_ONE as f64
    }

    /// Σ w·d² in rows of weight one, from its quantised sum.
    pub fn inertia(&self, sum: i128) -> f64 {
        sum as f64 / self.distance_factor / crate::matrix::WEIGHT_ONE as f64
    }
}

/// 2^(52 − e) for the smallest e with `max ≤ 2^e`.
fn factor(max: f64) -> f64 {
    if max == 0.0 {
        return 1.0;
    }
    let (_, exponent) = libm::frexp(max);
    libm::ldexp(1.0, (BITS - exponent).min(SHIFT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: sums of halves are sums of quantised values, ties included. Method: random values of all magnitudes, and values
    /// that lie halfway between two integers.
    #[test]
    fn halves_add_up() {
        let mut bits = 0x9e37_79b9_7f4a_7c15_u64;
        let mut points = Points::new(Density::Dense, 4);
        for i in 0..3_000 {
            let row = (0..4).map(|feature| {
                bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let x = (bits >> 11) as f64 / (1_u64 << 53) as f64 * 2.0 - 1.0;
                let x = if i % 7 == 0 { x * libm::ldexp(1.0, -(i % 60)) } else { x };
                // The scale of a feature up to 1 is 2^52: halfway between two of its units.
                (feature, if i % 5 == 0 { libm::ldexp((bits % 4_001) as f64 - 2_000.0, -53) } else { x })
            });
            points.rows.push(row).unwrap();
            points.weights.push(1);
        }
        let scale = FixedPoint::new(&Profile::of(&points));
        let (mut high, mut low, mut expected) = (vec![0.0; 4], vec![0.0; 4], [0_i128; 4]);
        for i in 0..points.len() {
            let values = points.rows.row(i).values;
            let sign = if i % 3 == 0 { -1 } else { 1 };
            scale.add_halves(values, sign as f64, &mut high, &mut low);
            for feature in 0..4 {
                let exact = (values[feature] * scale.value_factors[feature]).round_ties_even() as i64;
                assert_eq!(scale.quantise_value(feature, values[feature]), exact);
                expected[feature] += sign * i128::from(exact);
                assert_eq!(FixedPoint::join_halves(high[feature], low[feature]), expected[feature], "row {i}");
            }
        }
    }

    /// Goal: quantised values keep 52 bits below the largest, at any magnitude.
    #[test]
    fn keeps_the_mantissa() {
        for max in [1e-270, 3e-9, 0.5, 1.0, 7.3, 1e100] {
            let mut points = Points::new(Density::Sparse, 1);
            points.rows.push([(0, max)]).unwrap();
            points.weights.push(1);
            let scale = FixedPoint::new(&Profile::of(&points));
            let x = max * 0.7;
            let back = scale.mean(0, i128::from(scale.quantise_value(0, x)), 1);
            assert!(((back - x) / max).abs() < 1e-15, "{max}");
        }
    }

    /// Goal: a row near its centre counts beside one that lies a billion times as far, and a sum does not depend on order.
    #[test]
    fn near_rows_count_beside_far_ones() {
        let mut profile = Profile::new(Density::Dense, 1);
        [0.0, 1e9].iter().for_each(|x| wide::widen(&[*x], &mut profile.value_min, &mut profile.value_max));
        let scale = FixedPoint::new(&profile);
        let distances = [0.25, 1e18, 3.5, 7e-3, 1e18, 12.0];
        let sum_of = |distances: &mut dyn Iterator<Item = &f64>| {
            let mut sum = DistanceSum::default();
            distances.for_each(|distance| scale.add_distance(&mut sum, *distance, crate::matrix::WEIGHT_ONE));
            sum
        };
        assert_eq!(sum_of(&mut distances.iter()), sum_of(&mut distances.iter().rev()));
        let near = sum_of(&mut distances.iter().filter(|distance| **distance < 1e9));
        assert!((scale.inertia_of(near) - 15.757).abs() < 1e-9, "{}", scale.inertia_of(near));
        assert_eq!(scale.inertia_of(sum_of(&mut [1e18, 1e18].iter())), 2e18);
    }
}
