//! The listeners that a service was started with, as in sd_listen_fds(3).

use std::env;
use std::error::Error;
use std::fmt;
use std::io;
use std::net::{self, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::net::{self as unix, UnixDatagram, UnixListener, UnixStream};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};

use super::os::{self, SocketKind};

/// The listeners that this process was started with, by the names that the config gives them.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use zdsup::service::Listeners;
///
/// let mut listeners = Listeners::take()?;
/// let http = listeners.tcp_or_bind("http", "127.0.0.1:8080")?;
/// let admin = listeners.unix("admin")?;
/// # Ok(())
/// # }
/// ```
///
/// They are shared with the generations before and after this one. So do not call shutdown(2) on them, do not unlink
/// their paths, and change no options on them. To stop accepting, drop them.
#[derive(Debug, Default)]
pub struct Listeners {
    left: Vec<Inherited>,
    /// Whether any were passed, be they left or not.
    passed: bool,
}

#[derive(Debug)]
struct Inherited {
    name: String,
    fd: OwnedFd,
}

/// Why a listener cannot be had.
#[derive(Debug)]
#[non_exhaustive]
pub enum ListenError {
    /// [`Listeners::take`] was called before.
    AlreadyTaken,
    /// A variable of the environment is not what it should be.
    Environment {
        /// Which.
        variable: &'static str,
        /// What it says.
        value: String,
        /// What it should be.
        wanted: String,
    },
    /// A descriptor that the environment announces is not there.
    Descriptor {
        /// Its number.
        fd: RawFd,
        /// What is wrong with it.
        error: io::Error,
    },
    /// None of this name is left.
    NotFound {
        /// The name.
        name: String,
        /// Those that are left.
        left: Vec<String>,
    },
    /// The one of this name is of another kind.
    WrongKind {
        /// The name.
        name: String,
        /// What was asked for.
        wanted: &'static str,
        /// What it is.
        found: String,
    },
    /// It could not be bound, or not be made what the runtime needs.
    Io {
        /// The name.
        name: String,
        /// Why.
        error: io::Error,
    },
}

