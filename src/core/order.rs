//! Which services start after which, and end before which.
//!
//! - A first start waits until every service that it comes after serves. One that cannot serve, since it was given up or
//!   stopped, is not waited for: `after` says in which order, not on what condition.
//! - When everything ends, a service is told to stop once no process is left of those that come after it; until then it
//!   serves them, and is restarted if it crashes. The same among services that the config has lost.
//! - A second request to stop knows no order.
//! - There is no circle: what would close one is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Core;
use super::event::{Action, Kind, Reason, Step, Verdict};
use super::id::{Generation, ServiceId, Time};
use super::policy::FirstFailure;
use super::service::{Generation as OneGeneration, Purpose, Service};

impl Core {
    /// From now on each of these services comes after those, as far as they exist.
    pub fn set_order(&mut self, order: &BTreeMap<ServiceId, BTreeSet<ServiceId>>) {
        for service in order.keys() {
            if let Some(service) = self.services.get_mut(service) {
                service.after.clear();
            }
        }
        for (service, after) in order {
            for earlier in after {
                if self.services.contains_key(earlier)
                    && !self.comes_after(*earlier, *service)
                    && let Some(service) = self.services.get_mut(service)
                {
                    service.after.insert(*earlier);
                }
            }
        }
    }

    /// Those that a service comes after.
    #[must_use]
    pub fn after(&self, service: ServiceId) -> Option<&BTreeSet<ServiceId>> {
        self.services.get(&service).map(|service| &service.after)
    }

    /// Every service, each after those that it comes after, else as they were added.
    #[must_use]
    pub fn in_order(&self) -> Vec<ServiceId> {
        let mut order = Vec::with_capacity(self.services.len());
        let mut seen = BTreeSet::new();
        for service in self.services.keys() {
            self.visit(*service, &mut seen, &mut order);
        }
        order
    }

    /// Adds a service while others run: the upgrade that was asked for next starts it. If that fails, it is removed.
    pub fn gain_service(&mut self, next: Generation) -> ServiceId {
        let id = self.add_service(next, FirstFailure::Retry);
        if let Some(service) = self.services.get_mut(&id) {
            service.fresh = true;
        }
        id
    }

    /// Whether a service is on its way out for good.
    #[must_use]
    pub fn is_leaving(&self, service: ServiceId) -> bool {
        self.leaving.contains(&service)
    }

    /// Whether a service takes no upgrade: it is on its way out for good, or being stopped.
    #[must_use]
    pub fn is_stopping(&self, service: ServiceId) -> bool {
        let stops = |service: &Service| service.purpose == Purpose::Stop;
        self.is_leaving(service) || self.services.get(&service).is_some_and(stops)
    }

    /// Whether a first start is still to be waited for.
    #[must_use]
    pub fn is_starting(&self) -> bool {
        let starts = |service: &Service| {
            let in_flight = service.upgrade.as_ref().map(|upgrade| upgrade.kind);
            in_flight
                .into_iter()
                .chain(service.queue.iter().map(|request| request.kind))
                .any(|kind| kind == Kind::Start)
        };
        self.services.values().any(starts)
    }

    /// How long it takes at most until everything has ended gracefully: services one after the other, where one comes
    /// after another.
    #[must_use]
    pub fn longest_end(&self) -> Duration {
        let mut spans: BTreeMap<ServiceId, Duration> = BTreeMap::new();
        for id in self.in_order() {
            let Some(service) = self.services.get(&id) else { continue };
            let own = service.generations.values().map(|generation| generation.policy.drain_timeout).max();
            let before = service.after.iter().filter_map(|earlier| spans.get(earlier)).max().copied();
            spans.insert(id, own.unwrap_or_default().saturating_add(before.unwrap_or_default()));
        }
        spans.into_values().max().unwrap_or_default()
    }

    /// Those that a first start of this service waits for: they come before it and do not serve, though they may yet.
    #[must_use]
    pub fn awaited(&self, service: ServiceId) -> Vec<ServiceId> {
        let may_yet = |earlier: &&Service| {
            let hopeless = earlier.is_down() || earlier.serving().is_some_and(OneGeneration::is_given_up);
            earlier.purpose == Purpose::Run && !hopeless && !earlier.serving().is_some_and(OneGeneration::is_up)
        };
        let after = self.services.get(&service).into_iter().flat_map(|service| &service.after);
        after.filter_map(|id| self.services.get(id)).filter(may_yet).map(|earlier| earlier.id).collect()
    }

