//! The intermediate files of a fit, as Arrow IPC in the warehouse.
//!
//! ```text
//! documents   text, rows, weight             what the query gave, equal texts collapsed
//! block       indices, values, weight        the same rows as vectors, in the same order
//! ```

use std::collections::HashMap;
use std::io::Cursor;
use std::sync::Arc;

use bytes::Bytes;
use covey_udfs::matrix::{Density, Points, Rows};
use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, ListArray, RecordBatch, StringArray, UInt32Array, UInt64Array,
};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef, UInt32Type, UInt64Type};
use datafusion::arrow::ipc::reader::FileReader;
use datafusion::arrow::ipc::writer::FileWriter;
use datafusion::common::{exec_datafusion_err, internal_datafusion_err};
use datafusion::error::Result;
use datafusion::execution::object_store::ObjectStoreRegistry;

use crate::{external, storage};

/// Rows of one block at most: a unit of reading, caching and scheduling of some tens of MB.
pub const BLOCK_ROWS_MAX: usize = 1 << 18;

/// Distinct texts with how often each was given and what it weighs.
#[derive(Debug, Clone)]
pub struct Documents {
    pub texts: StringArray,
    pub rows: UInt64Array,
    pub weights: UInt64Array,
}

impl Documents {
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("text", DataType::Utf8, false),
            Field::new("rows", DataType::UInt64, false),
            Field::new("weight", DataType::UInt64, false),
        ]))
    }

    pub fn encode(&self) -> Result<Bytes> {
        let columns: Vec<ArrayRef> =
            vec![Arc::new(self.texts.clone()), Arc::new(self.rows.clone()), Arc::new(self.weights.clone())];
        write_ipc(&RecordBatch::try_new(Self::schema(), columns)?)
    }

    pub async fn read(stores: &dyn ObjectStoreRegistry, url: &str) -> Result<Self> {
        let batch = read_ipc(storage::get_url(stores, url).await?, url)?;
        if batch.schema() != Self::schema() {
            return Err(exec_datafusion_err!("{url} is no documents file of covey"));
        }
        Ok(Self {
            texts: batch.column(0).as_string::<i32>().clone(),
            rows: batch.column(1).as_primitive::<UInt64Type>().clone(),
            weights: batch.column(2).as_primitive::<UInt64Type>().clone(),
        })
    }
}

/// What the metadata of a block tells.
const N_FEATURES: &str = "n_features";
const DENSE: &str = "dense";

/// Writes points as one block.
pub fn encode_points(points: &Points) -> Result<Bytes> {
    let rows = &points.rows;
    let offsets: Vec<i32> = rows
        .offsets()
        .iter()
        .map(|&offset| i32::try_from(offset).map_err(|_| internal_datafusion_err!("a block has over 2^31 values")))
        .collect::<Result<_>>()?;
    let offsets = OffsetBuffer::new(offsets.into());
    let list = |item: DataType, values: ArrayRef| {
        ListArray::try_new(Arc::new(Field::new_list_field(item, false)), offsets.clone(), values, None)
    };
    let indices = list(DataType::UInt32, Arc::new(UInt32Array::from(rows.indices().to_vec())))?;
    let values = list(DataType::Float64, Arc::new(Float64Array::from(rows.values().to_vec())))?;
    let weights = UInt64Array::from(points.weights.clone());
    let schema = Schema::new(vec![
        Field::new("indices", indices.data_type().clone(), false),
        Field::new("values", values.data_type().clone(), false),
        Field::new("weight", DataType::UInt64, false),
    ])
    .with_metadata(HashMap::from([
        (N_FEATURES.to_string(), rows.n_features().to_string()),
        (DENSE.to_string(), (rows.density() == Density::Dense).to_string()),
    ]));
    let columns: Vec<ArrayRef> = vec![Arc::new(indices), Arc::new(values), Arc::new(weights)];
    write_ipc(&RecordBatch::try_new(Arc::new(schema), columns)?)
}

pub(crate) fn decode_points(bytes: Bytes, url: &str) -> Result<Points> {
    let batch = read_ipc(bytes, url)?;
    let damaged = || exec_datafusion_err!("{url} is no block file of covey, or it is damaged");
    let schema = batch.schema();
    let value = |key: &str| schema.metadata().get(key).ok_or_else(damaged);
    let n_features = value(N_FEATURES)?.parse().map_err(|_| damaged())?;
    let density = if value(DENSE)? == "true" { Density::Dense } else { Density::Sparse };
    let (Some(indices), Some(values), Some(weights)) = (
        batch.column(0).as_list_opt::<i32>(),
        batch.column(1).as_list_opt::<i32>(),
        batch.column(2).as_primitive_opt::<UInt64Type>(),
    ) else {
        return Err(damaged());
    };
    let offsets = indices.value_offsets().iter().map(|&offset| offset as usize).collect();
    let indices = indices.values().as_primitive_opt::<UInt32Type>().ok_or_else(damaged)?.values().to_vec();
    let values = values.values().as_primitive_opt::<Float64Type>().ok_or_else(damaged)?.values().to_vec();
    let rows = Rows::try_from_parts(density, n_features, offsets, indices, values).map_err(external)?;
    Ok(Points { rows, weights: weights.values().to_vec() })
}

/// One batch as an Arrow IPC file.
pub fn write_ipc(batch: &RecordBatch) -> Result<Bytes> {
    let mut writer = FileWriter::try_new(Vec::new(), &batch.schema())?;
    writer.write(batch)?;
    Ok(writer.into_inner()?.into())
}

/// All batches of an Arrow IPC file as one.
pub fn read_ipc(bytes: Bytes, url: &str) -> Result<RecordBatch> {
    let reader = FileReader::try_new(Cursor::new(bytes), None)
        .map_err(|e| exec_datafusion_err!("{url} is no Arrow file: {e}"))?;
    let schema = reader.schema();
    let batches = reader.collect::<Result<Vec<_>, _>>().map_err(|e| exec_datafusion_err!("{url} is damaged: {e}"))?;
    Ok(concat_batches(&schema, &batches)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(n: usize) -> Points {
        let mut points = Points::new(Density::Sparse, 4);
        for i in 0..n {
            points.rows.push([(0, 1.0), (3, i as f64 + 0.5)]).unwrap();
            points.weights.push(i as u64 + 1);
        }
        points
    }

    /// Goal: what is written is what is read, bit for bit, and damage is an error that names the file.
    #[test]
    fn blocks_survive_the_disk() {
        let before = points(5);
        let bytes = encode_points(&before).unwrap();
        assert_eq!(decode_points(bytes.clone(), "x").unwrap(), before);
        let error = decode_points(bytes.slice(..bytes.len() / 2), "file:///b.arrow").unwrap_err().to_string();
        assert!(error.contains("file:///b.arrow"), "{error}");
    }
}
