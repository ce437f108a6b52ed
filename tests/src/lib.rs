//! The sandbox: a cluster of real processes, as the README starts it, for the tests of `covey/`.

mod ceph;
mod postgres;
pub mod queries;
mod random;
mod requests;
mod s3;
mod sandbox;
pub mod slt;

pub use ceph::Ceph;
pub use postgres::{PASSWORD, Postgres};
pub use random::Random;
pub use requests::Requests;
pub use s3::S3;
pub use sandbox::{Process, Sandbox, cell, cells, covey, covey_command, project, wait_until};
