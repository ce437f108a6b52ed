//! What an analyst does with a model: looks at examples, evaluates it, sets labels and a threshold, clusters a cluster
//! again, trains again and keeps the labels.

use covey_tests::{cell, cells};

use crate::{create_model, sandbox_with_sample};

const COMMANDS: &str =
    "SELECT normalize_command(process_command) AS command FROM processes WHERE month = 7 AND day <= 5";

fn number(text: &str) -> f64 {
    text.parse().unwrap()
}

/// Goal: examples are the nearest and the farthest rows of each cluster, in order, the same however a fit runs. Method:
/// every row's own distance by SQL.
#[tokio::test]
async fn examples_are_the_nearest_and_farthest_rows() {
    let mut found = vec![];
    for (executors, strategy) in [(1, "local"), (3, "distributed")] {
        let sandbox = sandbox_with_sample(executors, 2).await;
        sandbox.sql(&create_model("m", &format!(", strategy '{strategy}'"))).await;
        found.push(cells(&sandbox.sql("SELECT * FROM model_examples('m', 4) ORDER BY cluster, kind, rank").await));
        for (kind, order) in [("nearest", "ASC"), ("farthest", "DESC")] {
            let by_sql = format!(
                "SELECT c, r, d FROM (SELECT c, d, row_number() OVER (PARTITION BY c ORDER BY d {order}) AS r FROM \
                 (SELECT DISTINCT command, predict('m', command) AS c, cluster_distance('m', command) AS d FROM \
                 ({COMMANDS}) WHERE command <> '')) WHERE r <= 4 ORDER BY c, r"
            );
            let by_sql = cells(&sandbox.sql(&by_sql).await);
            let ours = format!(
                "SELECT cluster, rank, distance, example FROM model_examples('m', 4) WHERE kind = '{kind}' ORDER BY 1, 2"
            );
            let ours: Vec<_> = cells(&sandbox.sql(&ours).await).into_iter().filter(|row| !row[2].is_empty()).collect();
            for (a, b) in ours.iter().zip(&by_sql) {
                assert_eq!(a[..2], b[..2]);
                assert!((number(&a[2]) - number(&b[2])).abs() < 1e-9, "{a:?} {b:?}");
            }
            let one = &ours[0];
            let distance = format!("SELECT cluster_distance('m', '{}')", one[3]);
            assert!((number(&cell(&sandbox.sql(&distance).await)) - number(&one[2])).abs() < 1e-9, "{one:?}");
        }
    }
    assert_eq!(found[0], found[1]);
    assert!(found[0].len() > 60);
}

/// Goal: EVALUATE on the training rows gives the inertia of the fit, on any number of executors; weights count.
#[tokio::test]
async fn models_are_evaluated() {
    let sandbox = sandbox_with_sample(2, 2).await;
    let made = cells(&sandbox.sql(&create_model("m", "")).await);
    let evaluated = cells(&sandbox.sql(&format!("EVALUATE MODEL m AS {COMMANDS}")).await);
    let inertia = cell(&sandbox.sql("SELECT sum(inertia) FROM model_clusters('m')").await);
    assert_eq!(evaluated[0][..4], ["m", "1", "12", &made[0][6]]);
    assert!((number(&evaluated[0][5]) / number(&inertia) - 1.0).abs() < 1e-9, "{evaluated:?}");
    assert!((0.0..1.0).contains(&number(&evaluated[0][6])), "{evaluated:?}");
    assert!(number(&evaluated[0][7]) > 0.0, "{evaluated:?}");
    let weighted = format!("EVALUATE MODEL m AS SELECT command, count(*) AS weight FROM ({COMMANDS}) GROUP BY command");
    let weighted = cells(&sandbox.sql(&weighted).await);
    for column in [4, 5, 6, 7] {
        assert!((number(&weighted[0][column]) / number(&evaluated[0][column]) - 1.0).abs() < 1e-9, "{weighted:?}");
    }
    let error = sandbox.error("EVALUATE MODEL m AS SELECT command FROM (VALUES (NULL)) AS t(command)").await;
    assert!(error.contains("nothing to evaluate"), "{error}");
    let negative = format!("EVALUATE MODEL m AS SELECT command, -1 AS weight FROM ({COMMANDS})");
    let error = sandbox.error(&negative).await;
    assert!(error.contains("a weight must be"), "{error}");
    let one = cells(&sandbox.sql("EVALUATE MODEL m AS SELECT 'nginx worker process' AS command").await);
    assert_eq!((one[0][2].as_str(), one[0][7].as_str()), ("1", ""), "one cluster has no index: {one:?}");
    let error = sandbox.error("EVALUATE MODEL m AS SELECT 1 AS x").await;
    assert!(error.contains("takes one text"), "{error}");
}

