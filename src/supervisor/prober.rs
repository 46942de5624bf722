//! Requests through the public listener during an upgrade, as a client sends them: what its record says that clients saw.
//!
//! ```text
//!  release resolved ─► for 2 s, as things are ─► the upgrade goes on ─► candidate takes part ─► verdict
//!                      └─────── before ───────┘ └──────────────────── inside ─────────────────┘   │
//!                                                                       └─ judged: too many errors │
//!                                                                          condemn the candidate   ▼
//!                                                              the last answers come, then the record is written
//! ```
//!
//! - The loop waits for none of it: a task asks ([`asking`]), and keeps account ([`account`]).
//! - No upgrade, no task. Where nothing serves there is nothing to see, and nobody is asked.
//! - The release that waits for the end of the baseline is not on record anywhere: should the supervisor die, its
//!   successor resolves it anew, and measures anew. What was counted before that is lost.

mod account;
mod asking;
mod client;
mod kernel;
mod times;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::ledger::News;
use super::release::{Pinned, Release};
use super::{Elsewhere, Supervisor};
use crate::config::{Affinity, ErrorBudget, Strategy, Traffic};
use crate::control::types::ProbeSummary;
use crate::core::event::spoken;
use crate::core::service::{Pause, Phase, Role};
use crate::core::{Event, Kind, Reason, ServiceId, Step, UpgradeId};
use crate::history::{KernelFigures, UpgradeRecord};
use account::Account;
use asking::{Plan, Shared};
use client::Question;

/// For how long it is seen how clients are answered before an upgrade.
const BASELINE: Duration = Duration::from_secs(2);

/// The requests of one upgrade.
pub(super) struct Prober {
    service: ServiceId,
    steered: bool,
    account: Shared,
    over: watch::Sender<bool>,
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
        let Ok(pinned) = result.as_ref() else { return Some(result) };
        let machine = self.core.services().get(&id);
        let in_flight = machine.and_then(|machine| machine.upgrade.as_ref()).filter(|it| it.id == upgrade);
        let Some((kind, phase)) = in_flight.map(|it| (it.kind, it.phase)) else { return Some(result) };
        let Phase::Pinning { deadline } = phase else { return Some(result) };
        if self.probing.contains_key(&upgrade) || kind == Kind::Start {
            return Some(result);
        }
        let Some((mut plan, budget)) = self.plan(id, upgrade, &pinned.release) else { return Some(result) };
        let steered = pinned.release.service.traffic == Traffic::Steered;
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
            plan.rate,
            spoken(BASELINE)
        );
        let prober = self.start_probing(id, plan, budget, steered);
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
    fn plan(&self, id: ServiceId, upgrade: UpgradeId, release: &Release) -> Option<(Plan, Option<ErrorBudget>)> {
        let probe = release.service.upgrade.probe.as_ref()?;
        self.serving(id)?;
        let socket = &release.listeners.iter().find(|listener| listener.name == probe.listener)?.socket;
        // Nobody listens yet at one that comes with this release.
        let own = self.services.get(&id).into_iter().flat_map(|service| &service.listeners);
        own.map(|listener| listener.socket.token).find(|token| *token == socket.token)?;
        let by_source = matches!(&release.service.upgrade.strategy, Strategy::Canary(canary) if canary.affinity == Affinity::Source);
        let question = Question::new(&socket.bound.endpoint, probe.http.clone(), by_source)?;
        let sockets = socket.all().iter().map(|socket| Arc::clone(&socket.bound)).collect();
        Some((Plan { upgrade, question, rate: probe.rate, sockets, baseline: None }, probe.max_error_rate))
    }

    fn start_probing(
        &mut self,
        service: ServiceId,
        plan: Plan,
        budget: Option<ErrorBudget>,
        steered: bool,
    ) -> &mut Prober {
        let mut account = Account::new(budget);
        let machine = self.core.services().get(&service);
        // What is only asked for is told when it is so.
        let pause = machine.and_then(|machine| machine.pause);
        account.pause(matches!(pause, Some(Pause::Held { .. } | Pause::Releasing { .. })));
        let account = Shared::new(account);
        let (over, is_over) = watch::channel(false);
        let upgrade = plan.upgrade;
        tokio::spawn(asking::run(plan, account.clone(), is_over, self.elsewhere.clone()));
        let prober = Prober { service, steered, account, over, pinned: None, record: None };
        self.probing.entry(upgrade).insert_entry(prober).into_mut()
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
    pub(super) fn probe_step(&mut self, service: ServiceId, step: &Step) {
        for prober in self.probing.values().filter(|prober| prober.service == service) {
            let mut account = prober.account.lock();
            match step {
                // With shared traffic a candidate accepts as soon as it runs; otherwise once it has a share.
                Step::Soaking { .. } if !prober.steered => account.judge(false),
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
        let record = self.record_of(upgrade);
        let Some(prober) = self.probing.get_mut(&upgrade) else { return false };
        prober.record = record;
        // Whoever asks has ended where nobody hears it.
        let _ = prober.over.send(true);
        true
    }

    /// The last answers have come.
    pub(super) fn on_probed(&mut self, upgrade: UpgradeId, kernel: KernelFigures) {
        let Some(prober) = self.probing.remove(&upgrade) else { return };
        let summary = ProbeSummary { kernel: Some(kernel), ..prober.summary() };
        let (requests, errors) = (summary.inside.requests, summary.inside.errors);
        let service = self.name_of(prober.service);
        tracing::info!(service, upgrade = upgrade.0, "clients saw {errors} errors in {requests} requests");
        self.note_probed(upgrade, prober.record, summary);
    }

    /// Nobody waits for the answers to requests that are on their way any more.
    pub(super) fn settle_probing(&mut self) {
        let over = self.probing.extract_if(|_, prober| prober.record.is_some());
        for (upgrade, prober) in over.collect::<Vec<_>>() {
            let summary = prober.summary();
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
            found.extend(
                self.plan(*id, upgrade, release).map(|(plan, budget)| (*id, plan, budget, steered, takes_part)),
            );
        }
        for (id, plan, budget, steered, takes_part) in found {
            let mut account = self.start_probing(id, plan, budget, steered).account.lock();
            account.enter();
            if takes_part {
                account.judge(false);
            }
        }
    }
}
