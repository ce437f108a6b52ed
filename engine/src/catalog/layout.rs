//! How the name of a directory gives the value of a partition column, and the value its name.

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::{ScalarValue, exec_datafusion_err};
use datafusion::error::Result;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

/// One level of directories below a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionColumn {
    pub name: String,
    pub data_type: DataType,
    pub naming: Naming,
}

/// How the directories of a partition column are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Naming {
    /// `month=08`, else `08`.
    pub with_name: bool,
    /// Digits that numbers are padded to with zeros.
    pub digits: usize,
    /// Whether all directories are known to be named so.
    #[serde(default = "yes")]
    pub is_regular: bool,
}

fn yes() -> bool {
    true
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

/// Columns that are numbers by their names, and the digits that new directories of them have: so they sort by time.
const CALENDAR: [(&str, usize); 6] = [("year", 4), ("month", 2), ("week", 2), ("day", 2), ("hour", 2), ("minute", 2)];

/// Characters of a value that Hive and Spark write as `%` and two digits; control characters too.
const ESCAPED: &str = "\"#%'*/:=?\\{[]^\u{7f}";

/// Whether files and directories of this name are no data (`_temporary`, `_SUCCESS`, `.staging`), as for Spark.
pub fn is_hidden(name: &str) -> bool {
    name.starts_with('.') || name.starts_with('_') && !name.contains('=') && name != HIVE_NULL
}

/// The text of a directory's value: after `NAME=` if it begins so, else the whole name. `None` for a directory
/// that belongs to another column, and for those that are no data: [hidden](is_hidden) ones and the file system's own.
pub fn value_text<'a>(column: &str, directory: &'a str) -> Option<&'a str> {
    if is_hidden(directory) || directory == LOST_AND_FOUND {
        return None;
    }
    match directory.split_once('=') {
        None => Some(directory),
        Some((name, value)) => percent_decoded(name).eq_ignore_ascii_case(column).then_some(value),
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
    let is_calendar = calendar_digits(column).is_some();
    if others.is_empty() && (is_calendar || !numbers.is_empty()) || is_calendar && !numbers.is_empty() {
        DataType::Int32
    } else {
        DataType::Utf8
    }
}

fn calendar_digits(column: &str) -> Option<usize> {
    CALENDAR.iter().find(|(name, _)| column.eq_ignore_ascii_case(name)).map(|(_, digits)| *digits)
}

/// Of each directory that is a number: its digits, and whether it has a zero in front.
fn digit_counts<'a>(column: &'a str, directories: &'a [String]) -> impl Iterator<Item = (usize, bool)> + 'a {
    let texts = directories.iter().filter_map(|name| value_text(column, name)).filter(|text| is_number(text));
    texts.map(|text| (text.len(), text.len() > 1 && text.starts_with('0')))
}

impl Naming {
    /// That of a column without directories.
    pub fn of_new(column: &str, data_type: &DataType) -> Self {
        let naming = Self { with_name: true, digits: calendar_digits(column).unwrap_or(0), is_regular: true };
        naming.of_type(data_type)
    }

    /// The same of a column of this type: only numbers are padded, as '8' and '08' are two texts.
    pub fn of_type(self, data_type: &DataType) -> Self {
        Self { digits: if data_type.is_integer() { self.digits } else { 0 }, ..self }
    }

    /// Those of columns whose directories have these names, level by level: a zero in front tells how far the numbers of
    /// a column are padded, and a number that lacks one that those of no column are.
    pub fn infer_all(columns: &[String], directories: &[Vec<String>]) -> Vec<Self> {
        let levels = || columns.iter().zip(directories);
        let is_bare = levels().any(|(column, names)| {
            let default = calendar_digits(column).unwrap_or(0);
            digit_counts(column, names).any(|(digits, padded)| !padded && digits < default)
        });
        let naming = |(column, names): (&String, &Vec<String>)| {
            let padded = digit_counts(column, names).filter(|(_, padded)| *padded).map(|(digits, _)| digits).max();
            let digits = padded.unwrap_or(if is_bare { 0 } else { calendar_digits(column).unwrap_or(0) });
            // Where a level is still empty it will be as the one above.
            let newest = names.last().or_else(|| directories.iter().filter_map(|names| names.last()).next_back());
            let naming = Self { with_name: newest.is_none_or(|name| name.contains('=')), digits, is_regular: true };
            let is_regular = !names.is_empty() && names.iter().all(|name| naming.is_name(column, name));
            Self { is_regular, ..naming }
        };
        levels().map(naming).collect()
    }

