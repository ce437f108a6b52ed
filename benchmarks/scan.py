"""Scans of the process lake: filters, LIKE, regular expressions, groups, distinct counts, top rows, windows, a join.

    benchmarks/run scan --lake DIR [--engines covey,ballista,...] [--times 3]

Every engine reads the same Parquet files of year=/month=/day= directories. The answers are compared with DuckDB's.
"""

import argparse
import os
import pathlib
import sys

from compare import compare, rows_of
from engines import ENGINES

QUERIES = {
    "count": "SELECT count(*) AS n, count(process_command) AS commands FROM processes",
    "equal": "SELECT count(*) AS n FROM processes WHERE process_command = '/usr/sbin/sshd -D'",
    "like": "SELECT count(*) AS n, count(DISTINCT system_id) AS systems FROM processes WHERE process_command LIKE '%java%'",
    "prefix": "SELECT day, count(*) AS n FROM processes WHERE process_command LIKE '/usr/%' GROUP BY day",
    "regexp": "SELECT count(*) AS n FROM processes WHERE {regexp}(process_command, 'python[23]([.][0-9]+)? .*[.]py')",
    "week": "SELECT day, count(*) AS n, max(length(process_command)) AS longest FROM processes WHERE day BETWEEN 8 AND 14 GROUP BY day",
    "one day": "SELECT count(DISTINCT process_command) AS n FROM processes WHERE day = 9",
    "groups": "SELECT system_id, count(*) AS n, count(DISTINCT process_command) AS commands FROM processes GROUP BY system_id",
    "top": "SELECT process_command, count(*) AS n FROM processes GROUP BY process_command ORDER BY n DESC, process_command LIMIT 20",
    "wide top": "SELECT attachment_id, system_id, process_command FROM processes ORDER BY process_command DESC NULLS LAST, system_id, attachment_id LIMIT 50",
    "distinct": "SELECT count(DISTINCT process_command) AS commands, count(DISTINCT attachment_id) AS uploads FROM processes",
    "texts": "SELECT lower(substr(process_command, 1, 8)) AS start, count(*) AS n, avg(length(process_command)) AS mean FROM processes GROUP BY lower(substr(process_command, 1, 8))",
    "window": "SELECT * FROM (SELECT day, process_command, n, row_number() OVER (PARTITION BY day ORDER BY n DESC, process_command) AS place "
              "FROM (SELECT day, process_command, count(*) AS n FROM processes GROUP BY day, process_command) AS counts) AS ranked WHERE place <= 3",
    "join": "SELECT s.team, count(*) AS n, count(DISTINCT p.process_command) AS commands FROM processes p JOIN systems s ON p.system_id = s.system_id GROUP BY s.team",
    "new": "SELECT count(*) AS n FROM (SELECT DISTINCT process_command FROM processes WHERE day = 9) AS today "
           "LEFT JOIN (SELECT DISTINCT process_command FROM processes WHERE day < 9) AS before ON today.process_command = before.process_command "
           "WHERE before.process_command IS NULL",
}


def systems(lake, folder):
    """A dimension beside the lake: the team of each system."""
    import duckdb

    path = pathlib.Path(folder) / "systems.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    duckdb.sql(f"COPY (SELECT system_id, 'team ' || (row_number() OVER (ORDER BY system_id) % 12) AS team "
               f"FROM (SELECT DISTINCT system_id FROM read_parquet('{lake}/**/*.parquet'))) TO '{path}' (FORMAT parquet)")
    return str(path)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lake", required=True)
    parser.add_argument("--engines", default="covey,embedded,ballista,duckdb,sail,spark,daft")
    parser.add_argument("--times", type=int, default=3)
    arguments = parser.parse_args()
    target = pathlib.Path(os.environ["COVEY"]).parent.parent
    tables = {"processes": arguments.lake, "systems": systems(arguments.lake, target / "scan")}
    judge = ENGINES["duckdb"](target)
    judge.tables(tables)
    answers = {name: rows_of(judge.query(sql.format(regexp=judge.regexp))) for name, sql in QUERIES.items()}
    judge.stop()
    _, _, wrong = compare(QUERIES, tables, arguments.engines.split(","), arguments.times, answers)
    if any(name in ("covey", "embedded") for name, _ in wrong):
        sys.exit(1)


if __name__ == "__main__":
    main()
