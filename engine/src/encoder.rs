//! Rows as the bytes of a file, in the formats that tables have.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::csv::WriterBuilder;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::ipc::writer::FileWriter;
use datafusion::arrow::json::LineDelimitedWriter;
use datafusion::common::config::{ConfigFileType, ConfigOptions, TableOptions};
use datafusion::common::file_options::csv_writer::CsvWriterOptions;
use datafusion::common::parsers::CompressionTypeVariant;
use datafusion::error::Result;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::arrow::arrow_writer::ArrowWriterOptions;
use datafusion::parquet::file::properties::WriterPropertiesBuilder;
use flate2::write::GzEncoder;

use crate::user_err;

/// Level of files that are compressed as a whole: zstd's own default, and gzip's.
const ZSTD_LEVEL: i32 = 3;

/// Writes one file. What is written is taken out as it comes.
pub enum Encoder {
    Parquet(Box<ArrowWriter<Vec<u8>>>),
    Arrow(Box<FileWriter<Vec<u8>>>),
    Csv { builder: WriterBuilder, has_header: bool, out: Compressor },
    Json(Compressor),
}

impl Encoder {
    /// An encoder of `format` as `STORED AS` and `OPTIONS` have it.
    ///
    /// # Errors
    /// When a column or an option is not one of the format's.
    pub fn try_new(
        format: &str,
        options: &BTreeMap<String, String>,
        session: &ConfigOptions,
        schema: &SchemaRef,
    ) -> Result<Self> {
        let options: HashMap<String, String> = options.clone().into_iter().collect();
        let mut table = TableOptions::default_from_session_config(session);
        let mut read = |file_type| {
            table.set_config_format(file_type);
            table.alter_with_string_hash_map(&options)
        };
        Ok(match format {
            "PARQUET" => {
                read(ConfigFileType::PARQUET)?;
                if !table.parquet.global.skip_arrow_metadata {
                    table.parquet.arrow_schema(schema);
                }
                let properties = WriterPropertiesBuilder::try_from(&table.parquet)?.build();
                let options = ArrowWriterOptions::new()
                    .with_properties(properties)
                    .with_skip_arrow_metadata(table.parquet.global.skip_arrow_metadata);
                Self::Parquet(Box::new(ArrowWriter::try_new_with_options(vec![], SchemaRef::clone(schema), options)?))
            }
            "ARROW" => Self::Arrow(Box::new(FileWriter::try_new(vec![], schema)?)),
            "CSV" => {
                read(ConfigFileType::CSV)?;
                let options = CsvWriterOptions::try_from(&table.csv)?;
                let has_header = table.csv.has_header.unwrap_or(session.catalog.has_header);
                Self::Csv {
                    builder: options.writer_options,
                    has_header,
                    out: Compressor::try_new(options.compression)?,
                }
            }
            "JSON" => {
                read(ConfigFileType::JSON)?;
                Self::Json(Compressor::try_new(table.json.compression)?)
            }
            other => return user_err!("files of format {other} are read, not written"),
        })
    }

    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        match self {
            Self::Parquet(writer) => writer.write(batch)?,
            Self::Arrow(writer) => writer.write(batch)?,
            Self::Csv { builder, has_header, out } => {
                let mut writer = builder.clone().with_header(std::mem::take(has_header)).build(&mut *out);
                writer.write(batch)?;
            }
            Self::Json(out) => LineDelimitedWriter::new(&mut *out).write(batch)?,
        }
        Ok(())
    }

    /// Bytes that wait to be taken by [`flush`](Self::flush), about.
    pub fn in_progress(&self) -> usize {
        match self {
            Self::Parquet(writer) => writer.memory_size(),
            Self::Arrow(_) | Self::Csv { .. } | Self::Json(_) => 0,
        }
    }

    /// Ends what can be ended within a file: the row group of a Parquet file.
    pub fn flush(&mut self) -> Result<()> {
        if let Self::Parquet(writer) = self {
            writer.flush()?;
        }
        Ok(())
    }

    /// The bytes that are ready.
    pub fn take(&mut self) -> Vec<u8> {
        match self {
            Self::Parquet(writer) => std::mem::take(writer.inner_mut()),
            Self::Arrow(writer) => std::mem::take(writer.get_mut()),
            Self::Csv { out, .. } | Self::Json(out) => out.take(),
        }
    }

    /// The last bytes.
    pub fn finish(self) -> Result<Vec<u8>> {
        Ok(match self {
            Self::Parquet(writer) => writer.into_inner()?,
            Self::Arrow(writer) => writer.into_inner()?,
            Self::Csv { out, .. } | Self::Json(out) => out.finish()?,
        })
    }
}

/// Text on its way into a file that is compressed as a whole, or is not.
pub enum Compressor {
    Plain(Vec<u8>),
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(zstd::Encoder<'static, Vec<u8>>),
}

impl Compressor {
    fn try_new(compression: CompressionTypeVariant) -> Result<Self> {
        Ok(match compression {
            CompressionTypeVariant::UNCOMPRESSED => Self::Plain(vec![]),
            CompressionTypeVariant::GZIP => Self::Gzip(GzEncoder::new(vec![], flate2::Compression::default())),
            CompressionTypeVariant::ZSTD => Self::Zstd(zstd::Encoder::new(vec![], ZSTD_LEVEL)?),
            other => return user_err!("files are written with compression gzip or zstd, or none, not {other:?}"),
        })
    }

    fn take(&mut self) -> Vec<u8> {
        std::mem::take(match self {
            Self::Plain(bytes) => bytes,
            Self::Gzip(encoder) => encoder.get_mut(),
            Self::Zstd(encoder) => encoder.get_mut(),
        })
    }

    fn finish(self) -> Result<Vec<u8>> {
        Ok(match self {
            Self::Plain(bytes) => bytes,
            Self::Gzip(encoder) => encoder.finish()?,
            Self::Zstd(encoder) => encoder.finish()?,
        })
    }
}

impl Write for Compressor {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(out) => out.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    /// Pending input stays in the encoder: a flush for each batch would cost the compression.
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
