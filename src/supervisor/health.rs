//! Health checks: an instance that says that it is ready is checked again and again until it is told to stop.
//!
//! ```text
//!  said READY ─► due ─► [ command: errand.rs │ connection: network.rs, a task of its own ] ─► outcome ─► tally
//!                 ▲                                                                              │       │
//!                 └────────────────────────── interval ──────────────────────────────────────────┘       ▼
//!                                                              the machine hears of it when the verdict changes
//! ```
//!
//! - The loop begins each check and hears what it came to; it waits for none of them.
//! - One check of an instance runs at a time. Nothing wakes up for a service that is not checked.
//! - A check reaches the instance that it means, and no other: see `door`.
//! - Outcomes are not written down: a successor begins to count anew, and calls nobody unhealthy for what it has not seen.

mod command;
mod door;
mod network;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;

pub(super) use door::reachable;

use super::errand::Errand;
use super::ledger::News;
use super::poller::Poller;
use super::process::Process;
use super::{Elsewhere, Supervisor};
use crate::config;
use crate::config::health::Check;
use crate::core::event::InstanceEvent;
use crate::core::health::{Health, Tally, Turn};
use crate::core::instance::State;
use crate::core::{InstanceId, Time};
use crate::sys::Pid;

/// The interval until the first check that passes, at most: whoever upgrades waits for it.
const IMPATIENT: Duration = Duration::from_millis(200);
/// A command that is found running so long after its time may have ended while we did not look.
const LATE: Duration = Duration::from_millis(500);

/// When one that said nothing is made again.
const AGAIN: Duration = Duration::from_millis(10);

/// What a check came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It passed.
    Passed,
    /// It did not, and why.
    Failed(String),
    /// Nothing can be said: it was ourselves who had no time for it, or no way.
    Late,
}

/// The checks of one instance.
#[derive(Debug)]
pub(super) struct Checkup {
    tally: Tally,
    /// One has passed.
    passed: bool,
    /// When the next one begins; none while one runs.
    due: Option<Time>,
    /// When the latest one began.
    began: Time,
    running: Option<Running>,
    /// Where it comes from, if that is how it is steered.
    source: Option<SocketAddr>,
    /// What the latest that failed came to, until one passes.
    failure: Option<String>,
}

/// A check that runs.
#[derive(Debug)]
enum Running {
    /// A command.
    Command(Errand),
    /// A connection.
    Connection(AbortHandle),
}

impl Checkup {
    fn new(now: Time) -> Self {
        Self {
            tally: Tally::default(),
            passed: false,
            due: Some(now),
            began: now,
            running: None,
            source: None,
            failure: None,
        }
    }

    /// When something has to be done about it.
    fn deadline(&self, health: &config::Health) -> Option<Time> {
        match self.running {
            Some(Running::Command(_)) => Some(self.began.after(health.timeout)),
            // It has a deadline of its own.
            Some(Running::Connection(_)) => None,
            None => self.due,
        }
    }

    /// Counts an outcome, and sees to the next check.
    fn count(&mut self, outcome: &Outcome, health: &config::Health, now: Time) -> Turn {
        let turn = match outcome {
            Outcome::Passed => {
                self.passed = true;
                let turn = self.tally.count(Health::Passing, health.thresholds);
                if self.tally.verdict() != Some(Health::Failing) {
                    self.failure = None;
                }
                turn
            }
            Outcome::Failed(why) => {
                self.failure = Some(why.clone());
                self.tally.count(Health::Failing, health.thresholds)
            }
            Outcome::Late => Turn::None,
        };
        let interval = if self.passed { health.interval } else { health.interval.min(IMPATIENT) };
        let next = if *outcome == Outcome::Late { now.after(AGAIN) } else { self.began.after(interval) };
        self.due = Some(next.max(now));
        turn
    }

    /// What the latest check that failed came to, unless one has passed since.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Whether this is the process of its command.
    pub(super) fn is(&self, pid: Pid) -> bool {
        matches!(&self.running, Some(Running::Command(errand)) if errand.is(pid))
    }

    /// Ends the check that runs, to be made again at once.
    pub(super) fn interrupt(&mut self, poller: &mut Poller) {
        if let Some(running) = self.running.take() {
            running.end(poller);
            self.due = Some(Time(0));
        }
    }

    /// Ends the check that runs; there will be no other. What the latest came to is still to be told.
    pub(super) fn end(&mut self, poller: &mut Poller) {
        self.due = None;
        if let Some(running) = self.running.take() {
            running.end(poller);
        }
    }
}

