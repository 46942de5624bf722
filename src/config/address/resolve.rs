//! From an address to the one socket address to bind.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};

use thiserror::Error;

use super::{Address, Inet};
use crate::sys::socket::{Endpoint, has_ipv6};

impl Address {
    /// The socket address to bind. It asks the resolver for a host's name, so it can block.
    ///
    /// A name must mean one address, since one listener is one socket. A name that means several is refused, unless
    /// all of them are this machine's loopback addresses (`localhost`): then the IPv4 one is taken.
    ///
    /// # Errors
    ///
    /// Where a name cannot be resolved, or means several addresses.
    pub fn resolve(&self) -> Result<Endpoint, ResolveError> {
        Ok(match self {
            Self::Tcp(inet) => Endpoint::Tcp(inet.resolve()?),
            Self::Udp(inet) => Endpoint::Udp(inet.resolve()?),
            Self::Unix { kind, name } => Endpoint::Unix { kind: *kind, name: name.clone() },
            Self::Vsock { cid, port } => Endpoint::Vsock { cid: *cid, port: *port },
        })
    }
}

impl Inet {
    fn resolve(&self) -> Result<SocketAddr, ResolveError> {
        match self {
            Self::Any { port } if has_ipv6() => Ok((Ipv6Addr::UNSPECIFIED, *port).into()),
            Self::Any { port } => Ok((Ipv4Addr::UNSPECIFIED, *port).into()),
            Self::Addr(address) => Ok(*address),
            Self::Host { host, port } => match (host.as_str(), *port).to_socket_addrs() {
                Ok(found) => only_one(host, found),
                Err(reason) => Err(ResolveError::Lookup { host: host.clone(), reason }),
            },
        }
    }
}

/// Why a host's name gives no address to bind.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// The resolver failed.
    #[error("cannot resolve `{host}`: {reason}")]
    Lookup {
        /// The name.
        host: String,
        /// What the resolver said.
        reason: io::Error,
    },
    /// The resolver knows no address.
    #[error("`{host}` has no address")]
    Nothing {
        /// The name.
        host: String,
    },
    /// It has several, and a listener is one socket.
    #[error("`{host}` has several addresses: {}", list(addresses))]
    Several {
        /// The name.
        host: String,
        /// What it could mean.
        addresses: Vec<IpAddr>,
    },
}

impl ResolveError {
    /// What would mend it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Lookup { .. } | Self::Nothing { .. } => {
                "write the address instead of the name, or check /etc/hosts and DNS"
            }
            Self::Several { .. } => "a listener is one socket: write the address, or one listener for each",
        }
    }
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

pub(super) fn only_one(host: &str, found: impl Iterator<Item = SocketAddr>) -> Result<SocketAddr, ResolveError> {
    let mut distinct: Vec<SocketAddr> = Vec::new();
    for address in found {
        if !distinct.contains(&address) {
            distinct.push(address);
        }
    }
    match distinct[..] {
        [] => Err(ResolveError::Nothing { host: host.to_owned() }),
        [only] => Ok(only),
        [first, ..] if distinct.iter().all(|address| address.ip().is_loopback()) => {
            Ok(distinct.iter().copied().find(SocketAddr::is_ipv4).unwrap_or(first))
        }
        _ => Err(ResolveError::Several {
            host: host.to_owned(),
            addresses: distinct.iter().map(SocketAddr::ip).collect(),
        }),
    }
}
