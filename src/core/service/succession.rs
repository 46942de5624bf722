//! What a successor of the shell is told.

use super::super::event::{Action, Reason, Verdict};
use super::super::id::Time;
use super::super::policy::FirstFailure;
use super::{Outbox, Phase, Service, Upgrade};

impl Service {
    /// Says again what the shell has not answered. From now on a first start that fails is tried again: whoever waited
    /// for its answer waited for another shell.
    pub(in crate::core) fn ask_again(&mut self, now: Time, out: &mut Outbox) {
        self.first_failure = FirstFailure::Retry;
        if self.weights_awaited > 0 && !out.has_weights(self.id) {
            self.weights_awaited = 0;
            if !self.generations.is_empty() {
                self.set_weights(out);
            }
        }
        if let Some(Upgrade { id, kind, phase: Phase::Pinning { .. }, again, .. }) = self.upgrade {
            out.ask_again(Action::Pin { service: self.id, upgrade: id, kind, again });
        }
        self.ask_for_hold_again(out);
        self.ask_for_hooks_again(out);
        for instance in self.generations.values_mut().flat_map(|generation| generation.instances.values_mut()) {
            instance.ask_again(now, out);
        }
    }

    /// Gives the upgrade in flight up, unless its candidate serves already.
    pub(in crate::core) fn give_up_poisoned(&mut self, now: Time, deaths: u32, out: &mut Outbox) {
        self.first_failure = FirstFailure::Retry;
        self.release(now, out);
        match self.upgrade.as_ref().map(|upgrade| upgrade.phase) {
            Some(Phase::Pinning { .. } | Phase::Candidate(_)) => {
                self.give_up(now, Verdict::Aborted, Reason::Poisoned { deaths }, out);
            }
            Some(Phase::Telling { .. } | Phase::Returning { .. }) | None => {}
        }
    }
}
