//! The story of one upgrade as a stream of JSON lines, from any event on, live until it is over.
//!
//! Nothing is buffered for a slow client: it is read for a page from the supervisor's loop, the page is written, and
//! only when the client has taken that is the loop asked again. While nothing happens nothing is sent, and no timer runs.

use std::convert::Infallible;
use std::sync::Arc;
use std::vec;

use futures_util::stream::{self, Stream};
use hyper::body::{Bytes, Frame};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::answer::Shared;
use super::server::{Command, EventsPage};
use super::types::UpgradeEvent;

/// As much as is written at once, about, bytes.
const CHUNK: usize = 4 * 1024;

/// Where a stream stands.
pub(super) struct Tail {
    pub(super) shared: Arc<Shared>,
    pub(super) upgrade: u64,
    pub(super) last: u64,
    pub(super) follow: bool,
    /// Its place among the streams.
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

/// The body of the answer, beginning with `page`, which came from the loop just now.
pub(super) fn body(tail: Tail, page: EventsPage) -> impl Stream<Item = Result<Frame<Bytes>, Interrupted>> + Send {
    let live =
        Live { over: page.finished || !tail.follow, pending: page.events.into_iter(), changed: page.changed, tail };
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

struct Live {
    tail: Tail,
    pending: vec::IntoIter<UpgradeEvent>,
    over: bool,
    /// From the first page, and kept: what it has not seen is at most what a later page has already shown, so no event
    /// is missed between a page and the wait for the next.
    changed: watch::Receiver<u64>,
}

impl Live {
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
                self.tail.permit = None;
                return Ok(None);
            }
            // An error: whoever appends is gone. One last page tells whether the story is over.
            let forgotten = self.changed.changed().await.is_err();
            let (upgrade, after) = (self.tail.upgrade, self.tail.last);
            let page = self.tail.shared.ask(|reply| Command::Events { id: upgrade, after, reply }).await;
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
            if event.seq <= self.tail.last {
                continue;
            }
            self.tail.last = event.seq;
            if serde_json::to_writer(&mut lines, &event).is_ok() {
                lines.push(b'\n');
            }
        }
        lines
    }
}
