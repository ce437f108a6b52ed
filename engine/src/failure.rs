//! Errors on their way from a task to the user.
//!
//! Ballista reports the error of a task as the debug text of every layer around it. A task's error is therefore
//! sealed where it happens: its plain text between two marks, encoded so that no layer changes it.

use datafusion::error::DataFusionError;
use url::form_urlencoded::{byte_serialize, parse};

use crate::UserError;

const BEGIN: &str = "[covey-error:";
const END: &str = ":covey-error]";

/// What DataFusion puts before the text of an error.
const PREFIXES: [&str; 10] = [
    "DataFusion error: ",
    "Parquet error: ",
    "SQL error: ",
    "External error: ",
    "Execution error: ",
    "Arrow error: ",
    "External: ",
    "Error during planning: ",
    "Object Store error: ",
    "Generic DataFusion error: ",
];

/// How DataFusion tells that an optimizer rule failed, and why.
const RULE: &str = "Optimizer rule '";
const CAUSE: &str = "\ncaused by\n";

/// How the parser's errors are told: as debug text.
const PARSER: [&str; 2] = ["ParserError(\"", "TokenizerError(\""];

/// The error as a user should read it: without a backtrace and without the names of layers.
pub fn plain_text(error: &DataFusionError) -> String {
    let stripped = error.strip_backtrace();
    let mut text = stripped.as_str();
    loop {
        let inner = PREFIXES.iter().find_map(|prefix| text.strip_prefix(prefix));
        // A rule of the optimizer is no news to a user; what it stumbled over is.
        let inner =
            inner.or_else(|| text.strip_prefix(RULE).and_then(|_| text.split_once(CAUSE)).map(|(_, rest)| rest));
        match inner {
            Some(inner) => text = inner,
            None => break,
        }
    }
    let parser = PARSER.iter().find_map(|name| text.strip_prefix(name)?.strip_suffix("\")"));
    match parser {
        Some(quoted) => quoted.replace("\\\"", "\"").replace("\\'", "'"),
        None => text.trim().to_string(),
    }
}

/// Whether Ballista reacts to this error itself: it runs a stage or task again.
pub fn is_for_ballista(error: &DataFusionError) -> bool {
    let layers = format!("{error:?}");
    ["FetchFailed", "IoError", "Cancelled"].iter().any(|name| layers.contains(name))
}

/// An error that carries `text` through all layers.
pub fn seal(text: &str) -> DataFusionError {
    let encoded: String = byte_serialize(text.as_bytes()).collect();
    DataFusionError::Execution(format!("{BEGIN}{encoded}{END}"))
}

/// The text of a sealed error, or else the first line of what there is.
pub fn open(error: &str) -> String {
    let sealed = error.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END));
    match sealed {
        Some((encoded, _)) => parse(format!("e={encoded}").as_bytes()).map(|(_, text)| text.into_owned()).collect(),
        None => error.lines().next().unwrap_or(error).trim().to_string(),
    }
}

/// Whether a statement was refused; else it failed, and what it asked for may yet have been done.
pub fn is_refused(error: &DataFusionError) -> bool {
    match error.find_root() {
        DataFusionError::External(cause) => cause.is::<UserError>(),
        _ => false,
    }
}

/// Whether a task had more to keep than it has memory for, as a join by hashing whose table is larger than was thought.
pub fn is_out_of_memory(error: &DataFusionError) -> bool {
    error.to_string().contains("Resources exhausted")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{UserError, external};

    /// Goal: the text of a task's error arrives as it was, whatever is wrapped around it.
    #[test]
    fn text_survives_every_layer() {
        let text = "file 's3://b/x=1/ü.parquet': 100 % \"bad\" & [odd]\nsecond line + more";
        let wrapped = format!("Job 7 failed: {:?}", DataFusionError::Context("stage".into(), Box::new(seal(text))));
        assert_eq!(open(&wrapped), text);
        assert_eq!(open("no seal\nhere"), "no seal");
    }

    /// Goal: a user reads the cause, not the layers.
    #[test]
    fn layers_are_left_out() {
        let error = external(UserError("a feature is NaN".into()));
        assert_eq!(plain_text(&error), "a feature is NaN");
        let optimizing = external(UserError("Cast error: no number".into())).context("simplify");
        let optimizing = DataFusionError::Context("Optimizer rule 'simplify' failed".into(), Box::new(optimizing));
        assert!(!plain_text(&optimizing).contains("Optimizer rule"), "{}", plain_text(&optimizing));
        let parsing = DataFusionError::External("SQL error: ParserError(\"Expected: \\\"a\\\"\")".into());
        assert_eq!(plain_text(&parsing), "Expected: \"a\"");
        let planning = DataFusionError::Plan("no such column".into());
        assert_eq!(plain_text(&planning), "no such column");
        assert!(is_for_ballista(&DataFusionError::IoError(std::io::Error::other("reset"))));
        assert!(!is_for_ballista(&error));
    }
}
