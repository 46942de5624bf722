//! Callers in slots that no process has: they are seen, and a process is started for them
//! ([`crate::core::service::Service::relieve`]).
//!
//! A slot without a process is watched for connections, whatever left them there: a crash, a kill, a handshake that was
//! open for longer than anybody waited (hazards 1 and 38). It is not watched again before a process has had it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::fd::AsFd;

use super::Supervisor;
use crate::core::{Event, ServiceId, Slot};

/// The slots of a service that no process has.
#[derive(Debug, Default)]
pub(super) struct Vacant {
    /// Those that are watched, by the tokens of their sockets.
    watched: HashMap<u64, Slot>,
    /// Those in which callers wait.
    callers: BTreeSet<Slot>,
}

impl Vacant {
    /// These sockets are not watched any more.
    pub(super) fn forget(&mut self, tokens: &[u64]) {
        self.watched.retain(|token, _| !tokens.contains(token));
    }
}

impl Supervisor {
    /// Watches the slots that no process has, and no others; has processes started where callers wait.
    pub(super) fn mind_callers(&mut self, id: ServiceId) {
        let rows = self.rows_of(id);
        let living = self.processes.values().filter(|process| process.id.service == id && !process.lingering);
        let taken: HashSet<Slot> = living.map(|process| process.slot).collect();
        let Some(service) = self.services.get_mut(&id).filter(|_| !rows.is_empty()) else { return };
        let vacant = &mut service.vacant;
        let mut there = HashSet::new();
        for row in rows {
            for (slot, socket) in (0..).map(Slot).zip(row.all()) {
                there.insert(socket.token);
                let watch = !taken.contains(&slot) && !vacant.callers.contains(&slot);
                if watch == vacant.watched.contains_key(&socket.token) {
                    continue;
                }
                let told = self.hangups.tell_of_callers(socket.bound.fd.as_fd(), socket.token, watch);
                // One that is being healed is not there at the moment, and comes back unwatched.
                match (watch, told) {
                    (true, Ok(())) => drop(vacant.watched.insert(socket.token, slot)),
                    (true, Err(_)) => {}
                    (false, _) => drop(vacant.watched.remove(&socket.token)),
                }
            }
        }
        vacant.watched.retain(|token, _| there.contains(token));
        vacant.callers.retain(|slot| !taken.contains(slot));
        let Some(machine) = self.core.services().get(&id) else { return };
        let relieved = vacant.callers.iter().copied().filter(|slot| machine.can_relieve(*slot));
        for slot in relieved.collect::<Vec<_>>() {
            let service = self.name_of(id);
            tracing::warn!(service, "connections wait where no process is left: another is started to take them");
            self.tell_core(Event::Abandoned { service: id, slot });
        }
    }

    /// Connections wait in a slot that is watched.
    pub(super) fn on_callers(&mut self, token: u64) {
        for service in self.services.values_mut() {
            if let Some(slot) = service.vacant.watched.remove(&token) {
                service.vacant.callers.insert(slot);
                self.steer_due = true;
            }
        }
        // Level-triggered: it would be reported until somebody takes them.
        if let Some(socket) = self.watched.get(&token) {
            let _ = self.hangups.tell_of_callers(socket.bound.fd.as_fd(), token, false);
        }
    }
}
