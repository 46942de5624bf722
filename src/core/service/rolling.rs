//! One generation takes over from another, a few instances at a time; and back again, when that goes wrong.
//!
//! ```text
//!            what is started is ready and has soaked           all of the new, none of the old
//!  ┌─► wait ─────────────────────────────────────────► admit ──────────────────────────────────► done
//!  │                                                     │
//!  └────────────── start what may be more ◄── park what may be less
//! ```
//!
//! - Of the two together never fewer than the number of instances less `max-unavailable` are available by our doing, and
//!   never more than that number and `max-surge` are wanted.
//! - Both take part in the traffic, each instance with the same share, once it has been admitted.
//! - Back goes the same way with the parts changed, and without soak: what serves has proved itself.
//! - `stop-start` is the case in which all of the old may be missing, and must be gone before anything new is started.

use super::super::event::{Reason, Step, Verdict};
use super::super::id::{Generation as Number, Time};
use super::super::policy::{KILL_TIMEOUT, Pace};
use super::generation::{Generation, Role, count};
use super::{Action, Outbox, Phase, Service, Upgrade};

/// Who takes over from whom.
#[derive(Clone, Copy)]
struct Roll {
    to: Number,
    from: Number,
    pace: Pace,
    forward: bool,
}

/// How many of each there are.
struct Strength {
    wanted: u32,
    /// Of those that take over: places that are not parked, and those of them that are available.
    started: u32,
    available: u32,
    /// The same of those that are replaced.
    left: u32,
    still_available: u32,
}

impl Service {
    fn roll_in_progress(&self) -> Option<Roll> {
        let serving = self.serving()?.number;
        let of = |generation: &Generation| Some((generation.number, generation.policy.pace()?));
        if let Some(candidate) = self.candidate().filter(|candidate| candidate.takes_parts_over()) {
            // Once it has all of them it is being switched to, and nothing comes back from an upgrade before it.
            let rolls = matches!(candidate.role, Role::Rolling { .. });
            let (to, pace) = Some(candidate).filter(|_| rolls).and_then(of)?;
            return Some(Roll { to, from: serving, pace, forward: true });
        }
        let retreating = self.generations.values().find(|generation| generation.role == Role::Retreating);
        retreating.and_then(of).map(|(from, pace)| Roll { to: serving, from, pace, forward: false })
    }

    fn strength(&self, roll: Roll) -> Option<Strength> {
        let (to, from) = (self.generations.get(&roll.to)?, self.generations.get(&roll.from)?);
        let started = |generation: &Generation| count(generation.seats.iter().filter(|seat| !seat.parked));
        Some(Strength {
            wanted: count(to.seats.iter()),
            started: started(to),
            available: to.available(),
            left: started(from),
            still_available: from.available(),
        })
    }

    /// Goes as far as it can at the moment. Harmless where nothing rolls.
    pub(super) fn roll(&mut self, now: Time, out: &mut Outbox) {
        while let Some(roll) = self.roll_in_progress() {
            let Some(strength) = self.strength(roll) else { return };
            if !roll.forward && strength.left == 0 {
                // Nothing is left that what comes back replaces: one of its own that crashes does not keep the others.
                self.start_some(now, roll, out);
                if !self.is_returning() {
                    self.returned(now, roll.from, out);
                    continue;
                }
            }
            if !self.is_batch_over(now, roll, out) {
                return;
            }
            if strength.available == strength.wanted && strength.left == 0 {
                if roll.forward {
                    return self.switch(now, roll.to, out);
                }
                self.returned(now, roll.from, out);
                continue;
            }
            let parked = self.park_some(now, roll, &strength, out);
            let started = self.start_some(now, roll, out);
            if !parked && !started {
                return;
            }
        }
    }

