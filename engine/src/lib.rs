//! What every Covey process must agree on: sessions, codecs, storage, the catalog, our plan operators and the
//! model registry. Generic over who calls it: scheduler, executor, the embedded cluster and the tests.

pub mod allocator;
pub mod block_cache;
pub mod blocks;
pub mod catalog;
pub mod codec;
pub mod coordinator;
pub mod databases;
pub mod distribution;
pub mod encoder;
pub mod failure;
pub mod fingerprint;
pub mod models;
pub mod operators;
pub mod recent;
mod rules;
mod series;
pub mod session;
pub mod settings;
pub mod signals;
pub mod staging;
pub mod storage;
pub mod threads;
pub mod upstream;

use datafusion::error::DataFusionError;

/// Keeps one of our errors whole inside DataFusion's.
pub fn external(error: impl std::error::Error + Send + Sync + 'static) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// A user's mistake that the engine found: what, where, the value and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserError(pub String);

impl std::fmt::Display for UserError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for UserError {}

/// Returns a [`UserError`] as a DataFusion error, built like `format!`.
#[macro_export]
macro_rules! user_err {
    ($($arg:tt)*) => { Err($crate::external($crate::UserError(format!($($arg)*)))) };
}
