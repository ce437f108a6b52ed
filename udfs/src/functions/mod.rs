//! Functions for everyday queries, a file each. `program_name.rs` and `mode.rs` are made to be copied: the guide is
//! `docs/functions.md`.

mod mode;
mod program_name;

pub use mode::ModeFunc;
pub use program_name::ProgramNameFunc;