/// Goal: rows beyond the threshold are 'unknown', those within keep their label, and it can be taken away again.
#[tokio::test]
async fn far_rows_are_unknown() {
    let sandbox = sandbox_with_sample(1, 2).await;
    let rows = "(VALUES (0.0), (1.0), (10.0), (11.0)) AS t(x)";
    sandbox.sql(&format!("CREATE MODEL n USING KMEANS OPTIONS (n_clusters 2) AS SELECT x FROM {rows}")).await;
    let low = cell(&sandbox.sql("SELECT predict('n', 0.0)").await);
    sandbox.sql(&format!("ALTER MODEL n SET LABEL 'low' FOR CLUSTER {low}")).await;
    sandbox.sql("ALTER MODEL n SET THRESHOLD 2").await;
    let labels = "SELECT cluster_label('n', x) FROM (VALUES (0.0), (2.5), (2.6), (10.0), (99.0)) AS t(x) ORDER BY x";
    let label = |rows: &[Vec<String>]| rows.iter().map(|row| row[0].clone()).collect::<Vec<_>>();
    assert_eq!(label(&cells(&sandbox.sql(labels).await)), ["low", "low", "unknown", "", "unknown"]);
    let shown = cells(&sandbox.sql("SHOW MODELS").await);
    assert!(shown.iter().any(|model| model[0] == "n" && model.contains(&"2.0".to_string())), "{shown:?}");
    sandbox.sql("ALTER MODEL n DROP THRESHOLD").await;
    assert_eq!(label(&cells(&sandbox.sql(labels).await)), ["low", "low", "low", "", ""]);
    assert!(
        sandbox
            .error(&format!("ALTER MODEL n DROP LABEL FOR CLUSTER {}", 1 - number(&low) as i64))
            .await
            .contains("no label")
    );

    // A text without a known term has a nearest centre, and nothing in common with it.
    sandbox.sql(&create_model("m", "")).await;
    let nearest = cell(&sandbox.sql("SELECT predict('m', 'xyzzy')").await);
    sandbox.sql(&format!("ALTER MODEL m SET LABEL 'junk' FOR CLUSTER {nearest}")).await;
    assert_eq!(cell(&sandbox.sql("SELECT cluster_label('m', 'xyzzy')").await), "junk");
    sandbox.sql("ALTER MODEL m SET THRESHOLD 100").await;
    assert_eq!(cell(&sandbox.sql("SELECT cluster_label('m', 'xyzzy')").await), "unknown");
}

/// Goal: a cluster is clustered again by a word, from the rows that its model was trained on or from others, and labels
/// and paths go down into it, on executors as well.
#[tokio::test]
async fn a_cluster_is_clustered_again() {
    let sandbox = sandbox_with_sample(2, 1).await;
    sandbox.sql(&create_model("m", "")).await;
    let largest = cells(&sandbox.sql("SELECT cluster, size FROM model_clusters('m') ORDER BY size DESC LIMIT 1").await);
    let (junk, size) = (&largest[0][0], &largest[0][1]);
    let again = format!("CREATE MODEL junk USING KMEANS OPTIONS (n_clusters 5, random_state 1) RECLUSTER {junk} OF m");
    let made = cells(&sandbox.sql(&again).await);
    assert_eq!(number(&made[0][6]), number(size), "the rows of the cluster, each with its copies");
    let below = cell(&sandbox.sql("SELECT cluster FROM model_clusters('junk') ORDER BY size DESC LIMIT 1").await);
    sandbox.sql(&format!("ALTER MODEL m SET LABEL 'rest' FOR CLUSTER {junk}")).await;
    sandbox.sql(&format!("ALTER MODEL junk SET LABEL 'part' FOR CLUSTER {below}")).await;
    let counted = format!(
        "SELECT predict_path('m', command) = concat(predict('m', command), CASE WHEN predict('m', command) = {junk} THEN \
         concat('/', predict('junk', command)) ELSE '' END) AS same, count(*) FROM ({COMMANDS}) GROUP BY 1"
    );
    let counted = cells(&sandbox.sql(&counted).await);
    assert!(matches!(counted.as_slice(), [one] if one[0] == "true"), "{counted:?}");
    let labels = format!("SELECT DISTINCT cluster_label('m', command) AS l FROM ({COMMANDS}) ORDER BY l NULLS LAST");
    let labels: Vec<String> = cells(&sandbox.sql(&labels).await).into_iter().map(|row| row[0].clone()).collect();
    assert_eq!(labels, ["part", "rest", ""]);
    let shown = format!("SELECT reclustered_by FROM model_clusters('m') WHERE cluster = {junk}");
    assert_eq!(cell(&sandbox.sql(&shown).await), "junk");
    sandbox.sql("DROP MODEL junk").await;
    let path = format!("SELECT DISTINCT predict_path('m', command) LIKE '%/%' FROM ({COMMANDS})");
    assert_eq!(cell(&sandbox.sql(&path).await), "false", "a model that is gone is passed over");
    // Another model of that name has nothing to do with it.
    sandbox.sql("CREATE MODEL junk USING KMEANS OPTIONS (n_clusters 2) AS SELECT day FROM processes").await;
    assert_eq!(cell(&sandbox.sql(&path).await), "false");
    assert_eq!(cell(&sandbox.sql(&shown).await), "");
    sandbox.sql(&again.replacen("junk", "j", 1)).await;
    sandbox.sql(&create_model("m", "").replacen("CREATE", "CREATE OR REPLACE", 1)).await;
    let error = sandbox.error("CREATE MODEL k USING KMEANS OPTIONS (n_clusters 2) RECLUSTER 0 OF j").await;
    assert!(error.contains("version 1 of model \"m\", which is gone"), "{error}");
    let error = sandbox.error("CREATE MODEL j2 USING KMEANS RECLUSTER 12 OF m").await;
    assert!(error.contains("clusters 0 to 11, not 12"), "{error}");
    let error = sandbox.error("CREATE OR REPLACE MODEL m USING KMEANS RECLUSTER 1 OF m").await;
    assert!(error.contains("cannot take the place"), "{error}");
}

