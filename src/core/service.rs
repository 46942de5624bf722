//! One service: its generations, and the upgrade from one to the next.
//!
//! ```text
//!                         every instance ready          soak over            weights set
//!  Pin ──► (new) Starting ─────────────────► Soaking ─────────► Switching ─────────► Serving
//!               │                               │ └─► Held ─────► ▲ │                   │
//!               │                               │ canary          │ │                   │
//!               │                               └──► Stepping ────┘ │                   │
//!               │ a few at a time                       │ last step │                   │ superseded, stopped
//!               └──────────────► Rolling ───────────────│──► all ───┤                   ├────────► Standby
//!                                   │                   │           │                   ▼            │ time over
//!      fails, late, aborted, ends, stops, unhealthy     │           │               Draining ◄───────┘
//!               ▼                   ▼                   ▼           ▼                   │
//!            Ending ◄────────── Retreating (what it replaced comes back)                │
//!               │                                                                       │
//!               └──────────────────────── no process left: forgotten ───────────────────┘
//! ```
//!
//! - *Starting*, *Soaking*, *Held*, *Stepping*, *Rolling* and *Switching* are the candidate; there is at most one.
//! - *Serving* is the generation that the service is committed to; there is at most one. It stays Serving while its
//!   processes are restarted after a crash: whether any is ready is another question ([`Generation::is_up`]).
//! - Until the candidate is Serving, nothing is done to the serving generation: no action names its instances. The
//!   exception is what the config asks for by name: `rolling` and `stop-start` (rolling.rs) replace it piece by piece.
//! - The verdict falls when the candidate is Serving and every instance of the old generation has been told to stop
//!   (or is dead, or stands by). What drains afterwards is nobody's verdict.
//! - A candidate that is given up is Ending at once, and the verdict falls; only where it had replaced something, it is
//!   Retreating first, and the verdict falls when that serves again.
//! - *Held* is a candidate that is switched to together with those of other services ([`super::sequence`]), once all of
//!   them are.
//! - *Standby* is a generation that a rollback switches back to: Standby, Switching, Serving.
//! - While nothing serves there is nothing to protect: a candidate switches as soon as it is ready, without soak.
//!   Only a first start that is a rehearsal ([`FirstFailure::Rehearse`]) goes through all of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::event::{Action, Exit, Kind, Reason, Step, Verdict};
use super::id::{Generation as Number, InstanceId, ReleaseId, ServiceId, Slot, Time, UpgradeId};
use super::policy::{FirstFailure, Policy};

mod deadlines;
mod generation;
mod hooks;
mod outbox;
mod pause;
mod processes;
mod releases;
mod relief;
mod requests;
mod rolling;
mod routes;
mod succession;
mod upgrade;

pub use generation::{Generation, Role, Seat};
pub(super) use outbox::Outbox;
pub use pause::Pause;
pub use releases::{Kept, Scaled};
pub use routes::Route;

/// One service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its place among the services.
    pub id: ServiceId,
    /// Every generation of which a process may be left.
    pub generations: BTreeMap<Number, Generation>,
    /// The upgrade in flight.
    pub upgrade: Option<Upgrade>,
    /// Upgrades that wait for it, at most one of a kind beside those of sequences.
    pub queue: VecDeque<Request>,
    /// The release of the latest generation that served.
    pub pinned: Option<(ReleaseId, Policy)>,
    /// The releases of generations that served, each once, the latest last.
    #[serde(default)]
    kept: Vec<Kept>,
    /// The process because of which the latest upgrade was given up, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blamed: Option<InstanceId>,
    /// The number of instances that an operator chose, while it differs from the config's.
    #[serde(default)]
    pub scaled: Option<Scaled>,
    /// Those that it starts after, and ends before.
    #[serde(default)]
    pub(super) after: BTreeSet<ServiceId>,
    /// Its first start waits until those serve; until when, at most.
    #[serde(default, alias = "held_until")]
    pub(super) awaits_turn_until: Option<Time>,
    /// It was added while others ran, and the upgrade that is to start it is not over.
    #[serde(default)]
    pub(super) fresh: bool,
    /// Whether it is meant to run.
    pub purpose: Purpose,
    /// The number of the next generation.
    pub next: Number,
    /// Its first start has just failed for good: whether that ends everything is to be decided.
    pub(super) never_started: bool,
    /// Nothing of it runs, since its latest upgrade failed, until somebody asks for another.
    #[serde(default)]
    pub(super) down: bool,
    first_failure: FirstFailure,
    /// How many [`Action::SetWeights`] are not yet answered.
    weights_awaited: u32,
    /// New connections are made to wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
    /// The generation that replaced others, whose `after-drain` hook is to be run when they are gone.
    #[serde(default)]
    owes_after_drain: Option<Number>,
    /// Slots whose callers the generation that serves could not relieve.
    #[serde(default)]
    unrelieved: BTreeSet<Slot>,
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