    /// Whether all that has been started takes part.
    fn is_batch_over(&mut self, now: Time, roll: Roll, out: &mut Outbox) -> bool {
        let Some(to) = self.generations.get_mut(&roll.to) else { return false };
        if !to.is_batch_ready() || to.hook.is_some() {
            return false;
        }
        let fresh = to.seats.iter().any(|seat| !seat.parked && !seat.admitted);
        if !roll.forward || !fresh {
            return true;
        }
        let soak = to.policy.soak;
        match to.role {
            Role::Rolling { gate: None } if !soak.is_zero() => {
                to.role = Role::Rolling { gate: Some(now.after(soak)) };
                let step = Step::Soaking { generation: roll.to, span: soak };
                out.push(Action::Progress { service: self.id, upgrade: to.upgrade, step });
                return false;
            }
            Role::Rolling { gate: Some(gate) } if gate > now => return false,
            _ => {}
        }
        if self.needs_hook(roll.to) {
            self.run_ready_hook(now, roll.to, out);
            return false;
        }
        let Some(to) = self.generations.get_mut(&roll.to) else { return false };
        to.role = Role::Rolling { gate: None };
        to.seats.iter_mut().filter(|seat| !seat.parked).for_each(|seat| seat.admitted = true);
        let (ready, of) = (count(to.seats.iter().filter(|seat| seat.admitted)), count(to.seats.iter()));
        let step = Step::Rolled { generation: roll.to, ready, of };
        out.push(Action::Progress { service: self.id, upgrade: to.upgrade, step });
        true
    }

    /// Ends as many of those that are replaced as can be spared: those first that are of no use anyway.
    fn park_some(&mut self, now: Time, roll: Roll, strength: &Strength, out: &mut Outbox) -> bool {
        let at_least = strength.wanted.saturating_sub(roll.pace.max_unavailable);
        let mut spare = (strength.available + strength.still_available).saturating_sub(at_least);
        let Some(from) = self.generations.get_mut(&roll.from) else { return false };
        let (upgrade, number) = (self.upgrade.as_ref().map(|upgrade| upgrade.id), from.number);
        let useless = |from: &Generation, place: usize| !from.is_available(&from.seats[place]);
        let mut places: Vec<usize> = (0..from.seats.len()).filter(|place| !from.seats[*place].parked).collect();
        places.sort_by_key(|place| (!useless(from, *place), std::cmp::Reverse(*place)));
        let mut parked = false;
        for place in places {
            if !useless(from, place) {
                if spare == 0 {
                    break;
                }
                spare -= 1;
            }
            from.park(place, now, out);
            parked = true;
        }
        if parked && from.seats.iter().all(|seat| seat.parked) && roll.forward {
            let step = Step::Draining { generation: number, timeout: from.policy.drain_timeout };
            out.push(Action::Progress { service: self.id, upgrade, step });
        }
        parked
    }

    /// Starts as many of those that take over as may be.
    fn start_some(&mut self, now: Time, roll: Roll, out: &mut Outbox) -> bool {
        let Some(strength) = self.strength(roll) else { return false };
        let gone = self.generations.get(&roll.from).is_none_or(|from| from.instances.is_empty());
        if roll.pace.exclusive && !gone {
            return false;
        }
        let at_most = strength.wanted.saturating_add(roll.pace.max_surge);
        let room = at_most.saturating_sub(strength.left + strength.started);
        let Some(to) = self.generations.get(&roll.to) else { return false };
        let parked = to.seats.iter().enumerate().filter(|(_, seat)| seat.parked).map(|(place, _)| place);
        let places: Vec<usize> = parked.take(room as usize).collect();
        for place in &places {
            self.start(now, roll.to, *place, out);
        }
        !places.is_empty()
    }

    /// Until when the generation that is replaced must be gone, where nothing is started before.
    pub(super) fn clear_by(&self) -> Option<Time> {
        let roll = self.roll_in_progress().filter(|roll| roll.pace.exclusive && roll.forward)?;
        let from = self.generations.get(&roll.from)?;
        let waits = !from.instances.is_empty() && from.seats.iter().all(|seat| seat.parked);
        self.upgrade.as_ref()?.clear_by.filter(|_| waits)
    }

