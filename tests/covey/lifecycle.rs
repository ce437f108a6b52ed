//! Processes: they end when told, cleanly, and jobs survive the loss of an executor.

use covey_tests::{cell, cells};

use crate::{create_model, sandbox_with_sample};

/// Goal: SIGTERM ends every process with exit code 0, the scheduler last or first.
#[tokio::test]
async fn processes_end_on_sigterm() {
    let mut sandbox = sandbox_with_sample(2, 1).await;
    let mut executor = sandbox.executors.remove(0);
    assert_eq!(executor.terminate().code(), Some(0));
    assert_eq!(cell(&sandbox.sql("SELECT count(*) > 0 FROM processes WHERE month = 7").await), "true");
    assert_eq!(sandbox.scheduler.terminate().code(), Some(0), "{}", sandbox.log("scheduler.log"));
}

/// Goal: an executor that is killed in the middle of a fit changes the time, not the answer.
#[tokio::test]
async fn a_killed_executor_changes_nothing() {
    let mut sandbox = sandbox_with_sample(3, 1).await;
    let options = ", strategy 'distributed', tol 0, n_init 6";
    let expected = cells(&sandbox.sql(&create_model("a", options)).await)[0].last().cloned();
    let client = sandbox.client().await;
    let statement = create_model("b", options);
    let fit = tokio::spawn(async move { client.execute(&statement).await });
    let iterating = "SELECT count(*) > 0 FROM covey_jobs() WHERE state = 'running' AND iteration >= 2";
    while cell(&sandbox.sql(iterating).await) != "true" {
        assert!(!fit.is_finished(), "the fit was over before an executor could be killed");
    }
    sandbox.executors[1].kill();
    let made = fit.await.unwrap().unwrap_or_else(|e| panic!("{e}\n{}", sandbox.log("scheduler.log")));
    assert_eq!(cells(&made.batches)[0].last().cloned(), expected);
}
