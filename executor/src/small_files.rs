//! Small Parquet files of a store over the network are read with one request each, and some ahead: a lake of many small
//! uploads pays for round trips, not for bytes.
//!
//! The first request for a file asks for its last bytes, as many as `datafusion.execution.parquet.metadata_size_hint`
//! says: the footer is somewhere in them. Where they are the whole file, its columns are taken from them too.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::runtime::SpawnedTask;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::datasource::physical_plan::parquet::{
    CachedParquetFileReaderFactory, ParquetFileMetrics, ParquetFileReaderFactory,
};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfig, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::Result;
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::parquet::arrow::arrow_reader::ArrowReaderOptions;
use datafusion::parquet::arrow::async_reader::AsyncFileReader;
use datafusion::parquet::errors::{ParquetError, Result as ParquetResult};
use datafusion::parquet::file::metadata::ParquetMetaData;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;

/// Small files that are fetched before they are asked for, for each partition of a scan.
const AHEAD: usize = 8;

/// The plan with its scans of Parquet in stores over the network reading so.
pub(crate) fn reading_small_files_whole(
    plan: Arc<dyn ExecutionPlan>,
    runtime: &RuntimeEnv,
) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_up(|node| {
        let scan = node.downcast_ref::<DataSourceExec>().map(DataSourceExec::data_source);
        let scan = scan.and_then(|source| source.downcast_ref::<FileScanConfig>());
        let source = scan.and_then(|scan| scan.file_source().downcast_ref::<ParquetSource>());
        let (Some(scan), Some(source)) = (scan, source) else { return Ok(Transformed::no(node)) };
        let hint = source.table_parquet_options().global.metadata_size_hint;
        let (Some(hint), false) = (hint, scan.object_store_url.as_str().starts_with("file:")) else {
            return Ok(Transformed::no(node));
        };
        let store = runtime.object_store(&scan.object_store_url)?;
        let factory = SmallFiles::new(store, runtime.cache_manager.get_file_metadata_cache(), scan, hint as u64);
        let source = source.clone().with_metadata_size_hint(hint).with_parquet_file_reader_factory(Arc::new(factory));
        let scan = FileScanConfigBuilder::from(scan.clone()).with_source(Arc::new(source)).build();
        Ok(Transformed::yes(DataSourceExec::from_data_source(scan) as _))
    })
    .data()
}

#[derive(Debug)]
struct SmallFiles {
    readers: CachedParquetFileReaderFactory,
    footers: Arc<FileMetadataCache>,
    store: Arc<dyn ObjectStore>,
    size_max: u64,
    ahead: Mutex<Ahead<Fetched>>,
}

type Fetched = SpawnedTask<object_store::Result<Bytes>>;

/// The small files of a scan in the order in which its partitions, which share them, open them.
#[derive(Debug)]
struct Ahead<F> {
    files: VecDeque<Path>,
    /// The ones that were asked for and not opened yet.
    fetched: HashMap<Path, F>,
    fetched_max: usize,
    /// Those of `files` that were opened before it was their turn.
    opened: HashSet<Path>,
}

impl<F> Ahead<F> {
    fn new(files: impl Iterator<Item = Path>, n_partitions: usize) -> Self {
        let fetched_max = AHEAD * n_partitions;
        Self { files: files.collect(), fetched: HashMap::new(), fetched_max, opened: HashSet::new() }
    }

    /// What was fetched of a file that is opened now, or is fetched now; the files after it are asked for too.
    fn open(&mut self, location: &Path, fetch: impl Fn(Path) -> F) -> F {
        let found = self.fetched.remove(location).unwrap_or_else(|| {
            self.opened.insert(location.clone());
            fetch(location.clone())
        });
        while self.fetched.len() < self.fetched_max
            && let Some(next) = self.files.pop_front()
        {
            if !self.opened.remove(&next) {
                self.fetched.insert(next.clone(), fetch(next));
            }
        }
        found
    }
}

impl SmallFiles {
    fn new(store: Arc<dyn ObjectStore>, footers: Arc<FileMetadataCache>, scan: &FileScanConfig, size_max: u64) -> Self {
        let is_small = |file: &&PartitionedFile| file.object_meta.size <= size_max;
        // What a limit leaves unread is not fetched.
        let files = scan.file_groups.iter().flat_map(FileGroup::iter).filter(|_| scan.limit.is_none());
        let files = files.filter(is_small).map(|file| file.object_meta.location.clone());
        let ahead = Mutex::new(Ahead::new(files, scan.file_groups.len()));
        let readers = CachedParquetFileReaderFactory::new(Arc::clone(&store), Arc::clone(&footers));
        Self { readers, footers, store, size_max, ahead }
    }