impl Running {
    fn end(self, poller: &mut Poller) {
        match self {
            Self::Command(errand) => errand.end(poller),
            Self::Connection(task) => task.abort(),
        }
    }
}

impl Process {
    /// When something has to be done about its checks.
    pub(super) fn check_deadline(&self) -> Option<Time> {
        self.checkup.as_ref()?.deadline(self.release.service.health.as_ref()?)
    }

    /// Whether there is something to check, and a way to do it.
    pub(super) fn is_checkable(&self) -> bool {
        let private = |health: &config::Health| health.private().is_none() || self.private.is_some();
        self.release.service.health.as_ref().is_some_and(private)
    }
}

impl Supervisor {
    /// Begins to check whoever has said by now that it is ready.
    pub(super) fn begin_checkups(&mut self) {
        let now = self.now();
        let unchecked = |process: &&mut Process| process.checkup.is_none() && process.is_checkable();
        for process in self.processes.values_mut().filter(unchecked) {
            let generation = self.core.services().get(&process.id.service);
            let generation = generation.and_then(|service| service.generations.get(&process.id.generation));
            let instance = generation.and_then(|generation| generation.instances.get(&process.id.number));
            if instance.is_some_and(|one| matches!(one.state, State::Proving { .. } | State::Ready { .. })) {
                process.checkup = Some(Checkup::new(now));
            }
        }
    }

    /// Begins the checks that are due, and ends those that have taken too long.
    pub(super) fn run_checks(&mut self) {
        let now = self.now();
        let due = |process: &&Process| process.check_deadline().is_some_and(|at| at <= now);
        let due: Vec<InstanceId> = self.processes.values().filter(due).map(|process| process.id).collect();
        for id in due {
            let checkup = self.processes.get_mut(&id).and_then(|process| process.checkup.as_mut());
            match checkup {
                Some(Checkup { running: Some(_), .. }) => self.on_command_overdue(id),
                Some(checkup) => {
                    (checkup.due, checkup.began) = (None, now);
                    self.check(id);
                }
                None => {}
            }
        }
    }

    fn check(&mut self, id: InstanceId) {
        let Some(release) = self.processes.get(&id).map(|process| Arc::clone(&process.release)) else { return };
        let Some(health) = &release.service.health else { return };
        let span = health.timeout;
        let begun = match &health.check {
            Check::Exec(command) => self.begin_command(id, command).map(Running::Command).map_err(Outcome::Failed),
            Check::Tcp(place) => match self.door(id, place) {
                Ok(door) => Ok(self.spawn(id, network::connect(door, span))),
                Err(closed) => Err(closed.into()),
            },
            Check::Http(check) => match self.question(id, check) {
                Ok((door, question)) => Ok(self.spawn(id, async move { network::get(door, &question, span).await })),
                Err(closed) => Err(closed.into()),
            },
        };
        match begun {
            Ok(running) => {
                if let Some(checkup) = self.processes.get_mut(&id).and_then(|process| process.checkup.as_mut()) {
                    checkup.running = Some(running);
                }
            }
            Err(outcome) => self.checked(id, outcome),
        }
    }

    fn spawn(&self, instance: InstanceId, check: impl Future<Output = Outcome> + Send + 'static) -> Running {
        let elsewhere = self.elsewhere.clone();
        let task = tokio::spawn(async move {
            let outcome = check.await;
            // The loop has ended: nobody wants to know.
            let _ = elsewhere.send(Elsewhere::Checked { instance, outcome });
        });
        Running::Connection(task.abort_handle())
    }

    /// A check over a connection has come to something.
    pub(super) fn on_checked(&mut self, id: InstanceId, outcome: Outcome) {
        self.unroute(id);
        let checkup = self.processes.get_mut(&id).and_then(|process| process.checkup.as_mut());
        // It may have been ended in the meantime.
        if checkup.is_some_and(|checkup| matches!(checkup.running.take(), Some(Running::Connection(_)))) {
            self.checked(id, outcome);
        }
    }

