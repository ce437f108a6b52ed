"""Latency of a trivial query and of a fit on a running cluster: 1 scheduler, 2 executors of one task, median of many.

    benchmarks/run latency [FOLDER_OF_BINARIES ...]

Several folders (builds with other settings, other versions) are measured in one run, turn by turn.
"""

import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import adbc_driver_flightsql.dbapi as flightsql

LAKE = pathlib.Path(__file__).parent.parent / "samples/processes"
TABLE = f"CREATE EXTERNAL TABLE processes STORED AS PARQUET PARTITIONED BY (year, month, day) LOCATION '{LAKE}'"
FIT = "CREATE OR REPLACE MODEL m USING KMEANS OPTIONS (n_clusters 50, max_features 10000, random_state 7) " \
      "AS SELECT normalize_command(process_command) AS c FROM processes"
QUERIES = {
    "aggregate over 4 files": ("SELECT month, count(*) FROM processes WHERE day IN (3, 4) GROUP BY month", 40),
    "group by over 200,000 rows": ("SELECT process_command, count(*) AS n FROM processes GROUP BY 1 ORDER BY n DESC LIMIT 5", 15),
    "fit, k = 50": (FIT, 7),
    "predict of 200,000 rows": ("SELECT predict('m', normalize_command(process_command)), count(*) FROM processes GROUP BY 1", 7),
}


class Cluster:
    def __init__(self, binaries, folder):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        start = lambda *command: subprocess.Popen(command, stderr=subprocess.DEVNULL)
        url = f"http://127.0.0.1:{port}"
        self.processes = [start(f"{binaries}/covey-scheduler", "--port", str(port), "--warehouse", folder)]
        self.processes += [start(f"{binaries}/covey-executor", "--scheduler", url, "--vcores", "1") for _ in range(2)]
        while True:
            try:
                self.connection = flightsql.connect(url.replace("http", "grpc"), autocommit=True)
                self.run(TABLE)
                break
            except flightsql.Error:  # not listening yet
                time.sleep(0.1)
        time.sleep(2)  # both executors, not only the first that answers

    def run(self, sql):
        began = time.perf_counter()
        with self.connection.cursor() as cursor:
            cursor.execute(sql)
            cursor.fetchall()
        return time.perf_counter() - began

    def stop(self):
        self.connection.close()
        for process in reversed(self.processes):
            process.terminate()
            process.wait()


def main():
    folders = sys.argv[1:] or [os.path.dirname(os.environ["COVEY"])]
    with tempfile.TemporaryDirectory() as warehouses:
        clusters = [Cluster(folder, f"{warehouses}/{i}") for i, folder in enumerate(folders)]
        print(f"{'milliseconds':28}" + "".join(f"{f'first [{i}]':>12}{f'median [{i}]':>12}" for i in range(len(folders))))
        for name, (sql, times) in QUERIES.items():
            taken = [[] for _ in clusters]
            for _ in range(times):
                for cluster, times_of in zip(clusters, taken):
                    times_of.append(1000 * cluster.run(sql))
            print(f"{name:28}" + "".join(f"{t[0]:12.1f}{statistics.median(t):12.1f}" for t in taken))
        for cluster in clusters:
            cluster.stop()
    for i, folder in enumerate(folders):
        print(f"[{i}] {folder}")


if __name__ == "__main__":
    main()
