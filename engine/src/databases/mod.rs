//! Tables of PostgreSQL beside those of the lake.
//!
//! ```text
//! CREATE EXTERNAL TABLE ─► columns of the database's table ─► entry in the catalog
//! query ─► table: SELECT of the columns and filters that the database can decide ─► operators/database_scan
//!                                                                          (an executor asks the database)
//! ```
//!
//! Who asks and with which password is in the settings of each process (`covey.toml`), never in a plan.

mod filters;
mod pools;
mod table;

pub use pools::Databases;
pub(crate) use table::{describe, is_database, open};
