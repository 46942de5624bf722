//! What happens when nothing else does.

use super::super::event::{Reason, Verdict};
use super::super::id::{Generation as Number, InstanceId, Time};
use super::super::instance::Instance;
use super::super::policy::{PIN_TIMEOUT, SWITCH_TIMEOUT};
use super::{Outbox, Phase, Role, Service, Upgrade};

impl Service {
    /// When something has to happen if nothing else does.
    pub(in crate::core) fn deadline(&self) -> Option<Time> {
        let pinning = self.upgrade.as_ref().and_then(|upgrade| match upgrade.phase {
            Phase::Pinning { deadline } => Some(deadline),
            Phase::Candidate(_) | Phase::Telling { .. } => None,
        });
        let generations = self.generations.values().flat_map(|generation| {
            let soak = match generation.role {
                Role::Soaking { until } => Some(until),
                Role::Starting | Role::Switching | Role::Serving | Role::Draining | Role::Ending => None,
            };
            let retries = generation.seats.iter().filter_map(|seat| seat.retry_at);
            let own = soak.into_iter().chain(generation.switch_by);
            own.chain(retries).chain(generation.instances.values().filter_map(Instance::deadline))
        });
        generations.chain(pinning).filter(|time| *time != Time(u64::MAX)).min()
    }

    pub(in crate::core) fn expire(&mut self, now: Time, out: &mut Outbox) {
        if let Some(Upgrade { phase: Phase::Pinning { deadline }, .. }) = self.upgrade
            && deadline <= now
        {
            self.give_up(now, Verdict::Failed, Reason::PinTimeout(PIN_TIMEOUT), out);
        }
        let numbers: Vec<Number> = self.generations.keys().copied().collect();
        for number in numbers {
            self.expire_generation(now, number, out);
        }
    }

    fn expire_generation(&mut self, now: Time, number: Number, out: &mut Outbox) {
        let instances: Vec<InstanceId> = match self.generations.get(&number) {
            Some(generation) => generation.instances.values().map(|instance| instance.id).collect(),
            None => return,
        };
        for id in instances {
            let Some(generation) = self.generations.get_mut(&number) else { return };
            let Some(instance) = generation.instances.get_mut(&id.number) else { continue };
            let ready_for = instance.ready_for(now);
            let change = instance.expire(now, out);
            self.changed(now, id, change, ready_for, out);
        }
        let Some(generation) = self.generations.get_mut(&number) else { return };
        if generation.switch_by.is_some_and(|by| by <= now) {
            return self.give_up(now, Verdict::RolledBack, Reason::SwitchTimeout(SWITCH_TIMEOUT), out);
        }
        for place in 0..generation.seats.len() {
            if generation.seats[place].retry_at.is_some_and(|at| at <= now) {
                generation.start(self.id, place, now, out);
            }
        }
        if matches!(generation.role, Role::Soaking { until } if until <= now) {
            self.switch(now, number, out);
        }
    }
}
