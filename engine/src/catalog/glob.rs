//! Locations with `*`, `?`, `[...]` and `{...}`, as Hadoop and so PySpark take them: `s3a://lake/2019/{07,08}/*/*.parquet`.
//!
//! ```text
//! text ─► braces expanded ─► segments ─► a LIST for each directory whose next segment has to be looked up
//! ```
//!
//! A pattern is of names within one directory. Names that begin with `_` or `.` are matched by none.

use std::sync::Arc;

use datafusion::error::{DataFusionError, Result};
use futures::{StreamExt, TryStreamExt};
use object_store::path::{Path, PathPart};
use object_store::{ListResult, ObjectMeta, ObjectStoreExt};

use super::layout::is_hidden;
use super::lister::Lister;
use crate::user_err;

/// LIST requests under way at once for one pattern.
const LISTS_CONCURRENT: usize = 16;

/// Most locations that the braces of one may stand for.
const EXPANDED_MAX: usize = 10_000;

const WILD: [char; 4] = ['*', '?', '[', '{'];

/// Whether a location names files by a pattern.
pub fn is_glob(location: &str) -> bool {
    location.contains(WILD)
}

/// A location without braces.
#[derive(Debug, Clone)]
pub(super) struct Glob {
    segments: Vec<Segment>,
}

#[derive(Debug, Clone)]
enum Segment {
    Name(String),
    Pattern(glob::Pattern),
}

impl Segment {
    fn matches(&self, path: &Path) -> bool {
        let Some(name) = path.filename() else { return false };
        match self {
            Self::Name(expected) => expected == name,
            Self::Pattern(pattern) => !is_hidden(name) && pattern.matches(name),
        }
    }
}

/// What a location names: files by themselves, and directories whose files count.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub files: Vec<ObjectMeta>,
    pub below: Vec<ObjectMeta>,
}

/// The store of a location, as the URL of its root, and the locations that its braces stand for.
///
/// # Errors
/// When a pattern is none.
pub(super) fn parse(location: &str) -> Result<(String, Vec<Glob>)> {
    let (root, path) = match location.split_once("://") {
        Some(("file", path)) => ("file:///".to_string(), path.to_string()),
        Some((scheme, rest)) => {
            let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
            (format!("{scheme}://{bucket}/"), path.to_string())
        }
        None => ("file:///".to_string(), std::path::absolute(location)?.to_string_lossy().into_owned()),
    };
    let globs = expanded(&path, location)?.iter().map(|path| Glob::parse(path, location)).collect::<Result<_>>()?;
    Ok((root, globs))
}

/// The texts that one with braces stands for, each once.
fn expanded(text: &str, location: &str) -> Result<Vec<String>> {
    let (mut done, mut waiting) = (vec![], vec![text.to_string()]);
    while let Some(text) = waiting.pop() {
        let Some((head, choices, tail)) = first_braces(&text, location)? else {
            if !done.contains(&text) {
                done.push(text);
            }
            continue;
        };
        waiting.extend(choices.iter().map(|choice| format!("{head}{choice}{tail}")));
        if done.len() + waiting.len() > EXPANDED_MAX {
            return user_err!("LOCATION {location:?}: its braces stand for over {EXPANDED_MAX} locations");
        }
    }
    done.sort_unstable();
    Ok(done)
}

/// What stands before the first braces, in them, and after.
fn first_braces<'a>(text: &'a str, location: &str) -> Result<Option<(&'a str, Vec<&'a str>, &'a str)>> {
    let Some(open) = text.find('{') else { return Ok(None) };
    let (mut depth, mut begins, mut choices) = (0, open + 1, vec![]);
    for (i, c) in text.char_indices().skip_while(|(i, _)| *i < open) {
        match c {
            '{' => depth += 1,
            ',' if depth == 1 => {
                choices.push(&text[begins..i]);
                begins = i + 1;
            }
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            choices.push(&text[begins..i]);
            return Ok(Some((&text[..open], choices, &text[i + 1..])));
        }
    }
    user_err!("LOCATION {location:?}: a brace is not closed")
}

impl Glob {
    fn parse(path: &str, location: &str) -> Result<Self> {
        let segment = |text: &str| {
            if !is_glob(text) {
                return Ok(Segment::Name(text.to_string()));
            }
            // The shells' word for "none of" beside Java's.
            match glob::Pattern::new(&text.replace("[^", "[!")) {
                Ok(pattern) => Ok(Segment::Pattern(pattern)),
                Err(e) => user_err!("LOCATION {location:?}: {text:?} is no pattern: {e}"),
            }
        };
        let segments = path.split('/').filter(|text| !text.is_empty()).map(segment).collect::<Result<_>>()?;
        Ok(Self { segments })
    }

