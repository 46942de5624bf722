//! Our own stdout and stderr, written to by a thread of their own: a reader that stops reading (a stopped terminal, a
//! stuck journald) must never stop the loop. What does not fit is dropped, and counted in lines.
//!
//! The descriptors are shared with other processes, so making them non-blocking is not an option.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::sys::signal;

/// How much may wait for a reader.
const CAPACITY: usize = 256 * 1024;

/// A stream that never makes its writer wait.
#[derive(Clone, Debug)]
pub(crate) struct Sink(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    filled: Condvar,
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<u8>,
    writing: bool,
    dropped: u64,
}

impl Sink {
    /// A sink that writes to `target` from a thread called `name`.
    pub(crate) fn spawn(name: &str, target: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        thread::Builder::new().name(name.into()).stack_size(64 * 1024).spawn(move || {
            // They are for the loop.
            signal::block_all();
            theirs.write_to(target);
        })?;
        Ok(Self(shared))
    }

    /// Takes `bytes` whole, or drops them whole.
    pub(crate) fn write(&self, bytes: &[u8]) {
        let mut state = self.0.lock();
        if state.waiting.len() + bytes.len() > CAPACITY {
            state.dropped += bytes.iter().filter(|byte| **byte == b'\n').count().max(1) as u64;
            return;
        }
        // Waking takes a system call, and whoever is awake looks for more by itself.
        let asleep = state.waiting.is_empty() && !state.writing;
        state.waiting.extend(bytes);
        // Or the one that is woken would wait for it at once.
        drop(state);
        if asleep {
            self.0.filled.notify_one();
        }
    }

    /// Lines dropped so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.0.lock().dropped
    }

    /// Whether all is written.
    pub(crate) fn is_idle(&self) -> bool {
        let state = self.0.lock();
        state.waiting.is_empty() && !state.writing
    }

    /// Waits until all is written, at most `patience`.
    pub(crate) fn flush(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut state = self.0.lock();
        while state.writing || !state.waiting.is_empty() {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return };
            state = self.0.emptied.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_to(&self, mut target: impl Write) {
        let mut batch = Vec::new();
        loop {
            let mut state = self.lock();
            state.writing = false;
            if state.waiting.is_empty() {
                self.emptied.notify_all();
                // A burst must not stay with us for ever.
                state.waiting.shrink_to(4096);
                batch.shrink_to(4096);
            }
            while state.waiting.is_empty() {
                state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            batch.extend(state.waiting.drain(..));
            state.writing = true;
            drop(state);
            // Nobody is left to be told that nobody reads.
            let _ = target.write_all(&batch).and_then(|()| target.flush());
            batch.clear();
        }
    }
}
