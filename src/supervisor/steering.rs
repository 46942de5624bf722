//! Traffic that is steered: what the machine says of routes and slots, said to the kernel.
//!
//! - How new connections are divided follows from how things stand ([`crate::core::service::Service::routes`]), and is
//!   looked at after whatever happened.
//! - A process that is to stop first takes what waits for it alone: its queues, and the handshakes that were open when
//!   traffic moved away (hazards 1 and 38). Only then it is sent the stop signal.

use std::sync::Arc;
use std::time::Duration;

use super::listeners::{Listeners, Socket};
use super::rows::Slots;
use super::{Elsewhere, Supervisor};
use crate::config::{Affinity, Strategy};
use crate::core::instance::State;
use crate::core::service::{Generation, Role, Service};
use crate::core::{Event, InstanceEvent, InstanceId, ReleaseId, ServiceId, Slot, Time};
use crate::sys::clock;
use crate::sys::socket::Bound;
use crate::sys::steer::{Division, Group, Retirement, SlotIndex};

/// How often it is looked whether something still waits in a slot.
const LOOK: Duration = Duration::from_millis(10);
/// How long a process goes on accepting what was meant for it, at most. Handshakes whose client says nothing more are
/// given up by the kernel after about a minute, which nobody should wait for.
const RETIRE_TIMEOUT: Duration = Duration::from_secs(10);

impl Supervisor {
    /// Has the kernel divide new connections as the machine wants them divided.
    pub(super) fn steer(&mut self) {
        if !std::mem::take(&mut self.steer_due) {
            return;
        }
        for id in self.services.keys().copied().collect::<Vec<_>>() {
            self.mind_callers(id);
            let divided = self.divide(id);
            if !divided {
                // Whoever is at a row tells when it is done.
                continue;
            }
            let owed = self.services.get_mut(&id).map_or(0, |service| std::mem::take(&mut service.weights_owed));
            for _ in 0..owed {
                self.tell_core(Event::WeightsSet(id));
            }
        }
    }

    /// The machine waits for its routes to be in force.
    pub(super) fn set_weights(&mut self, id: ServiceId) {
        if let Some(service) = self.services.get_mut(&id) {
            service.weights_owed += 1;
        }
        self.steer_due = true;
    }

    /// Every row there is.
    pub(super) fn rows(&self) -> impl Iterator<Item = &Slots> {
        self.watched.values().filter_map(|socket| socket.slots.as_ref())
    }

    /// The sockets that hold new connections back, with their tokens.
    pub(super) fn dams(&self) -> Vec<(u64, Arc<Bound>)> {
        self.rows().filter_map(Slots::dam).collect()
    }

