//! The options of TF-IDF: scikit-learn's names and defaults.

use serde::{Deserialize, Serialize};

use crate::matrix::FEATURES_MAX;
use crate::text::Tokenizer;
use crate::{Result, input_err};

/// Largest n of an n-gram.
pub const NGRAM_MAX: usize = 10;

/// A document frequency given as scikit-learn takes it: a count of documents, or a share of them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DocumentFrequency {
    Count(u64),
    Share(#[serde(with = "crate::exact")] f64),
}

impl DocumentFrequency {
    /// The bound in documents out of `n_documents`, not rounded (as in scikit-learn).
    pub fn documents(self, n_documents: u64) -> f64 {
        match self {
            Self::Count(count) => count as f64,
            Self::Share(share) => share * n_documents as f64,
        }
    }

    fn check(self, name: &str) -> Result<()> {
        match self {
            Self::Count(0) => input_err!("{name} must be at least 1 document, or a share between 0.0 and 1.0"),
            Self::Share(share) if !(0.0..=1.0).contains(&share) => {
                input_err!("{name} as a share must be between 0.0 and 1.0, got {share}")
            }
            _ => Ok(()),
        }
    }
}

/// How a row is scaled to length one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    L1,
    L2,
    None,
}

/// Options of TF-IDF, with the defaults of scikit-learn's `TfidfVectorizer`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TfidfParams {
    pub lowercase: bool,
    /// `None` is scikit-learn's default, `(?u)\b\w\w+\b`.
    pub token_pattern: Option<String>,
    pub ngram_range: (usize, usize),
    pub min_df: DocumentFrequency,
    pub max_df: DocumentFrequency,
    pub max_features: Option<usize>,
    pub norm: Norm,
    pub use_idf: bool,
    pub smooth_idf: bool,
    pub sublinear_tf: bool,
}

impl Default for TfidfParams {
    fn default() -> Self {
        Self {
            lowercase: true,
            token_pattern: None,
            ngram_range: (1, 1),
            min_df: DocumentFrequency::Count(1),
            max_df: DocumentFrequency::Share(1.0),
            max_features: None,
            norm: Norm::L2,
            use_idf: true,
            smooth_idf: true,
            sublinear_tf: false,
        }
    }
}

impl TfidfParams {
    /// # Errors
    /// Names the first option whose value is out of range, its value and the limit.
    pub fn check(&self) -> Result<()> {
        let (low, high) = self.ngram_range;
        if !(1..=high).contains(&low) || high > NGRAM_MAX {
            return input_err!(
                "ngram_range must be (low, high) with 1 <= low <= high <= {NGRAM_MAX}, got ({low}, {high})"
            );
        }
        if self.max_features.is_some_and(|max| max == 0 || max > FEATURES_MAX) {
            return input_err!(
                "max_features must be between 1 and {FEATURES_MAX}, got {}",
                self.max_features.unwrap_or(0)
            );
        }
        self.min_df.check("min_df")?;
        self.max_df.check("max_df")?;
        self.tokenizer().map(|_| ())
    }

    pub fn tokenizer(&self) -> Result<Tokenizer> {
        Tokenizer::try_new(self.lowercase, self.token_pattern.as_deref())
    }
}
