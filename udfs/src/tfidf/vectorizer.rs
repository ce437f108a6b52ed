//! A text as a sparse row of TF-IDF weights.

use super::{Norm, TermCounts, TfidfParams, Vocabulary};
use crate::Result;

/// Turns texts into rows over a fixed vocabulary. Holds its buffers: one per thread.
#[derive(Debug)]
pub struct Vectorizer<'a> {
    vocabulary: &'a Vocabulary,
    counts: TermCounts,
    norm: Norm,
    sublinear_tf: bool,
    features: Vec<u32>,
    row: Vec<(u32, f64)>,
}

impl<'a> Vectorizer<'a> {
    /// # Errors
    /// When the token pattern is not valid.
    pub fn try_new(params: &TfidfParams, vocabulary: &'a Vocabulary) -> Result<Self> {
        Ok(Self {
            vocabulary,
            counts: TermCounts::try_new(params)?,
            norm: params.norm,
            sublinear_tf: params.sublinear_tf,
            features: vec![],
            row: vec![],
        })
    }

    /// The row of `text`: `(feature, weight)`, features ascending. Terms outside the vocabulary are left out.
    pub fn row(&mut self, text: &str) -> &[(u32, f64)] {
        self.features.clear();
        let (features, vocabulary) = (&mut self.features, self.vocabulary);
        self.counts.for_each(text, |term| features.extend(vocabulary.position(term)));
        self.features.sort_unstable();
        self.row.clear();
        for run in self.features.chunk_by(|a, b| a == b) {
            let tf = if self.sublinear_tf { 1.0 + libm::log(run.len() as f64) } else { run.len() as f64 };
            self.row.push((run[0], tf * self.vocabulary.idf()[run[0] as usize]));
        }
        normalize_length(&mut self.row, self.norm);
        &self.row
    }
}

/// Divides a row by its norm, summed in ascending feature order. A row without terms stays empty.
fn normalize_length(row: &mut [(u32, f64)], norm: Norm) {
    let length = match norm {
        Norm::None => return,
        Norm::L1 => row.iter().fold(0.0, |sum, (_, x)| sum + x.abs()),
        Norm::L2 => libm::sqrt(row.iter().fold(0.0, |sum, (_, x)| sum + x * x)),
    };
    if length > 0.0 {
        row.iter_mut().for_each(|(_, x)| *x /= length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tfidf::{DocumentFrequency, count_terms};

    fn fit(params: &TfidfParams, texts: &[(&str, u64)]) -> Result<Vocabulary> {
        let n = texts.iter().map(|(_, given)| given).sum();
        Vocabulary::try_new(params, n, count_terms(params, texts.iter().copied())?)
    }

    /// Goal: counting a text as often as it was given equals giving it that often.
    #[test]
    fn collapsed_duplicates_give_the_same_vocabulary() {
        let params = TfidfParams { min_df: DocumentFrequency::Count(2), ..TfidfParams::default() };
        let collapsed = fit(&params, &[("aa bb aa", 3), ("bb cc", 1), ("dd", 1)]).unwrap();
        let repeated =
            fit(&params, &[("aa bb aa", 1), ("bb cc", 1), ("aa bb aa", 1), ("dd", 1), ("aa bb aa", 1)]).unwrap();
        assert_eq!(collapsed, repeated);
        assert_eq!(collapsed.terms(), ["bb", "aa"], "by falling document frequency");
    }

    /// Goal: max_features keeps the terms with the most occurrences, ties by bytes, whatever the order.
    #[test]
    fn max_features_is_deterministic() {
        let params = TfidfParams { max_features: Some(2), ..TfidfParams::default() };
        let one = fit(&params, &[("zz yy xx", 1), ("xx", 1)]).unwrap();
        let other = fit(&params, &[("xx", 1), ("zz yy xx", 1)]).unwrap();
        assert_eq!(one, other);
        assert_eq!(one.terms(), ["xx", "yy"]);
    }

    /// Goal: nothing to learn from is an error that says what to do.
    #[test]
    fn an_empty_vocabulary_is_an_error() {
        let params = TfidfParams { min_df: DocumentFrequency::Count(3), ..TfidfParams::default() };
        assert!(fit(&params, &[("aa", 2), ("bb", 2)]).unwrap_err().0.contains("no terms remain"));
        let params = TfidfParams { max_df: DocumentFrequency::Count(1), min_df: DocumentFrequency::Count(2), ..params };
        assert!(fit(&params, &[("aa", 1)]).unwrap_err().0.contains("max_df"));
    }

    /// Goal: a text without known terms is the zero row, not NaN.
    #[test]
    fn unknown_terms_give_an_empty_row() {
        let vocabulary = fit(&TfidfParams::default(), &[("aa bb", 1)]).unwrap();
        let mut vectorizer = Vectorizer::try_new(&TfidfParams::default(), &vocabulary).unwrap();
        assert!(vectorizer.row("zz").is_empty());
        assert_eq!(vectorizer.row("bb bb").len(), 1);
    }
}
