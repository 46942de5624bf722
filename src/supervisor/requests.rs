//! What operators ask for, over the control socket or by signal.

use std::time::Duration;

use super::ledger::News;
use super::metrics::Facts;
use super::prober::Prober;
use super::several::{Ask, Reply};
use super::status::{self, Snapshot};
use super::survival::PER_INSTANCE;
use super::{Service, Supervisor, history, release};
use crate::control::server::{Command, Rejection, RejectionKind};
use crate::control::types::{
    AdmissionKind, Done, Promotion, Scaling, Status, SupervisorStatus, Target, UpgradeAccepted, UpgradeRequest,
};
use crate::core::{self, Admission, Generation, Kind, Refusal, ReleaseId, ServiceId, UpgradeId, spoken};
use crate::text::count;

impl Supervisor {
    pub(super) fn on_command(&mut self, command: Command) {
        let now = self.now();
        // Whoever asked may be gone: then nobody wants the answer.
        match command {
            Command::Status { reply } => {
                let snapshot = self.snapshot();
                tokio::task::spawn_blocking(move || {
                    let _ = reply.send(status::complete(snapshot));
                });
            }
            Command::Request { request, uid, reply } => {
                self.on_upgrade_request(request, uid, reply);
            }
            Command::Upgrades { reply } => {
                let _ = reply.send(self.ledger.all(now));
            }
            Command::Upgrade { id, reply } => {
                let _ = reply.send(self.ledger.status(crate::core::UpgradeId(id), now));
            }
            Command::Events { id, after, reply } => {
                let _ = reply.send(self.ledger.events(crate::core::UpgradeId(id), after));
            }
            Command::Feed { after, reply } => {
                let _ = reply.send(Some(self.feed.page(after)));
            }
            Command::Metrics { reply } => {
                let facts = self.facts();
                tokio::task::spawn_blocking(move || drop(reply.send(facts.text())));
            }
            Command::History { wanted, reply } => {
                let known = self.history.known();
                tokio::task::spawn_blocking(move || drop(reply.send(history::history(known, wanted))));
            }
            Command::Kpi { query, reply } => {
                let known = self.history.known();
                let since = Duration::from_secs(query.since).as_secs_f64();
                tokio::task::spawn_blocking(move || drop(reply.send(history::kpi(known, query.service, since))));
            }
            Command::Abort { target, uid, reply } => {
                let _ = reply.send(self.on_abort(&target, uid));
            }
            Command::Pause { request, uid, reply } => self.on_pause(&request, uid, reply),
            Command::Resume { target, uid, reply } => self.on_resume(&target, uid, reply),
            Command::Promote { promotion, uid, reply } => {
                let _ = reply.send(self.on_promote(&promotion, uid));
            }
            Command::Scale { scaling, uid, reply } => {
                let _ = reply.send(self.on_scale(&scaling, uid));
            }
            Command::Reexec { replacement, uid, reply } => {
                tracing::info!("reexec requested by user {uid}");
                self.reexec(replacement.binary, Some(reply));
            }
            Command::Stop { target, uid, reply } => {
                let _ = reply.send(self.on_stop(&target, uid));
            }
        }
    }

    /// Asks the machine for an upgrade, and opens its record.
    pub(super) fn request(&mut self, service: ServiceId, kind: Kind, uid: Option<u32>) -> Result<Admission, Refusal> {
        let now = self.now();
        self.survival.stale = true;
        let admission = self.core.request(now, service, kind)?;
        self.admitted(service, kind, admission, uid, None);
        Ok(admission)
    }

    /// The same for a release that served before.
    fn rollback(&mut self, service: ServiceId, to: Option<u64>, uid: u32) -> Result<Admission, Refusal> {
        let now = self.now();
        self.survival.stale = true;
        let admission = self.core.rollback(now, service, to.map(Generation))?;
        self.admitted(service, Kind::Rollback, admission, Some(uid), None);
        Ok(admission)
    }

