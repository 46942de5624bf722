//! Requests through the public listener during an upgrade, as a client sends them: what its record says that clients saw.
//!
//! ```text
//!  release resolved ─► for 2 s, as things are ─► the upgrade goes on ─► candidate takes part ─► verdict
//!                      └─────── before ───────┘ └──────────────────── inside ─────────────────┘   │
//!                                                                       └─ judged: too many errors │
//!                                                                          condemn the candidate   ▼
//!                                   for 2 s more, if it succeeded; the last answers come; then the record is written
//! ```
//!
//! - The loop waits for none of it: a task asks ([`asking`]), and keeps account ([`account`]).
//! - No upgrade, no task. Where nothing serves there is nothing to see, and nobody is asked.
//! - The release that waits for the end of the baseline is not on record anywhere: should the supervisor die, its
//!   successor resolves it anew, and measures anew. Of one whose candidate is on its way the successor goes on counting.
//! - A rehearsal is probed during its soak, since nobody is served by it before.

mod account;
mod asking;
mod client;
mod kernel;
mod queue;
mod times;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::ledger::News;
use super::release::{Pinned, Release};
use super::{Elsewhere, Supervisor};
use crate::config::{Affinity, Strategy, Traffic, UpgradeProbe};
use crate::control::types::ProbeSummary;
use crate::core::service::{Pause, Phase, Role};
use crate::core::{Event, Generation, Kind, Reason, ServiceId, Step, UpgradeId, Verdict, spoken};
use crate::history::{KernelFigures, UpgradeRecord};
use account::Account;
use asking::{Plan, Shared};
use client::{Place, Question};

pub(super) use asking::Stage;

/// For how long it is seen how clients are answered before an upgrade.
const BASELINE: Duration = Duration::from_secs(2);

/// The requests of one upgrade.
pub(super) struct Prober {
    service: ServiceId,
    steered: bool,
    account: Shared,
    stage: watch::Sender<Stage>,
    /// The release that the upgrade goes on with once that is known.
    pinned: Option<Box<Result<Pinned, Reason>>>,
    /// The upgrade has its verdict, and its record waits for the last answers.
    record: Option<UpgradeRecord>,
}

impl Prober {
    /// What clients have seen so far.
    pub(super) fn summary(&self) -> ProbeSummary {
        self.account.lock().summary()
    }

    fn tell(&self, stage: Stage) {
        // Whoever asks has ended where nobody hears it.
        let _ = self.stage.send(stage);
    }
}

impl Supervisor {
    /// A release is resolved. Gives it back where the upgrade goes on with it at once; otherwise that is for later
    /// ([`Self::on_measured`]).
    pub(super) fn begin_probing(
        &mut self,
        id: ServiceId,
        upgrade: UpgradeId,
        result: Box<Result<Pinned, Reason>>,
    ) -> Option<Box<Result<Pinned, Reason>>> {
        let now = self.now();
        self.end_probing(|prober| prober.service == id, Stage::Over);
        let Ok(pinned) = result.as_ref() else { return Some(result) };
        let machine = self.core.services().get(&id);
        let in_flight = machine.and_then(|machine| machine.upgrade.as_ref()).filter(|it| it.id == upgrade);
        let Some((kind, phase)) = in_flight.map(|it| (it.kind, it.phase)) else { return Some(result) };
        let Phase::Pinning { deadline } = phase else { return Some(result) };
        if self.probing.contains_key(&upgrade) || kind == Kind::Start {
            return Some(result);
        }
        let Some(mut plan) = self.plan(id, upgrade, &pinned.release) else { return Some(result) };
        // A rollback is not to wait, nor is what mends a listener; and while callers are made to wait there is nothing
        // to see.
        let mends = self.services.get(&id).is_some_and(|service| service.owes_restart);
        let paused = machine.is_some_and(|machine| machine.paused_until().is_some());
        let hurry = kind == Kind::Rollback || mends || paused || deadline.since(now) < BASELINE * 2;
        plan.baseline = Some(BASELINE).filter(|_| !hurry);
        let waits = plan.baseline.is_some();
        let told = format!(
            "asking for {} {} times a second; for {} before anything is started",
            plan.question.path,
            plan.probe.rate,
            spoken(BASELINE)
        );
        let prober = self.start_probing(id, plan);
        if waits {
            prober.pinned = Some(result);
            tracing::info!(service = self.name_of(id), upgrade = upgrade.0, "{told}");
            self.tell_of_upgrade(id, upgrade, News { event: "probing", message: told, generation: None });
            return None;
        }
        prober.account.lock().enter();
        Some(result)
    }

