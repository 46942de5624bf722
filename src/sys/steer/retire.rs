//! Waiting until nothing that began before a switch can still land in a slot.

use std::collections::HashSet;
use std::io;

use crate::sys::diag::{self, Handshake};
use crate::sys::socket::Bound;

/// Of linux/membarrier.h.
const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;

/// The handshakes that were open when traffic moved away from a slot (hazard 38).
///
/// Each of them completes into the queue of the slot that its SYN was steered to, whatever is attached by then. Which one
/// that is the kernel does not tell: sock_diag shows a handshake by its addresses and ports alone. So all those on the
/// listener's port are waited for; they are gone after at most about a minute (tcp_synack_retries, tcp(7)), most at
/// once. A SYN that was answered with a cookie has no such state: the segment that completes it is steered by the program
/// that is attached when it comes (`cookie_v4_check`), so it needs no waiting. With defer-accept a client that says nothing stays in this state, so the caller's deadline matters.
#[derive(Clone, Debug)]
pub struct Retirement {
    port: u16,
    open: HashSet<Handshake>,
}

/// What still has to come out of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remaining {
    /// Handshakes that were open at the switch, and are still.
    pub handshakes: usize,
    /// Connections in the slot's queue, which whoever has the slot must accept.
    pub queued: u32,
}

impl Remaining {
    /// Whether the slot can be taken away from its process: nothing is lost then.
    #[must_use]
    pub fn is_nothing(self) -> bool {
        self == Self { handshakes: 0, queued: 0 }
    }
}

impl Retirement {
    /// Call it once a division that no longer names the slot is attached. It waits for the kernel to be done with the
    /// segments that it looked at with the program before (some 10 ms), and dumps a table: run it off the loop.
    ///
    /// # Errors
    /// Those of sock_diag; ENOENT where this kernel has none. Then all that can be known is the queue, and a deadline
    /// has to stand for the handshakes.
    pub fn begin(port: u16) -> io::Result<Self> {
        settle();
        Ok(Self { port, open: diag::handshakes(port)? })
    }

    /// What is still to come, without those that are gone. It dumps a table only while handshakes are open: run it off the
    /// loop. `None` for the queue of a slot that tells none counts as empty.
    ///
    /// # Errors
    /// As [`Retirement::begin`].
    pub fn check(&mut self, slot: &Bound) -> io::Result<Remaining> {
        // In this order: what completes in between is in the queue then.
        if !self.open.is_empty() {
            let now = diag::handshakes(self.port)?;
            self.open.retain(|handshake| now.contains(handshake));
        }
        let queued = slot.queue().map_or(0, |(waiting, _)| waiting);
        Ok(Remaining { handshakes: self.open.len(), queued })
    }
}

/// Returns when every processor has finished with the segments that it had begun with: they are handled under
/// rcu_read_lock, and membarrier(2) waits for a grace period. Where it is not supported (nohz_full), the time that it
/// takes to ask sock_diag has to do.
fn settle() {
    // SAFETY: membarrier takes integers only.
    unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
}
