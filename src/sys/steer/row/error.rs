//! What a row cannot do, and what to do about it.

use std::io;

use crate::sys::describe;
use crate::sys::socket::{BindError, Endpoint};
use crate::sys::steer::{ProgramError, SlotIndex};

/// What a row cannot do. Nothing has changed unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    /// A slot cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A slot cannot join a socket that somebody else made.
    #[error("add a slot to a socket that was passed to us: {0}")]
    Join(BindError),
    /// Only TCP connections can be steered.
    #[error("{0} cannot be steered: only TCP listeners can")]
    NotTcp(Endpoint),
    /// Sockets that are adopted are not one row.
    #[error("the sockets are not slots of one listener: {0} and {1}")]
    Mixed(Endpoint, Endpoint),
    /// A row has at least one slot.
    #[error("there is no socket")]
    Empty,
    /// An option of a socket that was passed to us cannot be read or set.
    #[error("set SO_REUSEPORT: {}", describe(.0))]
    ReusePort(#[source] io::Error),
    /// No program can be made of the division.
    #[error("steer connections: {0}")]
    Program(#[from] ProgramError),
    /// The kernel refused it.
    #[error("attach a program of {length} instructions: {}", describe(.error))]
    Attach {
        /// How long it is.
        length: usize,
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
    /// A slot that was shut down cannot listen again. The others are healed.
    #[error("let slot {slot} listen again: {}", describe(.error))]
    Listen {
        /// Which.
        slot: SlotIndex,
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
    /// The slots listen again, and which index the kernel has each at could not be found out.
    #[error("find out the order of the slots: {}", describe(.0))]
    Order(#[source] io::Error),
    /// The queue of the socket that holds new connections back cannot be filled.
    #[error("hold new connections: {}", describe(.0))]
    Hold(#[source] io::Error),
}

impl RowError {
    /// What to do about it, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Bind(error) => error.hint(),
            Self::Join(_) => Some(
                "have it made by the user that zdsup runs as, or let zdsup bind the address itself, or use shared traffic"
                    .to_owned(),
            ),
            Self::NotTcp(_) => Some("use shared traffic for this service".to_owned()),
            Self::Program(ProgramError::TooLong(_)) => Some("use fewer networks, or larger ones".to_owned()),
            Self::Attach { error, .. } if error.raw_os_error() == Some(libc::ENOMEM) => {
                Some("use fewer networks, or raise net.core.optmem_max".to_owned())
            }
            Self::Mixed(..)
            | Self::Empty
            | Self::ReusePort(_)
            | Self::Program(_)
            | Self::Attach { .. }
            | Self::Listen { .. }
            | Self::Order(_)
            | Self::Hold(_) => None,
        }
    }
}
