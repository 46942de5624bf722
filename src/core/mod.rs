//! The upgrade state machine. Pure: no clock, no descriptors, no pids, no async.
//!
//! The shell tells it what happened ([`Core::handle`] and the requests), asks it when it wants to be woken
//! ([`Core::poll_timeout`]) and does what it says ([`Core::poll_action`]), in that order, until no action is left.
//!
//! - [`service`] has the state diagram of an upgrade, [`instance`] that of one process, [`sequence`] that of upgrades of
//!   several services; [`order`] is which of them starts and ends first.
//! - [`event`] is the vocabulary: what can happen, what can be wanted, and every reason that is ever given.
//! - [`policy`] is what the config decides; [`id`] names things; [`health`] makes a verdict of health checks.
//! - [`spoken`] and [`about`] say durations to people.
//!
//! What it promises, whatever order events come in:
//! - at most one upgrade per service is in flight, and no request joins one that began before it;
//! - until a candidate serves, no action names an instance of the serving generation;
//! - of a sequence, none begins before the one before it is upgraded, or waits for the others;
//! - each upgrade is concluded exactly once, and every state it can wait in has a deadline;
//! - all state derives serde: an intent is in it before the shell sees the action.

pub mod event;
pub mod health;
pub mod id;
pub mod instance;
pub mod order;
pub mod policy;
pub mod sequence;
pub mod service;
mod span;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use event::{Action, Admission, Event, Exit, Hook, InstanceEvent, Kind, Outcome, Reason, Refusal, Step, Verdict};
pub use id::{Generation, InstanceId, ReleaseId, ServiceId, Slot, Time, UpgradeId};
pub use policy::{Backoff, CanaryStep, FirstFailure, Hooks, Policy, Readiness, Strategy};
use sequence::Sequence;
pub use sequence::Together;
use service::{Outbox, Purpose, Request, Service};
pub use span::{about, spoken};

/// The whole machine: every service of one supervisor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Core {
    services: BTreeMap<ServiceId, Service>,
    /// The number of the next service, where that is not the one after the last.
    #[serde(default)]
    next_service: u32,
    /// Upgrades of several services: those in progress, and those that wait for them.
    #[serde(default)]
    sequences: VecDeque<Sequence>,
    /// Services that are not wanted any more.
    #[serde(default)]
    leaving: BTreeSet<ServiceId>,
    next_upgrade: u64,
    ending: Option<Outcome>,
    finished: bool,
    out: Outbox,
}

impl Core {
    /// A machine without services.
    #[must_use]
    pub fn new() -> Self {
        Self { next_upgrade: 1, ..Self::default() }
    }

    /// Adds a service whose first generation will be `next`. It does nothing until an upgrade is requested.
    pub fn add_service(&mut self, next: Generation, first_failure: FirstFailure) -> ServiceId {
        let after_last = self.services.keys().last().map_or(0, |last| last.0 + 1);
        let id = ServiceId(self.next_service.max(after_last));
        self.next_service = id.0 + 1;
        self.services.insert(id, Service::new(id, next, first_failure));
        id
    }

    /// Numbers upgrades from here on, where former supervisors have had some. For a machine that has had none.
    pub fn number_upgrades_from(&mut self, next: u64) {
        self.next_upgrade = self.next_upgrade.max(next);
    }

    /// The services, for whoever wants to look.
    #[must_use]
    pub fn services(&self) -> &BTreeMap<ServiceId, Service> {
        &self.services
    }

    /// Whether everything is being ended.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    /// Asks for an upgrade. During another one, requests of the same kind share the next.
    ///
    /// # Errors
    /// When no upgrade can be taken at all.
    pub fn request(&mut self, now: Time, service: ServiceId, kind: Kind) -> Result<Admission, Refusal> {
        self.ask(now, service, kind, None)
    }

    /// Asks for an upgrade to a release that served before: that of generation `to`, or the one before.
    ///
    /// # Errors
    /// When there is no such release, or no upgrade can be taken at all.
    pub fn rollback(&mut self, now: Time, service: ServiceId, to: Option<Generation>) -> Result<Admission, Refusal> {
        self.services.get(&service).ok_or(Refusal::UnknownService)?.check_rollback(to)?;
        self.ask(now, service, Kind::Rollback, to)
    }

    fn ask(&mut self, now: Time, service: ServiceId, kind: Kind, to: Option<Generation>) -> Result<Admission, Refusal> {
        self.check_lasting(service)?;
        let fresh = UpgradeId(self.next_upgrade);
        let waits = kind == Kind::Start && !self.is_its_turn(service);
        let target = self.services.get_mut(&service).ok_or(Refusal::UnknownService)?;
        let request = Request::new(fresh, kind, to);
        let admission = match waits {
            true => target.await_turn(now, request)?,
            false => target.request(now, request, &mut self.out)?,
        };
        if admission.upgrade() == fresh {
            self.next_upgrade += 1;
        }
        self.go_on(now);
        Ok(admission)
    }

