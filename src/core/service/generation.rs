//! One generation: the part it plays, and a seat for each process that it is meant to have.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::event::{Action, Exit, Hook, Moment, Reason};
use super::super::id::{Generation as Number, InstanceId, ReleaseId, ServiceId, Slot, Time, UpgradeId};
use super::super::instance::{Instance, State};
use super::super::policy::{CanaryStep, Policy, Strategy};
use super::outbox::Outbox;

/// One generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Its number.
    pub number: Number,
    /// What it runs.
    pub release: ReleaseId,
    /// How.
    pub policy: Policy,
    /// How many instances the config of its release says; `None` where a former version has not kept it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) configured: Option<u32>,
    /// Its part.
    pub role: Role,
    /// One a process that it is meant to have.
    pub seats: Vec<Seat>,
    /// Every process of it of which something may be left.
    pub instances: BTreeMap<u32, Instance>,
    /// The upgrade that it is part of: the one that made it, then the one that ends it.
    pub upgrade: Option<UpgradeId>,
    /// The generation that its release was pinned for first: another one after a restart or a rollback.
    #[serde(default)]
    pub lineage: Number,
    /// The hook that it waits for, and until when.
    #[serde(default)]
    pub hook: Option<(Hook, Time)>,
    /// Its hook for candidates that are ready has been run.
    #[serde(default)]
    pub(super) hooked: bool,
    /// While it is switching: until when that may take.
    pub(super) switch_by: Option<Time>,
    /// While it is switching back from standby: until when it would have stood by.
    #[serde(default)]
    pub(super) stood_by: Option<Time>,
    pub(super) next_instance: u32,
}

/// The part that a generation plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The candidate is not ready.
    Starting,
    /// The candidate is ready and must stay up.
    Soaking {
        /// Until when.
        until: Time,
    },
    /// The candidate is ready and has stayed up, and waits for those that it is to be switched with.
    Held {
        /// Until when.
        until: Time,
    },
    /// The candidate takes over from the serving generation, a few instances at a time.
    Rolling {
        /// Those that are ready by now must stay up until then before they take part.
        gate: Option<Time>,
    },
    /// The candidate has a share of new connections.
    Stepping {
        /// Which step of its canary, from 0.
        step: u32,
        /// When the step is over; `None`: the share is being set.
        until: Option<Time>,
    },
    /// New connections are being moved to the candidate.
    Switching,
    /// New connections go to it.
    Serving,
    /// It served, has no part in the traffic any more, and is kept alive to go back to.
    Standby {
        /// Until when.
        until: Time,
    },
    /// It was a candidate that was given up after it had taken a part over; what it replaced is started again, and
    /// until then it serves.
    Retreating,
    /// It served, and is on its way out.
    Draining,
    /// It was a candidate that was given up, and is on its way out.
    Ending,
}

/// A place for a process, and its record of failures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// The process in it.
    pub instance: Option<u32>,
    /// Failures in a row.
    pub failures: u32,
    /// Why the last one failed.
    pub reason: Option<Reason>,
    /// When the next process is started.
    pub retry_at: Option<Time>,
    /// Why the process in it is being ended, where its own end would not tell.
    pub doomed: Option<Reason>,
    /// No process is wanted in it for now: not yet, or because another generation has taken its part over.
    #[serde(default)]
    pub parked: bool,
    /// While the generation is rolling: the process in it has passed its soak, and takes part.
    #[serde(default)]
    pub admitted: bool,
    /// The slot of the process in it, or of the last one.
    #[serde(default)]
    pub slot: Option<Slot>,
}

impl Generation {
    /// A candidate of which nothing is started.
    pub(super) fn new(number: Number, lineage: Number, release: ReleaseId, policy: Policy, upgrade: UpgradeId) -> Self {
        let seat = Seat { parked: true, ..Seat::default() };
        Self {
            number,
            release,
            configured: Some(policy.instances),
            role: Role::Starting,
            seats: vec![seat; policy.instances.max(1) as usize],
            instances: BTreeMap::new(),
            upgrade: Some(upgrade),
            lineage,
            hook: None,
            hooked: false,
            switch_by: None,
            stood_by: None,
            next_instance: 1,
            policy,
        }
    }

