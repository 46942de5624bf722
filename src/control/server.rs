//! The server's side of the control socket: who may connect, how many, and for how long.
//!
//! ```text
//!  listener ─► accept ─► credentials ─► HTTP/1.1 ─► route ─► Command ─► the supervisor's loop
//!     ▲           │                                              │
//!     └─ backlog ─┘ (one over the limit waits for a place)       └─► reply, as JSON
//! ```
//!
//! - The loop is reached through one bounded channel, and nothing here makes it wait: a reply that nobody takes is
//!   dropped, an event stream is read from it page by page.
//! - Every wait for a peer has a deadline: for a head, for a body, for the peer to read what is written. Where all places
//!   are taken, the connection that has waited longest for its peer's request is closed for the next one.
//! - When descriptors run out, two kept in reserve still let somebody ask why.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

pub use super::access::Access;
use super::access::Permission;
use super::answer::{Peer, Shared, answer};
use super::patient::Patient;
use super::places::Places;
use super::request::KpiQuery;
use super::reserve::{Reserve, is_exhaustion};
use super::types::{
    Done, HistoryPage, Kpi, PauseRequest, Promotion, Replacement, Scaling, Status, Target, UpgradeAccepted,
    UpgradeEvent, UpgradeRequest, UpgradeStatus,
};
use crate::history::read::Wanted;
use crate::sys::limits;
use crate::sys::peer::{self, Credentials};

/// Connections that are served at once; a further one takes the place of one that asks nothing, else it waits.
pub const CONNECTIONS_MAX: usize = 256;

/// That, or a quarter of the descriptors where there are few: the rest is for the services.
fn connections_max() -> usize {
    let (soft, _) = limits::limit(limits::Resource::NOFILE).unwrap_or((u64::MAX, u64::MAX));
    usize::try_from(soft / 4).unwrap_or(usize::MAX).clamp(8, CONNECTIONS_MAX)
}
/// How many of them may be event streams; a further one is answered 503.
pub const STREAMS_MAX: usize = streams_max(CONNECTIONS_MAX);

const fn streams_max(connections: usize) -> usize {
    connections / 8 * 5
}
/// How many of them may be of peers that are allowed nothing; a further one is closed unanswered.
pub const STRANGERS_MAX: usize = 16;
/// How long a peer may take for the head of a request, and how long a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a peer may leave unread what is written to it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest head of a request, and the most that is buffered of anything, bytes.
const BUFFER_MAX: usize = 16 * 1024;
/// Descriptors kept back.
const RESERVE: usize = 2;
/// The pause after an accept(2) that failed: at first, and at most.
const ACCEPT_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// What is asked of the supervisor's loop. Each is answered through its `reply`; dropping that is answered with 503.
#[derive(Debug)]
pub enum Command {
    /// How does everything stand?
    Status {
        /// The answer.
        reply: oneshot::Sender<Status>,
    },
    /// Begin an upgrade, or share one.
    Request {
        /// Which.
        request: UpgradeRequest,
        /// Who asks.
        uid: u32,
        /// The answer.
        reply: oneshot::Sender<Result<UpgradeAccepted, Rejection>>,
    },
    /// Which upgrades are remembered?
    Upgrades {
        /// The answer, oldest first.
        reply: oneshot::Sender<Vec<UpgradeStatus>>,
    },
    /// How does an upgrade stand?
    Upgrade {
        /// Which.
        id: u64,
        /// The answer; `None` when it is not remembered.
        reply: oneshot::Sender<Option<UpgradeStatus>>,
    },
    /// What happened in an upgrade?
    Events {
        /// Which.
        id: u64,
        /// Up to this event it is known already.
        after: u64,
        /// The answer; `None` when it is not remembered.
        reply: oneshot::Sender<Option<EventsPage>>,
    },
    /// What happened to any service?
    Feed {
        /// Up to this event it is known already.
        after: u64,
        /// The answer; `None` where nothing is told.
        reply: oneshot::Sender<Option<EventsPage<FeedLine>>>,
    },
    /// What became of former upgrades?
    History {
        /// Which of them.
        wanted: Wanted,
        /// The answer.
        reply: oneshot::Sender<Result<HistoryPage, Rejection>>,
    },
    /// What do they come to, in figures?
    Kpi {
        /// Of which service, and of which time.
        query: KpiQuery,
        /// The answer.
        reply: oneshot::Sender<Result<Kpi, Rejection>>,
    },
    /// How does everything stand, for a monitoring system?
    Metrics {
        /// The answer, in OpenMetrics form.
        reply: oneshot::Sender<String>,
    },
    /// Give the upgrade in flight up.
    Abort {
        /// Of which service.
        target: Target,
        /// Who asks.
        uid: u32,
        /// The answer.
        reply: oneshot::Sender<Result<Done, Rejection>>,
    },
    /// Make new connections wait. Answered once they do.
    Pause {
        /// Where, and for how long.
        request: PauseRequest,
        /// Who asks.
        uid: u32,
        /// The answer.
        reply: oneshot::Sender<Result<Done, Rejection>>,
    },
    /// End the step of a canary that waits.
    Promote {
        /// Of which service, and how far.
        promotion: Promotion,
        /// Who asks.
        uid: u32,
        /// The answer.
        reply: oneshot::Sender<Result<Done, Rejection>>,
    },
    /// Let them in again. Answered once they are.
    Resume {
        /// Where.
        target: Target,
        /// Who asks.
        uid: u32,
        /// The answer.
        reply: oneshot::Sender<Result<Done, Rejection>>,
    },
    /// Give a service another number of instances.
    Scale {
        /// Which, and how many.
        scaling: Scaling,
        /// Who asks.
        uid: u32,
        /// The answer.
        reply: oneshot::Sender<Result<Done, Rejection>>,
    },
    /// Replace the supervisor's own program. Answered once that is about to happen.
    Reexec {
        /// By what.
        replacement: Replacement,
        /// Who asks.
        uid: u32,
        /// The answer.
        reply: oneshot::Sender<Result<Done, Rejection>>,
    },
    /// End a service, or everything.
    Stop {
        /// Which.
        target: Target,
        /// Who asks.
        uid: u32,
        /// The answer.
        reply: oneshot::Sender<Result<Done, Rejection>>,
    },
}

