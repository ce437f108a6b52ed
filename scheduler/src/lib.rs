//! The scheduler process: Ballista's scheduler with Covey's statements in front, on one port.
//!
//! ```text
//! client ── Flight SQL ─► FlightService ─► covey_jobs::Covey ─► SchedulerCluster ─► Ballista ─► executors
//! executor ── gRPC ─────► Ballista's SchedulerServer
//! executor ── actions ──► FlightService ─► FitHub (centroids out, progress in)
//! ```
//!
//! [`serve`] is the whole process but for flags and signals; `covey-scheduler` and the embedded cluster call it alike.

mod cluster;
mod config;
mod counted_results;
mod explain_analyze;
mod flight;
mod placement;
mod presence;
mod rollbacks;
mod serve;
mod sessions;
mod stages;
mod upstream;

pub use config::{SchedulerArgs, SchedulerConfig};
pub use serve::{Bound, bind};
