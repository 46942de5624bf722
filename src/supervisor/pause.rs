//! New connections made to wait: what the machine wants held, said to the kernel.
//!
//! - All listeners of a service are held, or none is.
//! - It is done off the loop, for a row may need one more socket for it, one thing after the other for each service.
//!   Whoever asked is answered once the kernel does it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::listeners::Socket;
use super::requests::rejection;
use super::{Elsewhere, Supervisor};
use crate::control::server::{Rejection, RejectionKind};
use crate::control::types::{Done, PauseRequest, Target};
use crate::core::service::Role;
use crate::core::{Event, ServiceId, about, spoken};
use crate::sys::socket::Endpoint;
use crate::sys::steer;

/// The longest pause: clients give up after about two minutes (tcp_syn_retries, tcp(7)).
const LONGEST: Duration = Duration::from_secs(600);
/// The pause of whoever does not say how long.
const USUAL: Duration = Duration::from_secs(30);
const ONLY_TCP: &str = "the first packet of a TCP connection can be dropped, and its client sends it again; nothing else \
                        waits like that. With strategy = \"stop-start\" callers of any listener wait in its backlog";

type Reply = oneshot::Sender<Result<Done, Rejection>>;

/// What is being done to the listeners of a service.
#[derive(Debug, Default)]
pub(super) struct Pausing {
    /// What is wanted and not done.
    wanted: Option<bool>,
    /// Something is being done.
    busy: bool,
    /// Who waits for what.
    waiting: Vec<(bool, Reply)>,
}

/// Why the listeners of a service are as they were.
#[derive(Debug)]
pub(super) struct Unheld {
    error: String,
    hint: Option<String>,
}

impl Supervisor {
    // ---- what operators ask for -----------------------------------------------------------------------------------

    pub(super) fn on_pause(&mut self, request: &PauseRequest, uid: u32, reply: Reply) {
        match self.pause(request, uid) {
            Ok(service) => self.answer_when_held(service, true, reply),
            // Whoever asked may be gone: then nobody wants the answer.
            Err(rejection) => drop(reply.send(Err(rejection))),
        }
    }

    pub(super) fn on_resume(&mut self, target: &Target, uid: u32, reply: Reply) {
        match self.resume(target, uid) {
            Ok(service) => self.answer_when_held(service, false, reply),
            Err(rejection) => drop(reply.send(Err(rejection))),
        }
    }

    fn pause(&mut self, request: &PauseRequest, uid: u32) -> Result<ServiceId, Rejection> {
        let invalid = || rejection(RejectionKind::Invalid, format!("max must be from 1 ms to {}", spoken(LONGEST)));
        let max = request.max.map_or(Ok(USUAL), Duration::try_from_secs_f64).map_err(|_| invalid())?;
        if max < Duration::from_millis(1) || max > LONGEST {
            return Err(invalid());
        }
        let service = self.target(request.service.as_deref())?;
        self.check_holdable(service)?;
        let now = self.now();
        self.survival.stale = true;
        self.core.pause(now, service, max).map_err(|refusal| self.refused(service, refusal))?;
        tracing::info!(service = self.name_of(service), "pause for {} requested by user {uid}", spoken(max));
        Ok(service)
    }

    fn resume(&mut self, target: &Target, uid: u32) -> Result<ServiceId, Rejection> {
        let service = self.target(target.service.as_deref())?;
        let now = self.now();
        self.survival.stale = true;
        self.core.resume(now, service).map_err(|refusal| self.refused(service, refusal))?;
        tracing::info!(service = self.name_of(service), "resume requested by user {uid}");
        Ok(service)
    }

    /// What can be seen without trying it.
    fn check_holdable(&self, id: ServiceId) -> Result<(), Rejection> {
        let Some(service) = self.services.get(&id) else { return Ok(()) };
        let no = |error: String, hint: Option<&str>| {
            Err(Rejection { kind: RejectionKind::Refused, error, hint: hint.map(str::to_owned) })
        };
        if service.listeners.is_empty() {
            return no(format!("{} has no listener that could be paused", service.name), None);
        }
        let other = |endpoint: &Endpoint| !matches!(endpoint, Endpoint::Tcp(_));
        match service.listeners.iter().find(|listener| other(&listener.socket.bound.endpoint)) {
            Some(listener) => {
                let (name, endpoint) = (&listener.name, &listener.socket.bound.endpoint);
                let error = format!("cannot pause {}: its listener {name} ({endpoint}) is not TCP", service.name);
                no(error, Some(ONLY_TCP))
            }
            None => Ok(()),
        }
    }

    /// Answers once the machine has heard that it is so; it may be already.
    fn answer_when_held(&mut self, id: ServiceId, on: bool, reply: Reply) {
        self.act();
        let Some(pausing) = self.services.get_mut(&id).map(|service| &mut service.pausing) else { return };
        if pausing.wanted.is_some() {
            pausing.waiting.push((on, reply));
        } else {
            let _ = reply.send(Ok(self.held_so(id, on)));
        }
    }

