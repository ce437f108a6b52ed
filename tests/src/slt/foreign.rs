//! Files that we did not write, through the Flight SQL port and in DataFusion in one process: which records pass in each.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use datafusion_sqllogictest::TestContext;

use super::engines::{CoveyEngine, LocalEngine};
use super::records::{Outcome, run_records};
use crate::queries::session::Session;

/// The label by which DataFusion's own files name the engine that they are for.
const DATAFUSION_LABEL: &str = "Datafusion";

/// Characters of an error by which failures are put together.
const CAUSE_LENGTH_MAX: usize = 90;

#[derive(Debug, Clone)]
pub struct ForeignOptions {
    /// The folder of the files; paths in them are relative to the folder above it.
    pub folder: PathBuf,
    /// Only files whose path has this in it.
    pub only: Option<String>,
    /// The scheduler.
    pub url: String,
    /// Whether every failure is printed.
    pub is_verbose: bool,
}

/// What was counted.
#[derive(Debug, Default)]
pub struct ForeignSummary {
    pub records: usize,
    pub datafusion_passed: usize,
    /// Of those, how many pass in Covey too.
    pub both_passed: usize,
    pub covey_passed: usize,
    /// Failures of records that DataFusion passes.
    pub causes: BTreeMap<String, Vec<String>>,
    pub files: BTreeMap<String, (usize, usize)>,
}

impl fmt::Display for ForeignSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (file, (expected, passed)) in &self.files {
            if expected != passed {
                writeln!(f, "{file}: {passed} of {expected}")?;
            }
        }
        let mut causes: Vec<_> = self.causes.iter().collect();
        causes.sort_by_key(|(_, places)| std::cmp::Reverse(places.len()));
        for (cause, places) in causes {
            writeln!(f, "{:5} {cause}\n      first: {}", places.len(), places[0])?;
        }
        writeln!(f, "{} records; DataFusion in one process passes {}", self.records, self.datafusion_passed)?;
        let share = 100.0 * self.both_passed as f64 / self.datafusion_passed.max(1) as f64;
        write!(f, "Covey passes {} of these ({share:.2} %), and {} in all", self.both_passed, self.covey_passed)
    }
}

/// Runs every file of a folder in both, EXPLAIN left out.
///
/// # Errors
/// When the folder cannot be read, or no scheduler answers.
pub async fn run_foreign(options: &ForeignOptions) -> Result<ForeignSummary, String> {
    let root = options.folder.canonicalize().map_err(|e| format!("{}: {e}", options.folder.display()))?;
    let scratch = tempfile::tempdir().map_err(|e| e.to_string())?;
    copy_folder(&root, &scratch.path().join("test_files"))?;
    if let Some(data) = root.parent().map(|above| above.join("data")).filter(|data| data.exists()) {
        copy_folder(&data, &scratch.path().join("data"))?;
    }
    // Paths in the files are relative to where their runner was started.
    std::env::set_current_dir(scratch.path()).map_err(|e| e.to_string())?;
    let folder = PathBuf::from("test_files");
    let mut files = vec![];
    find_files(&folder, &mut files)?;
    files.sort();
    let mut summary = ForeignSummary::default();
    for file in files {
        let name = file.strip_prefix(&folder).unwrap_or(&file).to_string_lossy().into_owned();
        if options.only.as_ref().is_some_and(|only| !name.contains(only)) {
            continue;
        }
        run_file(options, &file, &name, scratch.path(), &mut summary).await?;
    }
    Ok(summary)
}

async fn run_file(
    options: &ForeignOptions,
    file: &Path,
    name: &str,
    above: &Path,
    summary: &mut ForeignSummary,
) -> Result<(), String> {
    let relative = PathBuf::from(name);
    let Some(context) = TestContext::try_new_for_test_file(&relative).await else { return Ok(()) };
    clean_scratch(file)?;
    let local = LocalEngine::new(DATAFUSION_LABEL, context.session_ctx().clone());
    let Ok(expected) = run_records(file, DATAFUSION_LABEL, local).await else { return Ok(()) };
    clean_scratch(file)?;
    let schema = format!("slt_{}", name.replace(|c: char| !c.is_ascii_alphanumeric(), "_")).to_lowercase();
    let mut session = Session::open(&options.url, &[]).await?;
    session.run(&format!("CREATE SCHEMA {schema}")).await?;
    session.run(&format!("SET datafusion.catalog.default_schema = '{schema}'")).await?;
    let engine = CoveyEngine::unchanged(session, DATAFUSION_LABEL, above.to_path_buf());
    let ours = run_records(file, DATAFUSION_LABEL, engine).await?;
    count(options, name, &expected, &ours, summary);
    let mut session = Session::open(&options.url, &[]).await?;
    let _ = session.run(&format!("DROP SCHEMA {schema} CASCADE")).await;
    Ok(())
}

fn count(options: &ForeignOptions, name: &str, expected: &[Outcome], ours: &[Outcome], summary: &mut ForeignSummary) {
    let (mut in_datafusion, mut in_both) = (0, 0);
    for (expected, ours) in expected.iter().zip(ours) {
        if is_explain(&expected.sql) {
            continue;
        }
        summary.records += 1;
        summary.covey_passed += usize::from(ours.failure.is_none());
        if expected.failure.is_some() {
            continue;
        }
        in_datafusion += 1;
        match &ours.failure {
            None => in_both += 1,
            Some(failure) => {
                if options.is_verbose {
                    println!("{}\n  {}\n  {failure}\n", ours.place, ours.sql);
                }
                summary.causes.entry(cause(failure)).or_default().push(ours.place.clone());
            }
        }
    }
    summary.datafusion_passed += in_datafusion;
    summary.both_passed += in_both;
    summary.files.insert(name.to_string(), (in_datafusion, in_both));
}

fn is_explain(sql: &str) -> bool {
    sql.trim_start().get(..7).is_some_and(|word| word.eq_ignore_ascii_case("explain"))
}

/// What failures of one kind have in common: the beginning of their text, without numbers and names.
fn cause(failure: &str) -> String {
    let line = failure.lines().find(|line| !line.trim().is_empty() && !line.starts_with("[SQL]")).unwrap_or_default();
    let detail =
        failure.lines().find(|line| line.contains("rror")).filter(|detail| *detail != line).unwrap_or_default();
    let text: String = format!("{line} {detail}").chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).collect();
    text.chars().take(CAUSE_LENGTH_MAX).collect()
}

fn clean_scratch(file: &Path) -> Result<(), String> {
    let stem = file.file_stem().unwrap_or_default();
    let folder = PathBuf::from("test_files").join("scratch").join(stem);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(|e| e.to_string())?;
    }
    std::fs::create_dir_all(&folder).map_err(|e| e.to_string())
}

fn find_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), String> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for entry in entries {
        let path = entry.map_err(|e| e.to_string())?.path();
        if path.is_dir() {
            find_files(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "slt") {
            files.push(path);
        }
    }
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("{}: {e}", from.display());
    std::fs::create_dir_all(to).map_err(failed)?;
    for entry in std::fs::read_dir(from).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if path.is_dir() {
            copy_folder(&path, &target)?;
        } else {
            std::fs::copy(&path, &target).map_err(failed)?;
        }
    }
    Ok(())
}
