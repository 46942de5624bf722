//! What happened, told to the machine.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::libc::ESRCH;

use super::ledger::News;
use super::poller::Source;
use super::process::{Ending, Launch};
use super::{Elsewhere, Supervisor, listeners, restore, status};
use crate::control::types::UpgradeStatus;
use crate::core::event::{InstanceEvent, spoken};
use crate::core::service::{Role, Service};
use crate::core::{Event, Exit, InstanceId, Kind, Reason, ServiceId, Time, Verdict};
use crate::notify::{self, Message};
use crate::sys::fdwatch::Told;
use crate::sys::notify::{Datagram, Sender};
use crate::sys::pidfd::{self, ExitInfo, PidFd};
use crate::sys::shim::NEVER_WENT;
use crate::sys::{Pid, proc};

/// Datagrams read from one notify socket before others have their turn.
const BATCH: usize = 64;
/// Datagrams read before something is decided without hearing more: no queue holds so many (net.unix.max_dgram_qlen).
const LAST_WORDS: usize = 16 * BATCH;
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
    fn assume_launched(&mut self, id: InstanceId) {
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
                let in_session =
                    || proc::session(pid).is_ok_and(|session| session == leader) && proc::session(leader).is_err();
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

    /// Reads what was said until now: before a deadline is held against anybody.
    pub(super) fn catch_up(&mut self) {
        let ids: Vec<InstanceId> = self.processes.keys().copied().collect();
        ids.into_iter().for_each(|id| self.catch_up_with(id));
    }

    pub(super) fn catch_up_with(&mut self, id: InstanceId) {
        self.read_notify(id, LAST_WORDS);
    }

    fn read_notify(&mut self, id: InstanceId, limit: usize) {
        // One byte more than may come, so that what is too long is seen to be.
        let mut buffer = [0; notify::MAX_DATAGRAM + 1];
        for _ in 0..limit {
            let Some(process) = self.processes.get(&id) else { return };
            match process.notify.it.peek(&mut buffer) {
                Ok(Some(datagram)) => {
                    self.on_datagram(id, &buffer, datagram);
                    // Only now, when what it changed is written down: a successor would read it again.
                    if let Some(Err(error)) = self.processes.get(&id).map(|process| process.notify.it.take()) {
                        tracing::warn!(service = self.name_of(id.service), "cannot read a notify socket: {error}");
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!(service = self.name_of(id.service), "cannot read a notify socket: {error}");
                    return;
                }
            }
        }
    }

    fn on_datagram(&mut self, id: InstanceId, buffer: &[u8], mut datagram: Datagram) {
        if datagram.truncated || datagram.control_truncated {
            return self.ignored(id, "a notify message", "it is too large");
        }
        if let Err(why) = self.authenticate(id, datagram.sender.as_ref()) {
            return self.ignored(id, "a notify message", &why);
        }
        let messages = match notify::parse(&buffer[..datagram.len]) {
            Ok(messages) => messages,
            Err(error) => return self.ignored(id, "a notify message", &error.to_string()),
        };
        self.assume_launched(id);
        for rejected in &messages.rejected {
            self.ignored(id, "a notify message", &rejected.to_string());
        }
        for message in messages.messages {
            self.on_message(id, message, &mut datagram.fds);
            self.act();
        }
        // Descriptors that nobody took are closed here; for BARRIER=1 that is the answer.
        drop(datagram);
    }

    pub(super) fn ignored(&mut self, id: InstanceId, what: &str, why: &str) {
        self.tell_ignored();
        let now = self.now();
        if self.processes.get_mut(&id).is_none_or(|process| process.ignored.is_to_be_said(now)) {
            let (service, generation) = (self.name_of(id.service), id.generation.0);
            tracing::warn!(service, generation, "{what} was ignored: {why}");
        }
    }

    /// Says how many messages more were ignored, where that is due.
    pub(super) fn tell_ignored(&mut self) {
        let now = self.now();
        let turn = |process: &mut super::process::Process| Some((process.id, process.ignored.turn(now)?));
        let due: Vec<(InstanceId, u64)> = self.processes.values_mut().filter_map(turn).collect();
        for (id, more) in due {
            self.tell_more_ignored(id, more);
        }
    }

    pub(super) fn tell_more_ignored(&self, id: InstanceId, more: u64) {
        let (service, generation) = (self.name_of(id.service), id.generation.0);
        tracing::warn!(service, generation, "{more} more of its notify messages were ignored");
    }

    /// Whether a message counts: credentials of root, the supervisor or the service's user, and a sender that belongs
    /// to the instance where it still exists.
    fn authenticate(&self, id: InstanceId, sender: Option<&Sender>) -> Result<(), String> {
        let Some(process) = self.processes.get(&id) else { return Err("its instance is gone".into()) };
        let sender = sender.ok_or("it carries no credentials")?;
        let own = nix::unistd::geteuid().as_raw();
        let service = process.release.identity.as_ref().map_or(own, |identity| identity.uid);
        if sender.uid != 0 && sender.uid != own && sender.uid != service {
            return Err(format!("it comes from user {}", sender.uid));
        }
        let Some(pid) = sender.pid else { return Ok(()) };
        let gone = match &sender.pidfd {
            Some(pidfd) => pidfd.has_exited(),
            None => matches!(proc::session(pid), Err(error) if error.raw_os_error() == Some(ESRCH)),
        };
        if gone || process.owns(pid) { Ok(()) } else { Err(format!("process {pid} is not one of this instance's")) }
    }

    fn on_message(&mut self, id: InstanceId, message: Message, fds: &mut Vec<OwnedFd>) {
        match message {
            Message::Ready => {
                let by_notify = self
                    .processes
                    .get(&id)
                    .is_some_and(|process| matches!(process.release.service.ready.by, crate::config::ReadyBy::Notify));
                if by_notify {
                    self.tell_core_of(id, InstanceEvent::Ready);
                }
            }
            Message::Stopping => self.tell_core_of(id, InstanceEvent::Stopping),
            Message::Status(text) => {
                let text = Some(text).filter(|text| !text.is_empty());
                if let Some(process) = self.processes.get_mut(&id)
                    && process.status != text
                {
                    process.status.clone_from(&text);
                    self.tell_status(id, text.as_deref().unwrap_or_default());
                }
            }
            Message::ExtendTimeout(by) => self.tell_core_of(id, InstanceEvent::Extend(by)),
            // Frequent, so it must stay cheap: it moves a deadline, and nothing is told or logged. Nor is it recorded: a
            // successor gives everybody a whole interval anew.
            Message::Watchdog => {
                let now = self.now();
                self.core.handle(now, Event::Instance(id, InstanceEvent::KeepAlive));
            }
            Message::WatchdogUsec(span) => self.tell_core_of(id, InstanceEvent::WatchdogInterval(span)),
            Message::WatchdogTrigger => self.tell_core_of(id, InstanceEvent::WatchdogTrigger),
            Message::MainPid(pid) => self.follow(id, pid),
            // Answered by closing its descriptor, once everything before it has been taken.
            Message::Barrier => {}
            // Known, and nothing follows from them here.
            Message::Reloading { .. } | Message::Errno(_) | Message::BusError(_) | Message::ExitStatus(_) => {}
            Message::FdStore { name, poll } => self.store(id, &name, poll, std::mem::take(fds)),
            Message::FdStoreRemove { name } => self.store_remove(id, &name),
        }
    }

    fn follow(&mut self, id: InstanceId, pid: i32) {
        let Some(process) = self.processes.get_mut(&id) else { return };
        let pid = Pid::from_raw(pid).filter(|pid| *pid != Pid::own());
        let followed = match pid {
            Some(pid) => process.follow(pid, &mut self.poller),
            None => Err(io::Error::other("not a process that can be followed")),
        };
        if let Err(error) = followed {
            self.ignored(id, "MAINPID=", &error.to_string());
        }
    }

    /// A service says what it is doing: part of the story while its generation is being upgraded or drained.
    fn tell_status(&mut self, id: InstanceId, text: &str) {
        let now = self.now();
        let generation = self.core.services().get(&id.service).and_then(|s| s.generations.get(&id.generation));
        let Some(upgrade) = generation.and_then(|generation| generation.upgrade) else { return };
        let news = News { event: "status", message: text.to_owned(), generation: Some(id.generation) };
        self.ledger.tell(upgrade, now, news);
    }

    // ---- listeners ------------------------------------------------------------------------------------------------

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

    /// One line about everything: `web@3 serving; web@2 draining, 12 connections, 20 s left`, and the latest upgrade if
    /// it did not succeed: `web@4 failed: never ready in 30 s`. Where that is too much, those that serve are counted.
    pub(super) fn status_line(&self, counted: Option<&crate::control::types::Status>) -> String {
        let now = self.now();
        let mut parts = Vec::new();
        let mut quiet = Vec::new();
        let ended = self.ledger.each_last_ended();
        for (id, service) in self.core.services() {
            let name = self.name_of(*id);
            if service.awaits_turn() {
                parts.push(format!("{name} waiting to start"));
            }
            if let Some(until) = service.paused_until() {
                parts.push(format!("{name} PAUSED, {} left at most", spoken(until.since(now))));
            }
            for generation in service.generations.values().rev() {
                let what = match generation.role {
                    Role::Starting => "starting".into(),
                    Role::Held { .. } => "ready, waiting for the others".into(),
                    Role::Soaking { until } => format!("soaking, {} left", spoken(until.since(now))),
                    Role::Rolling { .. } => {
                        format!("replacing, {} of {} ready", generation.available(), generation.seats.len())
                    }
                    Role::Stepping { .. } => {
                        let weights = service.weights();
                        let share = weights.iter().find(|(number, _)| *number == generation.number);
                        format!("canary with {} %", share.map_or(0, |(_, percent)| *percent))
                    }
                    Role::Switching => "switching".into(),
                    Role::Standby { until } => format!("standby, {} left", spoken(until.since(now))),
                    Role::Retreating => "given up, being replaced".into(),
                    Role::Serving if generation.is_up() => "serving".into(),
                    Role::Serving if generation.is_given_up() => "FAILED, given up".into(),
                    Role::Serving => "down, being restarted".into(),
                    Role::Draining | Role::Ending => {
                        let left = generation.instances.values().filter_map(|instance| instance.deadline()).max();
                        let left = left.filter(|at| *at != Time(u64::MAX)).map(|at| spoken(at.since(now)));
                        let connections = counted
                            .and_then(|status| status.services.iter().find(|service| service.name == name))
                            .and_then(|s| s.generations.iter().find(|g| g.generation == generation.number.0))
                            .and_then(|generation| generation.connections);
                        let connections = connections.map(|n| format!(", {n} connections")).unwrap_or_default();
                        format!(
                            "draining{connections}{}",
                            left.map(|left| format!(", {left} left")).unwrap_or_default()
                        )
                    }
                };
                if generation.role == Role::Serving && generation.is_up() {
                    quiet.push(parts.len());
                }
                parts.push(format!("{name}@{} {what}", generation.number));
            }
            if service.upgrade.is_none() {
                parts.extend(ended.get(name).copied().and_then(failure));
            }
        }
        one_line(parts, &quiet)
    }
}

/// What systemd takes of a message is 4096 bytes, and what it shows of a status is one line.
const LINE: usize = 2000;

/// All the parts, as far as they fit: those that are quiet become a number first.
fn one_line(mut parts: Vec<String>, quiet: &[usize]) -> String {
    if parts.is_empty() {
        return "nothing runs".into();
    }
    if parts.iter().map(|part| part.len() + 2).sum::<usize>() > LINE {
        for place in quiet.iter().rev() {
            parts.remove(*place);
        }
        parts.insert(0, format!("{} serving", quiet.len()));
    }
    let mut line = parts.join("; ");
    if line.len() > LINE {
        let end = (0..=LINE).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
        line.truncate(end);
        line.push('…');
    }
    line
}

/// How an upgrade ended, unless it succeeded.
fn failure(upgrade: &UpgradeStatus) -> Option<String> {
    let verdict = upgrade.verdict.as_ref().filter(|verdict| verdict.verdict != Verdict::Upgraded)?;
    let candidate = upgrade.generation.map_or_else(String::new, |number| format!("@{number}"));
    // A reason from the config goes on with the place in the file; the log has all of it.
    let reason = verdict.reason.as_deref().and_then(|reason| reason.lines().next());
    let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    Some(format!("{}{candidate} {}{reason}", upgrade.service, verdict.verdict))
}

impl From<ExitInfo> for Exit {
    fn from(exit: ExitInfo) -> Self {
        match exit {
            ExitInfo::Code(code) => Self::Code(code),
            ExitInfo::Signal { signal, core } => Self::Signal { signal, core },
        }
    }
}
