//! What `zdsup status` shows: what the loop knows, copied quickly, then what only the kernel knows, looked up off the
//! loop when somebody looks.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::listeners::{Listeners, Origin, Socket};
use super::process::Process;
use crate::config::{self, Strategy, Traffic};
use crate::control::types::{
    GenerationState, GenerationStatus, InstanceHealth, InstanceState, InstanceStatus, KeptStatus, ListenerStatus,
    ServiceState, ServiceStatus, Status,
};
use crate::core::instance::{Instance, State};
use crate::core::service::{Generation, Purpose, Role, Service};
use crate::core::{InstanceId, ReleaseId, Time, about};
use crate::sys::socket::Endpoint;
use crate::sys::{Pid, diag, proc};

/// A status without what only the kernel knows, and where to look for that.
pub(super) struct Snapshot {
    pub(super) status: Status,
    pub(super) subjects: Vec<Subject>,
    pub(super) sockets: Vec<Vec<Arc<Socket>>>,
}

/// One instance, and how to find its processes.
pub(super) struct Subject {
    service: usize,
    generation: usize,
    instance: usize,
    leader: Pid,
    main: Pid,
    cgroup: Option<PathBuf>,
}

/// What the shell knows of a service.
pub(super) struct Shell<'a> {
    pub(super) name: &'a str,
    pub(super) listeners: &'a Listeners,
    /// The config that is in force; before the first one is, nothing.
    pub(super) config: Option<&'a config::Service>,
    /// How many descriptors it has stored.
    pub(super) fd_store: u32,
}

/// One service, as far as the loop knows it.
pub(super) fn service(
    service: &Service,
    shell: &Shell<'_>,
    processes: &HashMap<InstanceId, Process>,
    executable: impl Fn(ReleaseId) -> String,
    now: Time,
) -> ServiceStatus {
    let serving = service.serving();
    let traffic = shell.config.map_or(Traffic::default(), |config| config.traffic);
    let weights = if is_divided(service, traffic) { service.weights() } else { Vec::new() };
    let generation = |one: &Generation| {
        let weight = weights.iter().find(|(number, _)| *number == one.number).map(|(_, weight)| *weight);
        let status = generation(one, processes, executable(one.release), now);
        let state = if service.is_replaced(one) { GenerationState::Draining } else { status.state };
        GenerationStatus { weight, state, ..status }
    };
    let kept = service.kept().map(|kept| KeptStatus {
        generation: kept.generation.0,
        executable: executable(kept.release),
        standby: service.generations.get(&kept.generation).and_then(|generation| standby(generation, now)),
    });
    ServiceStatus {
        name: shell.name.to_owned(),
        state: state(service),
        detail: serving.and_then(|generation| detail(generation, shell.name, now)),
        last_output: None,
        serving: service.answering().map(|generation| generation.number.0),
        upgrade: None,
        queued: Vec::new(),
        last_upgrade: None,
        hook: None,
        paused: service.paused_until().map(|until| until.since(now).as_secs_f64()),
        instances: service.desired(),
        configured: service.scaled.map(|scaled| scaled.configured),
        strategy: shell.config.map_or(&Strategy::Overlap, |config| &config.upgrade.strategy).word().to_owned(),
        traffic: traffic.word().to_owned(),
        generations: service.generations.values().rev().map(generation).collect(),
        kept: kept.collect(),
        listeners: shell
            .listeners
            .iter()
            .map(|listener| ListenerStatus {
                name: listener.name.clone(),
                address: listener.socket.bound.endpoint.to_string(),
                queue: None,
                backlog: None,
                origin: match listener.socket.origin {
                    Origin::Bound => "bound".into(),
                    Origin::Inherited => "inherited".into(),
                },
            })
            .collect(),
        fd_store: shell.fd_store,
        fd_store_max: shell.config.map_or(0, |config| config.fd_store_max),
    }
}

