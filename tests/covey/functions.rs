//! Functions of users: those that CREATE FUNCTION makes, and those that are built in.

use covey_tests::{cell, cells};

use crate::{create_model, sandbox_with_sample};

const FUNCTIONS: [&str; 8] = [
    "CREATE FUNCTION clean(command) AS trim(regexp_replace(lower(command), '[^a-z]+', ' ', 'g'))",
    "CREATE FUNCTION first_word(command VARCHAR) RETURNS VARCHAR RETURN split_part(clean(command), ' ', 1)",
    "CREATE FUNCTION share(part, whole) AS 100.0 * count(*) FILTER (WHERE part) / count(whole)",
    "CREATE FUNCTION ranked(x) AS row_number() OVER (ORDER BY x DESC)",
    "CREATE FUNCTION app(command) AS coalesce(cluster_label('m', command), 'cluster ' || predict('m', command))",
    "CREATE FUNCTION half(n INT) AS n / 2",
    "CREATE FUNCTION twice(x) AS x + x",
    "CREATE FUNCTION newest() AS (SELECT max(date) FROM processes)",
];

/// Goal: a function that was made in SQL works in every client and wherever SQL allows an expression, also with
/// aggregates and models in it, and is there after a restart.
#[tokio::test]
async fn sql_functions_work_everywhere() {
    let mut sandbox = sandbox_with_sample(2, 1).await;
    sandbox.sql(&create_model("m", "")).await;
    for statement in FUNCTIONS {
        assert_eq!(cells(&sandbox.sql(statement).await), Vec::<Vec<String>>::new());
    }
    let same = [
        (
            "first_word(process_command)",
            "split_part(trim(regexp_replace(lower(process_command), '[^a-z]+', ' ', 'g')), ' ', 1)",
        ),
        ("app(process_command)", "'cluster ' || predict('m', process_command)"),
        ("half(day + 1)", "(day + 1) / 2"),
        ("twice(twice(day - 1))", "4 * (day - 1)"),
        ("half(n => day)", "day / 2"),
    ];
    for (call, body) in same {
        let differ = format!("SELECT count(*) FROM processes WHERE month = 7 AND {call} IS DISTINCT FROM {body}");
        assert_eq!(cell(&sandbox.sql(&differ).await), "0", "{call}");
    }
    let grouped = "SELECT first_word(process_command) AS word, count(*), share(day = 1, *) FROM processes WHERE month = 7 \
                   GROUP BY first_word(process_command) HAVING twice(count(*)) > 100 ORDER BY 2 DESC, first_word(process_command) LIMIT 3";
    let grouped = grouped.replace("share(day = 1, *)", "round(share(day = 1, day), 3)");
    assert_eq!(cells(&sandbox.sql(&grouped).await).len(), 3);
    let window =
        "SELECT ranked(n) FROM (SELECT day, count(*) AS n FROM processes GROUP BY day) ORDER BY ranked(n) LIMIT 2";
    assert_eq!(cells(&sandbox.sql(window).await), [["1"], ["2"]]);
    let names = sandbox.sql("SELECT half(7), first_word('/usr/sbin/sshd -D') AS w, HALF(8)").await;
    let fields: Vec<String> = names[0].schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(fields, ["half(7)", "w", "HALF(8)"]);
    assert_eq!(cells(&names), [["3", "usr", "4"]]);
    assert_eq!(cell(&sandbox.sql("SELECT count(DISTINCT date) FROM processes WHERE date = newest()").await), "1");
    let plan = "EXPLAIN SELECT 1 FROM processes WHERE half(month * 2) = 7 AND half(day * 2) = 1";
    let plan = cells(&sandbox.sql(plan).await).concat().concat();
    assert_eq!(plan.matches(".parquet").count(), 1, "a filter by a function is pushed down: {plan}");

    sandbox.sql("CREATE VIEW words AS SELECT first_word(process_command) AS word FROM processes WHERE month = 7").await;
    sandbox.sql("CREATE TABLE made AS SELECT half(10) AS five").await;
    sandbox.sql("INSERT INTO made VALUES (half(12))").await;
    assert_eq!(cell(&sandbox.sql("SELECT sum(five) FROM made").await), "11");
    let model = "CREATE MODEL cleaned USING KMEANS OPTIONS (n_clusters 4) AS SELECT clean(process_command) AS command \
                 FROM processes WHERE month = 7 AND day = 1";
    sandbox.sql(model).await;
    sandbox.sql("EVALUATE MODEL cleaned AS SELECT clean(process_command) FROM processes WHERE day = 2").await;
    sandbox.sql("CREATE OR REPLACE FUNCTION clean(command) AS 'replaced'").await;
    assert_eq!(cell(&sandbox.sql("SELECT first_word('x')").await), "replaced");
    assert_eq!(cell(&sandbox.sql("SELECT count(*) FROM words WHERE word = 'replaced'").await), "0", "views stay");
    sandbox.sql("CREATE MODEL again USING KMEANS OPTIONS (n_clusters 2) RECLUSTER 0 OF cleaned").await;
    assert_eq!(
        cell(&sandbox.sql("SELECT rows > 1 FROM (SELECT sum(size) AS rows FROM model_clusters('again'))").await),
        "true"
    );

    sandbox.scheduler.kill();
    sandbox.wait_for_log("executor-0.log", "the scheduler is gone; registering again", 1).await;
    sandbox.restart_scheduler().await;
    let listed = cells(
        &sandbox.sql("SELECT * FROM covey_functions() WHERE function LIKE 'ha%' OR function = 'first_word'").await,
    );
    assert_eq!(
        listed,
        [
            ["first_word", "command VARCHAR", "VARCHAR", "split_part(clean(command), ' ', 1)"],
            ["half", "n INT", "", "n / 2"]
        ]
    );
    sandbox.wait_for_log("executor-0.log", "executor registered", 2).await;
    assert_eq!(cell(&sandbox.sql("SELECT half(9)").await), "4");
    sandbox.sql("DROP FUNCTION half").await;
    sandbox.sql("DROP FUNCTION IF EXISTS half").await;
    assert!(sandbox.error("SELECT half(9)").await.contains("half"));
}

