//! What mends faults of DataFusion's SQL planner, a file each: what is wrong, where, and when the file can go.

mod nested_values;

pub use nested_values::spell_out_nested_values;
