//! Schemas of files that were written at different times: columns come, go and get wider.
//!
//! A column that a file lacks is NULL there, and one that is narrower in a file is read as the table's type.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Field, Schema, SchemaRef};
use datafusion::error::Result;

use crate::user_err;

/// The columns of all of `schemas`, each with the widest of its types. Columns of the last, newest one come first.
///
/// # Errors
/// Names the column, and two files, where no type holds what both have.
pub fn merged(schemas: &[(String, SchemaRef)]) -> Result<SchemaRef> {
    let mut columns: Vec<(Field, &str)> = vec![];
    for (file, schema) in schemas.iter().rev() {
        for field in schema.fields() {
            let Some((column, of)) = columns.iter_mut().find(|(column, _)| column.name() == field.name()) else {
                columns.push((field.as_ref().clone().with_nullable(true), file));
                continue;
            };
            let Some(wider) = wider(column.data_type(), field.data_type()) else {
                return user_err!(
                    "column {:?} is {} in {file} and {} in {of}: declare it in CREATE EXTERNAL TABLE with the type to read both as",
                    field.name(),
                    field.data_type(),
                    column.data_type()
                );
            };
            if wider != *column.data_type() {
                *column = column.clone().with_data_type(wider);
                *of = file;
            }
        }
    }
    Ok(Arc::new(Schema::new(columns.into_iter().map(|(column, _)| column).collect::<Vec<_>>())))
}

/// The type that holds every value of both, as far as there is one.
fn wider(a: &DataType, b: &DataType) -> Option<DataType> {
    use DataType::{Date32, Date64, Dictionary, Float16, Float32, Float64, List, Null, Struct, Timestamp};
    if a == b {
        return Some(a.clone());
    }
    match (a, b) {
        (Null, other) | (other, Null) => Some(other.clone()),
        (Dictionary(_, values), other) | (other, Dictionary(_, values)) => wider(values, other),
        (a, b) if a.is_string() && b.is_string() => Some(widest_text(a, b)),
        (a, b) if a.is_integer() && b.is_integer() => wider_integer(a, b),
        (Float64 | Float32 | Float16, Float64) | (Float64, Float32 | Float16) => Some(Float64),
        (Float32, Float16) | (Float16, Float32) => Some(Float32),
        (Float64 | Float32, integer) | (integer, Float64 | Float32) if integer.is_integer() => Some(Float64),
        (DataType::Decimal128(p, s), DataType::Decimal128(q, t)) => wider_decimal((*p, *s), (*q, *t)),
        (Date32, Date64) | (Date64, Date32) => Some(Date64),
        (Date32, Timestamp(unit, zone)) | (Timestamp(unit, zone), Date32) => Some(Timestamp(*unit, zone.clone())),
        (Timestamp(a, zone), Timestamp(b, other)) if zone == other => Some(Timestamp(*a.max(b), zone.clone())),
        (List(a), List(b)) => {
            let item = wider(a.data_type(), b.data_type())?;
            Some(List(Arc::new(a.as_ref().clone().with_data_type(item).with_nullable(true))))
        }
        (Struct(a), Struct(b)) => {
            let schemas = [b, a].map(|fields| (String::new(), Arc::new(Schema::new(fields.clone()))));
            merged(&schemas).ok().map(|merged| Struct(merged.fields().clone()))
        }
        _ => None,
    }
}

fn widest_text(a: &DataType, b: &DataType) -> DataType {
    [DataType::Utf8View, DataType::LargeUtf8].into_iter().find(|text| a == text || b == text).unwrap_or(DataType::Utf8)
}

fn wider_integer(a: &DataType, b: &DataType) -> Option<DataType> {
    let bits = |data_type: &DataType| data_type.primitive_width().unwrap_or(0) * 8;
    let needed = |data_type: &DataType| bits(data_type) + usize::from(data_type.is_unsigned_integer());
    if a.is_unsigned_integer() == b.is_unsigned_integer() {
        return Some(if bits(a) >= bits(b) { a.clone() } else { b.clone() });
    }
    let signed = [DataType::Int8, DataType::Int16, DataType::Int32, DataType::Int64];
    signed.into_iter().find(|signed| bits(signed) >= needed(a).max(needed(b)))
}

fn wider_decimal((p, s): (u8, i8), (q, t): (u8, i8)) -> Option<DataType> {
    let scale = s.max(t);
    let whole = (i16::from(p) - i16::from(s)).max(i16::from(q) - i16::from(t));
    let precision = u8::try_from(whole + i16::from(scale)).ok()?;
    (precision <= DECIMAL128_MAX_PRECISION).then_some(DataType::Decimal128(precision, scale))
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::TimeUnit;

    use super::*;

    fn schema(columns: &[(&str, DataType)]) -> SchemaRef {
        let fields = columns.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), false));
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    }

    /// Goal: columns of all files are there with the widest of their types, and what fits nothing is told.
    #[test]
    fn columns_come_go_and_widen() {
        use DataType::{Date32, Float32, Float64, Int32, Int64, UInt8, UInt32, UInt64, Utf8, Utf8View};
        let old = schema(&[("id", Int32), ("gone", Utf8), ("x", Float32), ("n", UInt32)]);
        let new = schema(&[("x", Float64), ("id", Int64), ("added", Utf8View), ("n", Int32)]);
        let all = merged(&[("old".into(), old), ("new".into(), new)]).unwrap();
        let columns: Vec<String> = all.fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect();
        assert_eq!(columns, ["x Float64", "id Int64", "added Utf8View", "n Int64", "gone Utf8"]);
        assert!(all.fields().iter().all(|field| field.is_nullable()));

        assert_eq!(wider(&UInt8, &Int32), Some(Int32));
        assert_eq!(wider(&UInt64, &Int32), None);
        assert_eq!(wider(&Int32, &Float32), Some(Float64));
        assert_eq!(wider(&Int64, &Float32), Some(Float64));
        assert_eq!(wider(&Utf8, &Float64), None);
        assert_eq!(wider(&DataType::Decimal128(10, 2), &DataType::Decimal128(9, 4)), Some(DataType::Decimal128(12, 4)));
        let [seconds, micros] = [TimeUnit::Second, TimeUnit::Microsecond].map(|unit| DataType::Timestamp(unit, None));
        assert_eq!(wider(&seconds, &micros), Some(micros.clone()));
        assert_eq!(wider(&Date32, &micros), Some(micros));

        let [a, b] = [Utf8, Int32].map(|data_type| schema(&[("pid", data_type)]));
        let error = merged(&[("a.parquet".into(), a), ("b.parquet".into(), b)]).unwrap_err().to_string();
        for part in ["\"pid\"", "Utf8 in a.parquet", "Int32 in b.parquet", "declare it"] {
            assert!(error.contains(part), "{error}");
        }
    }
}
