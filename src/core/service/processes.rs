//! What the fate of one process means to its generation, and so to the upgrade.

use std::time::Duration;

use super::super::event::{Action, Exit, InstanceEvent, Reason, Step, Verdict};
use super::super::id::{InstanceId, Time};
use super::super::instance::Change;
use super::{Outbox, Role, Service};

impl Service {
    pub(in crate::core) fn on_instance(&mut self, now: Time, id: InstanceId, event: InstanceEvent, out: &mut Outbox) {
        let Some(generation) = self.generations.get_mut(&id.generation) else { return };
        let Some(instance) = generation.instances.get_mut(&id.number) else { return };
        let ready_for = instance.ready_for(now);
        let before = instance.clone();
        let change = instance.handle(now, event, &generation.policy, out);
        self.relieved(&before, &change);
        self.changed(now, id, change, ready_for, out);
    }

    pub(in crate::core) fn on_told(&mut self, now: Time, id: InstanceId, out: &mut Outbox) {
        let Some(generation) = self.generations.get_mut(&id.generation) else { return };
        let Some(instance) = generation.instances.get_mut(&id.number) else { return };
        let change = instance.told();
        self.changed(now, id, change, None, out);
    }

    pub(super) fn changed(
        &mut self,
        now: Time,
        id: InstanceId,
        change: Change,
        ready_for: Option<Duration>,
        out: &mut Outbox,
    ) {
        let Some(generation) = self.generations.get_mut(&id.generation) else { return };
        let (number, role, upgrade) = (generation.number, generation.role, generation.upgrade);
        let service = self.id;
        let mut tell = |step: Step| out.push(Action::Progress { service, upgrade, step });
        match change {
            Change::None => {}
            Change::Spawned => tell(Step::Spawned { instance: id }),
            Change::Ready(after) => {
                tell(Step::Ready { instance: id, after });
                let relief = generation.instances.get_mut(&id.number).filter(|instance| instance.relief);
                if let Some(relief) = relief {
                    // Before it is told, it takes what waits for it.
                    return relief.stop(now, &generation.policy, out);
                }
                if let Some(seat) = generation.seats.iter_mut().find(|seat| seat.instance == Some(id.number)) {
                    seat.reason = None;
                }
                self.go_on(now, number, out);
            }
            Change::SaidStopping => {
                tell(Step::Stopping { instance: id });
                let reason = match ready_for {
                    Some(_) => generation.said_stopping(id.number),
                    None => Reason::StoppingBeforeReady,
                };
                match self.is_candidates(id) {
                    true => self.give_up_for(now, id, reason, out),
                    false => self.roll(now, out),
                }
            }
            Change::NeverReady(reason) => match self.is_candidates(id) {
                true => self.give_up_for(now, id, reason, out),
                false => self.end_doomed(now, id, reason, None, out),
            },
            Change::Broken(reason) => {
                tell(Step::Aborting { instance: id, reason: reason.clone() });
                match role {
                    Role::Starting
                    | Role::Soaking { .. }
                    | Role::Held { .. }
                    | Role::Rolling { .. }
                    | Role::Stepping { .. }
                    | Role::Switching => self.give_up_for(now, id, reason, out),
                    Role::Serving | Role::Standby { .. } | Role::Retreating => {
                        generation.doom(id.number, reason, ready_for);
                        self.unprotected(now, out);
                    }
                    Role::Draining | Role::Ending => {}
                }
            }
            Change::Unhealthy(reason) => {
                tell(Step::Unhealthy { instance: id, reason: reason.clone() });
                match role {
                    Role::Starting
                    | Role::Soaking { .. }
                    | Role::Held { .. }
                    | Role::Rolling { .. }
                    | Role::Stepping { .. }
                    | Role::Switching => self.give_up_for(now, id, reason, out),
                    Role::Serving | Role::Standby { .. } | Role::Retreating => {
                        self.end_doomed(now, id, reason, ready_for, out);
                    }
                    Role::Draining | Role::Ending => {}
                }
            }
            Change::Healthy => {
                tell(Step::Healthy { instance: id });
                self.go_on(now, number, out);
            }
            Change::Died(exit) => {
                tell(Step::Exited { instance: id, exit });
                self.lost(now, id, Loss::Died(exit), ready_for, out);
                self.told(now, out);
                // After the verdict: what it printed belongs there, and is forgotten with its last process.
                let generation = self.generations.get(&id.generation);
                if let Some(instance) = generation.and_then(|generation| generation.instances.get(&id.number)) {
                    instance.sweep(out);
                }
                self.roll(now, out);
            }
            Change::Unstarted => out.ask_again(Action::Prepare { instance: id, release: generation.release }),
            Change::Stuck(reason) => {
                self.lost(now, id, Loss::NeverRan(reason), None, out);
                self.roll(now, out);
            }
            Change::NeverRan(reason) => {
                generation.instances.remove(&id.number);
                self.lost(now, id, Loss::NeverRan(reason), None, out);
                self.told(now, out);
                self.settle(out);
                self.roll(now, out);
            }
            Change::Overdue => {
                tell(Step::Overdue { instance: id });
                self.told(now, out);
            }
            Change::Undead => tell(Step::Undead { instance: id }),
            Change::Told => self.told(now, out),
            Change::Gone => {
                generation.instances.remove(&id.number);
                self.settle(out);
                self.roll(now, out);
            }
        }
    }

