//! Which executors are there. Each keeps a call open while it lives, and its connection ends with it at once, long before
//! its heartbeats are missed; until then, tasks would be sent to it and rows be asked of it. A connection may end for
//! other reasons: one whose executor still answers at its port is left to the heartbeats.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ballista_core::serde::protobuf::ExecutorStoppedParams;
use ballista_core::serde::protobuf::scheduler_grpc_server::SchedulerGrpc;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tonic::Request;

use crate::cluster::Ballista;

/// How long an executor may take to answer at its port.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// The executors that keep a call open.
pub struct Presences {
    ballista: Arc<Ballista>,
    /// Calls by executor: one that lost its connection may call again before the end of its old call is seen.
    calls: Mutex<HashMap<String, usize>>,
}

impl Presences {
    pub fn new(ballista: Arc<Ballista>) -> Arc<Self> {
        Arc::new(Self { ballista, calls: Mutex::default() })
    }

    /// An executor has called, until the result is dropped.
    pub fn open(self: &Arc<Self>, executor: String) -> Presence {
        *self.calls.lock().entry(executor.clone()).or_default() += 1;
        Presence { presences: Arc::clone(self), executor }
    }

    /// Whether that was the last call of the executor.
    fn close(&self, executor: &str) -> bool {
        let mut calls = self.calls.lock();
        let Some(open) = calls.get_mut(executor) else { return false };
        *open -= 1;
        let is_last = *open == 0;
        if is_last {
            calls.remove(executor);
        }
        is_last
    }
}

/// An open call of an executor.
pub struct Presence {
    presences: Arc<Presences>,
    executor: String,
}

impl Drop for Presence {
    fn drop(&mut self) {
        // Without a runtime the scheduler is stopping.
        let Ok(runtime) = Handle::try_current() else { return };
        if !self.presences.close(&self.executor) {
            return;
        }
        let ballista = Arc::clone(&self.presences.ballista);
        let lost = ExecutorStoppedParams {
            executor_id: std::mem::take(&mut self.executor),
            reason: "its connection has ended".into(),
        };
        runtime.spawn(async move {
            if !answers(&ballista, &lost.executor_id).await {
                tracing::info!(target: "covey", executor = lost.executor_id, "an executor is gone with its connection");
                let _ = ballista.executor_stopped(Request::new(lost)).await;
            }
        });
    }
}

/// Whether the port that takes tasks for an executor can be connected to.
async fn answers(ballista: &Ballista, executor: &str) -> bool {
    let Ok(executor) = ballista.state.executor_manager.get_executor_metadata(executor).await else { return false };
    let connecting = TcpStream::connect((executor.host.as_str(), executor.grpc_port));
    matches!(tokio::time::timeout(ANSWER_MAX, connecting).await, Ok(Ok(_)))
}
