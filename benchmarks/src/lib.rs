//! Data to measure with. The runs against peers are scripts beside this crate; `README.md` there lists them.

pub mod fleet;
mod random;
mod template;
