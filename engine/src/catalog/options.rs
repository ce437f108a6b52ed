//! Options of tables that are ours and not of a file format.

use datafusion::error::Result;
use datafusion::logical_expr::CreateExternalTable;

use crate::user_err;

/// Whether directories are named in one way, so that those of a date are known, or in several.
const DIRECTORY_NAMES: &str = "directory_names";
/// Whether all files are looked into for the table's columns.
const MERGE_SCHEMA: &str = "merge_schema";
/// Whether files that cannot be read are left out.
const SKIP_BAD_FILES: &str = "skip_bad_files";
/// How old listings of its directories may be.
const LISTING_SECONDS: &str = "listing_seconds";

/// Most seconds that a listing may be old: a week.
const LISTING_SECONDS_MAX: u64 = 7 * 24 * 60 * 60;

#[derive(Debug, Clone, Default)]
pub(super) struct TableOptions {
    pub has_mixed_names: bool,
    pub merge_schema: bool,
    pub skip_bad_files: bool,
    pub listing_seconds: Option<u64>,
}

impl TableOptions {
    /// Takes them out of a statement's.
    ///
    /// # Errors
    /// When one has a value that it does not take.
    pub fn take(cmd: &mut CreateExternalTable) -> Result<Self> {
        let table = cmd.name.to_string();
        let mut take =
            |name: &str| [name.to_string(), format!("format.{name}")].iter().find_map(|n| cmd.options.remove(n));
        let has_mixed_names = match take(DIRECTORY_NAMES) {
            Some(value) if value.eq_ignore_ascii_case("mixed") => true,
            Some(value) if value.eq_ignore_ascii_case("regular") => false,
            Some(value) => {
                return user_err!("table {table}: {DIRECTORY_NAMES:?} is 'regular' or 'mixed', not {value:?}");
            }
            None => false,
        };
        let merge_schema = flag(&table, MERGE_SCHEMA, take(MERGE_SCHEMA))?;
        let skip_bad_files = flag(&table, SKIP_BAD_FILES, take(SKIP_BAD_FILES))?;
        let listing_seconds = match take(LISTING_SECONDS) {
            Some(value) => match value.parse() {
                Ok(seconds) if seconds <= LISTING_SECONDS_MAX => Some(seconds),
                _ => {
                    return user_err!(
                        "table {table}: {LISTING_SECONDS:?} is a number of seconds up to {LISTING_SECONDS_MAX}, not {value:?}"
                    );
                }
            },
            None => None,
        };
        Ok(Self { has_mixed_names, merge_schema, skip_bad_files, listing_seconds })
    }
}

fn flag(table: &str, name: &str, value: Option<String>) -> Result<bool> {
    match value.as_deref().map(str::to_lowercase).as_deref() {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => user_err!("table {table}: {name:?} is 'true' or 'false', not {other:?}"),
    }
}