    /// Opens the record of an upgrade. `before`: the one that it waits for, where both were asked for together.
    pub(super) fn admitted(
        &mut self,
        service: ServiceId,
        kind: Kind,
        admission: Admission,
        uid: Option<u32>,
        before: Option<(ServiceId, UpgradeId)>,
    ) {
        let now = self.now();
        let id = admission.upgrade();
        let from = self.serving(service);
        let name = self.name_of(service).to_owned();
        match admission {
            Admission::Begun(_) => self.ledger.open(id, &name, kind, from, now),
            Admission::Queued(_) => {
                self.ledger.open(id, &name, kind, from, now);
                match before {
                    Some(before) => self.tell_of_turn(service, id, before),
                    None if kind == Kind::Start => self.tell_of_start(service, id),
                    None => self.tell_of_queue(service, kind, id),
                }
            }
            Admission::Joined(_) => {}
        }
        if let Some(uid) = uid {
            self.ledger.requested_by(id, uid);
        }
        if matches!(admission, Admission::Begun(_)) && kind != Kind::Start {
            let by = uid.map_or_else(|| "zdsup itself or a signal".to_owned(), |uid| format!("user {uid}"));
            tracing::info!(service = name, upgrade = id.0, "{kind} requested by {by}");
        }
    }

    /// A first start waits for others to serve.
    fn tell_of_start(&mut self, service: ServiceId, id: UpgradeId) {
        let message = self.what_it_awaits(service);
        tracing::info!(service = self.name_of(service), "{message}");
        self.tell_of_upgrade(service, id, News { event: "queued", message, generation: None });
    }

    fn what_it_awaits(&self, service: ServiceId) -> String {
        let earlier: Vec<&str> = self.core.awaited(service).into_iter().map(|id| self.name_of(id)).collect();
        format!("it starts once {} serve{}", earlier.join(" and "), if earlier.len() == 1 { "s" } else { "" })
    }

    fn tell_of_queue(&mut self, service: ServiceId, kind: Kind, id: UpgradeId) {
        tracing::info!(
            service = self.name_of(service),
            upgrade = id.0,
            "{kind} requested during an upgrade: it is the next"
        );
        let message = "waiting for the upgrade in flight to end".to_owned();
        self.tell_of_upgrade(service, id, News { event: "queued", message, generation: None });
    }

    fn on_upgrade_request(&mut self, request: UpgradeRequest, uid: u32, reply: Reply) {
        let UpgradeRequest { service, services, kind, to, atomic } = request;
        match (kind, service, services) {
            (Kind::Reload | Kind::Restart, None, services) => {
                let names = services.unwrap_or_default();
                self.ask(Ask { names, kind, atomic, by: Some((uid, reply)) });
            }
            (Kind::Reload, Some(name), None) if self.target(Some(&name)).is_err() => {
                // The config may know of it.
                self.ask(Ask { names: vec![name], kind, atomic, by: Some((uid, reply)) });
            }
            (_, service, _) => {
                let answer = self.request_one(service.as_deref(), kind, to, uid);
                self.act();
                // Whoever asked may be gone: then nobody wants the answer.
                let _ = reply.send(answer);
            }
        }
    }

    fn request_one(
        &mut self,
        service: Option<&str>,
        kind: Kind,
        to: Option<u64>,
        uid: u32,
    ) -> Result<UpgradeAccepted, Rejection> {
        let service = self.target(service)?;
        let admission = match kind {
            Kind::Start => return Err(rejection(RejectionKind::Invalid, "kind must be reload, restart or rollback")),
            Kind::Reload | Kind::Restart => self.request(service, kind, Some(uid)),
            Kind::Rollback => self.rollback(service, to, uid),
        };
        let admission = admission.map_err(|refusal| self.refused(service, refusal))?;
        Ok(UpgradeAccepted {
            id: admission.upgrade().0,
            service: self.name_of(service).to_owned(),
            admission: admission.into(),
            then: Vec::new(),
            atomic: false,
            removes: Vec::new(),
            left_out: Vec::new(),
        })
    }

