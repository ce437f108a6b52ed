//! Pure functions on arrays and in-memory matrices: text cleaning, TF-IDF and the k-means kernels.
//!
//! Separate from everything else so that the hot loops and their oracles build and test in seconds:
//! no IO, no async, no Ballista. DataFusion is used for one thing, the shape of a SQL function.

pub mod exact;
pub mod functions;
pub mod kmeans;
pub mod matrix;
#[cfg(test)]
mod oracle_tests;
pub mod registry;
#[cfg(test)]
mod sweep_tests;
pub mod text;
pub mod tfidf;
mod weight;

pub use weight::WeightUnitsFunc;

/// What a caller did wrong: the offending value, its limit and what to do. Lower case, no full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputError(pub String);

impl std::fmt::Display for InputError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for InputError {}

pub type Result<T, E = InputError> = std::result::Result<T, E>;

/// Returns an [`InputError`] built like `format!`.
macro_rules! input_err {
    ($($arg:tt)*) => { Err($crate::InputError(format!($($arg)*))) };
}
pub(crate) use input_err;
