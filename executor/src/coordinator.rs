//! The executor's side of the channel to the fits on the scheduler: Flight actions on the scheduler's one port.

use arrow_flight::Action;
use arrow_flight::flight_service_client::FlightServiceClient;
use async_trait::async_trait;
use bytes::Bytes;
use covey_engine::coordinator::{
    Coordinator, FETCH_ACTION, JOIN_ACTION, OVER_ACTION, PRESENT_ACTION, Progress, RELEASE, REPORT_ACTION,
};
use covey_engine::external;
use covey_engine::recent::Recent;
use datafusion::common::exec_datafusion_err;
use datafusion::error::Result;
use futures::StreamExt;
use serde::Serialize;
use tonic::Request;
use tonic::transport::Channel;

/// Objects kept: the scales and the centroids of the fits that run at once, each fetched once by an executor.
const OBJECTS_KEPT_MAX: usize = 8;

#[derive(Debug)]
pub struct FlightCoordinator {
    client: FlightServiceClient<Channel>,
    objects: Recent<(String, String), Bytes>,
}

impl FlightCoordinator {
    pub fn new(channel: Channel) -> Self {
        // Centroids of wide models are beyond gRPC's usual limits.
        let client = FlightServiceClient::new(channel)
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        Self { client, objects: Recent::new(OBJECTS_KEPT_MAX) }
    }

    /// Asks whether the scheduler can do with an executor of this release.
    ///
    /// # Errors
    /// The scheduler's refusal.
    pub async fn ask_to_join(&self) -> Result<()> {
        self.act(JOIN_ACTION, &RELEASE).await.map(|_| ())
    }

    /// Keeps a call open by which the scheduler sees that this executor lives. Ready when that has ended.
    pub async fn be_present(&self, executor: &str) {
        // How it ended says nothing: the scheduler has gone, or the connection to it.
        let _ = self.act(PRESENT_ACTION, &executor).await;
    }

    async fn act(&self, action: &str, body: &impl Serialize) -> Result<Bytes> {
        let body = serde_json::to_vec(body).map_err(external)?;
        let action = Action { r#type: action.to_string(), body: body.into() };
        let mut results = self.client.clone().do_action(Request::new(action)).await.map_err(told)?.into_inner();
        let mut bytes = Vec::new();
        while let Some(result) = results.next().await {
            bytes.extend_from_slice(&result.map_err(told)?.body);
        }
        Ok(bytes.into())
    }
}

/// A refusal of the scheduler, without gRPC's wrapping.
fn told(status: tonic::Status) -> datafusion::error::DataFusionError {
    exec_datafusion_err!("the scheduler said: {}", status.message())
}

#[async_trait]
impl Coordinator for FlightCoordinator {
    async fn fetch(&self, fit: &str, key: &str) -> Result<Bytes> {
        let wanted = (fit.to_string(), key.to_string());
        self.objects.get_or_make(wanted.clone(), async { self.act(FETCH_ACTION, &wanted).await }).await
    }

    async fn report(&self, fit: &str, progress: Progress) -> Result<()> {
        self.act(REPORT_ACTION, &(fit, progress)).await.map(|_| ())
    }

    async fn over(&self, fit: &str) {
        // Without the scheduler there is no fit either.
        let _ = self.act(OVER_ACTION, &fit).await;
        self.objects.forget(|(of, _)| of == fit);
    }
}
