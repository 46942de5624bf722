//! New connections made to wait, without refusing them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::assembly::{Assembly, Instruction, Test};
use super::{set_nothing, set_program};
use crate::sys::describe;
use crate::sys::socket::{Bound, Endpoint};

/// Where the flags stand in a TCP header, and two of them (RFC 9293).
const FLAGS: u32 = 13;
const SYN: u32 = 0x02;
const ACK: u32 = 0x10;

/// A listener cannot be held, or not be released.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// Only TCP has a first segment that can be dropped and is sent again.
    #[error("{0} cannot be held: only TCP listeners can")]
    NotTcp(Endpoint),
    /// The kernel permits it to CAP_NET_ADMIN alone.
    #[error("hold new connections: this kernel wants a privilege for it")]
    NotPermitted,
    /// The kernel refused.
    #[error("hold new connections: {}", describe(.0))]
    Kernel(#[source] io::Error),
}

impl HoldError {
    /// What to do about it, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotPermitted => Some(
                "give zdsup CAP_NET_ADMIN (AmbientCapabilities= in a unit), or use steered traffic, which needs none",
            ),
            Self::NotTcp(_) | Self::Kernel(_) => None,
        }
    }
}

/// Makes new connections wait at a listener that is no [`super::Row`]: a socket filter (SO_ATTACH_FILTER, socket(7)) drops
/// their SYNs, and their clients send them again after 1 s, 3 s, 7 s (RFC 6298; tcp_syn_retries, tcp(7)).
///
/// It needs CAP_NET_ADMIN where the kernel is new enough to want it for TCP sockets (Linux commit 5d39580f68e6; seen on
/// 6.18.44). A row needs no privilege: [`super::Row::hold`], also of a row over a single socket that was shared so far.
///
/// Nothing else is dropped: handshakes that had begun are completed, connections in the queue stay and are accepted,
/// and established ones are other sockets. One that is made from a handshake meanwhile inherits the filter
/// (`sk_clone_lock`), to which a SYN never comes. The filter belongs to the socket and stays when the supervisor dies;
/// beside a program of [`super::attach`] it works as well, for that chooses the socket and this is asked afterwards. It
/// takes the place of a filter that the service may have set itself, and drops the SYNs of our probers too.
///
/// A unix socket has no SYN, and nothing of its connect() passes a filter.
///
/// # Errors
/// `NotTcp`; `NotPermitted`, also where somebody set SO_LOCK_FILTER; what else the kernel says.
pub fn hold(listener: &Bound) -> Result<(), HoldError> {
    tcp(listener)?;
    filter(listener.as_fd(), &any_first()).map_err(kernel)
}

/// Lets new connections in again; this needs no privilege. Nothing happens to a listener that is not held.
///
/// # Errors
/// As [`hold`].
pub fn release(listener: &Bound) -> Result<(), HoldError> {
    tcp(listener)?;
    unfilter(listener.as_fd()).map_err(kernel)
}

fn kernel(error: io::Error) -> HoldError {
    match error.raw_os_error() {
        Some(libc::EPERM) => HoldError::NotPermitted,
        _ => HoldError::Kernel(error),
    }
}

/// Drops every first segment: those with SYN and without ACK.
pub(super) fn any_first() -> Vec<Instruction> {
    let mut code = Assembly::default();
    let pass = code.label();
    // A socket filter sees the packet from its TCP header on (tcp_filter in net/ipv4/tcp_ipv4.c).
    code.load_packet_byte(FLAGS);
    code.jump_unless(Test::Any(SYN), pass);
    code.jump_if(Test::Any(ACK), pass);
    code.give(0);
    code.here(pass);
    // As many bytes as there are.
    code.give(u32::MAX);
    code.finish().expect("a few instructions")
}

pub(super) fn filter(listener: BorrowedFd<'_>, instructions: &[Instruction]) -> io::Result<()> {
    set_program(listener, libc::SO_ATTACH_FILTER, instructions)
}

pub(super) fn unfilter(listener: BorrowedFd<'_>) -> io::Result<()> {
    match set_nothing(listener, libc::SO_DETACH_FILTER) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn tcp(listener: &Bound) -> Result<(), HoldError> {
    match &listener.endpoint {
        Endpoint::Tcp(_) => Ok(()),
        other @ (Endpoint::Udp(_) | Endpoint::Unix { .. } | Endpoint::Vsock { .. }) => {
            Err(HoldError::NotTcp(other.clone()))
        }
    }
}
