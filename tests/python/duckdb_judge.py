"""Answers queries with DuckDB, one batch of them for each folder of tables.

Reads lines of JSON: {"tables": {name: file}} begins a folder, {"sql": text, "out": path} asks a query. The rows of a query
go to its path as an Arrow file, an error to the same path with ".error".
"""

import json
import re
import sys
import threading

import duckdb
import pyarrow as pa

# Longer than any query of these takes: some joins explode, and the answer is then not asked for.
SECONDS_MAX = 20


def in_duckdb(sql):
    """The query as DuckDB writes it."""
    return re.sub(r"(\((?:[^()]|\([^()]*\))*)\) IGNORE NULLS", r"\1 IGNORE NULLS)", sql)


def connect(tables):
    con = duckdb.connect(config={"threads": 2})
    con.execute("SET integer_division = true")
    for name, file in tables.items():
        con.execute(f"CREATE TABLE {name} AS SELECT * REPLACE (ts::TIMESTAMP AS ts) FROM read_parquet('{file}')")
    return con


def answer(con, sql, out):
    timer = threading.Timer(SECONDS_MAX, con.interrupt)
    timer.start()
    try:
        table = con.execute(in_duckdb(sql)).arrow()
        if isinstance(table, pa.RecordBatchReader):
            table = table.read_all()
        with pa.OSFile(out, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    except Exception as error:
        with open(out + ".error", "w") as file:
            file.write(f"{type(error).__name__}: {error}")
    finally:
        timer.cancel()


con = None
for line in sys.stdin:
    asked = json.loads(line)
    if "tables" in asked:
        con = connect(asked["tables"])
    else:
        answer(con, asked["sql"], asked["out"])
