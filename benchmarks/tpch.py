"""All 22 queries of TPC-H: Covey on a cluster and embedded beside its peers, with the answers of the standard.

    benchmarks/run tpch [--scale 1] [--engines covey,ballista,...] [--times 3] [--data FOLDER]

The queries, and at scale 0.01, 0.1 and 1 the answers, are those that DuckDB's TPC-H extension carries; at other scales the
answers are DuckDB's own.
"""

import argparse
import os
import pathlib
import subprocess
import sys

from compare import compare, rows_of

TABLES = ["customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier"]


def data(folder, scale):
    """Parquet files of a scale, made where they are not there."""
    folder = pathlib.Path(folder)
    if not all((folder / f"{table}.parquet").exists() for table in TABLES):
        folder.mkdir(parents=True, exist_ok=True)
        generator = pathlib.Path(sys.executable).with_name("tpchgen-cli")
        subprocess.run([generator, "parquet", "-s", str(scale), f"--output-dir={folder}"], check=True)
    return {table: str(folder / f"{table}.parquet") for table in TABLES}


def standard(scale):
    """The texts of the queries, and the answers where the extension has those of the scale."""
    import duckdb
    from duckdb_extensions import import_extension

    import_extension("tpch")
    connection = duckdb.connect()
    connection.execute("LOAD tpch")
    queries = dict(connection.execute("SELECT query_nr, query FROM tpch_queries()").fetchall())
    texts = {f"q{n}": sql.rstrip().rstrip(";").replace("{", "{{").replace("}", "}}") for n, sql in sorted(queries.items())}
    answers = connection.execute("SELECT query_nr, answer FROM tpch_answers() WHERE scale_factor = ?", [scale]).fetchall()
    return texts, {f"q{n}": text for n, text in answers}


def answered(texts):
    """Rows of answers that are texts with `|` between values, the first line the names."""
    def value(text):
        if text == "NULL":
            return None
        try:
            return float(text)
        except ValueError:
            return f"{text}T00:00:00" if len(text) == 10 and text[4] == text[7] == "-" else text

    return {query: [tuple(map(value, line.split("|"))) for line in text.strip("\n").split("\n")[1:]] for query, text in texts.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--scale", type=float, default=1)
    parser.add_argument("--engines", default="covey,embedded,ballista,duckdb,sail,daft,spark")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--data")
    arguments = parser.parse_args()
    scale = int(arguments.scale) if arguments.scale == int(arguments.scale) else arguments.scale
    target = pathlib.Path(os.environ["COVEY"]).parent.parent
    tables = data(arguments.data or target / f"tpch/{scale}", scale)
    queries, texts = standard(scale)
    answers = answered(texts)
    names = arguments.engines.split(",")
    if not answers:
        from engines import ENGINES

        engine = ENGINES["duckdb"](target)
        engine.tables(tables)
        answers = {query: rows_of(engine.query(sql)) for query, sql in queries.items()}
        engine.stop()
    first, _, wrong = compare(queries, tables, names, arguments.times, answers)
    rights = {name: sum((name, query) in first for query in queries) for name in names}
    print("right answers of 22: " + ", ".join(f"{name} {n}" for name, n in rights.items()))
    if any(name in ("covey", "embedded") for name, _ in wrong):
        sys.exit(1)


if __name__ == "__main__":
    main()