    /// Whether all of a service's rows are divided as the machine wants.
    pub(super) fn divide(&mut self, id: ServiceId) -> bool {
        let rows = self.rows_of(id);
        if rows.is_empty() {
            return true;
        }
        let Some(division) = self.division(id) else { return true };
        let mut divided = true;
        for socket in rows {
            let Some(slots) = &socket.slots else { continue };
            match slots.divide(&division) {
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    let service = self.name_of(id);
                    tracing::error!(service, "cannot divide new connections to {}: {error}", socket.bound.endpoint);
                    divided = false;
                }
                None => divided = false,
            }
        }
        divided
    }

    /// The rows that processes of a service accept from.
    pub(super) fn rows_of(&self, id: ServiceId) -> Vec<Arc<Socket>> {
        let own = self.services.get(&id).into_iter().flat_map(|service| &service.listeners);
        let generations = self.core.services().get(&id).into_iter().flat_map(|service| service.generations.values());
        let releases = generations.filter_map(|generation| self.releases.get(&generation.release));
        let sockets = own.chain(releases.flat_map(|release| &release.listeners)).map(|listener| &listener.socket);
        let mut rows: Vec<Arc<Socket>> = sockets.filter(|socket| socket.slots.is_some()).map(Arc::clone).collect();
        rows.sort_by_key(|socket| socket.token);
        rows.dedup_by_key(|socket| socket.token);
        rows
    }

    fn division(&self, id: ServiceId) -> Option<Division> {
        let service = self.core.services().get(&id)?;
        let routes = service.routes();
        if routes.is_empty() {
            return None;
        }
        let index = |slot: &Slot| SlotIndex(slot.0 as usize);
        let group = |route: &crate::core::service::Route| Group {
            percent: route.percent,
            slots: route.slots.iter().map(index).collect(),
        };
        let probers = self.services.get(&id).into_iter().flat_map(|service| &service.probers);
        let mut division = Division {
            clients: probers.map(|(client, slot)| (*client, index(slot))).collect(),
            groups: routes.iter().map(group).collect(),
            ..Division::default()
        };
        // In an order of their own, so that the same is the same.
        division.clients.sort_unstable();
        if let Some(canary) = service.candidate().filter(|one| matches!(one.role, Role::Stepping { .. })) {
            let place = routes.iter().position(|route| route.generation == canary.number);
            self.prefer(canary, place, &mut division);
        }
        Some(division)
    }

    /// Who goes to the canary whatever its share, and whether clients stay with one release.
    fn prefer(&self, canary: &Generation, place: Option<usize>, division: &mut Division) {
        let release = self.releases.get(&canary.release);
        let Some(Strategy::Canary(config)) = release.map(|release| &release.service.upgrade.strategy) else { return };
        division.affinity = config.affinity;
        if let Some(place) = place {
            division.rules = config.from.iter().map(|network| (*network, place)).collect();
        }
        if config.affinity == Affinity::Source {
            // The order in which the boundary between the two moves: the old one first.
            debug_assert!(place != Some(0));
        }
    }

    // ---- slots ----------------------------------------------------------------------------------------------------

    /// So many slots are in use.
    pub(super) fn slots_taken(&self, id: ServiceId) -> usize {
        let instances = |service: &Service| service.generations.values().map(|one| one.instances.len()).sum();
        self.core.services().get(&id).map_or(0, instances)
    }

    pub(super) fn slot_of(&self, id: InstanceId) -> Slot {
        let generation = self.core.services().get(&id.service).and_then(|it| it.generations.get(&id.generation));
        generation.and_then(|it| it.instances.get(&id.number)).map(|instance| instance.slot).unwrap_or_default()
    }

    /// Makes a slot for an instance, which is prepared once it is there. There is one already, unless the service was scaled.
    pub(super) fn make_room(&self, instance: InstanceId, release: ReleaseId, listeners: Listeners, slot: Slot) {
        self.off_the_loop(move || {
            let mut rows =
                listeners.iter().filter_map(|listener| Some((&listener.name, listener.socket.slots.as_ref()?)));
            let result = rows.try_for_each(|(name, slots)| {
                slots.ensure(slot.0 as usize + 1).map_err(|error| format!("listener {name}: cannot {error}"))
            });
            Some(Elsewhere::Room { instance, release, result })
        });
    }

    pub(super) fn on_room(&mut self, instance: InstanceId, release: ReleaseId, result: Result<(), String>) {
        let listeners = self.releases.get(&release).map(|release| release.listeners.clone()).unwrap_or_default();
        listeners.iter().for_each(|listener| self.watch(listener));
        self.survival.stale = true;
        if self.processes.contains_key(&instance) {
            return;
        }
        let generation =
            self.core.services().get(&instance.service).and_then(|it| it.generations.get(&instance.generation));
        let of_core = generation.and_then(|generation| generation.instances.get(&instance.number));
        let waits = of_core.is_some_and(|of_core| matches!(of_core.state, State::Preparing { .. }));
        match result {
            Ok(()) if waits => self.prepare(instance, release),
            Ok(()) => self.tell_core_of(instance, InstanceEvent::PrepareFailed("it is no longer wanted".into())),
            Err(error) => self.tell_core_of(instance, InstanceEvent::PrepareFailed(error)),
        }
        self.act();
    }

    // ---- retiring -------------------------------------------------------------------------------------------------

    /// Waits until nothing is left in the slots of a process that is to stop. `false`: there is nothing to wait for.
    pub(super) fn retire(&mut self, id: InstanceId) -> bool {
        let Some(process) = self.processes.get(&id).filter(|process| process.is_launched() && !process.lingering)
        else {
            return false;
        };
        let slot = process.slot;
        let listeners = process.release.listeners.iter().filter(|listener| listener.socket.slots.is_some());
        let bounds: Vec<Arc<Bound>> = listeners.map(|listener| Arc::clone(&listener.socket.of(slot).bound)).collect();
        let timeout = RETIRE_TIMEOUT.min(process.release.service.drain.timeout / 2);
        if bounds.is_empty() {
            return false;
        }
        let Some(service) = self.services.get_mut(&id.service) else { return false };
        if !service.retiring.insert(id) {
            return true;
        }
        let elsewhere = self.elsewhere.clone();
        tokio::spawn(async move {
            let left = emptied(bounds, timeout).await;
            // The loop has ended: nobody wants to know.
            let _ = elsewhere.send(Elsewhere::Retired { instance: id, left });
        });
        true
    }

    pub(super) fn on_retired(&mut self, id: InstanceId, left: Option<String>) {
        let waited = self.services.get_mut(&id.service).is_some_and(|service| service.retiring.remove(&id));
        if let Some(left) = left {
            let (service, generation) = (self.name_of(id.service), id.generation.0);
            tracing::warn!(service, generation, "{left}: it is told to stop all the same");
        }
        if waited {
            self.tell_to_stop(id);
        }
    }

    // ---- healing --------------------------------------------------------------------------------------------------

    /// A service called shutdown() on a slot (hazard 37). Whether this is one.
    pub(super) fn heal(&mut self, token: u64) -> bool {
        let mut rows = self.watched.values().filter(|socket| socket.slots.is_some());
        let hit = rows.find(|row| row.all().iter().any(|socket| socket.token == token)).map(Arc::clone);
        let Some(row) = hit else { return false };
        for socket in row.all() {
            // Level-triggered: it would be reported for ever.
            let _ = self.hangups.remove(std::os::fd::AsFd::as_fd(&socket.bound.fd));
        }
        let culprit = self.stopping_now();
        tracing::warn!("listener {} was shut down by {culprit}: it is to listen again", row.bound.endpoint);
        self.off_the_loop(move || {
            let result = row.slots.as_ref().map_or(Ok(Vec::new()), Slots::heal);
            let tokens = row.all().iter().map(|socket| socket.token).collect();
            Some(Elsewhere::Healed { tokens, result: result.map(drop).map_err(|error| error.to_string()) })
        });
        true
    }

    pub(super) fn on_healed(&mut self, tokens: &[u64], result: Result<(), String>) {
        let first = tokens.first().and_then(|token| self.watched.get(token));
        match (result, first) {
            (Err(error), _) => tracing::error!("a listener that was shut down: cannot {error}"),
            (Ok(()), Some(socket)) => tracing::info!("listener {} listens again", socket.bound.endpoint),
            (Ok(()), None) => {}
        }
        for socket in tokens.iter().filter_map(|token| self.watched.get(token)) {
            if let Err(error) = self.hangups.add(std::os::fd::AsFd::as_fd(&socket.bound.fd), socket.token) {
                tracing::warn!("cannot watch listener {}: {error}", socket.bound.endpoint);
            }
        }
        for service in self.services.values_mut() {
            service.vacant.forget(tokens);
        }
        self.survival.stale = true;
        self.steer_due = true;
    }
}

