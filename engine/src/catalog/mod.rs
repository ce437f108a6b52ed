//! Tables, views and functions that outlive a session, kept in the warehouse, and tables over a data lake.
//!
//! ```text
//! statement ─► entry ─► snapshot ─► store (the warehouse)
//!                          │
//! query ─► provider ◄──────┘ ─► lake_table ─► listing (layout, calendar), glob ─► lister (LIST, remembered)
//!                                          └► delta (the log of a Delta table)
//! ```
//!
//! The directories of a lake are partitions: `year=2019/month=08/day=13` or plain `2019/08/13`.
//!
//! DataFusion's own listing table lists every file of such a lake, prunes while listing on `=` only, misses
//! `month=08` for `month = 8`, and does not know plain directories. Here a day is known by its name, and at other
//! levels the filters that can be decided by now are: only what survives is listed.

mod broken_view;
mod calendar;
mod comments;
mod delta;
mod drift;
mod entry;
mod factory;
mod function_entry;
mod glob;
mod lake_table;
mod layout;
mod lister;
mod listing;
mod options;
mod probe;
mod provider;
mod replaced;
mod sample;
mod snapshot;
mod store;

pub(crate) use calendar::{Calendar, date_of};
pub use comments::{COMMENT_BYTES_MAX, columns};
pub use drift::merged;
pub use entry::{ColumnEntry, Entry, PartitionEntry, TableEntry, ViewEntry, columns_of, schema_of};
pub use factory::{describe, file_extension, sample_of};
pub use function_entry::{FunctionEntry, ParameterEntry};
pub use lake_table::{LakeTable, WriteTarget};
pub use layout::{Naming, PartitionColumn};
pub use provider::Catalog;
pub use replaced::Replaced;
pub use snapshot::{IfTaken, PUBLIC, Snapshot};
pub use store::WRITES;
