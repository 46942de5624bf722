//! What a successor of the shell is told.

use super::super::event::{Action, Kind, Reason, Verdict};
use super::super::id::Time;
use super::super::policy::FirstFailure;
use super::{Outbox, Phase, Role, Service, Upgrade};

impl Service {
    /// Says again what the shell has not answered. From now on a first start that fails is tried again: whoever waited
    /// for its answer waited for another shell.
    pub(in crate::core) fn ask_again(&mut self, now: Time, out: &mut Outbox) {
        self.first_failure = FirstFailure::Retry;
        if self.weights_awaited > 0 && !out.has_weights(self.id) {
            self.weights_awaited = 0;
            let switching = self.candidate().filter(|candidate| candidate.role == Role::Switching);
            if let Some(to) = switching.or_else(|| self.serving()).map(|generation| generation.number) {
                self.set_weights(to, out);
            }
        }
        if let Some(Upgrade { id, kind, phase: Phase::Pinning { .. } }) = self.upgrade {
            let pinned = self.pinned.as_ref().map(|(release, _)| *release).filter(|_| kind == Kind::Restart);
            out.ask_again(Action::Pin { service: self.id, upgrade: id, kind, again: pinned });
        }
        for instance in self.generations.values_mut().flat_map(|generation| generation.instances.values_mut()) {
            instance.ask_again(now, out);
        }
    }

    /// Gives the upgrade in flight up, unless its candidate serves already.
    pub(in crate::core) fn give_up_poisoned(&mut self, now: Time, deaths: u32, out: &mut Outbox) {
        self.first_failure = FirstFailure::Retry;
        match self.upgrade.as_ref().map(|upgrade| upgrade.phase) {
            Some(Phase::Pinning { .. } | Phase::Candidate(_)) => {
                self.give_up(now, Verdict::Aborted, Reason::Poisoned { deaths }, out);
            }
            Some(Phase::Telling { .. }) | None => {}
        }
    }
}
