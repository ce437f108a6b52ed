//! The rows of `covey_tables()` and `covey_columns()`: what the catalog knows beyond the standard's views.

use std::sync::Arc;

use covey_engine::catalog::{Entry, Snapshot, columns};
use datafusion::arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray, UInt32Array};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::error::Result;

fn schema(fields: &[(&str, DataType, bool)]) -> SchemaRef {
    let fields = fields.iter().map(|(name, data_type, nullable)| Field::new(*name, data_type.clone(), *nullable));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

pub fn tables_schema() -> SchemaRef {
    schema(&[
        ("table_schema", DataType::Utf8, false),
        ("table_name", DataType::Utf8, false),
        ("kind", DataType::Utf8, false),
        ("format", DataType::Utf8, true),
        ("location", DataType::Utf8, true),
        ("partitioned_by", DataType::Utf8, true),
        ("comment", DataType::Utf8, true),
        ("definition", DataType::Utf8, true),
    ])
}

pub fn columns_schema() -> SchemaRef {
    schema(&[
        ("table_schema", DataType::Utf8, false),
        ("table_name", DataType::Utf8, false),
        ("ordinal_position", DataType::UInt32, false),
        ("column_name", DataType::Utf8, false),
        ("data_type", DataType::Utf8, false),
        ("nullable", DataType::Boolean, false),
        ("comment", DataType::Utf8, true),
    ])
}

/// Schema, name, and what is known of it.
type Named<'a> = (String, String, &'a Entry);

fn entries(snapshot: &Snapshot) -> Vec<Named<'_>> {
    let of_schema = |schema: String| {
        let entries = snapshot.schema(&schema).into_iter().flatten();
        entries.map(|(name, entry)| (schema.clone(), name.clone(), entry.as_ref())).collect::<Vec<_>>()
    };
    snapshot.schema_names().into_iter().flat_map(of_schema).collect()
}

/// # Errors
/// None that could be seen.
pub fn tables(snapshot: &Snapshot) -> Result<RecordBatch> {
    let entries = entries(snapshot);
    let text = |get: &dyn Fn(&Named<'_>) -> Option<String>| -> ArrayRef {
        Arc::new(entries.iter().map(get).collect::<StringArray>())
    };
    let table = |entry: &Entry| match entry {
        Entry::Table(table) => Some(table.clone()),
        Entry::View(_) => None,
    };
    let partitioned_by = |entry: &Entry| {
        let names: Vec<String> =
            table(entry)?.partition_columns.iter().filter_map(|p| p.column().ok()).map(|c| c.name).collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    let definition = |entry: &Entry| match entry {
        Entry::Table(table) => table.definition.clone(),
        Entry::View(view) => Some(view.definition.clone()),
    };
    let columns = vec![
        text(&|(schema, ..)| Some(schema.clone())),
        text(&|(_, name, _)| Some(name.clone())),
        text(&|(.., entry)| Some(entry.kind().to_string())),
        text(&|(.., entry)| table(entry).map(|table| table.format)),
        text(&|(.., entry)| table(entry).map(|table| table.locations.join(", "))),
        text(&|(.., entry)| partitioned_by(entry)),
        text(&|(schema, name, _)| snapshot.comments(schema, name)?.own.clone()),
        text(&|(.., entry)| definition(entry)),
    ];
    Ok(RecordBatch::try_new(tables_schema(), columns)?)
}

/// # Errors
/// None that could be seen.
pub fn table_columns(snapshot: &Snapshot) -> Result<RecordBatch> {
    let mut rows = vec![];
    for (schema, table, entry) in entries(snapshot) {
        for (i, (column, data_type, nullable)) in columns(entry).into_iter().enumerate() {
            let comment = snapshot.comments(&schema, &table).and_then(|known| known.columns.get(&column)).cloned();
            rows.push((schema.clone(), table.clone(), i as u32 + 1, column, data_type, nullable, comment));
        }
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.0))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.1))),
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(|row| row.2))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.3))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| &row.4))),
        Arc::new(rows.iter().map(|row| Some(row.5)).collect::<BooleanArray>()),
        Arc::new(rows.iter().map(|row| row.6.as_deref()).collect::<StringArray>()),
    ];
    Ok(RecordBatch::try_new(columns_schema(), columns)?)
}
