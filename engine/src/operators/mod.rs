//! Our physical plan nodes, each with its wire form.
//!
//! All are unary and keep the partition count of their input: before a stage is sent to its tasks, Ballista cuts
//! only its own leaves down to a task's partitions, so a leaf of ours would be read whole by every task.

mod at_end;
mod block_work;
mod blocks;
mod changed_stage;
mod collect;
mod compressed_scan;
mod database_scan;
mod partial_wire;
mod result_schema;
mod single_task;
mod skip_bad_files;
mod write;

use std::sync::Arc;

use datafusion::common::internal_err;
use datafusion::error::Result;
use datafusion::physical_plan::ExecutionPlan;
use serde::{Deserialize, Serialize};

use crate::external;

pub use block_work::{
    Begins, BlockWork, DistancesPass, ExampleRow, FitSpec, OversamplePass, RunPass, SeedSpec, SummaryRow, SweepSpec,
    Swept, VectorizeSpec,
};
pub(crate) use blocks::compute;
pub use blocks::{BlocksExec, block_source};
pub use changed_stage::ChangedStageExec;
pub use collect::{CollectExec, CollectSpec, Features};
pub use compressed_scan::CompressedScanExec;
pub use database_scan::{DatabaseQuery, DatabaseScanExec};
pub use partial_wire::{
    decode_centroids, decode_distances, decode_drawn, decode_far_points, decode_moments, decode_partial,
    decode_weights, encode_centroids, encode_drift,
};
pub use result_schema::ResultSchemaExec;
pub use single_task::SingleTaskExec;
pub(crate) use skip_bad_files::is_of_file;
pub use skip_bad_files::{FILES_SKIPPED, SkipBadFilesExec};
pub use write::{WriteExec, WriteSpec, write_of, written};

/// What travels of our nodes: everything but the input.
#[derive(Serialize, Deserialize)]
enum Node {
    Collect(CollectSpec),
    Blocks {
        fit: String,
        work: BlockWork,
    },
    Write(WriteSpec),
    /// The name of the compression.
    CompressedScan(String),
    SkipBadFiles,
    DatabaseScan(DatabaseQuery),
}

/// The wire form of `node` without its input, if it is one of ours.
pub(crate) fn encode(node: &dyn ExecutionPlan) -> Result<Option<Vec<u8>>> {
    let node = if let Some(exec) = node.downcast_ref::<CollectExec>() {
        Node::Collect(exec.spec().clone())
    } else if let Some(exec) = node.downcast_ref::<BlocksExec>() {
        Node::Blocks { fit: exec.fit().to_string(), work: exec.work().clone() }
    } else if let Some(exec) = node.downcast_ref::<WriteExec>() {
        Node::Write(exec.spec().clone())
    } else if let Some(exec) = node.downcast_ref::<CompressedScanExec>() {
        Node::CompressedScan(exec.compression().to_string())
    } else if node.is::<SkipBadFilesExec>() {
        Node::SkipBadFiles
    } else if let Some(exec) = node.downcast_ref::<DatabaseScanExec>() {
        Node::DatabaseScan(exec.query().clone())
    } else {
        return Ok(None);
    };
    serde_json::to_vec(&node).map(Some).map_err(external)
}

pub(crate) fn decode(blob: &[u8], inputs: &[Arc<dyn ExecutionPlan>]) -> Result<Arc<dyn ExecutionPlan>> {
    let [input] = inputs else {
        return internal_err!("an operator of covey has {} inputs instead of one", inputs.len());
    };
    Ok(match serde_json::from_slice(blob).map_err(external)? {
        Node::Collect(spec) => Arc::new(CollectExec::new(spec, Arc::clone(input))),
        Node::Blocks { fit, work } => Arc::new(BlocksExec::new(fit, work, Arc::clone(input))),
        Node::Write(spec) => Arc::new(WriteExec::new(spec, Arc::clone(input))),
        Node::CompressedScan(compression) => Arc::new(CompressedScanExec::new(compression.parse()?, Arc::clone(input))),
        Node::SkipBadFiles => Arc::new(SkipBadFilesExec::new(Arc::clone(input))),
        Node::DatabaseScan(query) => Arc::new(DatabaseScanExec::new(query, Arc::clone(input))?),
    })
}
