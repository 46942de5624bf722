//! One service: its generations, and the upgrade from one to the next.
//!
//! ```text
//!                         every instance ready          soak over            weights set
//!  Pin ──► (new) Starting ─────────────────► Soaking ─────────► Switching ─────────► Serving
//!               │                               │                   │                   │
//!               │ fails, late, aborted          │ ends, stops       │ ends, stops       │ superseded, stopped
//!               ▼                               ▼                   ▼                   ▼
//!            Ending ◄───────────────────────────┴───────────────────┘               Draining
//!               │                                                                       │
//!               └──────────────────────── no process left: forgotten ───────────────────┘
//! ```
//!
//! - *Starting*, *Soaking* and *Switching* are the candidate; there is at most one.
//! - *Serving* is the generation that the service is committed to; there is at most one. It stays Serving while its
//!   processes are restarted after a crash: whether any is ready is another question ([`Generation::is_up`]).
//! - Until the candidate is Serving, nothing is done to the serving generation: no action names its instances.
//! - The verdict falls when the candidate is Serving and every instance of the old generation has been told to stop
//!   (or is dead). What drains afterwards is nobody's verdict.
//! - While nothing serves there is nothing to protect: a candidate switches as soon as it is ready, without soak.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::{Action, Admission, Exit, Kind, Reason, Refusal, Step, Verdict};
use super::id::{Generation as Number, InstanceId, ReleaseId, ServiceId, Time, UpgradeId};
use super::instance::Instance;
use super::policy::{FirstFailure, PIN_TIMEOUT, Policy, SWITCH_TIMEOUT};

mod deadlines;
mod processes;
mod succession;

/// Where actions wait until the shell takes them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Outbox(VecDeque<Action>);

impl Outbox {
    pub(super) fn push(&mut self, action: Action) {
        self.0.push_back(action);
    }

    pub(super) fn take(&mut self) -> Option<Action> {
        self.0.pop_front()
    }

    /// Adds what is not waiting already.
    pub(super) fn ask_again(&mut self, action: Action) {
        if !self.0.contains(&action) {
            self.push(action);
        }
    }

    fn has_weights(&self, of: ServiceId) -> bool {
        self.0.iter().any(|action| matches!(action, Action::SetWeights { service, .. } if *service == of))
    }

    /// Forgets what is wanted, but for what has to be said: verdicts, progress, and the end.
    pub(super) fn withdraw(&mut self) {
        self.0.retain(|action| match action {
            Action::Progress { .. } | Action::Conclude { .. } | Action::Discard(_) | Action::Finish(_) => true,
            Action::Pin { .. }
            | Action::Prepare { .. }
            | Action::Launch(_)
            | Action::SetWeights { .. }
            | Action::Stop(_)
            | Action::Abort(_)
            | Action::Kill(_)
            | Action::Sweep { .. } => false,
        });
    }
}

/// One service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its place among the services.
    pub id: ServiceId,
    /// Every generation of which a process may be left.
    pub generations: BTreeMap<Number, Generation>,
    /// The upgrade in flight.
    pub upgrade: Option<Upgrade>,
    /// Upgrades that wait for it, at most one of a kind.
    pub queue: VecDeque<(UpgradeId, Kind)>,
    /// The release of the latest generation that served.
    pub pinned: Option<(ReleaseId, Policy)>,
    /// Whether it is meant to run.
    pub purpose: Purpose,
    /// The number of the next generation.
    pub next: Number,
    /// Its first start failed for good, where somebody waits for the answer.
    pub(super) never_started: bool,
    first_failure: FirstFailure,
    /// How many [`Action::SetWeights`] are not yet answered.
    weights_awaited: u32,
}

/// Whether a service is meant to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// It is.
    Run,
    /// It is being stopped.
    Stop,
    /// It has been stopped; an upgrade starts it again.
    Stopped,
}

/// The upgrade in flight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgrade {
    /// Its name.
    pub id: UpgradeId,
    /// What is asked for.
    pub kind: Kind,
    /// How far it is.
    pub phase: Phase,
}

/// How far an upgrade is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The release is being resolved.
    Pinning {
        /// Until when it may take.
        deadline: Time,
    },
    /// This generation is the candidate; its [`Role`] says how far it is.
    Candidate(Number),
    /// The candidate serves; the old generation is being told to stop.
    Telling {
        /// The old generation.
        old: Number,
    },
}