    /// Gives the upgrade in flight up, and says which it was.
    ///
    /// # Errors
    /// When there is none that can be.
    pub fn abort(&mut self, now: Time, service: ServiceId) -> Result<UpgradeId, Refusal> {
        let target = self.services.get_mut(&service).ok_or(Refusal::UnknownService)?;
        let aborted = match target.abort(now, &mut self.out) {
            Err(Refusal::NothingInFlight) => {
                let waiting = self.withdraw(service, Verdict::Aborted, &Reason::AbortedByOperator);
                waiting.ok_or(Refusal::NothingInFlight)
            }
            aborted => aborted,
        };
        self.go_on(now);
        aborted
    }

    /// Ends the canary step that waits: the next one begins, or all of the traffic moves, which is what comes after the
    /// last one, and at once with `full`. Says which upgrade it was.
    ///
    /// # Errors
    /// When none waits.
    pub fn promote(&mut self, now: Time, service: ServiceId, full: bool) -> Result<UpgradeId, Refusal> {
        let target = self.services.get_mut(&service).ok_or(Refusal::UnknownService)?;
        let promoted = target.promote(now, full, &mut self.out);
        self.go_on(now);
        promoted
    }

    /// Makes new connections to a service wait, for so long at most; asked for again, the end moves. Established ones go
    /// on, and so do upgrades.
    ///
    /// # Errors
    /// When it is being stopped, or nothing of it runs.
    pub fn pause(&mut self, now: Time, service: ServiceId, max: Duration) -> Result<(), Refusal> {
        self.check_lasting(service)?;
        let target = self.services.get_mut(&service).ok_or(Refusal::UnknownService)?;
        target.pause(now, max, &mut self.out)
    }

    /// Lets them in again.
    ///
    /// # Errors
    /// When they are not made to wait.
    pub fn resume(&mut self, now: Time, service: ServiceId) -> Result<(), Refusal> {
        let target = self.services.get_mut(&service).ok_or(Refusal::UnknownService)?;
        target.resume(now, &mut self.out)
    }

    /// Gives a service so many instances, at least one, and says which generation has them.
    ///
    /// # Errors
    /// While an upgrade is in flight, or nothing runs.
    pub fn scale(&mut self, now: Time, service: ServiceId, instances: u32) -> Result<Generation, Refusal> {
        self.check_lasting(service)?;
        let target = self.services.get_mut(&service).ok_or(Refusal::UnknownService)?;
        target.scale(now, instances.max(1), &mut self.out)
    }

    /// Ends one service gracefully; its listeners stay bound.
    ///
    /// # Errors
    /// When there is no such service.
    pub fn stop_service(&mut self, now: Time, service: ServiceId) -> Result<(), Refusal> {
        let target = self.services.get_mut(&service).ok_or(Refusal::UnknownService)?;
        target.stop(now, &mut self.out);
        self.withdraw(service, Verdict::Aborted, &Reason::Stopping);
        self.go_on(now);
        Ok(())
    }

    /// Ends everything gracefully, each service once those that come after it have ended, then the supervisor.
    pub fn stop(&mut self, now: Time) {
        self.end(now, Outcome::Stopped);
    }

    /// Ends everything at once, then the supervisor.
    pub fn kill(&mut self, now: Time) {
        self.end(now, Outcome::Stopped);
        for service in self.services.values_mut() {
            service.stop(now, &mut self.out);
            service.kill(now, &mut self.out);
        }
        self.go_on(now);
    }

