//! Loops over the values of a dense row, compiled once for each width of registers and chosen at run time. They take the
//! same operations in the same order whatever the width, so that results have the same bits.

#![allow(unsafe_code, reason = "functions compiled for an instruction set are called after the processor was asked")]

use super::fixed_point::{HALF_BITS, ROUND};
use super::kernel::{INSTRUCTION_SET, InstructionSet};

const LINE_BYTES: usize = 64;

/// Sums of squares are taken in so many parts, each over every so many-th value: one sum alone would wait for itself.
const PARTS: usize = 16;

/// A number below 2⁵³ rounded to an integer, ties to even.
#[inline(always)]
pub(super) fn rounded(whole: f64) -> i64 {
    // `f64::round_ties_even` is a call on processors that are not known to have more than SSE2.
    // SAFETY: SSE2 is a part of x86-64.
    #[cfg(target_arch = "x86_64")]
    return unsafe { std::arch::x86_64::_mm_cvtsd_si64(std::arch::x86_64::_mm_set_sd(whole)) };
    #[cfg(not(target_arch = "x86_64"))]
    return whole.round_ties_even() as i64;
}

/// Has these values brought to the cache, while others are worked on.
#[inline(always)]
pub(super) fn prefetch<T>(values: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for line in values.chunks(LINE_BYTES / size_of::<T>()) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: to prefetch reads nothing, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
}

/// A function that is compiled for every instruction set.
macro_rules! widened {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)? $body:block) => {
        $(#[$doc])*
        pub(super) fn $name($($arg: $type),*) $(-> $result)? {
            #[inline(always)]
            fn portable($($arg: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2($($arg: $type),*) $(-> $result)? {
                portable($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl")]
            fn avx512($($arg: $type),*) $(-> $result)? {
                portable($($arg),*)
            }

            match *INSTRUCTION_SET {
                InstructionSet::Portable => portable($($arg),*),
                // SAFETY: the instruction set is one that the processor has.
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: the same.
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx512 => unsafe { avx512($($arg),*) },
            }
        }
    };
}

widened! {
    /// Adds `sign` times the values, quantised, to sums of their halves: see [`super::FixedPoint`].
    fn add_halves(values: &[f64], factors: &[f64], sign: f64, high: &mut [f64], low: &mut [f64]) {
        const UNIT: f64 = (1_u64 << HALF_BITS) as f64;
        let n = values.len();
        let (factors, high, low) = (&factors[..n], &mut high[..n], &mut low[..n]);
        for i in 0..n {
            let whole = values[i] * (sign * factors[i]);
            let upper = (whole * (1.0 / UNIT) + ROUND) - ROUND;
            high[i] += upper;
            low[i] += (whole - upper * UNIT + ROUND) - ROUND;
        }
    }
}

widened! {
    /// Widens ranges by values, none of which is NaN.
    fn widen(values: &[f64], least: &mut [f64], most: &mut [f64]) {
        let n = values.len();
        let (least, most) = (&mut least[..n], &mut most[..n]);
        for i in 0..n {
            let x = values[i];
            least[i] = if x < least[i] { x } else { least[i] };
            most[i] = if x > most[i] { x } else { most[i] };
        }
    }
}

widened! {
    /// Writes the values less a shift, times a scale, and gives Σ of their squares before they are rounded.
    fn write_image(values: &[f64], shift: &[f64], scale: f64, image: &mut [f32]) -> f64 {
        let n = values.len();
        let (shift, image) = (&shift[..n], &mut image[..n]);
        let mut parts = [0.0; PARTS];
        let whole = n - n % PARTS;
        let mut start = 0;
        while start < whole {
            for part in 0..PARTS {
                let x = (values[start + part] - shift[start + part]) * scale;
                parts[part] += x * x;
                image[start + part] = x as f32;
            }
            start += PARTS;
        }
        for i in whole..n {
            let x = (values[i] - shift[i]) * scale;
            parts[i - whole] += x * x;
            image[i] = x as f32;
        }
        parts.iter().fold(0.0, |sum, part| sum + part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what a loop gives is what its definition says, of rows of any length.
    #[test]
    fn loops_do_what_they_say() {
        for n in [0, 1, 7, 16, 37] {
            let values: Vec<f64> = (0..n).map(|i| f64::from(i) * 1.5 - 3.0).collect();
            let shift: Vec<f64> = (0..n).map(f64::from).collect();
            let mut image = vec![0.0; values.len()];
            let squares = write_image(&values, &shift, 2.0, &mut image);
            let expected: Vec<f64> = values.iter().zip(&shift).map(|(x, s)| (x - s) * 2.0).collect();
            assert!(image.iter().zip(&expected).all(|(x, y)| f64::from(*x) == *y));
            assert_eq!(squares, expected.iter().map(|x| x * x).sum::<f64>());
            let (mut least, mut most) = (vec![0.0; values.len()], vec![1.0; values.len()]);
            widen(&values, &mut least, &mut most);
            assert!(values.iter().zip(&least).all(|(x, least)| *least == x.min(0.0)));
            assert!(values.iter().zip(&most).all(|(x, most)| *most == x.max(1.0)));
        }
    }
}
