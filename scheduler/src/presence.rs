//! Which executors are there. Each keeps a call open while it lives, and its connection ends with it at once, long before
//! its heartbeats are missed; until then, tasks would be sent to it and rows be asked of it.

use std::collections::HashMap;
use std::sync::Arc;

use ballista_core::serde::protobuf::ExecutorStoppedParams;
use ballista_core::serde::protobuf::scheduler_grpc_server::SchedulerGrpc;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tonic::Request;

use crate::cluster::Ballista;

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
        // One that lives after all registers again with its next heartbeat.
        runtime.spawn(async move {
            tracing::info!(target: "covey", executor = lost.executor_id, "the connection of an executor has ended");
            let _ = ballista.executor_stopped(Request::new(lost)).await;
        });
    }
}
