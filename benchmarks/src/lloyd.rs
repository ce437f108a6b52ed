//! Lloyd's iterations on a matrix from a file, from given centres: what `lloyd.py` measures beside its peers.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use clap::Args;
use covey_udfs::kmeans::{
    Awake, Centroids, FixedPoint, Lloyd, LloydParams, Metric, Profile, Resident, Spread, in_place,
};
use covey_udfs::matrix::{Density, Points, Rows, weight_units};
use datafusion::arrow::array::{Array, AsArray, Float64Array, RecordBatch, UInt32Array};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{DataType, Field, Float64Type, Schema, UInt32Type};
use datafusion::arrow::ipc::reader::FileReader;
use datafusion::arrow::ipc::writer::FileWriter;

/// Iterate on a matrix from given centres, and tell the seconds of repetitions as JSON.
#[derive(Debug, Clone, Args)]
pub struct LloydArgs {
    /// Arrow IPC: lists `values`, for sparse rows also lists `indices`, and perhaps `weight`. The metadata of the
    /// schema has `n_features`.
    #[arg(long)]
    pub rows: PathBuf,
    /// Arrow IPC: lists `values`, one for each cluster.
    #[arg(long)]
    pub centres: PathBuf,
    /// Where the labels and distances of the last repetition go, as Arrow IPC.
    #[arg(long)]
    pub out: PathBuf,
    #[arg(long, default_value_t = 20)]
    pub iterations: usize,
    #[arg(long, default_value_t = 2)]
    pub threads: usize,
    /// Repetitions after the first, cold one and the warm-up.
    #[arg(long, default_value_t = 5)]
    pub repeat: usize,
    /// Seconds of repetitions that are not told of but for the first, before those that are.
    #[arg(long, default_value_t = 0.5)]
    pub warm_up: f64,
}

/// # Errors
/// When a file cannot be read, or is not what it should be.
pub fn run(args: &LloydArgs) -> Result<String, String> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(args.threads).build().map_err(|e| e.to_string())?;
    let points = Arc::new(read_points(&args.rows)?);
    let init = read_centres(&args.centres, points.rows.n_features())?;
    let timed = || {
        let began = Instant::now();
        let fit = pool.install(|| fit(&points, &init, args.iterations));
        (began.elapsed().as_secs_f64(), fit)
    };
    let began = Instant::now();
    let (first, mut fit) = timed();
    let mut seconds = vec![first];
    while began.elapsed().as_secs_f64() < args.warm_up {
        timed();
    }
    for _ in 0..args.repeat {
        let (again, last) = timed();
        seconds.push(again);
        fit = last;
    }
    write_labels(&args.out, &fit)?;
    let peak = peak_kib().unwrap_or(0);
    Ok(format!(
        "{{\"seconds\": {seconds:?}, \"iterations\": {}, \"inertia\": {:?}, \"peak_kib\": {peak}}}",
        fit.n_iter, fit.inertia
    ))
}

/// The most memory that this process has held, where Linux tells it.
fn peak_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()
}

struct Fit {
    labels: Vec<u32>,
    distances: Vec<f64>,
    n_iter: usize,
    inertia: f64,
}