/// What has happened so far after some event, in an upgrade or at all.
#[derive(Debug)]
pub struct EventsPage<E = UpgradeEvent> {
    /// What happened, in order.
    pub events: Vec<E>,
    /// After which event: that which was asked for, or 0 where that is of another time.
    pub after: u64,
    /// No more will come: the verdict has fallen and the old generation is gone.
    pub finished: bool,
    /// Changes when something is appended; subscribed when the page was made.
    pub changed: watch::Receiver<u64>,
}

/// An event of any service, as it is sent.
#[derive(Clone, Debug)]
pub struct FeedLine {
    /// Its place.
    pub seq: u64,
    /// A [`super::types::SupervisorEvent`] as JSON.
    pub text: Arc<str>,
}

/// A request that is not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Why, in kind.
    pub kind: RejectionKind,
    /// Why, in words.
    pub error: String,
    /// What would mend it.
    pub hint: Option<String>,
}

/// The kinds of [`Rejection`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectionKind {
    /// 400: it makes no sense.
    Invalid,
    /// 404: there is no such thing.
    NotFound,
    /// 409: not as things stand.
    Refused,
    /// 503: not now.
    Unavailable,
}

/// How the credentials of a connection's other end are read; [`peer::credentials`] except in tests.
pub type Identify = fn(BorrowedFd<'_>) -> io::Result<Credentials>;

/// Serves the control socket for as long as it is polled.
pub async fn serve(listener: UnixListener, access: watch::Receiver<Access>, commands: mpsc::Sender<Command>) {
    serve_identified(listener, access, commands, peer::credentials).await;
}

/// As [`serve`], with the peers' credentials from elsewhere.
pub async fn serve_identified(
    listener: UnixListener,
    access: watch::Receiver<Access>,
    commands: mpsc::Sender<Command>,
    identify: Identify,
) {
    let connections = connections_max();
    let shared = Arc::new(Shared::new(commands, access, Arc::new(Semaphore::new(streams_max(connections)))));
    let reserve = Arc::new(Reserve::new(RESERVE));
    let places = Arc::new(Places::new(connections));
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    loop {
        let stream = accept(&listener, &reserve).await;
        let peer = match identify(stream.as_fd()) {
            Ok(peer) => peer,
            Err(error) => {
                tracing::debug!("a control connection without credentials is closed: {error}");
                continue;
            }
        };
        let stranger = match shared.permission(&peer) {
            Permission::Nothing => match Arc::clone(&strangers).try_acquire_owned() {
                Ok(stranger) => Some(stranger),
                Err(_) => continue,
            },
            Permission::Look | Permission::Operate => None,
        };
        let peer = Peer { credentials: peer, shared: Arc::clone(&shared), place: places.place().await };
        tokio::spawn(connection(stream, peer, Arc::clone(&reserve), stranger));
    }
}

/// The next connection, whatever stands in the way. With no descriptor left, one of the reserve is given up for it.
async fn accept(listener: &UnixListener, reserve: &Reserve) -> UnixStream {
    let mut pause = ACCEPT_PAUSE.0;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) if is_exhaustion(&error) && reserve.release() => {}
            Err(error) => {
                if pause == ACCEPT_PAUSE.0 {
                    tracing::warn!("failed to accept a control connection: {error}");
                }
                tokio::time::sleep(pause).await;
                pause = ACCEPT_PAUSE.1.min(pause * 2);
                reserve.refill();
            }
        }
    }
}

/// One connection, to its end.
async fn connection(stream: UnixStream, peer: Peer, reserve: Arc<Reserve>, stranger: Option<OwnedSemaphorePermit>) {
    let peer = Arc::new(peer);
    let place = Arc::clone(&peer.place);
    let service = service_fn(move |request| answer(request, Arc::clone(&peer)));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(BUFFER_MAX).auto_date_header(false);
    let mut connection = builder.serve_connection(TokioIo::new(Patient::new(stream, WRITE_TIMEOUT)), service);
    let ended = tokio::select! {
        // A request that has come is taken before the place is.
        biased;
        ended = &mut connection => Some(ended),
        () = place.lost() => None,
    };
    match ended {
        Some(Err(error)) if error.is_timeout() => {
            let parts = connection.into_parts();
            // An idle connection is just closed; one that began a request is told.
            if !parts.read_buf.is_empty() {
                let mut stream = parts.io.into_inner();
                // It may be gone: then nobody wants to know.
                let _ = stream.write_all(REQUEST_TIMEOUT).await;
            }
        }
        _ => drop(connection),
    }
    reserve.refill();
    drop((place, stranger));
}

const REQUEST_TIMEOUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\n\
    content-type: application/json\r\nconnection: close\r\ncontent-length: 51\r\n\r\n\
    {\"error\":\"the head of the request took over 5 s\"}\r\n";
