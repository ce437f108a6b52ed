//! Data to measure with, and kernels to measure. The runs against peers are scripts beside this crate; `README.md` there lists them.

pub mod ballista;
pub mod fleet;
pub mod lloyd;
pub mod queries;
pub mod slt;
pub mod store;
mod template;
