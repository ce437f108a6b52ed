"""How good and how dear the ways of seeding are: inertia after the fit and seconds of the statement, medians over seeds,
beside scikit-learn's k-means++ on the same vectors, on 1 scheduler + 1 executor.

    benchmarks/run seeding [--lake DIR] [--clusters 10,50,200] [--seeds 5] [--strategy local]

Checked: the medians of all ways are within a fifth of each other, but for random rows.
"""

import argparse
import os
import statistics
import tempfile
import time

from cluster import Cluster, external_table
from latency import LAKE
from peer import normalize, read

WAYS = {
    "k-means++": "init 'k-means++'",
    "k-means++, n_init 4": "init 'k-means++', n_init 4",
    "k-means||": "init 'k-means||'",
    "random": "init 'random', n_init 1",
    "random, n_init 10": "init 'random'",
}


def fits(cluster, k, way, strategy, seeds):
    """Seconds and inertia of a fit with each seed."""
    found = []
    for seed in seeds:
        options = f"n_clusters {k}, max_features 10000, random_state {seed}, strategy '{strategy}', {way}"
        create = f"CREATE OR REPLACE MODEL m USING KMEANS OPTIONS ({options}) " \
                 "AS SELECT normalize_command(process_command) AS c FROM processes"
        began = time.perf_counter()
        made = cluster.query(create)
        found.append((time.perf_counter() - began, made["inertia"][0].as_py()))
    return found


def scikit_learn(lake, clusters, seeds):
    """The same of scikit-learn's fits alone, on the distinct rows with weights, for each k."""
    from sklearn.cluster import KMeans
    from sklearn.feature_extraction.text import TfidfVectorizer

    cleaned = read(lake, ["process_command"]).process_command.dropna().map(normalize)
    counts = cleaned.value_counts()
    matrix = TfidfVectorizer(max_features=10_000).fit(cleaned).transform(counts.index)
    found = {}
    for k in clusters:
        for seed in seeds:
            began = time.perf_counter()
            model = KMeans(k, n_init=1, random_state=seed).fit(matrix, sample_weight=counts.to_numpy(float))
            found.setdefault(k, []).append((time.perf_counter() - began, model.inertia_))
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lake", default=str(LAKE))
    parser.add_argument("--clusters", default="10,50,200")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--strategy", default="local")
    arguments = parser.parse_args()
    clusters, seeds = [int(k) for k in arguments.clusters.split(",")], [100 * i for i in range(arguments.seeds)]
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(os.path.dirname(os.environ["COVEY"]), f"{folder}/w", executors=1, vcores=2)
        cluster.query(external_table(os.path.abspath(arguments.lake)))
        fits(cluster, clusters[0], WAYS["random"], arguments.strategy, [0])
        found = {k: {name: fits(cluster, k, way, arguments.strategy, seeds) for name, way in WAYS.items()} for k in clusters}
        cluster.stop()
    for k, peer in scikit_learn(arguments.lake, clusters, seeds).items():
        found[k]["scikit-learn (fit alone)"] = peer
    median = lambda of: statistics.median(of)
    print(f"{arguments.lake}, strategy '{arguments.strategy}', medians of {arguments.seeds} seeds, as ratios to k-means++")
    for k, ways in found.items():
        seconds, inertia = (median(fit[i] for fit in ways["k-means++"]) for i in (0, 1))
        print(f"k = {k}: k-means++ {seconds:.3f} s, inertia {inertia:.1f}")
        for name, fit in ways.items():
            of = [x for _, x in fit]
            print(f"  {name:26} time {median(s for s, _ in fit) / seconds:6.2f}   inertia {median(of) / inertia:.4f} "
                  f"(best {min(of) / inertia:.4f}, worst {max(of) / inertia:.4f})")
            assert "random" in name or abs(median(of) / inertia - 1) < 0.2, "seeds of one way are far from the others"


if __name__ == "__main__":
    main()
