"""The main job, whole processes side by side: `covey run jobs/workloads.sql` with its embedded cluster, and pandas +
scikit-learn, on all rows as usual and on the distinct rows with weights as an expert would.

Checked in the same run: the cleaned strings are the same, the vocabulary is the same, the labels of every row are
those that scikit-learn's arithmetic gives for Covey's centres, and the inertia of both fits.
"""

import argparse
import collections
import csv
import io
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import numpy as np
import pyarrow as pa

from peer import normalize, read

HERE = pathlib.Path(__file__).parent
COVEY = os.environ["COVEY"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}


def timed(command, cwd):
    began = time.perf_counter()
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, cwd=cwd)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stderr}")
    return time.perf_counter() - began, done.stdout


def median_of(runs, command, cwd):
    """Seconds of the first run and the median of all, and the last output."""
    times, output = [], ""
    for _ in range(runs):
        seconds, output = timed(command, cwd)
        times.append(seconds)
    return times[0], float(np.median(times)), output


def check(lake, warehouse, table):
    """Covey's strings, vocabulary and labels against Python's; returns its inertia."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    commands = read(lake, ["process_command"]).process_command.dropna()
    sql = f"{table}; SELECT DISTINCT process_command, normalize_command(process_command) AS n, " \
          "predict('workloads', normalize_command(process_command)) AS c, " \
          "cluster_distance('workloads', normalize_command(process_command)) AS d " \
          "FROM processes WHERE process_command IS NOT NULL"
    _, output = timed([COVEY, "sql", sql, "--format", "csv", "--warehouse", warehouse], None)
    rows = list(csv.DictReader(io.StringIO(output)))
    # Not pandas' unique and value_counts: they end a string at its first NUL.
    counts = collections.Counter(commands)
    assert len(rows) == len(counts), (len(rows), len(counts))
    wrong = [row for row in rows if normalize(row["process_command"]) != row["n"]]
    assert not wrong, f"{len(wrong)} strings are cleaned differently, such as {wrong[0]}"

    model = next(pathlib.Path(warehouse).glob("models/workloads/data/*"))
    vocabulary = pa.ipc.open_file(model / "vocabulary.arrow").read_all()
    centres = np.array(pa.ipc.open_file(model / "centroids.arrow").read_all()["centroid"].to_pylist())
    terms, idf = vocabulary["term"].to_pylist(), np.array(vocabulary["idf"])
    # max_features cuts where several terms occur equally often; scikit-learn's choice among them is not defined.
    vectorizer = TfidfVectorizer(vocabulary=terms).fit(commands.map(normalize))
    assert np.abs(vectorizer.idf_ - idf).max() < 1e-12
    free = TfidfVectorizer(max_features=10_000).fit(commands.map(normalize))
    shared = len(set(free.get_feature_names_out()) & set(terms))
    matrix = vectorizer.transform([row["n"] for row in rows])
    squared = matrix.multiply(matrix).sum(axis=1).A1[:, None] - 2 * (matrix @ centres.T) + (centres ** 2).sum(axis=1)
    ours = np.array([int(row["c"]) for row in rows])
    gap = squared[np.arange(len(rows)), ours] - squared.min(axis=1)
    assert gap.max() < 1e-9, f"a label is {gap.max()} farther than the nearest centre"
    distance = np.abs(np.array([float(row["d"]) for row in rows]) ** 2 - squared.min(axis=1)).max()
    assert distance < 1e-9, distance
    weights = np.array([counts[row["process_command"]] for row in rows])
    inertia = float((np.maximum(squared.min(axis=1), 0) * weights).sum())
    print(f"checked: {len(rows)} distinct commands cleaned alike, {shared} of {len(terms)} terms shared, "
          f"idf within 1e-12, every label nearest within 1e-9")
    return inertia, {row["process_command"]: int(row["c"]) for row in rows}, counts


def applications(truth, labels, counts):
    """Applications that are the majority of some cluster of purity 0.8 or more."""
    import pyarrow.parquet as pq

    apps = dict(zip(*(column.to_pylist() for column in pq.read_table(truth).columns)))
    clusters = {}
    for command, cluster in labels.items():
        tally = clusters.setdefault(cluster, {})
        app = apps.get(command)
        tally[app] = tally.get(app, 0) + int(counts[command])
    found = set()
    for tally in clusters.values():
        app, most = max(tally.items(), key=lambda item: item[1])
        if app is not None and most >= 0.8 * sum(tally.values()):
            found.add(app)
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lake", default=str(HERE.parent / "samples/processes"))
    parser.add_argument("--truth", default=str(HERE.parent / "samples/processes_truth.parquet"))
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    lake = os.path.abspath(arguments.lake)

    with tempfile.TemporaryDirectory() as folder:
        warehouse = f"{folder}/warehouse"
        job = [COVEY, "run", str(HERE.parent / "jobs/workloads.sql"), "--set", f"LAKE={lake}", "--warehouse", warehouse]
        cold, covey, output = median_of(arguments.runs, job, folder)
        print(output)
        python = [sys.executable, str(HERE / "peer.py"), "--lake", lake]
        plain_cold, plain, plain_output = median_of(min(arguments.runs, 3), python, folder)
        expert_cold, expert, expert_output = median_of(min(arguments.runs, 3), [*python, "--collapse"], folder)
        table = f"CREATE EXTERNAL TABLE processes STORED AS PARQUET PARTITIONED BY (year, month, day) LOCATION '{lake}'"
        inertia, labels, counts = check(lake, warehouse, table)

    theirs = [float(re.search(r"inertia (\S+)", text)[1]) for text in (plain_output, expert_output)]
    print(f"\n{'':42} {'first run':>10} {'median':>10} {'ratio':>8} {'inertia':>14}")
    for name, first, median, score in [
        ("covey run, embedded cluster", cold, covey, inertia),
        ("pandas + scikit-learn, all rows", plain_cold, plain, theirs[0]),
        ("pandas + scikit-learn, distinct rows", expert_cold, expert, theirs[1]),
    ]:
        print(f"{name:42} {first:9.2f}s {median:9.2f}s {median / covey:7.1f}x {score:14.1f}")
    if arguments.truth and os.path.exists(arguments.truth) and "samples/processes" in lake:
        found = applications(arguments.truth, labels, counts)
        print(f"\n{len(found)} applications are the majority of a cluster of purity 0.8 or more: {' '.join(sorted(found))}")


if __name__ == "__main__":
    main()
