//! The address grammar: what stands behind `--listen` and `address =`.
//!
//! ```text
//! LISTEN = [NAME "="] ADDR
//! ADDR   = INET | "udp:" INET
//!        | ("unix:" | "unix-dgram:" | "unix-seqpacket:") (PATH | "@" NAME)
//!        | "vsock:" CID ":" PORT
//! INET   = PORT | IPV4 ":" PORT | "[" IPV6 "]:" PORT | HOST ":" PORT
//! ```
//!
//! Whatever [`Address`] displays as parses to the same address.

use std::ffi::OsStr;
use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::sys::socket::{UnixKind, UnixName};

mod error;
mod resolve;

pub use error::AddressError;
pub use resolve::ResolveError;

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Address {
    /// TCP.
    Tcp(Inet),
    /// UDP.
    Udp(Inet),
    /// A unix socket of one of its three types. A path is absolute.
    Unix {
        /// Its type.
        kind: UnixKind,
        /// Its path or abstract name.
        name: UnixName,
    },
    /// A stream socket between a virtual machine and its host, vsock(7).
    Vsock {
        /// The context id of the machine; 4294967295 is any.
        cid: u32,
        /// The port.
        port: u32,
    },
}

/// The internet part of an address. Port 0 is one that the kernel chooses.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Inet {
    /// Every address of this machine: dual-stack `[::]`, or `0.0.0.0` where there is no IPv6.
    Any {
        /// The port.
        port: u16,
    },
    /// This address.
    Addr(SocketAddr),
    /// A name, resolved when the socket is bound.
    Host {
        /// In lower case.
        host: String,
        /// The port.
        port: u16,
    },
}

/// The longest path or abstract name of a unix socket, bytes: `sun_path` without its NUL, unix(7).
pub const UNIX_NAME_MAX: usize = 107;

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text, None)
    }
}

impl Address {
    /// Parses an address as a person types it: a relative path of a unix socket starts at `directory`.
    ///
    /// # Errors
    ///
    /// Where the text is not an address.
    pub fn parse_in(text: &str, directory: &Path) -> Result<Self, AddressError> {
        Self::parse(text, Some(directory))
    }

    fn parse(text: &str, directory: Option<&Path>) -> Result<Self, AddressError> {
        let unix = |kind, name| Ok(Self::Unix { kind, name: unix_name(name, directory)? });
        match text.split_once(':') {
            None if text.is_empty() => Err(AddressError::Empty),
            _ if text.contains('\0') => Err(AddressError::Nul),
            Some(("udp", inet)) => match inet.split_once(':') {
                Some((kind, _)) if is_kind(kind) => Err(AddressError::NotUdp(format!("{kind}:"))),
                _ => inet.parse().map(Self::Udp),
            },
            Some(("unix", name)) => unix(UnixKind::Stream, name),
            Some(("unix-dgram", name)) => unix(UnixKind::Datagram, name),
            Some(("unix-seqpacket", name)) => unix(UnixKind::Seqpacket, name),
            Some(("vsock", rest)) => vsock(rest),
            Some((kind, rest)) if is_foreign_kind(kind, rest) => Err(AddressError::Kind(kind.to_owned())),
            _ => text.parse().map(Self::Tcp),
        }
    }

    /// The port of a TCP or UDP address.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp(inet) | Self::Udp(inet) => Some(inet.port()),
            Self::Unix { .. } | Self::Vsock { .. } => None,
        }
    }

    /// Whether the kernel chooses the port: such an address says nothing about which socket it is.
    #[must_use]
    pub fn is_ephemeral(&self) -> bool {
        self.port() == Some(0)
    }

    /// Whether two addresses are the same (family, type, address), however they are written: `8080` is `[::]:8080`.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(one), Self::Tcp(two)) | (Self::Udp(one), Self::Udp(two)) => {
                one.spelled_out() == two.spelled_out()
            }
            _ => self == other,
        }
    }
}

impl Inet {
    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        match self {
            Self::Any { port } | Self::Host { port, .. } => *port,
            Self::Addr(address) => address.port(),
        }
    }

    fn spelled_out(&self) -> Self {
        match self {
            Self::Any { port } => Self::Addr((Ipv6Addr::UNSPECIFIED, *port).into()),
            other => other.clone(),
        }
    }
}

