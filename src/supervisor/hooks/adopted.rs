//! What a successor is told of hooks, and what it makes of that: those that nobody waits for are run, and what runs is ended
//! before that.

use std::borrow::Cow;
use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::libc::{SIGKILL, SIGTERM};

use super::running::{KILLED, PATIENCE, Running};
use super::{Hooks, Order};
use crate::core::{ReleaseId, ServiceId, Time};
use crate::supervisor::Supervisor;
use crate::supervisor::errand::Errand;
use crate::supervisor::poller::{Poller, Source};
use crate::supervisor::release::Release;
use crate::supervisor::survival::{HookEntry, HookProcessEntry, Name, Part};
use crate::supervisor::tokens;
use crate::sys::pidfd::{ExitInfo, PidFd};

/// The process of a hook that a predecessor has begun: nobody can know how far it came, so it is run again.
#[derive(Debug)]
pub(super) struct Leftover {
    errand: Errand,
    pub(super) process: HookProcessEntry,
    until: Time,
    killed: bool,
}

impl Leftover {
    pub(super) fn errand(&self) -> &Errand {
        &self.errand
    }

    pub(super) fn exit(&self) -> Option<ExitInfo> {
        self.errand.exit()
    }

    pub(super) fn deadline(&self) -> Time {
        self.until
    }

    /// Whether even the kernel does not end it.
    pub(super) fn is_lost(&mut self, now: Time) -> bool {
        if self.until > now {
            return false;
        }
        if !self.killed {
            self.errand.signal(SIGKILL);
            (self.killed, self.until) = (true, now.after(KILLED));
            return false;
        }
        true
    }

    pub(super) fn end(self, poller: &mut Poller) {
        self.errand.end(poller);
    }
}

impl Hooks {
    /// The descriptor of the one that runs.
    pub(in crate::supervisor) fn holding(&self) -> Option<(Name, BorrowedFd<'_>)> {
        let process = self.process()?;
        Some((Name::Process(process.token, Part::Pid(process.pid)), self.errand()?.pidfd()))
    }

    pub(super) fn errand(&self) -> Option<&Errand> {
        self.running.as_ref().map(Running::errand).or(self.leftover.as_ref().map(Leftover::errand))
    }

    /// The process of the one that runs.
    pub(in crate::supervisor) fn process(&self) -> Option<HookProcessEntry> {
        let running = self.running.as_ref().map(|running| running.process);
        running.or(self.leftover.as_ref().map(|leftover| leftover.process))
    }

    /// Those that nobody waits for. `is_kept`: whether a release is kept for other reasons.
    pub(in crate::supervisor) fn entries(&self, is_kept: impl Fn(ReleaseId) -> bool) -> Vec<HookEntry<'_>> {
        let orders = self.orders().filter(|order| !order.is_awaited());
        orders.map(|order| order.entry(!is_kept(order.release_id))).collect()
    }

    /// The releases that hooks hold.
    pub(in crate::supervisor) fn releases(&self) -> impl Iterator<Item = (ReleaseId, &Arc<Release>)> {
        self.orders().map(|order| (order.release_id, &order.release))
    }

    fn orders(&self) -> impl Iterator<Item = &Order> {
        let running = self.running.iter().filter(|running| !running.is_withdrawn()).map(|running| &running.order);
        running.chain(&self.waiting)
    }
}

impl Order {
    fn entry(&self, is_last: bool) -> HookEntry<'_> {
        HookEntry {
            hook: self.hook,
            generation: self.generation,
            release: self.release_id,
            upgrade: self.upgrade,
            is_last,
            environment: Cow::Borrowed(&self.environment),
        }
    }
}

impl Supervisor {
    /// Takes over what a predecessor had to do, and ends what it had begun. Its releases are there already. `was_us`: it
    /// was this very process.
    pub(in crate::supervisor) fn adopt_hooks(
        &mut self,
        service: ServiceId,
        entries: Vec<HookEntry<'_>>,
        process: Option<HookProcessEntry>,
        was_us: bool,
        fds: &mut HashMap<Name, OwnedFd>,
    ) {
        let now = self.now();
        let order = |entry: HookEntry<'_>| {
            let release = self.releases.get(&entry.release)?;
            Some(Order {
                hook: entry.hook,
                generation: entry.generation,
                release_id: entry.release,
                release: Arc::new(release.at_rest()),
                upgrade: entry.upgrade,
                environment: entry.environment.into_owned(),
                until: None,
            })
        };
        let last: Vec<_> = entries.iter().filter(|entry| entry.is_last).map(|entry| entry.release).collect();
        let waiting = entries.into_iter().filter_map(order).collect();
        self.releases.retain(|id, _| !last.contains(id));
        let leftover = process.and_then(|process| {
            tokens::was_given_out(process.token);
            let pidfd = fds.remove(&Name::Process(process.token, Part::Pid(process.pid)))?;
            let errand = Errand::adopt(PidFd::from(pidfd), was_us, Source::HookExit(service), &mut self.poller).ok()?;
            errand.signal(SIGTERM);
            Some(Leftover { errand, process, until: now.after(PATIENCE), killed: false })
        });
        if leftover.is_some() {
            tracing::warn!(service = self.name_of(service), "a hook was being run: it is ended, and run again");
        }
        if let Some(shell) = self.services.get_mut(&service) {
            shell.hooks = Hooks { waiting, leftover, ..Hooks::default() };
        }
    }

    pub(super) fn leftover_is_gone(&mut self, service: ServiceId) {
        let Some(shell) = self.services.get_mut(&service) else { return };
        if let Some(leftover) = shell.hooks.leftover.take() {
            leftover.end(&mut self.poller);
        }
        self.survival.stale = true;
        self.next_hook(service);
    }

    /// Runs what a predecessor had still to do.
    pub(in crate::supervisor) fn go_on_with_hooks(&mut self) {
        let services: Vec<ServiceId> = self.services.keys().copied().collect();
        for service in services {
            self.next_hook(service);
        }
    }
}