/// One generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Its number.
    pub number: Number,
    /// What it runs.
    pub release: ReleaseId,
    /// How.
    pub policy: Policy,
    /// Its part.
    pub role: Role,
    /// One a process that it is meant to have.
    pub seats: Vec<Seat>,
    /// Every process of it of which something may be left.
    pub instances: BTreeMap<u32, Instance>,
    /// The upgrade that it is part of: the one that made it, then the one that ends it.
    pub upgrade: Option<UpgradeId>,
    /// While it is switching: until when that may take.
    switch_by: Option<Time>,
    next_instance: u32,
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
    /// New connections are being moved to the candidate.
    Switching,
    /// New connections go to it.
    Serving,
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
}

impl Generation {
    /// Whether each place has a ready process.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.seats.iter().all(|seat| self.seated(seat).is_some_and(Instance::is_ready))
    }

    /// Whether any process is ready.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.seats.iter().any(|seat| self.seated(seat).is_some_and(Instance::is_ready))
    }

    /// Whether it has been given up: no process, and none to come.
    #[must_use]
    pub fn is_given_up(&self) -> bool {
        self.role == Role::Serving && self.seats.iter().all(|seat| seat.instance.is_none() && seat.retry_at.is_none())
    }

    fn seated(&self, seat: &Seat) -> Option<&Instance> {
        seat.instance.and_then(|number| self.instances.get(&number))
    }

    fn is_on_its_way_out(&self) -> bool {
        matches!(self.role, Role::Draining | Role::Ending)
    }

    fn start(&mut self, service: ServiceId, seat: usize, now: Time, out: &mut Outbox) {
        let number = self.next_instance;
        self.next_instance += 1;
        let id = InstanceId { service, generation: self.number, number };
        self.instances.insert(number, Instance::new(id, now));
        self.seats[seat].instance = Some(number);
        self.seats[seat].retry_at = None;
        out.push(Action::Prepare { instance: id, release: self.release });
    }

    fn stop(&mut self, now: Time, out: &mut Outbox) {
        for seat in &mut self.seats {
            seat.retry_at = None;
        }
        for instance in self.instances.values_mut() {
            instance.stop(now, &self.policy, out);
        }
    }

    /// A process is being ended for this reason, which its own end would not tell.
    fn doom(&mut self, number: u32, reason: Reason, was_ready_for: Option<Duration>) {
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
    fn vacate(&mut self, number: u32, reason: Reason, was_ready_for: Option<Duration>) -> Option<usize> {
        let place = self.seat_of(number, was_ready_for)?;
        let seat = &mut self.seats[place];
        seat.instance = None;
        seat.failures = seat.failures.saturating_add(1);
        seat.reason = Some(seat.doomed.take().unwrap_or(reason));
        Some(place)
    }
}

impl Service {
    pub(super) fn new(id: ServiceId, next: Number, first_failure: FirstFailure) -> Self {
        Self {
            id,
            generations: BTreeMap::new(),
            upgrade: None,
            queue: VecDeque::new(),
            pinned: None,
            purpose: Purpose::Run,
            next,
            never_started: false,
            first_failure,
            weights_awaited: 0,
        }
    }

    /// The generation that new connections go to.
    #[must_use]
    pub fn serving(&self) -> Option<&Generation> {
        self.generations.values().find(|generation| generation.role == Role::Serving)
    }

    /// The generation that is starting.
    #[must_use]
    pub fn candidate(&self) -> Option<&Generation> {
        match self.upgrade.as_ref()?.phase {
            Phase::Candidate(number) => self.generations.get(&number),
            Phase::Pinning { .. } | Phase::Telling { .. } => None,
        }
    }

    // ---- requests -------------------------------------------------------------------------------------------------

    pub(super) fn request(
        &mut self,
        now: Time,
        kind: Kind,
        fresh: UpgradeId,
        out: &mut Outbox,
    ) -> Result<Admission, Refusal> {
        if self.purpose == Purpose::Stop {
            return Err(Refusal::Stopping);
        }
        self.purpose = Purpose::Run;
        if self.upgrade.is_none() {
            self.begin(now, fresh, kind, out);
            return Ok(Admission::Begun(fresh));
        }
        if let Some((queued, _)) = self.queue.iter().find(|(_, other)| *other == kind) {
            return Ok(Admission::Joined(*queued));
        }
        self.queue.push_back((fresh, kind));
        Ok(Admission::Queued(fresh))
    }