    fn on_abort(&mut self, target: &Target, uid: u32) -> Result<Done, Rejection> {
        let now = self.now();
        let service = self.target_in_flight(target.service.as_deref())?;
        self.survival.stale = true;
        let upgrade = self.core.abort(now, service).map_err(|refusal| self.refused(service, refusal))?;
        let name = self.name_of(service);
        tracing::warn!(service = name, upgrade = upgrade.0, "aborted by user {uid}");
        let returns = self.core.services().get(&service).and_then(core::service::Service::returning);
        let message = match (returns, self.serving(service)) {
            (Some(back), _) => {
                format!("upgrade #{upgrade} of {name} is given up; its verdict falls when {name}@{back} is back")
            }
            (None, Some(serving)) => {
                format!("upgrade #{upgrade} of {name} is aborted; {name}@{serving} is still serving")
            }
            (None, None) => format!("upgrade #{upgrade} of {name} is aborted; nothing is serving"),
        };
        Ok(Done { message })
    }

    fn on_promote(&mut self, promotion: &Promotion, uid: u32) -> Result<Done, Rejection> {
        let now = self.now();
        let service = self.target_in_flight(promotion.service.as_deref())?;
        self.survival.stale = true;
        let upgrade = self.core.promote(now, service, promotion.full);
        let upgrade = upgrade.map_err(|refusal| self.refused(service, refusal))?;
        let candidate = self.core.services().get(&service).and_then(|service| {
            let number = service.candidate()?.number;
            Some((number, service.weights().into_iter().find(|(one, _)| *one == number)?.1))
        });
        let (generation, what) = match candidate {
            Some((number, 100)) => (Some(number), "all new connections go to it".to_owned()),
            Some((number, weight)) => (Some(number), format!("{weight} % of new connections go to it")),
            None => (None, "it goes on".to_owned()),
        };
        let name = self.name_of(service).to_owned();
        let number = generation.map(|generation| generation.0);
        let message = format!("promoted by user {uid}: {what}");
        tracing::info!(service = name, generation = number, upgrade = upgrade.0, "{message}");
        self.tell_of_upgrade(service, upgrade, News { event: "promoted", message, generation });
        let subject = number.map_or_else(|| name.clone(), |number| format!("{name}@{number}"));
        Ok(Done { message: format!("{subject} is promoted: {what}") })
    }

    fn on_scale(&mut self, scaling: &Scaling, uid: u32) -> Result<Done, Rejection> {
        let now = self.now();
        let service = self.target(scaling.service.as_deref())?;
        let before = self.core.services().get(&service).map_or(0, crate::core::service::Service::desired);
        let more = scaling.instances.saturating_sub(before);
        if more > 0 {
            let checked = release::check_descriptors(more, 0, "scaling", "ask for fewer, or ");
            let lacks = || {
                self.survival.lacks(more as usize * PER_INSTANCE, "scaling", "ask for fewer, or ").map_or(Ok(()), Err)
            };
            checked.and_then(|()| lacks()).map_err(|lacking| rejection(RejectionKind::Refused, lacking))?;
        }
        self.survival.stale = true;
        let generation = self.core.scale(now, service, scaling.instances);
        let generation = generation.map_err(|refusal| self.refused(service, refusal))?;
        let name = self.name_of(service).to_owned();
        let message = format!("scale to {} requested by user {uid}", scaling.instances);
        tracing::info!(service = name, generation = generation.0, "{message}");
        self.tell_of_service(service, Some(generation), "requested", &message);
        let instances = scaling.instances;
        let change = match (instances.checked_sub(before), before.saturating_sub(instances)) {
            (Some(0), _) => "as before".to_owned(),
            (Some(more), _) => format!("{more} more {} started", if more == 1 { "is" } else { "are" }),
            (None, fewer) => format!("{fewer} {} ended", if fewer == 1 { "is" } else { "are" }),
        };
        let machine = self.core.services().get(&service);
        let until = match machine.and_then(|machine| machine.scaled) {
            Some(scaled) => format!("; it stays so until the config says another number than {}", scaled.configured),
            None => "; that is what its config says".to_owned(),
        };
        let has = count(instances.into(), "instance");
        Ok(Done { message: format!("{name}@{generation} has {has}: {change}{until}") })
    }

