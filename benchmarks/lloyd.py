"""Lloyd's iterations alone: Covey's kernels beside scikit-learn (Lloyd and Elkan), sparsekmeans, and for dense rows faiss,
scikit-learn-intelex and dask-ml, on the same matrix, from the same centres, for the same number of iterations, on the same
number of threads.

    benchmarks/run lloyd [--lake DIR] [--sets fleet,raw,wide,d32,d784] [--clusters 10,50,200] [--picture FILE]

Checked in the same run: how many labels are those of the peer, and the inertia. Every figure has the first, cold
repetition beside the median of those after the warm-up, which takes as long for every side: some systems keep the threads
of a process that was idle on one core for its first tenth of a second, which is longer than some of the fits.
"""

import argparse
import importlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = os.environ.get("THREADS", "2")
# Older libraries need these on some machines; they slow down a current one.
for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(name, None)

import numpy as np
import pyarrow as pa
import scipy.sparse as sp

from peer import read

THREADS = int(os.environ["OMP_NUM_THREADS"])
# Seconds of repetitions before those that count, on every side.
WARM_UP = 0.5
# Covey is run in so many processes, which are short: one may be given a part of its cores for as long as it lives.
PROCESSES = 3
HERE = pathlib.Path(__file__).parent
BENCH = pathlib.Path(os.environ["COVEY"]).with_name("covey-bench")


def by_document_frequency(matrix):
    """Columns by falling document frequency, as Covey orders terms: no peer is slower for it."""
    order = np.argsort(-np.diff(matrix.tocsc().indptr), kind="stable")
    matrix = matrix[:, order].tocsr()
    matrix.sort_indices()
    return matrix


def fleet(lake, is_raw=False):
    """TF-IDF of the distinct command lines, or of all of them, cleaned as the origin did: special characters out, / to
    space."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    commands = read(lake, ["process_command"]).process_command.dropna()
    cleaned = commands.map(lambda c: " ".join(re.sub(r"[^A-Za-z0-9 ]", "", c.replace("/", " ")).split()))
    vectorizer = TfidfVectorizer(max_features=10_000).fit(cleaned)
    return by_document_frequency(vectorizer.transform(cleaned if is_raw else cleaned.unique()))


def wide(n_rows=120_000, n_terms=100_000, n_topics=400, seed=1):
    """TF-IDF of a corpus with a wide vocabulary: Zipf's law, and topics that prefer some terms."""
    from sklearn.feature_extraction.text import TfidfTransformer

    random = np.random.default_rng(seed)
    background = 1.0 / np.arange(1, n_terms + 1)
    background /= background.sum()
    topics = random.integers(0, n_topics, n_rows)
    lengths = random.poisson(60, n_rows) + 5
    owner = np.repeat(np.arange(n_rows), lengths)
    common = random.choice(n_terms, owner.size, p=background)
    # A topic's own terms: a stride through the vocabulary, the first ones most often.
    rank = random.zipf(1.4, owner.size) % 500
    own = (topics[owner] * 7919 + rank * n_topics) % n_terms
    term = np.where(random.random(owner.size) < 0.5, own, common)
    counts = sp.coo_matrix((np.ones(owner.size), (owner, term)), (n_rows, n_terms)).tocsr()
    counts.sum_duplicates()
    return by_document_frequency(TfidfTransformer().fit_transform(counts))


def dense(n_rows, n_features, n_blobs=300, seed=2):
    """Blobs that overlap, as 32-bit floats."""
    random = np.random.default_rng(seed)
    centres = random.normal(0, 2, (n_blobs, n_features))
    rows = centres[random.integers(0, n_blobs, n_rows)] + random.normal(0, 1.5, (n_rows, n_features))
    return rows.astype(np.float32)


def lists(offsets, values):
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values))


def write(path, columns, n_features):
    table = pa.table(columns).replace_schema_metadata({"n_features": str(n_features)})
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def write_rows(path, matrix):
    n_rows, n_features = matrix.shape
    if sp.issparse(matrix):
        columns = {"indices": lists(matrix.indptr, matrix.indices.astype(np.uint32)),
                   "values": lists(matrix.indptr, matrix.data)}
    else:
        columns = {"values": lists(np.arange(n_rows + 1) * n_features, matrix.ravel().astype(np.float64))}
    write(path, columns, n_features)


