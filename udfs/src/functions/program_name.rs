//! `program_name(command)`: which program a command line starts. A scalar function: one value from each row.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, StringArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::cast::as_string_array;
use datafusion::common::utils::take_function_args;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};
use datafusion_macros::user_doc;

// What SHOW FUNCTIONS says of it.
#[user_doc(
    doc_section(label = "String Functions"),
    description = "The name of the program that a command line starts, without its path: java of /usr/lib/jvm/bin/java -jar a.jar. A kernel thread keeps its brackets; NULL where there is none.",
    syntax_example = "program_name(command)",
    argument(name = "command", description = "A command line.")
)]
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct ProgramNameFunc {
    signature: Signature,
}

impl Default for ProgramNameFunc {
    fn default() -> Self {
        // What it takes. Immutable: the same command always gives the same name, so constants are computed once.
        Self { signature: Signature::string(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for ProgramNameFunc {
    fn name(&self) -> &str {
        "program_name"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    /// Works on some thousand rows at once; a constant comes as one.
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [commands] = take_function_args(self.name(), &arrays)?;
        let commands = cast(commands, &DataType::Utf8)?;
        let names: StringArray = as_string_array(&commands)?.iter().map(|command| program_name(command?)).collect();
        Ok(ColumnarValue::Array(Arc::new(names) as ArrayRef))
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.doc()
    }
}

fn program_name(command: &str) -> Option<&str> {
    let first = command.split_whitespace().next()?;
    if first.starts_with('[') {
        return Some(first);
    }
    // Programs that name themselves say `sshd: root@pts/0`.
    let name = first.rsplit('/').find(|part| !part.is_empty()).unwrap_or(first);
    Some(name.trim_end_matches(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the program is found in whatever way it was started.
    #[test]
    fn programs_are_named() {
        for (command, expected) in [
            ("/usr/lib/jvm/bin/java -jar /srv/a.jar", Some("java")),
            ("  python3.11 -m http.server", Some("python3.11")),
            ("sshd: root@pts/0", Some("sshd")),
            ("[kworker/0:1-events]", Some("[kworker/0:1-events]")),
            ("/opt/ä b/c", Some("ä")),
            ("///", Some("///")),
            (" \t", None),
            ("", None),
        ] {
            assert_eq!(program_name(command), expected, "{command:?}");
        }
    }
}
