//! One connection, and as much of HTTP/1.1 as it takes to ask and to judge the answer.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;

use super::Target;

/// How a request failed. Every failed request is in exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// Nobody listens: ECONNREFUSED, or a unix socket's path that is gone.
    ConnectRefused,
    /// The connection was reset before connect() was done.
    ConnectReset,
    /// It was not accepted into the backlog in time.
    ConnectTimeout,
    /// Any other failure to connect; most likely this machine ran out of ports or descriptors.
    ConnectOther,
    /// The request could not be written.
    Write,
    /// Reset before the first byte of an answer.
    ResetBefore,
    /// Closed before the first byte of an answer.
    ClosedBefore,
    /// Reset within the answer.
    ResetWithin,
    /// Closed within the answer.
    ClosedWithin,
    /// The answer was not there, or not complete, in time.
    ResponseTimeout,
    /// Not an answer of HTTP/1.1 with a Content-Length.
    Malformed,
    /// A status other than 2xx.
    BadStatus,
    /// A body without a readable first word, or more of it than was announced.
    BadBody,
}

impl Class {
    /// Every class, in order.
    pub const ALL: [Self; 13] = [
        Self::ConnectRefused,
        Self::ConnectReset,
        Self::ConnectTimeout,
        Self::ConnectOther,
        Self::Write,
        Self::ResetBefore,
        Self::ClosedBefore,
        Self::ResetWithin,
        Self::ClosedWithin,
        Self::ResponseTimeout,
        Self::Malformed,
        Self::BadStatus,
        Self::BadBody,
    ];
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConnectRefused => "connect refused",
            Self::ConnectReset => "reset while connecting",
            Self::ConnectTimeout => "connect timed out",
            Self::ConnectOther => "connect failed",
            Self::Write => "request could not be written",
            Self::ResetBefore => "reset before the answer",
            Self::ClosedBefore => "closed before the answer",
            Self::ResetWithin => "reset within the answer",
            Self::ClosedWithin => "closed within the answer",
            Self::ResponseTimeout => "answer timed out",
            Self::Malformed => "malformed answer",
            Self::BadStatus => "bad status",
            Self::BadBody => "bad body",
        })
    }
}

/// A failed request: its class, and the details for a person.
#[derive(Debug, thiserror::Error)]
#[error("{class}: {detail}")]
pub struct Failure {
    /// How it failed.
    pub class: Class,
    /// More about it.
    pub detail: String,
}

impl Failure {
    fn new(class: Class, detail: impl fmt::Display) -> Self {
        Self { class, detail: detail.to_string() }
    }
}

/// What is left of a good answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// The body's first word.
    pub(super) word: String,
    /// The server said that it closes the connection.
    pub(super) closes: bool,
}

/// The longest head that is read.
const HEAD: usize = 16 * 1024;

/// The longest body that is read.
const BODY: usize = 64 * 1024 * 1024;

/// The shortest timeout set on a socket: zero would mean none at all.
const TICK: Duration = Duration::from_millis(1);

