//! The executor's side of the channel to the fits on the scheduler: Flight actions on the scheduler's one port.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_flight::Action;
use arrow_flight::flight_service_client::FlightServiceClient;
use async_trait::async_trait;
use bytes::Bytes;
use covey_engine::coordinator::{Coordinator, FETCH_ACTION, Progress, REPORT_ACTION};
use covey_engine::external;
use datafusion::common::exec_datafusion_err;
use datafusion::error::Result;
use futures::StreamExt;
use serde::Serialize;
use tokio::sync::{Mutex, OnceCell};
use tonic::Request;
use tonic::transport::Channel;

/// Objects kept: the scales and the centroids of the fits that run at once, each fetched once by an executor.
const OBJECTS_KEPT_MAX: usize = 8;

type Object = Arc<OnceCell<Bytes>>;

#[derive(Debug)]
pub struct FlightCoordinator {
    client: FlightServiceClient<Channel>,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    objects: HashMap<(String, String), (Object, u64)>,
    clock: u64,
}

impl FlightCoordinator {
    pub fn new(channel: Channel) -> Self {
        // Centroids of wide models are beyond gRPC's usual limits.
        let client = FlightServiceClient::new(channel)
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        Self { client, kept: Mutex::default() }
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

    /// The cell of an object, so that tasks that need it at once fetch it once.
    async fn object(&self, fit: &str, key: &str) -> Object {
        let mut kept = self.kept.lock().await;
        kept.clock += 1;
        let now = kept.clock;
        if kept.objects.len() >= OBJECTS_KEPT_MAX
            && let Some(oldest) = kept.objects.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone())
        {
            kept.objects.remove(&oldest);
        }
        let (object, used) = kept.objects.entry((fit.to_string(), key.to_string())).or_default();
        *used = now;
        Arc::clone(object)
    }
}

/// A refusal of the scheduler, without gRPC's wrapping.
fn told(status: tonic::Status) -> datafusion::error::DataFusionError {
    exec_datafusion_err!("the scheduler said: {}", status.message())
}

#[async_trait]
impl Coordinator for FlightCoordinator {
    async fn fetch(&self, fit: &str, key: &str) -> Result<Bytes> {
        let object = self.object(fit, key).await;
        let wanted = (fit, key);
        let bytes = object.get_or_try_init(|| self.act(FETCH_ACTION, &wanted)).await?;
        Ok(bytes.clone())
    }

    async fn report(&self, fit: &str, progress: Progress) -> Result<()> {
        self.act(REPORT_ACTION, &(fit, progress)).await.map(|_| ())
    }
}
