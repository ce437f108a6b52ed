//! Tokens as scikit-learn's `TfidfVectorizer` cuts them, and n-grams over them.

use std::ops::RangeInclusive;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, ListBuilder, StringBuilder};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::cast::as_string_array;
use datafusion::common::utils::take_function_args;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};
use datafusion_macros::user_doc;
use regex::Regex;

use crate::{Result, input_err};

/// Longest `token_pattern` accepted, in bytes: a pattern comes from a user and is compiled on every executor.
pub const TOKEN_PATTERN_BYTES_MAX: usize = 1_000;

/// Cuts text into tokens.
///
/// Without a pattern it is scikit-learn's default `(?u)\b\w\w+\b`: runs of two or more word characters,
/// where a word character is what Python's `str.isalnum` accepts, or `_`.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    lowercase: bool,
    pattern: Option<Regex>,
}

impl Tokenizer {
    /// # Errors
    /// When `pattern` is no regular expression, is longer than [`TOKEN_PATTERN_BYTES_MAX`], or has more
    /// than one capturing group (scikit-learn's rule: with one group, the group is the token).
    pub fn try_new(lowercase: bool, pattern: Option<&str>) -> Result<Self> {
        let Some(pattern) = pattern else {
            return Ok(Self { lowercase, pattern: None });
        };
        if pattern.len() > TOKEN_PATTERN_BYTES_MAX {
            return input_err!("token_pattern has {} bytes, the limit is {TOKEN_PATTERN_BYTES_MAX}", pattern.len());
        }
        let regex = match Regex::new(pattern) {
            Ok(regex) => regex,
            Err(e) => return input_err!("token_pattern is no regular expression: {e}"),
        };
        if regex.captures_len() > 2 {
            return input_err!("token_pattern must have at most one capturing group: {pattern}");
        }
        Ok(Self { lowercase, pattern: Some(regex) })
    }

    /// Calls `each` with every token of `text`, in order.
    pub fn for_each(&self, text: &str, mut each: impl FnMut(&str)) {
        if !self.lowercase {
            return self.cut(text, &mut each);
        }
        if text.bytes().any(|byte| byte.is_ascii_uppercase() || !byte.is_ascii()) {
            return self.cut(&text.to_lowercase(), &mut each);
        }
        self.cut(text, &mut each);
    }

    fn cut(&self, text: &str, each: &mut impl FnMut(&str)) {
        match &self.pattern {
            None => default_tokens(text, each),
            Some(regex) if regex.captures_len() == 2 => {
                regex.captures_iter(text).filter_map(|found| found.get(1)).for_each(|token| each(token.as_str()));
            }
            Some(regex) => regex.find_iter(text).for_each(|token| each(token.as_str())),
        }
    }
}

/// Runs of at least two word characters.
fn default_tokens(text: &str, each: &mut impl FnMut(&str)) {
    for run in text.split(|c: char| !is_word_character(c)) {
        let mut characters = run.chars();
        if characters.next().is_some() && characters.next().is_some() {
            each(run);
        }
    }
}

/// Python's `\w`: a letter (general category L), a number (N), or `_`. Rust's own `is_alphanumeric` also
/// accepts combining marks, which Python does not.
fn is_word_character(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphanumeric() || c == '_';
    }
    c.is_alphanumeric() && !is_alphabetic_mark(c)
}

/// Alphabetic by derivation (Other_Alphabetic) but no letter: marks and circled letters.
fn is_alphabetic_mark(c: char) -> bool {
    use std::sync::LazyLock;
    static LETTER_OR_NUMBER: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^[\p{L}\p{N}]$").expect("a constant pattern"));
    let mut buffer = [0; 4];
    !LETTER_OR_NUMBER.is_match(c.encode_utf8(&mut buffer))
}

/// Calls `each` with every n-gram of `tokens` for every n in `range`, tokens joined by one space.
pub fn ngrams(tokens: &[String], range: RangeInclusive<usize>, mut each: impl FnMut(&str)) {
    for n in range {
        if n == 1 {
            tokens.iter().for_each(|token| each(token));
            continue;
        }
        for window in tokens.windows(n) {
            each(&window.join(" "));
        }
    }
}

#[user_doc(
    doc_section(label = "String Functions"),
    description = "Cuts text into lower-case tokens of two or more word characters, as scikit-learn's TfidfVectorizer does by default.",
    syntax_example = "tokenize(text)",
    sql_example = r#"```sql
> select tokenize('nginx: worker process');
[nginx, worker, process]
```"#,
    argument(name = "text", description = "The text to cut. NULL gives NULL.")
)]
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct TokenizeFunc {
    signature: Signature,
}

impl Default for TokenizeFunc {
    fn default() -> Self {
        Self { signature: Signature::string(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for TokenizeFunc {
    fn name(&self) -> &str {
        "tokenize"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true))))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [text] = take_function_args(self.name(), &arrays)?;
        Ok(ColumnarValue::Array(tokenize(text)?))
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.doc()
    }
}

fn tokenize(text: &ArrayRef) -> DataFusionResult<ArrayRef> {
    let text = cast(text, &DataType::Utf8)?;
    let tokenizer = Tokenizer { lowercase: true, pattern: None };
    let mut lists = ListBuilder::new(StringBuilder::new());
    for value in as_string_array(&text)? {
        if let Some(value) = value {
            tokenizer.for_each(value, |token| lists.values().append_value(token));
        }
        lists.append(value.is_some());
    }
    Ok(Arc::new(lists.finish()) as ArrayRef)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
        let mut tokens = vec![];
        tokenizer.for_each(text, |token| tokens.push(token.to_string()));
        tokens
    }

    /// Goal: tokens equal Python's `re.findall(r"(?u)\b\w\w+\b", text.lower())`. Method: its answers, by hand.
    #[test]
    fn cuts_as_scikit_learn_does() {
        let tokenizer = Tokenizer::try_new(true, None).unwrap();
        assert_eq!(tokens(&tokenizer, "a BC d_e, f-gh 12 3"), ["bc", "d_e", "gh", "12"]);
        assert_eq!(tokens(&tokenizer, "Über naïve x"), ["über", "naïve"]);
        // U+093F is a vowel sign (Mc): alphabetic to Rust, not a word character to Python.
        assert_eq!(tokens(&tokenizer, "कक\u{93f}खख"), ["कक", "खख"]);
        assert!(tokens(&tokenizer, "").is_empty());
    }

    /// Goal: a pattern of the user's behaves as in scikit-learn, and a wrong one is an error.
    #[test]
    fn takes_a_pattern() {
        let words = Tokenizer::try_new(false, Some(r"\S+")).unwrap();
        assert_eq!(tokens(&words, "A b-c"), ["A", "b-c"]);
        let group = Tokenizer::try_new(true, Some(r"(\w+)=")).unwrap();
        assert_eq!(tokens(&group, "Key=1 other=2"), ["key", "other"]);
        assert!(Tokenizer::try_new(true, Some("(")).is_err());
        assert!(Tokenizer::try_new(true, Some("(a)(b)")).is_err());
    }

    /// Goal: n-grams come n by n, as scikit-learn's `_word_ngrams` gives them.
    #[test]
    fn joins_ngrams() {
        let words: Vec<String> = ["a", "b", "c"].map(String::from).into();
        let mut grams = vec![];
        ngrams(&words, 1..=2, |gram| grams.push(gram.to_string()));
        assert_eq!(grams, ["a", "b", "c", "a b", "b c"]);
    }
}
