//! Callers that wait in a slot whose process is gone, where nobody is to come after it: a crashed candidate's, one that was
//! killed before it had accepted all (hazard 1), or a handshake that took too long (hazard 38).
//!
//! - A process of what serves is started in that slot, a *relief*: it is in no seat, has no part in the traffic, and is
//!   told to stop as soon as it is ready. Before it is told it takes what waits, as every process does.
//! - One that fails is not followed by another as long as the same generation serves.
//! - None is started where instances are counted, that is while some are replaced by others, nor where no process may run
//!   beside another (`stop-start` with one instance).

use super::super::event::Action;
use super::super::id::{InstanceId, Slot, Time};
use super::super::instance::{Change, Instance, State};
use super::super::policy::Strategy;
use super::{Generation, Outbox, Purpose, Role, Service};

impl Service {
    /// Whether a process would be started for callers that wait in this slot.
    #[must_use]
    pub fn can_relieve(&self, slot: Slot) -> bool {
        let taken = self.generations.values().flat_map(|one| one.slots(true)).any(|taken| taken == slot);
        let replaced = |one: &Generation| {
            let alone = one.policy.strategy == Strategy::StopStart && one.seats.len() == 1;
            matches!(one.role, Role::Rolling { .. } | Role::Retreating) || alone
        };
        let relieves = self.serving().is_some_and(|serving| serving.is_up() && serving.hook.is_none());
        let counted = self.generations.values().any(replaced);
        self.purpose == Purpose::Run && relieves && !taken && !counted && !self.unrelieved.contains(&slot)
    }

    /// Callers wait in a slot that no process has.
    pub(in crate::core) fn relieve(&mut self, now: Time, slot: Slot, out: &mut Outbox) {
        if !self.can_relieve(slot) {
            return;
        }
        let service = self.id;
        let Some(serving) = self.generations.values_mut().find(|one| one.role == Role::Serving) else { return };
        let id = InstanceId { service, generation: serving.number, number: serving.next_instance };
        serving.next_instance += 1;
        serving.instances.insert(id.number, Instance { relief: true, ..Instance::new(id, slot, now) });
        out.push(Action::Prepare { instance: id, release: serving.release });
    }

    /// Takes note of what became of a relief. `before`: as it was before this change.
    pub(super) fn relieved(&mut self, before: &Instance, change: &Change) {
        let done = matches!(before.state, State::Stopping { .. } | State::Killing { .. } | State::Leftovers { .. });
        let failed = matches!(
            change,
            Change::Died(_) | Change::NeverRan(_) | Change::NeverReady(_) | Change::Stuck(_) | Change::Broken(_)
        );
        if before.relief && failed && !done {
            self.unrelieved.insert(before.slot);
        }
    }
}
