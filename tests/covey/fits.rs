//! Fits: distributed for real, and the same bits however they run.

use covey_tests::{cell, cells, wait_until};

use crate::{create_model, sandbox_with_sample};

/// Goal: every executor works in every iteration, and the rows of each iteration add up to exactly n. Method: three
/// executors, at least six blocks, one task a block; the model's own record of who assigned how many rows.
#[tokio::test]
async fn every_executor_works_in_every_iteration() {
    let sandbox = sandbox_with_sample(3, 2).await;
    sandbox.sql(&create_model("m", ", strategy 'distributed', tol 0")).await;
    let counts = "SELECT count(command), count(DISTINCT command) FROM (SELECT normalize_command(process_command) \
                  AS command FROM processes WHERE month = 7 AND day <= 5)";
    let counts: Vec<u64> = cells(&sandbox.sql(counts).await)[0].iter().map(|count| count.parse().unwrap()).collect();
    let columns = "size, distinct_rows, executors, distinct_rows_by_executor";
    let rows = cells(&sandbox.sql(&format!("SELECT {columns} FROM model_iterations('m')")).await);
    assert!(rows.len() > 2, "{rows:?}");
    for row in rows {
        assert_eq!(row[0].parse::<f64>().unwrap(), counts[0] as f64, "every row of the query");
        assert_eq!(row[1], counts[1].to_string());
        assert_eq!(row[2], "3", "{row:?}");
        let parts: Vec<u64> = row[3].split(' ').map(|part| part.rsplit('=').next().unwrap().parse().unwrap()).collect();
        assert_eq!(parts.iter().sum::<u64>(), counts[1], "{row:?}");
    }
}

/// Goal: the same bits by both strategies, on one and on three executors, with few and with many partitions.
/// Method: the model's digest covers centres, sizes, vocabulary and options; beside it every label and what is shown
/// of the clusters.
#[tokio::test]
async fn strategies_and_clusters_give_the_same_bits() {
    const LABELS: &str = "SELECT process_command, predict('m', normalize_command(process_command)) FROM processes \
                          WHERE month = 7 AND day = 3 GROUP BY 1, 2 ORDER BY 1";
    let mut found = vec![];
    for (executors, vcores, strategy) in
        [(1, 2, "local"), (1, 2, "distributed"), (3, 1, "distributed"), (3, 2, "local")]
    {
        let sandbox = sandbox_with_sample(executors, vcores).await;
        // Nine runs are more than share a pass, and bounds are kept of many clusters.
        const MANY: &str = ", n_init 2, tol 0";
        for init in ["", ", n_init 9, init 'random'", ", n_init 3, init 'k-means||'", MANY] {
            let options = format!(", strategy '{strategy}'{init}");
            let mut statement = create_model("m", &options).replacen("CREATE", "CREATE OR REPLACE", 1);
            if init == MANY {
                statement = statement.replacen("n_clusters 12", "n_clusters 90", 1);
            }
            let made = cells(&sandbox.sql(&statement).await);
            let digest = made[0].last().unwrap().clone();
            let clusters = cells(&sandbox.sql("SELECT * FROM model_clusters('m') ORDER BY cluster").await);
            found.push((init, digest, [cells(&sandbox.sql(LABELS).await), clusters].concat()));
        }
        let spared = cells(&sandbox.sql("SELECT sum(spared_rows) > 0 FROM model_iterations('m')").await);
        assert_eq!(spared, [[(strategy == "distributed").to_string()]]);
    }
    for (i, (init, digest, labels)) in found.iter().enumerate() {
        let first = &found[i % 4];
        assert_eq!((init, digest), (&first.0, &first.1));
        assert_eq!(labels, &first.2);
        assert!(labels.len() > 500);
    }
}