/// Whether it can be said which generation gets how much of what comes.
fn is_divided(service: &Service, traffic: Traffic) -> bool {
    let together = |role| matches!(role, Role::Rolling { .. } | Role::Retreating);
    traffic == Traffic::Steered || service.generations.values().any(|generation| together(generation.role))
}

/// Until the part of a generation changes by itself, seconds.
fn remaining(generation: &Generation, now: Time) -> Option<f64> {
    generation.role_until()?.left(now).map(|left| left.as_secs_f64())
}

/// For how long a generation stands by, seconds.
fn standby(generation: &Generation, now: Time) -> Option<f64> {
    remaining(generation, now).filter(|_| matches!(generation.role, Role::Standby { .. }))
}

/// Where the processes of a status are to be looked for.
pub(super) fn subjects(
    status: &Status,
    services: &[&Service],
    processes: &HashMap<InstanceId, Process>,
) -> Vec<Subject> {
    let mut subjects = Vec::new();
    for (at, service) in services.iter().enumerate().take(status.services.len()) {
        for (generation, one) in service.generations.values().rev().enumerate() {
            for (instance, id) in one.instances.values().map(|instance| instance.id).enumerate() {
                let Some(process) = processes.get(&id) else { continue };
                subjects.push(Subject {
                    service: at,
                    generation,
                    instance,
                    leader: process.leader_pid,
                    main: process.pid,
                    cgroup: process.cgroup.as_ref().map(|cgroup| cgroup.path().to_owned()),
                });
            }
        }
    }
    subjects
}

fn state(service: &Service) -> ServiceState {
    match service.purpose {
        Purpose::Stop => ServiceState::Stopping,
        Purpose::Stopped => ServiceState::Stopped,
        Purpose::Run => match service.serving() {
            Some(_) if service.answering().is_some() && service.upgrade.is_some() => ServiceState::Upgrading,
            Some(_) if service.answering().is_some() => ServiceState::Serving,
            Some(generation) if generation.is_given_up() => ServiceState::Failed,
            Some(_) => ServiceState::BackingOff,
            None if service.is_down() => ServiceState::Failed,
            None => ServiceState::Starting,
        },
    }
}

fn detail(generation: &Generation, service: &str, now: Time) -> Option<String> {
    let failing = generation.seats.iter().filter(|seat| seat.doomed.is_some() || seat.reason.is_some()).count();
    let detail = detail_of_one(generation, service, now)?;
    match generation.seats.len() {
        1 => Some(detail),
        all => Some(format!("{failing} of {all} instances: {detail}")),
    }
}

/// About the first instance of which there is something to say.
fn detail_of_one(generation: &Generation, service: &str, now: Time) -> Option<String> {
    if let Some(reason) = generation.seats.iter().find_map(|seat| seat.doomed.as_ref()) {
        return Some(format!("{reason}; it is being ended, to be started again"));
    }
    let seat = generation.seats.iter().find(|seat| seat.reason.is_some())?;
    let reason = seat.reason.as_ref()?;
    let failures = seat.failures;
    Some(match seat.retry_at {
        Some(at) => format!("{reason}; failure {failures} in a row, starting it again in {}", about(at.since(now))),
        None if seat.instance.is_some() => format!("{reason}; failure {failures} in a row, starting it again now"),
        None => {
            format!("{reason}; given up after {failures} failures in a row: `zdsup reload {service}` starts it at once")
        }
    })
}

