"""Runs SELECT, CREATE MODEL and predict through ADBC's Flight SQL driver; prints ok.

    adbc_client.py URL CREATE_MODEL_STATEMENT
"""

import datetime
import sys

import adbc_driver_flightsql.dbapi as flightsql
import pyarrow as pa

url, create_model = sys.argv[1:]
with flightsql.connect(url.replace("http://", "grpc://"), autocommit=True) as connection:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) AS n, min(day) AS first FROM processes WHERE month = 7")
        (n, first), = cursor.fetchall()
        assert n > 0 and first == 1, (n, first)

        cursor.execute(create_model)
        made = cursor.fetch_arrow_table().to_pylist()
        assert made[0]["model"] == "adbc" and made[0]["clusters"] == 12, made

        cursor.execute("SELECT predict('adbc', normalize_command(process_command)) AS c, count(*) AS n "
                       "FROM processes WHERE month = 7 AND day <= 5 GROUP BY 1 ORDER BY 1")
        counted = cursor.fetchall()
        cursor.execute("SELECT cluster, CAST(size AS BIGINT) FROM model_clusters('adbc') ORDER BY 1")
        assert counted == cursor.fetchall(), counted

        cursor.execute("ALTER MODEL adbc SET LABEL 'it''s sshd' FOR CLUSTER 3")
        cursor.execute("SELECT label FROM model_clusters('adbc') WHERE cluster = 3")
        assert cursor.fetchone() == ("it's sshd",)

        cursor.execute("SELECT state FROM covey_jobs() WHERE statement LIKE 'CREATE MODEL adbc%'")
        assert cursor.fetchall() == [("finished",)]

        cursor.execute("SELECT arrow_cast(system_id, 'Dictionary(Int32, Utf8)') AS d FROM processes WHERE day = 1 LIMIT 3")
        assert cursor.fetch_arrow_table().num_rows == 3

        cursor.execute("SELECT state, rows, error FROM covey_jobs() WHERE statement LIKE '%%AS d FROM processes%%'")
        assert cursor.fetchall() == [("finished", 3, None)]

        try:
            cursor.execute("SELECT no_such_column FROM processes")
        except Exception as error:
            assert "no_such_column" in str(error), error
        else:
            raise AssertionError("a wrong statement worked")
        cursor.execute("SELECT state, stage FROM covey_jobs() WHERE statement LIKE 'SELECT no_such%'")
        assert cursor.fetchall() == [("failed", "plan")]

        july = "SELECT count(*) FROM processes WHERE month = 7 AND day BETWEEN 3 AND 5"
        cursor.execute(july)
        n, = cursor.fetchone()
        between = "SELECT count(*) FROM processes WHERE month = {0} AND day BETWEEN {1} AND {2} LIMIT {3}"
        for places in ("?", "?", "?", "?"), ("$3", "$1", "$2", "$4"):
            values = (7, 3, 5, 1) if places[0] == "?" else (3, 5, 7, 1)
            cursor.execute(between.format(*places), values)
            assert cursor.fetchone() == (n,), places
        cursor.execute("SELECT predict('adbc', ?) = predict('adbc', 'sshd'), upper(?)", ("sshd", "é"))
        assert cursor.fetchone() == (True, "É")

        cursor.execute("CREATE FUNCTION square(x) AS x * x")
        cursor.execute("SELECT square(?) + ?", (3, 1))
        assert cursor.fetchone() == (10,)

        cursor.execute("CREATE TABLE notes (id BIGINT, day DATE, note VARCHAR, x DOUBLE)")
        rows = [(i, datetime.date(2019, 7, 1 + i % 31), None if i % 7 == 0 else f"note '{i}'", i / 4) for i in range(1000)]
        cursor.executemany("INSERT INTO notes VALUES (?, ?, ?, ?)", rows)
        assert cursor.rowcount == 1000, cursor.rowcount
        cursor.execute("INSERT INTO notes (note, id) VALUES ($1, $2)", ("last", 1000))
        cursor.execute("CREATE TABLE nulls (a BIGINT, b VARCHAR)")
        cursor.executemany("INSERT INTO nulls VALUES (?, ?)", [(3, "a"), (4, None)])
        cursor.execute("SELECT a, b FROM nulls ORDER BY a")
        assert cursor.fetchall() == [(3, "a"), (4, None)]
        cursor.execute("SELECT * FROM notes ORDER BY id")
        assert cursor.fetchall() == rows + [(1000, None, "last", None)]
        cursor.execute("SELECT id FROM notes WHERE note = ? ORDER BY id", ("note '8'",))
        assert cursor.fetchall() == [(8,)]
        frame = pa.table({"id": pa.array(range(100_000), pa.int64()), "day": [i % 30 + 1 for i in range(100_000)],
                          "note": pa.array(["a", None] * 50_000).dictionary_encode()})
        assert cursor.adbc_ingest("frame", frame, mode="create") == 100_000
        cursor.execute("SELECT count(*), sum(id), count(note), count(DISTINCT day) FROM frame")
        assert cursor.fetchall() == [(100_000, 4_999_950_000, 50_000, 30)]
        assert cursor.adbc_ingest("frame", frame.slice(0, 10), mode="append") == 10
        assert cursor.adbc_ingest("frame", frame.slice(0, 1).select(["day", "id"]), mode="create_append") == 1
        cursor.execute("SELECT count(*), count(note) FROM frame")
        assert cursor.fetchall() == [(100_011, 50_005)]
        assert cursor.adbc_ingest("frame", frame.slice(5, 2).to_reader(), mode="replace") == 2
        cursor.execute("SELECT id FROM frame ORDER BY id")
        assert cursor.fetchall() == [(5,), (6,)]
        cursor.execute("CREATE SCHEMA lab")
        cursor.execute("CREATE TABLE lab.days PARTITIONED BY (day) AS SELECT 0 AS id, 1 AS day")
        assert cursor.adbc_ingest("days", frame.select(["day", "id"]), mode="append", db_schema_name="lab") == 100_000
        cursor.execute("SELECT count(*), sum(id) FROM lab.days WHERE day = 30")
        assert cursor.fetchall() == [(3333, sum(range(29, 100_000, 30)))]
        for name, mode, expected in [
            ("frame", "create", "exists already"), ("none", "append", "no table public.none"), ("notes", "append", "No field named other"),
        ]:
            try:
                cursor.adbc_ingest(name, frame.rename_columns(["id", "day", "other"]), mode=mode, db_schema_name="public")
            except Exception as error:
                assert expected in str(error), (name, mode, error)
            else:
                raise AssertionError(f"{mode} of {name} worked")
        cursor.execute("SELECT statement, state, rows FROM covey_jobs() WHERE statement LIKE 'ingest into days'")
        assert cursor.fetchall() == [("ingest into days", "finished", 100_000)]

        for statement, values, expected in [
            ("SELECT ? + $1", (1,), "both kinds"),
            ("SELECT $1, $3", (1, 2), "none of them is $2"),
            ("SELECT id FROM notes WHERE id = ?", (1, 2), "1 parameters, 2 values"),
            ("INSERT INTO notes (id) SELECT id FROM notes WHERE id = ?", [(1,), (2,)], "only INSERT ... VALUES"),
            ("INSERT INTO notes (id) SELECT a + ? FROM (VALUES (1), (2)) AS v(a)", [(1,), (2,)], "only INSERT ... VALUES"),
            ("INSERT INTO notes (id, note) SELECT value, ? FROM range(1, 3)", [("a",), ("b",)], "only INSERT ... VALUES"),
            ("SELECT id FROM notes WHERE id = ?", None, "bind values"),
            ("INSERT INTO notes (day) VALUES (?)", ("noon",), "noon"),
            ("INSERT INTO notes (id, note) VALUES (?, ?)", [("x", "a"), (1, "b")], "x"),
            ("INSERT INTO notes (day) SELECT ?", ("noon",), "noon"),
        ]:
            try:
                cursor.executemany(statement, values) if isinstance(values, list) else cursor.execute(statement, values)
                cursor.fetchall()
            except Exception as error:
                assert expected in str(error), (statement, error)
            else:
                raise AssertionError(f"a wrong statement worked: {statement}")
        cursor.execute("DROP TABLE notes")

        cursor.execute("DROP MODEL adbc")
        cursor.execute("SHOW MODELS")
        assert cursor.fetchall() == []
    assert "processes" in str(connection.adbc_get_objects(depth="tables").read_all().to_pylist())
print("ok")
