//! Descriptors kept back, so that a supervisor that has run out of them still answers who asks what is wrong.

use std::fs::File;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A few descriptors that can be given up for connections.
#[derive(Debug)]
pub(super) struct Reserve {
    spare: Mutex<Vec<File>>,
    size: usize,
}

impl Reserve {
    /// A full reserve, as far as descriptors are left.
    pub(super) fn new(size: usize) -> Self {
        let this = Self { spare: Mutex::new(Vec::with_capacity(size)), size };
        this.refill();
        this
    }

    /// Frees one descriptor for whoever takes it next. False when none is left.
    #[must_use]
    pub(super) fn release(&self) -> bool {
        self.lock().pop().is_some()
    }

    /// Takes back what was given up, as far as descriptors are free again.
    pub(super) fn refill(&self) {
        let mut spare = self.lock();
        while spare.len() < self.size {
            let Ok(file) = File::open("/dev/null") else { return };
            spare.push(file);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<File>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an error says that descriptors have run out, here or in the whole system.
pub(super) fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(nix::libc::EMFILE | nix::libc::ENFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_up_and_takes_back() {
        let reserve = Reserve::new(2);
        assert!(reserve.release() && reserve.release());
        assert!(!reserve.release());
        reserve.refill();
        assert!(reserve.release());
    }
}
