//! What happens when nothing else does.

use super::super::event::{Reason, Verdict};
use super::super::id::{Generation as Number, InstanceId, Time};
use super::super::instance::Instance;
use super::super::policy::{HOLD_TIMEOUT, PIN_TIMEOUT, SWITCH_TIMEOUT};
use super::{Generation, Outbox, Phase, Role, Service, Upgrade};

impl Service {
    /// When something has to happen if nothing else does.
    pub(in crate::core) fn deadline(&self) -> Option<Time> {
        let upgrade = self.upgrade.as_ref().and_then(|upgrade| match upgrade.phase {
            Phase::Pinning { deadline } | Phase::Returning { deadline, .. } => Some(deadline),
            Phase::Candidate(_) => self.clear_by(),
            Phase::Telling { .. } => None,
        });
        let generations = self.generations.values().flat_map(|generation| {
            let hook = generation.hook.map(|(_, deadline)| deadline);
            let own = generation.role_until().into_iter().chain(hook).chain(generation.switch_by);
            let retries = generation.seats.iter().filter_map(|seat| seat.retry_at);
            own.chain(retries).chain(generation.instances.values().filter_map(Instance::deadline))
        });
        let own = [self.awaits_turn_until, self.pause_deadline()].into_iter().flatten();
        generations.chain(upgrade).chain(own).filter(|time| *time != Time(u64::MAX)).min()
    }

    pub(in crate::core) fn expire(&mut self, now: Time, out: &mut Outbox) {
        match self.upgrade {
            Some(Upgrade { phase: Phase::Pinning { deadline }, .. }) if deadline <= now => {
                self.give_up(now, Verdict::Failed, Reason::PinTimeout(PIN_TIMEOUT), out);
            }
            Some(Upgrade { phase: Phase::Returning { deadline, .. }, .. }) if deadline <= now => {
                self.return_late(now, out);
            }
            Some(Upgrade { phase: Phase::Candidate(_), .. }) if self.clear_by().is_some_and(|by| by <= now) => {
                self.give_up(now, Verdict::Failed, Reason::OldLives, out);
            }
            Some(_) | None => {}
        }
        self.expire_pause(now, out);
        let numbers: Vec<Number> = self.generations.keys().copied().collect();
        for number in numbers {
            self.expire_instances(now, number, out);
            self.expire_generation(now, number, out);
        }
    }

    fn expire_instances(&mut self, now: Time, number: Number, out: &mut Outbox) {
        let instances: Vec<InstanceId> = match self.generations.get(&number) {
            Some(generation) => generation.instances.values().map(|instance| instance.id).collect(),
            None => return,
        };
        for id in instances {
            let Some(generation) = self.generations.get_mut(&number) else { return };
            let Some(instance) = generation.instances.get_mut(&id.number) else { continue };
            let ready_for = instance.ready_for(now);
            let change = instance.expire(now, &generation.policy, out);
            self.changed(now, id, change, ready_for, out);
        }
    }

    fn expire_generation(&mut self, now: Time, number: Number, out: &mut Outbox) {
        let Some(generation) = self.generations.get_mut(&number) else { return };
        if generation.switch_by.is_some_and(|by| by <= now) {
            return self.give_up(now, Verdict::RolledBack, Reason::SwitchTimeout(SWITCH_TIMEOUT), out);
        }
        if let Some((hook, _)) = generation.hook.filter(|(_, deadline)| *deadline <= now) {
            return self.hook_late(now, number, hook, out);
        }
        let due = |at: Option<Time>| at.is_some_and(|at| at <= now);
        let seats = generation.seats.iter().enumerate();
        let retries: Vec<usize> = seats.filter(|(_, seat)| due(seat.retry_at)).map(|(place, _)| place).collect();
        let (role, over) = (generation.role, due(generation.role_until()));
        for place in retries {
            self.start(now, number, place, out);
        }
        match role {
            _ if !over => {}
            Role::Soaking { .. } => self.soaked(now, number, out),
            Role::Held { .. } => {
                self.give_up(now, Verdict::RolledBack, Reason::HeldTooLong(HOLD_TIMEOUT), out);
            }
            Role::Rolling { .. } => self.roll(now, out),
            Role::Stepping { step, .. } => self.step_over(now, number, step, out),
            Role::Standby { .. } => self.stand_down(now, number, out),
            Role::Starting | Role::Switching | Role::Serving | Role::Retreating | Role::Draining | Role::Ending => {}
        }
    }

    /// It has stood by for long enough.
    fn stand_down(&mut self, now: Time, number: Number, out: &mut Outbox) {
        let service = self.id;
        if let Some(generation) = self.generations.get_mut(&number) {
            Self::drain(service, generation, now, out);
        }
        self.settle(out);
    }
}

impl Generation {
    /// When its part changes by itself, if it does: its soak, its wait for others, the step of its canary, or its time as a
    /// standby is over.
    #[must_use]
    pub fn role_until(&self) -> Option<Time> {
        match self.role {
            Role::Soaking { until } | Role::Held { until } | Role::Standby { until } => Some(until),
            // What waits for more than time is asked about again when that has come.
            Role::Rolling { gate } => gate.filter(|_| self.hook.is_none() && self.is_batch_ready()),
            Role::Stepping { until, .. } => until,
            Role::Starting | Role::Switching | Role::Serving | Role::Retreating | Role::Draining | Role::Ending => None,
        }
    }
}
