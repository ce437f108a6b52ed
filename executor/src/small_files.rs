//! A small Parquet file is read with one request: a lake of many small uploads pays for round trips, not for bytes.
//!
//! The first request for a file asks for its last bytes, as many as `datafusion.execution.parquet.metadata_size_hint`
//! says: the footer is somewhere in them. Where they are the whole file, its columns are taken from them too.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::metadata::DFParquetMetadata;
use datafusion::datasource::physical_plan::parquet::{CachedParquetFileReaderFactory, ParquetFileReaderFactory};
use datafusion::datasource::physical_plan::{FileScanConfig, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
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
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

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
        let factory = SmallFiles::new(store, runtime.cache_manager.get_file_metadata_cache());
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
}

impl SmallFiles {
    fn new(store: Arc<dyn ObjectStore>, footers: Arc<FileMetadataCache>) -> Self {
        Self { readers: CachedParquetFileReaderFactory::new(store, Arc::clone(&footers)), footers }
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
        let reader = self.readers.create_reader(partition, file, hint, metrics)?;
        if hint.is_none_or(|hint| meta.size > hint as u64) {
            return Ok(reader);
        }
        Ok(Box::new(SmallFile { reader, meta, footers: Arc::clone(&self.footers), whole: None }))
    }
}

struct SmallFile {
    reader: Box<dyn AsyncFileReader + Send>,
    meta: ObjectMeta,
    footers: Arc<FileMetadataCache>,
    /// Where its footer was not known.
    whole: Option<Bytes>,
}

impl SmallFile {
    fn has_footer(&self) -> bool {
        self.footers.get(&self.meta.location).is_some_and(|footer| footer.is_valid_for(&self.meta))
    }

    /// Reads the file, and its footer from it.
    async fn read(&mut self, options: Option<&ArrowReaderOptions>) -> Result<Arc<ParquetMetaData>> {
        let whole = self.reader.get_bytes(0..self.meta.size).await?;
        let held = InMemory::new();
        held.put(&self.meta.location, whole.clone().into()).await?;
        self.whole = Some(whole);
        DFParquetMetadata::new(&held, &self.meta)
            .with_file_metadata_cache(Some(Arc::clone(&self.footers)))
            .with_metadata_size_hint(Some(self.meta.size as usize))
            .with_page_index_policy(options.map(ArrowReaderOptions::column_index_policy))
            .fetch_metadata()
            .await
    }
}

impl AsyncFileReader for SmallFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        match &self.whole {
            Some(whole) => std::future::ready(part(whole, &range)).boxed(),
            None => self.reader.get_bytes(range),
        }
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        match &self.whole {
            Some(whole) => std::future::ready(ranges.iter().map(|range| part(whole, range)).collect()).boxed(),
            None => self.reader.get_byte_ranges(ranges),
        }
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        if self.whole.is_some() || self.has_footer() {
            return self.reader.get_metadata(options);
        }
        let location = self.meta.location.clone();
        let told = move |error: DataFusionError| {
            ParquetError::General(format!("Failed to fetch metadata for file {location}: {error}"))
        };
        async move { self.read(options).await.map_err(told) }.boxed()
    }
}

fn part(whole: &Bytes, range: &Range<u64>) -> ParquetResult<Bytes> {
    let (start, end) = (range.start as usize, range.end as usize);
    if start <= end && end <= whole.len() {
        return Ok(whole.slice(start..end));
    }
    Err(ParquetError::EOF(format!("bytes {start} to {end} of a file of {}", whole.len())))
}