/// Goal: the elbow is the same by both strategies and on any cluster, also where several sweeps or several numbers of
/// clusters share passes; it never rises, its choice is the model, and every executor works on it. Method: the digest, the
/// curve, and the record of the iterations.
#[tokio::test]
async fn the_elbow_is_the_same_everywhere() {
    const CURVE: &str = "SELECT * FROM model_elbow('m') ORDER BY clusters";
    let mut found = vec![];
    for (executors, vcores, strategy) in
        [(1, 2, "local"), (1, 2, "distributed"), (3, 2, "distributed"), (3, 1, "local")]
    {
        let sandbox = sandbox_with_sample(executors, vcores).await;
        for shared in [", k_max 12", ", k_max 12, n_init 2", ", k_max 40, k_batch 4", ", k_max 40, k_batch 4, n_init 2"]
        {
            let options = format!(", k_min 2, strategy '{strategy}'{shared}");
            let statement = create_model("m", &options).replacen("n_clusters 12", "n_clusters 'auto'", 1);
            let made = cells(&sandbox.sql(&statement.replacen("CREATE", "CREATE OR REPLACE", 1)).await);
            let curve = cells(&sandbox.sql(CURVE).await);
            let iterations =
                "SELECT run, iteration, clusters, inertia, squared_shift FROM model_iterations('m') ORDER BY 1, 2";
            let curve = [curve, cells(&sandbox.sql(iterations).await)];
            found.push((shared, made[0].last().unwrap().clone(), made[0][2].clone(), curve));
        }
        let n = "SELECT count(DISTINCT distinct_rows), min(executors), count(*) FROM model_iterations('m')";
        let n = cells(&sandbox.sql(n).await);
        let workers = if strategy == "local" { 1 } else { executors };
        assert_eq!(n[0][..2], ["1", &workers.to_string()], "all rows in every iteration, on every executor");
    }
    let inertia = |row: &Vec<String>| row[1].parse::<f64>().unwrap();
    for (i, one) in found.iter().enumerate() {
        assert_eq!(one, &found[i % 4]);
        let (shared, _, chosen, [curve, _]) = one;
        assert_eq!(curve.len(), if shared.contains("12") { 11 } else { 39 });
        assert!(curve.windows(2).all(|pair| inertia(&pair[1]) <= inertia(&pair[0])), "{curve:?}");
        let chosen_by: Vec<&Vec<String>> = curve.iter().filter(|row| !row[5].is_empty()).collect();
        assert!(matches!(chosen_by.as_slice(), [row] if &row[0] == chosen), "{chosen_by:?}");
    }
}

/// Goal: a query that is cancelled gives its executor back, also one that gives no row for minutes, or rows without end.
/// Method: joins of millions of pairs on the only thread of the only executor, then a query that needs it.
#[tokio::test]
async fn a_cancelled_query_lets_go() {
    let sandbox = sandbox_with_sample(1, 1).await;
    let joins = [
        "processes a JOIN processes b ON a.month = b.month AND concat(a.process_command, b.process_command) = 'x'",
        "processes a JOIN processes b ON a.month = b.month",
        "processes a JOIN processes b ON concat(a.process_command, b.process_command) = 'x'",
        "processes a CROSS JOIN processes b CROSS JOIN processes c",
    ];
    for join in joins {
        let client = sandbox.client().await;
        let query = tokio::spawn(async move { client.execute(&format!("SELECT count(*) FROM {join}")).await });
        let running = "SELECT count(*) FROM covey_jobs() WHERE state = 'running' AND stage = 'query'";
        wait_until("the query runs", async || cell(&sandbox.sql(running).await) == "1").await;
        query.abort();
        let state = "SELECT state FROM covey_jobs() ORDER BY started_at DESC LIMIT 1";
        wait_until("the query is cancelled", async || cell(&sandbox.sql(state).await) == "cancelled").await;
        let other = sandbox.client().await;
        let next = tokio::spawn(async move { other.execute("SELECT count(*) FROM processes WHERE day = 1").await });
        wait_until("the executor takes another query", async || next.is_finished()).await;
        assert!(next.await.unwrap().is_ok(), "{join}");
    }
}

