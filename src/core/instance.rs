//! One process, from the wish to have it to the moment nothing of it is left.
//!
//! ```text
//!  Preparing ──Prepared──► Launching ──Launched──► Starting ──Ready──► Ready ──silent──► Aborting
//!      │                       │                       │                 │ ▲                │
//!      │                       │                       └─Ready─► Proving │ └─Healthy        │
//!      │                       │                                    │────│───┘            │
//!      │ stop, deadline        ├───────── stop ────────────────┴──┬─ stop ─┘                │ deadline
//!      │                       │ deadline                         ▼                         ▼
//!      └───────────────────────┴──► Killing ◄──deadline── Stopping                       Killing
//!                                      │                      │
//!  any state ──Exited──────────────────┴────► Leftovers ◄─────┘ ──Emptied──► forgotten
//!  Launching, Starting, Proving, Ready ──WATCHDOG=trigger──► Aborting
//!  Preparing, Launching, Stopping, Killing ──could not be prepared or executed──► forgotten
//!  Preparing, Launching ──Unstarted──► Preparing
//! ```
//!
//! - *Preparing*, *Launching*: the two phases of a start. Nothing is executed before it is recorded.
//! - *Starting* is **spawned**; only *Ready* is **ready**. Whether it serves is the generation's business.
//! - *Proving*: it says that it is ready, and its health checks have not passed yet; only where the policy has some.
//!   One that is Ready and fails them is *failing*: no use for new connections, whatever becomes of it.
//! - *Stopping*: the stop signal is on its way, or has been sent, and the drain deadline runs.
//! - *Aborting*: it was silent for longer than its watchdog allows, or said WATCHDOG=trigger, and was sent the
//!   watchdog's signal. Only a Ready one is watched, as with systemd (WatchdogSec= in systemd.service(5)): a start and
//!   an end have deadlines of their own.
//! - *Leftovers*: the main process is gone and others of the instance may not be.
//!
//! A process that has executed is never killed without the stop signal or the watchdog's first; one that has not is
//! only a shim.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::{Action, Exit, InstanceEvent, Reason};
use super::id::{InstanceId, Slot, Time};
use super::policy::{ABORT_TIMEOUT, EXTEND_LIMIT, KILL_TIMEOUT, LAUNCH_TIMEOUT, PREPARE_TIMEOUT, Policy, Readiness};
use super::service::Outbox;

/// One process of a generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Its name.
    pub id: InstanceId,
    /// Where it stands.
    pub state: State,
    /// When it was asked for; from the launch on, when it was spawned.
    pub started: Time,
    /// It has said that it is stopping.
    pub said_stopping: bool,
    /// Within what time it must say that it lives, while it is ready: by its policy, or by its own word since.
    pub watchdog: Option<Duration>,
    /// Its place in the rows of sockets, where traffic is steered.
    #[serde(default)]
    pub slot: Slot,
    /// It is ready, and its health checks fail.
    #[serde(default)]
    pub failing: bool,
    /// It is there for those who wait in its slot, and for nobody else.
    #[serde(default)]
    pub relief: bool,
    /// When it is told to stop, where that does not happen to all of its generation at once.
    #[serde(default)]
    pub stop_at: Option<Time>,
}

/// Where a process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The shim is being made.
    Preparing {
        /// Until when it may take.
        deadline: Time,
    },
    /// The shim was told to execute the program.
    Launching {
        /// Until when it may take.
        deadline: Time,
    },
    /// It runs and is not ready.
    Starting {
        /// Until when it must be.
        deadline: Time,
        /// When it counts as ready by having lived so long.
        alive_at: Option<Time>,
    },
    /// It says that it is ready, and its health checks have not passed.
    Proving {
        /// Until when they must have.
        deadline: Time,
    },
    /// It is ready.
    Ready {
        /// Since when.
        since: Time,
        /// Until when it must have said that it lives.
        alive_by: Option<Time>,
    },
    /// It is to end.
    Stopping {
        /// Whether the stop signal has been sent.
        told: bool,
        /// When it is sent SIGKILL.
        deadline: Time,
    },
    /// Its watchdog has run out: it was sent the watchdog's signal.
    Aborting {
        /// When it is sent SIGKILL.
        deadline: Time,
    },
    /// It was sent SIGKILL.
    Killing {
        /// When that is sent again.
        deadline: Time,
        /// Whether it was only a shim, whose program had not been executed.
        #[serde(default)]
        unrun: bool,
    },
    /// Its main process has ended.
    Leftovers {
        /// When the others are sent SIGKILL.
        deadline: Time,
        /// Whether they have been.
        forced: bool,
    },
}

