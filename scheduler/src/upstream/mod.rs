//! What mends faults of Ballista's scheduler, a file each: what is wrong, where, and when the file can go.

mod stuck_jobs;
mod task_reports;

pub(crate) use stuck_jobs::until_stuck;
pub(crate) use task_reports::{CheckedReports, Refusals};
