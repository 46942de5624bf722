//! The time between the stop signal and the end of accepting.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Shutdown;
use super::listeners::Accept;
#[cfg(feature = "tokio")]
use super::listeners::TokioAccept;
use super::os;

/// The time after the stop signal in which a server goes on as before, but ends each connection with its next answer.
///
/// A server that closes an idle keep-alive connection cannot know whether a request is on its way in it; if one is, the
/// client sees a reset. HTTP/1.1 has one way out (RFC 9112, section 9.6): an answer with `Connection: close`, after
/// which the client sends nothing more on that connection. So a server that is to end says that first, for as long as
/// its clients usually leave a connection idle, and closes the remaining ones only then. A connection that was just
/// accepted is in the same danger: its first request is on its way. So the server stops accepting halfway through:
///
/// ```text
///   stop signal           halfway                 over
///  ──────┬───────────────────┬──────────────────────┬─────────────────────────────►
///        │ accepts           │ accepts nothing more │ closes idle connections, finishes
///        │ answers `Connection: close` ─────────────┴──────────────────── requests that have begun, exits
/// ```
///
/// Two or four seconds in all cover clients that are busy; make it longer where they are not, and `drain.timeout`
/// longer than this and the longest request together.
///
/// It works with any server that can set a header: by hand, with threads, as the [module](super) shows; with hyper, as
/// in `examples/hyper.rs`:
///
/// ```no_run
/// # #[cfg(feature = "tokio")]
/// # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
/// # use std::time::Duration;
/// # use zdsup::service::{LameDuck, Listeners, Shutdown};
/// # let shutdown = Shutdown::install()?;
/// let listener = Listeners::take()?.tokio_tcp("http")?;
/// let duck = LameDuck::new(&shutdown, Duration::from_secs(4));
/// while let Some((stream, _peer)) = duck.tokio_accept(&listener).await? {
///     // Serve it in a task, where each answer gets duck.header().
/// # drop(stream);
/// }
/// drop(listener);
/// duck.over().await;
/// // Now begin the graceful shutdown of what serves the connections. It closes idle HTTP/1.1 connections, and sends a
/// // GOAWAY on HTTP/2 ones.
/// # Ok(())
/// # }
/// ```
///
/// Clones are the same.
#[derive(Clone, Debug)]
pub struct LameDuck {
    shutdown: Shutdown,
    length: Duration,
    open: Arc<Open>,
}

/// Where a server stands on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Nobody wants it to end.
    Serving,
    /// It accepts and answers, and ends each connection with its answer.
    LameDuck,
    /// It accepts nothing more, and still waits for requests on the connections that it has.
    Leaving,
    /// It closes idle connections, and finishes the requests that have begun.
    Over,
}

/// A connection that [`LameDuck::wait_idle`] waits for, until it is dropped.
#[derive(Debug)]
pub struct Connection {
    duck: LameDuck,
}

#[derive(Debug, Default)]
struct Open {
    connections: Mutex<usize>,
    fewer: Condvar,
}

impl LameDuck {
    /// The time of this length that follows `shutdown`.
    #[must_use]
    pub fn new(shutdown: &Shutdown, length: Duration) -> Self {
        Self { shutdown: shutdown.clone(), length, open: Arc::default() }
    }