    pub(super) fn abort(&mut self, now: Time, out: &mut Outbox) -> Result<UpgradeId, Refusal> {
        let upgrade = self.upgrade.as_ref().ok_or(Refusal::NothingInFlight)?;
        let id = upgrade.id;
        match (upgrade.kind, upgrade.phase) {
            (Kind::Start, _) => Err(Refusal::FirstStart),
            (Kind::Reload | Kind::Restart, Phase::Telling { .. }) => Err(Refusal::TooLate),
            (Kind::Reload | Kind::Restart, Phase::Pinning { .. } | Phase::Candidate(_)) => {
                self.give_up(now, Verdict::Aborted, Reason::AbortedByOperator, out);
                Ok(id)
            }
        }
    }

    /// Ends every process, gracefully.
    pub(super) fn stop(&mut self, now: Time, out: &mut Outbox) {
        if self.purpose != Purpose::Run {
            return;
        }
        self.purpose = Purpose::Stop;
        for (upgrade, _) in std::mem::take(&mut self.queue) {
            self.conclude(upgrade, Verdict::Aborted, Some(Reason::Stopping), out);
        }
        match self.upgrade.as_ref().map(|upgrade| upgrade.phase) {
            Some(Phase::Pinning { .. } | Phase::Candidate(_)) => {
                self.give_up(now, Verdict::Aborted, Reason::Stopping, out);
            }
            Some(Phase::Telling { .. }) | None => {}
        }
        for generation in self.generations.values_mut() {
            if generation.role == Role::Serving {
                Self::drain(self.id, generation, now, out);
            }
        }
        self.settle(out);
    }

    /// Ends every process, at once. Comes after [`Self::stop`].
    pub(super) fn kill(&mut self, now: Time, out: &mut Outbox) {
        for generation in self.generations.values_mut() {
            for instance in generation.instances.values_mut() {
                instance.kill(now, out);
            }
        }
        // Nobody waits any more for a stop signal to have been sent.
        self.told(now, out);
    }

    // ---- the upgrade, in the order in which it happens ------------------------------------------------------------

    fn begin(&mut self, now: Time, id: UpgradeId, kind: Kind, out: &mut Outbox) {
        let service = self.id;
        let again = match kind {
            Kind::Start | Kind::Reload => None,
            Kind::Restart => match &self.pinned {
                Some((release, _)) => Some(*release),
                None => return self.conclude(id, Verdict::Refused, Some(Reason::NothingPinned), out),
            },
        };
        self.upgrade = Some(Upgrade { id, kind, phase: Phase::Pinning { deadline: now.after(PIN_TIMEOUT) } });
        out.push(Action::Progress { service, upgrade: Some(id), step: Step::Pinning });
        out.push(Action::Pin { service, upgrade: id, kind, again });
    }

    /// Whether this upgrade is waiting for its release.
    pub(super) fn is_pinning(&self, id: UpgradeId) -> bool {
        self.upgrade.as_ref().is_some_and(|up| up.id == id && matches!(up.phase, Phase::Pinning { .. }))
    }

    pub(super) fn pinned(&mut self, now: Time, release: ReleaseId, policy: Policy, out: &mut Outbox) {
        // By the policy that was just read: one that allows more is meant for this upgrade too.
        if let Some(reason) = self.too_many_draining(&policy) {
            self.give_up(now, Verdict::Refused, reason, out);
            if !self.needs(release) {
                out.push(Action::Discard(release));
            }
            return;
        }
        let Some(upgrade) = &mut self.upgrade else { return };
        let number = self.next;
        self.next = Number(number.0 + 1);
        upgrade.phase = Phase::Candidate(number);
        let mut generation = Generation {
            number,
            release,
            role: Role::Starting,
            seats: vec![Seat::default(); policy.instances.max(1) as usize],
            instances: BTreeMap::new(),
            upgrade: Some(upgrade.id),
            switch_by: None,
            next_instance: 1,
            policy,
        };
        let step = Step::Starting { generation: number };
        out.push(Action::Progress { service: self.id, upgrade: Some(upgrade.id), step });
        for seat in 0..generation.seats.len() {
            generation.start(self.id, seat, now, out);
        }
        self.generations.insert(number, generation);
    }

    fn too_many_draining(&self, policy: &Policy) -> Option<Reason> {
        let draining = self.generations.values().filter(|generation| generation.is_on_its_way_out()).count();
        let (draining, limit) = (u32::try_from(draining).unwrap_or(u32::MAX), policy.max_draining);
        // While nothing serves, an upgrade is the way out.
        (self.serving().is_some() && draining >= limit).then_some(Reason::TooManyDraining { draining, limit })
    }

