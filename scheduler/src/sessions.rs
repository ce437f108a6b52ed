//! Sessions: each client that shakes hands has one, so that `SET` is its own; tables and views are everybody's.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::execution::SessionStateBuilder;
use datafusion::prelude::SessionContext;
use parking_lot::Mutex;
use uuid::Uuid;

/// A session that was not used for so long is forgotten.
const IDLE_MAX: Duration = Duration::from_secs(30 * 60);

/// Things that a client may come back for, each forgotten after [`IDLE_MAX`] without use.
#[derive(Debug)]
pub struct Kept<T> {
    entries: Mutex<HashMap<String, (T, Instant)>>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self { entries: Mutex::default() }
    }
}

impl<T: Clone> Kept<T> {
    /// Keeps `value` and gives the handle to ask for it.
    pub fn insert(&self, value: T) -> String {
        let handle = Uuid::new_v4().to_string();
        let mut entries = self.entries.lock();
        entries.retain(|_, (_, used)| used.elapsed() < IDLE_MAX);
        entries.insert(handle.clone(), (value, Instant::now()));
        handle
    }

    /// Puts `value` in the place of what was kept, if it still is.
    pub fn replace(&self, handle: &str, value: T) {
        if let Some(entry) = self.entries.lock().get_mut(handle) {
            *entry = (value, Instant::now());
        }
    }

    pub fn get(&self, handle: &str) -> Option<T> {
        let mut entries = self.entries.lock();
        let (value, used) = entries.get_mut(handle)?;
        *used = Instant::now();
        Some(value.clone())
    }

    pub fn take(&self, handle: &str) -> Option<T> {
        self.entries.lock().remove(handle).map(|(value, _)| value)
    }
}

/// A session with the tables, views and functions of `shared` and settings of its own.
pub fn fork(shared: &SessionContext) -> Arc<SessionContext> {
    let state =
        SessionStateBuilder::new_from_existing(shared.state()).with_session_id(Uuid::new_v4().to_string()).build();
    Arc::new(SessionContext::new_with_state(state))
}
