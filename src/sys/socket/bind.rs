//! Binding, and finding out why it does not work.

use std::fs;
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{SockFlag, SockaddrLike, socket};

use super::error::OURSELVES;
use super::file::{self, FILE_OPTIONS, Occupant, SocketFile};
use super::options::set_int;
use super::{BindCause, BindError, Bound, Endpoint, Options};
use crate::sys::{Pid, answer, diag, proc};

/// How long to look for whoever holds an address.
const SEARCH: Duration = Duration::from_secs(2);

/// Binds a socket, blocking and close-on-exec, and listens on it where its kind does.
///
/// TCP gets SO_REUSEADDR, `[::]` takes IPv4 too unless told otherwise. A unix socket's file that nobody listens on is
/// replaced; one that somebody does is in use; any other file is an error and never touched. Its mode and owner are set
/// before anyone can connect.
///
/// To name who holds an address in use, it looks through /proc: run it off the loop.
///
/// # Errors
/// A [`BindError`]; nothing has changed then.
pub fn bind(endpoint: &Endpoint, options: &Options) -> Result<Bound, BindError> {
    bind_with(endpoint, options, |_| Ok(()))
}

/// As [`bind`], with something done to the socket when it is bound and does not listen yet. What that fails with is
/// explained like a failure of listen(2).
///
/// # Errors
/// As [`bind`].
pub(in crate::sys) fn bind_with(
    endpoint: &Endpoint,
    options: &Options,
    before_listen: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
) -> Result<Bound, BindError> {
    attempt(endpoint, options, before_listen).map_err(|(cause, error)| {
        let holder = match cause {
            BindCause::InUse | BindCause::MixedReusePort { .. } => holder(endpoint),
            _ => None,
        };
        BindError { endpoint: endpoint.clone(), error, holder, cause }
    })
}

/// Whether this host can do IPv6 at all: a bare port means `[::]` then, else `0.0.0.0`.
#[must_use]
pub fn has_ipv6() -> bool {
    UdpSocket::bind("[::]:0").is_ok()
}

/// bind(2); EINVAL for a socket that has an address.
pub(in crate::sys) fn bind_to(fd: &OwnedFd, address: &dyn SockaddrLike) -> io::Result<()> {
    // SAFETY: the address is live, and as long as it says.
    answer(unsafe { libc::bind(fd.as_raw_fd(), address.as_ptr(), address.len()) }).map(drop)
}

/// connect(2).
pub(in crate::sys) fn connect_to(fd: &OwnedFd, address: &dyn SockaddrLike) -> io::Result<()> {
    // SAFETY: the address is live, and as long as it says.
    answer(unsafe { libc::connect(fd.as_raw_fd(), address.as_ptr(), address.len()) }).map(drop)
}

/// listen(2), which caps what is beyond net.core.somaxconn.
pub(super) fn listen_on(fd: &OwnedFd, backlog: u32) -> io::Result<()> {
    let backlog = libc::c_int::try_from(backlog).unwrap_or(libc::c_int::MAX);
    // SAFETY: listen takes two integers.
    answer(unsafe { libc::listen(fd.as_raw_fd(), backlog) }).map(drop)
}

type Failure = (BindCause, io::Error);

fn attempt(
    endpoint: &Endpoint,
    options: &Options,
    before_listen: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
) -> Result<Bound, Failure> {
    let address = endpoint.address().map_err(|error| match error.raw_os_error() {
        Some(libc::ENAMETOOLONG) => (BindCause::PathTooLong, error),
        _ => (BindCause::Other, error),
    })?;
    let fd = fresh(endpoint).map_err(|error| match errno(&error) {
        Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT => (BindCause::FamilyMissing, error),
        _ => (BindCause::Other, error),
    })?;
    options.set(fd.as_fd(), endpoint).map_err(|(name, error)| (BindCause::Option(name), error))?;
    let file = match endpoint.path() {
        Some(path) => Some(bind_path(&fd, &*address, endpoint, path, options)?),
        None => {
            bind_to(&fd, &*address).map_err(|error| explain(endpoint, options, error))?;
            None
        }
    };
    let mut bound = Bound::new(fd, endpoint.clone(), file, options.backlog);
    let prepared = before_listen(bound.fd.as_fd());
    let listening = || if endpoint.is_stream() { listen_on(&bound.fd, options.backlog) } else { Ok(()) };
    match prepared.and_then(|()| listening()).and_then(|()| Endpoint::of(bound.fd.as_fd())) {
        Ok(actual) => {
            bound.endpoint = actual;
            Ok(bound)
        }
        Err(error) => {
            bound.remove_files();
            Err(explain(endpoint, options, error))
        }
    }
}