impl Listeners {
    /// Takes the listeners that this process was started with: none, if it was started by hand. Works once.
    ///
    /// Call it early in `main`. The environment stays as it is (changing it is unsound once there are threads); the
    /// descriptors become close-on-exec, and LISTEN_PID keeps children from believing that they have them.
    ///
    /// # Errors
    /// They have been taken before, or the environment is not as sd_listen_fds(3) says.
    pub fn take() -> Result<Self, ListenError> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        if TAKEN.swap(true, Ordering::AcqRel) {
            return Err(ListenError::AlreadyTaken);
        }
        let variable = |name| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
        let announced =
            Announced { pid: variable("LISTEN_PID"), fds: variable("LISTEN_FDS"), names: variable("LISTEN_FDNAMES") };
        let names = announced.read(process::id())?;
        let mut left = Vec::with_capacity(names.len());
        for (fd, name) in (os::FIRST_FD..).zip(names) {
            let fd = os::adopt(fd).map_err(|error| ListenError::Descriptor { fd, error })?;
            left.push(Inherited { name, fd });
        }
        Ok(Self { passed: !left.is_empty(), left })
    }

    /// Whether none were passed: the process was started by hand, or without any.
    #[must_use]
    pub fn none_passed(&self) -> bool {
        !self.passed
    }

    /// The names of those that are left, in the order of their descriptors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.left.iter().map(|inherited| inherited.name.as_str())
    }

    /// The TCP listener of this name. Of several, the first that is left.
    ///
    /// # Errors
    /// None of this name is left, or it is no TCP listener.
    pub fn tcp(&mut self, name: &str) -> Result<TcpListener, ListenError> {
        self.of_kind(name, Kind::Tcp).map(TcpListener::from)
    }

    /// The TCP listener of this name; if this process was started without any listeners, a new one at `address`.
    ///
    /// # Errors
    /// As [`Listeners::tcp`], or the address cannot be bound.
    pub fn tcp_or_bind(&mut self, name: &str, address: impl ToSocketAddrs) -> Result<TcpListener, ListenError> {
        if self.passed {
            return self.tcp(name);
        }
        TcpListener::bind(address).map_err(|error| ListenError::Io { name: name.to_owned(), error })
    }

    /// The UDP socket of this name.
    ///
    /// # Errors
    /// None of this name is left, or it is no UDP socket.
    pub fn udp(&mut self, name: &str) -> Result<UdpSocket, ListenError> {
        self.of_kind(name, Kind::Udp).map(UdpSocket::from)
    }

    /// The unix stream listener of this name.
    ///
    /// # Errors
    /// None of this name is left, or it is no unix stream listener.
    pub fn unix(&mut self, name: &str) -> Result<UnixListener, ListenError> {
        self.of_kind(name, Kind::Unix).map(UnixListener::from)
    }

    /// The unix datagram socket of this name.
    ///
    /// # Errors
    /// None of this name is left, or it is no unix datagram socket.
    pub fn unix_datagram(&mut self, name: &str) -> Result<UnixDatagram, ListenError> {
        self.of_kind(name, Kind::UnixDatagram).map(UnixDatagram::from)
    }

    /// The descriptor of this name, whatever it is: for kinds that std has no type for.
    ///
    /// # Errors
    /// None of this name is left.
    pub fn fd(&mut self, name: &str) -> Result<OwnedFd, ListenError> {
        let index = self.find(name)?;
        Ok(self.left.remove(index).fd)
    }

    /// Takes the descriptor that a former process of this service [stored](super::store()) under this name: of several,
    /// the first that is left; `None` when there is none, as in the service's first process.
    ///
    /// They come after the listeners, so choose names that no listener has.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::fs::File;
    /// use zdsup::service::{self, Listeners};
    ///
    /// let mut listeners = Listeners::take()?;
    /// let cache = match listeners.stored("cache") {
    ///     Some(fd) => File::from(fd),
    ///     None => {
    ///         let cache = File::options().read(true).write(true).create_new(true).open("/run/web/cache")?;
    ///         service::store("cache", &cache)?;
    ///         cache
    ///     }
    /// };
    /// # Ok(())
    /// # }
    /// ```
    pub fn stored(&mut self, name: &str) -> Option<OwnedFd> {
        self.fd(name).ok()
    }

    fn of_kind(&mut self, name: &str, wanted: Kind) -> Result<OwnedFd, ListenError> {
        let index = self.find(name)?;
        let fd = self.left[index].fd.as_fd();
        let wrong = |found| ListenError::WrongKind { name: name.to_owned(), wanted: wanted.words(), found };
        let socket = os::socket_kind(fd).map_err(|error| wrong(format!("no socket: {error}")))?;
        match Kind::of(socket) {
            Some(kind) if kind == wanted => Ok(self.left.remove(index).fd),
            Some(kind) => Err(wrong(kind.words().to_owned())),
            None => Err(wrong(format!("a socket of family {} and type {}", socket.domain, socket.r#type))),
        }
    }

    fn find(&self, name: &str) -> Result<usize, ListenError> {
        self.left.iter().position(|inherited| inherited.name == name).ok_or_else(|| ListenError::NotFound {
            name: name.to_owned(),
            left: self.names().map(str::to_owned).collect(),
        })
    }
}

/// Listeners as tokio types. They are made non-blocking, and need a runtime to be made in.
#[cfg(feature = "tokio")]
impl Listeners {
    /// As [`Listeners::tcp`].
    ///
    /// # Errors
    /// As [`Listeners::tcp`].
    pub fn tokio_tcp(&mut self, name: &str) -> Result<tokio::net::TcpListener, ListenError> {
        let listener = self.tcp(name)?;
        for_tokio(name, listener, |l| l.set_nonblocking(true), tokio::net::TcpListener::from_std)
    }

    /// As [`Listeners::tcp_or_bind`].
    ///
    /// # Errors
    /// As [`Listeners::tcp_or_bind`].
    pub fn tokio_tcp_or_bind(
        &mut self,
        name: &str,
        address: impl ToSocketAddrs,
    ) -> Result<tokio::net::TcpListener, ListenError> {
        let listener = self.tcp_or_bind(name, address)?;
        for_tokio(name, listener, |l| l.set_nonblocking(true), tokio::net::TcpListener::from_std)
    }

    /// As [`Listeners::udp`].
    ///
    /// # Errors
    /// As [`Listeners::udp`].
    pub fn tokio_udp(&mut self, name: &str) -> Result<tokio::net::UdpSocket, ListenError> {
        let socket = self.udp(name)?;
        for_tokio(name, socket, |s| s.set_nonblocking(true), tokio::net::UdpSocket::from_std)
    }

    /// As [`Listeners::unix`].
    ///
    /// # Errors
    /// As [`Listeners::unix`].
    pub fn tokio_unix(&mut self, name: &str) -> Result<tokio::net::UnixListener, ListenError> {
        let listener = self.unix(name)?;
        for_tokio(name, listener, |l| l.set_nonblocking(true), tokio::net::UnixListener::from_std)
    }

    /// As [`Listeners::unix_datagram`].
    ///
    /// # Errors
    /// As [`Listeners::unix_datagram`].
    pub fn tokio_unix_datagram(&mut self, name: &str) -> Result<tokio::net::UnixDatagram, ListenError> {
        let socket = self.unix_datagram(name)?;
        for_tokio(name, socket, |s| s.set_nonblocking(true), tokio::net::UnixDatagram::from_std)
    }
}

#[cfg(feature = "tokio")]
fn for_tokio<S, T>(
    name: &str,
    socket: S,
    prepare: impl FnOnce(&S) -> io::Result<()>,
    convert: impl FnOnce(S) -> io::Result<T>,
) -> Result<T, ListenError> {
    prepare(&socket).and_then(|()| convert(socket)).map_err(|error| ListenError::Io { name: name.to_owned(), error })
}

/// A listener that [`LameDuck::accept`](super::LameDuck::accept) can accept from.
pub trait Accept: AsFd + sealed::Sealed {
    /// A connection and who made it.
    type Accepted;

    /// Accepts without waiting.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when there is nothing to accept; else those of accept(2).
    #[doc(hidden)]
    fn try_accept(&self) -> io::Result<Self::Accepted>;
}

impl Accept for TcpListener {
    type Accepted = (TcpStream, net::SocketAddr);

    fn try_accept(&self) -> io::Result<Self::Accepted> {
        self.set_nonblocking(true)?;
        self.accept()
    }
}

impl Accept for UnixListener {
    type Accepted = (UnixStream, unix::SocketAddr);

    fn try_accept(&self) -> io::Result<Self::Accepted> {
        self.set_nonblocking(true)?;
        self.accept()
    }
}

/// A listener that [`LameDuck::tokio_accept`](super::LameDuck::tokio_accept) can accept from.
#[cfg(feature = "tokio")]
pub trait TokioAccept: sealed::Sealed {
    /// A connection and who made it.
    type Accepted;

    /// Accepts one. Cancel-safe.
    #[doc(hidden)]
    fn accept_one(&self) -> impl Future<Output = io::Result<Self::Accepted>> + Send;
}

#[cfg(feature = "tokio")]
impl TokioAccept for tokio::net::TcpListener {
    type Accepted = (tokio::net::TcpStream, net::SocketAddr);

    async fn accept_one(&self) -> io::Result<Self::Accepted> {
        self.accept().await
    }
}

#[cfg(feature = "tokio")]
impl TokioAccept for tokio::net::UnixListener {
    type Accepted = (tokio::net::UnixStream, tokio::net::unix::SocketAddr);

    async fn accept_one(&self) -> io::Result<Self::Accepted> {
        self.accept().await
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for std::net::TcpListener {}
    impl Sealed for std::os::unix::net::UnixListener {}
    #[cfg(feature = "tokio")]
    impl Sealed for tokio::net::TcpListener {}
    #[cfg(feature = "tokio")]
    impl Sealed for tokio::net::UnixListener {}
}

/// What the environment says about the descriptors.
struct Announced {
    pid: Option<String>,
    fds: Option<String>,
    names: Option<String>,
}

impl Announced {
    /// The name of each descriptor. None at all when they are meant for another process.
    fn read(self, own_pid: u32) -> Result<Vec<String>, ListenError> {
        let Some(fds) = self.fds else { return Ok(Vec::new()) };
        if let Some(pid) = self.pid {
            // A wrapper between the starter and us changes the pid: then it must leave the variable out.
            let pid: u32 = pid.parse().map_err(|_| wrong("LISTEN_PID", &pid, "a process number"))?;
            if pid != own_pid {
                return Ok(Vec::new());
            }
        }
        let count: u16 = fds.parse().map_err(|_| wrong("LISTEN_FDS", &fds, "a number of descriptors"))?;
        let count = usize::from(count);
        match self.names {
            // What sd_listen_fds_with_names(3) calls those without a name.
            None => Ok(vec!["unknown".to_owned(); count]),
            Some(names) if count == 0 && names.is_empty() => Ok(Vec::new()),
            Some(names) => {
                let each: Vec<String> = names.split(':').map(str::to_owned).collect();
                if each.len() == count {
                    Ok(each)
                } else {
                    Err(wrong("LISTEN_FDNAMES", &names, format!("{count} names with colons between them")))
                }
            }
        }
    }
}

fn wrong(variable: &'static str, value: &str, wanted: impl Into<String>) -> ListenError {
    ListenError::Environment { variable, value: value.to_owned(), wanted: wanted.into() }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tcp,
    Udp,
    Unix,
    UnixDatagram,
    UnixSeqpacket,
    NotListening,
}

impl Kind {
    fn of(socket: SocketKind) -> Option<Self> {
        match (socket.domain, socket.r#type, socket.listening) {
            (libc::AF_INET | libc::AF_INET6, libc::SOCK_STREAM, true) => Some(Self::Tcp),
            (libc::AF_INET | libc::AF_INET6, libc::SOCK_DGRAM, _) => Some(Self::Udp),
            (libc::AF_UNIX, libc::SOCK_STREAM, true) => Some(Self::Unix),
            (libc::AF_UNIX, libc::SOCK_DGRAM, _) => Some(Self::UnixDatagram),
            (libc::AF_UNIX, libc::SOCK_SEQPACKET, true) => Some(Self::UnixSeqpacket),
            (_, libc::SOCK_STREAM | libc::SOCK_SEQPACKET, false) => Some(Self::NotListening),
            _ => None,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Tcp => "a TCP listener",
            Self::Udp => "a UDP socket",
            Self::Unix => "a unix stream listener",
            Self::UnixDatagram => "a unix datagram socket",
            Self::UnixSeqpacket => "a unix seqpacket listener",
            Self::NotListening => "a socket that does not listen",
        }
    }
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyTaken => f.write_str("take the inherited listeners: they have been taken already"),
            Self::Environment { variable, value, wanted } => {
                write!(f, "take the inherited listeners: {variable} is {value:?}, not {wanted}")
            }
            Self::Descriptor { fd, error } => write!(f, "take the inherited listeners: descriptor {fd}: {error}"),
            Self::NotFound { name, left } if left.is_empty() => {
                write!(f, "take the listener {name:?}: none was passed to this process, or all have been taken")
            }
            Self::NotFound { name, left } => write!(f, "take the listener {name:?}: there is only {}", left.join(", ")),
            Self::WrongKind { name, wanted, found } => {
                write!(f, "take the listener {name:?} as {wanted}: it is {found}")
            }
            Self::Io { name, error } => write!(f, "set up the listener {name:?}: {error}"),
        }
    }
}

impl Error for ListenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Descriptor { error, .. } | Self::Io { error, .. } => Some(error),
            Self::AlreadyTaken | Self::Environment { .. } | Self::NotFound { .. } | Self::WrongKind { .. } => None,
        }
    }
}