impl FromStr for Inet {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        if is_digits(text) {
            return Ok(Self::Any { port: port(text)? });
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::Addr(address));
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return Err(AddressError::Brackets(text.to_owned()));
        }
        let Some((host, digits)) = text.rsplit_once(':').filter(|_| !text.ends_with(']')) else {
            return Err(match text {
                "*" => AddressError::MissingHost(text.to_owned()),
                _ if text.starts_with(|c: char| c.is_ascii_digit()) && !text.contains('.') => {
                    AddressError::Port(text.to_owned())
                }
                _ if is_host(text) || text.ends_with(']') => AddressError::MissingPort(text.to_owned()),
                _ => AddressError::Host(text.to_owned()),
            });
        };
        let port = port(digits)?;
        match host {
            "" | "*" => Err(AddressError::MissingHost(text.to_owned())),
            _ if host.contains(':') || host.starts_with('[') => Err(if host.parse::<Ipv6Addr>().is_ok() {
                AddressError::Brackets(text.to_owned())
            } else {
                AddressError::Ip(host.to_owned())
            }),
            _ if host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') => {
                Err(AddressError::Ip(host.to_owned()))
            }
            // Hosts are kept in lower case, where these would not be read as hosts.
            _ if is_kind(&host.to_lowercase()) || is_foreign_kind(&host.to_lowercase(), "") => {
                Err(AddressError::Kind(host.to_owned()))
            }
            _ if is_host(host) => Ok(Self::Host { host: host.to_ascii_lowercase(), port }),
            _ => Err(AddressError::Host(host.to_owned())),
        }
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn port(digits: &str) -> Result<u16, AddressError> {
    let bad = || AddressError::Port(digits.to_owned());
    if is_digits(digits) { digits.parse().map_err(|_| bad()) } else { Err(bad()) }
}

/// Labels of letters, digits, `-` and `_` (which DNS forbids and people use), RFC 1123 section 2.1.
fn is_host(text: &str) -> bool {
    let labels = text.strip_suffix('.').unwrap_or(text);
    labels.len() <= 253
        && labels.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        })
}

fn is_kind(word: &str) -> bool {
    matches!(word, "udp" | "unix" | "unix-dgram" | "unix-seqpacket" | "vsock")
}

/// Whether the word before the colon can only have been meant as a kind: `tcp:8080` is also a host and a port.
fn is_foreign_kind(kind: &str, rest: &str) -> bool {
    let is_word = !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    is_word && (rest.contains([':', '/', '@']) || matches!(kind, "tcp" | "http" | "https"))
}

fn unix_name(name: &str, directory: Option<&Path>) -> Result<UnixName, AddressError> {
    if let Some(name) = name.strip_prefix('@') {
        return match name.len() {
            0 => Err(AddressError::NoName),
            1..=UNIX_NAME_MAX => Ok(UnixName::Abstract(name.as_bytes().to_vec())),
            long => Err(AddressError::AbstractTooLong(long)),
        };
    }
    if name.is_empty() {
        return Err(AddressError::NoName);
    }
    let path = match directory {
        Some(directory) => directory.join(name),
        None if name.starts_with('/') => PathBuf::from(name),
        None => return Err(AddressError::RelativePath(PathBuf::from(name))),
    };
    let bytes = path.as_os_str().as_bytes();
    if [&b"/"[..], b"/.", b"/.."].iter().any(|end| bytes.ends_with(end)) {
        return Err(AddressError::Directory(path));
    }
    if bytes.len() > UNIX_NAME_MAX {
        return Err(AddressError::PathTooLong(bytes.len()));
    }
    Ok(UnixName::Path(path))
}

fn vsock(text: &str) -> Result<Address, AddressError> {
    let number = |digits: &str| digits.parse::<u32>().ok().filter(|_| is_digits(digits));
    text.split_once(':')
        .and_then(|(cid, port)| Some(Address::Vsock { cid: number(cid)?, port: number(port)? }))
        .ok_or_else(|| AddressError::Vsock(text.to_owned()))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(inet) => inet.fmt(f),
            Self::Udp(inet) => write!(f, "udp:{inet}"),
            Self::Unix { kind, name } => {
                f.write_str(match kind {
                    UnixKind::Stream => "unix:",
                    UnixKind::Datagram => "unix-dgram:",
                    UnixKind::Seqpacket => "unix-seqpacket:",
                })?;
                match name {
                    UnixName::Path(path) => path.display().fmt(f),
                    UnixName::Abstract(name) => write!(f, "@{}", OsStr::from_bytes(name).display()),
                }
            }
            Self::Vsock { cid, port } => write!(f, "vsock:{cid}:{port}"),
        }
    }
}

impl fmt::Display for Inet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any { port } => port.fmt(f),
            Self::Addr(address) => address.fmt(f),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// Splits `[NAME=]ADDR` into its name and its address.
///
/// What stands before the first `=` is a name unless it can only be the beginning of an address (`unix:/run/a=b`).
#[must_use]
pub fn split_listen(text: &str) -> (Option<&str>, &str) {
    match text.split_once('=') {
        Some((name, address)) if !name.contains([':', '/', '@']) => (Some(name), address),
        _ => (None, text),
    }
}

#[cfg(test)]
mod tests;
