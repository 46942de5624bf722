//! What operators ask for, over the control socket or by signal.

use std::time::Duration;

use super::ledger::News;
use super::metrics::Facts;
use super::status::{self, Snapshot};
use super::{Supervisor, history};
use crate::control::server::{Command, Rejection, RejectionKind};
use crate::control::types::{AdmissionKind, Done, Status, SupervisorStatus, Target, UpgradeAccepted, UpgradeRequest};
use crate::core::event::spoken;
use crate::core::{self, Admission, Kind, Refusal, ServiceId};

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
                let _ = reply.send(self.on_upgrade_request(&request, uid));
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
        let id = admission.upgrade();
        let from = self.serving(service);
        let name = self.name_of(service).to_owned();
        match admission {
            Admission::Begun(_) => self.ledger.open(id, &name, kind, from, now),
            Admission::Queued(_) => {
                self.ledger.open(id, &name, kind, from, now);
                let message = "waiting for the upgrade in flight to end".to_owned();
                self.ledger.tell(id, now, News { event: "queued", message, generation: None });
                tracing::info!(service = name, upgrade = id.0, "{kind} requested during an upgrade: it is the next");
                self.tell_of_upgrade(service, id, "queued", "waiting for the upgrade in flight to end");
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
        Ok(admission)
    }

    fn on_upgrade_request(&mut self, request: &UpgradeRequest, uid: u32) -> Result<UpgradeAccepted, Rejection> {
        if request.kind == Kind::Start {
            return Err(rejection(RejectionKind::Invalid, "kind must be reload or restart"));
        }
        let service = self.target(request.service.as_deref())?;
        let admission = self.request(service, request.kind, Some(uid)).map_err(refused)?;
        self.act();
        Ok(UpgradeAccepted {
            id: admission.upgrade().0,
            service: self.name_of(service).to_owned(),
            admission: match admission {
                Admission::Begun(_) => AdmissionKind::Begun,
                Admission::Queued(_) => AdmissionKind::Queued,
                Admission::Joined(_) => AdmissionKind::Joined,
            },
        })
    }

    fn on_abort(&mut self, target: &Target, uid: u32) -> Result<Done, Rejection> {
        let now = self.now();
        let service = self.target(target.service.as_deref())?;
        self.survival.stale = true;
        let upgrade = self.core.abort(now, service).map_err(refused)?;
        let name = self.name_of(service);
        tracing::warn!(service = name, upgrade = upgrade.0, "aborted by user {uid}");
        let message = match self.serving(service) {
            Some(serving) => format!("upgrade #{upgrade} of {name} is aborted; {name}@{serving} is still serving"),
            None => format!("upgrade #{upgrade} of {name} is aborted; nothing is serving"),
        };
        Ok(Done { message })
    }

    fn on_stop(&mut self, target: &Target, uid: u32) -> Result<Done, Rejection> {
        let now = self.now();
        let Some(name) = target.service.as_deref() else {
            tracing::info!("stop requested by user {uid}");
            let longest = self.core.services().values().flat_map(|service| service.generations.values());
            let longest = longest.map(|generation| generation.policy.drain_timeout).max().unwrap_or_default();
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
        self.core.stop_service(now, service).map_err(refused)?;
        Ok(Done {
            message: format!(
                "{name} is stopping; its listeners stay bound, so callers wait until `zdsup reload {name}` starts it again"
            ),
        })
    }

    pub(super) fn target(&self, name: Option<&str>) -> Result<ServiceId, Rejection> {
        let mut found = self.services.iter().filter(|(_, service)| name.is_none_or(|name| service.name == name));
        match (found.next(), found.next(), name) {
            (Some((id, _)), None, _) => Ok(*id),
            (None, _, Some(name)) => {
                let known: Vec<&str> = self.services.values().map(|service| service.name.as_str()).collect();
                let mut rejection = rejection(RejectionKind::NotFound, format!("there is no service {name}"));
                rejection.hint = Some(format!("this supervisor has {}", known.join(", ")));
                Err(rejection)
            }
            _ => Err(rejection(RejectionKind::Invalid, "this supervisor has several services: name one")),
        }
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
            let executable = |generation: &crate::core::service::Generation| {
                let release = self.releases.get(&generation.release);
                release.map(|release| release.program.program.path.display().to_string()).unwrap_or_default()
            };
            let serving = machine.serving().and_then(|generation| self.releases.get(&generation.release));
            let max = serving.map_or(0, |release| release.service.fd_store_max);
            let store = (u32::try_from(shell.store.passed().count()).unwrap_or(u32::MAX), max);
            let (name, listeners) = (&shell.name, &shell.listeners);
            let mut status = status::service(machine, name, listeners, store, &self.processes, executable, now);
            let last_output = shell.last_output.as_ref().filter(|(id, _)| {
                status.detail.is_some() && machine.serving().is_some_and(|serving| serving.number == id.generation)
            });
            status.last_output = last_output.map(|(_, output)| output.clone());
            status.upgrade = machine.upgrade.as_ref().and_then(|upgrade| self.ledger.status(upgrade.id, now));
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

pub(super) fn refused(refusal: Refusal) -> Rejection {
    rejection(RejectionKind::Refused, refusal.to_string())
}
