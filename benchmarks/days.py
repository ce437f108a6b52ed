"""A lake of 10,000 day directories in Ceph: the first answer of a query for one week, across the end of a month, and the
requests that it costs, counted in front of the store. Covey beside Ballista as it is, on the same store.

    benchmarks/run days [--days 10000] [--rows 400000]

Ballista takes the values of directories for texts; it is asked in the way that lets it prune.
"""

import argparse
import os
import pathlib
import subprocess
import tempfile
import time

from compare import difference, rows_of
from engines import Ballista, Covey

KEYS = {"AWS_ACCESS_KEY_ID": "testkey", "AWS_SECRET_ACCESS_KEY": "testsecret", "AWS_REGION": "default", "AWS_ALLOW_HTTP": "true"}
SELECT = "SELECT count(*) AS n, count(DISTINCT system_id) AS systems, max(process_command) AS last FROM processes WHERE"
WEEKS = {
    "covey": [
        f"{SELECT} date BETWEEN '2011-07-28' AND '2011-08-03'",
        f"{SELECT} make_date(year, month, day) BETWEEN DATE '2011-07-28' AND DATE '2011-08-03'",
    ],
    "ballista": [
        f"{SELECT} year = '2011' AND ((month = '07' AND day >= '28') OR (month = '08' AND day <= '03'))",
    ],
}


class Store:
    def __init__(self, folder):
        binary = pathlib.Path(os.environ["COVEY"]).with_name("covey-bench")
        self.process = subprocess.Popen([binary, "store", "--folder", f"{folder}/ceph"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.direct, self.counted = self.process.stdout.readline().split()

    def requests(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return [int(n) for n in self.process.stdout.readline().split()]

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def upload(covey, lake):
    """Writes the lake into the store, a file for each day."""
    began = time.perf_counter()
    covey.tables({"local": lake})
    columns = "attachment_id, system_id, process_command, year, month, day"
    covey.query(f"COPY (SELECT {columns} FROM local) TO 's3://insights/processes/' STORED AS PARQUET PARTITIONED BY (year, month, day)")
    print(f"the lake was written into Ceph in {time.perf_counter() - began:.0f} s")


def measured(store, run):
    """Milliseconds and requests of a call, and what it gives."""
    before, began = store.requests(), time.perf_counter()
    answer = run()
    milliseconds = 1000 * (time.perf_counter() - began)
    lists, gets, heads, _ = (b - a for a, b in zip(before, store.requests()))
    return milliseconds, f"{lists:6} LIST {gets:6} GET {heads:6} HEAD", answer


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--days", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=400_000)
    arguments = parser.parse_args()
    binary = pathlib.Path(os.environ["COVEY"]).with_name("covey-bench")
    with tempfile.TemporaryDirectory() as folder:
        lake = f"{folder}/lake"
        subprocess.run([binary, "fleet", "--out", lake, "--days", str(arguments.days), "--rows", str(arguments.rows), "--start", "1999-01-01"], check=True)
        store = Store(folder)
        environment = {**KEYS, "AWS_ENDPOINT_URL": store.counted, "AWS_ENDPOINT": store.counted}
        first, expected = {}, None
        for name, engine in (("covey", Covey), ("ballista", Ballista)):
            running = engine(folder, environment)
            if name == "covey":
                upload(running, lake)
            milliseconds, requests, _ = measured(store, lambda: running.tables({"processes": "s3://insights/processes/"}))
            print(f"{name:9} create table         {milliseconds:9.0f} ms {requests}")
            for sql in WEEKS[name]:
                for turn in ("first", "second"):
                    milliseconds, requests, answer = measured(store, lambda: running.query(sql))
                    rows = rows_of(answer)
                    expected = expected or rows
                    assert rows[0][0] > 0 and not difference(rows, expected), f"{rows} instead of {expected}"
                    first.setdefault(name, milliseconds)
                    print(f"{name:9} {turn:6} answer        {milliseconds:9.0f} ms {requests}   {sql[len(SELECT) + 1:]}")
            running.stop()
        print(f"covey's first answer came {first['ballista'] / first['covey']:.1f} times as soon")
        store.stop()


if __name__ == "__main__":
    main()
