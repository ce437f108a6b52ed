//! Clients that are not ours: ADBC's Flight SQL driver, and the command against a scheduler.

use std::process::Command;

use covey_tests::{covey, project};

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
        &sandbox.url,
        "--set",
        &format!("LAKE={}", lake.display()),
        "--set",
        "STRATEGY=distributed",
    ]);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{err}");
    assert!(out.lines().filter(|line| line.starts_with("| ")).count() > 50, "{out}");
}