fn generation(
    generation: &Generation,
    processes: &HashMap<InstanceId, Process>,
    executable: String,
    now: Time,
) -> GenerationStatus {
    let instances = generation.instances.values().map(|one| instance(one, processes.get(&one.id), now)).collect();
    GenerationStatus {
        generation: generation.number.0,
        state: match generation.role {
            Role::Starting => GenerationState::Starting,
            Role::Rolling { .. } => GenerationState::Rolling,
            Role::Stepping { .. } => GenerationState::Canary,
            Role::Standby { .. } => GenerationState::Standby,
            Role::Retreating => GenerationState::Retreating,
            Role::Held { .. } => GenerationState::Held,
            Role::Soaking { .. } | Role::Switching => GenerationState::Soaking,
            Role::Serving if generation.is_up() => GenerationState::Serving,
            Role::Serving if generation.is_given_up() => GenerationState::Failed,
            Role::Serving => GenerationState::BackingOff,
            Role::Draining => GenerationState::Draining,
            Role::Ending => GenerationState::Ending,
        },
        executable,
        weight: None,
        desired: u32::try_from(generation.seats.len()).unwrap_or(u32::MAX),
        ready: generation.available(),
        standby: standby(generation, now),
        remaining: remaining(generation, now),
        // Without a process there are none.
        connections: generation.instances.is_empty().then_some(0),
        instances,
    }
}

fn instance(instance: &Instance, process: Option<&Process>, now: Time) -> InstanceStatus {
    let state = match instance.state {
        State::Preparing { .. } | State::Launching { .. } => InstanceState::Preparing,
        State::Starting { .. } => InstanceState::Starting,
        State::Proving { .. } => InstanceState::Proving,
        State::Ready { .. } => InstanceState::Ready,
        State::Stopping { .. } => InstanceState::Stopping,
        State::Aborting { .. } => InstanceState::Aborting,
        State::Killing { .. } => InstanceState::Killing,
        State::Leftovers { .. } => InstanceState::Leftovers,
    };
    let mut notes = process.map(|process| process.notes.clone()).unwrap_or_default();
    if instance.said_stopping {
        notes.push("it says that it is stopping".into());
    }
    if instance.relief {
        notes.push("it takes the connections that wait where no process is left, then it stops".into());
    }
    let health = health(instance, process);
    let failure =
        process.filter(|_| health != InstanceHealth::Unchecked).and_then(|one| one.checkup.as_ref()?.failure());
    InstanceStatus {
        instance: format!("{}.{}", instance.id.generation, instance.id.number),
        state,
        pid: process.and_then(|process| u32::try_from(process.pid.as_raw()).ok()),
        age: now.since(instance.started).as_secs_f64(),
        connections: None,
        memory: None,
        cpu: None,
        health,
        health_failure: failure.map(str::to_owned),
        status: process.and_then(|process| process.status.clone()),
        // A watchdog's deadline is nobody's to wait for.
        remaining: instance
            .deadline()
            .filter(|_| !instance.is_ready())
            .and_then(|at| at.left(now))
            .map(|left| left.as_secs_f64()),
        notes,
    }
}

/// What its checks say, by the machine: a successor that has not checked it yet knows of the verdict all the same.
fn health(instance: &Instance, process: Option<&Process>) -> InstanceHealth {
    if !process.is_some_and(Process::is_checkable) {
        return InstanceHealth::Unchecked;
    }
    match instance.state {
        State::Proving { .. } => InstanceHealth::Proving,
        State::Ready { .. } if instance.failing => InstanceHealth::Failing,
        State::Ready { .. } => InstanceHealth::Passing,
        State::Preparing { .. }
        | State::Launching { .. }
        | State::Starting { .. }
        | State::Stopping { .. }
        | State::Aborting { .. }
        | State::Killing { .. }
        | State::Leftovers { .. } => InstanceHealth::Unchecked,
    }
}