    /// Where the server stands.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use zdsup::service::{LameDuck, Phase, Shutdown};
    /// # fn main() -> std::io::Result<()> {
    /// let shutdown = Shutdown::new()?;
    /// let duck = LameDuck::new(&shutdown, Duration::from_secs(3600));
    /// assert_eq!(duck.phase(), Phase::Serving);
    /// shutdown.request();
    /// assert_eq!(duck.phase(), Phase::LameDuck);
    /// assert_eq!(duck.header(), Some(("connection", "close")));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.shutdown.elapsed() {
            None => Phase::Serving,
            Some(elapsed) if elapsed < self.length / 2 => Phase::LameDuck,
            Some(elapsed) if elapsed < self.length => Phase::Leaving,
            Some(_) => Phase::Over,
        }
    }

    /// Whether answers must end their connection: from the stop signal on.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.shutdown.is_requested()
    }

    /// The header that each HTTP/1.1 answer needs now, if any. (HTTP/2 and HTTP/3 forbid it: they have GOAWAY.)
    #[must_use]
    pub fn header(&self) -> Option<(&'static str, &'static str)> {
        self.is_closing().then_some(("connection", "close"))
    }

    /// The next connection of a listener; `None` from halfway through the lame-duck time on.
    ///
    /// The listener is made non-blocking: others accept from the same one, so a blocking accept could wait past the end
    /// for a connection that another process took. (All generations of a service should treat it alike: the flag is
    /// shared with them.) Accepted connections block.
    ///
    /// # Errors
    /// Those of accept(2) that are not about one connection: no descriptors or memory are left. Wait a little and
    /// accept again; the connections wait in the backlog.
    pub fn accept<L: Accept>(&self, listener: &L) -> io::Result<Option<L::Accepted>> {
        loop {
            let deadline = match self.phase() {
                Phase::Leaving | Phase::Over => return Ok(None),
                Phase::LameDuck => self.after(self.length / 2),
                Phase::Serving => None,
            };
            match listener.try_accept() {
                Ok(accepted) => return Ok(Some(accepted)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if concerns_one_connection(&error) => continue,
                Err(error) => return Err(error),
            }
            self.wait_readable(listener, deadline)?;
        }
    }

    /// Counts a connection for [`LameDuck::wait_idle`].
    #[must_use = "it is counted until it is dropped"]
    pub fn connection(&self) -> Connection {
        *self.open.connections.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Connection { duck: self.clone() }
    }

    /// Blocks until no counted connection is left, at most so long. Returns whether that is so.
    pub fn wait_idle(&self, timeout: Duration) -> bool {
        let connections = self.open.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.open.fewer.wait_timeout_while(connections, timeout, |connections| *connections > 0);
        *waited.unwrap_or_else(PoisonError::into_inner).0 == 0
    }

    /// As [`LameDuck::accept`]. Cancel-safe.
    ///
    /// # Errors
    /// As [`LameDuck::accept`].
    #[cfg(feature = "tokio")]
    pub async fn tokio_accept<L: TokioAccept>(&self, listener: &L) -> io::Result<Option<L::Accepted>> {
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.passed(self.length / 2) => return Ok(None),
                accepted = listener.accept_one() => accepted,
            };
            match accepted {
                Ok(accepted) => return Ok(Some(accepted)),
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Resolves when the lame-duck time is over: the moment to close idle connections.
    #[cfg(feature = "tokio")]
    pub async fn over(&self) {
        self.passed(self.length).await;
    }

    /// Resolves so long after the stop signal.
    #[cfg(feature = "tokio")]
    async fn passed(&self, span: Duration) {
        self.shutdown.requested().await;
        match self.after(span) {
            Some(end) => tokio::time::sleep_until(end.into()).await,
            None => std::future::pending().await,
        }
    }

    /// The instant so long after the stop signal; `None` before that, and where it lies beyond the clock's end.
    fn after(&self, span: Duration) -> Option<Instant> {
        self.shutdown.at()?.checked_add(span)
    }

    /// Waits for something to read, or for the next phase.
    fn wait_readable(&self, source: &impl AsFd, deadline: Option<Instant>) -> io::Result<()> {
        if self.shutdown.is_requested() {
            os::wait_readable([source.as_fd()], deadline)?;
        } else {
            os::wait_readable([source.as_fd(), self.shutdown.as_fd()], deadline)?;
        }
        Ok(())
    }
}

impl Connection {
    /// Blocks until the client has sent something or has closed (`true`: read), or until the lame-duck time is over
    /// with neither (`false`: close).
    ///
    /// Call it where the next request would begin, with nothing of it buffered: its bytes are not seen here.
    ///
    /// # Errors
    /// Those of poll(2).
    pub fn await_request(&self, stream: &impl AsFd) -> io::Result<bool> {
        loop {
            let now = Instant::now();
            let deadline = match self.duck.phase() {
                Phase::Over => Some(now),
                Phase::LameDuck | Phase::Leaving => self.duck.after(self.duck.length),
                Phase::Serving => None,
            };
            self.duck.wait_readable(stream, deadline)?;
            if os::wait_readable([stream.as_fd()], Some(now))? == [true] {
                return Ok(true);
            }
            if self.duck.phase() == Phase::Over {
                return Ok(false);
            }
        }
    }

    /// As [`LameDuck::is_closing`].
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.duck.is_closing()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        *self.duck.open.connections.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.duck.open.fewer.notify_all();
    }
}