def covey(rows, centres, folder, iterations, repeat):
    """Seconds of the first repetition and of those after the warm-up of every process; labels, inertia, iterations, and the
    most memory in MiB of the last one."""
    write(f"{folder}/centres.arrow", {"values": lists(np.arange(len(centres) + 1) * centres.shape[1],
                                                      centres.ravel().astype(np.float64))}, centres.shape[1])
    command = [BENCH, "lloyd", "--rows", rows, "--centres", f"{folder}/centres.arrow", "--out", f"{folder}/labels.arrow",
               "--iterations", str(iterations), "--threads", str(THREADS), "--repeat", str(repeat), "--warm-up", str(WARM_UP)]
    seconds = []
    for _ in range(PROCESSES):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(done.stderr)
        told = json.loads(done.stdout)
        seconds += told["seconds"][1 if seconds else 0:]
    labels = pa.ipc.open_file(f"{folder}/labels.arrow").read_all()["label"].to_numpy()
    return seconds, labels, told["inertia"], told["iterations"], told["peak_kib"] / 1024


def timed(repeat, run):
    """Seconds of the first repetition and of those after the warm-up, and the last result."""
    def once():
        began = time.perf_counter()
        result = run()
        return time.perf_counter() - began, result

    began = time.perf_counter()
    first, result = once()
    seconds = [first]
    while time.perf_counter() - began < WARM_UP:
        once()
    for _ in range(repeat):
        again, result = once()
        seconds.append(again)
    return seconds, result


def warm(seconds):
    """The median without the first, cold repetition."""
    return np.median(seconds[1:] or seconds)


def scikit_learn(matrix, centres, algorithm, iterations, repeat, library="sklearn"):
    KMeans = importlib.import_module(f"{library}.cluster").KMeans

    def run():
        return KMeans(len(centres), init=centres, n_init=1, max_iter=iterations, tol=0, algorithm=algorithm).fit(matrix)

    seconds, model = timed(repeat, run)
    return seconds, model.labels_, model.inertia_, model.n_iter_


def sparsekmeans(matrix, centres, kind, iterations, repeat):
    import contextlib
    import io

    import graphblas as gb
    from sparsekmeans import ElkanKmeans, LloydKmeans

    start = gb.io.from_scipy_sparse(sp.csr_matrix(centres))
    base = {"lloyd": LloydKmeans, "elkan": ElkanKmeans}[kind]
    passes = []

    class Given(base):
        """It takes no centres, only seeds them, and does not tell how often it has gone through the rows."""

        def _initialize_centroids(self, rows):
            return start.dup()

        def _assign_cluster(self, rows):
            passes.append(self)
            return super()._assign_cluster(rows)

    def run():
        passes.clear()
        model = Given(n_clusters=len(centres), n_threads=THREADS, max_iter=iterations, tol=0.0)
        with contextlib.redirect_stdout(io.StringIO()):
            model.fit(matrix)
        return model

    seconds, model = timed(repeat, run)
    return seconds, np.asarray(model.labels).ravel(), None, len(passes)


def faiss_kmeans(matrix, centres, iterations, repeat):
    import faiss

    faiss.omp_set_num_threads(THREADS)
    k, n_features = centres.shape

    def run():
        model = faiss.Kmeans(n_features, k, niter=iterations, max_points_per_centroid=len(matrix), min_points_per_centroid=1)
        model.train(matrix, init_centroids=centres.astype(np.float32))
        _, labels = model.index.search(matrix, 1)
        return model, labels.ravel()

    seconds, (model, labels) = timed(repeat, run)
    return seconds, labels, None, len(model.obj)


