"""Covey and its peers as SQL engines on two cores: each makes tables of Parquet files and answers queries.

An engine has `tables(where)`, which makes a table of each directory or file, and `query(sql)`, which gives its rows as an
Arrow table. `{regexp}` in a query becomes the engine's own word for "matches a regular expression".
"""

import contextlib
import os
import pathlib
import queue
import signal
import socket
import subprocess
import tempfile
import threading
import time

from cluster import Cluster, external_table

CORES = 2


def is_lake(path):
    return any(pathlib.Path(path).glob("year=*"))


def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    try:
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]
    finally:
        for probe in sockets:
            probe.close()


class FlightSql:
    """What Covey and Ballista have in common. One session, by a handshake: stock Ballista forgets tables without."""

    regexp = "regexp_like"

    def connect(self, url):
        import adbc_driver_flightsql.dbapi as flightsql

        return flightsql.connect(url, db_kwargs={"username": "bench", "password": "bench"}, autocommit=True)

    def query(self, sql):
        with self.connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetch_arrow_table()


class Covey(FlightSql):
    """1 scheduler, 2 executors of one core."""

    def __init__(self, folder, environment=None):
        if environment:
            os.environ.update(environment)
        self.cluster = Cluster(os.path.dirname(os.environ["COVEY"]), f"{folder}/warehouse")
        self.url = self.cluster.url.replace("http", "grpc")
        self.connection = self.cluster.connection

    def tables(self, where):
        for name, path in where.items():
            lake = external_table(path, name)
            plain = f"CREATE OR REPLACE EXTERNAL TABLE {name} STORED AS PARQUET LOCATION '{path}'"
            self.query(lake if is_lake(path) or path.startswith("s3") else plain)

    def stop(self):
        self.cluster.stop()