/// From rows and centres in memory to labels and inertia, as the peers' `fit` does.
fn fit(points: &Arc<Points>, init: &Centroids, max_iter: usize) -> Fit {
    let go_on = AtomicBool::new(false);
    let never = "nothing cancels a benchmark";
    let _awake = Awake::new();
    let profile = Profile::of(points);
    let scale = FixedPoint::new(&profile);
    let (mean, frame) = in_place::frame_of(&[points], &profile, &scale, &go_on).expect(never);
    let mut blocks = [Resident::of_points(Arc::clone(points), &frame)];
    let squares = in_place::squares_of(&[Arc::clone(&blocks[0].distinct)], &scale);
    let spread = Spread::new(mean, &squares, &scale);
    let params = LloydParams { metric: Metric::Euclidean, max_iter, tol: 0.0 };
    let mut lloyd = Lloyd::new(params, scale, spread, init.clone());
    let table = in_place::iterate(&mut blocks, &mut lloyd, frame, |_| {}, &go_on).expect(never);
    // Where the last pass moved no row, the labels are those of the last centres; the peers know that as well.
    if lloyd.history().last().is_none_or(|last| last.n_moved > 0) {
        blocks[0].relabel(&table, &go_on).expect(never);
    }
    let [block] = blocks;
    let (labels, distances) = (block.labels(), block.squared_distances(&table));
    let weighed = |(distance, weight): (&f64, &u64)| distance * *weight as f64;
    let inertia =
        distances.iter().zip(&points.weights).map(weighed).sum::<f64>() / weight_units(1.0).unwrap_or(1) as f64;
    Fit { labels, distances, n_iter: lloyd.history().len(), inertia }
}

fn read(path: &Path) -> Result<RecordBatch, String> {
    let told = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let reader = FileReader::try_new(File::open(path).map_err(|e| told(&e))?, None).map_err(|e| told(&e))?;
    let schema = reader.schema();
    let batches: Vec<RecordBatch> = reader.collect::<Result<_, _>>().map_err(|e| told(&e))?;
    concat_batches(&schema, &batches).map_err(|e| told(&e))
}

fn read_points(path: &Path) -> Result<Points, String> {
    let batch = read(path)?;
    let n_features = batch.schema().metadata().get("n_features").and_then(|n| n.parse().ok());
    let n_features: u32 = n_features.ok_or("the rows' metadata has no n_features")?;
    let values = batch.column_by_name("values").and_then(|column| column.as_list_opt::<i32>());
    let values = values.ok_or("the rows have no lists of values")?;
    let offsets: Vec<usize> = values.value_offsets().iter().map(|&offset| offset as usize).collect();
    let (density, indices) = match batch.column_by_name("indices").and_then(|column| column.as_list_opt::<i32>()) {
        Some(lists) => (Density::Sparse, lists.values().as_primitive::<UInt32Type>().values().to_vec()),
        None => (Density::Dense, (0..values.len()).flat_map(|_| 0..n_features).collect()),
    };
    let values = values.values().as_primitive::<Float64Type>().values().to_vec();
    let rows =
        Rows::try_from_parts(density, n_features as usize, offsets, indices, values).map_err(|e| e.to_string())?;
    let weights = match batch.column_by_name("weight") {
        Some(weights) => weights.as_primitive::<Float64Type>().values().to_vec(),
        None => vec![1.0; rows.n_rows()],
    };
    let weights = weights.into_iter().map(weight_units).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    Ok(Points { rows, weights })
}

fn read_centres(path: &Path, n_features: usize) -> Result<Centroids, String> {
    let batch = read(path)?;
    let values = batch.column_by_name("values").and_then(|column| column.as_list_opt::<i32>());
    let values = values.ok_or("the centres have no lists of values")?.values();
    Centroids::try_new(n_features, values.as_primitive::<Float64Type>().values().to_vec()).map_err(|e| e.to_string())
}

fn write_labels(path: &Path, fit: &Fit) -> Result<(), String> {
    let fields = [("label", DataType::UInt32), ("squared_distance", DataType::Float64)];
    let schema = Arc::new(Schema::new(fields.map(|(name, data_type)| Field::new(name, data_type, false)).to_vec()));
    let written = || {
        let labels = Arc::new(UInt32Array::from(fit.labels.clone()));
        let distances = Arc::new(Float64Array::from(fit.distances.clone()));
        let mut writer = FileWriter::try_new(File::create(path)?, &schema)?;
        writer.write(&RecordBatch::try_new(Arc::clone(&schema), vec![labels, distances])?)?;
        writer.finish()
    };
    written().map_err(|e| format!("{}: {e}", path.display()))
}
