//! A session of a client that is not ours: arrow-flight's own Flight SQL client.

use std::sync::Arc;
use std::time::Duration;

use arrow_flight::error::FlightError;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::{FlightInfo, HandshakeRequest, Ticket};
use datafusion::arrow::array::{ArrayRef, Int64Array, RecordBatch};
use datafusion::arrow::datatypes::Schema;
use futures::TryStreamExt;
use tonic::transport::{Channel, Endpoint};

use super::compare::Rows;

/// How long a statement may take: only one that hangs takes longer.
const STATEMENT_SECONDS_MAX: u64 = 60;

/// The largest message that is accepted.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

pub struct Session {
    client: FlightSqlServiceClient<Channel>,
}

impl Session {
    /// Opens a session at a scheduler's URL, with these settings.
    pub async fn open(url: &str, settings: &[(&str, String)]) -> Result<Self, String> {
        let endpoint = Endpoint::from_shared(url.to_string()).map_err(text)?.tcp_nodelay(true);
        let channel = endpoint.connect().await.map_err(text)?;
        let mut client = FlightSqlServiceClient::new(channel);
        let inner = client.inner_mut().clone();
        let mut inner = inner.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX);
        let hello = futures::stream::iter([HandshakeRequest::default()]);
        let response = inner.handshake(hello).await.map_err(text)?;
        let token = response.metadata().get("authorization").and_then(|token| token.to_str().ok());
        let token = token.and_then(|token| token.strip_prefix("Bearer ")).ok_or("the scheduler gave no session")?;
        let mut client = FlightSqlServiceClient::new_from_inner(inner);
        client.set_token(token.to_string());
        let mut session = Self { client };
        for (name, value) in settings {
            session.run(&format!("SET {name} = '{value}'")).await?;
        }
        Ok(session)
    }

    /// Runs a statement to its end.
    pub async fn run(&mut self, sql: &str) -> Result<Rows, String> {
        let running = async {
            let info = self.client.execute(sql.to_string(), None).await.map_err(plain)?;
            self.fetch(info).await
        };
        in_time(running).await
    }

    /// Prepares a statement, binds these values to its parameters, and runs it.
    pub async fn run_prepared(&mut self, sql: &str, values: &[i64]) -> Result<Rows, String> {
        let running = async {
            let mut prepared = self.client.prepare(sql.to_string(), None).await.map_err(plain)?;
            if !values.is_empty() {
                let columns = values
                    .iter()
                    .enumerate()
                    .map(|(i, value)| (format!("${}", i + 1), Arc::new(Int64Array::from(vec![*value])) as ArrayRef));
                prepared.set_parameters(RecordBatch::try_from_iter(columns).map_err(text)?).map_err(plain)?;
            }
            let info = prepared.execute().await.map_err(plain)?;
            let rows = self.fetch(info).await;
            prepared.close().await.map_err(plain)?;
            rows
        };
        in_time(running).await
    }

    async fn fetch(&self, info: FlightInfo) -> Result<Rows, String> {
        let schema: Schema = info.clone().try_decode_schema().map_err(text)?;
        let schema = Arc::new(schema);
        let mut batches: Vec<RecordBatch> = vec![];
        for endpoint in info.endpoint {
            let ticket = endpoint.ticket.unwrap_or_else(|| Ticket { ticket: Default::default() });
            let mut client = self.client.clone();
            let fetched: Vec<RecordBatch> =
                client.do_get(ticket).await.map_err(plain)?.try_collect().await.map_err(plain)?;
            for batch in &fetched {
                // What is announced is what is sent.
                if batch.schema() != schema {
                    return Err(format!("announced {schema:?}, sent {:?}", batch.schema()));
                }
            }
            batches.extend(fetched);
        }
        Ok(Rows { schema, batches })
    }
}

async fn in_time(running: impl Future<Output = Result<Rows, String>>) -> Result<Rows, String> {
    match tokio::time::timeout(Duration::from_secs(STATEMENT_SECONDS_MAX), running).await {
        Ok(result) => result,
        Err(_) => Err(format!("{HANGS} after {STATEMENT_SECONDS_MAX} seconds")),
    }
}

/// What the error of a statement that does not end begins with.
pub const HANGS: &str = "no answer";

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn plain(error: FlightError) -> String {
    match error {
        FlightError::Tonic(status) => status.message().to_string(),
        other => other.to_string(),
    }
}