/// Waits until nothing is in these slots, or on its way to them; what is, where that takes too long.
async fn emptied(bounds: Vec<Arc<Bound>>, timeout: Duration) -> Option<String> {
    let until = Time(clock::monotonic()).after(timeout);
    let mut slots: Vec<(Option<Retirement>, Arc<Bound>)> = Vec::new();
    for bound in bounds {
        let port = bound.endpoint.port().unwrap_or(0);
        // Where the kernel does not tell of handshakes, the queue has to do.
        let begun = tokio::task::spawn_blocking(move || Retirement::begin(port).ok()).await.ok().flatten();
        slots.push((begun, bound));
    }
    loop {
        let looked = tokio::task::spawn_blocking(move || {
            let left: usize = slots.iter_mut().map(|(retirement, bound)| left(retirement.as_mut(), bound)).sum();
            (slots, left)
        });
        let (again, left) = looked.await.ok()?;
        slots = again;
        if left == 0 {
            return None;
        }
        if Time(clock::monotonic()) >= until {
            return Some(format!("{left} connections that were meant for it are not accepted or not complete"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn left(retirement: Option<&mut Retirement>, bound: &Bound) -> usize {
    let queued = || bound.queue().map_or(0, |(queued, _)| queued as usize);
    match retirement.map(|retirement| retirement.check(bound)) {
        Some(Ok(remaining)) => remaining.handshakes + remaining.queued as usize,
        Some(Err(_)) | None => queued(),
    }
}
