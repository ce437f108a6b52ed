//! Small Parquet files of a store over the network are read with one request each, and some ahead: a lake of many small
//! uploads pays for round trips, not for bytes.
//!
//! The first request for a file asks for its last bytes, as many as `datafusion.execution.parquet.metadata_size_hint`
//! says: the footer is somewhere in them. Where they are the whole file, its columns are taken from them too.

use std::collections::{HashMap, VecDeque};
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
use datafusion::datasource::physical_plan::{FileScanConfig, FileScanConfigBuilder, ParquetSource};
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

/// Small files of one partition that are fetched before they are asked for.
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
    /// By partition.
    ahead: Vec<Mutex<Ahead>>,
}

type Fetched = SpawnedTask<object_store::Result<Bytes>>;

/// The small files of one partition, in their order.
#[derive(Debug)]
struct Ahead {
    files: VecDeque<Path>,
    /// Of those, the ones that were asked for ahead.
    fetched: HashMap<Path, Fetched>,
}

impl SmallFiles {
    fn new(store: Arc<dyn ObjectStore>, footers: Arc<FileMetadataCache>, scan: &FileScanConfig, size_max: u64) -> Self {
        let is_small = |file: &&PartitionedFile| file.object_meta.size <= size_max;
        // What a limit leaves unread is not fetched.
        let groups = scan.file_groups.iter().map(|group| if scan.limit.is_none() { group.files() } else { &[] });
        let ahead = groups.map(|files| {
            let files = files.iter().filter(is_small).map(|file| file.object_meta.location.clone()).collect();
            Mutex::new(Ahead { files, fetched: HashMap::new() })
        });
        let ahead = ahead.collect();
        let readers = CachedParquetFileReaderFactory::new(Arc::clone(&store), Arc::clone(&footers));
        Self { readers, footers, store, size_max, ahead }
    }

    /// The bytes of a file that is opened now; the files after it are asked for too.
    fn fetched(&self, partition: usize, location: &Path) -> Fetched {
        let Some(ahead) = self.ahead.get(partition) else { return self.fetch(location.clone()) };
        let mut ahead = ahead.lock();
        let found = ahead.fetched.remove(location);
        while ahead.fetched.len() < AHEAD
            && let Some(next) = ahead.files.pop_front()
        {
            if next != *location {
                let fetched = self.fetch(next.clone());
                ahead.fetched.insert(next, fetched);
            }
        }
        found.unwrap_or_else(|| self.fetch(location.clone()))
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
        let bytes = Whole::Fetched(self.fetched(partition, &meta.location));
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
