//! What happened, told to the machine.

use std::time::Duration;

use super::notify::{BATCH, LAST_WORDS};
use super::poller::Source;
use super::process::{Ending, Launch};
use super::{Elsewhere, Supervisor, listeners, restore, status};
use crate::core::event::InstanceEvent;
use crate::core::service::{Role, Service};
use crate::core::{Exit, InstanceId, Kind, Reason, ServiceId};
use crate::sys::fdwatch::Told;
use crate::sys::pidfd::{self, ExitInfo, PidFd};
use crate::sys::shim::NEVER_WENT;
use crate::sys::{Pid, proc};

/// When it is looked again for what is left of an instance that a predecessor started.
const SEARCH_AGAIN: Duration = Duration::from_millis(200);
/// How long the parent of a process that is not our child may take to reap it.
const REAPED_BY_OTHERS: Duration = Duration::from_secs(2);

impl Supervisor {
    pub(super) fn on_ready(&mut self, source: Source) {
        match source {
            Source::Exit(id) => self.on_exit(id),
            Source::LeaderExit(id) => {
                if let Some(process) = self.processes.get_mut(&id) {
                    process.reap_leader(&mut self.poller);
                }
                self.check_emptied(id, None);
            }
            Source::Notify(id) => self.read_notify(id, BATCH),
            Source::Shim(id) => self.on_shim(id),
            Source::Stdout(id) | Source::Stderr(id) => {
                if let Some(process) = self.processes.get_mut(&id) {
                    process.pump(source, &mut self.poller);
                }
            }
            Source::ReadyFd(id) => {
                if let Some(process) = self.processes.get_mut(&id)
                    && process.read_ready_fd(&mut self.poller)
                {
                    self.tell_core_of(id, InstanceEvent::Ready);
                }
            }
            Source::ProbeShim(id) => {
                if let Some(process) = self.processes.get_mut(&id) {
                    process.probe_launch(&mut self.poller);
                }
            }
            Source::ProbeExit(id) => self.on_probe_exit(id),
            Source::CheckShim(id) => self.on_check_shim(id),
            Source::CheckExit(id) => self.on_check_exit(id),
            Source::Cgroup(id) => self.check_emptied(id, None),
            Source::HookShim(service) => self.on_hook_shim(service),
            Source::HookExit(service) => self.on_hook_exit(service),
            Source::HookOutput(service) => self.on_hook_output(service),
            Source::TrialShim => self.on_trial_shim(),
            Source::TrialExit => self.on_trial_exit(),
            Source::Stored(service, id) => self.on_stored_hangup(service, id),
            Source::Hangup => self.on_hangup(),
            Source::Path => self.on_path(),
        }
    }

    pub(super) fn on_elsewhere(&mut self, done: Elsewhere) {
        match done {
            Elsewhere::Pinned { service, upgrade, result } => {
                // Before anything of it is started, it is seen how clients are answered without it.
                let Some(result) = self.begin_probing(service, upgrade, result) else { return };
                let in_flight = self.core.services().get(&service).and_then(|service| service.upgrade.as_ref());
                let late = in_flight.is_none_or(|in_flight| in_flight.id != upgrade);
                self.on_pinned(service, upgrade, *result);
                self.act();
                // Nothing came of the process that was made for it.
                if let Some(shell) = self.services.get_mut(&service)
                    && !self.pinning.contains(&service)
                {
                    shell.blank = None;
                }
                if late {
                    // While it hung, nothing else could be pinned.
                    self.ask_again(service);
                }
            }
            Elsewhere::Read(wanted) => self.on_read(wanted.as_deref()),
            Elsewhere::Replaced { service, token, result } => self.on_replaced(service, token, result),
            Elsewhere::Swept { instance, found: 0 } => {
                // Others of it may have died while it was searched for.
                let empty =
                    self.processes.get(&instance).is_some_and(|process| process.lingering && process.group_is_gone());
                if empty {
                    self.emptied(instance);
                }
            }
            // The end of each of them is told by SIGCHLD sooner or later, where we are their reaper.
            Elsewhere::Swept { instance, .. } => {
                let again = self.now().after(SEARCH_AGAIN);
                if let Some(process) = self.processes.get_mut(&instance).filter(|process| !process.is_ours) {
                    process.search_at = Some(again);
                }
            }
            Elsewhere::Retired { instance, left } => self.on_retired(instance, left),
            Elsewhere::Room { instance, release, result } => self.on_room(instance, release, result),
            Elsewhere::Healed { tokens, result } => self.on_healed(&tokens, result),
            Elsewhere::Held { service, on, result } => self.on_held(service, on, result),
            Elsewhere::Measured { upgrade } => self.on_measured(upgrade),
            Elsewhere::Condemned { upgrade, reason } => self.on_condemned(upgrade, reason),
            Elsewhere::Probed { upgrade, kernel } => self.on_probed(upgrade, kernel),
            Elsewhere::Reaped { instance } => self.on_reaped(instance),
            Elsewhere::Checked { instance, outcome } => self.on_checked(instance, outcome),
            Elsewhere::Binary(program) => self.on_binary(*program),
            Elsewhere::Noted { instance, note } => {
                tracing::warn!(service = self.name_of(instance.service), generation = instance.generation.0, "{note}");
                if let Some(process) = self.processes.get_mut(&instance) {
                    process.notes.push(note);
                }
            }
            Elsewhere::Counted(status) => {
                let line = self.status_line(Some(&status));
                self.systemd.status(&line);
            }
        }
    }