    fn checked(&mut self, id: InstanceId, outcome: Outcome) {
        let now = self.now();
        let Some(process) = self.processes.get_mut(&id) else { return };
        let (Some(checkup), Some(health)) = (&mut process.checkup, &process.release.service.health) else { return };
        let before = checkup.failure.clone();
        let turn = checkup.count(&outcome, health, now);
        if let Outcome::Failed(why) = &outcome
            && before.as_ref() != Some(why)
        {
            self.tell_check(id, why);
        }
        match (turn, outcome) {
            (Turn::None, _) => {}
            (Turn::To(Health::Failing), Outcome::Failed(why)) => self.tell_core_of(id, InstanceEvent::Unhealthy(why)),
            (Turn::To(_), _) => self.tell_core_of(id, InstanceEvent::Healthy),
        }
    }

    /// A check has failed in another way than the one before: part of the story of an upgrade in flight.
    fn tell_check(&mut self, id: InstanceId, why: &str) {
        let now = self.now();
        let service = self.core.services().get(&id.service);
        let Some(upgrade) = service.and_then(|service| service.upgrade.as_ref()).map(|upgrade| upgrade.id) else {
            return;
        };
        let generation = service.and_then(|service| service.generations.get(&id.generation));
        if generation.and_then(|generation| generation.upgrade) == Some(upgrade) {
            let message = format!("a health check failed: {why}");
            self.ledger.tell(upgrade, now, News { event: "check", message, generation: Some(id.generation) });
        }
    }

    /// No more checks of an instance: it is on its way out.
    pub(super) fn end_checkup(&mut self, id: InstanceId) {
        self.unroute(id);
        if let Some(checkup) = self.processes.get_mut(&id).and_then(|process| process.checkup.as_mut()) {
            checkup.end(&mut self.poller);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::health::Check;
    use crate::core::health::Thresholds;

    fn health(interval: Duration) -> config::Health {
        let thresholds = Thresholds { successes: 2, failures: 2 };
        config::Health { check: Check::Exec(Vec::new()), interval, timeout: Duration::from_secs(1), thresholds }
    }

    fn failed(why: &str) -> Outcome {
        Outcome::Failed(why.into())
    }

    const START: Time = Time(1_000_000_000);

    fn at(millis: u64) -> Time {
        START.after(Duration::from_millis(millis))
    }

    #[test]
    fn it_is_impatient_until_one_passes() {
        let health = health(Duration::from_secs(5));
        let mut checkup = Checkup::new(START);
        assert_eq!(checkup.deadline(&health), Some(START), "the first one at once");
        assert_eq!(checkup.count(&failed("connect"), &health, at(3)), Turn::None);
        assert_eq!(checkup.due, Some(at(200)));
        checkup.began = at(200);
        assert_eq!(checkup.count(&Outcome::Passed, &health, at(203)), Turn::None);
        assert_eq!(checkup.due, Some(at(5200)), "from the begin of one to that of the next");
        checkup.began = at(5200);
        assert_eq!(checkup.count(&Outcome::Passed, &health, at(11_000)), Turn::To(Health::Passing));
        assert_eq!(checkup.due, Some(at(11_000)), "one that took longer than the interval is followed at once");
        let mut quick = Checkup::new(START);
        let _ = quick.count(&failed("connect"), &self::health(Duration::from_millis(50)), at(1));
        assert_eq!(quick.due, Some(at(50)));
    }

    #[test]
    fn what_failed_is_remembered_until_it_is_over() {
        let health = health(Duration::from_secs(1));
        let mut checkup = Checkup::new(START);
        let _ = checkup.count(&failed("one"), &health, START);
        assert_eq!(checkup.failure(), Some("one"));
        let _ = checkup.count(&Outcome::Passed, &health, START);
        assert_eq!(checkup.failure(), None);
        let _ = checkup.count(&failed("two"), &health, START);
        assert_eq!(checkup.count(&failed("three"), &health, START), Turn::To(Health::Failing));
        let _ = checkup.count(&Outcome::Passed, &health, START);
        assert_eq!(checkup.failure(), Some("three"), "it still counts as failing");
        assert_eq!(checkup.count(&Outcome::Passed, &health, START), Turn::To(Health::Passing));
        assert_eq!(checkup.failure(), None);
    }

    #[test]
    fn one_that_says_nothing_counts_for_nothing() {
        let health = health(Duration::from_secs(1));
        let mut checkup = Checkup::new(START);
        let _ = checkup.count(&failed("one"), &health, at(1));
        for _ in 0..5 {
            assert_eq!(checkup.count(&Outcome::Late, &health, at(2)), Turn::None);
            assert_eq!(checkup.due, Some(at(12)), "it is made again");
        }
        assert_eq!(checkup.count(&failed("two"), &health, at(3)), Turn::To(Health::Failing));
    }
}