    /// Takes note of something that happened.
    pub fn handle(&mut self, now: Time, event: Event) {
        match event {
            Event::Pinned { upgrade, release, policy } => {
                let wanted = self.services.values().any(|service| service.needs(release));
                match self.services.values_mut().find(|service| service.is_pinning(upgrade)) {
                    Some(service) => service.pinned(now, release, policy, &mut self.out),
                    // Too late: the upgrade it was meant for is over. A release that was to run again stays.
                    None if wanted => {}
                    None => self.out.push(Action::Discard(release)),
                }
            }
            Event::PinFailed { upgrade, reason } => {
                if let Some(service) = self.services.values_mut().find(|service| service.is_pinning(upgrade)) {
                    service.pin_failed(now, reason, &mut self.out);
                }
            }
            Event::Told(instance) => {
                if let Some(service) = self.services.get_mut(&instance.service) {
                    service.on_told(now, instance, &mut self.out);
                }
            }
            Event::WeightsSet(service) => {
                if let Some(service) = self.services.get_mut(&service) {
                    service.weights_set(now, &mut self.out);
                }
            }
            Event::Held { service, on, result } => {
                if let Some(service) = self.services.get_mut(&service) {
                    service.hold_done(now, on, result, &mut self.out);
                }
            }
            Event::HookDone { service, generation, hook, result } => {
                if let Some(service) = self.services.get_mut(&service) {
                    service.hook_done(now, generation, hook, result, &mut self.out);
                }
            }
            Event::Condemned { upgrade, reason } => {
                for service in self.services.values_mut() {
                    service.condemn(now, upgrade, &reason, &mut self.out);
                }
            }
            Event::Abandoned { service, slot } => {
                if let Some(service) = self.services.get_mut(&service) {
                    service.relieve(now, slot, &mut self.out);
                }
            }
            Event::Instance(instance, event) => {
                if let Some(service) = self.services.get_mut(&instance.service) {
                    service.on_instance(now, instance, event, &mut self.out);
                }
            }
            Event::Tick => {
                let services: Vec<ServiceId> = self.services.keys().copied().collect();
                for id in services {
                    if let Some(service) = self.services.get_mut(&id) {
                        service.expire(now, &mut self.out);
                    }
                    // What ends by this one may be what must not begin by the next.
                    self.go_on(now);
                }
            }
        }
        self.go_on(now);
    }

    /// The shell that was asked is gone, and another one has taken the machine over: whatever was not answered is asked
    /// once more. Each action may so be done twice, the second time by somebody who cannot know of the first.
    pub fn ask_again(&mut self, now: Time) {
        for service in self.services.values_mut() {
            service.ask_again(now, &mut self.out);
        }
        if let Some(outcome) = self.ending.filter(|_| self.finished) {
            self.out.ask_again(Action::Finish(outcome));
        }
    }

    /// As [`Self::ask_again`], where that has killed so many shells in a row: what is in flight is given up instead of
    /// being gone on with.
    pub fn give_up_poisoned(&mut self, now: Time, deaths: u32) {
        self.out.withdraw();
        for service in self.services.values_mut() {
            service.give_up_poisoned(now, deaths, &mut self.out);
        }
        self.go_on(now);
        self.ask_again(now);
    }

    /// When the machine wants an [`Event::Tick`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Time> {
        self.services.values().filter_map(Service::deadline).min()
    }

    /// The next thing to be done.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.out.take()
    }

    fn end(&mut self, now: Time, outcome: Outcome) {
        self.ending.get_or_insert(outcome);
        self.withdraw_all();
        self.stop_in_turn(now);
        for service in self.services.values_mut() {
            service.close(now, &mut self.out);
        }
        self.go_on(now);
    }

    /// Whether a service is not on its way out: one that serves others until its turn to stop comes is.
    fn check_lasting(&self, service: ServiceId) -> Result<(), Refusal> {
        let ends = self.ending.is_some() || self.leaving.contains(&service);
        if ends { Err(Refusal::Stopping) } else { Ok(()) }
    }

    /// What has happened to one service may be what another waits for.
    fn go_on(&mut self, now: Time) {
        if self.ending.is_none() {
            if self.has_failed_to_start() {
                return self.end(now, Outcome::NeverStarted);
            }
            for service in self.services.values_mut() {
                service.stay_down(now, &mut self.out);
            }
        }
        loop {
            let verdicts = self.out.take_verdicts();
            let moved = self.go_on_with_sequence(now, &verdicts);
            if !(self.start_in_turn(now) | self.stop_in_turn(now) | moved) {
                break;
            }
        }
        self.finish_if_done();
    }

    /// Whether a first start has just failed for good, and somebody waits to hear that, or no other service runs or is on
    /// its way. Elsewhere one that cannot be started is no reason to end those that serve.
    fn has_failed_to_start(&self) -> bool {
        let mut failed = self.services.values().filter(|service| service.never_started).peekable();
        let goes_on = |other: &Service| {
            !other.never_started && (other.serving().is_some() || !other.is_idle() || !other.queue.is_empty())
        };
        failed.peek().is_some() && (failed.any(Service::answers) || !self.services.values().any(goes_on))
    }

    fn finish_if_done(&mut self) {
        let Some(outcome) = self.ending else { return };
        if !self.finished && self.services.values().all(|service| service.purpose == Purpose::Stopped) {
            self.finished = true;
            self.out.push(Action::Finish(outcome));
        }
    }
}

#[cfg(test)]
mod tests;
