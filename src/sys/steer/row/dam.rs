//! New connections held back: all of them go to a socket whose queue is full.
//!
//! The kernel drops the SYN of a connection for which there is no room in the queue (`sk_acceptq_is_full` in
//! `tcp_conn_request`), and the client sends it again after 1 s, 3 s, 7 s (RFC 6298; tcp_syn_retries, tcp(7)). The dam is
//! one more socket of the group, with a backlog of 0, which has room for a single connection (listen(2); the test is
//! for more than the backlog): one of our own. Nobody accepts it, and no service is given the socket.
//!
//! So holding is a division like any other: no privilege, established connections, handshakes that have begun and what
//! waits in the queues are not touched, and the clients that the division names still get in. It lasts for as long as
//! somebody has the dam's descriptor. Each SYN that is dropped counts as an overflow (ListenOverflows, ListenDrops in
//! /proc/net/netstat).

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::sys::socket::{Bound, Options};
use crate::sys::steer::order::DAM;
use crate::sys::steer::{Division, Prober, Row, RowError};

/// Loopback delivers within the call; this is for a processor that is busy.
const PATIENCE: Duration = Duration::from_millis(500);

impl Row {
    /// Makes new connections wait, but for those of the division's clients. It stays so until [`Row::release`], whatever
    /// is divided or appended meanwhile.
    ///
    /// The first time it makes the dam, a descriptor that has to be kept like a slot. Where that is what forms the group
    /// ([`Row::append`]) and a handshake is over within those microseconds, that one connection waits at the dam, which
    /// nobody accepts from. Run it off the loop.
    ///
    /// # Errors
    /// `Bind`, `Join`, `Attach`; `Hold` where the listener cannot be reached from this host itself, such as with
    /// bind-to-device. Nothing is held then.
    pub fn hold(&mut self) -> Result<(), RowError> {
        if self.dam.is_none() {
            // What is deferred is not in the queue.
            let options = Options { backlog: 0, defer_accept: None, ..self.options.clone() };
            self.dam = Some(self.join(DAM, &options)?);
        }
        self.fill()?;
        self.held = true;
        let held = self.put(self.in_force(&self.division));
        self.held = held.is_ok();
        held
    }

    /// Lets new connections in again.
    ///
    /// # Errors
    /// `Attach`; they are still held then.
    pub fn release(&mut self) -> Result<(), RowError> {
        self.put(self.division.clone())?;
        self.held = false;
        Ok(())
    }

    /// Whether new connections are made to wait.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// The socket that holds them back, once there is one: its descriptor must be kept with those of the slots.
    #[must_use]
    pub fn dam(&self) -> Option<&Arc<Bound>> {
        self.dam.as_ref()
    }

    fn fill(&mut self) -> Result<(), RowError> {
        let Some(dam) = self.dam.clone() else { return Ok(()) };
        let is_full = || dam.queue().is_some_and(|(waiting, limit)| waiting > limit);
        if is_full() {
            return Ok(());
        }
        let prober = Prober::bind(self.address).map_err(RowError::Hold)?;
        let now = self.in_force(&self.division);
        self.put(Division { clients: vec![(prober.client(), DAM)], ..now })?;
        // Once it is in the queue it stays there, also when its client has gone.
        let _client = prober.connect().map_err(RowError::Hold)?;
        let until = Instant::now() + PATIENCE;
        while !is_full() {
            if Instant::now() > until {
                return Err(RowError::Hold(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "it cannot be reached from this host",
                )));
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}
