//! Why a text is not an address, and what was meant.

use std::net::Ipv6Addr;
use std::path::PathBuf;

use thiserror::Error;

use super::{UNIX_NAME_MAX, is_kind};

/// Why a text is not an address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Nothing there.
    #[error("the address is empty")]
    Empty,
    /// Not a number, or too large.
    #[error("`{0}` is not a port")]
    Port(String),
    /// A host alone.
    #[error("`{0}` has no port")]
    MissingPort(String),
    /// A port alone, behind a colon or a star.
    #[error("`{0}` has no address before the port")]
    MissingHost(String),
    /// An IPv6 address that swallows its port.
    #[error("the IPv6 address `{0}` is not in brackets")]
    Brackets(String),
    /// It looks like an IP address.
    #[error("`{0}` is not an IP address")]
    Ip(String),
    /// Not a host name either.
    #[error("`{0}` is not a host name")]
    Host(String),
    /// A word before the colon that this grammar does not have.
    #[error("`{0}` is not a kind of address")]
    Kind(String),
    /// `udp:` before what has a type of its own.
    #[error("`{0}` cannot follow `udp:`")]
    NotUdp(String),
    /// It would depend on where zdsup was started.
    #[error("the path `{}` is relative", .0.display())]
    RelativePath(PathBuf),
    /// It cannot be a socket.
    #[error("the path `{}` names a directory", .0.display())]
    Directory(PathBuf),
    /// It does not fit into `sun_path`.
    #[error("the socket's path is {0} bytes long, at most {UNIX_NAME_MAX} fit")]
    PathTooLong(usize),
    /// It does not fit into `sun_path`.
    #[error("the abstract name is {0} bytes long, at most {UNIX_NAME_MAX} fit")]
    AbstractTooLong(usize),
    /// A path or an abstract name with nothing in it.
    #[error("the socket has no name")]
    NoName,
    /// A NUL byte.
    #[error("the address contains a NUL byte")]
    Nul,
    /// Not `CID:PORT`.
    #[error("`{0}` is not a context id and a port")]
    Vsock(String),
}

impl AddressError {
    /// What would mend it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Empty | Self::Host(_) => FORMS.to_owned(),
            Self::Port(_) => "a port is a number from 0 (the kernel chooses) to 65535".to_owned(),
            Self::MissingPort(host) => format!("add the port: `{host}:8080`"),
            Self::MissingHost(text) => {
                let port = text.trim_start_matches(['*', ':']);
                format!("write `{port}` to listen on every address, or `127.0.0.1:{port}` for this machine only")
            }
            Self::Brackets(text) => bracketed(text),
            Self::Ip(_) => "an address is written `127.0.0.1:8080` or `[::1]:8080`".to_owned(),
            Self::Kind(kind) if is_kind(&kind.to_lowercase()) => {
                format!("a kind is written in small letters: `{}:`", kind.to_lowercase())
            }
            Self::Kind(kind) if kind.eq_ignore_ascii_case("tcp") => {
                "TCP is what an address without a kind means: leave `tcp:` out".to_owned()
            }
            Self::Kind(kind) if matches!(kind.to_lowercase().as_str(), "http" | "https") => {
                "a listener has no protocol above TCP: write only the host and the port".to_owned()
            }
            Self::Kind(_) => {
                "the kinds are `udp:`, `unix:`, `unix-dgram:`, `unix-seqpacket:` and `vsock:`; none means TCP"
                    .to_owned()
            }
            Self::NotUdp(_) => "a unix datagram socket is `unix-dgram:/path`".to_owned(),
            Self::RelativePath(_) => "write the whole path, from `/`".to_owned(),
            Self::Directory(_) => "leave out the `/` at the end, or add the socket's file name".to_owned(),
            Self::PathTooLong(_) => "choose a shorter directory, such as one in `/run`".to_owned(),
            Self::AbstractTooLong(_) => "choose a shorter name".to_owned(),
            Self::NoName => "write `unix:/path` or `unix:@name`".to_owned(),
            Self::Nul => "remove it".to_owned(),
            Self::Vsock(_) => "write `vsock:CID:PORT`, both numbers; CID 4294967295 is any".to_owned(),
        }
    }
}

const FORMS: &str =
    "an address is `8080`, `127.0.0.1:8080`, `[::1]:8080`, `host:8080`, `udp:8080`, `unix:/path` or `vsock:CID:PORT`";

/// `::1:8080` was most likely meant as `[::1]:8080`; `::1` alone lacks its port.
fn bracketed(text: &str) -> String {
    match text.rsplit_once(':') {
        Some((ip, port)) if ip.parse::<Ipv6Addr>().is_ok() && port.parse::<u16>().is_ok() => {
            format!("write `[{ip}]:{port}`")
        }
        _ => format!("write `[{text}]:8080`"),
    }
}
