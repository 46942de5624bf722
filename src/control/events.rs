//! The story of one upgrade, or of everything, as a stream of JSON lines: from any event on, live until it is over.
//!
//! Nothing is buffered for a slow client: it is read for a page from the supervisor's loop, the page is written, and
//! only when the client has taken that is the loop asked again. While nothing happens nothing is sent, and no timer runs.

use std::convert::Infallible;
use std::sync::Arc;
use std::vec;

use futures_util::stream::{self, Stream};
use hyper::body::{Bytes, Frame};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::answer::Shared;
use super::places::Kept;
use super::server::{Command, EventsPage, FeedLine};
use super::types::UpgradeEvent;

/// As much as is written at once, about, bytes.
const CHUNK: usize = 4 * 1024;

/// What a stream is made of.
pub(super) trait Line: Send {
    /// Its place.
    fn seq(&self) -> u64;
    /// Adds it, without a newline. False where that cannot be.
    fn write(&self, lines: &mut Vec<u8>) -> bool;
}

impl Line for UpgradeEvent {
    fn seq(&self) -> u64 {
        self.seq
    }

    fn write(&self, lines: &mut Vec<u8>) -> bool {
        serde_json::to_writer(lines, self).is_ok()
    }
}

impl Line for FeedLine {
    fn seq(&self) -> u64 {
        self.seq
    }

    fn write(&self, lines: &mut Vec<u8>) -> bool {
        lines.extend_from_slice(self.text.as_bytes());
        true
    }
}

/// How the loop is asked for the next page: of this upgrade, after this event.
pub(super) type Ask<E> = fn(u64, u64, oneshot::Sender<Option<EventsPage<E>>>) -> Command;

/// Where a stream stands.
pub(super) struct Tail<E> {
    pub(super) shared: Arc<Shared>,
    /// The upgrade; nothing to a stream of everything.
    pub(super) id: u64,
    pub(super) ask: Ask<E>,
    pub(super) follow: bool,
    /// Its place among the connections, and among the streams.
    pub(super) held: (Kept, Option<OwnedSemaphorePermit>),
}

/// The body of the answer, beginning with `page`, which came from the loop just now.
pub(super) fn body<E: Line>(
    tail: Tail<E>,
    page: EventsPage<E>,
) -> impl Stream<Item = Result<Frame<Bytes>, Interrupted>> + Send {
    let (over, last) = (page.finished || !tail.follow, page.after);
    let live = Live { over, last, pending: page.events.into_iter(), changed: page.changed, tail };
    stream::try_unfold(live, |mut live| async move { Ok(live.next().await?.map(|lines| (Frame::data(lines), live))) })
}

/// The loop is gone, the story is not over: the client must see that it was cut off.
#[derive(Debug, thiserror::Error)]
#[error("the supervisor is ending")]
pub(super) struct Interrupted;

impl From<Infallible> for Interrupted {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

struct Live<E> {
    tail: Tail<E>,
    /// The last that was sent, or is known.
    last: u64,
    pending: vec::IntoIter<E>,
    over: bool,
    /// From the first page, and kept: what it has not seen is at most what a later page has already shown, so no event
    /// is missed between a page and the wait for the next.
    changed: watch::Receiver<u64>,
}

impl<E: Line> Live<E> {
    async fn next(&mut self) -> Result<Option<Bytes>, Interrupted> {
        let next = self.next_lines().await;
        if next.is_err() {
            // What was written before is sent only when there is a pause, and must not be lost.
            tokio::task::yield_now().await;
        }
        next
    }

    async fn next_lines(&mut self) -> Result<Option<Bytes>, Interrupted> {
        loop {
            let lines = self.encode();
            if !lines.is_empty() {
                return Ok(Some(lines.into()));
            }
            if self.over {
                self.tail.held.1 = None;
                return Ok(None);
            }
            // An error: whoever appends is gone. One last page tells whether the story is over.
            let forgotten = self.changed.changed().await.is_err();
            let (id, ask, after) = (self.tail.id, self.tail.ask, self.last);
            let page = self.tail.shared.ask(|reply| ask(id, after, reply)).await;
            let page = page.ok().flatten().ok_or(Interrupted)?;
            if forgotten && !page.finished {
                return Err(Interrupted);
            }
            self.over = page.finished;
            self.pending = page.events.into_iter();
        }
    }

    fn encode(&mut self) -> Vec<u8> {
        let mut lines = Vec::new();
        while lines.len() < CHUNK {
            let Some(event) = self.pending.next() else { break };
            // Nothing that a page repeats is sent twice.
            if event.seq() <= self.last {
                continue;
            }
            self.last = event.seq();
            if event.write(&mut lines) {
                lines.push(b'\n');
            }
        }
        lines
    }
}
