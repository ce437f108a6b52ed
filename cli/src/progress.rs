//! The line that shows how far a long statement is, read from `covey_jobs()` on a connection of its own.

use std::io::IsTerminal;
use std::time::Duration;

use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::datatypes::{Float64Type, UInt64Type};
use indicatif::{HumanCount, ProgressBar, ProgressStyle};

use crate::client::Client;

/// A statement that is done by then shows no progress.
const QUIET_AT_FIRST: Duration = Duration::from_millis(500);
const POLL_PAUSE: Duration = Duration::from_millis(250);

/// Whether a person is watching.
pub fn is_wanted(quiet: bool) -> bool {
    !quiet && std::io::stderr().is_terminal()
}

/// Shows the progress of the newest running statement with this text, until dropped.
pub async fn show(url: &str, sql: &str) {
    tokio::time::sleep(QUIET_AT_FIRST).await;
    let Ok(client) = Client::connect(url).await else { return };
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
        bar.set_style(style);
    }
    let _clear = ClearOnDrop(bar.clone());
    let statement = sql.trim().replace('\'', "''");
    let poll = format!(
        "SELECT stage, iteration, inertia, rows, elapsed_ms FROM covey_jobs() \
         WHERE state = 'running' AND statement = '{statement}' ORDER BY started_at DESC LIMIT 1"
    );
    let mut rate = Rate::default();
    loop {
        if let Ok(answer) = client.execute(&poll).await
            && let Some(batch) = answer.batches.iter().find(|batch| batch.num_rows() > 0)
        {
            let number = |column: usize| batch.column(column).as_primitive::<UInt64Type>().value(0);
            rate.take(number(3), number(4));
            bar.set_message(message(batch, rate.rows_per_second));
        }
        bar.tick();
        tokio::time::sleep(POLL_PAUSE).await;
    }
}

/// Rows a second. Rows are told when a pass over them has ended, so the time that counts is the one since they last
/// changed, and what was found stays until they change again.
#[derive(Debug, Default)]
struct Rate {
    /// Rows and milliseconds at the last change.
    changed: Option<(u64, u64)>,
    rows_per_second: Option<u64>,
}

impl Rate {
    fn take(&mut self, rows: u64, ms: u64) {
        match self.changed {
            Some((before, _)) if before == rows => return,
            Some((before, began)) if rows > before && ms > began => {
                self.rows_per_second = Some((rows - before) * 1_000 / (ms - began));
            }
            _ => {}
        }
        self.changed = Some((rows, ms));
    }
}

fn message(batch: &datafusion::arrow::array::RecordBatch, rate: Option<u64>) -> String {
    let mut parts = vec![batch.column(0).as_string::<i32>().value(0).to_string()];
    let (iteration, inertia) =
        (batch.column(1).as_primitive::<UInt64Type>(), batch.column(2).as_primitive::<Float64Type>());
    if iteration.is_valid(0) {
        parts.push(format!("iteration {}", iteration.value(0)));
    }
    if inertia.is_valid(0) {
        parts.push(format!("inertia {:.6}", inertia.value(0)));
    }
    if let Some(rate) = rate.filter(|rate| *rate > 0) {
        parts.push(format!("{} rows/s", HumanCount(rate)));
    }
    parts.join(" · ")
}

struct ClearOnDrop(ProgressBar);

impl Drop for ClearOnDrop {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::Rate;

    /// Goal: the rate is that of whole passes, however often one looks, and it stays until the next pass has ended.
    #[test]
    fn rates_are_of_whole_passes() {
        let mut rate = Rate::default();
        let shown = [(0, 0), (0, 250), (1_000, 2_000), (1_000, 2_250), (3_000, 6_000)].map(|(rows, ms)| {
            rate.take(rows, ms);
            rate.rows_per_second
        });
        assert_eq!(shown, [None, None, Some(500), Some(500), Some(500)]);
    }
}
