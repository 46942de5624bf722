//! Callers who wait in the queues of slots for a process that does not come to them.

use std::collections::BTreeMap;

use nix::sys::signal::Signal;

use crate::support::Zdsup;
use crate::support::client::{Answer, Connection};

/// Connections that have asked, and were not answered when they did.
pub(super) struct Callers(Vec<Connection>);

impl Callers {
    pub(super) fn call(z: &Zdsup, count: usize) -> Self {
        let call = |_| {
            let mut connection = Connection::tcp(z.address()).expect("there is room in the queue");
            connection.send("GET", "/", None).expect("it can be sent");
            connection
        };
        Self((0..count).map(call).collect())
    }

    /// Which process of which generation has answered how many; how many were not answered.
    pub(super) fn answers(self) -> (BTreeMap<(u64, u32), usize>, usize) {
        let (mut counts, mut lost) = (BTreeMap::new(), 0);
        for mut connection in self.0 {
            if lost == 3 {
                // Each of them is waited for: that is enough to tell.
                break;
            }
            match Answer::read(&mut connection) {
                Ok(Some(answer)) => *counts.entry(super::who(&answer)).or_default() += 1,
                Ok(None) | Err(_) => lost += 1,
            }
        }
        (counts, lost)
    }
}

/// Lets frozen processes go on.
pub(super) fn thaw(pids: &[u32]) {
    pids.iter().for_each(|pid| crate::support::process::kill(*pid, Signal::SIGCONT));
}
