//! Steered traffic: new TCP connections divided between slots by the kernel itself, without a proxy and without a
//! privilege.
//!
//! A listener is a [`Row`] of sockets in one SO_REUSEPORT group, its slots. Which slot a new connection goes to is decided
//! by a [`Program`] that is made of a [`Division`] and attached to the group; moving traffic is attaching another one,
//! which takes effect between two segments. The choice falls at the SYN: the connection stays with that slot through
//! its handshake and its queue, whatever is attached meanwhile (`inet_lookup_reuseport` is not asked again for a
//! request socket). So a slot is never closed, and one that gets no more connections still has to be emptied
//! ([`Retirement`]).
//!
//! - [`Division`]: clients, networks, groups and their shares. Pure, as are [`Program`] and [`Order`].
//! - [`Row`]: binds, appends, divides, and heals what a service shut down.
//! - [`Prober`]: a client whose address and port are known before it connects.
//! - [`Row::hold`]: new connections made to wait; [`hold()`], for listeners that are no row.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::answer;
use assembly::Instruction;

mod assembly;
mod division;
mod hold;
mod locate;
mod network;
mod order;
mod prober;
mod program;
mod retire;
mod row;

pub use division::{Affinity, Division, Group, SlotIndex, percentile};
pub use hold::{HoldError, hold, release};
pub use network::{Network, NetworkError};
pub use order::Order;
pub use prober::Prober;
pub use program::{Family, Program, ProgramError};
pub use retire::{Remaining, Retirement};
pub use row::{Kept, Row, RowError};

/// Of asm-generic/socket.h; libc has neither.
const SO_ATTACH_REUSEPORT_CBPF: libc::c_int = 51;
const SO_DETACH_REUSEPORT_BPF: libc::c_int = 68;

/// Puts the program in charge of the SO_REUSEPORT group that this socket is in. One that was attached before is
/// replaced: each segment sees one of the two.
///
/// It must not be called with a socket that does not listen, be it before its first listen() or after a shutdown(): the
/// kernel makes a group of its own for it then, and listen() says EADDRINUSE for ever (`reuseport_attach_prog`, and
/// `reuseport_cb_ok` in `inet_csk_bind_conflict`).
///
/// # Errors
/// EINVAL for a socket that began to listen without SO_REUSEPORT, and so has no group yet; ENOMEM for a program beyond
/// net.core.optmem_max (20 KiB before Linux 6.9, at 8 bytes for each of the kernel's own instructions); EPERM where
/// somebody set SO_LOCK_FILTER.
pub fn attach(fd: BorrowedFd<'_>, program: &Program) -> io::Result<()> {
    set_program(fd, SO_ATTACH_REUSEPORT_CBPF, program.instructions())
}

/// Takes the program away: new connections are hashed over all sockets of the group then, by their addresses and ports.
///
/// # Errors
/// ENOENT where there is none; EINVAL without a group.
pub fn detach(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_nothing(fd, SO_DETACH_REUSEPORT_BPF)
}

fn set_program(fd: BorrowedFd<'_>, option: libc::c_int, instructions: &[Instruction]) -> io::Result<()> {
    let convert = |i: &Instruction| libc::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k };
    let mut instructions: Vec<libc::sock_filter> = instructions.iter().map(convert).collect();
    let len = instructions.len().try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len, filter: instructions.as_mut_ptr() };
    let length = size_of_val(&program) as libc::socklen_t;
    let value = (&raw const program).cast();
    // SAFETY: the program is live, names as many live instructions as it says, and the kernel only reads both.
    answer(unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, option, value, length) }).map(drop)
}

/// An option whose value does not matter; the kernel still wants an int.
fn set_nothing(fd: BorrowedFd<'_>, option: libc::c_int) -> io::Result<()> {
    let value: libc::c_int = 0;
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the value is a live int of the length given, which the kernel only reads.
    answer(unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const value).cast(), length) })
        .map(drop)
}

#[cfg(test)]
mod interpreter;
#[cfg(test)]
mod tests;
