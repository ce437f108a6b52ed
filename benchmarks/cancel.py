"""How soon a cancelled fit is gone: 1 scheduler + 2 executors of one core; the client of a long fit goes away while it is
seeded, or in the middle of its iterations.

    benchmarks/run cancel [--times 10]

Milliseconds from there, the slowest of all times: until the board of jobs says so, until the executors are idle (the last
50 ms in which they used half a processor or more), until they have dropped the blocks of the fit, and until the warehouse has no file of
it. Checked: no model is there, and the next fit works.
"""

import argparse
import itertools
import os
import pathlib
import tempfile
import threading
import time

import adbc_driver_flightsql.dbapi as flightsql

from cluster import Cluster, external_table

LAKE = pathlib.Path(__file__).parent.parent / "samples/processes"
FIT = "CREATE MODEL {name} USING KMEANS OPTIONS ({options}, strategy '{strategy}') " \
      "AS SELECT normalize_command(process_command) AS c FROM processes"
SHORT = "n_clusters 50"
# By the moment at which the client goes away: a fit that is there for long, and how to see it.
MOMENTS = {
    "seed": ("n_clusters 5000", "stage = 'seed'"),
    "iterate": ("n_clusters 50, tol 0, n_init 1000, init 'random'", "iteration >= 2"),
}
TICK = os.sysconf("SC_CLK_TCK")
DROPPED = "the blocks of a fit are dropped"
WINDOW = 0.05
SECONDS_INTO = 0.3
PATIENCE = 10.0


def cpu_seconds(processes):
    """That the processes have used so far."""
    used = 0
    for process in processes:
        fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        used += int(fields[11]) + int(fields[12])
    return used / TICK


def drop_client(cluster, strategy, moment):
    """Starts a fit that is long at `moment`, and cancels its statement there."""
    options, is_there = MOMENTS[moment]
    connection = flightsql.connect(cluster.url.replace("http", "grpc"), autocommit=True)
    cursor = connection.cursor()

    def run():
        try:
            cursor.execute(FIT.format(name="cut", options=options, strategy=strategy))
        except flightsql.Error:
            pass  # cancelled

    thread = threading.Thread(target=run)
    thread.start()
    reached = f"SELECT count(*) AS n FROM covey_jobs() WHERE state = 'running' AND {is_there}"
    while cluster.query(reached)["n"][0].as_py() == 0:
        time.sleep(0.01)
    # Into the middle of it.
    time.sleep(SECONDS_INTO)
    cursor.adbc_cancel()
    began = time.perf_counter()
    thread.join()
    connection.close()
    return began


def watch(cluster, began, files, dropped_before, holders):
    """Milliseconds until each thing was so."""
    seen = {}
    executors, running = cluster.processes[1:], "SELECT count(*) AS n FROM covey_jobs() WHERE state = 'running'"
    used, last_busy = cpu_seconds(executors), 0.0
    while time.perf_counter() - began < PATIENCE and (len(seen) < 3 or time.perf_counter() - began < 2.0):
        now = 1000 * (time.perf_counter() - began)
        is_so = {
            "cancelled": lambda: cluster.query(running)["n"][0].as_py() == 0,
            "dropped": lambda: cluster.log.read_text().count(DROPPED) >= dropped_before + holders,
            "files": lambda: not any(files.glob("*/**/*.arrow")),
        }
        for name, test in is_so.items():
            if name not in seen and test():
                seen[name] = now
        time.sleep(WINDOW)
        used, before = cpu_seconds(executors), used
        if used - before >= WINDOW / 2:
            last_busy = 1000 * (time.perf_counter() - began)
    seen["idle"] = last_busy
    return seen


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        binaries = os.path.dirname(os.environ["COVEY"])
        warehouse = pathlib.Path(folder) / "warehouse"
        cluster = Cluster(binaries, warehouse, cores=[0, 1], arguments=["--log", "warn,covey=debug"])
        cluster.query(external_table(LAKE))
        print(f"{'milliseconds, slowest of ' + str(arguments.times):34}{'cancelled':>12}{'idle':>12}{'blocks':>12}{'files':>12}")
        for strategy, moment in itertools.product(("local", "distributed"), MOMENTS):
            worst = {}
            for _ in range(arguments.times):
                before = cluster.log.read_text().count(DROPPED)
                began = drop_client(cluster, strategy, moment)
                seen = watch(cluster, began, warehouse / "fits", before, holders=2)
                assert len(seen) == 4, f"after {PATIENCE} s there was only: {seen}"
                worst = {name: max(ms, worst.get(name, 0)) for name, ms in seen.items()}
            assert cluster.query("SHOW MODELS").num_rows == 0
            print(f"{strategy + ', ' + moment:34}" + "".join(f"{worst[name]:12.0f}" for name in ("cancelled", "idle", "dropped", "files")))
        cluster.query(FIT.format(name="next", options=SHORT, strategy="distributed"))
        assert cluster.query("SHOW MODELS").num_rows == 1
        cluster.stop()


if __name__ == "__main__":
    main()