class Embedded(Covey):
    """The cluster inside the process `covey`."""

    def __init__(self, folder):
        command = [os.environ["COVEY"], "sql", "--warehouse", f"{folder}/embedded"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        self.connection = self.found()

    def found(self):
        """A connection to the scheduler inside it, which listens at a port of its own choice."""
        while True:
            for port in listening(self.process.pid):
                with contextlib.suppress(Exception):
                    self.url = f"grpc://127.0.0.1:{port}"
                    connection = self.connect(self.url)
                    with connection.cursor() as cursor:
                        cursor.execute("SELECT * FROM covey_jobs()")
                        cursor.fetch_arrow_table()
                    return connection
            time.sleep(0.1)

    def stop(self):
        self.connection.close()
        self.process.stdin.close()
        self.process.wait()


def listening(pid):
    """Ports at which a process listens."""
    inodes = {link for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir() if (link := safe_link(fd)).startswith("socket:")}
    lines = [line.split() for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sorted({int(line[1].split(":")[1], 16) for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in inodes})


def safe_link(path):
    try:
        return os.readlink(path)
    except OSError:
        return ""


def field(number, value):
    """A field of a protobuf message that is a text or another message."""
    value = value.encode() if isinstance(value, str) else value
    size, varint = len(value), b""
    while size >= 0x80:
        varint, size = varint + bytes([size & 0x7F | 0x80]), size >> 7
    return bytes([number << 3 | 2]) + varint + bytes([size]) + value


class FlightClient:
    """A client of Flight SQL that does not mind whether columns may be NULL: ADBC's refuses rows whose schema differs in
    that from what was announced, as that of stock Ballista does."""

    def __init__(self, url):
        import pyarrow.flight

        self.flight = pyarrow.flight
        self.client = pyarrow.flight.connect(url)
        header = self.client.authenticate_basic_token("admin", "password")
        self.options = pyarrow.flight.FlightCallOptions(headers=[header])

    def query(self, sql):
        import pyarrow as pa

        command = field(1, "type.googleapis.com/arrow.flight.protocol.sql.CommandStatementQuery") + field(2, field(1, sql))
        info = self.client.get_flight_info(self.flight.FlightDescriptor.for_command(command), self.options)
        batches = []
        for endpoint in info.endpoints:
            batches += self.client.do_get(endpoint.ticket, self.options).read_all().to_batches()
        columns = [field.with_nullable(True) for field in (batches[0].schema if batches else info.schema)]
        return pa.Table.from_batches([pa.RecordBatch.from_arrays(b.columns, schema=pa.schema(columns)) for b in batches], pa.schema(columns))

    def close(self):
        self.client.close()


class Ballista(FlightSql):
    """Ballista as it is, with push scheduling: 1 scheduler, 2 executors of one core."""

    def connect(self, url):
        return FlightClient(url)

    def query(self, sql):
        return self.connection.query(sql)

    def __init__(self, folder, environment=None):
        binary = pathlib.Path(os.environ["COVEY"]).with_name("covey-bench")
        port, *ports = free_ports(5)
        self.url = f"grpc://127.0.0.1:{port}"
        log = open(f"{folder}/ballista.log", "w")
        start = lambda *command: subprocess.Popen([binary, *map(str, command)], stdout=log, stderr=log, env={**os.environ, **(environment or {})})
        self.processes = [start("ballista-scheduler", "--port", port)]
        wait_for_port(port, self.processes[-1])
        for flight, grpc in (ports[:2], ports[2:]):
            work = tempfile.mkdtemp(dir=folder)
            self.processes.append(start("ballista-executor", "--scheduler-port", port, "--port", flight, "--grpc-port", grpc, "--work-dir", work))
            wait_for_port(grpc, self.processes[-1])
        time.sleep(2)
        self.connection = self.connect(self.url)

    def tables(self, where):
        for name, path in where.items():
            partitioned = "PARTITIONED BY (year, month, day)" if is_lake(path) or path.startswith("s3") else ""
            columns = declared(path) if is_lake(path) else ""
            self.query(f"CREATE EXTERNAL TABLE {name} {columns} STORED AS PARQUET {partitioned} LOCATION '{path}'")

    def stop(self):
        self.connection.close()
        for process in reversed(self.processes):
            process.send_signal(signal.SIGKILL)
            process.wait()


def declared(lake):
    """The columns of a lake of texts: stock Ballista takes the values of directories for numbers only if it is told."""
    import pyarrow.parquet as pq

    names = pq.read_schema(next(pathlib.Path(lake).rglob("*.parquet"))).names
    return "(" + ", ".join([*(f"{name} VARCHAR" for name in names), "year INT", "month INT", "day INT"]) + ")"


def wait_for_port(port, process):
    while process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError(f"{process.args[0]} ended with {process.returncode}")


class DuckDb:
    regexp = "regexp_matches"

    def __init__(self, folder):
        import duckdb

        self.connection = duckdb.connect(config={"threads": CORES, "temp_directory": f"{folder}/duckdb"})

    def tables(self, where):
        for name, path in where.items():
            files = f"{path}/**/*.parquet" if os.path.isdir(path) else path
            hive = "hive_partitioning = true, hive_types = {year: INT, month: INT, day: INT}" if is_lake(path) else "hive_partitioning = false"
            self.connection.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{files}', {hive})")

    def query(self, sql):
        return self.connection.execute(sql).fetch_arrow_table()

    def stop(self):
        self.connection.close()


class Spark:
    regexp = "regexp_like"

    def __init__(self, folder):
        from pyspark.sql import SparkSession

        settings = SparkSession.builder.master(f"local[{CORES}]").config("spark.driver.memory", "8g")
        settings = settings.config("spark.ui.enabled", "false").config("spark.sql.shuffle.partitions", str(2 * CORES))
        settings = settings.config("spark.local.dir", str(folder)).config("spark.sql.warehouse.dir", f"{folder}/spark")
        self.spark = settings.config("spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1").getOrCreate()
        self.spark.sparkContext.setLogLevel("ERROR")
        self.spark.range(1).count()

    def tables(self, where):
        for name, path in where.items():
            self.spark.read.parquet(path).createOrReplaceTempView(name)

    def query(self, sql):
        return self.spark.sql(sql).toArrow()

    def stop(self):
        self.spark.stop()


class Sail(Spark):
    """Sail's server in a process of its own, and Spark's client for it."""

    def __init__(self, folder):
        from pyspark.sql.connect.session import SparkSession

        (port,) = free_ports(1)
        serve = f"from pysail.spark import SparkConnectServer; s = SparkConnectServer('127.0.0.1', {port}); s.start(background=False)"
        log = open(f"{folder}/sail.log", "w")
        limits = {"SAIL_EXECUTION__DEFAULT_PARALLELISM": str(CORES), "TOKIO_WORKER_THREADS": str(CORES)}
        python = os.environ.get("PYTHON") or __import__("sys").executable
        self.process = subprocess.Popen([python, "-c", serve], stdout=log, stderr=log, env={**os.environ, **limits})
        wait_for_port(port, self.process)
        self.spark = SparkSession.builder.remote(f"sc://127.0.0.1:{port}").create()

    def stop(self):
        self.spark.stop()
        self.process.kill()
        self.process.wait()


class Daft:
    regexp = "regexp_match"

    def __init__(self, folder):
        os.environ["DAFT_PROGRESS_BAR"] = "0"
        os.environ["DAFT_ANALYTICS_ENABLED"] = "0"
        import daft

        self.daft = daft
        daft.set_runner_native(num_threads=CORES)
        self.found = {}

    def tables(self, where):
        for name, path in where.items():
            files = f"{path}/**/*.parquet" if os.path.isdir(path) else path
            self.found[name] = self.daft.read_parquet(files, hive_partitioning=is_lake(path))

    def query(self, sql):
        """In a thread of its own: where Daft panics it may never come back, and then cannot be interrupted."""
        answers = queue.Queue()

        def ask():
            try:
                answers.put((self.daft.sql(sql, **self.found).to_arrow(), None))
            except BaseException as error:
                answers.put((None, error))

        threading.Thread(target=ask, daemon=True).start()
        answer, error = answers.get()
        if error:
            raise error
        return answer

    def stop(self):
        pass


ENGINES = {
    "covey": Covey,
    "embedded": Embedded,
    "ballista": Ballista,
    "spark": Spark,
    "sail": Sail,
    "duckdb": DuckDb,
    "daft": Daft,
}