/// A request for an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The upgrade.
    pub id: UpgradeId,
    /// What is asked for.
    pub kind: Kind,
    /// For [`Kind::Rollback`]: the generation to go back to; the one before without it.
    pub to: Option<Number>,
    /// For one that does not say and waits for an upgrade: what it means, whatever becomes of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) back_to: Option<Number>,
    /// It is one of a sequence, which nobody else shares.
    #[serde(default)]
    pub(super) of_sequence: bool,
    /// It succeeds with others, or not at all.
    #[serde(default)]
    pub(super) together: bool,
}

impl Request {
    pub(super) fn new(id: UpgradeId, kind: Kind, to: Option<Number>) -> Self {
        Self { id, kind, to, back_to: None, of_sequence: false, together: false }
    }
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
    /// Where a release is run again: the generation that it was pinned for first.
    #[serde(default)]
    lineage: Option<Number>,
    /// The release that is run again.
    #[serde(default)]
    again: Option<ReleaseId>,
    /// Until when the old generation must be gone, where nothing is started before.
    #[serde(default)]
    clear_by: Option<Time>,
    /// The verdict that is certain and has not fallen: what was replaced is on its way back.
    #[serde(default)]
    outcome: Option<(Verdict, Reason)>,
    /// It succeeds with others, or not at all.
    #[serde(default)]
    together: bool,
}

impl Upgrade {
    fn new(id: UpgradeId, kind: Kind, phase: Phase) -> Self {
        Self { id, kind, phase, lineage: None, again: None, clear_by: None, outcome: None, together: false }
    }
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
    /// The candidate was given up, and what it had replaced is started again.
    Returning {
        /// The candidate.
        candidate: Number,
        /// Until when that is waited for.
        deadline: Time,
    },
}

impl Service {
    pub(super) fn new(id: ServiceId, next: Number, first_failure: FirstFailure) -> Self {
        Self {
            id,
            generations: BTreeMap::new(),
            upgrade: None,
            queue: VecDeque::new(),
            pinned: None,
            kept: Vec::new(),
            blamed: None,
            scaled: None,
            after: BTreeSet::new(),
            awaits_turn_until: None,
            fresh: false,
            purpose: Purpose::Run,
            next,
            never_started: false,
            down: false,
            first_failure,
            weights_awaited: 0,
            pause: None,
            owes_after_drain: None,
            unrelieved: BTreeSet::new(),
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
            Phase::Pinning { .. } | Phase::Telling { .. } | Phase::Returning { .. } => None,
        }
    }

    /// Starts a process in a seat.
    fn start(&mut self, now: Time, number: Number, place: usize, out: &mut Outbox) {
        let Some(seat) = self.generations.get(&number).and_then(|generation| generation.seats.get(place)) else {
            return;
        };
        let slot = self.free_slot(number, seat.slot);
        if let Some(generation) = self.generations.get_mut(&number) {
            generation.start(self.id, place, slot, now, out);
        }
    }

    /// A slot that no living process has: the one it had before, else one of those in which callers wait while nothing
    /// serves, else the first. One whose last process died is kept for the next in its place, since callers wait in its
    /// queue; while nothing serves that is whoever comes.
    fn free_slot(&self, number: Number, before: Option<Slot>) -> Slot {
        let up = self.serving().is_some_and(Generation::is_up);
        let others = self.generations.values().filter(|generation| generation.number != number);
        let own = self.generations.get(&number).into_iter();
        let taken = |slot: Slot| {
            others.clone().flat_map(|other| other.slots(up || other.role != Role::Serving)).any(|taken| taken == slot)
                || own.clone().flat_map(|own| own.slots(Some(slot) != before)).any(|taken| taken == slot)
        };
        let waiting = self.serving().filter(|_| !up).into_iter().flat_map(|down| &down.seats);
        let waiting = waiting.filter_map(|seat| seat.slot);
        let mut wanted = before.into_iter().chain(waiting).chain((0..).map(Slot));
        wanted.find(|slot| !taken(*slot)).unwrap_or_default()
    }

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
            self.let_go(generation.release, out);
        }
        self.run_owed_hook(out);
        let empty = self.generations.is_empty() && self.upgrade.is_none() && self.pause.is_none();
        if self.purpose == Purpose::Stop && empty {
            self.purpose = Purpose::Stopped;
            out.push(Action::Progress { service, upgrade: None, step: Step::Stopped });
        }
    }
}
