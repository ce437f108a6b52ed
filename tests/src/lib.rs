//! The sandbox: a cluster of real processes, as the README starts it, for the tests of `covey/`.

mod sandbox;

pub use sandbox::{Process, Sandbox, cell, cells, covey, covey_command, project, wait_until};
