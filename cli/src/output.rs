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

/// The rows of a statement as text. A statement without columns has none.
///
/// # Errors
/// When a value has no text.
pub fn render(answer: &Answer, format: Format) -> Result<Vec<u8>, String> {
    let mut out = vec![];
    if !answer.schema.fields().is_empty() {
        match format {
            Format::Table => write_table(answer, &mut out),
            Format::Expanded => write_expanded(answer, &mut out),
            Format::Csv => write_csv(answer, &mut out),
            Format::Json => write_json(answer, &mut out),
        }
        .map_err(|e| e.to_string())?;
    }
    Ok(out)
}

fn write_table(answer: &Answer, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    let table = pretty_format_batches_with_schema(Arc::clone(&answer.schema), &answer.batches)?;
    Ok(writeln!(out, "{table}")?)
}

/// A line for each value, as psql's `\x` shows rows that are too wide for a screen.
fn write_expanded(answer: &Answer, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    let names: Vec<&String> = answer.schema.fields().iter().map(|field| field.name()).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or_default();
    let mut number = 0;
    for batch in &answer.batches {
        for row in 0..batch.num_rows() {
            number += 1;
            writeln!(out, "-[ row {number} ]{}", "-".repeat(width))?;
            for (name, column) in names.iter().zip(batch.columns()) {
                let text = if column.is_null(row) { String::new() } else { array_value_to_string(column, row)? };
                writeln!(out, "{}", format!("{name:width$} | {text}").trim_end())?;
            }
        }
    }
    Ok(())
}

fn write_json(answer: &Answer, out: &mut Vec<u8>) -> Result<(), ArrowError> {
    let mut writer = JsonWriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(out);
    answer.batches.iter().try_for_each(|batch| writer.write(batch))?;
    writer.finish()
}

/// The header is there without rows too.
fn write_csv(answer: &Answer, out: &mut Vec<u8>) -> Result<(), ArrowError> {
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
