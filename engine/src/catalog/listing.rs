//! The files of a lake that a query reads.
//!
//! ```text
//! filters ─► [calendar: directories by date] ─► [down, a LIST for each directory that is left] ─► a LIST of what is below
//! ```
//!
//! Where directories are days, those that the filters leave are known without a look at the store. Levels that no filter
//! needs are not gone down: one LIST gives all files below, a thousand at a time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use datafusion::arrow::compute::and_kleene;
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::catalog::Session;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::error::Result;
use datafusion::logical_expr::Expr;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::ObjectMeta;
use object_store::path::Path;

use super::calendar::{Calendar, Span, date_of, is_about_known_years};
use super::glob::Glob;
use super::lake_table::WriteTarget;
use super::layout::{PartitionColumn, is_hidden, parse_value, value_text};
use super::lister::Lister;
use crate::user_err;

/// LIST requests under way at once for one scan.
const LISTS_CONCURRENT: usize = 16;

/// A directory, and the partition values that lead to it.
#[derive(Debug, Clone)]
struct Level {
    path: Path,
    values: Vec<ScalarValue>,
}

/// How files of a table are found.
pub(super) struct Listing<'a> {
    pub target: &'a WriteTarget,
    pub calendar: Option<&'a Calendar>,
    /// Whether files get the date as their last partition value.
    pub has_date: bool,
    pub session: &'a dyn Session,
    pub lister: &'a Lister<'a>,
}