/// Goal: labels go to the clusters that are most like those they were given to when a model is trained again, on other
/// rows with another vocabulary, and how alike they are is shown; a label that is set by hand has no such number.
#[tokio::test]
async fn labels_are_carried_over() {
    let sandbox = sandbox_with_sample(1, 2).await;
    sandbox.sql(&create_model("m", "")).await;
    let clusters =
        "SELECT cluster, split_part(top_terms, ' ', 1) FROM model_clusters('m') ORDER BY size DESC OFFSET 1 LIMIT 5";
    let clusters = cells(&sandbox.sql(clusters).await);
    for row in &clusters {
        sandbox.sql(&format!("ALTER MODEL m SET LABEL '{}' FOR CLUSTER {}", row[1], row[0])).await;
    }
    let again =
        create_model("m", "").replacen("CREATE", "CREATE OR REPLACE", 1).replacen("day <= 5", "day BETWEEN 3 AND 9", 1);
    sandbox.sql(&again.replacen("random_state 3", "random_state 4", 1)).await;
    let shown = "SELECT label, split_part(top_terms, ' ', 1), label_match, cluster FROM model_clusters('m') WHERE label IS NOT NULL";
    let shown = cells(&sandbox.sql(shown).await);
    assert!(shown.len() >= 3, "{shown:?}");
    for row in &shown {
        assert!(number(&row[2]) >= 0.5 && number(&row[2]) <= 1.0 + 1e-9, "{row:?}");
    }
    assert!(shown.iter().filter(|row| row[0] == row[1]).count() + 1 >= shown.len(), "{shown:?}");
    sandbox.sql(&format!("ALTER MODEL m SET LABEL 'mine' FOR CLUSTER {}", shown[0][3])).await;
    let by_hand = cells(&sandbox.sql("SELECT label_match FROM model_clusters('m') WHERE label = 'mine'").await);
    assert_eq!(by_hand, [[""]]);
}

