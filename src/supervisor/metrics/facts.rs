//! How things stand, as samples.

use std::sync::Arc;

use super::super::listeners::{Queues, Socket};
use super::counters::{self, OfService};
use super::exposition::{Exposition, Samples};
use super::table::{self, Metric};
use crate::control::types::{
    GenerationState, GenerationStatus, InstanceState, ServiceState, ServiceStatus, Status, SupervisorStatus, Verdict,
};
use crate::sys::netstat::Counters;
use crate::sys::{Pid, clock, limits, proc};

/// What the loop knows, copied.
pub(in crate::supervisor) struct Facts {
    pub(in crate::supervisor) status: Status,
    /// The listeners of each service.
    pub(in crate::supervisor) sockets: Vec<Vec<Arc<Socket>>>,
    /// How many processes each service is meant to have.
    pub(in crate::supervisor) desired: Vec<usize>,
    pub(in crate::supervisor) counters: counters::Counters,
    /// Lines of the history that were dropped.
    pub(in crate::supervisor) history_lost: u64,
}

/// What is exposed of queues.
type Figure = fn(&Queues) -> f64;

/// A supervisor that only holds.
pub(in crate::supervisor) fn holding(status: &Status) -> String {
    let mut out = Exposition::default();
    supervisor(&mut out, &status.supervisor);
    out.finish()
}

impl Facts {
    /// All of it as text. Blocks: for a few small files in /proc.
    pub(in crate::supervisor) fn text(self) -> String {
        let mut out = Exposition::default();
        supervisor(&mut out, &self.status.supervisor);
        out.metric(&table::HISTORY_LOST).add(&[], self.history_lost as f64);
        self.services(&mut out);
        self.upgrades(&mut out);
        self.listeners(&mut out);
        host(&mut out);
        out.finish()
    }

    fn services(&self, out: &mut Exposition) {
        let mut samples = out.metric(&table::STATE);
        for (service, (state, name)) in self.each().flat_map(|one| STATES.into_iter().map(move |state| (one, state))) {
            samples.add(&[("service", &service.name), ("state", name)], flag(service.state == state));
        }
        self.of_each(out, &table::GENERATION, |service| service.serving.map(|serving| serving as f64));
        self.of_each(out, &table::UPGRADING, |service| Some(flag(service.upgrade.is_some())));
        self.of_each(out, &table::READY, |service| Some(ready(service) as f64));
        self.of_each(out, &table::DRAINING, |service| {
            let leaving = |state| matches!(state, GenerationState::Draining | GenerationState::Ending);
            Some(service.generations.iter().filter(|one| leaving(one.state)).count() as f64)
        });
        let mut samples = out.metric(&table::DESIRED);
        for (service, desired) in self.each().zip(&self.desired) {
            samples.add(&[("service", &service.name)], *desired as f64);
        }
    }

