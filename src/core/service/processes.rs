//! What the fate of one process means to its generation, and so to the upgrade.

use std::time::Duration;

use super::super::event::{Action, Exit, InstanceEvent, Reason, Step, Verdict};
use super::super::id::{InstanceId, Time};
use super::super::instance::Change;
use super::{Generation, Outbox, Role, Service};

impl Service {
    pub(in crate::core) fn on_instance(&mut self, now: Time, id: InstanceId, event: InstanceEvent, out: &mut Outbox) {
        let Some(generation) = self.generations.get_mut(&id.generation) else { return };
        let Some(instance) = generation.instances.get_mut(&id.number) else { return };
        let ready_for = instance.ready_for(now);
        let change = instance.handle(now, event, &generation.policy, out);
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
                if let Some(seat) = generation.seats.iter_mut().find(|seat| seat.instance == Some(id.number)) {
                    seat.reason = None;
                }
                if role == Role::Starting && generation.is_ready() {
                    self.candidate_ready(now, number, out);
                }
            }
            Change::SaidStopping => {
                tell(Step::Stopping { instance: id });
                match role {
                    Role::Starting => self.give_up(now, Verdict::Failed, Reason::StoppingBeforeReady, out),
                    Role::Soaking { .. } | Role::Switching => {
                        self.give_up(now, Verdict::RolledBack, Reason::StoppingInSoak, out);
                    }
                    Role::Serving | Role::Draining | Role::Ending => {}
                }
            }
            Change::NeverReady(after) => match role {
                Role::Starting => self.give_up(now, Verdict::Failed, Reason::NeverReady(after), out),
                Role::Soaking { .. } | Role::Switching | Role::Serving | Role::Draining | Role::Ending => {
                    generation.doom(id.number, Reason::NeverReady(after), None);
                    if let Some(instance) = generation.instances.get_mut(&id.number) {
                        instance.stop(now, &generation.policy, out);
                    }
                }
            },
            Change::Broken(reason) => {
                tell(Step::Aborting { instance: id, reason: reason.clone() });
                match role {
                    Role::Starting => self.give_up(now, Verdict::Failed, reason, out),
                    Role::Soaking { .. } | Role::Switching => self.give_up(now, Verdict::RolledBack, reason, out),
                    Role::Serving => {
                        generation.doom(id.number, reason, ready_for);
                        self.unprotected(now, out);
                    }
                    Role::Draining | Role::Ending => {}
                }
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
            }
            Change::Unstarted => out.ask_again(Action::Prepare { instance: id, release: generation.release }),
            Change::Stuck(reason) => self.lost(now, id, Loss::NeverRan(reason), None, out),
            Change::NeverRan(reason) => {
                generation.instances.remove(&id.number);
                self.lost(now, id, Loss::NeverRan(reason), None, out);
                self.told(now, out);
                self.settle(out);
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
            }
        }
    }

    /// A process is of no more use. What that means depends on the part its generation plays.
    fn lost(&mut self, now: Time, id: InstanceId, loss: Loss, ready_for: Option<Duration>, out: &mut Outbox) {
        let service = self.id;
        let Some(generation) = self.generations.get_mut(&id.generation) else { return };
        let (verdict, reason) = match (generation.role, loss) {
            (Role::Starting, Loss::Died(exit)) => (Verdict::Failed, Reason::ExitedBeforeReady(exit)),
            (Role::Soaking { .. } | Role::Switching, Loss::Died(exit)) => {
                (Verdict::RolledBack, Reason::ExitedInSoak(exit))
            }
            (Role::Starting | Role::Soaking { .. } | Role::Switching, Loss::NeverRan(reason)) => {
                (Verdict::Failed, reason)
            }
            (Role::Serving, loss) => {
                let reason = match loss {
                    Loss::Died(exit) if ready_for.is_some() => Reason::Crashed(exit),
                    Loss::Died(exit) => Reason::ExitedBeforeReady(exit),
                    Loss::NeverRan(reason) => reason,
                };
                if let Some(place) = generation.vacate(id.number, reason, ready_for) {
                    Self::retry(service, generation, place, now, out);
                }
                return self.unprotected(now, out);
            }
            (Role::Draining | Role::Ending, _) => return,
        };
        // A process that no seat knows any more was replaced: its end is no news.
        if generation.vacate(id.number, reason.clone(), ready_for).is_some() {
            self.give_up(now, verdict, reason, out);
        }
    }

    /// When nothing serves any more, a ready candidate takes over without further soak.
    fn unprotected(&mut self, now: Time, out: &mut Outbox) {
        let up = self.serving().is_some_and(Generation::is_up);
        let soaking = self.candidate().filter(|candidate| matches!(candidate.role, Role::Soaking { .. }));
        if let Some(number) = soaking.map(|candidate| candidate.number).filter(|_| !up) {
            self.switch(now, number, out);
        }
    }
}

enum Loss {
    Died(Exit),
    NeverRan(Reason),
}
