//! The tables of some seeds: on disk, in the judges, and in the clusters.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::ipc::writer::FileWriter;

use super::generator::{Generator, Question};
use super::session::Session;
use super::shapes::Sizes;
use super::tables::{COLUMNS, Table, random_tables};
use crate::random::Random;

/// Seeds that share tables.
pub const WORLD_SEEDS: u64 = 20;

const TABLES: usize = 4;

/// The tables of [`WORLD_SEEDS`] seeds.
pub struct World {
    pub number: u64,
    pub tables: Vec<Table>,
    pub folder: tempfile::TempDir,
}

impl World {
    /// # Errors
    /// When the files cannot be written.
    pub fn new(number: u64) -> Result<Self, String> {
        let mut random = Random::of(&[number, 0x7ab1e]);
        let tables = random_tables(&mut random, TABLES).map_err(|e| e.to_string())?;
        Self::of(number, tables)
    }

    /// # Errors
    /// When the files cannot be written.
    pub fn of(number: u64, tables: Vec<Table>) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        for table in &tables {
            table.write(folder.path()).map_err(|e| e.to_string())?;
        }
        Ok(Self { number, tables, folder })
    }

    pub fn question(&self, seed: u64) -> Question {
        Generator::new(Random::of(&[seed, 0x9e]), &self.tables).question()
    }

    /// The schema of a cluster's catalog that has these tables.
    pub fn schema(&self, sizes: Sizes) -> String {
        format!("w{}_{sizes:?}", self.number).to_lowercase()
    }

    /// Creates the tables in a cluster.
    ///
    /// # Errors
    /// What the cluster says.
    pub async fn create(&self, session: &mut Session, sizes: Sizes) -> Result<(), String> {
        let schema = self.schema(sizes);
        session.run(&format!("CREATE SCHEMA {schema}")).await?;
        for table in &self.tables {
            let name = format!("{schema}.{}", table.name);
            match sizes {
                Sizes::Known => session.run(&table.create_statement(&name, self.folder.path())).await?,
                Sizes::Unknown => {
                    let folder = self.folder.path().join("arrow");
                    write_arrow(table, &folder).map_err(|e| e.to_string())?;
                    session.run(&arrow_statement(table, &name, &folder)).await?
                }
                Sizes::Wrong => {
                    let folder = self.folder.path().join("grown");
                    let mut none = table.clone();
                    none.files = table.files.iter().take(1).map(|rows| rows.slice(0, 0)).collect();
                    none.write(&folder).map_err(|e| e.to_string())?;
                    session.run(&table.create_statement(&name, &folder)).await?;
                    table.write(&folder).map_err(|e| e.to_string())?;
                    continue;
                }
            };
        }
        Ok(())
    }

    /// Drops what [`create`](Self::create) has made.
    ///
    /// # Errors
    /// What the cluster says.
    pub async fn drop(&self, session: &mut Session, sizes: Sizes) -> Result<(), String> {
        session.run(&format!("DROP SCHEMA {} CASCADE", self.schema(sizes))).await.map(|_| ())
    }

    /// The tables as statements that make them again, for a report.
    pub fn to_sql(&self) -> String {
        self.tables.iter().map(table_to_sql).collect()
    }
}

/// The columns are those of the files, which must have the very types, but where there is no file.
fn arrow_statement(table: &Table, name: &str, folder: &Path) -> String {
    if table.files.is_empty() {
        return table.create_statement(name, folder).replace("STORED AS PARQUET", "STORED AS ARROW");
    }
    format!("CREATE EXTERNAL TABLE {name} STORED AS ARROW LOCATION '{}/'", table.location(folder).display())
}

fn write_arrow(table: &Table, folder: &Path) -> datafusion::error::Result<()> {
    let location = table.location(folder);
    std::fs::create_dir_all(&location)?;
    for (i, rows) in table.files.iter().enumerate() {
        let file = File::create(location.join(format!("part-{i}.arrow")))?;
        let mut writer = FileWriter::try_new(file, &table.schema)?;
        writer.write(rows)?;
        writer.finish()?;
    }
    Ok(())
}

fn table_to_sql(table: &Table) -> String {
    use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
    let columns: Vec<String> = COLUMNS.iter().map(|(name, of)| format!("{name} {}", of.name())).collect();
    let mut sql = format!("CREATE TABLE {} ({});\n", table.name, columns.join(", "));
    let options = FormatOptions::default().with_null("NULL");
    for file in table.files.iter().map(Arc::new) {
        if file.num_rows() == 0 {
            continue;
        }
        let formatters: Vec<_> =
            file.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options)).collect();
        let rows: Vec<String> = (0..file.num_rows())
            .map(|row| {
                let cells: Vec<String> = formatters
                    .iter()
                    .map(|formatter| match formatter {
                        Ok(formatter) => quoted(&formatter.value(row).to_string()),
                        Err(e) => e.to_string(),
                    })
                    .collect();
                format!("({})", cells.join(", "))
            })
            .collect();
        sql.push_str(&format!("INSERT INTO {} VALUES {};\n", table.name, rows.join(", ")));
    }
    sql
}

/// A value as a literal, near enough for a person to run it again.
fn quoted(value: &str) -> String {
    if value == "NULL" || value.starts_with('[') || value.parse::<f64>().is_ok_and(f64::is_finite) {
        value.to_string()
    } else {
        format!("'{value}'")
    }
}
