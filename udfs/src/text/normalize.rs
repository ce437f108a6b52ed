//! `normalize_command`: the command line of a process, reduced to the words that name the application.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, StringBuilder};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::cast::as_string_array;
use datafusion::common::utils::take_function_args;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};
use datafusion_macros::user_doc;

/// A word of at least this many hexadecimal digits, one of them 0 to 9, is an id and not a name.
/// Eight is the shortest that container ids, commit hashes and addresses are printed with.
const HEX_ID_CHARACTERS_MIN: usize = 8;

/// Where the hyphens of a UUID stand.
const UUID_HYPHENS: [usize; 4] = [8, 13, 18, 23];
const UUID_BYTES: usize = 36;

/// Cleans one command line: lower case; every character that is neither letter nor digit ends a word (`/` and
/// the special characters become a space); UUIDs and hexadecimal ids are dropped; digits at the end of a word
/// are dropped, and with them numbers, versions, ports, pids and worker numbers; words are joined by one space.
///
/// `docs/decisions/0003-normalize-command.md` has the measurements behind the rules for digits.
pub fn normalize_command(text: &str) -> String {
    let mut normalized = String::with_capacity(text.len());
    normalize_into(text, &mut normalized);
    normalized
}

/// Appends the cleaned `text` to `out`.
fn normalize_into(text: &str, out: &mut String) {
    let first = out.len();
    let mut word = first;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if out.len() == word && starts_with_uuid(rest) {
            rest = &rest[UUID_BYTES..];
        } else if c.is_alphanumeric() {
            push_lowercase(c, out);
            rest = &rest[c.len_utf8()..];
        } else {
            word = end_word(out, word);
            rest = &rest[c.len_utf8()..];
        }
    }
    end_word(out, word);
    if out.len() > first {
        out.pop();
    }
}

fn push_lowercase(c: char, out: &mut String) {
    if c.is_ascii() {
        out.push(c.to_ascii_lowercase());
    } else {
        out.extend(c.to_lowercase());
    }
}

/// Ends the word that starts at `word` in `out`, and returns where the next one starts. A word that remains is
/// followed by a space.
fn end_word(out: &mut String, word: usize) -> usize {
    if is_hex_id(&out.as_bytes()[word..]) {
        out.truncate(word);
        return word;
    }
    let kept = out[word..].trim_end_matches(|c: char| c.is_ascii_digit()).len();
    out.truncate(word + kept);
    if kept > 0 {
        out.push(' ');
    }
    out.len()
}

fn is_hex_id(word: &[u8]) -> bool {
    word.len() >= HEX_ID_CHARACTERS_MIN && word.iter().all(u8::is_ascii_hexdigit) && word.iter().any(u8::is_ascii_digit)
}

fn starts_with_uuid(text: &str) -> bool {
    let Some(head) = text.as_bytes().get(..UUID_BYTES) else {
        return false;
    };
    let shaped = head
        .iter()
        .enumerate()
        .all(|(i, byte)| if UUID_HYPHENS.contains(&i) { *byte == b'-' } else { byte.is_ascii_hexdigit() });
    shaped && text[UUID_BYTES..].chars().next().is_none_or(|c| !c.is_alphanumeric())
}

#[user_doc(
    doc_section(label = "String Functions"),
    description = "Cleans the command line of a process for clustering: lower case, special characters and `/` to spaces, UUIDs, hexadecimal ids and trailing digits out, white space folded and trimmed.",
    syntax_example = "normalize_command(text)",
    sql_example = r#"```sql
> select normalize_command('/usr/bin/python3.11 -m http.server 8080');
+-------------------------------------+
| usr bin python m http server        |
+-------------------------------------+
```"#,
    argument(name = "text", description = "The command line. NULL gives NULL.")
)]
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct NormalizeCommandFunc {
    signature: Signature,
}

impl Default for NormalizeCommandFunc {
    fn default() -> Self {
        Self { signature: Signature::string(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for NormalizeCommandFunc {
    fn name(&self) -> &str {
        "normalize_command"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let scalar = matches!(args.args[0], ColumnarValue::Scalar(_));
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [text] = take_function_args(self.name(), &arrays)?;
        let normalized = normalize(text)?;
        if scalar {
            return Ok(ColumnarValue::Scalar(datafusion::scalar::ScalarValue::try_from_array(&normalized, 0)?));
        }
        Ok(ColumnarValue::Array(normalized))
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.doc()
    }
}

fn normalize(text: &ArrayRef) -> Result<ArrayRef> {
    let text = cast(text, &DataType::Utf8)?;
    let text = as_string_array(&text)?;
    let mut normalized = StringBuilder::with_capacity(text.len(), text.value_data().len());
    let mut buffer = String::new();
    for value in text {
        let Some(value) = value else {
            normalized.append_null();
            continue;
        };
        buffer.clear();
        normalize_into(value, &mut buffer);
        normalized.append_value(&buffer);
    }
    Ok(Arc::new(normalized.finish()) as ArrayRef)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the documented rules, one example each.
    #[test]
    fn keeps_the_words_that_name_the_application() {
        let cases = [
            ("/usr/sbin/sshd -D", "usr sbin sshd d"),
            ("[kworker/u8:2-events]", "kworker u events"),
            ("  nginx:   worker\tprocess ", "nginx worker process"),
            ("/usr/bin/python3.11 -m http.server 8080", "usr bin python m http server"),
            ("java -Xmx1024m -Dlog4j.configuration=a", "java xmx1024m dlog4j configuration a"),
            ("containerd-shim -id 4f2a91bc0d37", "containerd shim id"),
            ("run 0189d2c4-5f6e-4a7b-8c9d-0123456789ab end", "run end"),
            ("deadbeef facade", "deadbeef facade"),
            ("/opt/app-1.2.3/bin", "opt app bin"),
            ("ÜBER/Straße№5", "über straße"),
            ("12 34", ""),
            ("", ""),
            ("!!!", ""),
        ];
        for (command, expected) in cases {
            assert_eq!(normalize_command(command), expected, "{command}");
        }
    }

    /// Goal: cleaning what is clean changes nothing. Method: apply it twice to lines with every kind of mark.
    #[test]
    fn is_idempotent() {
        for command in ["a1b2c3 /x/y-9.z", "é9 ß/7", "0189d2c4-5f6e-4a7b-8c9d-0123456789ab", "abc12345678x 9"] {
            let once = normalize_command(command);
            assert_eq!(normalize_command(&once), once, "{command}");
        }
    }
}
