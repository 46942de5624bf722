//! A client that is known before it connects.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::sys::socket::{Endpoint, bind_to, connect_to, set_int};

/// A TCP socket that has its address and port and is not connected yet. It is non-blocking.
///
/// Its user puts [`Prober::client`] into a division, has it attached, and then connects: the connection reaches the slot
/// that was meant, for it is the SYN that is steered.
#[derive(Debug)]
pub struct Prober {
    fd: OwnedFd,
    client: SocketAddr,
    target: SocketAddr,
}

impl Prober {
    /// One for a listener at this address: from that address itself, or from loopback to loopback where it is a
    /// wildcard. Such a connection never leaves the host (it goes over `lo`, so a listener with SO_BINDTODEVICE to
    /// another device is not reached).
    ///
    /// # Errors
    /// Those of socket(2) and bind(2): no port left, or an address that the host does not have.
    pub fn bind(listener: SocketAddr) -> io::Result<Self> {
        match listener.ip().to_canonical() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Self::from_to(Ipv4Addr::LOCALHOST.into(), listener.port()),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => match Self::from_to(Ipv6Addr::LOCALHOST.into(), listener.port()) {
                // IPv6 that is not on for loopback; the wildcard takes IPv4 too, nearly always.
                Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {
                    Self::from_to(Ipv4Addr::LOCALHOST.into(), listener.port())
                }
                other => other,
            },
            // Mapped IPv4 is IPv4; IPv6 keeps its scope.
            IpAddr::V4(v4) => Self::from_to(v4.into(), listener.port()),
            IpAddr::V6(_) => Self::bound(listener, listener),
        }
    }

    fn from_to(address: IpAddr, port: u16) -> io::Result<Self> {
        let at = SocketAddr::new(address, port);
        Self::bound(at, at)
    }

    fn bound(mut source: SocketAddr, target: SocketAddr) -> io::Result<Self> {
        source.set_port(0);
        let family = if source.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(family, SockType::Stream, flags, None)?;
        bind_to(&fd, &*Endpoint::Tcp(source).address()?)?;
        let port = Endpoint::of(fd.as_fd())?.port().ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { fd, client: SocketAddr::new(source.ip(), port), target })
    }

    /// Who the listener will see.
    #[must_use]
    pub fn client(&self) -> SocketAddr {
        self.client
    }

    /// Where it connects to.
    #[must_use]
    pub fn target(&self) -> SocketAddr {
        self.target
    }

    /// How many hosts its packets may reach, IP_TTL.
    pub(super) fn set_ttl(&self, hops: u32) -> io::Result<()> {
        let (level, option) = match self.client {
            SocketAddr::V4(_) => (libc::SOL_IP, libc::IP_TTL),
            SocketAddr::V6(_) => (libc::SOL_IPV6, libc::IPV6_UNICAST_HOPS),
        };
        set_int(self.fd.as_fd(), level, option, hops)
    }

    /// Begins to connect. The stream is non-blocking and writable once it is connected; a failure is its
    /// [`TcpStream::take_error`] (connect(2), EINPROGRESS).
    ///
    /// # Errors
    /// Those of connect(2).
    pub fn connect(self) -> io::Result<TcpStream> {
        match connect_to(&self.fd, &*Endpoint::Tcp(self.target).address()?) {
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => Err(error),
            _ => Ok(self.fd.into()),
        }
    }
}
