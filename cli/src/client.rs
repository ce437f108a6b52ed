//! A Flight SQL client of a scheduler.

use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::sql::{CommandStatementQuery, ProstMessageExt};
use arrow_flight::{FlightDescriptor, HandshakeRequest, Ticket};
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use futures::TryStreamExt;
use prost::Message;
use std::sync::Arc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// The largest message that is accepted.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// One session with a scheduler.
#[derive(Debug, Clone)]
pub struct Client {
    flight: FlightServiceClient<Channel>,
    token: MetadataValue<Ascii>,
}

/// The rows of a statement.
#[derive(Debug, Clone)]
pub struct Answer {
    pub schema: SchemaRef,
    pub batches: Vec<RecordBatch>,
}

impl Answer {
    pub fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }
}

impl Client {
    /// Connects and opens a session.
    ///
    /// # Errors
    /// When the URL is none, or nobody answers there.
    pub async fn connect(url: &str) -> Result<Self, String> {
        let unreachable = |e: &dyn std::fmt::Display| {
            format!("cannot reach the scheduler at {url}: {e}; is covey-scheduler running there?")
        };
        let endpoint = Endpoint::from_shared(with_scheme(url))
            .map_err(|e| format!("{url:?} is no URL of a scheduler (http://HOST:PORT): {e}"))?
            .tcp_nodelay(true)
            .http2_adaptive_window(true);
        let channel = endpoint.connect().await.map_err(|e| unreachable(&e))?;
        let mut flight = FlightServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let hello = futures::stream::iter([HandshakeRequest::default()]);
        let response = flight.handshake(hello).await.map_err(|status| unreachable(&status.message()))?;
        let token = response.metadata().get("authorization").cloned();
        Ok(Self { flight, token: token.ok_or("the scheduler gave no session")? })
    }

    /// Runs a statement to its end. Dropping the future cancels it.
    ///
    /// # Errors
    /// What the scheduler says is wrong with the statement.
    pub async fn execute(&self, sql: &str) -> Result<Answer, String> {
        self.run(sql).await.map_err(|status| text(&status))
    }

    async fn run(&self, sql: &str) -> Result<Answer, Status> {
        let mut flight = self.flight.clone();
        let command = CommandStatementQuery { query: sql.to_string(), transaction_id: None };
        let descriptor = FlightDescriptor::new_cmd(command.as_any().encode_to_vec());
        let info = flight.get_flight_info(self.request(descriptor)).await?.into_inner();
        let schema: Schema = info.clone().try_decode_schema().map_err(|e| Status::internal(e.to_string()))?;
        let mut batches = vec![];
        for endpoint in info.endpoint {
            let ticket = endpoint.ticket.unwrap_or_else(|| Ticket { ticket: Default::default() });
            let data = flight.do_get(self.request(ticket)).await?.into_inner();
            let data = data.map_err(|status| FlightError::Tonic(Box::new(status)));
            let fetched: Vec<RecordBatch> =
                FlightRecordBatchStream::new_from_flight_data(data).try_collect().await.map_err(|e| match e {
                    FlightError::Tonic(status) => *status,
                    other => Status::internal(other.to_string()),
                })?;
            batches.extend(fetched);
        }
        Ok(Answer { schema: Arc::new(schema), batches })
    }

    fn request<T>(&self, body: T) -> Request<T> {
        let mut request = Request::new(body);
        request.metadata_mut().insert("authorization", self.token.clone());
        request
    }
}

/// `host:port` and the `grpc://` of other clients mean the same as `http://host:port`.
fn with_scheme(url: &str) -> String {
    match url.split_once("://") {
        Some(("grpc" | "grpc+tcp", address)) => format!("http://{address}"),
        Some(_) => url.to_string(),
        None => format!("http://{url}"),
    }
}

fn text(status: &Status) -> String {
    if status.code() == tonic::Code::Unavailable {
        return format!("the scheduler is gone: {}", status.message());
    }
    status.message().to_string()
}
