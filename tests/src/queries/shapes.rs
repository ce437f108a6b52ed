//! How Covey runs a query: on which cluster, divided how, and as which statement.

use std::fmt;

use crate::random::Random;

/// The cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ClusterKind {
    OneExecutor,
    ThreeExecutors,
    /// Three executors whose memory is so small that joins, sorts and groups spill.
    LittleMemory,
    /// Three executors, of which one is killed while the query runs.
    KilledExecutor,
}

/// What Covey knows of the sizes of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sizes {
    Known,
    /// Arrow files, whose footers say nothing.
    Unknown,
    /// Tables that had no row when they were created.
    Wrong,
}

/// The statement that the query is run as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    Select,
    CreateTableAs,
    Insert,
    Prepared,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    pub cluster: ClusterKind,
    pub partitions: usize,
    pub joins_by_hash: bool,
    pub sizes: Sizes,
    pub form: Form,
}

impl Shape {
    /// The shape that a seed chooses.
    pub fn of(seed: u64) -> Self {
        let mut random = Random::of(&[seed, 0x5a]);
        let cluster = match random.below(100) {
            0..25 => ClusterKind::OneExecutor,
            25..88 => ClusterKind::ThreeExecutors,
            88..98 => ClusterKind::LittleMemory,
            _ => ClusterKind::KilledExecutor,
        };
        Self {
            cluster,
            partitions: *random.pick(&[1, 3, 3, 8]),
            joins_by_hash: random.chance(65),
            sizes: *random.pick(&[Sizes::Known, Sizes::Known, Sizes::Unknown, Sizes::Wrong]),
            form: *random.pick(&[
                Form::Select,
                Form::Select,
                Form::Select,
                Form::CreateTableAs,
                Form::Insert,
                Form::Prepared,
            ]),
        }
    }

    /// The settings of the session that runs the query.
    pub fn settings(&self, schema: &str) -> Vec<(&'static str, String)> {
        let mut settings = vec![
            ("datafusion.catalog.default_schema", schema.to_string()),
            ("datafusion.execution.target_partitions", self.partitions.to_string()),
            ("datafusion.optimizer.prefer_hash_join", self.joins_by_hash.to_string()),
        ];
        if self.cluster == ClusterKind::LittleMemory {
            settings.push(("datafusion.execution.batch_size", "256".into()));
            settings.push(("datafusion.execution.sort_spill_reservation_bytes", "65536".into()));
            settings.push(("datafusion.execution.sort_in_place_threshold_bytes", "16384".into()));
        }
        settings
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joins = if self.joins_by_hash { "hashed joins" } else { "sorted joins" };
        write!(
            f,
            "{:?}, {} partitions, {joins}, sizes {:?}, {:?}",
            self.cluster, self.partitions, self.sizes, self.form
        )
    }
}
