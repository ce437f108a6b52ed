//! Processes: they end when told, cleanly, find each other again, and jobs survive the loss of an executor.

use std::path::Path;

use arrow_flight::Action;
use arrow_flight::flight_service_client::FlightServiceClient;
use covey_engine::coordinator::{JOIN_ACTION, RELEASE};
use covey_tests::{Process, Sandbox, cell, cells, covey_command, wait_until};

use crate::{create_model, sample_table, sandbox_with_sample};

/// A fit that does not end by itself while a test looks at it.
fn endless_model(strategy: &str) -> String {
    create_model("endless", &format!(", tol 0, n_init 1000, strategy '{strategy}'"))
}

/// The intermediate files of fits that a warehouse has.
fn fits_in(warehouse: &Path) -> usize {
    std::fs::read_dir(warehouse.join("fits")).map_or(0, Iterator::count)
}

/// Goal: SIGTERM ends every process with exit code 0, the scheduler last or first.
#[tokio::test]
async fn processes_end_on_sigterm() {
    let mut sandbox = sandbox_with_sample(2, 1).await;
    let mut executor = sandbox.executors.remove(0);
    assert_eq!(executor.terminate().code(), Some(0));
    assert_eq!(cell(&sandbox.sql("SELECT count(*) > 0 FROM processes WHERE month = 7").await), "true");
    assert_eq!(sandbox.scheduler.terminate().code(), Some(0), "{}", sandbox.log("scheduler.log"));
}

/// Goal: an executor that is killed in the middle of a fit changes the time, not the answer. Method: two executors
/// lost one after the other, at different moments of their fits, the second while it is the only one left to lose.
#[tokio::test]
async fn a_killed_executor_changes_nothing() {
    let mut sandbox = sandbox_with_sample(3, 1).await;
    let options = ", strategy 'distributed', tol 0, n_init 6";
    let expected = cells(&sandbox.sql(&create_model("a", options)).await)[0].last().cloned();
    for (victim, moment) in [(1, "iteration >= 2"), (0, "stage LIKE 'seed%' OR stage LIKE 'iterate%'")] {
        let client = sandbox.client().await;
        let statement = create_model(&format!("without_{victim}"), options);
        let fit = tokio::spawn(async move { client.execute(&statement).await });
        let reached = format!("SELECT count(*) > 0 FROM covey_jobs() WHERE state = 'running' AND ({moment})");
        while cell(&sandbox.sql(&reached).await) != "true" {
            assert!(!fit.is_finished(), "the fit was over before an executor could be killed");
        }
        sandbox.executors[victim].kill();
        let made = fit.await.unwrap().unwrap_or_else(|e| panic!("{e}\n{}", sandbox.log("scheduler.log")));
        assert_eq!(cells(&made.batches)[0].last().cloned(), expected);
    }
}

/// Goal: a lost executor takes nothing with it but itself: it is noticed by the end of its connection, queries that had
/// rows on it run again, and the others have all their vcores afterwards. Method: queries of two stages on every executor
/// when one is killed; then a fit has to find both others.
#[tokio::test]
async fn a_lost_executor_costs_nothing_else() {
    const QUERY: &str = "SELECT count(*) FROM (SELECT a.process_command, count(*) FROM processes a JOIN processes b \
                         ON a.month = b.month AND a.day = b.day GROUP BY 1)";
    let mut sandbox = sandbox_with_sample(3, 1).await;
    let expected = cell(&sandbox.sql(QUERY).await);
    let mut queries = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let client = sandbox.client().await;
        queries.spawn(async move { client.execute(QUERY).await });
    }
    let running = "SELECT count(*) FROM covey_jobs() WHERE state = 'running' AND stage = 'query'";
    wait_until("all queries run", async || cell(&sandbox.sql(running).await) == "4").await;
    sandbox.executors[1].kill();
    while let Some(answer) = queries.join_next().await {
        let answer = answer.unwrap().unwrap_or_else(|e| panic!("{e}\n{}", sandbox.log("scheduler.log")));
        assert_eq!(cell(&answer.batches), expected);
    }
    let log = sandbox.log("scheduler.log");
    assert!(log.contains("an executor is gone with its connection") && !log.contains("heartbeat timed out"), "{log}");
    sandbox.sql(&create_model("m", ", strategy 'distributed', tol 0")).await;
    assert_eq!(cell(&sandbox.sql("SELECT min(executors) FROM model_iterations('m')").await), "2");
}

