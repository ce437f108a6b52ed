//! The executor process: Ballista's executor with Covey's session, codec, models and blocks.
//!
//! [`serve`] is the whole process but for flags and signals; `covey-executor` and the embedded cluster call it alike.

mod cancel;
mod compact;
mod config;
mod coordinator;
mod counted_reads;
mod dynamic_filters;
mod engine;
mod explain;
mod memory;
mod serve;
mod small_files;
mod work_dir;

pub use config::{ExecutorArgs, ExecutorConfig};
pub use serve::serve;