    /// Whether all that a service comes after serve, as far as they can.
    pub(super) fn is_its_turn(&self, service: ServiceId) -> bool {
        self.awaited(service).is_empty()
    }

    /// First starts whose turn it is. Whether there were any.
    pub(super) fn start_in_turn(&mut self, now: Time) -> bool {
        let waiting = self.services.values().filter_map(|service| Some((service.id, service.awaits_turn_until?)));
        let due: Vec<ServiceId> =
            waiting.filter(|(id, until)| *until <= now || self.is_its_turn(*id)).map(|(id, _)| id).collect();
        for id in &due {
            if let Some(service) = self.services.get_mut(id) {
                service.take_turn(now, &mut self.out);
            }
        }
        !due.is_empty()
    }

    /// Tells those to stop whose turn it is, and forgets those that are not wanted and have stopped. Whether there were
    /// any.
    pub(super) fn stop_in_turn(&mut self, now: Time) -> bool {
        let ending = self.ending.is_some();
        if !ending {
            self.let_go_of_fresh();
            if self.leaving.is_empty() {
                return false;
            }
        }
        let ends = |id: &ServiceId| ending || self.leaving.contains(id);
        let left = |service: &&Service| ends(&service.id) && service.purpose != Purpose::Stopped;
        // Also by way of one that has stopped already.
        let mut needed = BTreeSet::new();
        for earlier in self.services.values().filter(left).flat_map(|service| &service.after) {
            self.visit(*earlier, &mut needed, &mut Vec::new());
        }
        let due = |service: &&Service| ends(&service.id) && service.purpose == Purpose::Run;
        let due: Vec<ServiceId> =
            self.services.values().filter(due).map(|one| one.id).filter(|id| !needed.contains(id)).collect();
        for id in &due {
            if let Some(service) = self.services.get_mut(id) {
                service.stop(now, &mut self.out);
            }
        }
        // At the end all of them go together.
        (!ending && self.remove_stopped()) || !due.is_empty()
    }

    /// These services are not wanted any more.
    pub(super) fn leave(&mut self, services: impl IntoIterator<Item = ServiceId>, reason: &Reason) {
        for service in services {
            if self.services.contains_key(&service) && self.leaving.insert(service) {
                let step = Step::Leaving { reason: reason.clone() };
                self.out.push(Action::Progress { service, upgrade: None, step });
                self.withdraw(service, Verdict::Refused, reason);
            }
        }
    }

    fn remove_stopped(&mut self) -> bool {
        let stopped = |id: &&ServiceId| self.services.get(id).is_none_or(|one| one.purpose == Purpose::Stopped);
        let gone: Vec<ServiceId> = self.leaving.iter().filter(stopped).copied().collect();
        for id in &gone {
            self.leaving.remove(id);
            let Some(service) = self.services.remove(id) else { continue };
            for release in service.releases() {
                self.out.push(Action::Discard(release));
            }
            for other in self.services.values_mut() {
                other.after.remove(id);
            }
            self.out.push(Action::Remove(*id));
        }
        !gone.is_empty()
    }

    /// Services that were added and did not come to serve are not kept; the others are like any other from now on.
    fn let_go_of_fresh(&mut self) {
        let mut failed = Vec::new();
        for service in self.services.values_mut().filter(|service| service.fresh) {
            let awaited = self.sequences.iter().any(|sequence| sequence.has(service.id));
            if awaited || !service.is_idle() || !service.queue.is_empty() {
                continue;
            }
            service.fresh = false;
            if service.purpose != Purpose::Run || service.serving().is_none() {
                failed.push(service.id);
            }
        }
        self.leave(failed, &Reason::NeverServed);
    }

    /// Whether one comes after another, be it by way of others.
    fn comes_after(&self, one: ServiceId, other: ServiceId) -> bool {
        let mut before = Vec::new();
        self.visit(one, &mut BTreeSet::new(), &mut before);
        before.contains(&other)
    }

    fn visit(&self, service: ServiceId, seen: &mut BTreeSet<ServiceId>, order: &mut Vec<ServiceId>) {
        if !seen.insert(service) {
            return;
        }
        if let Some(one) = self.services.get(&service) {
            for earlier in &one.after {
                self.visit(*earlier, seen, order);
            }
            order.push(service);
        }
    }
}
