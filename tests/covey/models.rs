//! Models: used, labelled, replaced, dropped, and fought over.

use covey_tests::{cell, cells};

use crate::{create_model, sandbox_with_sample};

/// Goal: `predict` and its kin work wherever SQL allows a function, give NULL for NULL, and agree with the model.
#[tokio::test]
async fn functions_work_everywhere() {
    let sandbox = sandbox_with_sample(2, 1).await;
    sandbox.sql(&create_model("m", "")).await;
    const FROM: &str = "FROM processes WHERE month = 7 AND day <= 5";
    let sizes = cells(&sandbox.sql("SELECT cluster, CAST(size AS BIGINT) FROM model_clusters('m') ORDER BY 1").await);
    let counted =
        format!("SELECT predict('m', normalize_command(process_command)) AS c, count(*) {FROM} GROUP BY 1 ORDER BY 1");
    assert_eq!(cells(&sandbox.sql(&counted).await), sizes);

    sandbox.sql("ALTER MODEL m SET LABEL 'first' FOR CLUSTER 0").await;
    let labelled = format!(
        "SELECT cluster_label('m', normalize_command(process_command)), count(*) {FROM} \
         AND predict('m', normalize_command(process_command)) = 0 GROUP BY 1 HAVING count(*) > 0"
    );
    assert_eq!(cells(&sandbox.sql(&labelled).await), [["first".to_string(), sizes[0][1].clone()]]);

    let view =
        "CREATE VIEW v AS SELECT system_id, predict('m', normalize_command(process_command)) AS cluster FROM processes";
    sandbox.sql(view).await;
    let joined =
        "SELECT count(*) > 0 FROM v JOIN model_clusters('m') k ON v.cluster = k.cluster WHERE k.label = 'first'";
    assert_eq!(cell(&sandbox.sql(joined).await), "true");

    let listed = "SELECT size, cluster FROM model_clusters('m') k WHERE k.cluster = 0 ORDER BY size, cluster";
    assert_eq!(cells(&sandbox.sql(listed).await)[0][1], "0", "cluster is a column like any other");
    let dictionary = "SELECT predict('m', arrow_cast('sshd', 'Dictionary(Int32, Utf8)')) = predict('m', 'sshd')";
    assert_eq!(cell(&sandbox.sql(dictionary).await), "true");

    let window = format!(
        "SELECT count(*) FROM (SELECT row_number() OVER (PARTITION BY predict('m', normalize_command(process_command)) \
         ORDER BY cluster_distance('m', normalize_command(process_command))) AS nearest {FROM}) WHERE nearest = 1"
    );
    assert_eq!(cell(&sandbox.sql(&window).await), sizes.len().to_string());

    let nulls = "SELECT predict('m', NULL) IS NULL AND cluster_distance('m', NULL) IS NULL AND cluster_label('m', NULL) IS NULL \
                 AND predict('m', 'sshd') IS NOT NULL AND cluster_distance('m', 'sshd') >= 0";
    assert_eq!(cell(&sandbox.sql(nulls).await), "true");
    let some_null = "SELECT count(predict('m', CASE WHEN day = 1 THEN normalize_command(process_command) END)) = \
                     count(*) FILTER (WHERE day = 1) FROM processes WHERE month = 7";
    assert_eq!(cell(&sandbox.sql(some_null).await), "true");
}

/// Goal: a model's life: created once, replaced, labelled, dropped, created again; versions only count up.
#[tokio::test]
async fn the_life_of_a_model() {
    let sandbox = sandbox_with_sample(1, 2).await;
    let version = "SELECT 1";
    sandbox.sql(version).await;
    let first = cells(&sandbox.sql(&create_model("m", "")).await);
    assert_eq!(first[0][1], "1");
    assert!(sandbox.error(&create_model("m", "")).await.contains("CREATE OR REPLACE MODEL"));
    let kept = sandbox.sql(&create_model("m", "").replacen("MODEL", "MODEL IF NOT EXISTS", 1)).await;
    assert_eq!(cells(&kept)[0][1], "1");
    let replaced =
        sandbox.sql(&create_model("m", ", max_features 50").replacen("CREATE", "CREATE OR REPLACE", 1)).await;
    assert_eq!(cells(&replaced)[0][1], "2");
    sandbox.sql("ALTER MODEL m SET LABEL 'a' FOR CLUSTER 1").await;
    sandbox.sql("ALTER MODEL m SET LABEL 'b' FOR CLUSTER 2").await;
    sandbox.sql("ALTER MODEL m DROP LABEL FOR CLUSTER 1").await;
    let labels = "SELECT cluster, label FROM model_clusters('m') WHERE label IS NOT NULL";
    assert_eq!(cells(&sandbox.sql(labels).await), [["2", "b"]]);
    assert!(sandbox.error("ALTER MODEL m SET LABEL 'x' FOR CLUSTER 12").await.contains("clusters 0 to 11"));
    assert!(sandbox.error("ALTER MODEL m SET LABEL ' ' FOR CLUSTER 2").await.contains("must not be empty"));
    assert!(sandbox.error("ALTER MODEL m SET LABEL 'unknown' FOR CLUSTER 2").await.contains("beyond the threshold"));

    sandbox.sql("DROP MODEL m").await;
    assert!(sandbox.error("SELECT predict('m', 'x')").await.contains("there is no model \"m\""));
    assert!(sandbox.error("DROP MODEL m").await.contains("there is no model"));
    sandbox.sql("DROP MODEL IF EXISTS m").await;
    let again = cells(&sandbox.sql(&create_model("m", "")).await);
    assert!(again[0][1].parse::<u64>().unwrap() > 2);
    assert_eq!(again[0].last(), first[0].last(), "the same data and options give the same digest");
}

