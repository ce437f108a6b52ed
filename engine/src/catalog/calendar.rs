//! Which directories a query by date needs, known without a look at the lake.
//!
//! The filters are tried on every day of two centuries at once, and of the first years. So it does not matter how a query says what it asks for:
//! `make_date(year, month, day) BETWEEN ...`, `date >= ...`, `year = 2019 AND month IN (7, 8)`.

use std::ops::RangeInclusive;
use std::sync::{Arc, LazyLock};

use chrono::{Datelike, NaiveDate};
use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, Date32Array, Int32Array, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Date32Type, Field, Schema};
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::TreeNode;
use datafusion::error::Result;
use datafusion::logical_expr::Expr;

use super::layout::PartitionColumn;

/// The names that make a table's first three partition columns a calendar.
const COLUMNS: [&str; 3] = ["year", "month", "day"];

/// The column that is made of the three.
pub const DATE: &str = "date";

/// Years that queries are tried on. One that takes the first or the last of a range, or compares with what lies beyond
/// them, may take others too, and then the years that there are are looked up.
const YEARS: RangeInclusive<i32> = 1900..=2100;

/// Years that may be meant where a number is that of a day or a month: tried too, so that other numbers tell.
const SMALL_YEARS: RangeInclusive<i32> = -1..=32;

const MONTHS: i32 = 12;
const DAYS_MAX: i32 = 31;

/// The partition columns year, month and day of a table.
#[derive(Debug, Clone)]
pub struct Calendar {
    schema: Arc<Schema>,
    /// Whether their directories are named in one way, so that those of a date are known.
    pub is_regular: bool,
}

/// A directory by the values on the way to it: a year, a month of it, or a day of that. `None` is NULL.
pub type Span = Vec<Option<i32>>;

/// Every day of some years, and for each level the directories of NULL.
struct Days {
    years: Vec<Option<i32>>,
    columns: [Int32Array; 3],
    dates: Date32Array,
}

static ALL_DAYS: LazyLock<Days> =
    LazyLock::new(|| Days::of(SMALL_YEARS.chain(YEARS).map(Some).chain([None]).collect()));

/// Whether a filter compares with nothing that lies beyond the years that queries are tried on.
pub fn is_about_known_years(filter: &Expr) -> bool {
    let is_known = |value: &ScalarValue| {
        let is_in =
            |years: &RangeInclusive<i32>, year: f64| f64::from(*years.start()) < year && year < f64::from(*years.end());
        match value.data_type() {
            _ if value.is_null() => true,
            DataType::Boolean => true,
            of if of.is_numeric() => match value.cast_to(&DataType::Float64) {
                Ok(ScalarValue::Float64(Some(number))) => is_in(&SMALL_YEARS, number) || is_in(&YEARS, number),
                _ => false,
            },
            DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => match value.cast_to(&DataType::Date32) {
                Ok(ScalarValue::Date32(Some(day))) => {
                    Date32Type::to_naive_date_opt(day).is_some_and(|date| is_in(&YEARS, f64::from(date.year())))
                }
                _ => false,
            },
            _ => false,
        }
    };
    let is_beyond = |node: &Expr| Ok(matches!(node, Expr::Literal(value, _) if !is_known(value)));
    filter.exists(is_beyond).is_ok_and(|is_beyond| !is_beyond)
}

impl Calendar {
    /// Where the first of these columns are one.
    pub fn of(columns: &[PartitionColumn]) -> Option<Self> {
        let first = columns.get(..COLUMNS.len())?;
        let is_free = columns.iter().all(|column| column.name != DATE);
        let is_calendar = is_free
            && first
                .iter()
                .zip(COLUMNS)
                .all(|(column, name)| column.name.eq_ignore_ascii_case(name) && column.data_type.is_integer());
        let date = Field::new(DATE, DataType::Date32, true);
        let fields = first.iter().map(PartitionColumn::field).chain([date]);
        let is_regular = first.iter().all(|column| column.naming.is_regular);
        is_calendar.then(|| Self { schema: Arc::new(Schema::new(fields.collect::<Vec<_>>())), is_regular })
    }

    /// Year, month, day and date, as filters know them.
    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// The directories of the days for which `decide` is true; `None` where they go on beyond the years that are known.
    ///
    /// # Errors
    /// Those of `decide`.
    pub fn spans(&self, decide: impl Fn(&RecordBatch) -> Result<BooleanArray>) -> Result<Option<Vec<Span>>> {
        let days = &*ALL_DAYS;
        let kept = decide(&self.batch(days)?)?;
        let edges = [&SMALL_YEARS, &YEARS].map(|years| [*years.start(), *years.end()]).concat();
        let is_edge = |year: i32| edges.contains(&year);
        let beyond = (0..kept.len())
            .any(|i| is_true(&kept, i) && !days.columns[0].is_null(i) && is_edge(days.columns[0].value(i)));
        Ok((!beyond).then(|| days.spans(&kept)))
    }