    /// What is to be asked for during an upgrade to this release, if anything.
    fn plan(&self, id: ServiceId, upgrade: UpgradeId, release: &Release) -> Option<Plan> {
        let probe = release.service.upgrade.probe.as_ref()?;
        let rehearses = self.surroundings.rehearsal.is_some();
        if !rehearses {
            self.serving(id)?;
        }
        let socket = &release.listeners.iter().find(|listener| listener.name == probe.listener)?.socket;
        // Nobody listens yet at one that comes with this release.
        let own = self.services.get(&id).into_iter().flat_map(|service| &service.listeners);
        if !rehearses && !own.map(|listener| listener.socket.token).any(|token| token == socket.token) {
            return None;
        }
        let by_source = matches!(&release.service.upgrade.strategy, Strategy::Canary(canary) if canary.affinity == Affinity::Source);
        let place = Place::of(&socket.bound, by_source)?;
        let question = Question::new(place, probe.http.clone(), probe.host.clone());
        let sockets = socket.all().iter().map(|socket| Arc::clone(&socket.bound)).collect();
        let steered = release.service.traffic == Traffic::Steered;
        Some(Plan { upgrade, question, probe: probe.clone(), steered, sockets, baseline: None })
    }

    fn start_probing(&mut self, service: ServiceId, plan: Plan) -> &mut Prober {
        let UpgradeProbe { http, listener, max_error_rate, .. } = &plan.probe;
        let mut account = Account::new(format!("{http} through {listener}"), *max_error_rate);
        let machine = self.core.services().get(&service);
        // What is only asked for is told when it is so.
        let pause = machine.and_then(|machine| machine.pause);
        account.pause(matches!(pause, Some(Pause::Held { .. } | Pause::Releasing { .. })));
        let account = Shared::new(account);
        let (stage, how_far) = watch::channel(Stage::On);
        let (upgrade, steered) = (plan.upgrade, plan.steered);
        tokio::spawn(asking::run(plan, account.clone(), how_far, self.elsewhere.clone()));
        let prober = Prober { service, steered, account, stage, pinned: None, record: None };
        self.probing.entry(upgrade).insert_entry(prober).into_mut()
    }

    /// Nothing is pinned for it: neither for a rollback to what stands by, nor, where nobody is served before, for a
    /// rehearsal.
    fn begin_probing_late(&mut self, service: ServiceId, upgrade: Option<UpgradeId>, generation: Generation) {
        self.end_probing(|prober| prober.service == service, Stage::Over);
        let machine = self.core.services().get(&service);
        let generation = machine.and_then(|machine| machine.generations.get(&generation));
        let release = generation.and_then(|generation| self.releases.get(&generation.release));
        let Some((upgrade, release)) = upgrade.zip(release).filter(|(id, _)| !self.probing.contains_key(id)) else {
            return;
        };
        if let Some(plan) = self.plan(service, upgrade, release) {
            self.start_probing(service, plan).account.lock().enter();
        }
    }

    /// How clients were answered before is known: the upgrade goes on.
    pub(super) fn on_measured(&mut self, upgrade: UpgradeId) {
        let Some(prober) = self.probing.get_mut(&upgrade) else { return };
        prober.account.lock().enter();
        if let Some(result) = prober.pinned.take() {
            let service = prober.service;
            self.on_elsewhere(Elsewhere::Pinned { service, upgrade, result });
        }
    }

    /// Something happens to the service that the requests have to do with.
    pub(super) fn probe_step(&mut self, service: ServiceId, upgrade: Option<UpgradeId>, step: &Step) {
        let rehearses = self.surroundings.rehearsal.is_some();
        match step {
            Step::SwitchingBack { generation } => self.begin_probing_late(service, upgrade, *generation),
            Step::Soaking { generation, .. } if rehearses => self.begin_probing_late(service, upgrade, *generation),
            _ => {}
        }
        if self.serving(service).is_none() {
            self.end_probing(|prober| prober.service == service, Stage::Ended);
        }
        for prober in self.probing.values().filter(|prober| prober.service == service) {
            let mut account = prober.account.lock();
            match step {
                // With shared traffic a candidate accepts as soon as it runs; otherwise once it has a share.
                Step::Soaking { .. } if !prober.steered || rehearses => account.judge(false),
                Step::Rolled { .. } => account.judge(false),
                Step::Weighted { .. } => account.judge(true),
                Step::Paused { .. } => account.pause(true),
                Step::Resumed => account.pause(false),
                _ => {}
            }
        }
    }

    /// What clients are answered is not good enough. The machine knows whether the candidate can be to blame.
    pub(super) fn on_condemned(&mut self, upgrade: UpgradeId, reason: String) {
        let Some(service) = self.probing.get(&upgrade).map(|prober| prober.service) else { return };
        let candidate = |this: &Self| this.core.services().get(&service)?.candidate().map(|one| one.number);
        let Some(generation) = candidate(self) else { return };
        self.tell_core(Event::Condemned { upgrade, reason: reason.clone() });
        if candidate(self).is_none() {
            let news = News { event: "over-budget", message: reason, generation: Some(generation) };
            self.tell_of_upgrade(service, upgrade, news);
        }
    }