    /// Whether a directory of numbers is named so.
    fn is_name(self, column: &str, name: &str) -> bool {
        let Some(text) = value_text(column, name) else { return true };
        match text.parse::<i64>() {
            Ok(number) => self.directory(column, Some(&number.to_string())) == name,
            Err(_) => true,
        }
    }

    /// The directory of a value, which is NULL where there is no text.
    pub fn directory(self, column: &str, value: Option<&str>) -> String {
        let text = match value {
            // As Spark does: a directory cannot have no name.
            None | Some("") => HIVE_NULL.to_string(),
            Some(number) if self.digits > 0 && number.bytes().all(|byte| byte.is_ascii_digit()) => {
                format!("{number:0>digits$}", digits = self.digits)
            }
            Some(text) => escaped(text),
        };
        shown(if self.with_name { format!("{}={text}", escaped(column)) } else { text })
    }
}

/// A name that is not taken for one that is no data: its first character is escaped where it would be.
fn shown(name: String) -> String {
    if !is_hidden(&name) && name != LOST_AND_FOUND {
        return name;
    }
    let (first, rest) = name.split_at(1);
    first.bytes().map(|byte| format!("%{byte:02X}")).chain([rest.to_string()]).collect()
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if ESCAPED.contains(c) || c.is_ascii_control() {
            escaped.push_str(&format!("%{:02X}", u32::from(c)));
        } else {
            escaped.push(c);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: both layouts and both paddings give the same value; strangers are left alone.
    #[test]
    fn reads_both_layouts() {
        let month = PartitionColumn {
            name: "month".into(),
            data_type: DataType::Int32,
            naming: Naming::of_new("month", &DataType::Int32),
        };
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
    /// Goal: new directories are named as those that are there, and every value comes back.
    #[test]
    fn names_directories_as_they_are() {
        let infer_all = |columns: &[&str], names: &[&[&str]]| {
            let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
            Naming::infer_all(&owned(columns), &names.iter().map(|names| owned(names)).collect::<Vec<_>>())
        };
        let infer = |names: &[&str]| infer_all(&["month"], &[names])[0];
        let day =
            |month: &str, day: &str| infer_all(&["month", "day"], &[&[month], &[day]])[1].directory("day", Some("2"));
        assert_eq!(day("month=7", "day=30"), "day=2");
        assert_eq!(day("07", "30"), "02");
        let august = |naming: Naming| naming.directory("month", Some("8"));
        assert_eq!(august(infer(&[])), "month=08");
        assert_eq!(august(infer(&["month=07", "month=11"])), "month=08");
        assert_eq!(august(infer(&["month=7", "month=11"])), "month=8");
        assert_eq!(august(infer(&["10", "11"])), "08");
        assert_eq!(august(infer(&["7"])), "8");
        assert_eq!(august(infer(&["007"])), "008");
        assert_eq!(infer(&[]).directory("month", Some("12")), "month=12");
        assert_eq!(infer(&[]).directory("month", None), "month=__HIVE_DEFAULT_PARTITION__");
        assert_eq!(Naming::of_new("month", &DataType::Utf8).directory("month", Some("8")), "month=8");
        let values = [None, Some("a b"), Some("50%"), Some("x/y=z"), Some("é+&"), Some(".."), Some("007"), Some("[1]")];
        let values = values.into_iter().chain([Some("_x"), Some("lost+found"), Some("_a=b")]);
        for ((name, with_name), value) in ["host", "_h", ".h", "a:b", "a=b"]
            .into_iter()
            .flat_map(|name| [(name, true), (name, false)])
            .flat_map(|c| values.clone().map(move |value| (c, value)))
        {
            let naming = Naming { with_name, ..Naming::of_new(name, &DataType::Utf8) };
            let column = PartitionColumn { name: name.into(), data_type: DataType::Utf8, naming };
            let directory = naming.directory(name, value);
            assert!(!directory.contains('/'), "{directory}");
            let text = value_text(name, &directory).unwrap_or_else(|| panic!("{directory} is hidden"));
            let back = parse_value(&column, text, &Path::default()).unwrap();
            assert_eq!(back, ScalarValue::Utf8(value.map(ToString::to_string)), "{directory}");
        }
    }
}
