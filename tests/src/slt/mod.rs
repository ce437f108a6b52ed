//! Files of SQL statements with their answers (sqllogictest), run by several engines that must agree.
//!
//! Our own files are in `tests/slt`; those of others are run as they are, and counted.

mod engines;
mod foreign;
mod records;

pub use engines::{CoveyEngine, LocalEngine};
pub use foreign::{ForeignOptions, run_foreign};
pub use records::{Outcome, run_records};
