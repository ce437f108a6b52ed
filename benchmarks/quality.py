"""How well clusters match the true applications: V-measure, adjusted Rand index and purity over all labelled rows,
means over ten seeds, Covey beside scikit-learn on the same cleaned strings, options and k."""

import argparse
import csv
import io
import os
import subprocess
import sys
import tempfile

import numpy as np

from peer import normalize, read

COVEY = os.environ["COVEY"]


def scores(truth, labels, weights):
    """Homogeneity, completeness and the rest from the weighted contingency table."""
    _, t = np.unique(truth, return_inverse=True)
    _, p = np.unique(labels, return_inverse=True)
    table = np.zeros((t.max() + 1, p.max() + 1))
    np.add.at(table, (t, p), weights)
    n = table.sum()
    entropy = lambda x: -(x[x > 0] / n * np.log(x[x > 0] / n)).sum()
    a, b, joint = entropy(table.sum(1)), entropy(table.sum(0)), entropy(table.ravel())
    homogeneity, completeness = (a + b - joint) / a, (a + b - joint) / b
    pairs = lambda x: (x * (x - 1) / 2).sum()
    expected = pairs(table.sum(1)) * pairs(table.sum(0)) / (n * (n - 1) / 2)
    most = (pairs(table.sum(1)) + pairs(table.sum(0))) / 2
    rand = (pairs(table.ravel()) - expected) / (most - expected)
    return 2 * homogeneity * completeness / (homogeneity + completeness), rand, table.max(0).sum() / n


def covey_labels(lake, seeds, k, warehouse):
    """{command: [label for each seed]} and the inertia of each fit."""
    query = "SELECT normalize_command(process_command) AS command FROM processes"
    script = [f"CREATE OR REPLACE EXTERNAL TABLE processes STORED AS PARQUET PARTITIONED BY (year, month, day) LOCATION '{lake}'"]
    for seed in seeds:
        script.append(f"CREATE MODEL m{seed} USING KMEANS OPTIONS (n_clusters {k}, max_features 10000, random_state {seed}) AS {query}")
    labels = ", ".join(f"predict('m{seed}', normalize_command(process_command)) AS c{seed}" for seed in seeds)
    script.append(f"SELECT DISTINCT process_command, {labels} FROM processes WHERE process_command IS NOT NULL")
    command = [COVEY, "run", "-", "--format", "csv", "--warehouse", warehouse]
    done = subprocess.run(command, input=";\n".join(script), capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    head, _, rows = done.stdout.rpartition("process_command,c0")
    inertia = [float(row["inertia"]) for row in csv.DictReader(io.StringIO(head)) if row["inertia"] != "inertia"]
    rows = csv.DictReader(io.StringIO("process_command,c0" + rows))
    return {row["process_command"]: [int(row[f"c{seed}"]) for seed in seeds] for row in rows}, inertia


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lake", required=True, help="a lake with a column app, the truth")
    parser.add_argument("--clusters", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()

    from sklearn.cluster import KMeans
    from sklearn.feature_extraction.text import TfidfVectorizer

    seeds = range(arguments.seeds)
    with tempfile.TemporaryDirectory() as folder:
        ours, our_inertia = covey_labels(os.path.abspath(arguments.lake), seeds, arguments.clusters, f"{folder}/w")

    rows = read(arguments.lake, ["process_command", "app"]).dropna(subset=["process_command"])
    cleaned = rows.process_command.map(normalize)
    counts = cleaned.value_counts()
    vectorizer = TfidfVectorizer(max_features=10_000).fit(cleaned)
    matrix = vectorizer.transform(counts.index)
    # Fitted on all rows, scored on those whose application is known, each as often as it occurs.
    labelled = rows.dropna(subset=["app"]).groupby(["process_command", "app"]).size().reset_index(name="n")
    position = {text: i for i, text in enumerate(counts.index)}
    at = labelled.process_command.map(normalize).map(position).to_numpy()

    table = {"covey": [], "scikit-learn": []}
    inertia = {"covey": our_inertia, "scikit-learn": []}
    for seed in seeds:
        model = KMeans(arguments.clusters, n_init=1, random_state=seed).fit(matrix, sample_weight=counts.to_numpy())
        inertia["scikit-learn"].append(model.inertia_)
        table["scikit-learn"].append(scores(labelled.app, model.labels_[at], labelled.n))
        table["covey"].append(scores(labelled.app, labelled.process_command.map(lambda c: ours[c][seed]), labelled.n))

    print(f"{len(rows)} rows, {int(labelled.n.sum())} labelled, {labelled.app.nunique()} applications, "
          f"k = {arguments.clusters}, {arguments.seeds} seeds; mean ± standard deviation")
    print(f"{'':14} {'V-measure':>16} {'adjusted Rand':>16} {'purity':>16} {'inertia':>22}")
    for name, values in table.items():
        mean, spread = np.mean(values, axis=0), np.std(values, axis=0)
        cells = " ".join(f"{m:8.4f} ± {s:.4f}" for m, s in zip(mean, spread))
        print(f"{name:14} {cells} {np.mean(inertia[name]):12.0f} ± {np.std(inertia[name]):.0f}")
    ratio = np.mean(table["covey"], axis=0) / np.mean(table["scikit-learn"], axis=0)
    print(f"{'ratio':14} " + " ".join(f"{r:16.4f}" for r in ratio) + f" {np.mean(inertia['covey']) / np.mean(inertia['scikit-learn']):18.4f}")


if __name__ == "__main__":
    main()