/// Goal: numbers and lists are clustered too, weights count as so many rows, and NULL rows are left out and counted.
#[tokio::test]
async fn numbers_lists_and_weights() {
    let sandbox = sandbox_with_sample(1, 2).await;
    let rows = "(VALUES (0.0, 0.0, 1), (0.0, 1.0, 3), (10.0, 10.0, 2), (10.0, 11.0, 1), (NULL, 1.0, 1)) AS t(x, y, w)";
    let query = format!("SELECT x, y, w AS weight FROM {rows}");
    let made = cells(&sandbox.sql(&format!("CREATE MODEL n USING KMEANS OPTIONS (n_clusters 2) AS {query}")).await);
    assert_eq!(made[0][6..9], ["4", "4", "1"], "rows, distinct rows, skipped rows");
    let clusters = cells(&sandbox.sql("SELECT size, inertia FROM model_clusters('n') ORDER BY size").await);
    let number = |text: &str| text.parse::<f64>().unwrap();
    assert_eq!((number(&clusters[0][0]), number(&clusters[1][0])), (3.0, 4.0));
    assert!((number(&clusters[0][1]) - 2.0 / 3.0).abs() < 1e-12, "{clusters:?}");
    assert!((number(&clusters[1][1]) - 0.75).abs() < 1e-12, "{clusters:?}");
    let near = "predict('n', 9.0, 9.0) = predict('n', 10, 11) AND predict('n', 0, 0) <> predict('n', 9, 9)";
    assert_eq!(cell(&sandbox.sql(&format!("SELECT {near}")).await), "true");

    let lists = format!("SELECT make_array(x, y) AS v FROM {rows} WHERE x IS NOT NULL");
    sandbox.sql(&format!("CREATE MODEL l USING KMEANS OPTIONS (n_clusters 2) AS {lists}")).await;
    assert_eq!(cell(&sandbox.sql("SELECT cluster_distance('l', make_array(0.0, 0.5))").await), "0.0");
}

/// Goal: numbers far from zero are clustered as well as the same numbers around it, and `predict` agrees.
#[tokio::test]
async fn numbers_may_lie_far_from_zero() {
    let sandbox = sandbox_with_sample(1, 2).await;
    let number = |text: &str| text.parse::<f64>().unwrap();
    for offset in ["0", "1e5", "1e9"] {
        let rows = format!(
            "(SELECT x + {offset} AS x, y - {offset} AS y FROM \
             (VALUES (0.0, 0.0), (0.0, 1.0), (10.0, 10.0), (10.0, 12.0)) AS t(x, y))"
        );
        for strategy in ["local", "distributed"] {
            let options = format!("n_clusters 2, strategy '{strategy}'");
            let create =
                format!("CREATE OR REPLACE MODEL far USING KMEANS OPTIONS ({options}) AS SELECT x, y FROM {rows}");
            sandbox.sql(&create).await;
            let found = "SELECT size, inertia FROM model_clusters('far') ORDER BY inertia";
            let clusters = cells(&sandbox.sql(found).await);
            assert_eq!(clusters.iter().map(|row| number(&row[0])).collect::<Vec<_>>(), [2.0, 2.0], "{offset}");
            assert_eq!(clusters.iter().map(|row| number(&row[1])).collect::<Vec<_>>(), [0.5, 2.0], "{offset}");
        }
        let distances = format!("SELECT cluster_distance('far', x, y) FROM {rows} ORDER BY 1");
        let distances: Vec<f64> = cells(&sandbox.sql(&distances).await).iter().map(|row| number(&row[0])).collect();
        assert_eq!(distances, [0.5, 0.5, 1.0, 1.0], "{offset}");
    }
}

/// Goal: a fit can be cancelled from the client, and nothing runs on. Method: a fit too long to end by itself is
/// dropped by its client once it iterates; the board must say so, and the executors take new work.
#[tokio::test]
async fn a_dropped_statement_is_cancelled() {
    let sandbox = sandbox_with_sample(2, 1).await;
    for strategy in ["local", "distributed"] {
        let client = sandbox.client().await;
        let long = create_model("m", &format!(", tol 0, n_init 1000, strategy '{strategy}'"));
        let fit = tokio::spawn(async move { client.execute(&long).await });
        let iterating = "SELECT count(*) > 0 FROM covey_jobs() WHERE state = 'running' AND iteration >= 1";
        while cell(&sandbox.sql(iterating).await) != "true" {
            assert!(!fit.is_finished(), "{:?}", fit.await);
        }
        fit.abort();
        let running = "SELECT count(*) FROM covey_jobs() WHERE state = 'running'";
        while cell(&sandbox.sql(running).await) != "0" {}
        let last = "SELECT state FROM covey_jobs() ORDER BY started_at DESC LIMIT 1";
        assert_eq!(cell(&sandbox.sql(last).await), "cancelled");
        assert_eq!(cell(&sandbox.sql("SELECT count(*) > 0 FROM processes WHERE month = 7").await), "true");
    }
    assert!(sandbox.sql("SHOW MODELS").await.iter().all(|batch| batch.num_rows() == 0));
    let fits = sandbox.path("warehouse/fits");
    while std::fs::read_dir(&fits).unwrap().next().is_some() {}
}