/// An open connection.
#[derive(Debug)]
pub(super) enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Connection {
    pub(super) fn open(target: &Target, deadline: Instant) -> Result<Self, Failure> {
        let connection = match target {
            Target::Tcp(address) => TcpStream::connect_timeout(address, left(deadline)).and_then(|stream| {
                stream.set_nodelay(true)?;
                Ok(Self::Tcp(stream))
            }),
            Target::Unix(path) => connect_unix(path, deadline).map(Self::Unix),
        };
        connection.map_err(|error| Failure::new(connect_class(error.kind()), error))
    }

    /// Writes one request and reads one answer.
    pub(super) fn exchange(&mut self, path: &str, keeps: bool, deadline: Instant) -> Result<Answer, Failure> {
        let persistence = if keeps { "keep-alive" } else { "close" };
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: {persistence}\r\n\r\n");
        self.write(request.as_bytes(), deadline).map_err(|error| Failure::new(Class::Write, error))?;

        let mut received = Vec::with_capacity(512);
        let body_at = loop {
            if let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if received.len() > HEAD {
                return Err(Failure::new(Class::Malformed, "a head without an end"));
            }
            self.read_more(&mut received, deadline)?;
        };
        let head = Head::parse(&received[..body_at])?;
        while received.len() < body_at + head.length {
            self.read_more(&mut received, deadline)?;
        }
        if received.len() > body_at + head.length {
            return Err(Failure::new(Class::BadBody, "more of it than was announced"));
        }
        let body = String::from_utf8_lossy(&received[body_at..]);
        if !(200..300).contains(&head.status) {
            let line = body.lines().next().unwrap_or_default();
            return Err(Failure::new(Class::BadStatus, format_args!("{} {line:.120}", head.status)));
        }
        match body.split_whitespace().next() {
            Some(word) if !word.contains(char::REPLACEMENT_CHARACTER) => {
                Ok(Answer { word: word.chars().take(64).collect(), closes: head.closes })
            }
            _ => Err(Failure::new(Class::BadBody, "no readable first word")),
        }
    }

    fn write(&mut self, bytes: &[u8], deadline: Instant) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => {
                stream.set_write_timeout(Some(left(deadline)))?;
                stream.write_all(bytes)
            }
            Self::Unix(stream) => {
                stream.set_write_timeout(Some(left(deadline)))?;
                stream.write_all(bytes)
            }
        }
    }

    /// Appends at least one byte to `received`.
    fn read_more(&mut self, received: &mut Vec<u8>, deadline: Instant) -> Result<(), Failure> {
        let begun = !received.is_empty();
        let mut chunk = [0; 16 * 1024];
        let read = loop {
            if deadline <= Instant::now() {
                break Err(ErrorKind::TimedOut.into());
            }
            match self.read(&mut chunk, left(deadline)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        match read {
            Ok(0) if begun => Err(Failure::new(Class::ClosedWithin, format_args!("after {} bytes", received.len()))),
            Ok(0) => Err(Failure::new(Class::ClosedBefore, "end of file")),
            Ok(count) => {
                received.extend_from_slice(&chunk[..count]);
                Ok(())
            }
            Err(error) => {
                let class = match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => Class::ResponseTimeout,
                    _ if begun => Class::ResetWithin,
                    _ => Class::ResetBefore,
                };
                Err(Failure::new(class, format_args!("{error} after {} bytes", received.len())))
            }
        }
    }

    fn read(&mut self, chunk: &mut [u8], timeout: Duration) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => {
                stream.set_read_timeout(Some(timeout))?;
                stream.read(chunk)
            }
            Self::Unix(stream) => {
                stream.set_read_timeout(Some(timeout))?;
                stream.read(chunk)
            }
        }
    }
}

pub(super) fn connect_class(kind: ErrorKind) -> Class {
    match kind {
        ErrorKind::ConnectionRefused | ErrorKind::NotFound => Class::ConnectRefused,
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => Class::ConnectReset,
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Class::ConnectTimeout,
        _ => Class::ConnectOther,
    }
}

/// What the head of an answer says (RFC 9112).
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    length: usize,
    closes: bool,
}

impl Head {
    fn parse(bytes: &[u8]) -> Result<Self, Failure> {
        let malformed = |what: &str| Failure::new(Class::Malformed, what);
        let text = std::str::from_utf8(bytes).map_err(|_| malformed("a head that is not text"))?;
        let mut lines = text.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.strip_prefix("HTTP/1.1 "))
            .and_then(|rest| rest.get(..3))
            .and_then(|code| code.parse().ok())
            .ok_or_else(|| malformed("no status line of HTTP/1.1"))?;
        let (mut length, mut closes) = (None, false);
        for line in lines.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').ok_or_else(|| malformed("a header without a colon"))?;
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.trim().parse().map_err(|_| malformed("a content-length that is no number"))?);
            } else if name.eq_ignore_ascii_case("connection") {
                closes |= value.split(',').any(|token| token.trim().eq_ignore_ascii_case("close"));
            }
        }
        let length = length.ok_or_else(|| malformed("no content-length"))?;
        if length > BODY {
            return Err(malformed("a content-length beyond all bounds"));
        }
        Ok(Self { status, length, closes })
    }
}

/// The time left, never zero.
fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(TICK)
}

/// Connects to a unix socket with a deadline, which std cannot: a full backlog makes connect() wait for SO_SNDTIMEO,
/// then fail with EAGAIN (unix(7), socket(7)).
fn connect_unix(path: &Path, deadline: Instant) -> io::Result<UnixStream> {
    let address = match path.as_os_str().as_bytes().strip_prefix(b"@") {
        Some(name) => UnixAddr::new_abstract(name)?,
        None => UnixAddr::new(path)?,
    };
    let fd = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    loop {
        let micros = i64::try_from(left(deadline).as_micros()).unwrap_or(i64::MAX);
        setsockopt(&fd, sockopt::SendTimeout, &TimeVal::microseconds(micros))?;
        match socket::connect(fd.as_raw_fd(), &address) {
            Ok(()) => return Ok(UnixStream::from(fd)),
            // Interrupted before anything happened: a unix socket connects at once or not at all.
            Err(Errno::EINTR) if Instant::now() < deadline => {}
            Err(error) => return Err(error.into()),
        }
    }
}