    /// As [`spans`](Self::spans), of these years.
    pub fn spans_of(
        &self,
        years: Vec<Option<i32>>,
        decide: impl Fn(&RecordBatch) -> Result<BooleanArray>,
    ) -> Result<Vec<Span>> {
        let days = Days::of(years);
        let kept = decide(&self.batch(&days)?)?;
        Ok(days.spans(&kept))
    }

    fn batch(&self, days: &Days) -> Result<RecordBatch> {
        let mut columns: Vec<ArrayRef> = vec![];
        for (column, field) in days.columns.iter().zip(self.schema.fields()) {
            columns.push(cast(column, field.data_type())?);
        }
        columns.push(Arc::new(days.dates.clone()));
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

/// The date of three partition values; NULL where one is, or where there is no such day.
pub fn date_of(values: &[ScalarValue]) -> ScalarValue {
    let number = |value: &ScalarValue| match value.cast_to(&DataType::Int32) {
        Ok(ScalarValue::Int32(number)) => number,
        _ => None,
    };
    let day = match values {
        [year, month, day, ..] => number(year).zip(number(month)).zip(number(day)),
        _ => None,
    };
    ScalarValue::Date32(day.and_then(|((year, month), day)| unix_day(year, month, day)))
}

fn unix_day(year: i32, month: i32, day: i32) -> Option<i32> {
    let date = NaiveDate::from_ymd_opt(year, month.try_into().ok()?, day.try_into().ok()?)?;
    Some(date.signed_duration_since(NaiveDate::default()).num_days() as i32)
}

fn days_of_month(year: i32, month: i32) -> i32 {
    let first = |year, month| NaiveDate::from_ymd_opt(year, month as u32, 1);
    let next = if month == MONTHS { first(year + 1, 1) } else { first(year, month + 1) };
    next.and_then(|next| next.pred_opt()).map_or(DAYS_MAX, |last| last.day() as i32)
}

fn is_true(kept: &BooleanArray, i: usize) -> bool {
    kept.is_valid(i) && kept.value(i)
}

/// The months of a year, NULL last.
fn months() -> impl Iterator<Item = Option<i32>> {
    (1..=MONTHS).map(Some).chain([None])
}

/// The days that a month has; 31 where it is not known which month it is.
fn n_days(year: Option<i32>, month: Option<i32>) -> i32 {
    year.zip(month).map_or(DAYS_MAX, |(year, month)| days_of_month(year, month))
}

impl Days {
    fn of(years: Vec<Option<i32>>) -> Self {
        let mut columns: [Vec<Option<i32>>; 3] = Default::default();
        let mut dates = vec![];
        for &year in &years {
            for month in months() {
                for day in (1..=n_days(year, month)).map(Some).chain([None]) {
                    for (column, value) in columns.iter_mut().zip([year, month, day]) {
                        column.push(value);
                    }
                    dates.push(year.zip(month).zip(day).and_then(|((y, m), d)| unix_day(y, m, d)));
                }
            }
        }
        Self { years, columns: columns.map(Int32Array::from), dates: Date32Array::from(dates) }
    }

    /// The highest directories whose days are all kept.
    fn spans(&self, kept: &BooleanArray) -> Vec<Span> {
        let mut spans: Vec<Span> = vec![];
        let mut i = 0;
        for &year in &self.years {
            let mut below: Vec<Span> = vec![];
            let mut is_whole_year = year.is_some();
            for month in months() {
                let days: Vec<bool> = (0..=n_days(year, month)).map(|d| is_true(kept, i + d as usize)).collect();
                i += days.len();
                let (null, known) = days.split_last().unwrap_or((&false, &[]));
                let is_any = *null || known.contains(&true);
                if year.is_none() || month.is_none() {
                    // Nothing is known of what lies there.
                    below.extend(is_any.then(|| vec![year, month]));
                    continue;
                }
                if known.iter().all(|kept| *kept) {
                    below.push(vec![year, month]);
                    continue;
                }
                is_whole_year = false;
                let kept_days = (1..).map(Some).zip(known).filter(|(_, kept)| **kept).map(|(day, _)| day);
                below.extend(kept_days.chain(null.then_some(None)).map(|day| vec![year, month, day]));
            }
            match year {
                Some(_) if is_whole_year => spans.push(vec![year]),
                Some(_) => spans.extend(below),
                None => spans.extend((!below.is_empty()).then(|| vec![None])),
            }
        }
        spans
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::AsArray;
    use datafusion::arrow::datatypes::Int32Type;
    use datafusion::prelude::{col, lit};

    use super::super::layout::Naming;
    use super::*;

    fn calendar() -> Calendar {
        let column = |name: &&str| PartitionColumn {
            name: (*name).to_string(),
            data_type: DataType::Int32,
            naming: Naming::of_new(name, &DataType::Int32),
        };
        Calendar::of(&COLUMNS.iter().map(column).collect::<Vec<_>>()).unwrap()
    }

    fn by_date(from: (i32, i32, i32), to: Option<(i32, i32, i32)>) -> Option<Vec<Span>> {
        let day = |(y, m, d)| unix_day(y, m, d).unwrap();
        let decide = |batch: &RecordBatch| {
            let dates = batch.column(3).as_primitive::<Date32Type>();
            let is_in = |date: i32| date >= day(from) && to.is_none_or(|to| date <= day(to));
            Ok(dates.iter().map(|date| date.map(is_in)).collect::<BooleanArray>())
        };
        calendar().spans(decide).unwrap()
    }

    /// Goal: a range is the days in it, months and years that are whole as such, and what has no end is told.
    #[test]
    fn ranges_are_days_months_and_years() {
        let day = |y, m, d| vec![Some(y), Some(m), Some(d)];
        let week = by_date((2019, 7, 30), Some((2019, 8, 2))).unwrap();
        assert_eq!(week, [day(2019, 7, 30), day(2019, 7, 31), day(2019, 8, 1), day(2019, 8, 2)]);
        let leap = by_date((2020, 2, 28), Some((2020, 4, 1))).unwrap();
        assert_eq!(leap, [day(2020, 2, 28), day(2020, 2, 29), vec![Some(2020), Some(3)], day(2020, 4, 1)]);
        let years = by_date((2018, 12, 31), Some((2020, 12, 31))).unwrap();
        assert_eq!(years, [day(2018, 12, 31), vec![Some(2019)], vec![Some(2020)]]);
        assert_eq!(by_date((2019, 7, 30), None), None);
        assert_eq!(by_date((2019, 8, 2), Some((2019, 7, 30))), Some(vec![]));
    }

    /// Goal: what compares with years that are not tried is told.
    #[test]
    fn years_beyond_are_told() {
        let date = |y, m, d| lit(ScalarValue::Date32(unix_day(y, m, d)));
        let known = [
            col("date").between(date(2019, 7, 28), date(2019, 8, 3)),
            col("year").eq(lit(2019)).and(col("month").in_list(vec![lit(7), lit(8)], false)),
            (col("month") % lit(2i64)).eq(lit(0i64)),
        ];
        let beyond = [
            col("date").eq(date(9999, 12, 31)),
            col("year").in_list(vec![lit(2019), lit(9999)], false),
            col("year").lt(lit(1900)),
            (col("year") * lit(100) + col("month")).eq(lit(185_003)),
            col("year").eq(lit("2019")),
        ];
        assert_eq!(known.each_ref().map(is_about_known_years), [true; 3]);
        assert_eq!(beyond.each_ref().map(is_about_known_years), [false; 5]);
    }

    /// Goal: NULL is found where it is asked for, and only there.
    #[test]
    fn null_is_a_directory() {
        let month = |wanted: Option<i32>| {
            let decide = move |batch: &RecordBatch| {
                let [years, months] = [0, 1].map(|i| batch.column(i).as_primitive::<Int32Type>());
                let is_kept = |(year, month)| year == Some(2019) && month == wanted;
                Ok(years.iter().zip(months).map(|pair| Some(is_kept(pair))).collect::<BooleanArray>())
            };
            calendar().spans(decide).unwrap().unwrap()
        };
        assert_eq!(month(Some(7)), [[Some(2019), Some(7)]]);
        assert_eq!(month(None), [[Some(2019), None]]);
        let first_or_null = |batch: &RecordBatch| {
            let days = batch.column(2).as_primitive::<Int32Type>();
            Ok(days.iter().map(|day| Some(day.is_none_or(|day| day == 1))).collect::<BooleanArray>())
        };
        let spans = calendar().spans_of(vec![Some(2019)], first_or_null).unwrap();
        assert_eq!(spans[..2], [vec![Some(2019), Some(1), Some(1)], vec![Some(2019), Some(1), None]]);
        assert_eq!(spans.len(), 25);
        assert_eq!(spans[24], [Some(2019), None]);
    }
}
