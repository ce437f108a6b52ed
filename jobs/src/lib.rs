//! What runs on the engine: the statements that DataFusion does not know, the driver of a fit, the functions
//! that read models, and the table of running and past statements.
//!
//! ```text
//! SQL ─► statements ─┬─► CREATE MODEL ─► fit (prepare → blocks → iterations → model) ─► Cluster
//!                    ├─► EVALUATE MODEL ─► an aggregate over predictions ─► Cluster
//!                    ├─► SHOW, ALTER, DROP MODEL ─► model registry
//!                    ├─► INSERT, COPY, CREATE TABLE AS ─► staged files ─► commit
//!                    ├─► rows of a client ─► files ─► INSERT, or CREATE TABLE AS
//!                    ├─► CREATE, DROP TABLE, VIEW, SCHEMA, FUNCTION ─► catalog
//!                    ├─► OPTIMIZE ─► staged files in the place of others ─► commit
//!                    └─► anything else ─► bound to model versions ─► here, or the Cluster
//! ```
//!
//! Knows the cluster by one trait only, so that it runs alike under a scheduler and in tests.

mod bind;
pub mod board;
mod catalog_functions;
mod cluster;
mod covey;
mod definitions;
mod evaluate;
mod fit;
mod functions;
mod ingest;
mod parameters;
mod results;
mod sql_functions;
mod statements;
mod upstream;
mod writes;

pub use bind::bind_models;
pub use cluster::Cluster;
pub use covey::{Covey, Prepared};
pub use fit::{FitHub, sweep};
pub use ingest::{IfMissing, IfThere, Ingest};
pub use results::counted;
pub use statements::{ClusterStatement, CreateModel, FitOptions, Strategy, byte_offset, parse};
