-- The main job: which applications run in a fleet?
--
-- Reads the command lines of the processes of two months, cleans them, turns them into TF-IDF vectors, groups them
-- into 50 clusters, and shows for each its size, its top terms and an example. The model `workloads` stays.
--
--   covey run jobs/workloads.sql
--   covey run jobs/workloads.sql --set LAKE=s3://bucket/processes --scheduler http://host:50050
--
-- LAKE      directories year=YYYY/month=MM/day=DD (or YYYY/MM/DD) of Parquet files with a column process_command
-- CLUSTERS  how many groups to find
-- STRATEGY  'local', 'distributed', or 'auto'

CREATE OR REPLACE EXTERNAL TABLE processes
  STORED AS PARQUET
  PARTITIONED BY (year, month, day)
  LOCATION '${LAKE:-samples/processes}';

CREATE OR REPLACE MODEL workloads USING KMEANS
  OPTIONS (n_clusters ${CLUSTERS:-50}, max_features 10000, random_state 7, strategy '${STRATEGY:-auto}')
  AS SELECT normalize_command(process_command) AS command FROM processes;

SELECT cluster,
       CAST(size AS BIGINT)                        AS size,
       concat(CAST(round(100 * share, 1) AS VARCHAR), ' %') AS share,
       top_terms,
       CASE WHEN character_length(example) > 60 THEN concat(left(example, 59), '…') ELSE example END AS example
FROM model_clusters('workloads')
ORDER BY size DESC;
