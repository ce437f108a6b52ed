"""A trivial query through Flight SQL on a running local cluster, by one client and by many at once: Covey beside Ballista as
it is, turn by turn in one run, answers compared.

    benchmarks/run clients [--clients 50] [--seconds 10] [--times 200]
"""

import argparse
import pathlib
import statistics
import tempfile
import threading
import time

from engines import Ballista, Covey

LAKE = pathlib.Path(__file__).parent.parent / "samples/processes"
TRIVIAL = "SELECT month, count(*) AS n FROM processes WHERE day IN (3, 4) GROUP BY month ORDER BY month"
NAMES = ("covey", "ballista")


def alone(engines, times):
    """Milliseconds of each query of one client, the engines by turns."""
    taken = {name: [] for name in NAMES}
    answers = {name: engines[name].query(TRIVIAL).to_pylist() for name in NAMES}
    assert answers["covey"] == answers["ballista"] and len(answers["covey"]) == 2, answers
    for _ in range(times):
        for name in NAMES:
            began = time.perf_counter()
            engines[name].query(TRIVIAL)
            taken[name].append(1000 * (time.perf_counter() - began))
    return taken


def together(engine, clients, seconds, expected):
    """Milliseconds of each query of many clients at once, and the errors."""
    taken, errors, lock = [], [], threading.Lock()
    started = threading.Barrier(clients + 1)

    def work():
        own = object.__new__(type(engine))
        own.connection = engine.connect(engine.url)
        engine.session(own)
        started.wait()
        until = time.perf_counter() + seconds
        while (began := time.perf_counter()) < until:
            try:
                rows = own.query(TRIVIAL).to_pylist()
                problem = None if rows == expected else f"wrong: {rows}"
            except Exception as error:
                problem = str(error)
            with lock:
                taken.append(1000 * (time.perf_counter() - began))
                errors.extend([problem] if problem else [])
        own.connection.close()

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    started.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return taken, errors, time.perf_counter() - began


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--times", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        engines = {"covey": Covey(folder), "ballista": Ballista(folder)}
        for engine in engines.values():
            engine.tables({"processes": str(LAKE)})
        # A session of Ballista's has its own tables; Covey's are everybody's.
        engines["covey"].session = lambda own: None
        engines["ballista"].session = lambda own: own.tables({"processes": str(LAKE)})
        expected = engines["covey"].query(TRIVIAL).to_pylist()
        taken = alone(engines, arguments.times)
        print(f"one client, {arguments.times} queries each by turns, milliseconds")
        for name in NAMES:
            times = taken[name]
            print(f"{name:10} first {times[0]:7.1f}  median {statistics.median(times):7.1f}  p99 {percentile(times, 0.99):7.1f}")
        medians = {name: statistics.median(taken[name]) for name in NAMES}
        print(f"covey's median is {medians['covey'] / medians['ballista']:.2f} of ballista's")
        print(f"{arguments.clients} clients at once for {arguments.seconds:.0f} s, milliseconds")
        rates = {}
        for name in NAMES:
            times, errors, seconds = together(engines[name], arguments.clients, arguments.seconds, expected)
            rates[name] = len(times) / seconds
            print(f"{name:10} {rates[name]:7.1f} queries/s  median {statistics.median(times):7.1f}  p99 {percentile(times, 0.99):7.1f}  errors {len(errors)}")
            for message in sorted(set(errors))[:3]:
                print(f"           {message[:150]}")
        print(f"covey answers {rates['covey'] / rates['ballista']:.2f} times as many")
        for engine in engines.values():
            engine.stop()


if __name__ == "__main__":
    main()
