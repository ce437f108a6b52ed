//! Strings: cleaning of command lines and cutting into tokens.

mod normalize;
mod tokenize;

pub use normalize::{NormalizeCommandFunc, normalize_command};
pub use tokenize::{TokenizeFunc, Tokenizer, ngrams};
