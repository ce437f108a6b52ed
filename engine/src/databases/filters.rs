//! Which filters a database decides as Covey would.
//!
//! Of a filter that is *exact* the database gives the same rows; of one that is *inexact* it gives these and perhaps
//! others, and the filter is applied once more. Whatever could lose a row stays here: order of texts (collations),
//! single precision, digits beyond those that are read.

use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{Between, BinaryExpr, Expr, Like, Operator, TableProviderFilterPushDown};
use uuid::Uuid;

/// Values of an IN that are sent.
const IN_MAX: usize = 1_000;

/// Where the database's name for a column's type is kept.
use datafusion_table_providers_common::SOURCE_TYPE_METADATA_KEY as SOURCE_TYPE;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Decided {
    Not,
    Inexact,
    Exact,
}

use Decided::{Exact, Inexact, Not};

/// How values of a column compare in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// As here, in every way.
    Plain,
    /// As here but for zeros, of which there are two.
    Float,
    /// Equal where equal here, perhaps in other cases too.
    Text,
    /// Like text; what is no UUID is an error.
    Uuid,
    Other,
}

/// What a database does with `filter` over a table with the columns `schema`.
pub(super) fn pushdown(filter: &Expr, schema: &Schema) -> TableProviderFilterPushDown {
    match decided(filter, schema) {
        Exact => TableProviderFilterPushDown::Exact,
        Inexact => TableProviderFilterPushDown::Inexact,
        Not => TableProviderFilterPushDown::Unsupported,
    }
}

fn decided(filter: &Expr, schema: &Schema) -> Decided {
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And | Operator::Or, right }) => {
            decided(left, schema).min(decided(right, schema))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (left.as_ref(), right.as_ref()) {
            (Expr::Column(column), Expr::Literal(value, _)) | (Expr::Literal(value, _), Expr::Column(column)) => {
                field(schema, &column.name).map_or(Not, |field| compared(field, *op, value))
            }
            _ => Not,
        },
        Expr::Not(inner) => match decided(inner, schema) {
            Exact => Exact,
            _ => Not,
        },
        Expr::IsNull(inner) | Expr::IsNotNull(inner) => match inner.as_ref() {
            Expr::Column(_) => Exact,
            _ => Not,
        },
        Expr::Column(column) => match field(schema, &column.name).map(|field| field.data_type()) {
            Some(DataType::Boolean) => Exact,
            _ => Not,
        },
        Expr::Between(between) => decided_between(between, schema),
        Expr::InList(list) => decided_in(list, schema),
        Expr::Like(like) => decided_like(like, schema),
        _ => Not,
    }
}

fn field<'a>(schema: &'a Schema, name: &str) -> Option<&'a Field> {
    schema.field_with_name(name).ok()
}

fn decided_between(between: &Between, schema: &Schema) -> Decided {
    let (Expr::Column(column), Expr::Literal(low, _), Expr::Literal(high, _)) =
        (between.expr.as_ref(), between.low.as_ref(), between.high.as_ref())
    else {
        return Not;
    };
    let Some(field) = field(schema, &column.name) else { return Not };
    compared(field, Operator::GtEq, low).min(compared(field, Operator::LtEq, high))
}

fn decided_in(list: &InList, schema: &Schema) -> Decided {
    let Expr::Column(column) = list.expr.as_ref() else { return Not };
    let Some(field) = field(schema, &column.name).filter(|_| list.list.len() <= IN_MAX) else { return Not };
    let op = if list.negated { Operator::NotEq } else { Operator::Eq };
    let values = list.list.iter().map(|value| match value {
        Expr::Literal(value, _) => compared(field, op, value),
        _ => Not,
    });
    values.min().unwrap_or(Not)
}

fn decided_like(like: &Like, schema: &Schema) -> Decided {
    let (Expr::Column(column), Expr::Literal(pattern, _)) = (like.expr.as_ref(), like.pattern.as_ref()) else {
        return Not;
    };
    let is_text = field(schema, &column.name).is_some_and(|field| kind(field) == Kind::Text);
    // A backslash would quote there; letters without case are others there.
    let is_plain = pattern.try_as_str().flatten().is_some_and(|text| !text.contains(['\\', '\0']));
    match is_text && is_plain && !like.negated && !like.case_insensitive && like.escape_char.is_none() {
        true => Inexact,
        false => Not,
    }
}

fn kind(field: &Field) -> Kind {
    let source = field.metadata().get(SOURCE_TYPE).map(String::as_str).unwrap_or_default();
    match source.split('(').next().unwrap_or_default().trim() {
        "smallint" | "integer" | "bigint" | "boolean" | "date" => Kind::Plain,
        // Without a precision it has digits that are not read.
        "numeric" if source.contains('(') => Kind::Plain,
        name if name.starts_with("timestamp") => Kind::Plain,
        "double precision" => Kind::Float,
        "text" | "character varying" | "character" | "bpchar" | "citext" | "name" => Kind::Text,
        "uuid" => Kind::Uuid,
        _ => Kind::Other,
    }
}

