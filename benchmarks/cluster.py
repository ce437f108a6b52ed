"""A cluster of Covey's own processes, for the benchmarks: one scheduler, and executors that may each have a core."""

import pathlib
import socket
import subprocess
import time

import adbc_driver_flightsql.dbapi as flightsql


def external_table(lake, name="processes"):
    return f"CREATE OR REPLACE EXTERNAL TABLE {name} STORED AS PARQUET PARTITIONED BY (year, month, day) LOCATION '{lake}'"


class Cluster:
    def __init__(self, binaries, warehouse, executors=2, vcores=1, cores=None, arguments=()):
        """`cores`: one of the machine for each executor, which it is pinned to."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = pathlib.Path(warehouse).with_suffix(".log")
        scheduler = [f"{binaries}/covey-scheduler", "--port", str(port), "--warehouse", str(warehouse)]
        executor = [f"{binaries}/covey-executor", "--scheduler", self.url, "--vcores", str(vcores), *arguments]
        with open(self.log, "w") as log:
            start = lambda command: subprocess.Popen(command, stderr=log)
            self.processes = [start(scheduler)]
            for i in range(executors):
                pinned = ["taskset", "-c", str(cores[i])] if cores else []
                self.processes.append(start([*pinned, *executor]))
        while self.log.read_text().count("executor registered") < executors:
            time.sleep(0.1)
        self.connection = flightsql.connect(self.url.replace("http", "grpc"), autocommit=True)

    def query(self, sql):
        with self.connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetch_arrow_table()

    def run(self, sql):
        """Seconds that a statement takes."""
        began = time.perf_counter()
        self.query(sql)
        return time.perf_counter() - began

    def peak_bytes(self):
        """The most memory that each process has held: the scheduler first."""
        return [peak_bytes(process.pid) for process in self.processes]

    def stop(self):
        self.connection.close()
        for process in reversed(self.processes):
            process.terminate()
            process.wait()


def peak_bytes(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10
