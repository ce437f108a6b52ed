//! Goal: SQL has one answer, whatever it runs on. The files of `tests/slt` pass in every engine, and random queries have
//! the answers that engines have which are not ours.

use std::collections::BTreeSet;
use std::path::PathBuf;

use covey_tests::queries::run::{self, Options};
use covey_tests::queries::session::Session;
use covey_tests::slt::{CoveyEngine, LocalEngine, Outcome, run_records};
use covey_tests::{Sandbox, project};
use datafusion::prelude::{SessionConfig, SessionContext};

/// Seeds that are run each time; those whose shape kills an executor are left out.
const PAIRS: u64 = 1_000;

fn files() -> Vec<PathBuf> {
    let folder = project().join("tests/slt");
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|of| of == "slt")).collect();
    files.sort();
    files
}

/// Records that fail in an engine and are known to: `ENGINE FILE:LINE`. The list may only get shorter.
fn known_failures(engine: &str) -> BTreeSet<String> {
    let list = std::fs::read_to_string(project().join("tests/slt/known_failures.txt")).unwrap();
    let places = list.lines().filter_map(|line| line.strip_prefix(engine)?.strip_prefix(' '));
    places.map(String::from).collect()
}

fn place_of(outcome: &Outcome) -> String {
    outcome.place.rsplit('/').next().unwrap_or_default().to_string()
}

/// Every record passes but those that are known not to, and these do fail: what was mended leaves the list.
fn assert_passed(engine: &str, outcomes: Vec<Outcome>) {
    assert!(outcomes.len() > 1_000, "only {} records were run", outcomes.len());
    let known = known_failures(engine);
    let failed: BTreeSet<String> = outcomes.iter().filter(|outcome| outcome.failure.is_some()).map(place_of).collect();
    for outcome in outcomes.iter().filter(|outcome| !known.contains(&place_of(outcome))) {
        if let Some(failure) = &outcome.failure {
            eprintln!("{engine} {}\n  {}\n  {failure}\n", place_of(outcome), outcome.sql);
        }
    }
    let new: Vec<&String> = failed.difference(&known).collect();
    assert!(new.is_empty(), "{} of {} records fail in {engine}: {new:?}", new.len(), outcomes.len());
    let mended: Vec<&String> = known.difference(&failed).collect();
    assert!(mended.is_empty(), "records pass in {engine} that are listed as failing: {mended:?}");
}

/// Runs all files in sessions of a scheduler with these settings.
async fn run_files_at(url: &str, settings: &[(&str, String)]) -> Vec<Outcome> {
    let mut results = vec![];
    for file in files() {
        let lake = tempfile::tempdir().unwrap();
        let session = Session::open(url, settings).await.unwrap();
        let engine = CoveyEngine::new(session, lake.path().to_path_buf());
        results.extend(run_records(&file, "covey", engine).await.unwrap());
    }
    results
}

#[tokio::test(flavor = "multi_thread")]
async fn files_pass_in_datafusion() {
    let mut results = vec![];
    for file in files() {
        let config = SessionConfig::new().with_information_schema(true).with_target_partitions(4);
        let engine = LocalEngine::new("datafusion", SessionContext::new_with_config(config));
        results.extend(run_records(&file, "datafusion", engine).await.unwrap());
    }
    assert_passed("datafusion", results);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_pass_on_a_cluster() {
    let sandbox = Sandbox::start(3, 1).await;
    assert_passed("cluster", run_files_at(&sandbox.url, &[]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn random_queries_have_the_answers_of_other_engines() {
    let options = Options {
        seeds: 0..PAIRS,
        log: None,
        cluster: None,
        shrinks: true,
        kills: false,
        script: project().join("tests/python/duckdb_judge.py"),
    };
    let summary = run::run(&options).await.unwrap();
    println!("{summary}");
    assert!(summary.failures.is_empty(), "{summary}\n{}", summary.failures.join("\n"));
}