/// Goal: a query does not wait for a fit. Method: a fit without end, as one task, on the only vcore.
#[tokio::test]
async fn queries_run_beside_fits() {
    let sandbox = sandbox_with_sample(1, 1).await;
    let client = sandbox.client().await;
    let fit = tokio::spawn(async move { client.execute(&endless_model("local")).await });
    let iterating = "SELECT count(*) FROM covey_jobs() WHERE state = 'running' AND iteration >= 1";
    wait_until("the fit iterates", async || cell(&sandbox.sql(iterating).await) == "1").await;
    let query = "SELECT count(DISTINCT process_command) > 0 FROM processes WHERE month = 7";
    assert_eq!(cell(&sandbox.sql(query).await), "true");
    assert!(!fit.is_finished(), "{:?}", fit.await);
    fit.abort();
}

/// Goal: a fit that is cut off by the end of its process leaves no files. Method: SIGTERM to a scheduler, and to a
/// command with its embedded cluster, in the middle of a fit.
#[tokio::test]
async fn a_fit_that_is_cut_off_leaves_nothing() {
    let mut sandbox = sandbox_with_sample(2, 1).await;
    let client = sandbox.client().await;
    let fit = tokio::spawn(async move { client.execute(&endless_model("distributed")).await });
    let warehouse = sandbox.path("warehouse");
    wait_until("the fit writes files", async || fits_in(&warehouse) > 0).await;
    assert_eq!(sandbox.scheduler.terminate().code(), Some(0), "{}", sandbox.log("scheduler.log"));
    assert!(fit.await.unwrap().is_err());
    assert_eq!(fits_in(&warehouse), 0);

    let warehouse = sandbox.path("embedded");
    let statements = format!("{}; {}", sample_table(), endless_model("local"));
    let mut command = covey_command(&["sql", &statements, "--warehouse", &warehouse.to_string_lossy()]);
    let mut covey = Process::start(&mut command, &sandbox.path("covey.log"));
    wait_until("the fit writes files", async || fits_in(&warehouse) > 0).await;
    assert_eq!(covey.terminate().code(), Some(143), "{}", sandbox.log("covey.log"));
    assert_eq!(fits_in(&warehouse), 0);
}

/// Goal: executors outlive their scheduler, and work for it again when it is back, however long that takes. Method: a
/// scheduler that is gone for longer than executors believe in it.
#[tokio::test]
async fn executors_find_a_restarted_scheduler() {
    let mut sandbox = sandbox_with_sample(2, 1).await;
    sandbox.scheduler.kill();
    for i in 0..2 {
        sandbox.wait_for_log(&format!("executor-{i}.log"), "the scheduler is gone; registering again", 1).await;
    }
    sandbox.restart_scheduler().await;
    for i in 0..2 {
        sandbox.wait_for_log(&format!("executor-{i}.log"), "executor registered", 2).await;
    }
    sandbox.assert_alive();
    sandbox.sql(&create_model("m", ", strategy 'distributed'")).await;
    let executors = "SELECT min(executors) FROM model_iterations('m')";
    assert_eq!(cell(&sandbox.sql(executors).await), "2");
}

/// Goal: an executor of another release is turned away before it registers: it would fail every task.
#[tokio::test]
async fn another_release_is_turned_away() {
    let sandbox = Sandbox::start(1, 1).await;
    let channel = tonic::transport::Endpoint::from_shared(sandbox.url.clone()).unwrap().connect().await.unwrap();
    let mut scheduler = FlightServiceClient::new(channel);
    let mut join = async |release: &str| {
        let body = format!("{release:?}").into_bytes().into();
        scheduler.do_action(Action { r#type: JOIN_ACTION.to_string(), body }).await.map(drop)
    };
    join(RELEASE).await.unwrap();
    let refused = join("0.0.1, protocol 0").await.unwrap_err();
    assert!(refused.message().contains("the executor is covey 0.0.1"), "{refused}");
}
