"""The main job with pandas and scikit-learn: what a data scientist would write. Also the parts that the other
benchmarks use."""

import argparse
import glob
import os
import re

HEX_ID = re.compile(r"(?=[0-9a-f]*[0-9])[0-9a-f]{8,}")
UUID = re.compile(r"(?<![^\W_])[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?![^\W_])")
BETWEEN = re.compile(r"[\W_]+")


def normalize(command):
    """`normalize_command`, word for word."""
    words = BETWEEN.split(UUID.sub(" ", command).lower())
    words = (word.rstrip("0123456789") for word in words if not HEX_ID.fullmatch(word))
    return " ".join(word for word in words if word)


def read(lake, columns):
    """All rows of a lake of year=/month=/day= directories."""
    import pandas as pd
    import pyarrow.parquet as pq

    files = sorted(glob.glob(f"{lake}/**/*.parquet", recursive=True))
    return pd.concat([pq.ParquetFile(file).read(columns=columns).to_pandas() for file in files], ignore_index=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lake", required=True)
    parser.add_argument("--clusters", type=int, default=50)
    parser.add_argument("--collapse", action="store_true", help="fit the distinct rows, weighted")
    arguments = parser.parse_args()

    from sklearn.cluster import KMeans
    from sklearn.feature_extraction.text import TfidfVectorizer

    commands = read(arguments.lake, ["process_command"]).process_command.dropna()
    cleaned = commands.map(normalize).reset_index(drop=True)
    vectorizer = TfidfVectorizer(max_features=10_000)
    if arguments.collapse:
        counts = cleaned.value_counts()
        vectorizer.fit(cleaned)
        matrix, weights = vectorizer.transform(counts.index), counts.to_numpy()
    else:
        matrix, weights = vectorizer.fit_transform(cleaned), None
    model = KMeans(arguments.clusters, n_init=1, random_state=7).fit(matrix, sample_weight=weights)
    terms = vectorizer.get_feature_names_out()
    order = model.cluster_centers_.argsort(axis=1)[:, ::-1]
    texts = counts.index if arguments.collapse else cleaned
    distances = model.transform(matrix)
    for cluster in range(arguments.clusters):
        members = model.labels_ == cluster
        size = int(weights[members].sum()) if arguments.collapse else int(members.sum())
        top = " ".join(terms[i] for i in order[cluster, :5])
        example = texts[distances[:, cluster].argmin()]
        print(cluster, size, f"{100 * size / len(cleaned):.1f} %", top, example[:60])
    print(f"inertia {model.inertia_} iterations {model.n_iter_} rows {len(cleaned)} terms {len(terms)}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    main()
