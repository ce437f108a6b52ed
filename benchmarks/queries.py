"""Random queries on clusters, held against DataFusion in one process and DuckDB: see tests/src/queries.

    benchmarks/run queries --seeds 0..40000 --log FILE

A run that finds FILE goes on where it ended.
"""

import os
import sys

os.environ["COVEY_TEST_PYTHON"] = sys.executable
bench = os.path.join(os.path.dirname(os.environ["COVEY"]), "covey-bench")
os.execv(bench, [bench, "queries", *sys.argv[1:]])
