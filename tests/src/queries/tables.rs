//! Random tables: the same columns, and any number of rows and files.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, Int64Builder, ListBuilder,
    RecordBatch, StringArray, TimestampNanosecondArray,
};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::error::Result;
use datafusion::parquet::arrow::ArrowWriter;

use super::node::Type;
use crate::random::Random;

/// The columns of every table. `id` is different in each row and never NULL; `k` joins, `g` has few values.
pub const COLUMNS: [(&str, Type); 10] = [
    ("id", Type::BigInt),
    ("k", Type::BigInt),
    ("g", Type::BigInt),
    ("f", Type::Double),
    ("d", Type::Decimal),
    ("s", Type::Varchar),
    ("dt", Type::Date),
    ("ts", Type::Timestamp),
    ("b", Type::Boolean),
    ("l", Type::List),
];

pub const FILES_MAX: u64 = 8;
pub const ROWS_MAX: u64 = 5_000;
const WORDS: [&str; 9] = ["", "a", "b", "ab", "Zebra", "äöü", "a longer text than twelve bytes", "x_y", "10"];

/// One table of a world.
#[derive(Debug, Clone)]
pub struct Table {
    pub name: String,
    /// Rows of each file; no file, and files without rows, are possible.
    pub files: Vec<RecordBatch>,
    pub schema: SchemaRef,
    /// Whether `f` has NaN and both zeros, for which engines follow different rules.
    pub has_odd_floats: bool,
}

impl Table {
    pub fn rows(&self) -> usize {
        self.files.iter().map(RecordBatch::num_rows).sum()
    }

    /// Writes the files into a folder of the table's name below `folder`, and all rows into one file beside it.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(self.location(folder))?;
        for (i, rows) in self.files.iter().enumerate() {
            self.write_file(&self.location(folder).join(format!("part-{i}.parquet")), std::slice::from_ref(rows))?;
        }
        self.write_file(&self.whole(folder), &self.files)
    }

    fn write_file(&self, path: &Path, batches: &[RecordBatch]) -> Result<()> {
        let mut writer = ArrowWriter::try_new(File::create(path)?, Arc::clone(&self.schema), None)?;
        for batch in batches {
            writer.write(batch)?;
        }
        writer.close()?;
        Ok(())
    }

    pub fn location(&self, folder: &Path) -> PathBuf {
        folder.join(&self.name)
    }

    /// The file that has all rows.
    pub fn whole(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}-whole.parquet", self.name))
    }

    /// The statement that makes the table, with its columns, since there may be no file to read them from.
    pub fn create_statement(&self, name: &str, folder: &Path) -> String {
        let columns: Vec<String> = COLUMNS.iter().map(|(column, of)| format!("{column} {}", of.name())).collect();
        let location = self.location(folder);
        format!(
            "CREATE EXTERNAL TABLE {name} ({}) STORED AS PARQUET LOCATION '{}/'",
            columns.join(", "),
            location.display()
        )
    }

    /// The same table with some rows left out: for making a failure smaller.
    pub fn smaller(&self) -> Vec<Self> {
        let mut found = vec![];
        for i in 0..self.files.len() {
            let mut fewer = self.clone();
            fewer.files.remove(i);
            found.push(fewer);
            let rows = self.files[i].num_rows();
            if rows > 0 {
                let half = rows / 2;
                for (offset, length) in [(0, half), (half, rows - half)] {
                    if length < rows {
                        let mut fewer = self.clone();
                        fewer.files[i] = self.files[i].slice(offset, length);
                        found.push(fewer);
                    }
                }
            }
        }
        found
    }
}

/// The tables of a seed, `t0` and following.
pub fn random_tables(random: &mut Random, n: usize) -> Result<Vec<Table>> {
    (0..n).map(|i| random_table(random, format!("t{i}"))).collect()
}

fn random_table(random: &mut Random, name: String) -> Result<Table> {
    let n_files = random.below(FILES_MAX + 1);
    let rows_max = *random.pick(&[0, 3, 12, 12, 50, 50, 200, ROWS_MAX / FILES_MAX]);
    let has_odd_floats = random.chance(20);
    let mut next_id = 0;
    let mut files = vec![];
    for _ in 0..n_files {
        let rows = if random.chance(15) { 0 } else { random.below(rows_max + 1) };
        files.push(random_rows(random, next_id, rows, rows_max, has_odd_floats)?);
        next_id += rows as i64;
    }
    let schema = random_rows(random, 0, 0, 1, false)?.schema();
    Ok(Table { name, files, schema, has_odd_floats })
}

fn random_rows(
    random: &mut Random,
    first_id: i64,
    rows: u64,
    rows_max: u64,
    has_odd_floats: bool,
) -> Result<RecordBatch> {
    let is_skewed = random.chance(20);
    let mut lists = ListBuilder::new(Int64Builder::new());
    for _ in 0..rows {
        let is_null = random.chance(10);
        if !is_null {
            for _ in 0..random.below(4) {
                lists.values().append_option((!random.chance(15)).then(|| random.below(9) as i64));
            }
        }
        lists.append(!is_null);
    }
    let ids = Int64Array::from_iter_values((0..rows as i64).map(|i| first_id + i));
    let columns: [ArrayRef; COLUMNS.len()] = [
        Arc::new(ids),
        Arc::new(
            column(random, rows, |r| if is_skewed && r.chance(80) { 7 } else { r.below(rows_max.max(2)) as i64 - 2 })
                .collect::<Int64Array>(),
        ),
        Arc::new(column(random, rows, |r| r.below(5) as i64).collect::<Int64Array>()),
        Arc::new(column(random, rows, |r| float(r, has_odd_floats)).collect::<Float64Array>()),
        Arc::new(
            column(random, rows, |r| i128::from(r.below(20_000)) - 10_000)
                .collect::<Decimal128Array>()
                .with_precision_and_scale(12, 2)?,
        ),
        Arc::new(column(random, rows, |r| *r.pick(&WORDS)).collect::<StringArray>()),
        Arc::new(column(random, rows, |r| 19_000 + r.below(90) as i32).collect::<Date32Array>()),
        Arc::new(
            column(random, rows, |r| 1_641_600_000_000_000_000 + r.below(5_000) as i64 * 3_600_123_456_000)
                .collect::<TimestampNanosecondArray>(),
        ),
        Arc::new(column(random, rows, |r| r.chance(50)).collect::<BooleanArray>()),
        Arc::new(lists.finish()),
    ];
    let names = COLUMNS.iter().map(|(name, _)| *name);
    Ok(RecordBatch::try_from_iter_with_nullable(names.zip(columns).map(|(name, column)| (name, column, true)))?)
}

/// Values of which some are NULL.
fn column<'a, T: 'a>(
    random: &'a mut Random,
    rows: u64,
    mut value: impl FnMut(&mut Random) -> T + 'a,
) -> impl Iterator<Item = Option<T>> + 'a {
    let nulls = *random.pick(&[0, 0, 10, 30, 100]);
    (0..rows).map(move |_| (!random.chance(nulls)).then(|| value(random)))
}

/// Quarters, whose sums are exact, and with `has_odd` what floating-point numbers have besides.
fn float(random: &mut Random, has_odd: bool) -> f64 {
    if has_odd && random.chance(30) {
        return *random.pick(&[f64::NAN, 0.0, -0.0, f64::INFINITY]);
    }
    random.below(200) as f64 / 4.0 - 20.0
}