/// What a change of one process means to its generation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Change {
    /// Nothing.
    None,
    /// It is spawned.
    Spawned,
    /// It became ready, so long after it was spawned.
    Ready(Duration),
    /// It says that it is stopping.
    SaidStopping,
    /// It was not ready in time, for this reason. It still runs.
    NeverReady(Reason),
    /// It is ready, and its health checks fail.
    Unhealthy(Reason),
    /// They pass again.
    Healthy,
    /// It was silent for too long, or says that it is broken, and is being ended.
    Broken(Reason),
    /// Its main process ended; what else is left of it has to be swept.
    Died(Exit),
    /// Its start has to begin again.
    Unstarted,
    /// It never ran, and can be forgotten.
    NeverRan(Reason),
    /// It did not get as far as running in time; it is being killed.
    Stuck(Reason),
    /// It was sent SIGKILL for missing its drain deadline.
    Overdue,
    /// It lives in spite of SIGKILL.
    Undead,
    /// It was told to stop.
    Told,
    /// Nothing of it is left: forget it.
    Gone,
}

impl Instance {
    pub(super) fn new(id: InstanceId, slot: Slot, now: Time) -> Self {
        let state = State::Preparing { deadline: now.after(PREPARE_TIMEOUT) };
        Self {
            id,
            state,
            started: now,
            said_stopping: false,
            watchdog: None,
            slot,
            failing: false,
            relief: false,
            stop_at: None,
        }
    }

