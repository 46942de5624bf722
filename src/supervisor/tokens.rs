//! Numbers by which descriptors are called: never the same twice, successors included.

use std::sync::atomic::{AtomicU64, Ordering};

static NEXT: AtomicU64 = AtomicU64::new(1);

/// One that was never given out.
pub(super) fn fresh() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A predecessor has given this one out.
pub(super) fn was_given_out(token: u64) {
    NEXT.fetch_max(token.saturating_add(1), Ordering::Relaxed);
}
