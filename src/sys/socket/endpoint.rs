//! Addresses as the kernel and the user know them.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::sys::socket::{
    AddressFamily, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, SockaddrStorage, UnixAddr, VsockAddr, getsockname,
    getsockopt, sockopt,
};
use serde::{Deserialize, Serialize};

/// Where a listener listens. Displayed in the grammar that users type.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Endpoint {
    /// A TCP listener.
    Tcp(SocketAddr),
    /// A UDP socket.
    Udp(SocketAddr),
    /// A unix socket.
    Unix {
        /// What it carries.
        kind: UnixKind,
        /// What it is called.
        name: UnixName,
    },
    /// A stream listener for virtual machines (vsock(7)).
    Vsock {
        /// The context; `u32::MAX` is any.
        cid: u32,
        /// The port.
        port: u32,
    },
}

/// What a unix socket carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnixKind {
    /// Bytes.
    Stream,
    /// Messages, without connections.
    Datagram,
    /// Messages, over connections.
    Seqpacket,
}

/// What a unix socket is called.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnixName {
    /// A file.
    Path(#[serde(with = "crate::sys::written")] PathBuf),
    /// A name of its own, without the leading NUL.
    Abstract(Vec<u8>),
}

impl Endpoint {
    /// Whether it takes connections, and so has a backlog.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        !matches!(self, Self::Udp(_) | Self::Unix { kind: UnixKind::Datagram, .. })
    }

    /// The port, where there is one.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(address) | Self::Udp(address) => Some(address.port()),
            Self::Unix { .. } | Self::Vsock { .. } => None,
        }
    }

    /// The file, where there is one.
    #[must_use]
    pub fn path(&self) -> Option<&std::path::Path> {
        match self {
            Self::Unix { name: UnixName::Path(path), .. } => Some(path),
            _ => None,
        }
    }

    /// What this socket is bound to.
    ///
    /// # Errors
    /// `Unsupported` for what is no socket of a kind that we know; `InvalidInput` for one that is not bound.
    pub fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let kind = getsockopt(&fd, sockopt::SockType)?;
        let unsupported = || io::Error::new(io::ErrorKind::Unsupported, "not a kind of socket that can be handed over");
        let address: SockaddrStorage = getsockname(fd.as_raw_fd())?;
        let inet = |address: SocketAddr| match kind {
            SockType::Stream => Ok(Self::Tcp(address)),
            SockType::Datagram => Ok(Self::Udp(address)),
            _ => Err(unsupported()),
        };
        if let Some(v4) = address.as_sockaddr_in() {
            return inet(SocketAddrV4::from(*v4).into());
        }
        if let Some(v6) = address.as_sockaddr_in6() {
            return inet(SocketAddrV6::from(*v6).into());
        }
        if let Some(vsock) = address.as_vsock_addr() {
            return Ok(Self::Vsock { cid: vsock.cid(), port: vsock.port() });
        }
        let Some(unix) = address.as_unix_addr() else { return Err(unsupported()) };
        let kind = match kind {
            SockType::Stream => UnixKind::Stream,
            SockType::Datagram => UnixKind::Datagram,
            SockType::SeqPacket => UnixKind::Seqpacket,
            _ => return Err(unsupported()),
        };
        let name = match (unix.path(), unix.as_abstract()) {
            (Some(path), _) => UnixName::Path(path.to_owned()),
            (_, Some(name)) => UnixName::Abstract(name.to_owned()),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket is not bound")),
        };
        Ok(Self::Unix { kind, name })
    }

    /// The arguments of socket(2).
    pub(super) fn family_and_type(&self) -> (AddressFamily, SockType) {
        let inet = |address: &SocketAddr| if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        match self {
            Self::Tcp(address) => (inet(address), SockType::Stream),
            Self::Udp(address) => (inet(address), SockType::Datagram),
            Self::Vsock { .. } => (AddressFamily::Vsock, SockType::Stream),
            Self::Unix { kind, .. } => (
                AddressFamily::Unix,
                match kind {
                    UnixKind::Stream => SockType::Stream,
                    UnixKind::Datagram => SockType::Datagram,
                    UnixKind::Seqpacket => SockType::SeqPacket,
                },
            ),
        }
    }

    /// The argument of bind(2). ENAMETOOLONG for a unix name beyond 107 bytes.
    pub(in crate::sys) fn address(&self) -> io::Result<Box<dyn SockaddrLike>> {
        Ok(match self {
            Self::Tcp(SocketAddr::V4(v4)) | Self::Udp(SocketAddr::V4(v4)) => Box::new(SockaddrIn::from(*v4)),
            Self::Tcp(SocketAddr::V6(v6)) | Self::Udp(SocketAddr::V6(v6)) => Box::new(SockaddrIn6::from(*v6)),
            Self::Unix { name: UnixName::Path(path), .. } => Box::new(UnixAddr::new(path)?),
            Self::Unix { name: UnixName::Abstract(name), .. } => Box::new(UnixAddr::new_abstract(name)?),
            Self::Vsock { cid, port } => Box::new(VsockAddr::new(*cid, *port)),
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Udp(address) => write!(f, "udp:{address}"),
            Self::Vsock { cid, port } => write!(f, "vsock:{cid}:{port}"),
            Self::Unix { kind, name } => {
                f.write_str(match kind {
                    UnixKind::Stream => "unix:",
                    UnixKind::Datagram => "unix-dgram:",
                    UnixKind::Seqpacket => "unix-seqpacket:",
                })?;
                name.fmt(f)
            }
        }
    }
}

impl fmt::Display for UnixName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Abstract(name) => write!(f, "@{}", OsStr::from_bytes(name).display()),
        }
    }
}
