//! The reference arithmetic, by which every label and distance is defined: `f64`, features in ascending order, no
//! fused multiply-add. Whatever is quicker has to give the same labels.

use crate::matrix::{Density, Row};

/// What is lowest for the nearest centre: ‖c‖² − 2·x·c of a sparse row, which costs only its non-zeros, and Σ(x − c)²
/// of a dense one, which does not cancel where rows lie far from zero.
pub(super) fn score(row: Row<'_>, centre: &[f64], squared_norm: f64) -> f64 {
    match row.density {
        Density::Dense => squared_distance(row, centre, squared_norm),
        Density::Sparse => squared_norm - 2.0 * row.iter().fold(0.0, |sum, (feature, x)| sum + x * centre[feature]),
    }
}

/// ‖x − c‖². Of a sparse row it is ‖c‖² + Σ x·(x − 2c) over the non-zeros; rounding may leave that below zero where a
/// row lies on its centre, and it is then zero.
pub(super) fn squared_distance(row: Row<'_>, centre: &[f64], squared_norm: f64) -> f64 {
    match row.density {
        Density::Dense => row.values.iter().zip(centre).fold(0.0, |sum, (x, c)| sum + (x - c) * (x - c)),
        Density::Sparse => {
            let sum = row.iter().fold(0.0, |sum, (feature, x)| sum + x * (x - 2.0 * centre[feature]));
            (squared_norm + sum).max(0.0)
        }
    }
}

/// ‖x − c‖² of four dense rows, each with a centre of its own.
pub(super) fn four_squared_distances(rows: [&[f64]; 4], centres: [&[f64]; 4]) -> [f64; 4] {
    let n = rows[0].len();
    let (rows, centres) = (rows.map(|row| &row[..n]), centres.map(|centre| &centre[..n]));
    let mut sums = [0.0; 4];
    for i in 0..n {
        for row in 0..4 {
            let way = rows[row][i] - centres[row][i];
            sums[row] += way * way;
        }
    }
    sums
}
