"""How time and memory grow: iterations alone over rows, clusters and features, Covey's kernels beside scikit-learn's Lloyd
from the same centres; and a whole distributed fit and a distributed elbow over 1, 2 and 4 executors, each pinned to a core.

    benchmarks/run scaling [--lake DIR] [--picture FILE]

Checked: both sides' labels, and that all numbers of executors give one digest. Each side of a point is a process of its
own, whose most memory is told, as is that of the rows alone.
"""

import argparse
import multiprocessing
import os
import tempfile

import lloyd
from cluster import Cluster, external_table, peak_bytes
from lloyd import HERE, THREADS, np, sp, warm

ITERATIONS, REPEAT = 10, 4
ROWS = [15_000, 30_000, 60_000, 120_000]
CLUSTERS = [10, 25, 50, 100, 200]
FEATURES = [8, 32, 128, 512]
EXECUTORS = [1, 2, 4]


def series(lake):
    """Name, what varies, and a matrix and k for each of its values."""
    text = lloyd.fleet(lake)
    yield "rows: a wide vocabulary, k = 50", ROWS, lambda n: (lloyd.wide(n_rows=n), 50)
    yield f"clusters: the fleet's {text.shape[0]:,} distinct rows", CLUSTERS, lambda k: (text, k)
    yield "features: 100,000 dense rows, k = 50", FEATURES, lambda d: (lloyd.dense(100_000, d), 50)


def scikit_learn(matrix, centres):
    """Seconds, labels and iterations, and the most memory of this process in MiB."""
    seconds, labels, _, n_iter = lloyd.scikit_learn(matrix, centres, "lloyd", ITERATIONS, REPEAT)
    return seconds, labels, n_iter, peak_bytes("self") / 2**20


def alone(function, *arguments):
    """What a function gives in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def point(matrix, k):
    """Milliseconds of an iteration and MiB of both sides."""
    centres = lloyd.starting_centres(matrix, k, "random")
    with tempfile.TemporaryDirectory() as folder:
        lloyd.write_rows(f"{folder}/rows.arrow", matrix)
        ours, labels, _, n_iter, our_peak = lloyd.covey(f"{folder}/rows.arrow", centres, folder, ITERATIONS, REPEAT)
    seconds, theirs, their_iter, their_peak = alone(scikit_learn, matrix, centres)
    alike = (labels == theirs).mean()
    assert alike > 0.999, f"only {alike} of the labels are those of scikit-learn"
    stored = (matrix.data.nbytes + matrix.indices.nbytes) if sp.issparse(matrix) else matrix.nbytes
    return 1000 * warm(ours) / n_iter, 1000 * warm(seconds) / their_iter, our_peak, their_peak, stored / 2**20


def kernels(lake):
    panels = []
    for name, values, make in series(lake):
        print(f"\n{name}\n{'':>10} {'covey':>12} {'scikit-learn':>14} {'ratio':>7}   memory: {'covey':>6} {'scikit-learn':>13} {'rows':>6} MiB")
        found = []
        for value in values:
            ours, theirs, our_peak, their_peak, stored = point(*make(value))
            found.append((value, ours, theirs))
            print(f"{value:10,} {ours:9.2f} ms {theirs:11.2f} ms {theirs / ours:7.1f}           {our_peak:6.0f} {their_peak:13.0f} {stored:6.0f}", flush=True)
        panels.append((name, found))
    return panels


def executors(lake):
    """Seconds of a distributed fit and elbow, with the most memory of an executor."""
    query = "AS SELECT normalize_command(process_command) AS command FROM processes"
    fit = "n_clusters 200, max_iter 20, tol 0, random_state 7"
    elbow = "n_clusters 'auto', k_max 50, random_state 7"
    digests = set()
    print(f"\nexecutors of one core each, {os.cpu_count()} cores, --strategy distributed, {lake}")
    for n in EXECUTORS:
        with tempfile.TemporaryDirectory() as folder:
            cores = [i % os.cpu_count() for i in range(n)]
            cluster = Cluster(os.path.dirname(os.environ["COVEY"]), f"{folder}/w", n, cores=cores)
            cluster.query(external_table(os.path.abspath(lake)))
            seconds = {}
            for name, options in {"fit": fit, "elbow": elbow}.items():
                create = f"CREATE OR REPLACE MODEL m USING KMEANS OPTIONS ({options}, max_features 10000, strategy '{{}}') {query}"
                for strategy in ("distributed", "local"):
                    runs = [cluster.run(create.format(strategy)) for _ in range(3)]
                    seconds[name, strategy] = runs[0], min(runs[1:])
                    digests.add((name, cluster.query("SHOW MODELS")["digest"][0].as_py()))
            peaks = cluster.peak_bytes()[1:]
            cluster.stop()
        told = ", ".join(f"{name} {strategy} {best:.2f} s (first {first:.2f})" for (name, strategy), (first, best) in seconds.items())
        print(f"{n:2}: {told}; an executor held {max(peaks) / 2**20:.0f} MiB at most", flush=True)
    assert len(digests) == 2, digests


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lake", default=str(HERE.parent / "samples/processes"))
    parser.add_argument("--picture", help="where a picture goes, as .svg or .png")
    arguments = parser.parse_args()
    print(f"{THREADS} threads; milliseconds of one of {ITERATIONS} iterations, with all that a fit does once; medians of {REPEAT - 1}")
    panels = kernels(arguments.lake)
    executors(arguments.lake)
    if arguments.picture:
        from picture import growth

        growth(arguments.picture, f"Milliseconds of an iteration, {THREADS} threads", panels)


if __name__ == "__main__":
    main()
