//! The threads of a process: every one has a stack deep enough for the longest chain of operators that a statement may
//! have, because plans are built, rewritten, encoded and run by recursion.

use std::future::Future;
use std::time::Duration;

use datafusion::common::exec_datafusion_err;
use datafusion::error::Result;
use tokio::runtime::{Builder, Handle, Runtime};

/// Room for the longest chain that `jobs` lets pass, with a wide margin. What is never touched is never taken.
pub const STACK_BYTES: usize = 64 << 20;

/// How long the end of a runtime waits for its threads.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// Longer than a thread may be kept from a processor between two instructions.
const LINGER: Duration = Duration::from_millis(100);

/// The runtime of a process. To be called first thing in `main`.
///
/// # Errors
/// When the threads cannot be started.
pub fn runtime() -> std::io::Result<Runtime> {
    deepen_all_stacks();
    Builder::new_multi_thread().enable_all().thread_stack_size(STACK_BYTES).build()
}

/// Ends a runtime: its threads are waited for, but for those that still compute or wait for a line after [`END_TIMEOUT`].
///
/// To let go of threads while they end, as `shutdown_background` does, is no way: the C library may then read what the
/// thread has given back already (its `pthread_detach`, glibc bug 19951), and the process dies of it.
pub fn end(runtime: Runtime) {
    runtime.shutdown_timeout(END_TIMEOUT);
}

/// Lets the current thread live on for [`LINGER`] when its work is done, so that it has been let go of by then.
pub fn linger() {
    thread_local! {
        static LINGERING: Lingering = const { Lingering };
    }
    LINGERING.with(|_| ());
}

struct Lingering;

impl Drop for Lingering {
    fn drop(&mut self) {
        std::thread::sleep(LINGER);
    }
}

/// Ballista and rayon start threads of their own, which take the size of their stacks from the environment.
#[allow(unsafe_code, reason = "the variable is the only way to the threads of other crates")]
fn deepen_all_stacks() {
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("RUST_MIN_STACK", STACK_BYTES.to_string()) };
}

/// Runs work that may compute for seconds, such as the planning of a long statement, where it keeps nobody waiting: on
/// the threads that serve, heartbeats would be late. It runs to its end even when the result is dropped.
///
/// # Errors
/// When the work panics, or the process is about to end.
pub async fn aside<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let runtime = Handle::current();
    let done = tokio::task::spawn_blocking(move || runtime.block_on(work)).await;
    done.unwrap_or_else(|error| Err(exec_datafusion_err!("the statement could not be planned: {error}")))
}
