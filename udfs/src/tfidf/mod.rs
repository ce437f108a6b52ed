//! TF-IDF with scikit-learn's formulas: the options, the vocabulary, and texts turned into sparse rows.
//!
//! Split along the passes of a fit: term frequencies are counted where the texts are ([`count_terms`]), one
//! place makes the [`Vocabulary`] of the sums, and then every text is vectorised on its own ([`Vectorizer`]).

mod params;
mod terms;
mod vectorizer;
mod vocabulary;

pub use params::{DocumentFrequency, Norm, TfidfParams};
pub use terms::{TermCounts, TermFrequency, count_terms};
pub use vectorizer::Vectorizer;
pub use vocabulary::{TERMS_MAX, Vocabulary};