/// Goal: what is wrong with a function, or a call of it, is told; no chain of functions ends a process.
#[tokio::test]
async fn mistakes_in_functions_are_told() {
    let mut sandbox = sandbox_with_sample(1, 1).await;
    sandbox.sql("CREATE FUNCTION f(x, y) AS x + y").await;
    sandbox.sql("CREATE FUNCTION g(x) AS f(x, 1)").await;
    sandbox.sql("CREATE FUNCTION on_day(d) AS (SELECT count(*) FROM processes AS p WHERE p.day = d)").await;
    sandbox.sql("CREATE FUNCTION on_day_of(x) AS on_day(x)").await;
    let long = format!("CREATE FUNCTION long(x) AS x{}", " + 1".repeat(1_500));
    sandbox.sql(&long).await;
    for (statement, expected) in [
        ("CREATE FUNCTION f(x) AS x", "exists already"),
        ("CREATE FUNCTION lower(x) AS x", "built in"),
        ("CREATE FUNCTION predict(x) AS x", "built in"),
        ("CREATE FUNCTION h(x) AS x + day", "\"day\", which is none of its parameters"),
        ("CREATE FUNCTION h(x) AS nothing(x)", "\"nothing\", which there is not"),
        ("CREATE FUNCTION h(x) AS h(x)", "would call itself"),
        ("CREATE OR REPLACE FUNCTION f(x, y) AS g(x)", "would call itself"),
        ("CREATE FUNCTION h(x, x) AS x", "two parameters"),
        ("CREATE FUNCTION h(s) AS s.speed", "s['speed']"),
        ("CREATE FUNCTION h(x) AS t.speed + x", "\"t.speed\", which is none of its parameters"),
        ("CREATE FUNCTION h(x) AS x + $1", "has $1"),
        ("SELECT on_day(day) FROM processes", "say of which table it is, as in t.day"),
        ("SELECT on_day_of(system_id) FROM processes", "say of which table it is"),
        ("SELECT on_day(p.day) FROM processes AS p", "reads p too"),
        ("CREATE FUNCTION h x AS x", "the parameters"),
        ("CREATE FUNCTION h(x) AS SELECT 1", "found"),
        ("CREATE FUNCTION h(x) AS x +", "xpected"),
        ("DROP FUNCTION f", "\"g\" calls \"f\""),
        ("DROP FUNCTION lower", "no function \"lower\" made by"),
        ("SELECT f(1)", "called as f(x, y), not with 1"),
        ("SELECT f(1, z => 2)", "no parameter \"z\""),
        ("SELECT f(1, x => 2)", "given twice"),
        ("SELECT f(*, 1)", "takes no *"),
        ("SELECT f(DISTINCT 1, 2)", "takes no DISTINCT"),
        ("SELECT f(1, 2) OVER ()", "OVER"),
        ("SELECT g('a')", "a"),
        ("SELECT long(1) + long(1)", "operators and functions"),
    ] {
        let message = sandbox.error(statement).await;
        assert!(message.contains(expected), "{statement}: {message}");
    }
    let differ = "SELECT days.day, n, on_day(days.day) AS here, on_day_of(days.day) AS there \
                  FROM (SELECT day, count(*) AS n FROM processes GROUP BY day) AS days";
    let differ =
        format!("SELECT count(*) FILTER (WHERE n = here AND n = there) = count(*), count(*) > 1 FROM ({differ})");
    assert_eq!(cells(&sandbox.sql(&differ).await), [["true", "true"]]);
    // Each calls the one before it twice.
    sandbox.sql("CREATE FUNCTION d0(x) AS x + x").await;
    for i in 1..20 {
        sandbox.sql(&format!("CREATE FUNCTION d{i}(x) AS d{0}(x) + d{0}(x)", i - 1)).await;
    }
    assert_eq!(cell(&sandbox.sql("SELECT d8(1)").await), "512");
    assert!(sandbox.error("SELECT d19(1)").await.contains("operators and functions"));
    assert_eq!(cell(&sandbox.sql("SELECT long(1)").await), "1501");
    sandbox.assert_alive();
}

