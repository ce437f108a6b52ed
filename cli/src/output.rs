//! Results as text.

use std::io::Write;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use datafusion::arrow::csv::WriterBuilder;
use datafusion::arrow::datatypes::{Field, Schema};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json::WriterBuilder as JsonWriterBuilder;
use datafusion::arrow::json::writer::LineDelimited;
use datafusion::arrow::util::display::array_value_to_string;
use datafusion::arrow::util::pretty::pretty_format_batches_with_schema;

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
        Format::Csv => write_csv(answer, out).map_err(|e| e.to_string()),
        Format::Json => {
            let mut writer = JsonWriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(out);
            answer.batches.iter().try_for_each(|batch| writer.write(batch)).map_err(|e| e.to_string())?;
            writer.finish().map_err(|e| e.to_string())
        }
    }
}

/// The header is there without rows too.
fn write_csv(answer: &Answer, out: &mut dyn Write) -> Result<(), ArrowError> {
    let mut writer = WriterBuilder::new().with_header(true).build(out);
    writer.write(&with_nested_as_text(&RecordBatch::new_empty(Arc::clone(&answer.schema)))?)?;
    answer.batches.iter().try_for_each(|batch| writer.write(&with_nested_as_text(batch)?))
}

/// CSV has no lists and no structures: they are written as in a table.
fn with_nested_as_text(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    let named = schema.fields().iter().zip(batch.columns()).map(|(field, column)| {
        if !column.data_type().is_nested() {
            return Ok((field.name(), Arc::clone(column)));
        }
        let text = |row| match column.is_null(row) {
            true => Ok(None),
            false => array_value_to_string(column, row).map(Some),
        };
        let texts = (0..column.len()).map(text).collect::<Result<StringArray, _>>()?;
        Ok((field.name(), Arc::new(texts) as ArrayRef))
    });
    let (names, columns): (Vec<_>, Vec<_>) = named.collect::<Result<Vec<_>, ArrowError>>()?.into_iter().unzip();
    let field = |(name, column): (&String, &ArrayRef)| Field::new(name, column.data_type().clone(), true);
    let fields: Vec<Field> = names.into_iter().zip(&columns).map(field).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}
