"""Latency of a trivial query and of a fit on a running cluster: 1 scheduler, 2 executors of one task, median of many.

    benchmarks/run latency [FOLDER_OF_BINARIES ...]

Several folders (builds with other settings, other versions) are measured in one run, turn by turn.
"""

import os
import pathlib
import statistics
import sys
import tempfile

from cluster import Cluster, external_table

LAKE = pathlib.Path(__file__).parent.parent / "samples/processes"
TRIVIAL = "SELECT month, count(*) FROM processes WHERE day IN (3, 4) GROUP BY month"
FIT = "CREATE OR REPLACE MODEL m USING KMEANS OPTIONS (n_clusters 50, max_features 10000, random_state 7) " \
      "AS SELECT normalize_command(process_command) AS c FROM processes"
QUERIES = {
    "aggregate over 4 files": (TRIVIAL, 40),
    "group by over 200,000 rows": ("SELECT process_command, count(*) AS n FROM processes GROUP BY 1 ORDER BY n DESC LIMIT 5", 15),
    "fit, k = 50": (FIT, 7),
    "predict of 200,000 rows": ("SELECT predict('m', normalize_command(process_command)), count(*) FROM processes GROUP BY 1", 7),
}


def iteration(cluster, strategy, few=2, many=22, times=12):
    """Milliseconds of one iteration more, by the quickest fits of few and of many, which go the same way."""
    def fit(iterations):
        options = f"max_iter {iterations}, tol 0, init 'random', n_init 1, strategy '{strategy}'"
        seconds = min(cluster.run(FIT.replace("random_state 7", f"random_state 7, {options}")) for _ in range(times))
        return seconds, cluster.query("SELECT max(iteration) AS n FROM model_iterations('m')")["n"][0].as_py()

    (a, few), (b, many) = fit(few), fit(many)
    return 1000 * (b - a) / (many - few)


def main():
    folders = sys.argv[1:] or [os.path.dirname(os.environ["COVEY"])]
    with tempfile.TemporaryDirectory() as warehouses:
        clusters = [Cluster(folder, f"{warehouses}/{i}") for i, folder in enumerate(folders)]
        for cluster in clusters:
            cluster.query(external_table(LAKE))
        print(f"{'milliseconds':28}" + "".join(f"{f'first [{i}]':>12}{f'median [{i}]':>12}" for i in range(len(folders))))
        for name, (sql, times) in QUERIES.items():
            taken = [[] for _ in clusters]
            for _ in range(times):
                for cluster, times_of in zip(clusters, taken):
                    times_of.append(1000 * cluster.run(sql))
            print(f"{name:28}" + "".join(f"{t[0]:12.1f}{statistics.median(t):12.1f}" for t in taken))
        for i, cluster in enumerate(clusters):
            distributed, local = (iteration(cluster, strategy) for strategy in ("distributed", "local"))
            trivial = 1000 * statistics.median(cluster.run(TRIVIAL) for _ in range(40))
            print(f"[{i}] an iteration as a job {distributed:.1f}, inside a task {local:.1f}: {distributed - local:.1f} of overhead, "
                  f"{(distributed - local) / trivial:.2f} of a trivial query's {trivial:.1f}")
            cluster.stop()
    for i, folder in enumerate(folders):
        print(f"[{i}] {folder}")


if __name__ == "__main__":
    main()