    /// What is there of it.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn find(&self, lister: &Lister<'_>) -> Result<Found> {
        let Some((last, directories)) = self.segments.split_last() else { return Ok(Found::default()) };
        let mut paths = vec![Path::default()];
        for segment in directories {
            paths = match segment {
                Segment::Name(name) => paths.into_iter().map(|path| child(&path, name)).collect(),
                Segment::Pattern(_) => {
                    let listed = entries(lister, paths).await?;
                    let below = listed.iter().flat_map(|listed| &listed.common_prefixes);
                    below.filter(|path| segment.matches(path)).cloned().collect()
                }
            };
        }
        match last {
            Segment::Name(name) => named(lister, paths.iter().map(|path| child(path, name)).collect()).await,
            Segment::Pattern(_) => {
                let listed = entries(lister, paths).await?;
                let files = listed.iter().flat_map(|listed| &listed.objects);
                let directories = listed.iter().flat_map(|listed| &listed.common_prefixes);
                let files = files.filter(|file| last.matches(&file.location)).cloned().collect();
                let directories = directories.filter(|path| last.matches(path)).cloned().collect();
                Ok(Found { files, below: below(lister, directories).await? })
            }
        }
    }
}

/// Names are taken as they are, also those that a URL would escape.
fn child(path: &Path, name: &str) -> Path {
    Path::from_iter(path.parts().chain([PathPart::from(name)]))
}

async fn entries(lister: &Lister<'_>, paths: Vec<Path>) -> Result<Vec<Arc<ListResult>>> {
    let listed = paths.into_iter().map(async |path| lister.entries(&path).await);
    futures::stream::iter(listed.collect::<Vec<_>>()).buffered(LISTS_CONCURRENT).try_collect().await
}

/// The files of directories.
async fn below(lister: &Lister<'_>, directories: Vec<Path>) -> Result<Vec<ObjectMeta>> {
    let listed = directories.into_iter().map(async |path| {
        let listed = lister.files(&path).await?;
        let is_shown = |meta: &&ObjectMeta| {
            let mut parts = meta.location.prefix_match(&path).into_iter().flatten();
            parts.all(|part| !is_hidden(part.as_ref()))
        };
        Ok::<_, DataFusionError>(listed.objects.iter().filter(is_shown).cloned().collect::<Vec<_>>())
    });
    let listed = futures::stream::iter(listed.collect::<Vec<_>>()).buffered(LISTS_CONCURRENT);
    Ok(listed.try_collect::<Vec<_>>().await?.concat())
}

/// Files that are named, or directories.
async fn named(lister: &Lister<'_>, paths: Vec<Path>) -> Result<Found> {
    let looked = paths.into_iter().map(async |path| match lister.store().head(&path).await {
        Ok(meta) => Ok((Some(meta), path)),
        Err(object_store::Error::NotFound { .. }) => Ok((None, path)),
        Err(error) => Err(DataFusionError::from(error)),
    });
    let looked = futures::stream::iter(looked.collect::<Vec<_>>()).buffered(LISTS_CONCURRENT);
    let looked: Vec<(Option<ObjectMeta>, Path)> = looked.try_collect().await?;
    let (mut files, mut directories) = (vec![], vec![]);
    for (file, path) in looked {
        match file {
            Some(file) => files.push(file),
            None => directories.push(path),
        }
    }
    Ok(Found { files, below: below(lister, directories).await? })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: braces stand for what Hadoop's do, nested ones too, and patterns match within one name.
    #[test]
    fn braces_and_patterns() {
        let texts = |text: &str| expanded(text, text).unwrap();
        assert_eq!(texts("2019/{07,08}/*"), ["2019/07/*", "2019/08/*"]);
        assert_eq!(texts("{a,b{1,2}}/{x,x}"), ["a/x", "b1/x", "b2/x"]);
        assert_eq!(texts("plain"), ["plain"]);
        assert!(expanded("2019/{07,08/*", "lake").unwrap_err().to_string().contains("not closed"));
        assert!(expanded(&"{a,b}".repeat(20), "lake").unwrap_err().to_string().contains("over 10000"));

        let (root, globs) = parse("s3a://lake/2019/[^2-9]?/*.parquet").unwrap();
        assert_eq!((root.as_str(), globs.len(), globs[0].segments.len()), ("s3a://lake/", 1, 3));
        let month = &globs[0].segments[1];
        let matched: Vec<&str> =
            ["07", "12", "21", "1", "_1"].into_iter().filter(|name| month.matches(&Path::from(*name))).collect();
        assert_eq!(matched, ["07", "12"]);
        assert!(parse("s3://lake/[a").unwrap_err().to_string().contains("no pattern"));
    }
}