    // ---- starting -------------------------------------------------------------------------------------------------

    fn on_shim(&mut self, id: InstanceId) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        match process.launch(&mut self.poller) {
            Launch::Waiting => {}
            Launch::Prepared => self.tell_core_of(id, InstanceEvent::Prepared),
            Launch::Executed => self.launched(id),
            Launch::Failed(error) => self.never_ran(id, error),
        }
    }

    pub(super) fn launched(&mut self, id: InstanceId) {
        let now = self.now();
        self.tell_core_of(id, InstanceEvent::Launched);
        if let Some(probe) = self.processes.get_mut(&id).and_then(|process| process.probe.as_mut()) {
            probe.due = Some(now);
        }
    }

    /// Whatever a process does proves that it was executed, whichever we see first.
    pub(super) fn assume_launched(&mut self, id: InstanceId) {
        let waiting = self.processes.get(&id).is_some_and(|process| !process.is_launched());
        if waiting {
            self.on_shim(id);
            self.act();
        }
    }

    pub(super) fn run_probes(&mut self) {
        let now = self.now();
        let due = |process: &&super::process::Process| {
            process.probe.as_ref().is_some_and(|probe| probe.due.is_some_and(|due| due <= now))
        };
        let due: Vec<InstanceId> = self.processes.values().filter(due).map(|process| process.id).collect();
        for id in due {
            let (mut ground, processes) = self.ground(id);
            if let Some(process) = processes.get_mut(&id) {
                process.probe(now, &mut ground);
            }
        }
    }

    fn on_probe_exit(&mut self, id: InstanceId) {
        let now = self.now();
        let Some(process) = self.processes.get_mut(&id) else { return };
        if process.probe_exit(now, &mut self.poller) {
            process.status = None;
            process.stop_probe(&mut self.poller);
            self.tell_core_of(id, InstanceEvent::Ready);
        } else if let Some(status) = process.status.clone() {
            self.tell_status(id, &status);
        }
    }

    /// Looks for what an operator should know about a process that has just become ready.
    pub(super) fn inspect(&mut self, id: InstanceId) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        process.stop_probe(&mut self.poller);
        let listeners = process.release.listeners.iter();
        let slot = process.slot;
        let flipped: Vec<&str> = listeners
            .filter(|listener| listener.socket.of(slot).was_made_nonblocking())
            .map(|l| l.name.as_str())
            .collect();
        let flipped = flipped.join(", ");
        let (pid, signal) = (process.pid, process.release.service.drain.signal);
        let sockets: Vec<u64> = process.sockets().map(|socket| socket.token).collect();
        let shares = |other: &super::process::Process| other.sockets().any(|socket| sockets.contains(&socket.token));
        let shared = self.processes.values().any(|other| other.id != id && shares(other));
        if !flipped.is_empty() && shared {
            let note = format!(
                "O_NONBLOCK was set on listener {flipped} while it was starting: it holds for every process that has the \
                 socket"
            );
            self.on_elsewhere(Elsewhere::Noted { instance: id, note });
        }
        self.off_the_loop(move || match proc::catches(pid, signal) {
            Ok(false) if signal != nix::libc::SIGKILL => Some(Elsewhere::Noted {
                instance: id,
                note: format!(
                    "it has no handler for {}, its stop signal: it will be ended without finishing its connections",
                    crate::sys::signal::Name(signal)
                ),
            }),
            _ => None,
        });
    }

    // ---- ending ---------------------------------------------------------------------------------------------------

    pub(super) fn on_exit(&mut self, id: InstanceId) {
        self.assume_launched(id);
        // What it did to the listeners as well: once it is gone, others would be taken for the culprit.
        self.on_hangup();
        self.on_path();
        // Last words first. A flood is cut where the next batch would only be more of it.
        self.read_notify(id, LAST_WORDS);
        let Some(process) = self.processes.get_mut(&id).filter(|process| !process.lingering) else { return };
        match process.exit() {
            Ending::Alive => {}
            Ending::Known(exit) => self.ended(id, exit.into()),
            Ending::Unknown => self.ended(id, Exit::Unknown),
            Ending::Unreaped => match process.await_reaping(&mut self.poller) {
                Ok(pidfd) => self.off_the_loop(move || {
                    PidFd::from(pidfd).wait_reaped(REAPED_BY_OTHERS);
                    Some(Elsewhere::Reaped { instance: id })
                }),
                Err(_) => self.ended(id, Exit::Unknown),
            },
        }
    }

    /// The main process of an instance has ended, and somebody else has had the time to reap it.
    fn on_reaped(&mut self, id: InstanceId) {
        let Some(process) = self.processes.get_mut(&id).filter(|process| !process.lingering) else { return };
        let exit = match process.exit() {
            Ending::Known(exit) => exit.into(),
            Ending::Alive | Ending::Unreaped | Ending::Unknown => Exit::Unknown,
        };
        self.ended(id, exit);
    }

    fn ended(&mut self, id: InstanceId, exit: Exit) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        process.drain_output();
        if self.unsettled.remove(&id) && exit == Exit::Code(NEVER_WENT) {
            return self.unstarted(id);
        }
        self.tell_core_of(id, InstanceEvent::Exited(exit));
        self.act();
        // The machine has forgotten a process that never became the program: what is left of it is ours to end.
        let forgotten = self.processes.get_mut(&id).filter(|process| !process.lingering);
        if let Some(process) = forgotten {
            process.sweep(true, &mut self.poller);
            self.check_emptied(id, Some(true));
        }
    }

    /// Some child died: one of ours, seen through its pidfd as well, or an orphan that became our child.
    pub(super) fn on_children(&mut self) {
        let mut last = None;
        while let Ok(Some(pid)) = pidfd::peek_any_child() {
            // Whoever it was told to has not reaped it: nobody else will.
            if last.replace(pid) == Some(pid) && pidfd::reap_pid(pid).is_err() {
                break;
            }
            let known = self.processes.values().find(|process| process.pid == pid && !process.lingering);
            // Before its number is another's.
            if let Some(service) = self.services.values_mut().find(|service| service.is_loading(pid)) {
                service.blank = None;
            }
            let leads = self.processes.values().find(|process| process.is_led_by(pid));
            if let Some(id) = known.map(|process| process.id) {
                self.on_exit(id);
            } else if let Some(id) = leads.map(|process| process.id) {
                self.on_ready(Source::LeaderExit(id));
            } else if let Some(id) = self.processes.values().find(|p| p.is_probe(pid)).map(|process| process.id) {
                self.on_probe_exit(id);
            } else if let Some(id) = self.processes.values().find(|p| p.is_check(pid)).map(|process| process.id) {
                self.on_check_exit(id);
            } else if let Some(service) = self.services.iter().find(|(_, it)| it.hooks.is(pid)).map(|(id, _)| *id) {
                self.on_hook_exit(service);
            } else if self.reexec.as_ref().is_some_and(|reexec| reexec.is(pid)) {
                self.on_trial_exit();
            } else if pidfd::reap_pid(pid).is_err() {
                break;
            }
            self.act();
        }
        let lingering: Vec<InstanceId> =
            self.processes.values().filter(|process| process.lingering).map(|process| process.id).collect();
        for id in lingering {
            self.check_emptied(id, None);
        }
    }

    /// Whether we have children that we did not start: orphans of an instance.
    pub(super) fn has_strangers(&self) -> bool {
        let tried = |pid: &Pid| self.reexec.as_ref().is_some_and(|reexec| reexec.is(*pid));
        let blank =
            |pid: &Pid| self.services.values().any(|service| service.is_loading(*pid) || service.hooks.is(*pid));
        let ours =
            |pid: &Pid| self.processes.values().any(|p| p.has_child(*pid) || p.is_probe(*pid) || p.is_check(*pid));
        let known = |pid: &Pid| tried(pid) || blank(pid) || ours(pid);
        proc::children_of_self().map_or(true, |children| children.iter().any(|pid| !known(pid)))
    }

    /// Finds what is left of an instance that has no cgroup, by its session, and by its notify socket in their
    /// environment.
    pub(super) fn search_strays(&mut self, instance: InstanceId, signal: Option<bool>) {
        let Some(process) = self.processes.get(&instance).filter(|process| process.cgroup.is_none()) else { return };
        let path = process.notify.it.path().to_string_lossy().into_owned();
        let leader = process.leader_pid;
        let signal = signal.map(|force| if force { nix::libc::SIGKILL } else { nix::libc::SIGTERM });
        self.off_the_loop(move || {
            let mut found = 0;
            // Where nobody can be seen, somebody may be there: it is looked again.
            let Ok(all) = proc::all() else { return Some(Elsewhere::Swept { instance, found: 1 }) };
            for pid in all {
                // While its leader's number is nobody's, it is the name of that session and no other.
                let in_session = || proc::is_in_session(pid, leader) && !proc::exists(leader);
                let theirs = || in_session() || proc::environ_has(pid, "NOTIFY_SOCKET", &path).unwrap_or(false);
                if !theirs() {
                    continue;
                }
                // Once it is open the number cannot be given to another, so it is looked at again.
                let Ok(stray) = PidFd::open(pid) else { continue };
                if theirs() {
                    found += 1;
                    if let Some(signal) = signal {
                        let _ = stray.signal(signal);
                    }
                }
            }
            Some(Elsewhere::Swept { instance, found })
        });
    }

    // ---- notify messages ------------------------------------------------------------------------------------------

    /// A service called shutdown() on a socket that others use too.
    fn on_hangup(&mut self) {
        for (token, told) in self.hangups.ready().unwrap_or_default() {
            if told == Told::Callers {
                self.on_callers(token);
                continue;
            }
            let Some(socket) = self.watched.get(&token).map(std::sync::Arc::clone) else { continue };
            if self.heal(token) {
                continue;
            }
            let culprit = self.stopping_now();
            let healed = socket.heals() && socket.bound.listen_again().is_ok();
            if healed {
                tracing::warn!("listener {} was shut down by {culprit}: it listens again", socket.bound.endpoint);
                continue;
            }
            // Level-triggered: it would be reported for ever. So would an error that waits to be read by a service.
            let _ = self.hangups.remove(std::os::fd::AsFd::as_fd(&socket.bound.fd));
            if !socket.bound.is_shut_down() {
                continue;
            }
            tracing::error!(
                "listener {} was shut down by {culprit} and cannot listen again: making it anew, with a new generation",
                socket.bound.endpoint
            );
            self.replace_socket(token);
        }
    }

    fn replace_socket(&mut self, token: u64) {
        // Its path is its successor's from now on, and must not be linked back in the middle of that one's bind.
        self.paths.remove(token);
        let latest = |release: &&std::sync::Arc<super::release::Release>| {
            release.listeners.iter().any(|listener| listener.socket.token == token)
        };
        let Some(config) = self.releases.values().find(latest).map(|release| release.service.clone()) else { return };
        for (id, service) in &self.services {
            for listener in service.listeners.iter().filter(|listener| listener.socket.token == token) {
                let (service, listener, config) = (*id, listener.clone(), config.clone());
                self.off_the_loop(move || {
                    let result = listeners::replace(&listener, &config);
                    Some(Elsewhere::Replaced { service, token, result })
                });
            }
        }
    }

    fn on_replaced(&mut self, id: ServiceId, token: u64, result: Result<listeners::Listener, Reason>) {
        let Some(service) = self.services.get_mut(&id) else { return };
        // The config may have dropped it meanwhile.
        let Some(listener) = service.listeners.iter_mut().find(|listener| listener.socket.token == token) else {
            return;
        };
        match result {
            Ok(new) => {
                *listener = new.clone();
                service.owes_restart = true;
                self.survival.stale = true;
                self.watch(&new);
                self.hold_replaced(id);
                if let Err(refusal) = self.request(id, Kind::Restart, None) {
                    tracing::error!(service = self.name_of(id), "a new generation is refused: {refusal}");
                }
            }
            Err(reason) => tracing::error!(service = service.name, "{reason}"),
        }
    }

    /// Asks again for a restart that was refused, now that the reason may be over.
    pub(super) fn ask_again(&mut self, id: ServiceId) {
        let owes = self.services.get(&id).is_some_and(|service| service.owes_restart);
        let idle = |service: &Service| service.upgrade.is_none() && service.serving().is_some();
        if owes && self.core.services().get(&id).is_some_and(idle) {
            // A service that is being stopped needs none any more.
            let _ = self.request(id, Kind::Restart, None);
        }
    }

    /// Who may have done it: whoever is on its way out, else whoever is starting.
    pub(super) fn stopping_now(&self) -> String {
        let (mut leaving, mut coming) = (Vec::new(), Vec::new());
        for (id, service) in self.core.services() {
            for generation in service.generations.values() {
                let name = format!("{}@{}", self.name_of(*id), generation.number);
                match generation.role {
                    Role::Draining | Role::Ending => leaving.push(format!("{name} (draining)")),
                    Role::Starting
                    | Role::Soaking { .. }
                    | Role::Held { .. }
                    | Role::Rolling { .. }
                    | Role::Stepping { .. }
                    | Role::Switching => coming.push(format!("{name} (starting)")),
                    Role::Retreating => leaving.push(format!("{name} (given up)")),
                    Role::Serving | Role::Standby { .. } => {}
                }
            }
        }
        let suspects = [leaving, coming].concat();
        if suspects.is_empty() { "a serving process".into() } else { suspects.join(" or ") }
    }

    /// A service unlinked the path of a socket that others use too.
    fn on_path(&mut self) {
        for token in self.paths.ready().unwrap_or_default() {
            if token == restore::TOKEN {
                self.on_directory();
                continue;
            }
            let Some(socket) = self.watched.get(&token) else { continue };
            match socket.bound.restore_path() {
                Ok(true) => {
                    let culprit = self.stopping_now();
                    tracing::warn!("{} was unlinked by {culprit}: it is linked again", socket.bound.endpoint);
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::error!("{} was unlinked and cannot be linked again: {error}", socket.bound.endpoint)
                }
            }
        }
    }

    // ---- what systemd shows ---------------------------------------------------------------------------------------

    /// Counts the connections of draining generations, for systemd's status line.
    pub(super) fn count_connections(&mut self) {
        let draining = self.core.services().values().flat_map(|service| service.generations.values());
        if draining.filter(|generation| generation.role == Role::Draining).count() == 0 {
            return;
        }
        let snapshot = self.snapshot();
        self.off_the_loop(move || Some(Elsewhere::Counted(Box::new(status::complete(snapshot)))));
    }
}

impl From<ExitInfo> for Exit {
    fn from(exit: ExitInfo) -> Self {
        match exit {
            ExitInfo::Code(code) => Self::Code(code),
            ExitInfo::Signal { signal, core } => Self::Signal { signal, core },
        }
    }
}