    fn upgrades(&self, out: &mut Exposition) {
        let counted = |name: &str| self.counters.get(name);
        self.of_each(out, &table::RESTARTS, |service| Some(counted(&service.name).restarts as f64));
        let mut samples = out.metric(&table::UPGRADES);
        for service in self.each() {
            for (verdict, count) in counted(&service.name).verdicts() {
                samples.add(&[("service", &service.name), ("verdict", &verdict.to_string())], count as f64);
            }
        }
        let spread = |mut samples: Samples<'_>, of: fn(&OfService) -> &super::counters::Histogram| {
            for service in self.each() {
                samples.spread(&[("service", &service.name)], of(&counted(&service.name)));
            }
        };
        spread(out.metric(&table::UPGRADE), |of| &of.upgrade);
        spread(out.metric(&table::ROLLBACK), |of| &of.rollback);
        spread(out.metric(&table::DRAIN), |of| &of.drain);
        self.of_each(out, &table::LAST_TIME, |service| service.last_upgrade.as_ref().and_then(|last| last.ended_at));
        let mut samples = out.metric(&table::LAST_VERDICT);
        for (service, last) in self.each().filter_map(|service| Some((service, last_verdict(service)?))) {
            for verdict in OfService::VERDICTS {
                let labels = [("service", service.name.as_str()), ("verdict", &verdict.to_string())];
                samples.add(&labels, flag(verdict == last));
            }
        }
        self.of_each(out, &table::LAST_SUCCESS, |service| Some(flag(last_verdict(service)? == Verdict::Upgraded)));
    }

    fn listeners(&self, out: &mut Exposition) {
        let queues: Vec<_> = self
            .each()
            .zip(&self.sockets)
            .flat_map(|(service, sockets)| service.listeners.iter().zip(sockets).map(move |one| (service, one)))
            .filter_map(|(service, (listener, socket))| Some((&service.name, &listener.name, socket.queues()?)))
            .collect();
        let figures: [(&'static Metric, Figure); 3] = [
            (&table::QUEUE, |queues| f64::from(queues.queued)),
            (&table::BACKLOG, |queues| f64::from(queues.backlog)),
            (&table::FULLEST, |queues| queues.fullest),
        ];
        for (metric, pick) in figures {
            let mut samples = out.metric(metric);
            for (service, listener, queues) in &queues {
                samples.add(&[("service", service), ("listener", listener)], pick(queues));
            }
        }
    }

    fn each(&self) -> impl Iterator<Item = &ServiceStatus> {
        self.status.services.iter()
    }

    fn of_each(&self, out: &mut Exposition, metric: &'static Metric, value: impl Fn(&ServiceStatus) -> Option<f64>) {
        let mut samples = out.metric(metric);
        for service in self.each() {
            if let Some(value) = value(service) {
                samples.add(&[("service", &service.name)], value);
            }
        }
    }
}

const STATES: [(ServiceState, &str); 7] = [
    (ServiceState::Starting, "starting"),
    (ServiceState::Serving, "serving"),
    (ServiceState::Upgrading, "upgrading"),
    (ServiceState::BackingOff, "backing-off"),
    (ServiceState::Failed, "failed"),
    (ServiceState::Stopping, "stopping"),
    (ServiceState::Stopped, "stopped"),
];

fn supervisor(out: &mut Exposition, supervisor: &SupervisorStatus) {
    out.metric(&table::BUILD).add(&[("name", &supervisor.name), ("version", &supervisor.version)], 1.0);
    out.metric(&table::HOLDING).add(&[], flag(supervisor.holding.is_some()));
    out.metric(&table::STOPPING).add(&[], flag(supervisor.stopping));
    out.metric(&table::START_TIME).add(&[], clock::wall() - supervisor.age);
    out.metric(&table::INCARNATION).add(&[], supervisor.incarnation as f64);
    if let Ok(usage) = proc::usage(Pid::own()) {
        out.metric(&table::MEMORY).add(&[], usage.memory as f64);
    }
    if let Ok(open) = limits::open_fds() {
        out.metric(&table::FDS).add(&[], open as f64);
    }
    out.metric(&table::LINES_DROPPED).add(&[], supervisor.lines_dropped as f64);
}

/// What the kernel counts for all listeners of this network namespace.
fn host(out: &mut Exposition) {
    let counters = Counters::netstat();
    for (metric, name) in [(&table::OVERFLOWS, "ListenOverflows"), (&table::DROPS, "ListenDrops")] {
        if let Some(value) = counters.get("TcpExt", name) {
            out.metric(metric).add(&[], value as f64);
        }
    }
}

/// Processes that are ready of what serves, and of what replaces it piece by piece or serves until it is back.
fn ready(service: &ServiceStatus) -> usize {
    let together = |state| matches!(state, GenerationState::Rolling | GenerationState::Retreating);
    let serves = |one: &&GenerationStatus| Some(one.generation) == service.serving || together(one.state);
    service
        .generations
        .iter()
        .filter(serves)
        .flat_map(|one| &one.instances)
        .filter(|one| one.state == InstanceState::Ready)
        .count()
}

/// How the latest upgrade that ended did.
fn last_verdict(service: &ServiceStatus) -> Option<Verdict> {
    Some(service.last_upgrade.as_ref()?.verdict.as_ref()?.verdict)
}

fn flag(is_so: bool) -> f64 {
    f64::from(u8::from(is_so))
}
