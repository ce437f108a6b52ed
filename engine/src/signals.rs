//! The signals that ask a process to end.

use tokio::signal::unix::{SignalKind, signal};

/// Ready when the process is told to end: SIGTERM.
pub async fn terminated() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            terminate.recv().await;
        }
        // Without the signal there is nothing to wait for.
        Err(_) => std::future::pending().await,
    }
}

/// Ready when a server is told to end: SIGTERM or Ctrl-C.
pub async fn stopped() {
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated() => {}
    }
}
