//! Listeners: where they listen, with what options, and the care of them while they are bound.
//!
//! A [`Bound`] socket is in blocking mode and close-on-exec. It stays bound for as long as anybody holds it; the file of
//! a unix socket stays until [`Bound::remove_files`] is called, so that a successor finds it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::fcntl::{F_GETFL, F_SETFD, F_SETFL, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt};

use file::SocketFile;

mod bind;
mod endpoint;
mod error;
mod file;
mod options;

pub use bind::{bind, has_ipv6};
pub(in crate::sys) use bind::{bind_to, bind_with, connect_to};
pub use endpoint::{Endpoint, UnixKind, UnixName};
pub use error::{BindCause, BindError};
pub use options::Options;
pub(in crate::sys) use options::{get_int, set_int};

/// A socket that is bound, and listens where its kind does.
#[derive(Debug)]
pub struct Bound {
    /// The socket.
    pub fd: OwnedFd,
    /// What it is bound to: a port that was chosen by the kernel is here.
    pub endpoint: Endpoint,
    /// Of a unix socket with a path.
    file: Option<SocketFile>,
    /// What listen() was told last.
    backlog: AtomicU32,
}

impl Bound {
    /// Takes a socket that somebody else bound: systemd, or a predecessor. Its file, if it has one, is guarded like one
    /// of ours, but never removed.
    ///
    /// # Errors
    /// `Unsupported` for what is no socket of a kind that we know; `InvalidInput` for one that is not bound, or is of a
    /// kind that listens and does not.
    pub fn from_inherited(fd: OwnedFd) -> io::Result<Self> {
        if Endpoint::of(fd.as_fd())?.is_stream() && !getsockopt(&fd, sockopt::AcceptConn)? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket does not listen"));
        }
        // Without its file (it may lie in another mount namespace) it works all the same, unguarded.
        Self::taken(fd, SocketFile::inherited)
    }

    /// Takes a socket that a predecessor of this supervisor bound, or was passed. `ours`: it bound it. The socket may
    /// have been shut down since.
    ///
    /// # Errors
    /// `Unsupported` for what is no socket of a kind that we know; `InvalidInput` for one that is not bound.
    pub fn adopt(fd: OwnedFd, ours: bool) -> io::Result<Self> {
        Self::taken(fd, |path| SocketFile::adopted(path, ours))
    }

    fn taken(fd: OwnedFd, file: impl FnOnce(&Path) -> io::Result<SocketFile>) -> io::Result<Self> {
        fcntl(&fd, F_SETFD(FdFlag::FD_CLOEXEC))?;
        let endpoint = Endpoint::of(fd.as_fd())?;
        let file = endpoint.path().and_then(|path| file(path).ok());
        let backlog = backlog_of(&fd, &endpoint);
        Ok(Self::new(fd, endpoint, file, backlog))
    }

    /// listen() once more, which heals a TCP listener that was shut down. A unix one cannot be healed, although this
    /// says nothing of it; one that does not listen is left alone.
    ///
    /// # Errors
    /// Those of listen(2); EADDRINUSE if its port was chosen by the kernel and is another's by now.
    pub fn listen_again(&self) -> io::Result<()> {
        if !self.endpoint.is_stream() {
            return Ok(());
        }
        if let Endpoint::Tcp(_) = self.endpoint {
            // A port that the kernel chose is lost with the shutdown, and would be chosen anew. One that was asked for
            // stays, and then this is EINVAL.
            match bind::bind_to(&self.fd, &*self.endpoint.address()?) {
                Err(error) if error.raw_os_error() != Some(libc::EINVAL) => return Err(error),
                _ => {}
            }
        }
        bind::listen_on(&self.fd, self.backlog.load(Ordering::Relaxed))
    }

    /// Another length for the queue of connections: a second listen() only sets the backlog.
    ///
    /// # Errors
    /// Those of listen(2).
    pub(in crate::sys) fn set_backlog(&self, backlog: u32) -> io::Result<()> {
        self.backlog.store(backlog, Ordering::Relaxed);
        bind::listen_on(&self.fd, backlog)
    }

    /// Whether O_NONBLOCK is set, which all who hold the socket share.
    ///
    /// # Errors
    /// None is known.
    pub fn is_nonblocking(&self) -> io::Result<bool> {
        Ok(self.status_flags()?.contains(OFlag::O_NONBLOCK))
    }

    /// Sets or clears O_NONBLOCK, for all who hold the socket.
    ///
    /// # Errors
    /// None is known.
    pub fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        let mut flags = self.status_flags()?;
        flags.set(OFlag::O_NONBLOCK, on);
        Ok(fcntl(&self.fd, F_SETFL(flags)).map(drop)?)
    }

    /// Whether it is reached over IPv4 although it is an IPv6 socket: bound to every address, and not to IPv6 alone.
    #[must_use]
    pub fn is_dual_stack(&self) -> bool {
        let is_any = matches!(self.endpoint, Endpoint::Tcp(address) | Endpoint::Udp(address)
            if address.is_ipv6() && address.ip().is_unspecified());
        is_any && getsockopt(&self.fd, sockopt::Ipv6V6Only).is_ok_and(|only_v6| !only_v6)
    }

    /// Connections waiting to be accepted, and how many may wait; `None` where there is no such queue or it cannot be
    /// known. For a unix socket this asks sock_diag, about this one socket.
    #[must_use]
    pub fn queue(&self) -> Option<(u32, u32)> {
        match self.endpoint {
            Endpoint::Tcp(_) => options::tcp_queue(self.fd.as_fd()).ok(),
            Endpoint::Unix { kind: UnixKind::Stream | UnixKind::Seqpacket, .. } => {
                super::diag::unix_queue(self.inode().ok()?).ok()
            }
            _ => None,
        }
    }

    /// How many segments the kernel has dropped at this socket, for whatever reason; it wraps around.
    ///
    /// # Errors
    /// None is known.
    pub(in crate::sys) fn drops(&self) -> io::Result<u32> {
        options::drops(self.fd.as_fd())
    }

    /// Its inode, as sock_diag and /proc/PID/fd name it.
    ///
    /// # Errors
    /// None is known.
    pub fn inode(&self) -> io::Result<u64> {
        Ok(std::fs::metadata(super::fd_link(self.fd.as_fd()))?.ino())
    }

    /// Whether anyone has shut it down: a listening socket and one for messages poll EPOLLHUP then.
    #[must_use]
    pub fn is_shut_down(&self) -> bool {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::empty())];
        let hung_up = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| events.contains(PollFlags::POLLHUP));
        poll(&mut fds, PollTimeout::ZERO).is_ok() && hung_up(&fds[0])
    }

    /// Puts the file of a unix socket back, when it was removed or renamed and nothing else took its place. Returns
    /// whether it did.
    ///
    /// # Errors
    /// Those of link(2); `NotFound` without a hidden link to put it back from.
    pub fn restore_path(&self) -> io::Result<bool> {
        self.file.as_ref().map_or(Ok(false), SocketFile::restore)
    }

    /// Removes the file of a unix socket, if it is still this socket's and we made it, and the hidden link.
    pub fn remove_files(&self) {
        if let Some(file) = &self.file {
            file.remove();
        }
    }

    /// Sets what can be set on a live socket. Returns the names of the options that differ and cannot be. A buffer size
    /// that is no longer asked for stays as it was.
    #[must_use]
    pub fn apply(&self, options: &Options) -> Vec<&'static str> {
        let mut refused = options.change(self.fd.as_fd(), &self.endpoint);
        if self.endpoint.is_stream() && self.backlog.swap(options.backlog, Ordering::Relaxed) != options.backlog {
            // A second listen() only sets the backlog.
            if bind::listen_on(&self.fd, options.backlog).is_err() {
                refused.push("backlog");
            }
        }
        if let Some(file) = &self.file
            && file.set_owner_and_mode(options).is_err()
        {
            refused.push(file::FILE_OPTIONS);
        }
        refused
    }

    fn new(fd: OwnedFd, endpoint: Endpoint, file: Option<SocketFile>, backlog: u32) -> Self {
        Self { fd, endpoint, file, backlog: AtomicU32::new(backlog) }
    }

    fn status_flags(&self) -> io::Result<OFlag> {
        Ok(OFlag::from_bits_retain(fcntl(&self.fd, F_GETFL)?))
    }
}

/// What listen() was told of a socket that somebody else made, as far as it can be known.
fn backlog_of(fd: &OwnedFd, endpoint: &Endpoint) -> u32 {
    let known = match endpoint {
        Endpoint::Tcp(_) => options::tcp_queue(fd.as_fd()).map(|(_, limit)| limit).ok(),
        Endpoint::Udp(_) | Endpoint::Unix { .. } | Endpoint::Vsock { .. } => None,
    };
    known.filter(|limit| *limit > 0).unwrap_or(Options::default().backlog)
}

impl AsFd for Bound {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests;