/// Goal: a view means the model that is there when it is queried, not the one that was when it was made.
#[tokio::test]
async fn a_view_follows_its_model() {
    let sandbox = sandbox_with_sample(1, 2).await;
    sandbox.sql(&create_model("m", "")).await;
    let view = "CREATE VIEW v AS SELECT predict('m', normalize_command(process_command)) AS cluster FROM processes";
    sandbox.sql(view).await;
    let clusters = "SELECT count(DISTINCT cluster) FROM v WHERE cluster IS NOT NULL";
    assert_eq!(cell(&sandbox.sql(clusters).await), "12");
    let smaller = create_model("m", "").replace("n_clusters 12", "n_clusters 3");
    sandbox.sql(&smaller.replacen("CREATE", "CREATE OR REPLACE", 1)).await;
    assert_eq!(cell(&sandbox.sql(clusters).await), "3");
    sandbox.sql("DROP MODEL m").await;
    assert!(sandbox.error(clusters).await.contains("there is no model \"m\""));
    assert!(sandbox.error(&view.replace("'m'", "'n'").replace(" v ", " w ")).await.contains("there is no model \"n\""));
}

/// Goal: replacing a model does not fill the warehouse, and one that is corrupt stops nobody: others are listed, it
/// can be dropped and replaced.
#[tokio::test]
async fn old_and_corrupt_versions_go_away() {
    let sandbox = sandbox_with_sample(1, 2).await;
    let replace = |name: &str| create_model(name, "").replacen("CREATE", "CREATE OR REPLACE", 1);
    sandbox.sql(&create_model("good", "")).await;
    for _ in 0..4 {
        sandbox.sql(&replace("bad")).await;
    }
    let model = sandbox.path("warehouse/models/bad");
    assert_eq!(std::fs::read_dir(model.join("data")).unwrap().count(), 2, "this version and the one before");
    std::fs::write(model.join("00000004-00000000.json"), "{").unwrap();

    let listed = cells(&sandbox.sql("SHOW MODELS").await);
    assert_eq!(listed.iter().map(|row| row[0].as_str()).collect::<Vec<_>>(), ["bad", "good"]);
    assert!(listed[0].last().unwrap().contains("is corrupt") && listed[1].last().unwrap().is_empty(), "{listed:?}");
    assert!(sandbox.error("SELECT predict('bad', 'x')").await.contains("00000004-00000000.json is corrupt"));
    assert!(sandbox.error(&create_model("bad", "")).await.contains("exists"));
    assert_eq!(cells(&sandbox.sql(&replace("bad")).await)[0][1], "5");
    assert_eq!(cell(&sandbox.sql("SELECT predict('bad', 'sshd') IS NOT NULL").await), "true");

    std::fs::write(model.join("00000005-00000000.json"), "{").unwrap();
    sandbox.sql("DROP MODEL bad").await;
    assert_eq!(cells(&sandbox.sql("SHOW MODELS").await).len(), 1);
    let message = sandbox.error("SELECT predict('bad', 'x')").await;
    assert!(message.contains("there is no model \"bad\"; there are: good"), "{message}");
}

/// Goal: of two CREATE MODEL IF NOT EXISTS of one name at once, both succeed with one model.
#[tokio::test]
async fn two_may_ask_for_one_model() {
    let sandbox = sandbox_with_sample(2, 1).await;
    let (one, other) = (sandbox.client().await, sandbox.client().await);
    let statement = create_model("m", "").replacen("MODEL", "MODEL IF NOT EXISTS", 1);
    let (a, b) = tokio::join!(one.execute(&statement), other.execute(&statement));
    assert_eq!(cells(&a.unwrap().batches), cells(&b.unwrap().batches));
}

/// Goal: of two CREATE MODELs of one name at once, one wins whole and the other gets an error.
#[tokio::test]
async fn one_of_two_writers_wins() {
    let sandbox = sandbox_with_sample(2, 1).await;
    let (one, other) = (sandbox.client().await, sandbox.client().await);
    let (small, large) = (create_model("m", ""), create_model("m", "").replace("n_clusters 12", "n_clusters 20"));
    let (a, b) = tokio::join!(one.execute(&small), other.execute(&large));
    let (won, lost) = match (a, b) {
        (Ok(won), Err(lost)) | (Err(lost), Ok(won)) => (won, lost),
        both => panic!("{both:?}"),
    };
    assert!(lost.contains("created by another statement") || lost.contains("exists"), "{lost}");
    let made = cells(&won.batches);
    assert_eq!(cell(&sandbox.sql("SELECT count(*) FROM model_clusters('m')").await), made[0][2]);
    assert_eq!(cells(&sandbox.sql("SHOW MODELS").await).len(), 1);
    let data = std::fs::read_dir(sandbox.path("warehouse/models/m/data")).unwrap().count();
    assert_eq!(data, 1, "the loser leaves nothing");
}