    fn on_stop(&mut self, target: &Target, uid: u32) -> Result<Done, Rejection> {
        let now = self.now();
        let Some(name) = target.service.as_deref() else {
            tracing::info!("stop requested by user {uid}");
            let longest = self.core.longest_end();
            let again = self.stopping && self.stop_asked;
            self.stop_everything();
            let message = match again {
                true => "stopping: asked again, everything ends at once".to_owned(),
                false => format!("stopping: draining takes {} at most", spoken(longest)),
            };
            return Ok(Done { message });
        };
        let service = self.target(Some(name))?;
        tracing::info!(service = name, "stop requested by user {uid}");
        self.survival.stale = true;
        self.core.stop_service(now, service).map_err(|refusal| self.refused(service, refusal))?;
        Ok(Done {
            message: format!(
                "{name} is stopping; its listeners stay bound, so callers wait until `zdsup reload {name}` starts it again"
            ),
        })
    }

    /// What is said to whoever asked for something that is not to be had: with what is, where something is.
    pub(super) fn refused(&self, service: ServiceId, refusal: Refusal) -> Rejection {
        let name = self.name_of(service);
        let hint = match refusal {
            Refusal::NotKept(_) | Refusal::Serves(_) => Some(self.kept_sentence(service)),
            Refusal::NothingToPromote => Some("`zdsup status` shows where the upgrade stands, if there is one".into()),
            Refusal::Upgrading => Some(format!("wait for its verdict, or give it up: `zdsup abort {name}`")),
            Refusal::NotRunning => Some(format!("`zdsup reload {name}` starts it")),
            Refusal::UnknownService
            | Refusal::TooManyWait(_)
            | Refusal::Stopping
            | Refusal::NothingInFlight
            | Refusal::TooLate
            | Refusal::FirstStart
            | Refusal::NotPaused
            | Refusal::Returning => None,
        };
        Rejection { hint, ..rejection(RejectionKind::Refused, refusal.to_string()) }
    }

    /// What may be gone back to.
    pub(super) fn kept_sentence(&self, service: ServiceId) -> String {
        let name = self.name_of(service);
        let machine = self.core.services().get(&service);
        let kept: Vec<String> = machine
            .into_iter()
            .flat_map(|machine| machine.kept())
            .map(|kept| format!("{name}@{} ({})", kept.generation, self.executable_of(kept.release)))
            .collect();
        let keeps = machine.and_then(|machine| machine.pinned.as_ref()).map(|(_, policy)| policy.keep_releases);
        match (kept.is_empty(), keeps) {
            (false, _) => format!("kept are {}", kept.join(", ")),
            (true, Some(0)) => "its config keeps none: upgrade.keep-releases = 0".to_owned(),
            (true, _) => "none is kept so far".to_owned(),
        }
    }

    /// The path of the program that a release runs.
    fn executable_of(&self, release: ReleaseId) -> String {
        let release = self.releases.get(&release);
        release.map(|release| release.program.program.path.display().to_string()).unwrap_or_default()
    }

    pub(super) fn target(&self, name: Option<&str>) -> Result<ServiceId, Rejection> {
        let meant = |service: &Service| !service.removed && name.is_none_or(|name| service.name == name);
        let mut found = self.services.iter().filter(|(_, service)| meant(service));
        match (found.next(), found.next(), name) {
            (Some((id, _)), None, _) => Ok(*id),
            (None, _, Some(name)) => Err(self.no_service(name)),
            _ => Err(self.name_one(&self.core.in_order())),
        }
    }

    fn name_one(&self, of: &[ServiceId]) -> Rejection {
        let names = self.names(of);
        let rejection = rejection(RejectionKind::Invalid, "several services may be meant: name one");
        Rejection { hint: Some(format!("one of {names}")), ..rejection }
    }

    /// The same; without a name, the one whose upgrade is the only one in flight.
    fn target_in_flight(&self, name: Option<&str>) -> Result<ServiceId, Rejection> {
        let in_flight: Vec<ServiceId> = self
            .core
            .services()
            .values()
            .filter(|service| service.upgrade.is_some())
            .map(|service| service.id)
            .collect();
        match (name, in_flight.as_slice()) {
            (None, [only]) => Ok(*only),
            (None, [_, ..]) => Err(self.name_one(&in_flight)),
            (None, []) if self.services.len() > 1 => Err(refused(&Refusal::NothingInFlight)),
            (None, []) | (Some(_), _) => self.target(name),
        }
    }

