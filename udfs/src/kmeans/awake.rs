//! Threads that are about to be needed again.
//!
//! A run takes turns: all threads score rows, and one thread moves the centres. A thread that finds no work falls asleep
//! meanwhile, and to wake it takes as long as a pass over ten thousand rows, in every iteration.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rayon::Yield;

/// A thread that finds no work for so long may sleep: where turns are as long, to wake it takes little of them.
const IDLE_MAX: Duration = Duration::from_millis(1);

/// Keeps the threads of the current pool awake while it lives. They do whatever work there is, also that of others.
#[derive(Debug)]
#[must_use]
pub struct Awake {
    is_over: Arc<AtomicBool>,
}

impl Awake {
    pub fn new() -> Self {
        let (is_over, own) = (Arc::new(AtomicBool::new(false)), rayon::current_thread_index());
        for _ in 1..rayon::current_num_threads() {
            let is_over = Arc::clone(&is_over);
            // On its own and not waited for: it may be at the work of others when this is over.
            rayon::spawn(move || {
                if rayon::current_thread_index() != own {
                    stay_awake(&is_over);
                }
            });
        }
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

fn stay_awake(is_over: &AtomicBool) {
    let mut idle_since = Instant::now();
    while !is_over.load(Ordering::Acquire) {
        match rayon::yield_now() {
            Some(Yield::Executed) => idle_since = Instant::now(),
            _ if idle_since.elapsed() > IDLE_MAX => return,
            _ => std::hint::spin_loop(),
        }
    }
}