/// Goal: a function of `udfs` works in statements on executors: `program_name` and `mode`, which are made to be copied.
#[tokio::test]
async fn built_in_functions_work_on_executors() {
    let sandbox = sandbox_with_sample(2, 2).await;
    let modes =
        "SELECT month, mode(program_name(process_command)), mode(day) FROM processes GROUP BY month ORDER BY month";
    let counted = "SELECT month, name FROM (SELECT month, name, row_number() OVER (PARTITION BY month ORDER BY n DESC, name) AS place \
                   FROM (SELECT month, program_name(process_command) AS name, count(*) AS n FROM processes \
                         WHERE program_name(process_command) IS NOT NULL GROUP BY 1, 2)) WHERE place = 1 ORDER BY month";
    let modes = cells(&sandbox.sql(modes).await);
    let names: Vec<&[String]> = modes.iter().map(|row| &row[..2]).collect();
    assert_eq!(names, cells(&sandbox.sql(counted).await).iter().map(Vec::as_slice).collect::<Vec<_>>());
    let window = "SELECT DISTINCT mode(month) OVER () FROM processes";
    assert_eq!(cells(&sandbox.sql(window).await).len(), 1);
    let known = "SELECT count(*) FROM information_schema.routines WHERE routine_name IN ('mode', 'program_name')";
    assert_ne!(cell(&sandbox.sql(known).await), "0");
}