    pub(super) fn pin_failed(&mut self, now: Time, reason: Reason, out: &mut Outbox) {
        let verdict =
            if matches!(reason, Reason::Config(_) | Reason::Resources(_)) { Verdict::Refused } else { Verdict::Failed };
        self.give_up(now, verdict, reason, out);
    }

    fn candidate_ready(&mut self, now: Time, number: Number, out: &mut Outbox) {
        let unprotected = !self.serving().is_some_and(Generation::is_up);
        let Some(generation) = self.generations.get_mut(&number) else { return };
        let span = generation.policy.soak;
        if unprotected || span.is_zero() {
            return self.switch(now, number, out);
        }
        generation.role = Role::Soaking { until: now.after(span) };
        let step = Step::Soaking { generation: number, span };
        out.push(Action::Progress { service: self.id, upgrade: generation.upgrade, step });
    }

    fn switch(&mut self, now: Time, number: Number, out: &mut Outbox) {
        if let Some(generation) = self.generations.get_mut(&number) {
            generation.role = Role::Switching;
            generation.switch_by = Some(now.after(SWITCH_TIMEOUT));
        }
        self.set_weights(number, out);
    }

    fn set_weights(&mut self, all_to: Number, out: &mut Outbox) {
        self.weights_awaited += 1;
        let weights = self.generations.keys().map(|&number| (number, if number == all_to { 100 } else { 0 })).collect();
        out.push(Action::SetWeights { service: self.id, weights });
    }

    pub(super) fn weights_set(&mut self, now: Time, out: &mut Outbox) {
        // Answers come in order. While another is awaited, this one is about weights that were set before.
        self.weights_awaited = self.weights_awaited.saturating_sub(1);
        if self.weights_awaited > 0 {
            return;
        }
        let Some(number) = self.candidate().filter(|c| c.role == Role::Switching).map(|c| c.number) else { return };
        let old = self.serving().map(|generation| generation.number);
        let Some(id) = self.upgrade.as_ref().map(|upgrade| upgrade.id) else { return };
        if let Some(generation) = self.generations.get_mut(&number) {
            generation.role = Role::Serving;
            generation.switch_by = None;
            let pinned = (generation.release, generation.policy.clone());
            let step = Step::Serving { generation: number };
            out.push(Action::Progress { service: self.id, upgrade: Some(id), step });
            self.pin(pinned, out);
        }
        if let Some(old) = old {
            if let Some(upgrade) = &mut self.upgrade {
                upgrade.phase = Phase::Telling { old };
            }
            if let Some(generation) = self.generations.get_mut(&old) {
                generation.upgrade = Some(id);
                Self::drain(self.id, generation, now, out);
            }
            self.told(now, out);
        } else {
            self.upgraded(now, id, out);
        }
    }

    /// From now on this is the release to restart. The one before is let go of, unless a process still runs it.
    fn pin(&mut self, pinned: (ReleaseId, Policy), out: &mut Outbox) {
        if let Some((before, _)) = self.pinned.replace(pinned).filter(|(before, _)| !self.needs(*before)) {
            out.push(Action::Discard(before));
        }
    }

    fn drain(service: ServiceId, generation: &mut Generation, now: Time, out: &mut Outbox) {
        generation.role = Role::Draining;
        let step = Step::Draining { generation: generation.number, timeout: generation.policy.drain_timeout };
        out.push(Action::Progress { service, upgrade: generation.upgrade, step });
        generation.stop(now, out);
    }

    /// The verdict, once every instance of the old generation has been told to stop.
    fn told(&mut self, now: Time, out: &mut Outbox) {
        let Some(Upgrade { id, phase: Phase::Telling { old }, .. }) = self.upgrade else { return };
        let untold = self.generations.get(&old).is_some_and(|old| old.instances.values().any(Instance::is_untold));
        if !untold {
            self.upgraded(now, id, out);
        }
    }

    fn upgraded(&mut self, now: Time, id: UpgradeId, out: &mut Outbox) {
        self.upgrade = None;
        if let Some(serving) = self.generations.values_mut().find(|generation| generation.role == Role::Serving) {
            serving.upgrade = None;
        }
        self.conclude(id, Verdict::Upgraded, None, out);
        self.settle(out);
        self.next_in_queue(now, out);
    }