impl Listing<'_> {
    pub fn columns(&self) -> &[PartitionColumn] {
        &self.target.partition_columns
    }

    fn regular_calendar(&self) -> Option<&Calendar> {
        self.calendar.filter(|calendar| calendar.is_regular)
    }

    /// The data files whose partition values satisfy `filters`, which are over partition columns only.
    pub async fn files(&self, filters: &[Expr]) -> Result<Vec<PartitionedFile>> {
        let levels = self.levels(filters).await?;
        let listed: Vec<Vec<PartitionedFile>> = futures::stream::iter(levels)
            .map(|level| self.files_below(level))
            .buffered(LISTS_CONCURRENT)
            .try_collect()
            .await?;
        self.filtered(listed.concat(), filters)
    }

    /// The directories that `filters` leave.
    async fn levels(&self, filters: &[Expr]) -> Result<Vec<Level>> {
        let root = Level { path: Path::from_url_path(self.target.directory.path())?, values: vec![] };
        if let Some(calendar) = self.regular_calendar()
            && let Some((spans, rest)) = self.by_date(calendar, &root, filters).await?
        {
            let levels = spans.into_iter().map(|span| self.level_of(&root, &span)).collect::<Result<_>>()?;
            return self.descend(levels, &rest).await;
        }
        if filters.is_empty() && !self.columns().is_empty() {
            // Several lists of a part each are quicker than one of all.
            return self.below(root).await;
        }
        self.descend(vec![root], filters).await
    }

    /// What the filters by date leave, and the other filters; `None` where there are none by date.
    async fn by_date(
        &self,
        calendar: &Calendar,
        root: &Level,
        filters: &[Expr],
    ) -> Result<Option<(Vec<Span>, Vec<Expr>)>> {
        let names: HashSet<&str> = calendar.schema().fields().iter().map(|field| field.name().as_str()).collect();
        let is_by_date = |filter: &Expr| filter.column_refs().iter().all(|column| names.contains(column.name.as_str()));
        let (by_date, rest): (Vec<Expr>, Vec<Expr>) = filters.iter().cloned().partition(is_by_date);
        if by_date.is_empty() {
            return Ok(None);
        }
        let decide = |batch: &RecordBatch| self.decide(batch, &by_date);
        let spans = match calendar.spans(decide) {
            Ok(Some(spans)) if by_date.iter().all(is_about_known_years) => spans,
            Ok(_) => {
                let years = self.below(root.clone()).await?;
                let years = years.iter().filter_map(|level| match level.values[0].cast_to(&DataType::Int32) {
                    Ok(ScalarValue::Int32(year)) => Some(year),
                    _ => None,
                });
                match calendar.spans_of(years.collect(), decide) {
                    Ok(spans) => spans,
                    Err(_) => return Ok(None),
                }
            }
            // It may fail for days that are not there, such as 1 / (day - 31).
            Err(_) => return Ok(None),
        };
        Ok(Some((spans, rest)))
    }

    fn level_of(&self, root: &Level, span: &Span) -> Result<Level> {
        let mut level = root.clone();
        for (column, value) in self.columns().iter().zip(span) {
            let text = value.map(|value| value.to_string());
            level.path = level.path.join(column.naming.directory(&column.name, text.as_deref()));
            level.values.push(ScalarValue::Int32(*value).cast_to(&column.data_type)?);
        }
        Ok(level)
    }

    /// Goes down from `levels` as far as a filter needs the values there.
    async fn descend(&self, mut levels: Vec<Level>, filters: &[Expr]) -> Result<Vec<Level>> {
        for depth in 0..self.columns().len() {
            let deeper: HashSet<&str> = self.columns()[depth..].iter().map(|column| column.name.as_str()).collect();
            let is_needed = |filter: &Expr| filter.column_refs().iter().any(|c| deeper.contains(c.name.as_str()));
            if !filters.iter().any(is_needed) {
                break;
            }
            let (here, elsewhere): (Vec<Level>, Vec<Level>) =
                levels.into_iter().partition(|level| level.values.len() == depth);
            let below: Vec<Vec<Level>> = futures::stream::iter(here)
                .map(|level| self.below(level))
                .buffered(LISTS_CONCURRENT)
                .try_collect()
                .await?;
            levels = self.prune(below.concat(), filters, depth + 1)?;
            levels.extend(elsewhere);
        }
        Ok(levels)
    }

    /// The directories of the next partition column.
    async fn below(&self, level: Level) -> Result<Vec<Level>> {
        let column = &self.columns()[level.values.len()];
        let mut below = vec![];
        for path in &self.lister.entries(&level.path).await?.common_prefixes {
            let Some(name) = path.filename() else { continue };
            if let Some(value) = self.value(column, name, path)? {
                let values = level.values.iter().cloned().chain([value]).collect();
                below.push(Level { path: path.clone(), values });
            }
        }
        Ok(below)
    }

    /// The value of a directory; `None` for one that is no data.
    fn value(&self, column: &PartitionColumn, name: &str, path: &Path) -> Result<Option<ScalarValue>> {
        let Some(text) = value_text(&column.name, name) else { return Ok(None) };
        let value = parse_value(column, text, path)?;
        if self.regular_calendar().is_some() {
            // Those that are named otherwise would be missed where directories are not looked up.
            let text = (!value.is_null()).then(|| value.to_string());
            let expected = column.naming.directory(&column.name, text.as_deref());
            if column.naming.is_regular && column.data_type.is_integer() && expected != name {
                return user_err!(
                    "directory /{path} is not named as the others of partition column {}: rename it to {expected:?}, or create the table again with OPTIONS ('directory_names' 'mixed')",
                    column.name
                );
            }
        }
        Ok(Some(value))
    }

    /// Keeps the levels for which no filter over the first `n_known` partition columns is false or NULL.
    fn prune(&self, levels: Vec<Level>, filters: &[Expr], n_known: usize) -> Result<Vec<Level>> {
        let known: Vec<Field> = self.columns()[..n_known].iter().map(PartitionColumn::field).collect();
        let names: HashSet<&str> = known.iter().map(|field| field.name().as_str()).collect();
        let newest = self.columns()[n_known - 1].name.as_str();
        let decidable = filters.iter().filter(|filter| {
            let columns = filter.column_refs();
            // Filters over fewer columns were decided at an earlier level.
            columns.iter().any(|column| column.name == newest)
                && columns.iter().all(|column| names.contains(column.name.as_str()))
        });
        let decidable: Vec<Expr> = decidable.cloned().collect();
        if decidable.is_empty() || levels.is_empty() {
            return Ok(levels);
        }
        let rows: Vec<&[ScalarValue]> = levels.iter().map(|level| level.values.as_slice()).collect();
        let kept = self.decide(&batch(known, &rows)?, &decidable)?;
        Ok(levels.into_iter().zip(&kept).filter(|(_, kept)| *kept == Some(true)).map(|(level, _)| level).collect())
    }

    /// Whether all filters are true, for each row of partition values.
    fn decide(&self, batch: &RecordBatch, filters: &[Expr]) -> Result<BooleanArray> {
        let schema = DFSchema::try_from(batch.schema())?;
        let mut all = BooleanArray::from(vec![true; batch.num_rows()]);
        for filter in filters {
            let predicate = self.session.create_physical_expr(filter.clone(), &schema)?;
            let decided = predicate.evaluate(batch)?.into_array(batch.num_rows())?;
            all = and_kleene(&all, decided.as_boolean())?;
        }
        Ok(all)
    }

    async fn files_below(&self, level: Level) -> Result<Vec<PartitionedFile>> {
        let found = self.lister.files(&level.path).await?;
        self.located(&level, &found.objects, Self::is_data)
    }

    /// The files of globs whose partition values satisfy `filters`: those of the last directories above each.
    pub async fn files_of(&self, globs: &[Glob], filters: &[Expr]) -> Result<Vec<PartitionedFile>> {
        let found: Vec<_> = globs.iter().map(|glob| glob.find(self.lister).boxed()).collect();
        let found = futures::stream::iter(found).buffered(LISTS_CONCURRENT);
        let mut files = vec![];
        for found in found.try_collect::<Vec<_>>().await? {
            for (level, meta) in found.files.iter().map(|meta| (self.above(meta), meta)) {
                files.extend(self.located(&level, std::slice::from_ref(meta), |_, meta| meta.size > 0)?);
            }
            for (level, meta) in found.below.iter().map(|meta| (self.above(meta), meta)) {
                files.extend(self.located(&level, std::slice::from_ref(meta), Self::is_data)?);
            }
        }
        files.sort_by(|a, b| a.object_meta.location.cmp(&b.object_meta.location));
        // Two globs may name the same file.
        files.dedup_by(|a, b| a.object_meta.location == b.object_meta.location);
        self.filtered(files, filters)
    }

    /// The directory above all those of partition columns that a file lies in.
    fn above(&self, meta: &ObjectMeta) -> Level {
        let n = meta.location.parts_count().saturating_sub(self.columns().len() + 1);
        Level { path: Path::from_iter(meta.location.parts().take(n)), values: vec![] }
    }

    /// Files below a directory with their partition values, in the order of their names.
    fn located(
        &self,
        level: &Level,
        found: &[ObjectMeta],
        is_data: impl Fn(&Self, &ObjectMeta) -> bool,
    ) -> Result<Vec<PartitionedFile>> {
        let mut directories: HashMap<Vec<String>, Option<Vec<ScalarValue>>> = HashMap::new();
        let mut files = vec![];
        for meta in found {
            let parts = meta.location.prefix_match(&level.path).into_iter().flatten();
            let mut parts: Vec<String> = parts.map(|part| part.as_ref().to_string()).collect();
            if parts.iter().any(|part| is_hidden(part)) || !is_data(self, meta) {
                continue;
            }
            let n_missing = self.columns().len() - level.values.len();
            if parts.len() <= n_missing {
                continue;
            }
            parts.truncate(n_missing);
            let values = match directories.get(&parts) {
                Some(values) => values.clone(),
                None => {
                    let values = self.values_of(level, &parts)?;
                    directories.insert(parts, values.clone());
                    values
                }
            };
            let Some(values) = values else { continue };
            files.push(PartitionedFile::new_from_meta(meta.clone()).with_partition_values(values));
        }
        files.sort_by(|a, b| a.object_meta.location.cmp(&b.object_meta.location));
        Ok(files)
    }

    /// The partition values of files in a directory; `None` where it is no data.
    fn values_of(&self, level: &Level, directories: &[String]) -> Result<Option<Vec<ScalarValue>>> {
        let (mut values, mut path) = (level.values.clone(), level.path.clone());
        for name in directories {
            path = path.join(name.as_str());
            let Some(value) = self.value(&self.columns()[values.len()], name, &path)? else { return Ok(None) };
            values.push(value);
        }
        if self.has_date {
            let date = date_of(&values);
            if date.is_null() && self.regular_calendar().is_some() && values[..3].iter().all(|value| !value.is_null()) {
                return user_err!(
                    "directory /{path} is no day of the calendar; move it out of the table, or create the table again with OPTIONS ('directory_names' 'mixed')"
                );
            }
            values.push(date);
        }
        Ok(Some(values))
    }

    fn is_data(&self, meta: &ObjectMeta) -> bool {
        meta.size > 0 && meta.location.as_ref().ends_with(&self.target.extension)
    }

    /// Files whose partition values are known, with the date where the table has that column.
    pub fn dated(&self, files: Vec<PartitionedFile>) -> Vec<PartitionedFile> {
        let dated = |mut file: PartitionedFile| {
            if self.has_date {
                let date = date_of(&file.partition_values);
                file.partition_values.push(date);
            }
            file
        };
        files.into_iter().map(dated).collect()
    }

    /// Those of the files whose partition values satisfy `filters`.
    pub fn filtered(&self, files: Vec<PartitionedFile>, filters: &[Expr]) -> Result<Vec<PartitionedFile>> {
        if files.is_empty() || filters.is_empty() {
            return Ok(files);
        }
        let mut fields: Vec<Field> = self.columns().iter().map(PartitionColumn::field).collect();
        if self.has_date
            && let Some(calendar) = self.calendar
        {
            fields.extend(calendar.schema().fields().last().map(|date| date.as_ref().clone()));
        }
        let mut distinct: HashMap<&[ScalarValue], usize> = HashMap::new();
        for file in &files {
            let n = distinct.len();
            distinct.entry(&file.partition_values).or_insert(n);
        }
        let mut rows: Vec<&[ScalarValue]> = vec![&[]; distinct.len()];
        distinct.iter().for_each(|(values, i)| rows[*i] = *values);
        let kept = self.decide(&batch(fields, &rows)?, filters)?;
        let is_kept: Vec<bool> = files
            .iter()
            .map(|file| {
                distinct.get(file.partition_values.as_slice()).is_some_and(|&i| kept.is_valid(i) && kept.value(i))
            })
            .collect();
        Ok(files.into_iter().zip(is_kept).filter(|(_, is_kept)| *is_kept).map(|(file, _)| file).collect())
    }
}

/// Rows of partition values as a batch.
fn batch(fields: Vec<Field>, rows: &[&[ScalarValue]]) -> Result<RecordBatch> {
    let columns = (0..fields.len())
        .map(|i| ScalarValue::iter_to_array(rows.iter().map(|row| row[i].clone())))
        .collect::<Result<Vec<_>>>()?;
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}
