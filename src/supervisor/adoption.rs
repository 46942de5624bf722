//! Going on from where a predecessor was.
//!
//! The processes have never stopped serving. What they have said meanwhile waits in their notify sockets, what they have
//! printed in their pipes, and how they have ended in their pidfds: all of it is read as if it had just come.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::ledger::Ledger;
use super::process::{Ground, Process};
use super::store::Store;
use super::survival::{Document, Name, Predecessor, ProcessEntry, Programs, Sockets};
use super::{Service, Supervisor};
use crate::core::event::InstanceEvent;
use crate::core::instance::State;
use crate::core::{Exit, InstanceId, Time};
use crate::sys::shim;
use crate::text::{count, count_as};

/// A successor that lives for so long is not one of a row that die at once.
pub(super) const SETTLED_AFTER: Duration = Duration::from_millis(250);
/// The third of such a row gives up what was in flight. (The fifth only holds what runs: [`super::hold`].)
const POISONED: u32 = 2;
/// How long until a shim whose supervisor is gone is looked at again: at first, and at most.
pub(super) const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(256));

impl Supervisor {
    /// Goes on from there. `deaths`: how many successors before this one have died at it, in a row.
    pub(super) fn go_on(&mut self, predecessor: Predecessor, deaths: u32) {
        let Predecessor { document, mut fds, was_us, .. } = predecessor;
        let Document { core, services, sockets, releases, pending, processes, .. } = document;
        let before = document.pid;
        self.core = core.into_owned();
        self.started = document.started;
        self.incarnation = document.incarnation + 1;
        self.next_release = document.next_release;
        self.stopping = document.stopping;
        self.atomic = document.atomic;
        self.stop_asked = document.stopping && was_us;
        self.ledger = Ledger::adopt(document.ledger).unwrap_or_else(|error| {
            tracing::warn!("the story of former upgrades was lost: {error}");
            Ledger::default()
        });
        self.ledger.make_room(services.len());
        let sockets = Sockets::adopt(sockets, &mut fds);
        let mut hooked = Vec::new();
        for service in services {
            // Of one that is none any more only its hooks are left.
            let removed = !self.core.services().contains_key(&service.id);
            let listeners = sockets.listeners(service.listeners);
            listeners.iter().for_each(|listener| self.watch(listener));
            let (name, owes_restart) = (service.name.into_owned(), service.owes_restart);
            let last_output = service.last_output.map(|(id, output)| (id, output.into_owned()));
            let store = Store::adopt(service.id, service.next_stored, service.stored, &mut fds, &mut self.poller);
            let adopted = Service { owes_restart, last_output, removed, ..Service::new(name, listeners, store) };
            self.services.insert(service.id, adopted);
            hooked.push((service.id, service.hooks, service.hook_process));
        }
        let mut programs = Programs::default();
        for (id, text) in releases {
            let entry = serde_json::from_str(text.get()).map_err(std::io::Error::other);
            match entry.and_then(|entry| programs.release(entry, &sockets, &mut fds)) {
                Ok(release) => {
                    release.listeners.iter().for_each(|listener| self.watch(listener));
                    self.releases.insert(id, Arc::new(release));
                }
                Err(error) => tracing::error!("a release was lost: {error}"),
            }
        }
        self.pending = pending.into_iter().map(|(id, entry)| (id, sockets.pending(entry))).collect();
        for (service, entries, process) in hooked {
            self.adopt_hooks(service, entries, process, was_us, &mut fds);
        }
        // What was asked of the predecessor and not answered is asked again, before anything new happens.
        if deaths >= POISONED {
            tracing::error!(
                "the supervisor died {deaths} times in a row as it took over: what is in flight is given up"
            );
            self.core.give_up_poisoned(self.now(), deaths);
        } else {
            self.core.ask_again(self.now());
        }
        let mut adopted = 0u64;
        for entry in processes {
            adopted += u64::from(self.adopt(entry, was_us, &mut fds));
        }
        self.account_for_the_rest();
        for socket in self.watched.values() {
            // What was unlinked while nobody watched.
            if let Ok(true) = socket.bound.restore_path() {
                tracing::warn!(
                    "{} was unlinked while no supervisor was there: it is linked again",
                    socket.bound.endpoint
                );
            }
        }
        for name in fds.into_keys() {
            tracing::debug!("{name} is of no use any more");
        }
        let processes = count_as(adopted, "process", "processes");
        let what = format!("{processes} and {}", count(self.watched.len() as u64, "listener"));
        if was_us {
            tracing::info!("zdsup {VERSION} goes on with {what}");
        } else {
            tracing::warn!("the supervisor died as process {before}: zdsup {VERSION} goes on with {what}");
        }
    }

    fn adopt(&mut self, entry: ProcessEntry<'_>, was_us: bool, fds: &mut HashMap<Name, OwnedFd>) -> bool {
        let (id, launched) = (entry.id, entry.launched);
        let generation = self.core.services().get(&id.service).and_then(|s| s.generations.get(&id.generation));
        let Some(release) = generation.and_then(|one| self.releases.get(&one.release)).map(Arc::clone) else {
            tracing::error!(service = self.name_of(id.service), "process {} is of no known release", entry.pid);
            return false;
        };
        let service = self.name_of(id.service).to_owned();
        let cgroup = entry.cgroup.as_deref().cloned();
        let slot = self.slot_of(id);
        let mut ground = Ground {
            notify_path: entry.notify.clone(),
            poller: &mut self.poller,
            service: &service,
            cgroups: self.cgroups.as_ref(),
            surroundings: &self.surroundings,
            stdout: &self.stdout,
            stderr: &self.stderr,
            terminal: self.terminal,
        };
        match Process::adopt(entry, slot, was_us, release, fds, &mut ground) {
            Ok(process) => {
                if !launched && process.is_launched() {
                    self.unsettled.insert(id);
                }
                self.processes.insert(id, process);
                true
            }
            Err(_) => {
                if let Some(cgroup) = cgroup {
                    // Nobody leads it any more.
                    let _ = cgroup.kill();
                }
                false
            }
        }
    }