    /// Gives the upgrade in flight up. What served goes on serving.
    fn give_up(&mut self, now: Time, verdict: Verdict, reason: Reason, out: &mut Outbox) {
        let Some(upgrade) = self.upgrade.take() else { return };
        let mut retried = false;
        if let Phase::Candidate(number) = upgrade.phase {
            let switch_by = self.generations.get_mut(&number).and_then(|candidate| candidate.switch_by.take());
            retried = self.retry_first_start(now, &upgrade, number, &reason, out);
            if let Some(candidate) = self.generations.get_mut(&number).filter(|_| !retried) {
                candidate.role = Role::Ending;
                candidate.stop(now, out);
            }
            if let Some(serving) = self.serving().map(|generation| generation.number).filter(|_| switch_by.is_some()) {
                self.set_weights(serving, out);
            }
        }
        self.conclude(upgrade.id, verdict, Some(reason), out);
        self.never_started |= upgrade.kind == Kind::Start && !retried && self.purpose == Purpose::Run;
        self.settle(out);
        if !self.never_started {
            self.next_in_queue(now, out);
        }
    }

    /// A first generation that fails where nobody waits for the answer is started again with backoff, since callers
    /// wait in the backlogs; a program that cannot be executed at all is not worth a second attempt.
    fn retry_first_start(
        &mut self,
        now: Time,
        upgrade: &Upgrade,
        number: Number,
        reason: &Reason,
        out: &mut Outbox,
    ) -> bool {
        let hopeless = matches!(reason, Reason::Exec(_) | Reason::Stopping);
        if upgrade.kind != Kind::Start || self.first_failure == FirstFailure::Exit || hopeless {
            return false;
        }
        let service = self.id;
        let Some(generation) = self.generations.get_mut(&number) else { return false };
        generation.role = Role::Serving;
        generation.upgrade = None;
        let pinned = (generation.release, generation.policy.clone());
        for instance in generation.instances.values_mut().filter(|instance| !instance.is_ready()) {
            instance.stop(now, &generation.policy, out);
        }
        for place in 0..generation.seats.len() {
            let seated = generation.seats[place].instance;
            if seated.is_none() {
                Self::retry(service, generation, place, now, out);
            } else if !seated.and_then(|n| generation.instances.get(&n)).is_some_and(Instance::is_ready) {
                generation.seats[place].doomed = Some(reason.clone());
            }
        }
        self.pin(pinned, out);
        true
    }

    fn next_in_queue(&mut self, now: Time, out: &mut Outbox) {
        while self.upgrade.is_none() {
            let Some((id, kind)) = self.queue.pop_front() else { return };
            self.begin(now, id, kind, out);
        }
    }

    fn conclude(&self, upgrade: UpgradeId, verdict: Verdict, reason: Option<Reason>, out: &mut Outbox) {
        out.push(Action::Conclude { service: self.id, upgrade, verdict, reason });
    }

    // ---- afterwards ----------------------------------------------------------------------------------------------

    fn retry(service: ServiceId, generation: &mut Generation, place: usize, now: Time, out: &mut Outbox) {
        let policy = &generation.policy;
        let seat = &mut generation.seats[place];
        let (failures, number) = (seat.failures, generation.number);
        let reason = seat.reason.clone().unwrap_or(Reason::Crashed(Exit::Unknown));
        let step = if policy.give_up_after != 0 && failures >= policy.give_up_after {
            seat.retry_at = None;
            Step::GaveUp { generation: number, failures, reason }
        } else {
            let delay = policy.backoff.delay(failures);
            seat.retry_at = Some(now.after(delay));
            Step::Retrying { generation: number, delay, failures, reason }
        };
        out.push(Action::Progress { service, upgrade: None, step });
    }

    /// Forgets what is gone.
    fn settle(&mut self, out: &mut Outbox) {
        let service = self.id;
        let gone: Vec<Number> = self
            .generations
            .values()
            .filter(|generation| generation.is_on_its_way_out() && generation.instances.is_empty())
            .map(|generation| generation.number)
            .collect();
        for number in gone {
            let Some(generation) = self.generations.remove(&number) else { continue };
            let step = Step::Drained { generation: number };
            out.push(Action::Progress { service, upgrade: generation.upgrade, step });
            if !self.needs(generation.release) {
                out.push(Action::Discard(generation.release));
            }
        }
        if self.purpose == Purpose::Stop && self.generations.is_empty() && self.upgrade.is_none() {
            self.purpose = Purpose::Stopped;
            out.push(Action::Progress { service, upgrade: None, step: Step::Stopped });
        }
    }

    /// Whether a release may still be run.
    pub(super) fn needs(&self, release: ReleaseId) -> bool {
        self.pinned.as_ref().is_some_and(|(pinned, _)| *pinned == release)
            || self.generations.values().any(|generation| generation.release == release)
    }
}
