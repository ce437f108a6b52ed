//! How the name of a directory gives the value of a partition column.

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::{ScalarValue, exec_datafusion_err};
use datafusion::error::Result;
use object_store::path::Path;

/// One level of directories below a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionColumn {
    pub name: String,
    pub data_type: DataType,
}

impl PartitionColumn {
    pub fn field(&self) -> Field {
        Field::new(&self.name, self.data_type.clone(), true)
    }
}

/// What Hive writes for a value that is NULL.
const HIVE_NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// What a file system keeps at its root for itself.
const LOST_AND_FOUND: &str = "lost+found";

/// Columns that are numbers by their names.
const CALENDAR: [&str; 6] = ["year", "month", "week", "day", "hour", "minute"];

/// The text of a directory's value: after `NAME=` if it begins so, else the whole name. `None` for a directory
/// that belongs to another column, and for those that are no data: hidden ones (`_temporary`, `.staging`) and the file
/// system's own.
pub fn value_text<'a>(column: &str, directory: &'a str) -> Option<&'a str> {
    if directory.starts_with(['_', '.']) || directory == LOST_AND_FOUND {
        return None;
    }
    match directory.split_once('=') {
        None => Some(directory),
        Some((name, value)) => name.eq_ignore_ascii_case(column).then_some(value),
    }
}

/// The value of a directory as the column's type.
///
/// # Errors
/// Names the directory when its value is not of that type.
pub fn parse_value(column: &PartitionColumn, text: &str, directory: &Path) -> Result<ScalarValue> {
    if text == HIVE_NULL {
        return ScalarValue::try_new_null(&column.data_type);
    }
    let decoded = percent_decoded(text);
    ScalarValue::try_from_string(decoded, &column.data_type).map_err(|_| {
        exec_datafusion_err!(
            "directory /{directory}: {text:?} is not a value of partition column {} ({}); move it out of the table, or declare the column as VARCHAR",
            column.name,
            column.data_type
        )
    })
}

/// Values of Hive directories are percent-encoded.
fn percent_decoded(text: &str) -> String {
    if !text.contains('%') {
        return text.to_string();
    }
    let plain = text.replace('+', "%2B").replace('&', "%26");
    url::form_urlencoded::parse(format!("v={plain}").as_bytes())
        .next()
        .map_or_else(|| text.to_string(), |(_, value)| value.into_owned())
}

/// Whether the text of a directory is a number, as years, months and days are.
pub fn is_number(text: &str) -> bool {
    text.parse::<i32>().is_ok()
}

/// The type of a partition column whose directories have these values: `Int32` if all are numbers, else text. A part
/// of the calendar is a number even with a stranger among its directories, which a query then names.
pub fn infer_type<'a>(column: &str, values: impl Iterator<Item = &'a str>) -> DataType {
    let (numbers, others): (Vec<&str>, Vec<&str>) =
        values.filter(|value| *value != HIVE_NULL).partition(|value| is_number(value));
    let is_calendar = CALENDAR.iter().any(|name| column.eq_ignore_ascii_case(name));
    if others.is_empty() && (is_calendar || !numbers.is_empty()) || is_calendar && !numbers.is_empty() {
        DataType::Int32
    } else {
        DataType::Utf8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: both layouts and both paddings give the same value; strangers are left alone.
    #[test]
    fn reads_both_layouts() {
        let month = PartitionColumn { name: "month".into(), data_type: DataType::Int32 };
        for directory in ["month=08", "month=8", "MONTH=8", "08", "8"] {
            let text = value_text("month", directory).unwrap();
            let value = parse_value(&month, text, &Path::from(directory)).unwrap();
            assert_eq!(value, ScalarValue::Int32(Some(8)), "{directory}");
        }
        assert_eq!(value_text("month", "_temporary"), None);
        assert_eq!(value_text("month", "day=3"), None);
        let error = parse_value(&month, "august", &Path::from("lake/august")).unwrap_err().to_string();
        assert!(error.contains("lake/august") && error.contains("month"), "{error}");
        assert_eq!(value_text("year", "lost+found"), None);
        assert_eq!(infer_type("part", ["2019", "08"].into_iter()), DataType::Int32);
        assert_eq!(infer_type("part", ["2019", "x"].into_iter()), DataType::Utf8);
        assert_eq!(infer_type("year", ["2019", "old"].into_iter()), DataType::Int32);
        assert_eq!(infer_type("month", ["august"].into_iter()), DataType::Utf8);
        assert_eq!(infer_type("day", std::iter::empty()), DataType::Int32);
        assert_eq!(percent_decoded("a%20b+c"), "a b+c");
        assert_eq!(percent_decoded("a&b=%25"), "a&b=%");
    }
}
