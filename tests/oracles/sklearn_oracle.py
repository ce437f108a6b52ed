"""Numbers of scikit-learn that the tests of `udfs` are held against. Writes sklearn.json beside itself.

    python -m pip install scikit-learn==1.9.1 && python tests/oracles/sklearn_oracle.py

TF-IDF: for each set of options the vocabulary, idf and every row, on a few hundred generated command lines.
KMeans: labels, centres, inertia and iterations from given starting centres, with weights, one start that leaves
clusters empty, and rows that lie far from zero.
Quality: the Davies-Bouldin index, and the simplified silhouette, which scikit-learn has not, from the distances to its
centres.
"""

import json
import pathlib
import random

import numpy as np
import sklearn
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import davies_bouldin_score

WORDS = ["nginx", "worker", "process", "usr", "bin", "java", "server", "Xmx", "config", "etc", "log", "x", "über",
         "sshd", "kworker", "events", "d_e", "postgres", "writer", "lib", "systemd", "agent", "3", "42", "opt"]


def texts(seed, n):
    rng = random.Random(seed)
    rows = [" ".join(rng.choices(WORDS, weights=range(len(WORDS), 0, -1), k=rng.randint(0, 9))) for _ in range(n)]
    return rows + ["", "zzz unseen-elsewhere", "nginx nginx nginx"]


TFIDF = [
    {},
    {"sublinear_tf": True},
    {"smooth_idf": False},
    {"norm": "l1"},
    {"norm": None},
    {"use_idf": False},
    {"min_df": 3, "max_df": 0.4},
    {"min_df": 0.02, "max_df": 80},
    {"ngram_range": [1, 2], "min_df": 2},
    {"ngram_range": [2, 3], "min_df": 2},
    {"lowercase": False},
    {"token_pattern": "[a-z]+"},
]


def tfidf():
    corpus = texts(1, 120)
    cases = []
    for options in TFIDF:
        given = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
        vectorizer = TfidfVectorizer(**given)
        matrix = vectorizer.fit_transform(corpus)
        terms = vectorizer.get_feature_names_out()
        rows = [{terms[j]: float(x) for j, x in zip(row.indices, row.data)} for row in matrix]
        idf = {} if given.get("use_idf") is False else dict(zip(terms, map(float, vectorizer.idf_)))
        cases.append({"options": options, "terms": list(terms), "idf": idf, "rows": rows})
    return {"corpus": corpus, "cases": cases}


def fit(x, weights, init, tol=0.0, offset=0.0):
    x, init = x + offset, init + offset
    model = KMeans(len(init), init=init, n_init=1, max_iter=300, tol=tol, algorithm="lloyd")
    model.fit(x, sample_weight=weights)
    return {
        "x": x.tolist(), "weights": weights.tolist(), "init": init.tolist(), "tol": tol, "offset": offset,
        "labels": model.labels_.tolist(), "centres": model.cluster_centers_.tolist(),
        "inertia": model.inertia_, "n_iter": model.n_iter_,
    }


def kmeans():
    rng = np.random.default_rng(5)
    blobs = rng.normal(size=(200, 6)) + 4 * rng.integers(0, 4, size=(200, 1))
    sparse = np.where(rng.random((150, 12)) < 0.25, rng.random((150, 12)), 0.0)
    weights = rng.integers(1, 9, size=200).astype(float)
    cases = [
        fit(blobs, weights, blobs[:7].copy()),
        fit(blobs, np.ones(200), blobs[-5:].copy(), tol=1e-2),
        fit(sparse, weights[:150], sparse[3:13].copy()),
        # Two starting centres far away from every row: their clusters are empty at first.
        fit(blobs, weights, np.vstack([blobs[:3], np.full((1, 6), 900.0), np.full((1, 6), -900.0)])),
    ]
    cases += [fit(blobs, weights, blobs[:7].copy(), offset=offset) for offset in (1e3, 1e5, 1e7, 1e9)]
    return cases


def quality():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(300, 5)) + 3 * rng.integers(0, 5, size=(300, 1))
    model = KMeans(6, init=x[:6].copy(), n_init=1, max_iter=300, tol=0.0, algorithm="lloyd").fit(x)
    nearest = np.sort(model.transform(x), axis=1)
    return {
        "x": x.tolist(), "init": x[:6].tolist(), "davies_bouldin": davies_bouldin_score(x, model.labels_),
        "silhouette": float(np.mean((nearest[:, 1] - nearest[:, 0]) / nearest[:, 1])),
    }


if __name__ == "__main__":
    out = pathlib.Path(__file__).with_name("sklearn.json")
    numbers = {"scikit-learn": sklearn.__version__, "tfidf": tfidf(), "kmeans": kmeans(),
               "quality": quality()}
    out.write_text(json.dumps(numbers, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(out, out.stat().st_size, "bytes, scikit-learn", sklearn.__version__)
