//! What creating a table looks up in its directories.

use std::collections::BTreeSet;

use datafusion::error::Result;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use url::Url;

use super::glob::Glob;
use super::layout::{is_hidden, is_number, value_text};
use super::lister::Lister;

/// What creating a table needs to know of its directories: their names on one path down for each level, the newest last,
/// and the files at its end.
pub(super) struct Probe {
    pub directories: Vec<Vec<String>>,
    pub files: Vec<ObjectMeta>,
}

/// Most levels of directories of a table.
const PARTITION_COLUMNS_MAX: usize = 64;

/// Most directories that are looked into for files when a table is created.
const PROBED_DIRECTORIES_MAX: usize = 256;

/// Looks for the newest directory with files: at every level the last first, numbers before others. An upload may be
/// under way, and a lake may still be empty at any level; then what is told is the way to the newest directory.
pub(super) async fn probe(store: &dyn ObjectStore, url: &Url, columns: &[String], extension: &str) -> Result<Probe> {
    let mut newest: Option<Probe> = None;
    let mut directories: Vec<Vec<String>> = vec![];
    let mut waiting = vec![(0, Path::from_url_path(url.path())?)];
    for _ in 0..PROBED_DIRECTORIES_MAX {
        let Some((level, path)) = waiting.pop() else { break };
        directories.truncate(level);
        if let Some(column) = columns.get(level) {
            let below = partitions(store, &path, column).await?;
            directories.push(below.iter().filter_map(|path| path.filename().map(ToString::to_string)).collect());
            waiting.extend(below.into_iter().map(|path| (level + 1, path)));
            if !directories[level].is_empty() {
                continue;
            }
        }
        let files = if level == columns.len() { files_below(store, &path, extension).await? } else { vec![] };
        let is_found = !files.is_empty();
        directories.resize(columns.len(), vec![]);
        let found = Probe { directories: directories.clone(), files };
        if is_found {
            return Ok(found);
        }
        newest.get_or_insert(found);
    }
    Ok(newest.unwrap_or_else(|| Probe { directories: vec![vec![]; columns.len()], files: vec![] }))
}

/// The directories of a partition column, the newest last.
async fn partitions(store: &dyn ObjectStore, path: &Path, column: &str) -> Result<Vec<Path>> {
    fn text<'a>(column: &str, path: &'a Path) -> Option<&'a str> {
        path.filename().and_then(|name| value_text(column, name))
    }
    let mut below = store.list_with_delimiter(Some(path)).await?.common_prefixes;
    below.retain(|path| text(column, path).is_some());
    below.sort_by_cached_key(|path| (text(column, path).is_some_and(is_number), path.clone()));
    Ok(below)
}

/// What patterns name: the files, and the names of the last directories above them.
pub(super) async fn probe_globs(
    store: &dyn ObjectStore,
    globs: &[Glob],
    columns: &[String],
    extension: &str,
) -> Result<Probe> {
    let mut files: Vec<ObjectMeta> = vec![];
    for glob in globs {
        let found = glob.find(&Lister::of_store(store)).await?;
        files.extend(found.files.into_iter().filter(|meta| meta.size > 0));
        files.extend(
            found.below.into_iter().filter(|meta| meta.size > 0 && meta.location.as_ref().ends_with(extension)),
        );
    }
    files.sort_by(|a, b| a.location.cmp(&b.location));
    files.dedup();
    let mut directories = vec![BTreeSet::new(); columns.len()];
    for file in &files {
        let parts: Vec<String> = file.location.parts().map(|part| part.as_ref().to_string()).collect();
        let Some(above) = parts.len().checked_sub(1 + columns.len()) else { continue };
        for (names, part) in directories.iter_mut().zip(&parts[above..]) {
            names.insert(part.clone());
        }
    }
    Ok(Probe { directories: directories.into_iter().map(|names| names.into_iter().collect()).collect(), files })
}

/// The partition columns of a table that was created without naming them: those in the names of its directories.
pub(super) async fn named_partitions(store: &dyn ObjectStore, url: &Url) -> Result<Vec<String>> {
    let mut path = Path::from_url_path(url.path())?;
    let mut columns: Vec<String> = vec![];
    while columns.len() < PARTITION_COLUMNS_MAX {
        let below = store.list_with_delimiter(Some(&path)).await?.common_prefixes;
        let mut named = below.into_iter().filter_map(|path| {
            let (column, _) = path.filename()?.split_once('=')?;
            let column = (!column.is_empty() && !column.starts_with('.')).then(|| column.to_string())?;
            Some((column, path))
        });
        let Some((column, next)) = named.next_back() else { break };
        columns.push(column);
        path = next;
    }
    Ok(columns)
}

/// All data files below a table's directory.
pub(super) async fn data_files(store: &dyn ObjectStore, url: &Url, extension: &str) -> Result<Vec<ObjectMeta>> {
    files_below(store, &Path::from_url_path(url.path())?, extension).await
}

async fn files_below(store: &dyn ObjectStore, path: &Path, extension: &str) -> Result<Vec<ObjectMeta>> {
    let mut files: Vec<ObjectMeta> = store.list(Some(path)).try_collect().await?;
    let is_hidden = |meta: &ObjectMeta| {
        let mut parts = meta.location.prefix_match(path).into_iter().flatten();
        parts.any(|part| is_hidden(part.as_ref()))
    };
    files.retain(|meta| meta.size > 0 && meta.location.as_ref().ends_with(extension) && !is_hidden(meta));
    files.sort_by(|a, b| a.location.cmp(&b.location));
    Ok(files)
}
