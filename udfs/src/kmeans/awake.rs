//! Threads that are about to be needed again.
//!
//! A run takes turns: all threads score rows, and one thread moves the centres. A thread that finds no work falls asleep
//! meanwhile, and to wake it takes as long as a pass over ten thousand rows, in every iteration.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rayon::Yield;

/// A thread that finds no work for so long may sleep, and is not kept awake any more: where turns are as long, to wake it
/// takes little of them.
const IDLE_MAX: Duration = Duration::from_millis(1);

/// How long it looks for work before it looks at what it was at: a thread that waits for others comes by here too.
const TURN: Duration = Duration::from_micros(10);

/// Keeps the threads of the current pool awake while it lives, each until it has found no work for a millisecond. They do
/// whatever work there is, also that of others.
#[derive(Debug)]
#[must_use]
pub struct Awake {
    is_over: Arc<AtomicBool>,
}

impl Awake {
    pub fn new() -> Self {
        let (is_over, own) = (Arc::new(AtomicBool::new(false)), rayon::current_thread_index());
        let over = Arc::clone(&is_over);
        // On their own and not waited for: they may be at the work of others when this is over.
        rayon::spawn_broadcast(move |context| {
            if own != Some(context.index()) {
                take_turn(Arc::clone(&over), Instant::now());
            }
        });
        Self { is_over }
    }
}

impl Default for Awake {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
    }
}

/// Looks for work, and comes back to that as a task of its own: never from within other work, which would have to wait.
fn take_turn(is_over: Arc<AtomicBool>, mut idle_since: Instant) {
    let began = Instant::now();
    while began.elapsed() < TURN && !is_over.load(Ordering::Acquire) {
        match rayon::yield_now() {
            Some(Yield::Executed) => idle_since = Instant::now(),
            _ => std::hint::spin_loop(),
        }
    }
    if !is_over.load(Ordering::Acquire) && idle_since.elapsed() < IDLE_MAX {
        rayon::spawn(move || take_turn(is_over, idle_since));
    }
}