/// Goal: a fit begins with the centres of a model, by either strategy: on the same rows it ends at once, and on others the
/// clusters keep their numbers. What cannot be is told.
#[tokio::test]
async fn a_fit_begins_with_a_model() {
    let sandbox = sandbox_with_sample(2, 2).await;
    sandbox.sql(&create_model("m", ", max_iter 300, tol 0").replacen(", max_iter 15", "", 1)).await;
    let clusters =
        |model: &str| format!("SELECT cluster, size, inertia FROM model_clusters('{model}') ORDER BY cluster");
    let expected = cells(&sandbox.sql(&clusters("m")).await);
    for strategy in ["local", "distributed"] {
        let options = format!(", init 'model:m', tol 0, strategy '{strategy}'");
        let made = cells(&sandbox.sql(&create_model(strategy, &options)).await);
        assert_eq!(made[0][9], "1", "iterations: {made:?}");
        assert_eq!(cells(&sandbox.sql(&clusters(strategy)).await), expected);
    }
    let other = create_model("other", ", init 'model:m'").replacen("day <= 5", "day BETWEEN 4 AND 9", 1);
    sandbox.sql(&other).await;
    let top =
        |model: &str| format!("SELECT split_part(top_terms, ' ', 1) FROM model_clusters('{model}') ORDER BY cluster");
    let (before, after) = (cells(&sandbox.sql(&top("m")).await), cells(&sandbox.sql(&top("other")).await));
    let same = before.iter().zip(&after).filter(|(a, b)| a == b).count();
    assert!(same >= 9, "{before:?} {after:?}");
    for (options, expected) in
        [(", init 'model:none'", "there is no model \"none\""), (", init 'model:m', n_init 2", "n_init must be 1")]
    {
        let error = sandbox.error(&create_model("x", options)).await;
        assert!(error.contains(expected), "{error}");
    }
    let error =
        sandbox.error(&create_model("x", ", init 'model:m'").replacen("n_clusters 12", "n_clusters 5", 1)).await;
    assert!(error.contains("gives 12 centres, but n_clusters is 5"), "{error}");
    let error = sandbox
        .error("CREATE MODEL x USING KMEANS OPTIONS (n_clusters 12, init 'model:m') AS SELECT day FROM processes")
        .await;
    assert!(error.contains("other features"), "{error}");
}

/// Goal: a fit begins with the rows of a table, by either strategy: texts, numbers and lists, numbered as they are told.
#[tokio::test]
async fn a_fit_begins_with_a_table() {
    let sandbox = sandbox_with_sample(2, 2).await;
    let commands = "SELECT CASE command WHEN 'nginx worker process' THEN 1 ELSE 0 END AS cluster, command FROM \
                    (SELECT DISTINCT normalize_command(process_command) AS command FROM processes WHERE month = 7) \
                    WHERE command IN ('nginx worker process', 'usr sbin qemu ga')";
    assert_eq!(cells(&sandbox.sql(commands).await).len(), 2);
    sandbox.sql(&format!("CREATE VIEW seeds AS {commands}")).await;
    let mut digests = vec![];
    for strategy in ["local", "distributed"] {
        let options = format!(", init 'table:seeds', strategy '{strategy}'");
        let create = create_model(strategy, &options).replacen("n_clusters 12", "n_clusters 2", 1);
        digests.push(cells(&sandbox.sql(&create).await)[0].last().unwrap().clone());
        let predict =
            format!("SELECT predict('{strategy}', 'usr sbin qemu ga'), predict('{strategy}', 'nginx worker process')");
        assert_eq!(cells(&sandbox.sql(&predict).await), [["0", "1"]]);
    }
    assert_eq!(digests[0], digests[1]);

    let rows = "(VALUES (0.0, 0.0), (0.0, 1.0), (9.0, 9.0), (9.0, 8.0)) AS t(x, y)";
    sandbox.sql("CREATE VIEW corners AS SELECT * FROM (VALUES (8, 8), (1, 1)) AS t(y, x)").await;
    sandbox.sql("CREATE VIEW points AS SELECT make_array(x, y) AS v FROM corners").await;
    for (query, init, predict) in [
        (format!("SELECT x, y FROM {rows}"), "corners", "predict('n', 0, 0), predict('n', 9, 9)"),
        (format!("SELECT make_array(x, y) AS v FROM {rows}"), "points", "predict('n', [0, 0]), predict('n', [9, 9])"),
    ] {
        let options = format!("n_clusters 2, init 'table:{init}'");
        sandbox.sql(&format!("CREATE OR REPLACE MODEL n USING KMEANS OPTIONS ({options}) AS {query}")).await;
        assert_eq!(cells(&sandbox.sql(&format!("SELECT {predict}")).await), [["0", "1"]], "{init}");
    }
    for (init, expected) in [
        ("nowhere", "init 'table:nowhere'"),
        ("corners", "it has no column \"command\""),
        ("seeds", "gives 2 centres, but n_clusters is 12"),
    ] {
        let error = sandbox.error(&create_model("x", &format!(", init 'table:{init}'"))).await;
        assert!(error.contains(expected), "{error}");
    }
    sandbox.sql("CREATE VIEW far AS SELECT x * 1e150 AS x, y FROM corners").await;
    sandbox.sql("CREATE VIEW predicted AS SELECT x, y, predict('n', [x, y]) AS cluster FROM corners").await;
    for (init, k, expected) in [
        ("corners", 1, Some("gives more centres than n_clusters, which is 1")),
        ("far", 2, Some("init 'table:far': a feature is")),
        ("predicted", 2, None),
    ] {
        let options = format!("n_clusters {k}, init 'table:{init}'");
        let create = format!("CREATE MODEL {init} USING KMEANS OPTIONS ({options}) AS SELECT x, y FROM {rows}");
        match expected {
            Some(expected) => assert!(sandbox.error(&create).await.contains(expected), "{init}"),
            None => drop(sandbox.sql(&create).await),
        }
    }
}

