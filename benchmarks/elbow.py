"""The elbow over k = 1..200, side by side: one CREATE MODEL with n_clusters 'auto', from the lake to the curve, and
scikit-learn's loop of fits alone, on vectors that are ready, over the distinct rows with weights and over all rows.

The loop of scikit-learn is extrapolated: it is timed at a few k, and the seconds between them are interpolated. Checked
in the same run: Covey's curve never rises, the inertia of the chosen model is that of its centres by numpy, and at each
of these k Covey's inertia is held against the median of five fits of scikit-learn.
"""

import argparse
import csv
import io
import os
import pathlib
import tempfile
import time

import numpy as np
import pyarrow as pa

from peer import normalize, read
from workloads import COVEY, timed

KS = [2, 5, 10, 20, 50, 100, 150, 200]
SEEDS = 5


def sweep(lake, warehouse, k_max, options, runs):
    """Seconds of each CREATE MODEL in a cluster of its own, and the curve as rows."""
    table = f"CREATE OR REPLACE EXTERNAL TABLE processes STORED AS PARQUET PARTITIONED BY (year, month, day) LOCATION '{lake}'"
    create = f"CREATE OR REPLACE MODEL e USING KMEANS OPTIONS (n_clusters 'auto', k_max {k_max}, max_features 10000, " \
             f"random_state 7 {options}) AS SELECT normalize_command(process_command) AS command FROM processes"
    elapsed = "SELECT elapsed_ms AS ms FROM covey_jobs() WHERE statement LIKE 'CREATE OR REPLACE MODEL%'"
    seconds = []
    for _ in range(runs):
        sql = f"{table}; {create}; {elapsed}; SELECT * FROM model_elbow('e')"
        _, output = timed([COVEY, "sql", sql, "--format", "csv", "--quiet", "--warehouse", warehouse], None)
        _, _, rest = output.partition("\nms\n")
        ms, _, curve = rest.partition("\n")
        seconds.append(int(ms) / 1000)
    return seconds, list(csv.DictReader(io.StringIO(curve)))


def chosen_inertia(warehouse, vectorize, texts, weights):
    """The inertia of the model that was kept, by numpy, from its centres."""
    model = sorted(pathlib.Path(warehouse).glob("models/e/data/*"))[-1]
    terms = pa.ipc.open_file(model / "vocabulary.arrow").read_all()["term"].to_pylist()
    centres = np.array(pa.ipc.open_file(model / "centroids.arrow").read_all()["centroid"].to_pylist())
    matrix = vectorize(terms).transform(texts)
    squared = matrix.multiply(matrix).sum(axis=1).A1[:, None] - 2 * (matrix @ centres.T) + (centres ** 2).sum(axis=1)
    return float((np.maximum(squared.min(axis=1), 0) * weights).sum())


def loop(matrix, weights, ks, seeds):
    """Seconds of one fit and the inertias, for each k."""
    from sklearn.cluster import KMeans

    seconds, inertia = [], []
    for k in ks:
        began, found = time.perf_counter(), []
        for seed in range(seeds):
            found.append(KMeans(k, n_init=1, random_state=seed).fit(matrix, sample_weight=weights).inertia_)
        seconds.append((time.perf_counter() - began) / seeds)
        inertia.append(found)
    return seconds, inertia


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lake", required=True)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--k-max", type=int, default=200)
    parser.add_argument("--all-rows", action="store_true", help="time scikit-learn's fits of all rows too: minutes")
    parser.add_argument("--picture", help="where a picture of both curves goes, as .svg or .png")
    arguments = parser.parse_args()
    ks = [k for k in KS if k <= arguments.k_max]

    from sklearn.feature_extraction.text import TfidfVectorizer

    cleaned = read(arguments.lake, ["process_command"]).process_command.dropna().map(normalize)
    counts = cleaned.value_counts()
    vectorizer = TfidfVectorizer(max_features=10_000).fit(cleaned)
    matrix, weights = vectorizer.transform(counts.index), counts.to_numpy(float)
    with tempfile.TemporaryDirectory() as folder:
        seconds, curve = sweep(os.path.abspath(arguments.lake), f"{folder}/w", arguments.k_max, "", arguments.runs)
        vectorize = lambda terms: TfidfVectorizer(vocabulary=terms).fit(cleaned)
        by_numpy = chosen_inertia(f"{folder}/w", vectorize, counts.index, weights)
    ours = {int(row["clusters"]): float(row["inertia"]) for row in curve}
    assert list(ours) == list(range(1, arguments.k_max + 1))
    assert all(ours[k + 1] <= ours[k] for k in range(1, arguments.k_max)), "the curve rises"
    chosen = next(row for row in curve if row["chosen_by"])
    error = abs(float(chosen["inertia"]) / by_numpy - 1)
    assert error < 1e-9, f"inertia of k = {chosen['clusters']}: {chosen['inertia']}, by numpy {by_numpy}"

    covey = float(np.median(seconds))
    print(f"{len(cleaned)} rows, {matrix.shape[0]} distinct, {matrix.shape[1]} terms; k = 1..{arguments.k_max}")
    print(f"covey, the whole statement: first {seconds[0]:.2f} s, median of {len(seconds)} {covey:.2f} s; "
          f"k = {chosen['clusters']} by {chosen['chosen_by']}")
    every = np.arange(1, arguments.k_max + 1)
    theirs, inertia = loop(matrix, weights, ks, SEEDS)
    distinct = float(np.interp(every, ks, theirs).sum())
    print(f"scikit-learn, {arguments.k_max} fits of the distinct rows: {distinct:.1f} s extrapolated from k = {ks}, "
          f"{distinct / covey:.0f} times covey's")
    if arguments.all_rows:
        theirs, _ = loop(vectorizer.transform(cleaned), None, ks, 1)
        total = float(np.interp(every, ks, theirs).sum())
        print(f"scikit-learn, {arguments.k_max} fits of all rows: {total:.0f} s extrapolated, {total / covey:.0f} times covey's")
    print(f"\n{'k':>5} {'covey':>14} {'scikit-learn':>14} {'best of 5':>14}   covey / median")
    for k, found in zip(ks, inertia):
        median = float(np.median(found))
        mark = "" if ours[k] <= median else "   HIGHER"
        print(f"{k:5} {ours[k]:14.1f} {median:14.1f} {min(found):14.1f}   {ours[k] / median:.4f}{mark}")
    if arguments.picture:
        from picture import curve

        curve(arguments.picture, f"Inertia of {len(cleaned):,} command lines", ours, ks, inertia)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    main()
