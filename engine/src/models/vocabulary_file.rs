//! A vocabulary as an Arrow file: `term`, `idf`, in feature order.

use std::sync::Arc;

use bytes::Bytes;
use covey_udfs::tfidf::Vocabulary;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, Float64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Float64Type, Schema};
use datafusion::common::exec_datafusion_err;
use datafusion::error::Result;

use crate::blocks::{read_ipc, write_ipc};
use crate::external;

pub fn encode(vocabulary: &Vocabulary) -> Result<Bytes> {
    let schema =
        Schema::new(vec![Field::new("term", DataType::Utf8, false), Field::new("idf", DataType::Float64, false)]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(vocabulary.terms())),
        Arc::new(Float64Array::from(vocabulary.idf().to_vec())),
    ];
    write_ipc(&RecordBatch::try_new(Arc::new(schema), columns)?)
}

pub fn decode(bytes: Bytes, url: &str) -> Result<Vocabulary> {
    let batch = read_ipc(bytes, url)?;
    let columns = (batch.num_columns() == 2)
        .then(|| Some((batch.column(0).as_string_opt::<i32>()?, batch.column(1).as_primitive_opt::<Float64Type>()?)))
        .flatten();
    let Some((terms, idf)) = columns.filter(|(terms, idf)| terms.null_count() + idf.null_count() == 0) else {
        return Err(exec_datafusion_err!("{url} is no vocabulary file of covey"));
    };
    let terms = terms.iter().flatten().map(String::from).collect();
    Vocabulary::try_from_parts(terms, idf.values().to_vec()).map_err(external)
}
