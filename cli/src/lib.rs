//! The command `covey`: runs SQL against a cluster, or against one that it starts inside itself.
//!
//! Statements always travel over Flight SQL; the embedded cluster is the same scheduler and executors as the
//! server binaries start, on loopback ports.

pub mod args;
mod client;
mod collect;
mod embedded;
mod output;
mod plot;
mod progress;
mod prompt;
mod run;
mod script;

pub use client::Client;
pub use collect::collect;
pub use embedded::Embedded;
pub use run::main;
pub use script::{Statement, split};