/// Goal: EXPLAIN CREATE MODEL shows steps, strategy and the days that would be read, and makes nothing.
#[tokio::test]
async fn fits_are_explained() {
    let sandbox = sandbox_with_sample(1, 1).await;
    let rows = cells(&sandbox.sql(&format!("EXPLAIN {}", create_model("m", ""))).await);
    assert_eq!(rows.iter().map(|row| row[0].as_str()).collect::<Vec<_>>(), ["fit", "logical_plan", "physical_plan"]);
    for expected in ["12 rows by k-means++", "'auto'", "1024 MiB"] {
        assert!(rows[0][1].contains(expected), "{rows:?}");
    }
    assert!(rows[2][1].contains("day=05") && !rows[2][1].contains("day=06"), "{}", rows[2][1]);
    assert_eq!(cells(&sandbox.sql("SHOW MODELS").await).len(), 0);
    let forced = cells(&sandbox.sql(&format!("EXPLAIN {}", create_model("m", ", strategy 'distributed'"))).await);
    assert!(forced[0][1].contains("strategy: 'distributed'"), "{forced:?}");

    // What the fit would refuse before it begins is refused here.
    sandbox.sql(&create_model("m", "")).await;
    let refused = [
        (create_model("m", ""), "model \"m\" exists"),
        (create_model("n", ", init 'model:m'").replace("n_clusters 12", "n_clusters 5"), "gives 12 centres"),
        (create_model("n", ", init 'model:nobody'"), "there is no model \"nobody\""),
        (create_model("n", ", init 'table:nothing'"), "init 'table:nothing'"),
        ("CREATE MODEL n USING KMEANS OPTIONS (min_df 2) AS SELECT 1.0 AS x".into(), "min_df is for a text column"),
    ];
    for (statement, expected) in refused {
        let error = sandbox.error(&format!("EXPLAIN {statement}")).await;
        assert!(error.contains(expected), "{statement}: {error}");
    }
}

/// Goal: by angles, rows that differ in length alone are one, by either strategy, and `predict` agrees; the elbow works too.
#[tokio::test]
async fn rows_are_compared_by_angles() {
    let sandbox = sandbox_with_sample(2, 2).await;
    let rows = "(VALUES (1.0, 0.0), (9.0, 0.1), (0.1, 2.0), (0.0, 70.0), (-3.0, -3.0), (-0.1, -0.11)) AS t(x, y)";
    let mut digests = vec![];
    for strategy in ["local", "distributed"] {
        let options = format!("n_clusters 3, metric 'cosine', strategy '{strategy}'");
        let create = format!("CREATE OR REPLACE MODEL a USING KMEANS OPTIONS ({options}) AS SELECT x, y FROM {rows}");
        digests.push(cells(&sandbox.sql(&create).await)[0].last().unwrap().clone());
        let pairs = "predict('a', 100, 1) = predict('a', 0.01, 0) AND predict('a', 0, 1) = predict('a', 1, 90) AND \
                     predict('a', -1, -1) = predict('a', -50, -49) AND predict('a', 1, 0) <> predict('a', 0, 1)";
        assert_eq!(cell(&sandbox.sql(&format!("SELECT {pairs}")).await), "true");
        let inertia = number(&cell(&sandbox.sql("SELECT sum(inertia) FROM model_clusters('a')").await));
        let by_sql = format!("SELECT sum(d * d) FROM (SELECT cluster_distance('a', x, y) AS d FROM {rows})");
        assert!((number(&cell(&sandbox.sql(&by_sql).await)) - inertia).abs() < 1e-9);
        let text = create_model("t", &format!(", metric 'cosine', strategy '{strategy}'"));
        digests.push(
            cells(&sandbox.sql(&text.replacen("CREATE", "CREATE OR REPLACE", 1)).await)[0].last().unwrap().clone(),
        );
        let auto = text.replacen("n_clusters 12", "n_clusters 'auto', k_max 6", 1).replacen("MODEL t", "MODEL e", 1);
        digests.push(
            cells(&sandbox.sql(&auto.replacen("CREATE", "CREATE OR REPLACE", 1)).await)[0].last().unwrap().clone(),
        );
    }
    assert_eq!(digests[..3], digests[3..]);
    let error = sandbox.error(&create_model("x", ", metric 'cosine', norm 'l1'")).await;
    assert!(error.contains("rows of length 1"), "{error}");
}
