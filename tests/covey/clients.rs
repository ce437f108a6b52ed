//! Clients that are not ours: ADBC's Flight SQL driver, and the command against a scheduler.

use std::io::Write;
use std::process::{Command, Stdio};

use covey_tests::{covey, covey_command, project};

use crate::{create_model, sandbox_with_sample};

/// Goal: a Python client that we did not write runs SELECT, CREATE MODEL and `predict`. Method: a script with
/// `adbc_driver_flightsql` from PyPI, in the environment that `tests/run` makes.
#[tokio::test]
async fn adbc_runs_every_statement() {
    let python = std::env::var("COVEY_TEST_PYTHON")
        .expect("COVEY_TEST_PYTHON names a Python with tests/python/requirements.txt: tests/run sets it");
    let sandbox = sandbox_with_sample(2, 1).await;
    let output = Command::new(python)
        .arg(project().join("tests/python/adbc_client.py"))
        .arg(&sandbox.url)
        .arg(create_model("adbc", ""))
        .output()
        .expect("python starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}\n{}", sandbox.log("scheduler.log"));
    assert_eq!(out.trim(), "ok");
}

/// Goal: results are what a program can read: nothing but rows on standard output, a header without rows, lists and
/// NULL in every form; statements come from a pipe too, the last one without its semicolon.
#[test]
fn results_can_be_piped() {
    let folder = tempfile::tempdir().unwrap();
    let warehouse = folder.path().join("w").to_string_lossy().into_owned();
    let run = |format: &str, input: &str| {
        let mut command = covey_command(&["sql", "--format", format, "--warehouse", &warehouse]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let query = "SELECT make_array(1, 2) AS l, NULL AS n,\n 'a,b' AS t";
    let (code, out, err) = run("csv", query);
    assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "l,n,t\n\"[1, 2]\",,\"a,b\"\n", ""));
    let (_, out, _) = run("json", query);
    assert_eq!(out, "{\"l\":[1,2],\"n\":null,\"t\":\"a,b\"}\n");
    let (_, out, _) = run("csv", "SHOW MODELS;");
    assert!(out.starts_with("model,version,") && out.lines().count() == 1, "{out}");
    let (code, out, err) = run("csv", "SELECT 1 AS one; SELECT nothing; SELECT 2 AS two;");
    assert!(code == Some(1) && out == "one\n1\n" && err.contains("nothing"), "{out}{err}");
    let (_, out, _) = run("expanded", "SELECT 1 AS one, NULL AS nothing;");
    assert_eq!(out, "-[ row 1 ]-------\none     | 1\nnothing |\n");
    for nothing in ["", ";", "-- nothing\n"] {
        assert_eq!(run("csv", nothing), (Some(0), String::new(), String::new()));
    }
    let given =
        covey(&["sql", "--format", "csv", "--warehouse", &warehouse, "-c", "SELECT 1 AS a", "-c", "SELECT 2 AS b"]);
    assert_eq!(String::from_utf8_lossy(&given.stdout), "a\n1\nb\n2\n");
}

/// Goal: who looks at the first rows only does not see an error. Method: a reader that goes away at once.
#[test]
fn a_closed_pipe_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let warehouse = folder.path().join("w").to_string_lossy().into_owned();
    let many = "SELECT value, repeat('x', 1000) FROM generate_series(1, 10000)";
    let mut command = covey_command(&["sql", "--warehouse", &warehouse, many]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Goal: the command runs a script against a scheduler that runs elsewhere, variables included.
#[tokio::test]
async fn the_command_speaks_to_a_scheduler() {
    let sandbox = sandbox_with_sample(2, 1).await;
    let lake = project().join("samples/processes");
    let job = project().join("jobs/workloads.sql");
    let output = covey(&[
        "run",
        &job.to_string_lossy(),
        "--scheduler",
        sandbox.url.trim_start_matches("http://"),
        "--set",
        &format!("LAKE={}", lake.display()),
        "--set",
        "STRATEGY=distributed",
    ]);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{err}");
    assert!(out.lines().filter(|line| line.starts_with("| ")).count() > 50, "{out}");
}
