//! What the allocator does with memory that queries give back.

use libmimalloc_sys::{mi_option_set, mi_option_t};

/// mimalloc's `purge_delay`, in milliseconds. Its bindings have names for some options only.
const PURGE_DELAY: mi_option_t = 15;

/// How long memory that was given back is kept for the next that asks. mimalloc's own 10 ms are over between two batches,
/// and the kernel has to clear the pages again.
const KEPT_MILLISECONDS: i64 = 1_000;

/// Keeps memory that was given back for [`KEPT_MILLISECONDS`]. To be called first thing in `main`; `MIMALLOC_PURGE_DELAY`
/// in the environment counts for more.
pub fn keep_for_a_while() {
    if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
        #[expect(unsafe_code, reason = "the option has no safe interface; no other thread is there yet")]
        // SAFETY: setting an option is sound at any time from one thread, which `main` is when it begins.
        unsafe {
            mi_option_set(PURGE_DELAY, KEPT_MILLISECONDS);
        }
    }
}