fn compared(field: &Field, op: Operator, value: &ScalarValue) -> Decided {
    use Operator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
    if value.is_null() || value.data_type() != *field.data_type() && !is_text_of(value, field) {
        return Not;
    }
    match (kind(field), op) {
        (Kind::Plain, Eq | NotEq | Lt | LtEq | Gt | GtEq) if is_kept_whole(value) => Exact,
        (Kind::Float, Eq | NotEq | Lt | LtEq | Gt | GtEq) => match value {
            ScalarValue::Float64(Some(x)) if x.is_finite() && *x != 0.0 => Exact,
            _ => Not,
        },
        (Kind::Text, Eq) if value.try_as_str().flatten().is_some_and(|text| !text.contains('\0')) => Inexact,
        (Kind::Uuid, Eq) if value.try_as_str().flatten().is_some_and(|text| Uuid::try_parse(text).is_ok()) => Inexact,
        _ => Not,
    }
}

fn is_text_of(value: &ScalarValue, field: &Field) -> bool {
    value.data_type().is_string() && field.data_type().is_string()
}

/// Whether the database takes the value as it is: its times have microseconds, and are told to it in UTC.
fn is_kept_whole(value: &ScalarValue) -> bool {
    match value.data_type() {
        DataType::Timestamp(_, zone) if zone.as_deref().is_some_and(|zone| zone != "UTC" && zone != "+00:00") => false,
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            matches!(value, ScalarValue::TimestampNanosecond(Some(time), _) if time % 1_000 == 0)
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use datafusion::prelude::{col, lit};

    use super::*;

    fn column(name: &str, data_type: DataType, source: &str) -> Field {
        Field::new(name, data_type, true).with_metadata(HashMap::from([(SOURCE_TYPE.to_string(), source.to_string())]))
    }

    /// Goal: the database decides what it decides as we do, and nothing else.
    #[test]
    fn only_what_is_safe_is_sent() {
        let schema = Schema::new(vec![
            column("id", DataType::Int64, "bigint"),
            column("name", DataType::Utf8, "character varying(20)"),
            column("key", DataType::Utf8, "uuid"),
            column("doc", DataType::Utf8, "jsonb"),
            column("ok", DataType::Boolean, "boolean"),
            column("x", DataType::Float64, "double precision"),
            column("y", DataType::Float32, "real"),
            column("price", DataType::Decimal128(10, 2), "numeric(10,2)"),
            column("loose", DataType::Decimal128(38, 20), "numeric"),
            column("at", DataType::Timestamp(TimeUnit::Nanosecond, None), "timestamp without time zone"),
        ]);
        let time = |nanoseconds| lit(ScalarValue::TimestampNanosecond(Some(nanoseconds), None));
        let decimal = |scale| lit(ScalarValue::Decimal128(Some(5), if scale == 2 { 10 } else { 38 }, scale));
        let key = "0190d3c4-6f70-7000-8000-000000000000";
        for (filter, expected) in [
            (col("id").eq(lit(5_i64)), Exact),
            (lit(5_i64).lt(col("id")), Exact),
            (col("id").eq(lit(5_i32)), Not),
            (col("id").eq(col("x")), Not),
            ((col("id") + lit(1_i64)).eq(lit(5_i64)), Not),
            (col("id").between(lit(1_i64), lit(5_i64)), Exact),
            (col("id").in_list(vec![lit(1_i64), lit(5_i64)], true), Exact),
            (col("id").in_list(vec![lit(1_i64), lit(ScalarValue::Int64(None))], false), Not),
            (col("id").eq(lit(5_i64)).or(col("name").eq(lit("a"))), Inexact),
            (col("id").eq(lit(5_i64)).or(col("name").lt(lit("a"))), Not),
            (!col("id").eq(lit(5_i64)), Exact),
            (!col("name").eq(lit("a")), Not),
            (col("name").not_eq(lit("a")), Not),
            (col("name").in_list(vec![lit("a")], false), Inexact),
            (col("name").in_list(vec![lit("a")], true), Not),
            (col("name").like(lit("a%")), Inexact),
            (col("name").like(lit("a\\%")), Not),
            (col("name").ilike(lit("a%")), Not),
            (col("name").not_like(lit("a%")), Not),
            (col("name").eq(lit("a\0")), Not),
            (col("name").is_null(), Exact),
            (col("key").eq(lit(key)), Inexact),
            (col("key").eq(lit("no uuid")), Not),
            (col("doc").eq(lit("{}")), Not),
            (col("doc").is_not_null(), Exact),
            (col("ok"), Exact),
            (!col("ok"), Exact),
            (col("x").gt(lit(1.5)), Exact),
            (col("x").gt(lit(0.0)), Not),
            (col("x").gt(lit(f64::NAN)), Not),
            (col("y").eq(lit(0.1_f32)), Not),
            (col("price").lt_eq(decimal(2)), Exact),
            (col("loose").eq(decimal(20)), Not),
            (col("at").lt(time(1_000)), Exact),
            (col("at").lt(time(1_001)), Not),
            (col("missing").eq(lit(1_i64)), Not),
        ] {
            assert_eq!(decided(&filter, &schema), expected, "{filter}");
        }
    }
}