    fn fetch(&self, location: Path) -> Fetched {
        let store = Arc::clone(&self.store);
        SpawnedTask::spawn(async move { store.get(&location).await?.bytes().await })
    }
}

impl ParquetFileReaderFactory for SmallFiles {
    fn create_reader(
        &self,
        partition: usize,
        file: PartitionedFile,
        hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let meta = file.object_meta.clone();
        if meta.size > self.size_max {
            return self.readers.create_reader(partition, file, hint, metrics);
        }
        let metrics = ParquetFileMetrics::new(partition, meta.location.as_ref(), metrics);
        let bytes = Whole::Fetched(self.ahead.lock().open(&meta.location, |location| self.fetch(location)));
        Ok(Box::new(SmallFile { meta, footers: Arc::clone(&self.footers), metrics, bytes }))
    }
}

struct SmallFile {
    meta: ObjectMeta,
    footers: Arc<FileMetadataCache>,
    metrics: ParquetFileMetrics,
    bytes: Whole,
}

enum Whole {
    Fetched(Fetched),
    Here(Bytes),
}

impl SmallFile {
    async fn whole(&mut self) -> ParquetResult<Bytes> {
        if let Whole::Fetched(fetched) = &mut self.bytes {
            let bytes = fetched.await.map_err(external)?.map_err(external)?;
            self.metrics.bytes_scanned.add(bytes.len());
            self.bytes = Whole::Here(bytes);
        }
        match &self.bytes {
            Whole::Here(bytes) => Ok(bytes.clone()),
            Whole::Fetched(_) => Err(ParquetError::General("a file was not waited for".into())),
        }
    }

    async fn metadata(&mut self, options: Option<&ArrowReaderOptions>) -> ParquetResult<Arc<ParquetMetaData>> {
        let (held, whole) = (InMemory::new(), self.whole().await?);
        let size = whole.len();
        held.put(&self.meta.location, whole.into()).await.map_err(external)?;
        let told =
            |error| ParquetError::General(format!("Failed to fetch metadata for file {}: {error}", self.meta.location));
        DFParquetMetadata::new(&held, &self.meta)
            .with_file_metadata_cache(Some(Arc::clone(&self.footers)))
            .with_metadata_size_hint(Some(size))
            .with_page_index_policy(options.map(ArrowReaderOptions::column_index_policy))
            .fetch_metadata()
            .await
            .map_err(told)
    }
}

impl AsyncFileReader for SmallFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        async move { part(&self.whole().await?, &range) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        async move {
            let whole = self.whole().await?;
            ranges.iter().map(|range| part(&whole, range)).collect()
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        self.metadata(options).boxed()
    }
}

fn external(error: impl std::error::Error + Send + Sync + 'static) -> ParquetError {
    ParquetError::External(Box::new(error))
}

fn part(whole: &Bytes, range: &Range<u64>) -> ParquetResult<Bytes> {
    let (start, end) = (range.start as usize, range.end as usize);
    if start <= end && end <= whole.len() {
        return Ok(whole.slice(start..end));
    }
    Err(ParquetError::EOF(format!("bytes {start} to {end} of a file of {}", whole.len())))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// Goal: each file is fetched once, and nearly all before they are opened. Method: partitions that open files from the
    /// front of what they share, and others that have files of their own.
    #[test]
    fn files_are_fetched_once_and_ahead() {
        let files: Vec<Path> = (0..60).map(|i| Path::from(format!("{i:02}"))).collect();
        let shared: Vec<usize> = (0..60).collect();
        let own: Vec<usize> = (0..20).flat_map(|i| [i, 20 + i, 40 + i]).collect();
        for (order, n_late) in [(shared, 1), (own, 60)] {
            let fetched = RefCell::new(vec![]);
            let mut ahead = Ahead::new(files.iter().cloned(), 3);
            let mut late = 0;
            for i in order {
                let before = fetched.borrow().contains(&files[i]);
                late += usize::from(!before);
                let of = ahead.open(&files[i], |path| {
                    fetched.borrow_mut().push(path.clone());
                    path
                });
                assert_eq!(of, files[i]);
                assert!(ahead.fetched.len() <= 3 * AHEAD);
            }
            let mut fetched = fetched.into_inner();
            fetched.sort_unstable();
            assert_eq!(fetched, files);
            assert!(late <= n_late, "{late} files were not fetched ahead");
            assert!(ahead.fetched.is_empty() && ahead.opened.is_empty());
        }
    }
}