/// Adds what only the kernel knows. Blocks: for the time of a dump of the sockets and a walk through /proc.
pub(super) fn complete(snapshot: Snapshot) -> Status {
    let Snapshot { mut status, subjects, sockets } = snapshot;
    status.supervisor.memory = proc::usage(Pid::own()).ok().map(|usage| usage.memory);
    let sessions = if subjects.iter().all(|subject| subject.cgroup.is_some()) { HashMap::new() } else { sessions() };
    let connections = Connections::of(sockets.iter().flatten());
    for subject in &subjects {
        let Some(generation) = status
            .services
            .get_mut(subject.service)
            .and_then(|service| service.generations.get_mut(subject.generation))
        else {
            continue;
        };
        let pids = subject.processes(&sessions);
        let usage: Vec<proc::Usage> = pids.iter().filter_map(|pid| proc::usage(*pid).ok()).collect();
        let Some(instance) = generation.instances.get_mut(subject.instance) else { continue };
        if !usage.is_empty() {
            instance.memory = Some(usage.iter().map(|usage| usage.memory).sum());
            instance.cpu = Some(usage.iter().map(|usage| usage.cpu).sum::<Duration>().as_secs_f64());
        }
        instance.connections = sockets.get(subject.service).and_then(|listeners| connections.held_by(&pids, listeners));
        generation.connections = generation.instances.iter().map(|instance| instance.connections).sum();
    }
    for (service, sockets) in status.services.iter_mut().zip(&sockets) {
        for (listener, socket) in service.listeners.iter_mut().zip(sockets) {
            let queues = socket.queues();
            listener.queue = queues.map(|queues| queues.queued);
            listener.backlog = queues.map(|queues| queues.backlog);
        }
    }
    status
}

impl Subject {
    fn processes(&self, sessions: &HashMap<Pid, Vec<Pid>>) -> Vec<Pid> {
        if let Some(cgroup) = &self.cgroup {
            let text = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
            return text.lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw).collect();
        }
        let mut pids = sessions.get(&self.leader).cloned().unwrap_or_default();
        if !pids.contains(&self.main) {
            pids.push(self.main);
        }
        pids
    }
}

fn sessions() -> HashMap<Pid, Vec<Pid>> {
    let mut sessions: HashMap<Pid, Vec<Pid>> = HashMap::new();
    for pid in proc::all().unwrap_or_default() {
        if let Ok(Some(session)) = proc::session(pid) {
            sessions.entry(session).or_default().push(pid);
        }
    }
    sessions
}

/// The inodes of the established connections to some listeners; `None` where there are no listeners of that kind, or the
/// kernel does not tell.
struct Connections {
    tcp: Option<HashSet<u64>>,
    unix: Option<HashSet<u64>>,
}

impl Connections {
    /// One dump of the kernel's table for each kind, however many listeners there are.
    fn of<'a>(listeners: impl Iterator<Item = &'a Arc<Socket>>) -> Self {
        let (mut ports, mut names) = (HashSet::new(), HashSet::new());
        for socket in listeners {
            match &socket.bound.endpoint {
                Endpoint::Tcp(address) => _ = ports.insert(address.port()),
                Endpoint::Unix { name, .. } => _ = names.insert(name.clone()),
                Endpoint::Udp(_) | Endpoint::Vsock { .. } => {}
            }
        }
        let set = |found: std::io::Result<Vec<u64>>| Some(found.ok()?.into_iter().collect());
        Self {
            tcp: if ports.is_empty() { None } else { set(diag::established(&ports)) },
            unix: if names.is_empty() { None } else { set(diag::unix_established(&names)) },
        }
    }

    /// How many these processes of a service with these listeners hold; `None` when that cannot be known.
    fn held_by(&self, pids: &[Pid], listeners: &[Arc<Socket>]) -> Option<u64> {
        for socket in listeners {
            match &socket.bound.endpoint {
                Endpoint::Tcp(_) => _ = self.tcp.as_ref()?,
                Endpoint::Unix { .. } => _ = self.unix.as_ref()?,
                Endpoint::Udp(_) | Endpoint::Vsock { .. } => {}
            }
        }
        let is_one = |inode: &u64| [&self.tcp, &self.unix].into_iter().flatten().any(|known| known.contains(inode));
        let mut theirs = HashSet::new();
        for pid in pids {
            match proc::socket_inodes(*pid) {
                Ok(inodes) => theirs.extend(inodes.into_iter().filter(is_one)),
                // It ended in the meantime; anything else hides what it has.
                Err(error) if matches!(error.raw_os_error(), Some(nix::libc::ENOENT | nix::libc::ESRCH)) => {}
                Err(_) => return None,
            }
        }
        Some(theirs.len() as u64)
    }
}
