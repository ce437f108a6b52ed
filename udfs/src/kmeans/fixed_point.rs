//! Exact sums: every value is quantised once, by a power of two, to 53 bits; products with integer weights
//! are added up in `i128`. With weights below 2⁶³ in total a sum stays below 2¹¹⁶, so it cannot overflow, and
//! it does not depend on the order of its terms.

use serde::{Deserialize, Serialize};

use crate::matrix::{Points, Row};

/// Bits of a quantised value: those of an `f64`'s mantissa.
const BITS: i32 = 52;
/// Largest shift, so that its power of two is finite. Below 2⁻⁹⁴⁸ a value keeps fewer bits.
const SHIFT_MAX: i32 = 1_000;

/// What the scales are derived from: largest magnitudes over all rows, exact whatever the order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// For each feature, the largest |x|.
    #[serde(with = "crate::exact::all")]
    pub value_abs_max: Vec<f64>,
    /// The largest ‖x‖².
    #[serde(with = "crate::exact")]
    pub squared_norm_max: f64,
}

impl Profile {
    pub fn new(n_features: usize) -> Self {
        Self { value_abs_max: vec![0.0; n_features], squared_norm_max: 0.0 }
    }

    pub fn of(points: &Points) -> Self {
        let mut profile = Self::new(points.rows.n_features());
        for i in 0..points.len() {
            profile.add(points.rows.row(i));
        }
        profile
    }

    fn add(&mut self, row: Row<'_>) {
        for (feature, x) in row.iter() {
            self.value_abs_max[feature] = self.value_abs_max[feature].max(x.abs());
        }
        self.squared_norm_max = self.squared_norm_max.max(row.squared_norm());
    }

    pub fn merge(&mut self, other: &Self) {
        assert_eq!(self.value_abs_max.len(), other.value_abs_max.len());
        for (max, x) in self.value_abs_max.iter_mut().zip(&other.value_abs_max) {
            *max = max.max(*x);
        }
        self.squared_norm_max = self.squared_norm_max.max(other.squared_norm_max);
    }
}

/// The powers of two by which values and squared distances are quantised in one fit.
#[derive(Debug, Clone, PartialEq)]
pub struct FixedPoint {
    value_factors: Vec<f64>,
    distance_factor: f64,
}

impl FixedPoint {
    /// A centre lies in the convex hull of rows and zero, so no squared distance exceeds 4·max‖x‖².
    pub fn new(profile: &Profile) -> Self {
        Self {
            value_factors: profile.value_abs_max.iter().map(|&max| factor(max)).collect(),
            distance_factor: factor(4.0 * profile.squared_norm_max),
        }
    }

    pub fn n_features(&self) -> usize {
        self.value_factors.len()
    }

    pub fn quantise_value(&self, feature: usize, x: f64) -> i64 {
        (x * self.value_factors[feature]).round_ties_even() as i64
    }

    pub fn quantise_distance(&self, squared_distance: f64) -> i64 {
        (squared_distance * self.distance_factor).round_ties_even() as i64
    }

    /// Σ w·x as summed, divided by Σ w: the mean, rounded twice.
    pub fn mean(&self, feature: usize, sum: i128, weight: u64) -> f64 {
        (sum as f64 / weight as f64) / self.value_factors[feature]
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

    /// Goal: quantised values keep 52 bits below the largest, at any magnitude.
    #[test]
    fn keeps_the_mantissa() {
        for max in [1e-270, 3e-9, 0.5, 1.0, 7.3, 1e100] {
            let scale = FixedPoint::new(&Profile { value_abs_max: vec![max], squared_norm_max: max });
            let x = max * 0.7;
            let back = scale.mean(0, i128::from(scale.quantise_value(0, x)), 1);
            assert!(((back - x) / max).abs() < 1e-15, "{max}");
        }
    }
}
