//! Counting: the terms of one text, and how often each term occurs over many texts.

use std::collections::HashMap;

use super::TfidfParams;
use crate::Result;
use crate::text::{Tokenizer, ngrams};

/// How often a term occurs in a set of texts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TermFrequency {
    /// Texts with the term, each counted as often as it was given.
    pub documents: u64,
    /// Occurrences of the term over all texts.
    pub occurrences: u64,
}

/// Finds the terms (tokens and n-grams) of a text and how often each occurs. Holds its buffers, so that a
/// text costs no allocation once they have grown.
#[derive(Debug)]
pub struct TermCounts {
    tokenizer: Tokenizer,
    ngram_range: (usize, usize),
    tokens: Vec<String>,
}

impl TermCounts {
    /// # Errors
    /// When the token pattern is not valid.
    pub fn try_new(params: &TfidfParams) -> Result<Self> {
        Ok(Self { tokenizer: params.tokenizer()?, ngram_range: params.ngram_range, tokens: vec![] })
    }

    /// Calls `each` for every occurrence of a term in `text`.
    pub fn for_each(&mut self, text: &str, mut each: impl FnMut(&str)) {
        if self.ngram_range == (1, 1) {
            return self.tokenizer.for_each(text, each);
        }
        self.tokens.clear();
        let tokens = &mut self.tokens;
        self.tokenizer.for_each(text, |token| tokens.push(token.to_string()));
        ngrams(&self.tokens, self.ngram_range.0..=self.ngram_range.1, &mut each);
    }
}

/// Counts terms over `texts`, each with the number of times it was given.
///
/// # Errors
/// When the token pattern is not valid.
pub fn count_terms<'a>(
    params: &TfidfParams,
    texts: impl IntoIterator<Item = (&'a str, u64)>,
) -> Result<HashMap<String, TermFrequency>> {
    let mut counts = TermCounts::try_new(params)?;
    let mut frequencies: HashMap<String, TermFrequency> = HashMap::new();
    let mut in_text: HashMap<String, u64> = HashMap::new();
    for (text, given) in texts {
        counts.for_each(text, |term| match in_text.get_mut(term) {
            Some(count) => *count += 1,
            None => {
                in_text.insert(term.to_string(), 1);
            }
        });
        for (term, count) in in_text.drain() {
            let frequency = frequencies.entry(term).or_default();
            frequency.documents += given;
            frequency.occurrences += given * count;
        }
    }
    Ok(frequencies)
}