    /// Whether this is a process of the candidate, which goes with it.
    fn is_candidates(&self, id: InstanceId) -> bool {
        let generation = self.generations.get(&id.generation);
        generation.is_some_and(|generation| match generation.role {
            Role::Starting
            | Role::Soaking { .. }
            | Role::Held { .. }
            | Role::Rolling { .. }
            | Role::Stepping { .. }
            | Role::Switching => {
                // One that was replaced or is superfluous is no news.
                generation.seats.iter().any(|seat| seat.instance == Some(id.number))
            }
            Role::Serving | Role::Standby { .. } | Role::Retreating | Role::Draining | Role::Ending => false,
        })
    }

    /// The candidate is given up because of one of its processes: rolled back, if it had proved itself or something had
    /// been replaced by it.
    fn give_up_for(&mut self, now: Time, id: InstanceId, reason: Reason, out: &mut Outbox) {
        let replaced = self.serving().is_some_and(|serving| serving.seats.iter().any(|seat| seat.parked));
        let proved = self.generations.get(&id.generation).is_some_and(|generation| match generation.role {
            Role::Soaking { .. } | Role::Held { .. } | Role::Stepping { .. } | Role::Switching => true,
            Role::Rolling { gate } => replaced || gate.is_some(),
            Role::Starting
            | Role::Serving
            | Role::Standby { .. }
            | Role::Retreating
            | Role::Draining
            | Role::Ending => false,
        });
        self.blamed = Some(id);
        self.give_up(now, if proved { Verdict::RolledBack } else { Verdict::Failed }, reason, out);
    }

    /// A process of a generation that has proved itself is of no use: it is ended, and another takes its place.
    fn end_doomed(&mut self, now: Time, id: InstanceId, reason: Reason, ready_for: Option<Duration>, out: &mut Outbox) {
        let Some(generation) = self.generations.get_mut(&id.generation) else { return };
        generation.doom(id.number, reason, ready_for);
        if let Some(instance) = generation.instances.get_mut(&id.number) {
            instance.stop(now, &generation.policy, out);
        }
        self.unprotected(now, out);
    }

    /// A process is of no more use. What that means depends on the part its generation plays.
    fn lost(&mut self, now: Time, id: InstanceId, loss: Loss, ready_for: Option<Duration>, out: &mut Outbox) {
        let service = self.id;
        let Some(generation) = self.generations.get_mut(&id.generation) else { return };
        let role = generation.role;
        match role {
            Role::Starting
            | Role::Soaking { .. }
            | Role::Held { .. }
            | Role::Rolling { .. }
            | Role::Stepping { .. }
            | Role::Switching => {
                let reason = match loss {
                    Loss::Died(exit) if ready_for.is_some() => generation.exited(id.number, exit),
                    Loss::Died(exit) => Reason::ExitedBeforeReady(exit),
                    Loss::NeverRan(reason) => reason,
                };
                // A process that no seat knows any more was replaced: its end is no news.
                if generation.seats.iter().any(|seat| seat.instance == Some(id.number)) {
                    let stood_by = generation.stood_by.is_some();
                    if let Some(place) = generation.vacate(id.number, reason.clone(), ready_for).filter(|_| stood_by) {
                        Self::retry(service, generation, place, now, out);
                    }
                    self.give_up_for(now, id, reason, out);
                }
            }
            Role::Serving | Role::Standby { .. } => {
                let reason = match loss {
                    Loss::Died(exit) if ready_for.is_some() && role == Role::Serving => Reason::Crashed(exit),
                    Loss::Died(exit) if ready_for.is_some() => generation.exited(id.number, exit),
                    Loss::Died(exit) => Reason::ExitedBeforeReady(exit),
                    Loss::NeverRan(reason) => reason,
                };
                if let Some(place) = generation.vacate(id.number, reason, ready_for) {
                    Self::retry(service, generation, place, now, out);
                }
                self.unprotected(now, out);
            }
            Role::Retreating => {
                if let Some(place) = generation.vacate(id.number, Reason::Crashed(Exit::Unknown), ready_for) {
                    generation.park(place, now, out);
                }
            }
            Role::Draining | Role::Ending => {}
        }
    }
}

enum Loss {
    Died(Exit),
    NeverRan(Reason),
}