    /// The upgrade has its verdict. `true`: its record is written once the last answers have come.
    pub(super) fn finish_probing(&mut self, upgrade: UpgradeId) -> bool {
        let Some(prober) = self.probing.get_mut(&upgrade) else { return false };
        let service = prober.service;
        if let Some(result) = prober.pinned.take() {
            // The machine lets go of it.
            self.on_pinned(service, upgrade, *result);
        }
        // Whatever becomes of us until the last answers have come.
        self.keep_probed();
        let record = self.record_of(upgrade);
        let succeeded = record.as_ref().is_some_and(|record| record.verdict == Verdict::Upgraded);
        let (rehearses, ends) =
            (self.surroundings.rehearsal.is_some(), self.stopping || self.serving(service).is_none());
        let Some(prober) = self.probing.get_mut(&upgrade) else { return false };
        prober.record = record;
        prober.account.lock().conclude();
        prober.tell(match succeeded && !rehearses {
            _ if ends => Stage::Ended,
            true => Stage::Afterwards,
            false => Stage::Over,
        });
        true
    }

    /// Nobody asks any more what follows an upgrade that has its verdict.
    pub(super) fn end_probing(&self, of: impl Fn(&Prober) -> bool, stage: Stage) {
        self.probing.values().filter(|prober| prober.record.is_some() && of(prober)).for_each(|it| it.tell(stage));
    }

    /// What an upgrade ended is gone; its record may not be written yet.
    pub(super) fn note_drain(&mut self, upgrade: UpgradeId, took: f64) {
        if let Some(record) = self.probing.get_mut(&upgrade).and_then(|prober| prober.record.as_mut()) {
            record.add_drain(took);
        }
    }

    /// For a successor, which goes on with it: what has been counted so far.
    pub(super) fn keep_probed(&mut self) {
        for (upgrade, prober) in &self.probing {
            self.ledger.probed(*upgrade, ProbeSummary { partial: true, ..prober.summary() });
        }
    }

    /// The last answers have come.
    pub(super) fn on_probed(&mut self, upgrade: UpgradeId, kernel: Option<KernelFigures>) {
        let Some(prober) = self.probing.remove(&upgrade) else { return };
        let summary = ProbeSummary { kernel, ..prober.summary() };
        let (requests, errors) = (summary.inside.requests, summary.inside.errors);
        let service = self.name_of(prober.service);
        tracing::info!(service, upgrade = upgrade.0, "clients saw {errors} errors in {requests} requests");
        self.note_probed(upgrade, prober.record, summary);
    }

    /// Nobody waits for the answers to requests that are on their way any more.
    pub(super) fn settle_probing(&mut self) {
        let over = self.probing.extract_if(|_, prober| prober.record.is_some());
        for (upgrade, prober) in over.collect::<Vec<_>>() {
            let summary = ProbeSummary { partial: true, ..prober.summary() };
            self.note_probed(upgrade, prober.record, summary);
        }
    }

    fn note_probed(&mut self, upgrade: UpgradeId, record: Option<UpgradeRecord>, summary: ProbeSummary) {
        self.survival.stale = true;
        self.ledger.probed(upgrade, summary.clone());
        if let Some(record) = record {
            self.note(UpgradeRecord { probe: Some(summary), ..record });
        }
    }

    /// A successor goes on asking, where a candidate is on its way.
    pub(super) fn go_on_probing(&mut self) {
        let mut found = Vec::new();
        for (id, machine) in self.core.services() {
            let Some(upgrade) = machine.upgrade.as_ref().map(|upgrade| upgrade.id) else { continue };
            let Some(candidate) = machine.candidate().filter(|one| one.role != Role::Switching) else { continue };
            let Some(release) = self.releases.get(&candidate.release) else { continue };
            let steered = release.service.traffic == Traffic::Steered;
            let takes_part = match candidate.role {
                Role::Soaking { .. } | Role::Held { .. } => !steered,
                Role::Stepping { .. } | Role::Rolling { .. } => true,
                Role::Starting
                | Role::Switching
                | Role::Serving
                | Role::Standby { .. }
                | Role::Retreating
                | Role::Draining
                | Role::Ending => false,
            };
            found.extend(self.plan(*id, upgrade, release).map(|plan| (*id, plan, takes_part)));
        }
        for (id, plan, takes_part) in found {
            let known = self.ledger.probe_of(plan.upgrade);
            let mut account = self.start_probing(id, plan).account.lock();
            if let Some(known) = known {
                account.resume(known);
            }
            account.enter();
            if takes_part {
                account.judge(false);
            }
        }
    }
}
