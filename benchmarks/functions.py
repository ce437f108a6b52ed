"""What a function of users costs, by how it is written: SQL (CREATE FUNCTION), WebAssembly, and Rust in `udfs`.

    benchmarks/run functions --lake DIR [--times 7]

The same function in each, on the same rows, on one core; the results are compared value by value. Covey's figure is what
a query takes beyond the same query without the function. WebAssembly's is the work alone, as an executor would have it:
each batch copied into the sandbox, the call, its results copied out, and checked to be UTF-8, as those of code that is not
trusted must be.
"""

import argparse
import collections
import ctypes
import os
import pathlib
import statistics
import tempfile
import time

from cluster import external_table
from engines import Embedded

BATCH_ROWS = 8192
NUMBERS = 20_000_000
TEXTS = {
    "words": "trim(regexp_replace(lower(x), '[^a-z]+', ' ', 'g'))",
    "program": "CASE WHEN x LIKE '[%' THEN split_part(x, ' ', 1) ELSE regexp_replace(split_part(x, ' ', 1), '^.*/|:+$', '', 'g') END",
}
POLYNOMIAL = "x * x / 2 - 3 * x + 1"


class Sandbox:
    """Functions of functions.wat, called as an executor would call them."""

    def __init__(self):
        import wasmtime

        began = time.perf_counter()
        self.store = wasmtime.Store(wasmtime.Engine())
        module = wasmtime.Module(self.store.engine, (pathlib.Path(__file__).parent / "functions.wat").read_text())
        self.exports = wasmtime.Instance(self.store, module, []).exports(self.store)
        self.started = time.perf_counter() - began
        self.memory = self.exports["memory"]

    def reserve(self, size):
        """Where the sandbox's memory is, which has grown to `size` bytes or more."""
        missing = size - self.memory.data_len(self.store)
        if missing > 0:
            self.memory.grow(self.store, -(-missing // 65536))
        return ctypes.addressof(self.memory.data_ptr(self.store).contents)

    def texts(self, name, array):
        import numpy as np
        import pyarrow as pa

        _, offsets, data = array.buffers()
        offsets = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
        first, size = int(offsets[0]), int(offsets[-1] - offsets[0])
        offsets = offsets - np.int32(first)
        places = offsets.nbytes
        base = self.reserve(2 * (places + size))
        ctypes.memmove(base, offsets.ctypes.data, places)
        ctypes.memmove(base + places, data.address + first, size)
        out = places + size
        written = self.exports[name](self.store, len(array), 0, places, out, out + places)
        offsets, texts = (ctypes.string_at(base + start, size) for start, size in ((out, places), (out + places, written)))
        result = pa.StringArray.from_buffers(len(array), pa.py_buffer(offsets), pa.py_buffer(texts))
        result.validate(full=True)
        return result

    def numbers(self, array):
        import pyarrow as pa

        size = 8 * len(array)
        base = self.reserve(2 * size)
        ctypes.memmove(base, array.buffers()[1].address + 8 * array.offset, size)
        self.exports["polynomial"](self.store, len(array), 0, size)
        return pa.Array.from_buffers(pa.float64(), len(array), [None, pa.py_buffer(ctypes.string_at(base + size, size))])


def timed(work):
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def batches(array):
    return [array.slice(start, BATCH_ROWS) for start in range(0, len(array), BATCH_ROWS)]


def beyond(covey, times, sql, expression):
    """Seconds that a query takes with `expression` beyond what it takes without, by the medians of turns."""
    seconds = {"x": [], expression: []}
    for _ in range(times + 1):
        for each, taken in seconds.items():
            taken.append(timed(lambda: covey.query(sql.format(each)))[0])
    without, with_it = (statistics.median(taken[1:]) for taken in seconds.values())
    return with_it - without


def report(name, rows, seconds):
    nanoseconds = {way: 1e9 * taken / rows for way, taken in seconds.items()}
    webassembly = nanoseconds["WebAssembly"]
    others = "".join(f"{f'{nanoseconds[way]:.1f} ({nanoseconds[way] / webassembly:.2f})':>18}" if way in nanoseconds else f"{'':18}" for way in ("SQL", "Rust"))
    print(f"{name:12}{rows:12,}{webassembly:14.1f}{others}")


def counted(covey, expression):
    table = covey.query(f"SELECT {expression} AS value, count(*) AS n FROM commands GROUP BY 1")
    return dict(zip(table["value"].to_pylist(), table["n"].to_pylist()))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lake", required=True)
    parser.add_argument("--times", type=int, default=7)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        covey = Embedded(folder)
        covey.query(external_table(arguments.lake))
        covey.query("CREATE VIEW commands AS SELECT process_command AS x FROM processes WHERE process_command IS NOT NULL")
        covey.query(f"CREATE TABLE numbers AS SELECT CAST(value AS DOUBLE) AS x FROM generate_series(1, {NUMBERS})")
        for name, body in {**TEXTS, "polynomial": POLYNOMIAL}.items():
            covey.query(f"CREATE FUNCTION sql_{name}(x) AS {body}")
        sandbox = Sandbox()
        print(f"{'nanoseconds a row':12}{'rows':>7}{'WebAssembly':>14}{'SQL':>18}{'Rust':>18}   (in parentheses: to WebAssembly's)")
        texts = covey.query("SELECT CAST(x AS VARCHAR) AS x FROM commands")["x"].combine_chunks()
        for name in TEXTS:
            ours = [timed(lambda: [sandbox.texts(name, batch) for batch in batches(texts)]) for _ in range(arguments.times + 1)]
            answers = collections.Counter(value for batch in ours[0][1] for value in batch.to_pylist())
            ways = {"SQL": f"sql_{name}(x)", **({"Rust": "coalesce(program_name(x), '')"} if name == "program" else {})}
            seconds = {"WebAssembly": statistics.median(taken for taken, _ in ours[1:])}
            for way, expression in ways.items():
                assert counted(covey, expression) == answers, f"{name} in {way} gives other values than in WebAssembly"
                seconds[way] = beyond(covey, arguments.times, "SELECT sum(octet_length({})) FROM commands", expression)
            report(name, len(texts), seconds)
        numbers = covey.query("SELECT x FROM numbers")["x"].combine_chunks()
        ours = [timed(lambda: [sandbox.numbers(batch) for batch in batches(numbers)]) for _ in range(arguments.times + 1)]
        total = sum(value for batch in ours[0][1] for value in batch.to_numpy())
        answer = covey.query("SELECT sum(sql_polynomial(x)) AS n FROM numbers")["n"][0].as_py()
        assert abs(answer - total) <= 1e-9 * abs(total), "the polynomial in SQL gives another sum than in WebAssembly"
        taken = beyond(covey, arguments.times, "SELECT sum({}) FROM numbers", "sql_polynomial(x)")
        report("polynomial", len(numbers), {"WebAssembly": statistics.median(taken for taken, _ in ours[1:]), "SQL": taken})
        body = TEXTS["words"].replace("x)", "'Ab')", 1)
        plain, called = ([timed(lambda: covey.query(f"SELECT {each} AS x"))[0] for _ in range(60)] for each in (body, "sql_words('Ab')"))
        print(f"planning a call beyond planning its body: {1000 * (statistics.median(called) - statistics.median(plain)):.2f} ms; "
              f"compiling the module, in each executor: {1000 * sandbox.started:.1f} ms")
        covey.stop()


if __name__ == "__main__":
    main()
