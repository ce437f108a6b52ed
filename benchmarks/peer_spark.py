"""The main job with Spark on two local cores, as a notebook does it: Spark reads and cleans, the strings come to the driver
as a list, and scikit-learn does the rest; or all of it as a pipeline of MLlib.

Prints the seconds since the session was there, and writes the label of each command.
"""

import argparse
import os
import time

# `normalize_command` as replacements, in Java's words.
UUID = r"(?<![A-Za-z0-9])[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?![A-Za-z0-9])"
STEPS = [
    (r"(?U)[\W_]+", " "),
    (r"(?<![^ ])(?=[0-9a-f]*[0-9])[0-9a-f]{8,}(?![^ ])", ""),
    (r"[0-9]+(?![^ ])", ""),
    (r" +", " "),
]


def cleaned(processes):
    from pyspark.sql import functions as F

    text = F.lower(F.regexp_replace("process_command", UUID, " "))
    for pattern, replacement in STEPS:
        text = F.regexp_replace(text, pattern, replacement)
    return processes.where("process_command IS NOT NULL").select("process_command", F.trim(text).alias("command"))


def notebook(processes, clusters, iterations):
    """As the origin of this job was: the driver's memory holds every string."""
    from sklearn.cluster import KMeans
    from sklearn.feature_extraction.text import TfidfVectorizer

    rows = cleaned(processes).collect()
    matrix = TfidfVectorizer(max_features=10_000).fit_transform([row.command for row in rows])
    model = KMeans(clusters, n_init=1, max_iter=iterations, random_state=7).fit(matrix)
    return {row.process_command: int(label) for row, label in zip(rows, model.labels_)}


def mllib(processes, clusters, iterations):
    from pyspark.ml import Pipeline
    from pyspark.ml.clustering import KMeans
    from pyspark.ml.feature import CountVectorizer, IDF, Normalizer, Tokenizer

    rows = cleaned(processes).cache()
    steps = [
        Tokenizer(inputCol="command", outputCol="words"),
        CountVectorizer(inputCol="words", outputCol="counts", vocabSize=10_000),
        IDF(inputCol="counts", outputCol="weights"),
        Normalizer(inputCol="weights", outputCol="features"),
        KMeans(k=clusters, maxIter=iterations, seed=7),
    ]
    labelled = Pipeline(stages=steps).fit(rows).transform(rows)
    found = labelled.groupBy("process_command").agg({"prediction": "min"}).collect()
    return {row[0]: row[1] for row in found}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lake", required=True)
    parser.add_argument("--way", choices=["notebook", "mllib"], required=True)
    parser.add_argument("--out", required=True, help="a Parquet file for the labels")
    parser.add_argument("--clusters", type=int, default=50)
    parser.add_argument("--iterations", type=int, default=20)
    arguments = parser.parse_args()

    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyspark.sql import SparkSession

    settings = SparkSession.builder.master("local[2]").config("spark.driver.memory", "8g")
    settings = settings.config("spark.driver.maxResultSize", "4g").config("spark.ui.enabled", "false")
    spark = settings.config("spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    spark.range(1).count()
    began = time.perf_counter()
    processes = spark.read.parquet(arguments.lake)
    labels = {"notebook": notebook, "mllib": mllib}[arguments.way](processes, arguments.clusters, arguments.iterations)
    print(f"seconds {time.perf_counter() - began}")
    columns = {"process_command": pa.array(labels.keys()), "label": pa.array(labels.values(), pa.int32())}
    pq.write_table(pa.table(columns), arguments.out)
    spark.stop()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    main()