    fn held_so(&self, id: ServiceId, on: bool) -> Done {
        let name = self.name_of(id);
        let until = self.core.services().get(&id).and_then(|service| service.paused_until());
        let message = match until.filter(|_| on) {
            Some(until) => format!(
                "{name} is paused: new connections wait, for {} at most; established ones go on",
                about(until.since(self.now()))
            ),
            None => format!("{name} is resumed: new connections are let in again"),
        };
        Done { message }
    }

    // ---- what the machine wants -----------------------------------------------------------------------------------

    /// Answered by what comes of it.
    pub(super) fn hold(&mut self, id: ServiceId, on: bool) {
        if let Some(service) = self.services.get_mut(&id) {
            service.pausing.wanted = Some(on);
        }
        self.hold_next(id);
    }

    /// One of its sockets has been replaced by another.
    pub(super) fn hold_replaced(&mut self, id: ServiceId) {
        if self.core.services().get(&id).is_some_and(|service| service.paused_until().is_some()) {
            self.hold(id, true);
        }
    }

    fn hold_next(&mut self, id: ServiceId) {
        let Some(pausing) = self.services.get_mut(&id).map(|service| &mut service.pausing) else { return };
        let Some(on) = pausing.wanted.filter(|_| !pausing.busy) else { return };
        pausing.busy = true;
        let sockets = self.sockets_of(id, on);
        self.off_the_loop(move || {
            let result = if on { hold_all(&sockets) } else { release_all(&sockets) };
            Some(Elsewhere::Held { service: id, on, result })
        });
    }

    pub(super) fn on_held(&mut self, id: ServiceId, on: bool, result: Result<(), Unheld>) {
        let Some(pausing) = self.services.get_mut(&id).map(|service| &mut service.pausing) else { return };
        pausing.busy = false;
        if pausing.wanted != Some(on) {
            return self.hold_next(id);
        }
        pausing.wanted = None;
        let waiting = std::mem::take(&mut pausing.waiting);
        if let Err(Unheld { error, .. }) = &result {
            tracing::warn!(service = self.name_of(id), "{error}");
        }
        let answer = result.map_err(|Unheld { error, hint }| Rejection { kind: RejectionKind::Refused, error, hint });
        let result = answer.clone().map_err(|rejection| rejection.error);
        // A row may have one socket more, which is for a successor as well.
        self.survival.stale = true;
        self.tell_core(Event::Held { service: id, on, result });
        self.act();
        for (asked, reply) in waiting {
            let answer = match &answer {
                Err(rejection) => Err(rejection.clone()),
                Ok(()) if asked == on => Ok(self.held_so(id, on)),
                Ok(()) => Err(rejection(RejectionKind::Refused, "somebody asked for the opposite meanwhile")),
            };
            let _ = reply.send(answer);
        }
    }

    /// What processes of a service accept from; `without_leaving`: but not what only those use that are on their way out.
    fn sockets_of(&self, id: ServiceId, without_leaving: bool) -> Vec<Arc<Socket>> {
        let own = self.services.get(&id).into_iter().flat_map(|service| &service.listeners);
        let generations = self.core.services().get(&id).into_iter().flat_map(|service| service.generations.values());
        let leaving = |role| matches!(role, Role::Draining | Role::Ending);
        let generations = generations.filter(|generation| !without_leaving || !leaving(generation.role));
        let releases = generations.filter_map(|generation| self.releases.get(&generation.release));
        let sockets = own.chain(releases.flat_map(|release| &release.listeners)).map(|listener| &listener.socket);
        let mut sockets: Vec<Arc<Socket>> = sockets.map(Arc::clone).collect();
        sockets.sort_by_key(|socket| socket.token);
        sockets.dedup_by_key(|socket| socket.token);
        sockets
    }
}

/// Makes new connections wait at all of them, or at none.
fn hold_all(sockets: &[Arc<Socket>]) -> Result<(), Unheld> {
    for (count, socket) in sockets.iter().enumerate() {
        if let Err(unheld) = set(socket, true) {
            for held in &sockets[..count] {
                // One that cannot be released is tried again, should anything have been held before.
                let _ = set(held, false);
            }
            return Err(unheld);
        }
    }
    Ok(())
}

fn release_all(sockets: &[Arc<Socket>]) -> Result<(), Unheld> {
    // Every one is tried.
    let tried: Vec<Result<(), Unheld>> = sockets.iter().map(|socket| set(socket, false)).collect();
    tried.into_iter().collect()
}

/// Makes new connections wait at a listener, or lets them in again.
fn set(socket: &Socket, held: bool) -> Result<(), Unheld> {
    match &socket.slots {
        Some(slots) => {
            let done = if held { slots.hold() } else { slots.release() };
            done.map_err(|error| Unheld::new(socket, &error, error.hint()))
        }
        None => {
            let done = if held { steer::hold(&socket.bound) } else { steer::release(&socket.bound) };
            done.map_err(|error| Unheld::new(socket, &error, error.hint().map(str::to_owned)))
        }
    }
}

impl Unheld {
    fn new(socket: &Socket, error: &dyn std::fmt::Display, hint: Option<String>) -> Self {
        Self { error: format!("listener {}: cannot {error}", socket.bound.endpoint), hint }
    }
}
