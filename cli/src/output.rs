//! Results as text.

use std::io::Write;

use datafusion::arrow::csv::WriterBuilder;
use datafusion::arrow::json::LineDelimitedWriter;
use datafusion::arrow::util::pretty::pretty_format_batches_with_schema;
use std::sync::Arc;

use crate::args::Format;
use crate::client::Answer;

/// Writes the rows of a statement. A statement without columns writes nothing.
///
/// # Errors
/// When the output is closed, or a value has no text.
pub fn write(answer: &Answer, format: Format, out: &mut dyn Write) -> Result<(), String> {
    if answer.schema.fields().is_empty() {
        return Ok(());
    }
    match format {
        Format::Table => {
            let table = pretty_format_batches_with_schema(Arc::clone(&answer.schema), &answer.batches);
            writeln!(out, "{}", table.map_err(|e| e.to_string())?).map_err(|e| e.to_string())
        }
        Format::Csv => {
            let mut writer = WriterBuilder::new().with_header(true).build(out);
            answer.batches.iter().try_for_each(|batch| writer.write(batch)).map_err(|e| e.to_string())
        }
        Format::Json => {
            let mut writer = LineDelimitedWriter::new(out);
            answer.batches.iter().try_for_each(|batch| writer.write(batch)).map_err(|e| e.to_string())?;
            writer.finish().map_err(|e| e.to_string())
        }
    }
}
