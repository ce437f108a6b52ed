"""The main job over a lake of any size, on 1 scheduler + 2 executors of one core each: time, rows a second, the share of
distinct rows, and the most memory that each process held.

    target/debug/covey-bench fleet --out LAKE --rows 100000000
    benchmarks/run scale --lake LAKE [--executors 2] [--memory-bytes N] [--strategy distributed]

No peer runs beside it: one run is to show that memory stays bounded. Checked: the rows of every iteration add up, and
the sizes of the clusters to all rows of the lake.
"""

import argparse
import os
import platform
import tempfile
import time

from cluster import Cluster, external_table

CREATE = """CREATE MODEL workloads USING KMEANS
  OPTIONS (n_clusters {clusters}, max_features 10000, random_state 7, max_iter 20, strategy '{strategy}')
  AS SELECT normalize_command(process_command) AS command FROM processes"""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lake", required=True)
    parser.add_argument("--executors", type=int, default=2)
    parser.add_argument("--clusters", type=int, default=50)
    parser.add_argument("--strategy", default="distributed")
    parser.add_argument("--memory-bytes", type=int, default=2 << 30, help="of each executor, for queries and blocks")
    parser.add_argument("--block-cache-bytes", type=int, default=512 << 20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        limits = ["--memory-bytes", str(arguments.memory_bytes), "--block-cache-bytes", str(arguments.block_cache_bytes)]
        binaries = os.path.dirname(os.environ["COVEY"])
        cores = [i % os.cpu_count() for i in range(arguments.executors)]
        cluster = Cluster(binaries, f"{folder}/warehouse", arguments.executors, cores=cores, arguments=limits)
        cluster.query(external_table(os.path.abspath(arguments.lake)))
        began = time.perf_counter()
        rows = cluster.query("SELECT count(process_command) AS n FROM processes")["n"][0].as_py()
        counted = time.perf_counter() - began
        began = time.perf_counter()
        cluster.query(CREATE.format(clusters=arguments.clusters, strategy=arguments.strategy))
        seconds = time.perf_counter() - began
        peaks = cluster.peak_bytes()
        passes = cluster.query("SELECT * FROM model_iterations('workloads')").to_pylist()
        clusters = cluster.query("SELECT sum(size) AS size, sum(inertia) AS inertia FROM model_clusters('workloads')")
        cluster.stop()
    distinct = {p["distinct_rows"] for p in passes}
    assert len(distinct) == 1 and clusters["size"][0].as_py() == rows, (distinct, clusters, rows)
    assert all(p["executors"] == arguments.executors for p in passes) or arguments.strategy != "distributed"
    n = distinct.pop()
    hits, misses = (sum(p[key] for p in passes[1:]) for key in ("cache_hits", "cache_misses"))
    print(f"{platform.machine()}, {os.cpu_count()} cores, 1 scheduler + {arguments.executors} executors of one core each, "
          f"--memory-bytes {arguments.memory_bytes}")
    print(f"{rows} rows, {n} distinct after cleaning ({n / rows:.4%}); count alone {counted:.1f} s")
    print(f"CREATE MODEL, {arguments.clusters} clusters, {len(passes)} iterations, {arguments.strategy}: {seconds:.1f} s, "
          f"{rows / seconds:,.0f} rows a second; inertia {clusters['inertia'][0].as_py():.1f}")
    print(f"blocks in memory after the first iteration: {hits} of {hits + misses} reads")
    print("most memory held: " + ", ".join(f"{name} {peak / 2**20:,.0f} MiB" for name, peak in
                                           zip(["scheduler"] + ["executor"] * arguments.executors, peaks)))


if __name__ == "__main__":
    main()
