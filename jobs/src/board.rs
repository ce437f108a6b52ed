//! The board of running and past statements: what `covey_jobs()` shows and the progress display reads.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use covey_engine::failure::plain_text;
use covey_udfs::kmeans::IterationStats;
use datafusion::arrow::array::{
    ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMillisecondArray, UInt64Array,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::error::Result;
use parking_lot::Mutex;
use uuid::Uuid;

/// Past statements that are remembered.
const JOBS_KEPT_MAX: usize = 1_000;

#[derive(Debug, Clone)]
struct Job {
    id: Uuid,
    statement: String,
    state: &'static str,
    stage: String,
    /// Which runs of how many, where there are several.
    runs: Option<(Range<usize>, usize)>,
    iteration: Option<u64>,
    inertia: Option<f64>,
    rows: u64,
    files_skipped: u64,
    error: Option<String>,
    started_unix_ms: i64,
    started: Instant,
    elapsed_ms: Option<u64>,
}

impl Job {
    fn shown_stage(&self) -> String {
        match &self.runs {
            Some((runs, n_runs)) if runs.len() == 1 => format!("{} (run {} of {n_runs})", self.stage, runs.end),
            Some((runs, n_runs)) => format!("{} (runs {} to {} of {n_runs})", self.stage, runs.start + 1, runs.end),
            None => self.stage.clone(),
        }
    }
}

#[derive(Debug, Default)]
pub struct JobBoard {
    jobs: Mutex<VecDeque<Job>>,
}

impl JobBoard {
    /// Puts a statement on the board. It is 'cancelled' if its handle is dropped before it has ended.
    pub fn start(self: &Arc<Self>, statement: &str) -> JobHandle {
        let id = Uuid::now_v7();
        let started_unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as i64);
        let mut jobs = self.jobs.lock();
        if jobs.len() >= JOBS_KEPT_MAX
            && let Some(oldest) = jobs.iter().position(|job| job.elapsed_ms.is_some())
        {
            jobs.remove(oldest);
        }
        jobs.push_back(Job {
            id,
            statement: statement.to_string(),
            state: "running",
            stage: "plan".to_string(),
            runs: None,
            iteration: None,
            inertia: None,
            rows: 0,
            files_skipped: 0,
            error: None,
            started_unix_ms,
            started: Instant::now(),
            elapsed_ms: None,
        });
        JobHandle { board: Arc::clone(self), id }
    }

    fn update(&self, id: Uuid, change: impl FnOnce(&mut Job)) {
        if let Some(job) = self.jobs.lock().iter_mut().find(|job| job.id == id && job.elapsed_ms.is_none()) {
            change(job);
        }
    }

    pub fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("job_id", DataType::Utf8, false),
            Field::new("state", DataType::Utf8, false),
            Field::new("stage", DataType::Utf8, false),
            Field::new("iteration", DataType::UInt64, true),
            Field::new("inertia", DataType::Float64, true),
            Field::new("rows", DataType::UInt64, false),
            Field::new("files_skipped", DataType::UInt64, false),
            Field::new("elapsed_ms", DataType::UInt64, false),
            Field::new("started_at", DataType::Timestamp(TimeUnit::Millisecond, None), false),
            Field::new("error", DataType::Utf8, true),
            Field::new("statement", DataType::Utf8, false),
        ]))
    }

    /// All statements, the newest last.
    pub fn rows(&self) -> Result<RecordBatch> {
        let jobs = self.jobs.lock().clone();
        let text =
            |get: fn(&Job) -> &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(jobs.iter().map(get))) };
        let ids: ArrayRef = Arc::new(StringArray::from_iter_values(jobs.iter().map(|job| job.id.to_string())));
        let elapsed = |job: &Job| job.elapsed_ms.unwrap_or_else(|| job.started.elapsed().as_millis() as u64);
        let columns: Vec<ArrayRef> = vec![
            ids,
            text(|job| job.state),
            Arc::new(StringArray::from_iter_values(jobs.iter().map(Job::shown_stage))),
            Arc::new(UInt64Array::from_iter(jobs.iter().map(|job| job.iteration))),
            Arc::new(Float64Array::from_iter(jobs.iter().map(|job| job.inertia))),
            Arc::new(UInt64Array::from_iter_values(jobs.iter().map(|job| job.rows))),
            Arc::new(UInt64Array::from_iter_values(jobs.iter().map(|job| job.files_skipped))),
            Arc::new(UInt64Array::from_iter_values(jobs.iter().map(elapsed))),
            Arc::new(TimestampMillisecondArray::from_iter_values(jobs.iter().map(|job| job.started_unix_ms))),
            Arc::new(StringArray::from_iter(jobs.iter().map(|job| job.error.as_deref()))),
            text(|job| &job.statement),
        ];
        Ok(RecordBatch::try_new(Self::schema(), columns)?)
    }
}

/// A statement that is running.
#[derive(Debug)]
pub struct JobHandle {
    board: Arc<JobBoard>,
    id: Uuid,
}

impl JobHandle {
    pub fn stage(&self, stage: &str) {
        tracing::debug!(job = %self.id, stage, "stage");
        self.board.update(self.id, |job| job.stage = stage.to_string());
    }

    /// Counts rows that were worked on.
    pub fn add_rows(&self, rows: u64) {
        self.board.update(self.id, |job| job.rows += rows);
    }

    /// Counts files that were left out because they could not be read.
    pub fn add_files_skipped(&self, files: u64) {
        self.board.update(self.id, |job| job.files_skipped += files);
    }

    /// Tells which runs are under way, counted from 0, of how many.
    pub fn runs(&self, runs: Range<usize>, n_runs: usize) {
        self.board.update(self.id, |job| {
            job.runs = (n_runs > 1).then_some((runs, n_runs));
            (job.iteration, job.inertia) = (None, None);
        });
    }

    pub fn iterated(&self, stats: &IterationStats) {
        self.board.update(self.id, |job| {
            job.iteration = Some(stats.iteration as u64);
            job.inertia = Some(stats.inertia);
            job.rows += stats.n_points;
        });
    }

    /// Ends the statement, and hands its result on.
    pub fn finish<T>(&self, result: Result<T>) -> Result<T> {
        match &result {
            Ok(_) => self.end("finished", None),
            Err(e) => self.end("failed", Some(plain_text(e))),
        }
        result
    }

    fn end(&self, state: &'static str, error: Option<String>) {
        self.board.update(self.id, |job| {
            job.state = state;
            job.error = error;
            job.elapsed_ms = Some(job.started.elapsed().as_millis() as u64);
        });
    }
}

impl Drop for JobHandle {
    fn drop(&mut self) {
        self.end("cancelled", None);
    }
}
