//! What the catalog keeps of a table or a view: all that a query is planned with, so that nothing has to be looked up in
//! the lake again.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::internal_datafusion_err;
use datafusion::error::Result;
use datafusion::logical_expr::TableType;
use serde::{Deserialize, Serialize};

use super::layout::{Naming, PartitionColumn};
use super::sample::Sample;
use crate::user_err;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    Table(TableEntry),
    View(ViewEntry),
}

impl Entry {
    /// As messages call it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Table(_) => "table",
            Self::View(_) => "view",
        }
    }

    pub fn table_type(&self) -> TableType {
        match self {
            Self::Table(_) => TableType::Base,
            Self::View(_) => TableType::View,
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableEntry {
    /// Directories, files, globs or a database, as URLs.
    pub locations: Vec<String>,
    /// `PARQUET`, `CSV`, `JSON`, `ARROW`, `AVRO` or `POSTGRES`.
    pub format: String,
    /// Of the format or the database, as given.
    pub options: BTreeMap<String, String>,
    pub partition_columns: Vec<PartitionEntry>,
    /// Of the files, or of the database's table.
    pub columns: Vec<ColumnEntry>,
    /// The orders in which the rows of each file are known to be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orders: Vec<Vec<SortEntry>>,
    /// Its files are the warehouse's own: they go when the table is dropped.
    #[serde(default, skip_serializing_if = "is_false")]
    pub managed: bool,
    /// Files that cannot be read are left out.
    #[serde(default, skip_serializing_if = "is_false")]
    pub skip_bad_files: bool,
    /// How old listings of its directories may be, where that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listing_seconds: Option<u64>,
    /// What some of its files had when the table was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<Sample>,
    /// The statement that made it.
    pub definition: Option<String>,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// A level of directories below a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionEntry {
    #[serde(flatten)]
    column: ColumnEntry,
    directories: Naming,
}

impl PartitionEntry {
    /// # Errors
    /// When the type cannot be written down.
    pub fn try_new(column: &PartitionColumn) -> Result<Self> {
        Ok(Self { column: ColumnEntry::try_new(&column.field())?, directories: column.naming })
    }

    /// # Errors
    /// When the type is one that this version does not know.
    pub fn column(&self) -> Result<PartitionColumn> {
        let data_type = self.column.field()?.data_type().clone();
        Ok(PartitionColumn { name: self.column.name.clone(), data_type, naming: self.directories })
    }

    pub(super) fn described(&self) -> &ColumnEntry {
        &self.column
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewEntry {
    /// The statement that made it. It is planned anew for every query.
    pub definition: String,
    /// The schema in which names without one are looked up.
    pub default_schema: String,
    /// As they were when the view was made.
    pub columns: Vec<ColumnEntry>,
    /// What it selects from, as (schema, name).
    pub uses: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SortEntry {
    pub column: String,
    pub ascending: bool,
    pub nulls_first: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnEntry {
    pub name: String,
    /// As Arrow writes it.
    #[serde(rename = "type")]
    pub data_type: String,
    pub nullable: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

impl ColumnEntry {
    /// # Errors
    /// When the type of `field` cannot be written down.
    pub fn try_new(field: &Field) -> Result<Self> {
        let column = Self {
            name: field.name().clone(),
            data_type: field.data_type().to_string(),
            nullable: field.is_nullable(),
            metadata: field.metadata().iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        };
        if column.parsed_type().is_some_and(|parsed| parsed == *field.data_type()) {
            return Ok(column);
        }
        user_err!("column {:?} has type {}, which tables cannot have", field.name(), field.data_type())
    }

    fn parsed_type(&self) -> Option<DataType> {
        self.data_type.parse().ok()
    }

    /// # Errors
    /// When the type is one that this version does not know.
    pub fn field(&self) -> Result<Field> {
        let data_type = self.parsed_type().ok_or_else(|| {
            internal_datafusion_err!("column {:?} has the unknown type {:?}", self.name, self.data_type)
        })?;
        let metadata: HashMap<String, String> = self.metadata.clone().into_iter().collect();
        Ok(Field::new(&self.name, data_type, self.nullable).with_metadata(metadata))
    }
}

/// # Errors
/// When a type cannot be written down.
pub fn columns_of(schema: &Schema) -> Result<Vec<ColumnEntry>> {
    schema.fields().iter().map(|field| ColumnEntry::try_new(field)).collect()
}

/// # Errors
/// When a type is one that this version does not know.
pub fn schema_of(columns: &[ColumnEntry]) -> Result<SchemaRef> {
    Ok(Arc::new(Schema::new(columns.iter().map(ColumnEntry::field).collect::<Result<Vec<_>>>()?)))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::TimeUnit;

    use super::*;

    /// Goal: columns come back as they were written, whatever they hold.
    #[test]
    fn columns_survive_being_written() {
        let texts = Field::new("item", DataType::Utf8View, true);
        let types = [
            DataType::Timestamp(TimeUnit::Microsecond, Some("Europe/Berlin".into())),
            DataType::Decimal128(15, 2),
            DataType::List(Arc::new(texts.clone())),
            DataType::Struct(vec![Field::new("a b", DataType::Int8, false), texts.clone()].into()),
            DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
            DataType::FixedSizeList(Arc::new(Field::new("x", DataType::Float32, false)), 3),
            DataType::Map(
                Arc::new(Field::new(
                    "entries",
                    DataType::Struct(vec![Field::new("key", DataType::Utf8, false), texts].into()),
                    false,
                )),
                false,
            ),
        ];
        for data_type in types {
            let metadata = HashMap::from([("origin".to_string(), "\"x\"".to_string())]);
            let schema = Schema::new(vec![Field::new("c \"ü\"", data_type, true).with_metadata(metadata)]);
            let columns = columns_of(&schema).unwrap();
            let json = serde_json::to_string(&columns).unwrap();
            let back: Vec<ColumnEntry> = serde_json::from_str(&json).unwrap();
            assert_eq!(*schema_of(&back).unwrap(), schema);
        }
    }
}
