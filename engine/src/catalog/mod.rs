//! Tables over a data lake whose directories are partitions: `year=2019/month=08/day=13` or plain `2019/08/13`.
//!
//! DataFusion's own listing table lists every file of such a lake, prunes while listing on `=` only, misses
//! `month=08` for `month = 8`, and does not know plain directories. Here the directories are walked level by
//! level; at each level the filters that can be decided by now are, and only what survives is listed.

mod factory;
mod lake_table;
mod layout;

pub use factory::LakeTableFactory;
pub use lake_table::LakeTable;
