"""The main job side by side: `covey run jobs/workloads.sql` with its embedded cluster, process start included; the same
statements on a running cluster of 1 scheduler + 2 executors of one core; pandas + scikit-learn as processes, on all rows
as usual and on the distinct rows with weights as an expert would; and with --spark PySpark + scikit-learn as in a
notebook, and a pipeline of Spark MLlib, both after their session has started.

Checked in the same run: the cleaned strings are the same, the vocabulary is the same, the labels of every row are
those that scikit-learn's arithmetic gives for Covey's centres, both clusters give the same model, and the inertia of
every peer's clusters, all measured on Covey's vectors where the peer has others.
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

from cluster import Cluster
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
    commands = [row["process_command"] for row in rows]
    print(f"checked: {len(rows)} distinct commands cleaned alike, {shared} of {len(terms)} terms shared, "
          f"idf within 1e-12, every label nearest within 1e-9")
    return inertia, dict(zip(commands, ours.tolist())), counts, (commands, matrix, weights)


def inertia_of(labels, vectors):
    """Of the means of a peer's clusters."""
    import scipy.sparse as sp

    commands, matrix, weights = vectors
    of_command = np.array([labels[command] for command in commands])
    members = sp.csr_matrix((weights, (of_command, np.arange(len(commands)))), (of_command.max() + 1, len(commands)))
    sums, sizes = members @ matrix, np.asarray(members.sum(axis=1)).ravel()
    total = (matrix.multiply(matrix).sum(axis=1).A1 * weights).sum()
    return float(total - (sums.multiply(sums).sum(axis=1).A1[sizes > 0] / sizes[sizes > 0]).sum())


def on_cluster(lake, folder, runs):
    """Seconds of the job's statements on a running cluster, the first and the median, and the digest of the model."""
    statements = (HERE.parent / "jobs/workloads.sql").read_text()
    for variable, value in [("${LAKE:-samples/processes}", lake), ("${CLUSTERS:-50}", "50"), ("${STRATEGY:-auto}", "auto")]:
        statements = statements.replace(variable, value)
    statements = re.sub("--.*", "", statements).split(";")
    cluster = Cluster(os.path.dirname(COVEY), f"{folder}/cluster", cores=[0, 1])
    seconds = [sum(cluster.run(sql) for sql in statements if sql.strip()) for _ in range(runs)]
    digest = cluster.query("SHOW MODELS").to_pylist()[0]["digest"]
    cluster.stop()
    return seconds[0], float(np.median(seconds)), digest


def with_spark(lake, folder, way, runs):
    """Seconds after the session's start, the first and the median, and the label of each command."""
    import pyarrow.parquet as pq

    seconds = []
    for _ in range(runs):
        out = f"{folder}/{way}.parquet"
        _, output = timed([sys.executable, str(HERE / "peer_spark.py"), "--lake", lake, "--way", way, "--out", out], folder)
        seconds.append(float(re.search(r"seconds (\S+)", output)[1]))
    labels = pq.read_table(out).to_pydict()
    return seconds[0], float(np.median(seconds)), dict(zip(labels["process_command"], labels["label"]))


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
    parser.add_argument("--peer-runs", type=int, default=3)
    parser.add_argument("--spark", action="store_true", help="Spark as well; it needs Java 17")
    parser.add_argument("--picture", help="where a picture of the ratios goes, as .svg or .png")
    arguments = parser.parse_args()
    lake = os.path.abspath(arguments.lake)

    with tempfile.TemporaryDirectory() as folder:
        warehouse = f"{folder}/warehouse"
        job = [COVEY, "run", str(HERE.parent / "jobs/workloads.sql"), "--set", f"LAKE={lake}", "--warehouse", warehouse]
        cold, covey, output = median_of(arguments.runs, job, folder)
        print(output)
        python = [sys.executable, str(HERE / "peer.py"), "--lake", lake]
        cluster_cold, on_two, digest = on_cluster(lake, folder, arguments.runs)
        _, models = timed([COVEY, "sql", "SHOW MODELS", "--format", "csv", "--warehouse", warehouse], None)
        assert digest == next(csv.DictReader(io.StringIO(models)))["digest"], "the clusters gave different models"
        plain_cold, plain, plain_output = median_of(arguments.peer_runs, python, folder)
        expert_cold, expert, expert_output = median_of(arguments.peer_runs, [*python, "--collapse"], folder)
        spark = {way: with_spark(lake, folder, way, arguments.peer_runs) for way in ("notebook", "mllib")} if arguments.spark else {}
        table = f"CREATE OR REPLACE EXTERNAL TABLE processes STORED AS PARQUET PARTITIONED BY (year, month, day) LOCATION '{lake}'"
        inertia, labels, counts, vectors = check(lake, warehouse, table)

    theirs = [float(re.search(r"inertia (\S+)", text)[1]) for text in (plain_output, expert_output)]
    names = {"notebook": "PySpark + scikit-learn, after its start", "mllib": "Spark MLlib, after its start"}
    print(f"\n{'':42} {'first run':>10} {'median':>10} {'embedded':>9} {'cluster':>9} {'inertia':>14}")
    bars = {"embedded cluster": [], "1 scheduler + 2 executors": []}
    for name, first, median, score in [
        ("covey run, embedded cluster", cold, covey, inertia),
        ("covey, 1 scheduler + 2 executors", cluster_cold, on_two, inertia),
        ("pandas + scikit-learn, all rows", plain_cold, plain, theirs[0]),
        ("pandas + scikit-learn, distinct rows", expert_cold, expert, theirs[1]),
        *((names[way], first, median, inertia_of(found, vectors)) for way, (first, median, found) in spark.items()),
    ]:
        print(f"{name:42} {first:9.2f}s {median:9.2f}s {median / covey:8.1f}x {median / on_two:8.1f}x {score:14.1f}")
        if not name.startswith("covey"):
            for panel, ours in zip(bars.values(), (covey, on_two)):
                panel.append((name, median / ours))
    if arguments.picture:
        from picture import ratios

        ratios(arguments.picture, "From Parquet to clusters: cleaned, TF-IDF, k-means", list(bars.items()))
    if arguments.truth and os.path.exists(arguments.truth) and "samples/processes" in lake:
        found = applications(arguments.truth, labels, counts)
        print(f"\n{len(found)} applications are the majority of a cluster of purity 0.8 or more: {' '.join(sorted(found))}")


if __name__ == "__main__":
    main()
