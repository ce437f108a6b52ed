//! The terms that become features, and the inverse document frequency of each.

use std::collections::HashMap;

use super::{TermFrequency, TfidfParams};
use crate::matrix::FEATURES_MAX;
use crate::{Result, input_err};

/// Most distinct terms that one fit may count before `min_df`, `max_df` and `max_features` cut them.
pub const TERMS_MAX: usize = 50_000_000;

/// The features of a text model. Feature `i` is `terms[i]`; features are ordered by falling document
/// frequency, ties by the bytes of the term, so that the most used part of a centroid table is contiguous.
#[derive(Debug, Clone, PartialEq)]
pub struct Vocabulary {
    terms: Vec<String>,
    idf: Vec<f64>,
    index: HashMap<String, u32>,
}

impl Vocabulary {
    /// Chooses the features as scikit-learn does: terms whose document frequency lies in `[min_df, max_df]`;
    /// of these the `max_features` with the most occurrences, ties by the bytes of the term.
    ///
    /// # Errors
    /// When no term remains, `max_df` is below `min_df`, or more than [`FEATURES_MAX`] terms remain.
    pub fn try_new(
        params: &TfidfParams,
        n_documents: u64,
        frequencies: impl IntoIterator<Item = (String, TermFrequency)>,
    ) -> Result<Self> {
        let low = params.min_df.documents(n_documents);
        let high = params.max_df.documents(n_documents);
        if high < low {
            return input_err!("max_df ({high} documents) is below min_df ({low} documents)");
        }
        let mut kept: Vec<(String, TermFrequency)> = frequencies
            .into_iter()
            .filter(|(_, frequency)| (low..=high).contains(&(frequency.documents as f64)))
            .collect();
        if let Some(max) = params.max_features.filter(|&max| max < kept.len()) {
            kept.sort_unstable_by(|a, b| b.1.occurrences.cmp(&a.1.occurrences).then_with(|| a.0.cmp(&b.0)));
            kept.truncate(max);
        }
        if kept.is_empty() {
            return input_err!(
                "no terms remain of {n_documents} rows: the texts are empty, or min_df, max_df and token_pattern leave nothing"
            );
        }
        if kept.len() > FEATURES_MAX {
            return input_err!(
                "{} terms remain, the limit is {FEATURES_MAX}: set max_features or raise min_df",
                kept.len()
            );
        }
        kept.sort_unstable_by(|a, b| b.1.documents.cmp(&a.1.documents).then_with(|| a.0.cmp(&b.0)));
        let idf = kept.iter().map(|(_, f)| inverse_document_frequency(params, n_documents, f.documents)).collect();
        Self::try_from_parts(kept.into_iter().map(|(term, _)| term).collect(), idf)
    }

    /// Takes over terms and weights as read from a model.
    ///
    /// # Errors
    /// When the lengths differ, a term occurs twice, or a weight is not finite.
    pub fn try_from_parts(terms: Vec<String>, idf: Vec<f64>) -> Result<Self> {
        if terms.len() != idf.len() || terms.len() > FEATURES_MAX {
            return input_err!("a vocabulary of {} terms cannot have {} weights", terms.len(), idf.len());
        }
        if idf.iter().any(|weight| !weight.is_finite()) {
            return input_err!("a vocabulary has a weight that is not finite");
        }
        let index: HashMap<String, u32> = terms.iter().cloned().zip(0..).collect();
        if index.len() != terms.len() {
            return input_err!("a vocabulary has a term twice");
        }
        Ok(Self { terms, idf, index })
    }

    pub fn len(&self) -> usize {
        self.terms.len()
    }

    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    pub fn terms(&self) -> &[String] {
        &self.terms
    }

    pub fn idf(&self) -> &[f64] {
        &self.idf
    }

    pub fn position(&self, term: &str) -> Option<u32> {
        self.index.get(term).copied()
    }
}

/// scikit-learn's `ln((1 + n) / (1 + df)) + 1` with `smooth_idf`, `ln(n / df) + 1` without, 1 without idf.
/// `ln` is libm's, so that it is the same on every machine.
fn inverse_document_frequency(params: &TfidfParams, n_documents: u64, document_frequency: u64) -> f64 {
    if !params.use_idf {
        return 1.0;
    }
    let (n, df) = (n_documents as f64, document_frequency as f64);
    if params.smooth_idf { libm::log((1.0 + n) / (1.0 + df)) + 1.0 } else { libm::log(n / df) + 1.0 }
}