    /// Instances of which no process was found: they were never started, or ended in a way that nobody can know.
    fn account_for_the_rest(&mut self) {
        let now = self.now();
        let instances = self.core.services().values().flat_map(|service| service.generations.values());
        let instances = instances.flat_map(|generation| generation.instances.values());
        let lost: Vec<(InstanceId, bool)> = instances
            .filter(|instance| !self.processes.contains_key(&instance.id))
            .map(|instance| (instance.id, matches!(instance.state, State::Preparing { .. } | State::Launching { .. })))
            .collect();
        for (id, unstarted) in lost {
            let event = if unstarted { InstanceEvent::Unstarted } else { InstanceEvent::Exited(Exit::Unknown) };
            self.core.handle(now, crate::core::Event::Instance(id, event));
        }
        let probes = self.processes.values_mut().filter(|process| process.is_launched());
        probes.filter_map(|process| process.probe.as_mut()).for_each(|probe| probe.due = Some(now));
    }

    /// Shims of a predecessor: each has become its program, or exits, since nobody will ever say go.
    pub(super) fn settle(&mut self) {
        for id in self.unsettled.clone() {
            let Some(process) = self.processes.get(&id) else {
                self.unsettled.remove(&id);
                continue;
            };
            let seen = shim::is_shim(process.pid);
            if has_launched(&seen, self.look_again_after) {
                if let Err(error) = seen {
                    let (service, pid) = (self.name_of(id.service), process.pid);
                    tracing::warn!(
                        service,
                        "process {pid} cannot be looked at, and is taken to be the program: {error}"
                    );
                }
                self.unsettled.remove(&id);
                self.launched(id);
            }
        }
        self.look_again_at = (!self.unsettled.is_empty()).then(|| self.now().after(self.look_again_after));
        self.look_again_after = longer(self.look_again_after);
    }

    /// A shim of a predecessor has exited without having become its program: another is made.
    pub(super) fn unstarted(&mut self, id: InstanceId) {
        if let Some(mut process) = self.processes.remove(&id) {
            process.sweep(true, &mut self.poller);
            process.forget(&mut self.poller);
        }
        self.tell_core_of(id, InstanceEvent::Unstarted);
        self.act();
    }

    /// When something about the takeover is to be done.
    pub(super) fn adoption_deadline(&self) -> Option<Time> {
        let searches = self.processes.values().filter_map(|process| process.search_at);
        let reexec = self.reexec.as_ref().map(|reexec| reexec.deadline(self.now()));
        let own = [self.survival.again_at, self.look_again_at, self.settled_at, reexec];
        own.into_iter().flatten().chain(searches).min()
    }

    /// Does it.
    pub(super) fn on_adoption_time(&mut self) {
        let now = self.now();
        let due = |at: Option<Time>| at.is_some_and(|at| at <= now);
        if due(self.settled_at) {
            self.settled_at = None;
            if let Err(error) = self.survival.memory.set_deaths(0) {
                tracing::warn!("the state cannot be written down: {error}");
            }
        }
        if due(self.look_again_at) {
            self.settle();
        }
        if due(self.survival.again_at) {
            self.survival.stale = true;
            self.record();
        }
        self.on_reexec_time();
        let searched: Vec<InstanceId> =
            self.processes.values().filter(|process| due(process.search_at)).map(|process| process.id).collect();
        for id in searched {
            if let Some(process) = self.processes.get_mut(&id) {
                process.search_at = None;
            }
            self.check_emptied(id, None);
        }
    }
}

/// Whether a process that was a shim counts as its program. One that cannot be looked at is on its way out, which its
/// pidfd tells soon; if that has not come when looking has become rare, it lives where we may not look.
fn has_launched(seen: &io::Result<bool>, pause: Duration) -> bool {
    match seen {
        Ok(is_shim) => !is_shim,
        Err(_) => pause >= LOOK_AGAIN.1,
    }
}

fn longer(pause: Duration) -> Duration {
    LOOK_AGAIN.1.min(pause * 2)
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_looked_at_is_not_looked_at_for_ever() {
        let denied = Err(io::ErrorKind::PermissionDenied.into());
        let (mut pause, mut waited, mut looks) = (LOOK_AGAIN.0, Duration::ZERO, 1);
        while !has_launched(&denied, pause) {
            (waited, looks) = (waited + pause, looks + 1);
            pause = longer(pause);
            assert!(waited < Duration::from_secs(1), "{looks} looks");
        }
        assert!(waited >= Duration::from_millis(100), "one that is on its way out has the time to go: {waited:?}");
        assert_eq!(longer(pause), pause, "a shim that stays one costs four looks a second");
        assert!(!has_launched(&Ok(true), pause) && has_launched(&Ok(false), LOOK_AGAIN.0));
    }
}
