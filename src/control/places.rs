//! Places for connections. Where all are taken, one that only waits for its peer makes room: whoever holds connections
//! without asking anything keeps nobody else out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// How long a peer may take for its request before its place is another's.
const GRACE: Duration = Duration::from_millis(50);

/// A number of places.
#[derive(Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
}

/// The connections that wait for their peers, oldest first.
#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    turns: BTreeMap<u64, (Instant, Arc<Notify>)>,
}

impl Places {
    pub(super) fn new(count: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(count)), waiting: Mutex::default() }
    }

    /// The next free place.
    pub(super) async fn place(self: &Arc<Self>) -> Arc<Place> {
        loop {
            if self.free.available_permits() == 0 {
                self.make_room();
            }
            // Whoever was asked to make room may have begun to be answered.
            if let Ok(Ok(permit)) = timeout(GRACE, Arc::clone(&self.free).acquire_owned()).await {
                let place =
                    Place { places: Arc::clone(self), turn: Mutex::default(), leave: Arc::default(), _permit: permit };
                place.wait();
                return Arc::new(place);
            }
        }
    }

    /// Asks the one that has waited for its peer for the longest to leave.
    fn make_room(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(oldest) = waiting.turns.first_entry().filter(|oldest| oldest.get().0.elapsed() >= GRACE) {
            oldest.remove().1.notify_one();
        }
    }
}

/// A connection's place. It is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    /// What it waits under, while it waits for its peer.
    turn: Mutex<Option<u64>>,
    leave: Arc<Notify>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// Keeps the place for as long as what is returned lives: a request is whole, and is being answered.
    pub(super) fn keep(self: &Arc<Self>) -> Kept {
        self.go_on();
        Kept(Arc::clone(self))
    }

    /// Until the place is another's.
    pub(super) async fn lost(&self) {
        loop {
            self.leave.notified().await;
            if self.turn().is_some() {
                return;
            }
        }
    }

    fn wait(&self) {
        let mut waiting = self.places.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = waiting.next;
        waiting.next += 1;
        waiting.turns.insert(turn, (Instant::now(), Arc::clone(&self.leave)));
        *self.turn() = Some(turn);
    }

    fn go_on(&self) {
        let mut waiting = self.places.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = self.turn().take() {
            waiting.turns.remove(&turn);
        }
    }

    fn turn(&self) -> MutexGuard<'_, Option<u64>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.go_on();
    }
}

/// A place that is not to be another's, see [`Place::keep`].
#[derive(Debug)]
pub(super) struct Kept(Arc<Place>);

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.wait();
    }
}
