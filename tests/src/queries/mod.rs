//! Random queries over random tables, run on a cluster and held against engines that are not ours.
//!
//! A *seed* makes tables and a query, a *shape* is how Covey runs it (executors, partitions, kinds of joins, as a query
//! or as a statement that writes), and a *pair* is a query in one shape. Two judges say what is right: DataFusion in one
//! process, and DuckDB.
//!
//! ```text
//! seed ─► world (tables) ─► question (generator, node) ─┬─► cluster in a shape ─► session ─┐
//!                                                       └─► judges ────────────────────────┴─► compare ─► verdict
//! ```

pub mod clusters;
pub mod compare;
pub mod generator;
pub mod judges;
pub mod node;
pub mod run;
pub mod session;
pub mod shapes;
pub mod tables;
pub mod verdict;
pub mod world;