def dask_ml(matrix, centres, iterations, repeat):
    import dask
    import dask.array
    from dask_ml.cluster import KMeans

    def run():
        # Two chunks for each thread, that none waits for long.
        rows = dask.array.from_array(matrix, chunks=(-(-len(matrix) // (2 * THREADS)), matrix.shape[1]))
        with dask.config.set(scheduler="threads", num_workers=THREADS):
            model = KMeans(len(centres), init=centres.astype(matrix.dtype), max_iter=iterations, tol=0).fit(rows)
            return model, np.asarray(model.labels_)

    seconds, (model, labels) = timed(repeat, run)
    return seconds, labels, None, model.n_iter_


def inertia_of(matrix, labels, k):
    """Of the means of these labels."""
    total = (matrix.multiply(matrix) if sp.issparse(matrix) else matrix.astype(np.float64) ** 2).sum()
    members = sp.csr_matrix((np.ones(len(labels)), (labels, np.arange(len(labels)))), (k, len(labels)))
    sums = np.asarray((members @ matrix.astype(np.float64)).todense() if sp.issparse(matrix) else members @ matrix)
    sizes = np.maximum(np.asarray(members.sum(axis=1)).ravel(), 1)
    return float(total - ((sums.astype(np.float64) ** 2).sum(axis=1) / sizes).sum())


def peak():
    """Multiply-adds a second of a product of matrices, in float: what the machine can do at most."""
    a, b = np.ones((2048, 2048), np.float32), np.ones((2048, 2048), np.float32)
    a @ b
    seconds = min(timed(5, lambda: a @ b)[0])
    return 2048 ** 3 / seconds


def starting_centres(matrix, k, init):
    """Rows chosen by scikit-learn and two iterations: rows as centres tie with most of a sparse matrix, and each library
    breaks such ties by its own rounding, so that from there no two would take the same way."""
    from sklearn.cluster import KMeans

    return KMeans(k, init=init, n_init=1, max_iter=2, tol=0, random_state=0).fit(matrix).cluster_centers_


def compare(name, matrix, clusters, arguments, folder):
    is_sparse = sp.issparse(matrix)
    stored = matrix.nnz if is_sparse else matrix.size
    title = f"{name}: {matrix.shape[0]:,} x {matrix.shape[1]:,}"
    print(f"\n{title}, {stored / matrix.shape[0]:.1f} values a row{distinct(matrix)}", flush=True)
    bars = []
    rows = f"{folder}/rows.arrow"
    write_rows(rows, matrix)
    for k in clusters:
        centres = starting_centres(matrix, k, arguments.start)
        ours, labels, _, n_iter, _ = covey(rows, centres, folder, arguments.iterations, arguments.repeat)
        peers = {f"scikit-learn {kind}": (lambda kind=kind: scikit_learn(matrix, centres, kind, arguments.iterations, arguments.peer_repeat))
                 for kind in ("lloyd", "elkan")}
        if is_sparse:
            peers |= {f"sparsekmeans {kind}": (lambda kind=kind: sparsekmeans(matrix, centres, kind, arguments.iterations, arguments.peer_repeat))
                      for kind in ("lloyd", "elkan")}
        else:
            peers["faiss"] = lambda: faiss_kmeans(matrix, centres, arguments.iterations, arguments.peer_repeat)
            peers["scikit-learn-intelex"] = lambda: scikit_learn(matrix, centres, "lloyd", arguments.iterations, arguments.peer_repeat, "sklearnex")
            peers["dask-ml"] = lambda: dask_ml(matrix, centres, arguments.iterations, arguments.peer_repeat)
        median, own = warm(ours), inertia_of(matrix, labels, k)
        rate = stored * k * n_iter / median
        by_process = np.median(np.reshape(ours[1:], (PROCESSES, -1)), axis=1)
        print(f"  k = {k:3}  {'covey':20} first {ours[0]:8.4f} s  median {median:8.4f} s  "
              f"{n_iter} iterations, {rate / 1e9:.1f} Gmac/s, {rate / arguments.peak:.2f} of the peak; "
              f"{PROCESSES} processes, {by_process.min():.4f} to {by_process.max():.4f} s", flush=True)
        for peer, run in peers.items():
            seconds, theirs, _, iterations = run()
            score = inertia_of(matrix, theirs, k)
            bars.append((f"{peer}, k = {k}", warm(seconds) / median))
            print(f"           {peer:20} first {seconds[0]:8.4f} s  median {warm(seconds):8.4f} s  "
                  f"{iterations} iterations, {warm(seconds) / median:6.1f} times covey's; "
                  f"labels alike {(theirs == labels).mean():.6f}, inertia {score / own - 1:+.1e}", flush=True)
    return title, bars


def distinct(matrix):
    """How many rows differ from all others, where rows may be equal: texts that differ in rare words only."""
    if not sp.issparse(matrix):
        return ""
    parts = zip(matrix.indptr[:-1], matrix.indptr[1:])
    rows = {(matrix.indices[a:b].tobytes(), matrix.data[a:b].tobytes()) for a, b in parts}
    return f", {len(rows):,} of the rows distinct"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lake", default=str(HERE.parent / "samples/processes"))
    parser.add_argument("--sets", default="fleet,raw,wide,d32,d784")
    parser.add_argument("--clusters", default="10,50,200")
    parser.add_argument("--start", choices=["random", "k-means++"], default="random")
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--repeat", type=int, default=5, help="repetitions after the first and the warm-up")
    parser.add_argument("--peer-repeat", type=int, default=5, help="the same of the peers")
    parser.add_argument("--picture", help="where a picture of the ratios goes, as .svg or .png")
    arguments = parser.parse_args()
    arguments.peak = peak()
    print(f"{THREADS} threads; peak {arguments.peak / 1e9:.0f} Gmac/s (a product of 32-bit matrices)")
    makers = {"fleet": lambda: fleet(arguments.lake), "raw": lambda: fleet(arguments.lake, is_raw=True), "wide": wide,
              "d32": lambda: dense(1_000_000, 32), "d784": lambda: dense(100_000, 784)}
    clusters = [int(k) for k in arguments.clusters.split(",")]
    panels = []
    for name in arguments.sets.split(","):
        with tempfile.TemporaryDirectory() as folder:
            panels.append(compare(name, makers[name](), clusters, arguments, folder))
    if arguments.picture:
        from picture import ratios

        ratios(arguments.picture, f"Lloyd's iterations on {THREADS} threads, medians of {arguments.repeat}", panels)


if __name__ == "__main__":
    main()