/// Errors that accept(2) passes on from the connection it would have returned; the next one may be well.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EINTR
                | libc::ECONNABORTED
                | libc::EPROTO
                | libc::ENETDOWN
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
        )
    )
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    fn duck(length: Duration) -> (Shutdown, LameDuck) {
        let shutdown = Shutdown::new().expect("a pipe");
        let duck = LameDuck::new(&shutdown, length);
        (shutdown, duck)
    }

    #[test]
    fn it_accepts_until_halfway() {
        let (shutdown, duck) = duck(Duration::from_millis(400));
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address");
        let server = thread::spawn(move || {
            let mut accepted = Vec::new();
            while let Some((stream, _)) = duck.accept(&listener).expect("accept") {
                accepted.push((duck.phase(), stream));
            }
            (accepted.len(), accepted.last().map(|(phase, _)| *phase), duck.phase())
        });
        let _first = TcpStream::connect(address).expect("while serving");
        shutdown.request();
        let _second = TcpStream::connect(address).expect("in the lame-duck time");
        let (count, phase, end) = server.join().expect("no panic");
        assert_eq!((count, phase, end), (2, Some(Phase::LameDuck), Phase::Leaving));
        assert!(shutdown.elapsed().expect("requested") >= Duration::from_millis(200));
    }

    #[test]
    fn an_idle_connection_is_let_go_when_it_is_over_and_a_busy_one_is_not() {
        let (shutdown, duck) = duck(Duration::from_millis(50));
        let (idle, _idle_peer) = std::os::unix::net::UnixStream::pair().expect("pair");
        let (mut busy, mut busy_peer) = std::os::unix::net::UnixStream::pair().expect("pair");
        let connection = duck.connection();
        busy_peer.write_all(b"x").expect("write");
        assert!(connection.await_request(&busy).expect("poll"));
        shutdown.request();
        assert!(connection.is_closing());
        assert!(!connection.await_request(&idle).expect("poll"));
        assert_eq!(duck.phase(), Phase::Over);
        // A request that came in time is served, however late it is looked at.
        assert!(connection.await_request(&busy).expect("poll"));
        busy.read_exact(&mut [0]).expect("read");
        drop(busy_peer);
        assert!(connection.await_request(&busy).expect("the end of the stream is readable"));
    }

    #[test]
    fn it_is_idle_when_the_last_connection_is_dropped() {
        let (_shutdown, duck) = duck(LONG);
        assert!(duck.wait_idle(Duration::ZERO));
        let (one, two) = (duck.connection(), duck.connection());
        assert!(!duck.wait_idle(Duration::ZERO));
        drop(one);
        let server = thread::spawn(move || drop(two));
        assert!(duck.wait_idle(LONG));
        server.join().expect("no panic");
    }

    #[test]
    fn a_length_beyond_the_clock_never_ends() {
        let (shutdown, duck) = duck(Duration::MAX);
        shutdown.request();
        assert_eq!(duck.phase(), Phase::LameDuck);
        assert_eq!(duck.header(), Some(("connection", "close")));
    }

    #[cfg(feature = "tokio")]
    #[test]
    fn tasks_see_the_same() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (shutdown, duck) = duck(Duration::from_millis(100));
        let work = async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
            let _client = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
            assert!(duck.tokio_accept(&listener).await.expect("accept").is_some());
            shutdown.request();
            assert!(duck.tokio_accept(&listener).await.expect("accept").is_none());
            assert!(duck.phase() >= Phase::Leaving);
            duck.over().await;
            assert_eq!(duck.phase(), Phase::Over);
        };
        runtime.block_on(async { tokio::time::timeout(LONG, work).await.expect("in time") });
    }
}