    /// Whether it is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready { .. })
    }

    /// Whether new connections are well looked after with it: it is ready, and its health checks do not fail.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.is_ready() && !self.failing && !self.said_stopping
    }

    /// How long it has been ready, if it is.
    pub(super) fn ready_for(&self, now: Time) -> Option<Duration> {
        match self.state {
            State::Ready { since, .. } => Some(now.since(since)),
            State::Preparing { .. }
            | State::Launching { .. }
            | State::Starting { .. }
            | State::Proving { .. }
            | State::Stopping { .. }
            | State::Aborting { .. }
            | State::Killing { .. }
            | State::Leftovers { .. } => None,
        }
    }

    /// Whether it still has to be told to stop.
    pub(super) fn is_untold(&self) -> bool {
        let waits = self.is_ready() && self.stop_at.is_some();
        waits || matches!(self.state, State::Stopping { told: false, .. })
    }

    pub(super) fn handle(&mut self, now: Time, event: InstanceEvent, policy: &Policy, out: &mut Outbox) -> Change {
        use InstanceEvent as E;
        use State as S;
        match (self.state, event) {
            (S::Preparing { .. }, E::Prepared) => {
                self.state = S::Launching { deadline: now.after(LAUNCH_TIMEOUT) };
                out.push(Action::Launch(self.id));
                Change::None
            }
            (S::Preparing { .. } | S::Launching { .. } | S::Killing { .. }, E::PrepareFailed(error)) => {
                Change::NeverRan(Reason::Prepare(error))
            }
            (
                S::Preparing { .. } | S::Launching { .. } | S::Stopping { .. } | S::Killing { .. },
                E::LaunchFailed(error),
            ) => Change::NeverRan(Reason::Exec(error)),
            (S::Launching { .. }, E::Launched) => {
                self.spawned(now, policy);
                Change::Spawned
            }
            // Whatever it says proves that it was launched, whichever the shell saw first.
            (S::Launching { .. }, E::Ready) => {
                self.spawned(now, policy);
                self.said_ready(now, policy)
            }
            (S::Launching { .. }, E::Stopping) => {
                self.spawned(now, policy);
                self.said_stopping = true;
                Change::SaidStopping
            }
            (S::Launching { .. }, E::Extend(by)) => {
                self.spawned(now, policy);
                self.extend(now, by);
                Change::Spawned
            }
            (S::Preparing { .. } | S::Launching { .. }, E::Unstarted) => {
                *self = Self { relief: self.relief, ..Self::new(self.id, self.slot, now) };
                Change::Unstarted
            }
            (S::Stopping { .. } | S::Killing { .. }, E::Unstarted) => {
                Change::NeverRan(Reason::Prepare("the supervisor died while starting it".into()))
            }
            (S::Launching { .. }, E::KeepAlive) => {
                self.spawned(now, policy);
                Change::Spawned
            }
            (S::Launching { .. }, E::WatchdogInterval(span)) => {
                self.spawned(now, policy);
                self.watch(now, span);
                Change::Spawned
            }
            (S::Launching { .. }, E::WatchdogTrigger) => {
                self.spawned(now, policy);
                self.abort(now, out);
                Change::Broken(Reason::WatchdogTriggered)
            }
            (S::Starting { .. } | S::Proving { .. } | S::Ready { .. }, E::WatchdogTrigger) => {
                self.abort(now, out);
                Change::Broken(Reason::WatchdogTriggered)
            }
            (S::Starting { .. }, E::Ready) => self.said_ready(now, policy),
            (S::Proving { .. }, E::Healthy) => self.ready(now),
            (S::Ready { .. }, E::Unhealthy(text)) if !self.failing => {
                self.failing = true;
                Change::Unhealthy(Reason::Unhealthy(text))
            }
            (S::Ready { .. }, E::Healthy) if self.failing => {
                self.failing = false;
                Change::Healthy
            }

            (S::Starting { .. } | S::Proving { .. } | S::Ready { .. } | S::Stopping { .. }, E::Stopping)
                if !self.said_stopping =>
            {
                self.said_stopping = true;
                Change::SaidStopping
            }
            (S::Starting { .. } | S::Proving { .. } | S::Ready { .. } | S::Stopping { .. }, E::Extend(by)) => {
                self.extend(now, by);
                Change::None
            }
            (S::Ready { since, .. }, E::KeepAlive) => {
                self.state = S::Ready { since, alive_by: self.alive_by(now) };
                Change::None
            }
            (S::Starting { .. } | S::Proving { .. } | S::Ready { .. }, E::WatchdogInterval(span)) => {
                self.watch(now, span);
                Change::None
            }

            (
                S::Preparing { .. }
                | S::Launching { .. }
                | S::Starting { .. }
                | S::Proving { .. }
                | S::Ready { .. }
                | S::Stopping { .. }
                | S::Aborting { .. }
                | S::Killing { .. },
                E::Exited(exit),
            ) => {
                let forced = matches!(self.state, S::Killing { .. });
                let exit = if matches!(self.state, S::Killing { unrun: true, .. }) { Exit::Unrun } else { exit };
                let patience = if forced { KILL_TIMEOUT } else { policy.drain_timeout };
                let deadline = match self.state {
                    S::Stopping { deadline, .. } => deadline,
                    S::Preparing { .. }
                    | S::Launching { .. }
                    | S::Starting { .. }
                    | S::Proving { .. }
                    | S::Ready { .. }
                    | S::Aborting { .. }
                    | S::Killing { .. }
                    | S::Leftovers { .. } => now.after(patience),
                };
                self.state = S::Leftovers { deadline, forced };
                Change::Died(exit)
            }
            (S::Leftovers { .. }, E::Emptied) => Change::Gone,

            // The rest is late, doubled or out of place, and means nothing.
            (
                S::Preparing { .. },
                E::Launched
                | E::Ready
                | E::Healthy
                | E::Unhealthy(_)
                | E::Stopping
                | E::Extend(_)
                | E::KeepAlive
                | E::WatchdogInterval(_)
                | E::WatchdogTrigger
                | E::Emptied,
            )
            | (S::Launching { .. }, E::Prepared | E::Healthy | E::Unhealthy(_) | E::Emptied)
            | (
                S::Starting { .. } | S::Proving { .. } | S::Ready { .. } | S::Stopping { .. },
                E::Prepared | E::PrepareFailed(_) | E::Launched | E::Stopping | E::Emptied,
            )
            | (S::Starting { .. } | S::Proving { .. } | S::Ready { .. }, E::LaunchFailed(_) | E::Unstarted)
            // A check that fails before the first that passes is what is waited for.
            | (S::Starting { .. }, E::KeepAlive | E::Healthy | E::Unhealthy(_))
            | (S::Proving { .. }, E::Ready | E::KeepAlive | E::Unhealthy(_))
            | (S::Ready { .. }, E::Ready | E::Healthy | E::Unhealthy(_))
            | (
                S::Stopping { .. },
                E::Ready
                | E::Healthy
                | E::Unhealthy(_)
                | E::KeepAlive
                | E::WatchdogInterval(_)
                | E::WatchdogTrigger,
            )
            | (S::Aborting { .. }, E::PrepareFailed(_) | E::LaunchFailed(_) | E::Unstarted)
            | (
                S::Aborting { .. } | S::Killing { .. },
                E::Prepared
                | E::Launched
                | E::Ready
                | E::Healthy
                | E::Unhealthy(_)
                | E::Stopping
                | E::Extend(_)
                | E::KeepAlive
                | E::WatchdogInterval(_)
                | E::WatchdogTrigger
                | E::Emptied,
            )
            | (
                S::Leftovers { .. },
                E::Prepared
                | E::PrepareFailed(_)
                | E::Launched
                | E::LaunchFailed(_)
                | E::Ready
                | E::Healthy
                | E::Unhealthy(_)
                | E::Stopping
                | E::Extend(_)
                | E::Unstarted
                | E::KeepAlive
                | E::WatchdogInterval(_)
                | E::WatchdogTrigger
                | E::Exited(_),
            ) => Change::None,
        }
    }

    /// Says again what the shell has not answered: a successor of the one that was asked does not know. Starts are
    /// begun again by [`InstanceEvent::Unstarted`], since only the shell knows how far they came.
    /// Keep-alives are not written down and were nobody's to hear, so a watchdog begins anew.
    pub(super) fn ask_again(&mut self, now: Time, out: &mut Outbox) {
        match self.state {
            State::Ready { since, alive_by } => {
                self.state = State::Ready { since, alive_by: alive_by.max(self.alive_by(now)) };
            }
            State::Stopping { told: false, .. } => out.ask_again(Action::Stop(self.id)),
            State::Aborting { .. } => out.ask_again(Action::Abort(self.id)),
            State::Killing { .. } => out.ask_again(Action::Kill(self.id)),
            State::Leftovers { forced, .. } => out.ask_again(Action::Sweep { instance: self.id, force: forced }),
            State::Preparing { .. }
            | State::Launching { .. }
            | State::Starting { .. }
            | State::Proving { .. }
            | State::Stopping { told: true, .. } => {}
        }
    }

    /// The stop signal has been sent.
    pub(super) fn told(&mut self) -> Change {
        match &mut self.state {
            State::Stopping { told, .. } if !*told => {
                *told = true;
                Change::Told
            }
            State::Stopping { .. }
            | State::Preparing { .. }
            | State::Launching { .. }
            | State::Starting { .. }
            | State::Proving { .. }
            | State::Ready { .. }
            | State::Aborting { .. }
            | State::Killing { .. }
            | State::Leftovers { .. } => Change::None,
        }
    }

    /// Its main process has ended: sees to what else is left of it.
    pub(super) fn sweep(&self, out: &mut Outbox) {
        if let State::Leftovers { forced, .. } = self.state {
            out.push(Action::Sweep { instance: self.id, force: forced });
        }
    }

    /// Sees to its end: the stop signal and a drain deadline if it has executed, SIGKILL if it is only a shim.
    pub(super) fn stop(&mut self, now: Time, policy: &Policy, out: &mut Outbox) {
        match self.state {
            // A launching one may have executed already.
            State::Launching { .. } | State::Starting { .. } | State::Proving { .. } | State::Ready { .. } => {
                self.state = State::Stopping { told: false, deadline: now.after(policy.drain_timeout) };
                out.push(Action::Stop(self.id));
            }
            State::Preparing { .. } => self.kill(now, out),
            State::Stopping { .. } | State::Aborting { .. } | State::Killing { .. } | State::Leftovers { .. } => {}
        }
    }

    /// Sees to its end when its turn has come; at once, if it is not ready.
    pub(super) fn stop_at(&mut self, at: Time, now: Time, policy: &Policy, out: &mut Outbox) {
        self.stop_at = Some(at);
        if !self.is_ready() || at <= now {
            self.stop(now, policy, out);
        }
    }

    /// Ends it at once.
    pub(super) fn kill(&mut self, now: Time, out: &mut Outbox) {
        let deadline = now.after(KILL_TIMEOUT);
        match self.state {
            State::Leftovers { .. } => {
                self.state = State::Leftovers { deadline, forced: true };
                out.push(Action::Sweep { instance: self.id, force: true });
            }
            State::Preparing { .. }
            | State::Launching { .. }
            | State::Starting { .. }
            | State::Proving { .. }
            | State::Ready { .. }
            | State::Stopping { .. }
            | State::Aborting { .. }
            | State::Killing { .. } => {
                let unrun = matches!(self.state, State::Preparing { .. } | State::Killing { unrun: true, .. });
                self.state = State::Killing { deadline, unrun };
                out.push(Action::Kill(self.id));
            }
        }
    }

    /// When something has to happen if nothing else does.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        match self.state {
            State::Starting { deadline, alive_at } => Some(alive_at.map_or(deadline, |at| at.min(deadline))),
            State::Preparing { deadline }
            | State::Launching { deadline }
            | State::Proving { deadline }
            | State::Stopping { deadline, .. }
            | State::Aborting { deadline }
            | State::Killing { deadline, .. }
            | State::Leftovers { deadline, .. } => Some(deadline),
            State::Ready { alive_by, .. } => alive_by.into_iter().chain(self.stop_at).min(),
        }
    }

    /// What follows from a deadline that has passed.
    pub(super) fn expire(&mut self, now: Time, policy: &Policy, out: &mut Outbox) -> Change {
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return Change::None;
        }
        match self.state {
            State::Preparing { .. } => {
                self.kill(now, out);
                Change::Stuck(Reason::LaunchTimeout(PREPARE_TIMEOUT))
            }
            State::Launching { .. } => {
                self.kill(now, out);
                Change::Stuck(Reason::LaunchTimeout(LAUNCH_TIMEOUT))
            }
            State::Starting { alive_at: Some(at), .. } if at <= now => self.said_ready(now, policy),
            // Said once: whoever hears it ends the process.
            State::Starting { deadline, .. } => {
                self.state = State::Starting { deadline: Time(u64::MAX), alive_at: None };
                Change::NeverReady(Reason::NeverReady(deadline.since(self.started)))
            }
            State::Proving { deadline } => {
                self.state = State::Proving { deadline: Time(u64::MAX) };
                Change::NeverReady(Reason::NeverHealthy(deadline.since(self.started)))
            }
            State::Ready { .. } if self.stop_at.is_some_and(|at| at <= now) => {
                self.stop(now, policy, out);
                Change::None
            }
            State::Ready { .. } => {
                self.abort(now, out);
                Change::Broken(Reason::WatchdogMissed(self.watchdog.unwrap_or_default()))
            }
            State::Stopping { .. } | State::Aborting { .. } => {
                self.kill(now, out);
                Change::Overdue
            }
            State::Killing { .. } => {
                self.kill(now, out);
                Change::Undead
            }
            State::Leftovers { forced, .. } => {
                self.kill(now, out);
                if forced { Change::Undead } else { Change::Overdue }
            }
        }
    }

    fn spawned(&mut self, now: Time, policy: &Policy) {
        self.started = now;
        self.watchdog = policy.watchdog;
        let alive_at = match policy.readiness {
            Readiness::Reported => None,
            Readiness::Alive(span) => Some(now.after(span)),
        };
        self.state = State::Starting { deadline: now.after(policy.ready_timeout), alive_at };
    }

    /// Moves its deadline, never nearer; that of its watchdog too, as systemd does.
    fn extend(&mut self, now: Time, by: Duration) {
        if let State::Starting { deadline, .. }
        | State::Proving { deadline }
        | State::Stopping { deadline, .. }
        | State::Ready { alive_by: Some(deadline), .. } = &mut self.state
        {
            *deadline = now.after(by.min(EXTEND_LIMIT)).max(*deadline);
        }
    }

    /// It says that it is ready: so it is, unless its health checks have a say.
    fn said_ready(&mut self, now: Time, policy: &Policy) -> Change {
        match self.state {
            State::Starting { deadline, .. } if policy.health => {
                // One that was heard late has missed it only after this.
                self.state = State::Proving { deadline: deadline.max(Time(now.0.saturating_add(1))) };
                Change::None
            }
            State::Starting { .. }
            | State::Preparing { .. }
            | State::Launching { .. }
            | State::Proving { .. }
            | State::Ready { .. }
            | State::Stopping { .. }
            | State::Aborting { .. }
            | State::Killing { .. }
            | State::Leftovers { .. } => self.ready(now),
        }
    }

    fn ready(&mut self, now: Time) -> Change {
        self.state = State::Ready { since: now, alive_by: self.alive_by(now) };
        Change::Ready(now.since(self.started))
    }

    /// It chooses its own interval, also where the policy has none (`WATCHDOG_USEC=` in sd_notify(3)).
    fn watch(&mut self, now: Time, span: Duration) {
        self.watchdog = Some(span).filter(|span| !span.is_zero());
        let next = self.alive_by(now);
        if let State::Ready { alive_by, .. } = &mut self.state {
            *alive_by = next;
        }
    }

    /// When it must have said again that it lives.
    fn alive_by(&self, now: Time) -> Option<Time> {
        self.watchdog.map(|span| now.after(span))
    }

    fn abort(&mut self, now: Time, out: &mut Outbox) {
        self.state = State::Aborting { deadline: now.after(ABORT_TIMEOUT) };
        out.push(Action::Abort(self.id));
    }
}
