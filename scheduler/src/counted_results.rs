//! Results that have as many rows as the tasks that made them have counted: a client reads all of them, or an error.

use arrow_flight::FlightData;
use datafusion::arrow::ipc::root_as_message;
use futures::{Stream, StreamExt};
use tonic::Status;

/// Bytes of the count in a ticket.
const COUNT_BYTES: usize = size_of::<u64>();

/// What stands for a count that nobody took.
const NOT_COUNTED: u64 = u64::MAX;

/// Puts the number of rows before a ticket.
pub(crate) fn with_count(rows: Option<u64>, ticket: &[u8]) -> Vec<u8> {
    [&rows.unwrap_or(NOT_COUNTED).to_le_bytes(), ticket].concat()
}

/// The number of rows, if they were counted, and the ticket; `None` where the bytes are not from [`with_count`].
pub(crate) fn split_count(bytes: &[u8]) -> Option<(Option<u64>, &[u8])> {
    let (count, ticket) = bytes.split_at_checked(COUNT_BYTES)?;
    let rows = u64::from_le_bytes(count.try_into().ok()?);
    Some(((rows != NOT_COUNTED).then_some(rows), ticket))
}

/// The messages of a result, and an error at their end if they have had another number of rows.
pub(crate) fn counted(
    data: impl Stream<Item = Result<FlightData, Status>> + Send + 'static,
    expected: Option<u64>,
) -> impl Stream<Item = Result<FlightData, Status>> + Send + 'static {
    let end = futures::stream::once(async { None });
    data.map(Some).chain(end).scan(0, move |seen, message| {
        let checked = match message {
            Some(Ok(message)) => {
                *seen += rows_of(&message);
                Some(Ok(message))
            }
            Some(Err(status)) => {
                tracing::warn!(target: "covey", %status, "rows of a result cannot be fetched");
                Some(Err(lost(*seen, expected)))
            }
            None if expected.is_some_and(|expected| expected != *seen) => Some(Err(lost(*seen, expected))),
            None => None,
        };
        futures::future::ready(checked)
    })
}

fn lost(seen: u64, expected: Option<u64>) -> Status {
    let expected = expected.unwrap_or_default();
    Status::aborted(format!(
        "{seen} of {expected} rows of the result are there, the rest is lost with the executor that held it: run the statement again"
    ))
}

/// The rows of a message; none of one that is no batch.
fn rows_of(data: &FlightData) -> u64 {
    let batch = root_as_message(&data.data_header).ok().and_then(|message| message.header_as_record_batch());
    batch.map_or(0, |batch| batch.length().max(0) as u64)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_flight::encode::FlightDataEncoderBuilder;
    use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use futures::TryStreamExt;

    use super::*;

    async fn messages(rows: i64) -> Vec<Result<FlightData, Status>> {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
        let batch = RecordBatch::try_from_iter([("a", numbers)]).unwrap();
        let encoder = FlightDataEncoderBuilder::new().build(futures::stream::iter([Ok(batch.clone()), Ok(batch)]));
        encoder.map_err(|e| Status::internal(e.to_string())).collect().await
    }

    /// Goal: a result that ends early is an error, one that is whole is not.
    #[tokio::test]
    async fn short_results_are_errors() {
        let read = async |expected| {
            let counted = counted(futures::stream::iter(messages(5).await), expected);
            counted.try_collect::<Vec<_>>().await
        };
        assert!(read(Some(10)).await.is_ok());
        assert!(read(None).await.is_ok());
        let error = read(Some(11)).await.unwrap_err();
        assert!(error.message().starts_with("10 of 11 rows"), "{error}");
    }

    /// Goal: the count travels with the ticket, and foreign bytes are none of ours.
    #[test]
    fn counts_travel_with_tickets() {
        let bytes = with_count(Some(7), b"ticket");
        assert_eq!(split_count(&bytes), Some((Some(7), b"ticket".as_slice())));
        assert_eq!(split_count(&with_count(None, b"")), Some((None, b"".as_slice())));
        assert_eq!(split_count(b"short"), None);
    }
}