    fn names(&self, of: &[ServiceId]) -> String {
        of.iter().map(|id| self.name_of(*id)).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn no_service(&self, name: &str) -> Rejection {
        let known = self.names(&self.core.in_order());
        let rejection = rejection(RejectionKind::NotFound, format!("there is no service {name}"));
        Rejection { hint: Some(format!("this supervisor has {known}")), ..rejection }
    }

    /// What the loop knows for a monitoring system.
    fn facts(&self) -> Facts {
        let Snapshot { status, sockets, .. } = self.snapshot();
        let seats = |service: &core::service::Service| service.serving().map_or(0, |serving| serving.seats.len());
        let desired = self.core.services().values().map(seats).collect();
        let (counters, history_lost) = (self.counters.clone(), self.history.lost());
        Facts { status, sockets, desired, counters, history_lost }
    }

    /// What the loop knows for `zdsup status`.
    pub(super) fn snapshot(&self) -> Snapshot {
        let now = self.now();
        let mut services = Vec::new();
        let mut sockets = Vec::new();
        let machines: Vec<_> = self.core.services().values().collect();
        for machine in &machines {
            let Some(shell) = self.services.get(&machine.id) else { continue };
            let executable = |release: ReleaseId| self.executable_of(release);
            let serving = machine.serving().and_then(|generation| self.releases.get(&generation.release));
            let known = status::Shell {
                name: &shell.name,
                listeners: &shell.listeners,
                config: serving.map(|release| &release.service),
                fd_store: u32::try_from(shell.store.passed().count()).unwrap_or(u32::MAX),
            };
            let mut status = status::service(machine, &known, &self.processes, executable, now);
            if machine.awaits_turn() {
                status.detail = Some(self.what_it_awaits(machine.id));
            }
            let last_output = shell.last_output.as_ref().filter(|(id, _)| {
                status.detail.is_some() && machine.serving().is_some_and(|serving| serving.number == id.generation)
            });
            status.last_output = last_output.map(|(_, output)| output.clone());
            status.upgrade = machine.upgrade.as_ref().and_then(|upgrade| self.ledger.status(upgrade.id, now));
            if let Some(upgrade) = &mut status.upgrade {
                upgrade.probe = self.probing.get(&core::UpgradeId(upgrade.id)).map(Prober::summary);
            }
            status.queued = self.ledger.queued(&shell.name, machine.upgrade.as_ref().map(|upgrade| upgrade.id), now);
            status.last_upgrade = self.ledger.last_ended(&shell.name, now);
            status.hook = shell.hooks.describe();
            services.push(status);
            sockets.push(shell.listeners.iter().map(|listener| std::sync::Arc::clone(&listener.socket)).collect());
        }
        let supervisor = SupervisorStatus {
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            age: now.since(self.started).as_secs_f64(),
            incarnation: self.incarnation,
            holding: None,
            memory: None,
            config: self.surroundings.source.path().map(|path| path.display().to_string()),
            stopping: self.core.is_ending(),
            lines_dropped: self.stdout.dropped() + self.stderr.dropped() + super::log::dropped(),
        };
        let status = Status { supervisor, services };
        let subjects = status::subjects(&status, &machines, &self.processes);
        Snapshot { status, subjects, sockets }
    }
}

pub(super) fn rejection(kind: RejectionKind, error: impl Into<String>) -> Rejection {
    Rejection { kind, error: error.into(), hint: None }
}

/// What is said to whoever asked for something that is not to be had, of no single service.
pub(super) fn refused(refusal: &Refusal) -> Rejection {
    rejection(RejectionKind::Refused, refusal.to_string())
}

impl From<Admission> for AdmissionKind {
    fn from(admission: Admission) -> Self {
        match admission {
            Admission::Begun(_) => Self::Begun,
            Admission::Queued(_) => Self::Queued,
            Admission::Joined(_) => Self::Joined,
        }
    }
}
