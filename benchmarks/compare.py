"""Runs queries on several engines, compares their answers row by row with those of the first, and prints the ratios.

    first: the first time that an engine is asked a query; warm: the median of the others, the first if there are none.
"""

import datetime
import decimal
import math
import signal
import statistics
import sys
import tempfile
import time

from engines import ENGINES

# A query that takes longer counts as failed.
SECONDS_MAX = 120
TOLERANCE = 1e-6


def plain(value):
    """A value that compares between engines: numbers of any type are one kind, so are dates and times at midnight."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, (int, float, decimal.Decimal)):
        return float(value)
    if isinstance(value, datetime.datetime):
        return value.replace(tzinfo=None).isoformat()
    if isinstance(value, datetime.date):
        return datetime.datetime.combine(value, datetime.time()).isoformat()
    return str(value)


def rows_of(table):
    columns = [[plain(value) for value in column.to_pylist()] for column in table.columns]
    return list(zip(*columns))


def key(row):
    """Sorts rows of mixed types; floats by fewer digits than they may differ in."""
    return [(value is None, f"{value:.4g}" if isinstance(value, float) else str(value)) for value in row]


def same(a, b):
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return a == b


def difference(rows, expected):
    """What differs between two answers, in whatever order their rows are; nothing if nothing does."""
    if len(rows) != len(expected):
        return f"{len(rows)} rows, not {len(expected)}"
    pairs = list(zip(rows, expected))
    if not all(len(a) == len(b) and all(map(same, a, b)) for a, b in pairs):
        pairs = list(zip(sorted(rows, key=key), sorted(expected, key=key)))
    for a, b in pairs:
        if len(a) != len(b) or not all(map(same, a, b)):
            return f"{a} instead of {b}"
    return None


class TooSlow(Exception):
    pass


def timed(run):
    def too_slow(*_):
        raise TooSlow(f"over {SECONDS_MAX} s")

    signal.signal(signal.SIGALRM, too_slow)
    signal.alarm(SECONDS_MAX)
    try:
        began = time.perf_counter()
        answer = run()
        return time.perf_counter() - began, answer
    finally:
        signal.alarm(0)


def geometric_mean(values):
    return math.exp(statistics.fmean(map(math.log, values)))


def compare(queries, tables, names, times=3, answers=None):
    """`answers`: rows by query; without them, those of the first engine that gives some are taken."""
    answers = dict(answers or {})
    first, warm, wrong = {}, {}, {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            engine = ENGINES[name](folder)
            try:
                engine.tables(tables)
                for query, sql in queries.items():
                    print(name, query, file=sys.stderr, flush=True)
                    sql = sql.format(regexp=engine.regexp)
                    try:
                        taken = [timed(lambda: engine.query(sql)) for _ in range(1 + times)]
                    except BaseException as error:
                        if isinstance(error, KeyboardInterrupt):
                            raise
                        wrong[name, query] = str(error).strip().splitlines()[0][:120] if str(error).strip() else repr(error)
                        continue
                    rows = rows_of(taken[0][1])
                    differs = difference(rows, answers.setdefault(query, rows))
                    if differs:
                        wrong[name, query] = differs[:120]
                        continue
                    first[name, query] = taken[0][0]
                    warm[name, query] = statistics.median(seconds for seconds, _ in taken[1:] or taken)
            finally:
                engine.stop()
    report(list(queries), names, first, warm, wrong)
    return first, warm, wrong


def report(queries, names, first, warm, wrong):
    base = names[0]
    print(f"milliseconds, first / warm; answers compared row by row; ratios are to {base}")
    print(f"{'query':12}" + "".join(f"{name:>18}" for name in names))
    for query in queries:
        cell = lambda name: f"{1000 * first[name, query]:.0f} / {1000 * warm[name, query]:.0f}" if (name, query) in warm else "-"
        print(f"{query:12}" + "".join(f"{cell(name):>18}" for name in names))
    for what, seconds in (("first", first), ("warm", warm)):
        print(f"{what + ' ×':12}" + "".join(f"{ratio(seconds, queries, base, name):>18}" for name in names))
    for (name, query), message in wrong.items():
        print(f"{name} {query}: {message}")


def ratio(seconds, queries, base, name):
    """How many times as long as the base, as a geometric mean over the queries that both answer rightly."""
    both = [query for query in queries if (base, query) in seconds and (name, query) in seconds]
    if not both:
        return "-"
    mean = geometric_mean([seconds[name, query] / seconds[base, query] for query in both])
    return f"{mean:.2f} ({len(both)})"