    /// Whether each place has a process that is of use for new connections.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.seats.iter().all(|seat| self.is_available(seat))
    }

    /// Whether any process is ready.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.seats.iter().any(|seat| self.seated(seat).is_some_and(Instance::is_ready))
    }

    /// Whether it has been given up: no process, and none to come.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        let empty = |seat: &Seat| seat.instance.is_none() && seat.retry_at.is_none() && !seat.parked;
        self.role == Role::Serving && self.seats.iter().all(empty)
    }

    /// Whether each process that was started so far is of use for new connections.
    pub(super) fn is_batch_ready(&self) -> bool {
        self.seats.iter().filter(|seat| !seat.parked).all(|seat| self.is_available(seat))
    }

    /// How many places have a process that is of use for new connections.
    #[must_use]
    pub fn available(&self) -> u32 {
        count(self.seats.iter().filter(|seat| self.is_available(seat)))
    }

    /// Whether the process in a seat is of use for new connections.
    pub(super) fn is_available(&self, seat: &Seat) -> bool {
        self.seated(seat).is_some_and(Instance::is_available)
    }

    pub(super) fn seated(&self, seat: &Seat) -> Option<&Instance> {
        seat.instance.and_then(|number| self.instances.get(&number))
    }

    pub(super) fn is_on_its_way_out(&self) -> bool {
        matches!(self.role, Role::Draining | Role::Ending)
    }

    pub(super) fn start(&mut self, service: ServiceId, place: usize, slot: Slot, now: Time, out: &mut Outbox) {
        let Some(seat) = self.seats.get_mut(place) else { return };
        let number = self.next_instance;
        self.next_instance += 1;
        let id = InstanceId { service, generation: self.number, number };
        self.instances.insert(number, Instance::new(id, slot, now));
        seat.instance = Some(number);
        seat.slot = Some(slot);
        seat.retry_at = None;
        seat.parked = false;
        seat.admitted = false;
        out.push(Action::Prepare { instance: id, release: self.release });
    }

    /// Tells one process after the other to stop, at equal distances: their clients are not to come back all at once.
    pub(super) fn stop_in_turn(&mut self, now: Time, out: &mut Outbox) {
        let ready = u32::try_from(self.instances.values().filter(|instance| instance.is_ready()).count());
        let distance = self.policy.drain_spread / ready.unwrap_or(u32::MAX).max(1);
        let mut turn = now;
        for instance in self.instances.values_mut() {
            let was_ready = instance.is_ready();
            instance.stop_at(turn, now, &self.policy, out);
            if was_ready {
                turn = turn.after(distance);
            }
        }
        self.forget_restarts();
    }

    /// Tells every process to stop.
    pub(super) fn stop(&mut self, now: Time, out: &mut Outbox) {
        for instance in self.instances.values_mut() {
            instance.stop(now, &self.policy, out);
        }
        self.forget_restarts();
    }

    fn forget_restarts(&mut self) {
        for seat in &mut self.seats {
            seat.retry_at = None;
        }
    }

    /// Ends the process in a seat; none is wanted there any more.
    pub(super) fn park(&mut self, place: usize, now: Time, out: &mut Outbox) {
        let Some(seat) = self.seats.get_mut(place) else { return };
        let number = seat.instance.take();
        *seat = Seat { parked: true, slot: seat.slot, ..Seat::default() };
        if let Some(instance) = number.and_then(|number| self.instances.get_mut(&number)) {
            instance.stop(now, &self.policy, out);
        }
    }

    /// A process is being ended for this reason, which its own end would not tell.
    pub(super) fn doom(&mut self, number: u32, reason: Reason, was_ready_for: Option<Duration>) {
        if let Some(place) = self.seat_of(number, was_ready_for) {
            self.seats[place].doomed = Some(reason);
        }
    }

    /// The seat of a process. Its record is clean again if the process was ready for long.
    fn seat_of(&mut self, number: u32, was_ready_for: Option<Duration>) -> Option<usize> {
        let place = self.seats.iter().position(|seat| seat.instance == Some(number))?;
        if was_ready_for.is_some_and(|span| span >= self.policy.backoff.max) {
            self.seats[place].failures = 0;
        }
        Some(place)
    }

    /// Takes the process out of its seat, if it sits in one, and counts the failure.
    pub(super) fn vacate(&mut self, number: u32, reason: Reason, was_ready_for: Option<Duration>) -> Option<usize> {
        let place = self.seat_of(number, was_ready_for)?;
        let seat = &mut self.seats[place];
        seat.instance = None;
        seat.admitted = false;
        seat.failures = seat.failures.saturating_add(1);
        seat.reason = Some(seat.doomed.take().unwrap_or(reason));
        Some(place)
    }

    /// Why a process that was ready is lost with its end, while its generation does not serve.
    pub(super) fn exited(&self, number: u32, exit: Exit) -> Reason {
        match self.moment(number) {
            Some(moment) => Reason::ExitedAt { moment, exit },
            None => Reason::ExitedInSoak(exit),
        }
    }

    /// Why a process that was ready is lost by its own word, while its generation does not serve.
    pub(super) fn said_stopping(&self, number: u32) -> Reason {
        self.moment(number).map_or(Reason::StoppingInSoak, Reason::StoppingAt)
    }

    /// What a process of it that is ready is in the middle of; `None`: its soak.
    fn moment(&self, number: u32) -> Option<Moment> {
        let takes_part = self.seats.iter().any(|seat| seat.instance == Some(number) && seat.admitted);
        let waits = self.hook.map_or(Moment::Starting, |(hook, _)| Moment::Hook(hook));
        match self.role {
            Role::Starting => Some(waits),
            Role::Held { .. } => Some(Moment::Held),
            Role::Rolling { .. } if takes_part => Some(Moment::Part),
            Role::Rolling { gate } if gate.is_none() || self.hook.is_some() => Some(waits),
            Role::Stepping { step, .. } => Some(Moment::Share(self.weight_of_step(step))),
            Role::Switching => Some(Moment::Switch),
            Role::Standby { .. } => Some(Moment::Standby),
            Role::Soaking { .. } | Role::Rolling { .. } => None,
            Role::Serving | Role::Retreating | Role::Draining | Role::Ending => None,
        }
    }

    /// The steps of its canary, and whether somebody has to promote each.
    pub(super) fn canary(&self) -> Option<(&[CanaryStep], bool)> {
        match &self.policy.strategy {
            Strategy::Canary { steps, manual } => Some((steps, *manual)),
            Strategy::Overlap | Strategy::Rolling { .. } | Strategy::BlueGreen { .. } | Strategy::StopStart => None,
        }
    }

    /// Its share at a step of its canary, percent.
    pub(super) fn weight_of_step(&self, step: u32) -> u32 {
        self.canary().and_then(|(steps, _)| steps.get(step as usize)).map_or(0, |step| step.weight)
    }

    /// The slots that a process of it has, or that one of its seats is kept for.
    pub(super) fn slots(&self, with_empty_seats: bool) -> impl Iterator<Item = Slot> {
        let lives = |instance: &&Instance| !matches!(instance.state, State::Leftovers { .. });
        let living = self.instances.values().filter(lives).map(|instance| instance.slot);
        let kept = !self.is_on_its_way_out() && with_empty_seats;
        let seats = self.seats.iter().filter(move |seat| kept && !seat.parked && seat.instance.is_none());
        living.chain(seats.filter_map(|seat| seat.slot))
    }
}

pub(super) fn count(it: impl Iterator) -> u32 {
    u32::try_from(it.count()).unwrap_or(u32::MAX)
}