/// A socket with what is always set.
fn fresh(endpoint: &Endpoint) -> io::Result<OwnedFd> {
    let (family, kind) = endpoint.family_and_type();
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if let Endpoint::Tcp(_) = endpoint {
        set_int(fd.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    }
    Ok(fd)
}

fn bind_path(
    fd: &OwnedFd,
    address: &dyn SockaddrLike,
    endpoint: &Endpoint,
    path: &Path,
    options: &Options,
) -> Result<SocketFile, Failure> {
    let fail = |error: io::Error| explain(endpoint, options, error);
    match file::clear(path, endpoint.family_and_type().1).map_err(fail)? {
        Occupant::Nobody => {}
        Occupant::Live => return Err((BindCause::InUse, Errno::EADDRINUSE.into())),
        Occupant::Untouchable(error) => return Err((BindCause::NotOurFile(path.to_owned()), error)),
        Occupant::NotASocket => return Err((BindCause::NotASocket(path.to_owned()), Errno::EEXIST.into())),
    }
    if options.mode.is_some() {
        file::lock_before_bind(fd).map_err(fail)?;
    }
    bind_to(fd, address).map_err(fail)?;
    SocketFile::bound(path, options).map_err(|error| {
        let _ = fs::remove_file(path);
        (BindCause::Option(FILE_OPTIONS), error)
    })
}

/// What the kernel's word means here (bind(2), ip(7), unix(7)).
fn explain(endpoint: &Endpoint, options: &Options, error: io::Error) -> Failure {
    let cause = match (errno(&error), endpoint) {
        (Errno::EADDRINUSE, Endpoint::Tcp(_) | Endpoint::Udp(_)) if options.reuse_port => {
            BindCause::MixedReusePort { ours: true }
        }
        (Errno::EADDRINUSE, Endpoint::Tcp(_)) if would_bind_with_reuse_port(endpoint, options) => {
            BindCause::MixedReusePort { ours: false }
        }
        (Errno::EADDRINUSE, _) => BindCause::InUse,
        (Errno::EADDRNOTAVAIL, _) => BindCause::NotOurAddress,
        (Errno::EACCES, Endpoint::Tcp(address) | Endpoint::Udp(address)) => match first_unprivileged_port() {
            first_free if address.port() < first_free => BindCause::PrivilegedPort { first_free },
            _ => BindCause::Other,
        },
        (errno, Endpoint::Unix { .. }) => match (errno, endpoint.path().and_then(Path::parent)) {
            (Errno::ENOENT | Errno::ENOTDIR, Some(parent)) => BindCause::DirectoryMissing(shown(parent)),
            (Errno::EACCES | Errno::EPERM | Errno::EROFS, Some(parent)) => {
                BindCause::DirectoryNotWritable(shown(parent))
            }
            (Errno::ENAMETOOLONG, _) => BindCause::PathTooLong,
            _ => BindCause::Other,
        },
        _ => BindCause::Other,
    };
    (cause, error)
}

/// Whether it is only SO_REUSEPORT that is missing. Nothing ever arrives at the socket that is tried: it never listens.
fn would_bind_with_reuse_port(endpoint: &Endpoint, options: &Options) -> bool {
    let options = Options { reuse_port: true, ..options.clone() };
    let bound = || -> Option<()> {
        let fd = fresh(endpoint).ok()?;
        options.set(fd.as_fd(), endpoint).ok()?;
        bind_to(&fd, &*endpoint.address().ok()?).ok()
    };
    bound().is_some()
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or_default())
}

fn first_unprivileged_port() -> u16 {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    text.trim().parse().unwrap_or(1024)
}

/// The parent of a bare file name is the current directory, not nothing.
fn shown(directory: &Path) -> std::path::PathBuf {
    if directory.as_os_str().is_empty() { ".".into() } else { directory.to_owned() }
}

/// Who holds the address: we ourselves, else the oldest process that has one of its sockets open, as far as we may see.
fn holder(endpoint: &Endpoint) -> Option<String> {
    let until = Instant::now() + SEARCH;
    let inodes = diag::listener_inodes(endpoint).ok().filter(|inodes| !inodes.is_empty())?;
    let mut processes = proc::all().ok()?;
    // What we hold our children hold as well.
    processes.sort_unstable_by_key(|pid| (*pid != Pid::own(), *pid));
    let found = processes
        .into_iter()
        .take_while(|_| Instant::now() < until)
        .find(|pid| proc::socket_inodes(*pid).is_ok_and(|open| open.iter().any(|inode| inodes.contains(inode))))?;
    if found == Pid::own() {
        return Some(OURSELVES.to_owned());
    }
    let name = proc::name(found).ok()?;
    Some(format!("{name}, pid {found}"))
}
