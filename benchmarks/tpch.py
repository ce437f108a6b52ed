"""All 22 queries of TPC-H: Covey on a cluster and embedded beside its peers, the answers held against DuckDB's.

    benchmarks/run tpch [--scale 1] [--engines covey,ballista,...] [--times 3] [--data FOLDER]

The queries are those that DuckDB's TPC-H extension carries, and the answers are DuckDB's on the same files.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

from compare import compare, rows_of
from engines import ENGINES

TABLES = ["customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier"]


def data(folder, scale):
    """Parquet files of a scale, made where they are not there. DuckDB writes them again: the generator's own name types
    that Daft cannot read."""
    import duckdb

    files = {table: pathlib.Path(folder) / f"{table}.parquet" for table in TABLES}
    if not all(file.exists() for file in files.values()):
        files["region"].parent.mkdir(parents=True, exist_ok=True)
        generator = pathlib.Path(sys.executable).with_name("tpchgen-cli")
        with tempfile.TemporaryDirectory(dir=files["region"].parent) as raw:
            subprocess.run([generator, "parquet", "-s", str(scale), f"--output-dir={raw}"], check=True)
            for table, file in files.items():
                duckdb.sql(f"COPY (FROM '{raw}/{table}.parquet') TO '{file}' (FORMAT parquet)")
    return {table: str(file) for table, file in files.items()}


def standard():
    """The texts of the queries."""
    import duckdb
    from duckdb_extensions import import_extension

    import_extension("tpch")
    connection = duckdb.connect()
    connection.execute("LOAD tpch")
    queries = dict(connection.execute("SELECT query_nr, query FROM tpch_queries()").fetchall())
    return {f"q{n}": sql.rstrip().rstrip(";").replace("{", "{{").replace("}", "}}") for n, sql in sorted(queries.items())}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--scale", type=float, default=1)
    parser.add_argument("--engines", default="covey,embedded,ballista,duckdb,sail,spark,daft")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--data")
    arguments = parser.parse_args()
    scale = int(arguments.scale) if arguments.scale == int(arguments.scale) else arguments.scale
    target = pathlib.Path(os.environ["COVEY"]).parent.parent
    tables = data(arguments.data or target / f"tpch/{scale}", scale)
    queries = standard()
    judge = ENGINES["duckdb"](target)
    judge.tables(tables)
    answers = {query: rows_of(judge.query(sql)) for query, sql in queries.items()}
    judge.stop()
    names = arguments.engines.split(",")
    first, _, wrong = compare(queries, tables, names, arguments.times, answers)
    rights = {name: sum((name, query) in first for query in queries) for name in names}
    print("right answers of 22: " + ", ".join(f"{name} {n}" for name, n in rights.items()))
    if any(name in ("covey", "embedded") for name, _ in wrong):
        sys.exit(1)


if __name__ == "__main__":
    main()