impl From<ListenError> for io::Error {
    fn from(error: ListenError) -> Self {
        Self::other(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announced(pid: Option<&str>, fds: Option<&str>, names: Option<&str>) -> Result<Vec<String>, String> {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let announced = Announced { pid: owned(pid), fds: owned(fds), names: owned(names) };
        announced.read(42).map_err(|error| error.to_string())
    }

    fn strings(names: &[&str]) -> Result<Vec<String>, String> {
        Ok(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn the_environment_is_read_as_systemd_writes_it() {
        assert_eq!(announced(None, None, None), strings(&[]));
        assert_eq!(announced(Some("42"), Some("2"), Some("http:admin")), strings(&["http", "admin"]));
        assert_eq!(announced(Some("42"), Some("1"), None), strings(&["unknown"]));
        assert_eq!(announced(Some("42"), Some("0"), Some("")), strings(&[]));
        assert_eq!(announced(None, Some("1"), Some("http")), strings(&["http"]));
    }

    #[test]
    fn what_is_meant_for_another_process_is_left_alone() {
        assert_eq!(announced(Some("43"), Some("2"), Some("http:admin")), strings(&[]));
        assert_eq!(announced(Some("43"), Some("nonsense"), None), strings(&[]));
    }

    #[test]
    fn nonsense_is_named() {
        for (pid, fds, names, part) in [
            (Some("x"), "1", None, "LISTEN_PID is \"x\""),
            (Some("42"), "-1", None, "LISTEN_FDS is \"-1\""),
            (Some("42"), "99999999", None, "LISTEN_FDS is \"99999999\""),
            (Some("42"), "2", Some("http"), "LISTEN_FDNAMES is \"http\", not 2 names"),
            (Some("42"), "1", Some("a:b"), "LISTEN_FDNAMES is \"a:b\", not 1 names"),
        ] {
            let error = announced(pid, Some(fds), names).expect_err(part);
            assert!(error.contains(part), "{error}");
        }
    }

    fn listeners() -> Listeners {
        let named = |name: &str, fd: OwnedFd| Inherited { name: name.to_owned(), fd };
        let (stream, _) = UnixStream::pair().expect("pair");
        Listeners {
            passed: true,
            left: vec![
                named("http", TcpListener::bind("127.0.0.1:0").expect("bind").into()),
                named("dns", UdpSocket::bind("127.0.0.1:0").expect("bind").into()),
                named("http", TcpListener::bind("127.0.0.1:0").expect("bind").into()),
                named("log", UnixDatagram::unbound().expect("socket").into()),
                named("peer", stream.into()),
            ],
        }
    }

    #[test]
    fn each_is_taken_once_by_name_and_kind() {
        let mut listeners = listeners();
        let first = listeners.tcp("http").expect("the first");
        let second = listeners.tcp("http").expect("the second");
        assert_ne!(first.local_addr().expect("address"), second.local_addr().expect("address"));
        listeners.udp("dns").expect("udp");
        listeners.unix_datagram("log").expect("unix datagram");
        assert_eq!(listeners.names().collect::<Vec<_>>(), ["peer"]);
        listeners.stored("peer").expect("any kind");
        assert!(listeners.stored("peer").is_none());
        let error = listeners.tcp("http").expect_err("none is left").to_string();
        assert!(error.contains("all have been taken"), "{error}");
    }

    #[test]
    fn errors_say_what_is_there_and_take_nothing() {
        let mut listeners = listeners();
        let error = listeners.tcp("https").expect_err("no such name").to_string();
        assert_eq!(error, "take the listener \"https\": there is only http, dns, http, log, peer");
        let error = listeners.udp("http").expect_err("another kind").to_string();
        assert_eq!(error, "take the listener \"http\" as a UDP socket: it is a TCP listener");
        let error = listeners.unix("peer").expect_err("not listening").to_string();
        assert!(error.ends_with("it is a socket that does not listen"), "{error}");
        assert_eq!(listeners.names().count(), 5);
    }

    #[test]
    fn it_binds_only_when_nothing_was_passed() {
        listeners().tcp_or_bind("https", "127.0.0.1:0").expect_err("a wrong name is a mistake, not a wish to bind");
        let mut none = Listeners::default();
        assert!(none.none_passed());
        none.tcp_or_bind("https", "127.0.0.1:0").expect("bound");
    }
}