    /// The candidate was given up, and what it had replaced is to serve again. Whether that takes any time.
    pub(super) fn retreat(
        &mut self,
        now: Time,
        upgrade: &Upgrade,
        number: Number,
        (verdict, reason): (Verdict, &Reason),
        out: &mut Outbox,
    ) -> bool {
        let Some(serving) = self.serving() else { return false };
        let missing = count(serving.seats.iter().filter(|seat| seat.parked));
        if missing == 0 || self.purpose != super::Purpose::Run {
            return false;
        }
        let (back, ready_timeout) = (serving.number, serving.policy.ready_timeout);
        let Some(candidate) = self.generations.get_mut(&number) else { return false };
        // What is missing may be so since an earlier upgrade, and is none of its business.
        if !candidate.takes_parts_over() {
            return false;
        }
        candidate.role = Role::Retreating;
        (candidate.switch_by, candidate.hook) = (None, None);
        let exclusive = candidate.policy.pace().is_some_and(|pace| pace.exclusive);
        let clear = if exclusive { candidate.policy.drain_timeout + KILL_TIMEOUT } else { KILL_TIMEOUT };
        for place in 0..candidate.seats.len() {
            // What has not taken part yet is of no use now.
            if exclusive || !candidate.seats[place].admitted || !candidate.is_available(&candidate.seats[place]) {
                candidate.park(place, now, out);
            }
        }
        let deadline = now.after(ready_timeout.saturating_mul(missing).saturating_add(clear));
        let outcome = Some((verdict, reason.clone()));
        let phase = Phase::Returning { candidate: number, deadline };
        self.upgrade = Some(Upgrade { phase, outcome, ..upgrade.clone() });
        let step = Step::Returning { generation: back, reason: reason.clone() };
        out.push(Action::Progress { service: self.id, upgrade: Some(upgrade.id), step });
        self.roll(now, out);
        true
    }

    /// The generation that serves is whole again.
    fn returned(&mut self, now: Time, candidate: Number, out: &mut Outbox) {
        self.end_candidate(now, candidate, out);
        self.set_weights(out);
        self.verdict_on_return(now, out);
        self.settle(out);
    }

    /// The verdict has waited for long enough. What serves in place of the generation that comes back goes on doing so,
    /// unless that was to come back only after it.
    pub(super) fn return_late(&mut self, now: Time, out: &mut Outbox) {
        let Some(Upgrade { phase: Phase::Returning { candidate, .. }, .. }) = self.upgrade else { return };
        let exclusive =
            self.generations.get(&candidate).and_then(|one| one.policy.pace()).is_some_and(|it| it.exclusive);
        if exclusive || self.purpose != super::Purpose::Run {
            self.end_candidate(now, candidate, out);
            self.set_weights(out);
        }
        self.verdict_on_return(now, out);
        if self.purpose == super::Purpose::Run && exclusive {
            self.start_beside(now, out);
        }
        self.roll(now, out);
    }

    /// Whether a verdict waits for the generation that comes back.
    fn is_returning(&self) -> bool {
        self.upgrade.as_ref().is_some_and(|upgrade| matches!(upgrade.phase, Phase::Returning { .. }))
    }

    /// Whether a generation still counts as the serving one, and another has taken all of its places.
    #[must_use]
    pub fn is_replaced(&self, generation: &Generation) -> bool {
        let serves = generation.role == Role::Serving && !self.is_returning();
        serves && generation.seats.iter().all(|seat| seat.parked)
    }

    /// The generation that comes back, where a verdict waits for it.
    #[must_use]
    pub fn returning(&self) -> Option<Number> {
        self.serving().filter(|_| self.is_returning()).map(|serving| serving.number)
    }

    fn verdict_on_return(&mut self, now: Time, out: &mut Outbox) {
        if !self.is_returning() {
            return;
        }
        let Some(upgrade) = self.upgrade.take() else { return };
        let Some((verdict, reason)) = upgrade.outcome.clone() else { return };
        self.give_verdict(now, &upgrade, verdict, reason, false, out);
    }

    /// What the candidate leaves no room for is started all the same.
    fn start_beside(&mut self, now: Time, out: &mut Outbox) {
        let Some(serving) = self.serving() else { return };
        let late: Vec<usize> = (0..serving.seats.len()).filter(|place| serving.seats[*place].parked).collect();
        let number = serving.number;
        for place in late {
            self.start(now, number, place, out);
        }
    }
}

impl Generation {
    /// Whether it is a candidate that replaces what serves piece by piece, or has just done so.
    fn takes_parts_over(&self) -> bool {
        let takes = matches!(self.role, Role::Rolling { .. } | Role::Switching);
        takes && self.policy.pace().is_some() && self.stood_by.is_none()
    }
}
