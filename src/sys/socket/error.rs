//! Why a listener could not be bound, and what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::Endpoint;
use crate::sys::describe;

/// The holder of an address that this very process has.
pub(super) const OURSELVES: &str = "this supervisor itself";

/// A listener could not be bound. Nothing has changed.
#[derive(Debug)]
pub struct BindError {
    /// What was to be bound.
    pub endpoint: Endpoint,
    /// What the kernel said.
    pub error: io::Error,
    /// Who has the address, if that could be found: `nginx, pid 123`.
    pub holder: Option<String>,
    /// What that means, where more is known than the kernel's word.
    pub cause: BindCause,
}

/// What is known of the cause, beyond the kernel's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindCause {
    /// The address is in use.
    InUse,
    /// The address is in use by sockets with SO_REUSEPORT, and this one is without, or the other way round.
    MixedReusePort {
        /// Whether this one has it.
        ours: bool,
    },
    /// The address is in use by sockets with SO_REUSEPORT of the same user, whose group the slots of a row would join.
    ForeignGroup,
    /// A port below this number needs CAP_NET_BIND_SERVICE.
    PrivilegedPort {
        /// net.ipv4.ip_unprivileged_port_start.
        first_free: u16,
    },
    /// The address is no address of this host.
    NotOurAddress,
    /// IPv6, vsock or another family is missing in this kernel.
    FamilyMissing,
    /// The directory of a unix socket does not exist.
    DirectoryMissing(PathBuf),
    /// The directory of a unix socket cannot be written to.
    DirectoryNotWritable(PathBuf),
    /// A file that is no socket is in the way.
    NotASocket(PathBuf),
    /// A socket of somebody else is in the way, which we may neither connect to nor remove.
    NotOurFile(PathBuf),
    /// The path of a unix socket is too long.
    PathTooLong,
    /// An option was refused.
    Option(&'static str),
    /// Nothing.
    Other,
}

impl BindError {
    /// What to do about it, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match &self.cause {
            BindCause::InUse => match &self.holder {
                Some(holder) if holder == OURSELVES => {
                    "another listener has it: one of another service is closed when that service is stopped, or once a reload \
                     has removed it; choose another address, or stop that service first (`zdsup status` shows whose it is)"
                        .to_owned()
                }
                Some(holder) => format!("stop {holder}, or choose another address"),
                None => "stop whatever holds it (see `ss -lnp`), or choose another address".to_owned(),
            },
            BindCause::MixedReusePort { ours: true } => {
                "every socket on the port must have SO_REUSEPORT, and one user: take reuse-port away here, or stop the other"
                    .to_owned()
            }
            BindCause::MixedReusePort { ours: false } => {
                "every socket on the port must have SO_REUSEPORT, and one user: add reuse-port here, or stop the other"
                    .to_owned()
            }
            BindCause::ForeignGroup => "with steered traffic nobody else may share the port: stop the other, or choose \
                                        another address"
                .to_owned(),
            BindCause::PrivilegedPort { first_free } => format!(
                "give zdsup CAP_NET_BIND_SERVICE (AmbientCapabilities= in a unit), have systemd pass the socket, choose a \
                 port from {first_free} up, or lower net.ipv4.ip_unprivileged_port_start"
            ),
            BindCause::NotOurAddress if matches!(self.endpoint, Endpoint::Vsock { .. }) => {
                "4294967295 is any context of this machine; 1, for itself alone, needs the kernel module vsock_loopback"
                    .to_owned()
            }
            BindCause::NotOurAddress => {
                "no interface has this address: check it, or set free-bind to bind before it appears".to_owned()
            }
            BindCause::DirectoryMissing(directory) => format!("create {}", directory.display()),
            BindCause::DirectoryNotWritable(directory) => {
                format!("give this user permission to write to {}", directory.display())
            }
            BindCause::NotASocket(path) => format!("remove {} if it is not needed", path.display()),
            BindCause::NotOurFile(path) => format!("remove {}, or run as its owner", path.display()),
            BindCause::PathTooLong => "the kernel takes at most 107 bytes; use a shorter directory".to_owned(),
            BindCause::FamilyMissing | BindCause::Option(_) | BindCause::Other => return None,
        })
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bind {}: ", self.endpoint)?;
        match (&self.cause, &self.holder) {
            (BindCause::InUse, Some(holder)) => write!(f, "the address is in use by {holder}"),
            (BindCause::InUse, None) => f.write_str("the address is in use"),
            (BindCause::MixedReusePort { ours }, holder) => {
                f.write_str("the address is in use by a socket ")?;
                f.write_str(if *ours {
                    "without SO_REUSEPORT, or of another user"
                } else {
                    "with SO_REUSEPORT, and this one is without"
                })?;
                match holder {
                    Some(holder) => write!(f, " ({holder})"),
                    None => Ok(()),
                }
            }
            (BindCause::ForeignGroup, holder) => {
                f.write_str("the address is in use by a socket with SO_REUSEPORT, which would share the connections")?;
                match holder {
                    Some(holder) => write!(f, " ({holder})"),
                    None => Ok(()),
                }
            }
            (BindCause::PrivilegedPort { first_free }, _) => {
                write!(f, "ports below {first_free} need a privilege that this process lacks")
            }
            (BindCause::NotOurAddress, _) => f.write_str("it is not an address of this host"),
            (BindCause::FamilyMissing, _) => f.write_str("this kernel does not have that address family"),
            (BindCause::DirectoryMissing(path), _) => write!(f, "the directory {} does not exist", path.display()),
            (BindCause::DirectoryNotWritable(path), _) => {
                write!(f, "the directory {} cannot be written to", path.display())
            }
            (BindCause::NotASocket(path), _) => write!(f, "{} exists and is not a socket", path.display()),
            (BindCause::NotOurFile(path), _) => {
                write!(f, "{} is a socket of another user, and may be in use", path.display())
            }
            (BindCause::PathTooLong, _) => f.write_str("the name is too long"),
            (BindCause::Option(option), _) => write!(f, "set {option}: {}", describe(&self.error)),
            (BindCause::Other, _) => f.write_str(&describe(&self.error)),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // The kernel's word is part of the text already wherever it adds to it.
        None
    }
}
