//! One instance as the shell knows it: its processes, its notify socket, its output, its proof of readiness.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use super::errand::Errand;
use super::health::Checkup;
use super::ignored::Ignored;
use super::listeners::Socket;
use super::output::{Flow, Stream, Tail};
use super::poller::{Poller, Source, Token};
use super::release::{Release, Surroundings};
use super::sink::Sink;
use super::tokens;
use crate::config::{Health, ReadyBy};
use crate::core::{InstanceId, Slot, Time};
use crate::sys::Pid;
use crate::sys::cgroup::{Cgroup, Delegated};
use crate::sys::limits::{Nofile, Resource};
use crate::sys::notify::NotifySocket;
use crate::sys::pidfd::{self, PidFd};
use crate::sys::proc;
use crate::sys::shim::{Blank, Plan, Program, Shim};
use crate::sys::socket::{self, Bound, Endpoint, Options};

mod adopted;
mod readiness;
mod streams;

use readiness::Probe;
use streams::Output;

/// How many checks may wait to be accepted. One is made at a time; of those that are given up something may be left.
const PRIVATE_BACKLOG: u32 = 16;

/// What starting an instance takes beside its release.
pub(super) struct Ground<'a> {
    pub(super) poller: &'a mut Poller,
    pub(super) service: &'a str,
    pub(super) notify_path: PathBuf,
    pub(super) cgroups: Option<&'a Delegated>,
    pub(super) surroundings: &'a Surroundings,
    pub(super) stdout: &'a Sink,
    pub(super) stderr: &'a Sink,
    /// Whether captured lines are prefixed and coloured: somebody reads them on a terminal.
    pub(super) terminal: bool,
}

/// A descriptor that a process is passed, and its entry in LISTEN_FDNAMES.
type Named<'a> = (&'a str, BorrowedFd<'a>);

/// One instance.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) id: InstanceId,
    /// The place that it accepts from, where traffic is steered.
    pub(super) slot: Slot,
    /// What its descriptors are called by.
    pub(super) token: u64,
    /// Whether its main process and its leader are our children: those of a predecessor that died are not.
    pub(super) is_ours: bool,
    pub(super) release: Arc<Release>,
    pub(super) notify: Watched<NotifySocket>,
    /// The shim's end of the conversation, until it has become the program.
    shim: Option<Watched<Shim>>,
    /// The shim was told to become the program.
    told_to_go: bool,
    /// The main process: the one whose end is the instance's.
    main: Watched<PidFd>,
    pub(super) pid: Pid,
    /// The leader of its session and process group, where that is another.
    leader: Option<Watched<PidFd>>,
    pub(super) leader_pid: Pid,
    /// Whether the leader's number may have been given to another process.
    leader_reaped: bool,
    pub(super) cgroup: Option<Cgroup>,
    cgroup_events: Option<Watched<OwnedFd>>,
    stdout: Option<Watched<Stream>>,
    stderr: Option<Watched<Stream>>,
    pub(super) tail: Tail,
    /// Where to look for its output, where it does not pass through us.
    pub(super) output_elsewhere: Option<String>,
    ready_fd: Option<Watched<File>>,
    pub(super) probe: Option<Probe>,
    /// The listener that it has for itself, for its health checks.
    pub(super) private: Option<Arc<Bound>>,
    /// Its health checks, from the moment that it says that it is ready until it is told to stop.
    pub(super) checkup: Option<Checkup>,
    /// Its last STATUS=.
    pub(super) status: Option<String>,
    /// Things an operator should know.
    pub(super) notes: Vec<String>,
    /// Messages of it that were ignored.
    pub(super) ignored: Ignored,
    /// Its main process is gone, and the rest is being waited for.
    pub(super) lingering: bool,
    /// When the rest is looked for again: nobody tells us of the end of processes that are not ours.
    pub(super) search_at: Option<Time>,
}

/// A descriptor and its registration.
#[derive(Debug)]
pub(super) struct Watched<T> {
    pub(super) it: T,
    token: Token,
}

impl<T: AsFd> Watched<T> {
    pub(super) fn new(it: T, source: Source, poller: &mut Poller) -> io::Result<Self> {
        let token = poller.add(&it, source)?;
        Ok(Self { it, token })
    }

    pub(super) fn end(self, poller: &mut Poller) {
        poller.remove(&self.it, self.token);
    }
}

/// How a main process stands.
#[must_use]
pub(super) enum Ending {
    /// It lives.
    Alive,
    /// It ended so.
    Known(pidfd::ExitInfo),
    /// It ended, and nobody can say how before its parent has reaped it.
    Unreaped,
    /// It ended, and nobody can say how.
    Unknown,
}

/// Where a launch stands.
#[must_use]
pub(super) enum Launch {
    /// Nothing new.
    Waiting,
    /// It waits for `go`.
    Prepared,
    /// The program runs.
    Executed,
    /// It came to nothing.
    Failed(String),
}

impl Process {
    /// Tells the shim that is to become the instance what to do: the one at hand, else one that is made. Does not wait
    /// for it. `stored`: what it is passed after its listeners.
    pub(super) fn start(
        (id, slot): (InstanceId, Slot),
        release: Arc<Release>,
        blank: Option<Blank>,
        stored: Vec<Named<'_>>,
        ground: &mut Ground<'_>,
    ) -> io::Result<Self> {
        let name = format!("{}@{}.{}", ground.service, id.generation, id.number);
        let cgroup = ground.cgroups.map(|delegated| delegated.create(&name)).transpose();
        let cgroup = cgroup.map_err(|error| failed(&format!("make cgroup {name}"), &error))?;
        if let Some(cgroup) = &cgroup
            && let Some(owner) = ground.notify_path.parent().and_then(std::path::Path::parent)
        {
            // Where it cannot be marked, what is left is found by its environment alone.
            let _ = cgroup.mark(owner);
        }
        let path = cgroup.as_ref().map(|cgroup| cgroup.path().to_owned());
        let started = Self::start_in((id, slot), &name, release, blank, stored, cgroup, ground);
        if started.is_err()
            && let Some(path) = path
        {
            // A shim that is on its way out may still be in it; the next start of this number replaces it.
            let _ = std::fs::remove_dir(path);
        }
        started
    }

    fn start_in(
        (id, slot): (InstanceId, Slot),
        name: &str,
        release: Arc<Release>,
        blank: Option<Blank>,
        stored: Vec<Named<'_>>,
        cgroup: Option<Cgroup>,
        ground: &mut Ground<'_>,
    ) -> io::Result<Self> {
        let notify = NotifySocket::bind(&ground.notify_path)
            .map_err(|error| failed(&format!("bind {}", ground.notify_path.display()), &error))?;
        let output = Output::open(name, &release, ground)?;
        let (ready_fd, ready_theirs) = match release.service.ready.by {
            ReadyBy::Fd(number) => {
                let (ours, theirs) = io::pipe()?;
                (Some(File::from(OwnedFd::from(ours))), Some((number, OwnedFd::from(theirs))))
            }
            ReadyBy::Notify | ReadyBy::Exec { .. } | ReadyBy::Alive(_) => (None, None),
        };
        let streams = (output.stdout_theirs.as_fd(), output.stderr_theirs.as_fd());
        let mut plan =
            plan(&release, &release.program.program, release.argv.clone(), streams, ground.surroundings.nofile);
        plan.env.extend(environment_of_instance(id, slot, name, ground));
        if release.service.fd_store_max > 0 {
            plan.env.push(("FDSTORE".into(), release.service.fd_store_max.to_string().into()));
        }
        let listeners = release.listeners.iter();
        let sockets: Vec<(&str, Arc<Socket>)> =
            listeners.map(|listener| (listener.name.as_str(), listener.socket.of(slot))).collect();
        let listeners = sockets.iter().map(|(name, socket)| (*name, socket.bound.fd.as_fd()));
        let private_name = release.service.health.as_ref().and_then(Health::private);
        let private = private_name.map(|_| private_listener()).transpose()?;
        let own = private_name.zip(private.as_ref().map(|bound| bound.fd.as_fd()));
        let passed: Vec<Named<'_>> = listeners.chain(own).chain(stored).collect();
        plan.env.extend(names(&passed));
        plan.listen_pid = release.service.listen_pid;
        if let Some(timeout) = release.service.watchdog.timeout {
            plan.env.push(("WATCHDOG_USEC".into(), timeout.as_micros().to_string().into()));
            // A wrapper would keep from its child whose watchdog it is (sd_watchdog_enabled(3)).
            plan.watchdog_pid = release.service.listen_pid;
        }
        plan.fds = passed.iter().map(|(_, fd)| *fd).collect();
        plan.extra = ready_theirs.as_ref().map(|(number, fd)| (*number, fd.as_fd()));
        plan.cgroup = cgroup.as_ref().map(|cgroup| cgroup.path().to_owned());

        let shim = blank.map_or_else(Blank::start, Ok).and_then(|blank| blank.send(&plan));
        let shim = shim.map_err(|error| failed("make a process", &error))?;
        drop(plan);
        let pid = shim.pid;
        let main = PidFd::from(shim.pidfd.as_fd().try_clone_to_owned()?);
        let probe = match &release.service.ready.by {
            ReadyBy::Exec { interval, .. } => Some(Probe { interval: *interval, due: None, running: None }),
            ReadyBy::Notify | ReadyBy::Fd(_) | ReadyBy::Alive(_) => None,
        };
        let poller = &mut *ground.poller;
        let mut watch =
            |stream: Option<Stream>, source| stream.map(|stream| Watched::new(stream, source, poller)).transpose();
        let stdout = watch(output.stdout, Source::Stdout(id))?;
        let stderr = watch(output.stderr, Source::Stderr(id))?;
        Ok(Self {
            id,
            slot,
            token: tokens::fresh(),
            is_ours: true,
            release,
            notify: Watched::new(notify, Source::Notify(id), poller)?,
            shim: Some(Watched::new(shim, Source::Shim(id), poller)?),
            told_to_go: false,
            main: Watched::new(main, Source::Exit(id), poller)?,
            pid,
            leader: None,
            leader_pid: pid,
            leader_reaped: false,
            cgroup,
            cgroup_events: None,
            stdout,
            stderr,
            tail: Tail::default(),
            output_elsewhere: output.elsewhere,
            ready_fd: ready_fd.map(|fd| Watched::new(fd, Source::ReadyFd(id), poller)).transpose()?,
            probe,
            private: private.map(Arc::new),
            checkup: None,
            status: None,
            notes: Vec::new(),
            ignored: Ignored::default(),
            lingering: false,
            search_at: None,
        })
    }

    /// What it accepts from.
    pub(super) fn sockets(&self) -> impl Iterator<Item = Arc<Socket>> {
        self.release.listeners.iter().map(|listener| listener.socket.of(self.slot))
    }

    // ---- the launch -----------------------------------------------------------------------------------------------

    /// What the shim has to say.
    pub(super) fn launch(&mut self, poller: &mut Poller) -> Launch {
        let Some(shim) = &self.shim else { return Launch::Waiting };
        let report = match shim.it.receive() {
            Ok(Some(report)) => report,
            Ok(None) => return Launch::Waiting,
            Err(error) => return self.launch_over(poller, Launch::Failed(format!("lost the child: {error}"))),
        };
        use crate::sys::shim::Report;
        match report {
            Report::Prepared => Launch::Prepared,
            Report::Failed { step, error, hint } => {
                self.launch_over(poller, Launch::Failed(failure(&step, &error, hint.as_deref())))
            }
            // It executed the program; or it died, which its pidfd tells.
            Report::Closed if self.told_to_go => self.launch_over(poller, Launch::Executed),
            Report::Closed => self.launch_over(poller, Launch::Waiting),
        }
    }

    /// Lets the prepared process run its program.
    pub(super) fn go(&mut self) -> io::Result<()> {
        self.told_to_go = true;
        self.shim.as_ref().map_or(Ok(()), |shim| shim.it.go())
    }

    /// Whether the program is known to have been executed.
    pub(super) fn is_launched(&self) -> bool {
        self.shim.is_none()
    }

    fn launch_over(&mut self, poller: &mut Poller, outcome: Launch) -> Launch {
        if let Some(shim) = self.shim.take() {
            shim.end(poller);
        }
        outcome
    }

    // ---- its end --------------------------------------------------------------------------------------------------

    /// Sends a signal to the main process.
    pub(super) fn signal(&self, signal: i32) -> io::Result<()> {
        self.main.it.signal(signal)
    }

    /// How the main process ended, if it has. It stays unreaped where it leads the group: its number is still needed.
    pub(super) fn exit(&self) -> Ending {
        if !self.main.it.has_exited() {
            return Ending::Alive;
        }
        match self.main.it.peek_exit() {
            Ok(Some(exit)) => Ending::Known(exit),
            Ok(None) => Ending::Alive,
            // No child of ours: the kernel tells once its parent has reaped it.
            Err(_) => match self.main.it.exit_info() {
                Ok(Some(exit)) => Ending::Known(exit),
                Ok(None) => Ending::Unreaped,
                Err(_) => Ending::Unknown,
            },
        }
    }

    /// Its main process has ended, and is somebody else's to reap. Until it is, its end is no news: a descriptor to wait
    /// on.
    pub(super) fn await_reaping(&mut self, poller: &mut Poller) -> io::Result<OwnedFd> {
        poller.remove(&self.main.it, self.main.token);
        self.main.it.as_fd().try_clone_to_owned()
    }

    /// Signals the group, if its number is certain to be its own. ESRCH: they are gone.
    fn signal_group(&self, signal: i32) -> io::Result<()> {
        let leader = match &self.leader {
            Some(leader) => &leader.it,
            None if self.pid == self.leader_pid => &self.main.it,
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        match leader.signal_group(signal) {
            // Before Linux 6.9. The number is the group's for as long as nobody can have reaped its leader.
            Err(error) if error.raw_os_error() == Some(nix::libc::EINVAL) => {
                let certain = !self.leader_reaped && (self.is_ours || !leader.has_exited());
                if certain { pidfd::kill_group(self.leader_pid, signal) } else { Err(error) }
            }
            other => other,
        }
    }

    /// SIGKILL to every process of the instance.
    pub(super) fn kill(&self) {
        let _ = self.signal_group(nix::libc::SIGKILL);
        let _ = self.main.it.signal(nix::libc::SIGKILL);
        if let Some(cgroup) = &self.cgroup
            && let Err(error) = cgroup.kill()
        {
            tracing::warn!("cannot kill cgroup {}: {error}", cgroup.path().display());
        }
    }

    /// The main process has ended: signals what is left of the group and the cgroup, and reaps the main process.
    pub(super) fn sweep(&mut self, force: bool, poller: &mut Poller) {
        let signal = if force { nix::libc::SIGKILL } else { nix::libc::SIGTERM };
        let _ = self.signal_group(signal);
        match &self.cgroup {
            Some(cgroup) if force => {
                let _ = cgroup.kill();
            }
            Some(cgroup) => {
                for pid in cgroup.procs().unwrap_or_default() {
                    // Looked at again once the number cannot be given to another process any more.
                    let Ok(process) = PidFd::open(pid) else { continue };
                    if cgroup.contains(pid).unwrap_or(false) {
                        let _ = process.signal(signal);
                    }
                }
            }
            None => {}
        }
        poller.remove(&self.main.it, self.main.token);
        let _ = self.main.it.reap();
        match &self.leader {
            None => self.leader_reaped = true,
            Some(leader) if leader.it.has_exited() => self.reap_leader(poller),
            Some(_) => {}
        }
        self.lingering = true;
    }

    /// The leader ended while another process is the main one, or is being waited for.
    pub(super) fn reap_leader(&mut self, poller: &mut Poller) {
        if let Some(leader) = self.leader.take() {
            let _ = leader.it.reap();
            leader.end(poller);
            self.leader_reaped = true;
        }
    }

    /// Whether no process is left, as far as can be told at a glance; `None`: only a search of /proc can tell.
    pub(super) fn is_empty(&mut self, strangers: bool, poller: &mut Poller) -> Option<bool> {
        if self.leader.is_some() {
            return Some(false);
        }
        if let Some(cgroup) = &self.cgroup {
            if self.cgroup_events.is_none()
                && let Ok(fd) = cgroup.events_fd()
                && let Ok(token) = poller.add_priority(&fd, Source::Cgroup(self.id))
            {
                self.cgroup_events = Some(Watched { it: fd, token });
            }
            // Where it cannot be told, it is looked at again at the deadline.
            let empty = match &self.cgroup_events {
                Some(events) => Cgroup::is_empty_by(events.it.as_fd()),
                None => cgroup.is_empty(),
            };
            return Some(empty.unwrap_or(false));
        }
        if !self.group_is_gone() {
            return Some(false);
        }
        if strangers || !self.is_ours { None } else { Some(true) }
    }

    /// Whether no process is left in its group.
    pub(super) fn group_is_gone(&self) -> bool {
        // The number of a leader that was reaped is given to another only once its group and session are gone.
        let given_away = self.leader_reaped && proc::exists(self.leader_pid);
        given_away || proc::group_is_empty(self.leader_pid)
    }

    /// Lets go of everything that is registered.
    pub(super) fn forget(mut self, poller: &mut Poller) {
        self.drain_output();
        for stream in [self.stdout.take(), self.stderr.take()].into_iter().flatten() {
            stream.end(poller);
        }
        self.stop_probe(poller);
        self.stop_ready_fd(poller);
        if let Some(checkup) = &mut self.checkup {
            checkup.end(poller);
        }
        if let Some(events) = self.cgroup_events.take() {
            events.end(poller);
        }
        if let Some(shim) = self.shim.take() {
            shim.end(poller);
        }
        if let Some(leader) = self.leader.take() {
            leader.end(poller);
        }
        if let Some(cgroup) = &self.cgroup
            && let Err(error) = cgroup.remove()
        {
            tracing::warn!("cannot remove cgroup {}: {error}", cgroup.path().display());
        }
        self.main.end(poller);
        self.notify.end(poller);
    }

    // ---- its main process -----------------------------------------------------------------------------------------

    /// Whether this is the number of one of its processes that only we can reap.
    pub(super) fn has_child(&self, pid: Pid) -> bool {
        (pid == self.pid && !self.lingering) || self.is_led_by(pid)
    }

    /// Whether this is its leader, where that is another than its main process. The number of one that was reaped may
    /// be anybody's.
    pub(super) fn is_led_by(&self, pid: Pid) -> bool {
        pid == self.leader_pid && self.leader.is_some()
    }

    /// Whether a process that exists is one of the instance's.
    pub(super) fn owns(&self, pid: Pid) -> bool {
        if self.has_child(pid) {
            return true;
        }
        if let Some(cgroup) = &self.cgroup {
            return cgroup.contains(pid).unwrap_or(false);
        }
        let path = self.notify.it.path().as_os_str().as_bytes();
        proc::is_in_session(pid, self.leader_pid)
            || proc::environ_has(pid, "NOTIFY_SOCKET", &String::from_utf8_lossy(path)).unwrap_or(false)
    }

    /// Makes another process of the instance its main one (MAINPID=).
    pub(super) fn follow(&mut self, pid: Pid, poller: &mut Poller) -> io::Result<()> {
        if pid == self.pid {
            return Ok(());
        }
        if self.lingering {
            return Err(io::Error::other("its main process has ended"));
        }
        let process = PidFd::open(pid)?;
        if process.has_exited() || !self.owns(pid) {
            return Err(io::Error::other("not a living process of this instance"));
        }
        let main = Watched::new(process, Source::Exit(self.id), poller)?;
        let former = std::mem::replace(&mut self.main, main);
        if pid == self.leader_pid
            && let Some(leader) = self.leader.take()
        {
            leader.end(poller);
        }
        if self.pid == self.leader_pid {
            poller.remove(&former.it, former.token);
            self.leader = Some(Watched::new(former.it, Source::LeaderExit(self.id), poller)?);
        } else {
            former.end(poller);
        }
        self.pid = pid;
        Ok(())
    }

    /// Binds its notify socket anew, whose file is gone.
    pub(super) fn rebind_notify(&mut self, poller: &mut Poller) -> io::Result<()> {
        poller.remove(&self.notify.it, self.notify.token);
        let bound = self.notify.it.bind_again();
        self.notify.token = poller.add(&self.notify.it, Source::Notify(self.id))?;
        bound
    }

    // ---- commands about it ----------------------------------------------------------------------------------------

    /// Runs a command that is about it: in its surroundings, with MAINPID in its environment.
    pub(super) fn errand(
        &self,
        program: &Program,
        command: &[OsString],
        (shim, exit): (Source, Source),
        ground: &mut Ground<'_>,
    ) -> io::Result<Errand> {
        let null = File::options().write(true).open("/dev/null")?;
        let mut plan =
            plan(&self.release, program, command.to_vec(), (null.as_fd(), null.as_fd()), ground.surroundings.nofile);
        let name = format!("{}@{}.{}", ground.service, self.id.generation, self.id.number);
        plan.env.extend(environment_of_instance(self.id, self.slot, &name, ground));
        plan.env.push(("MAINPID".into(), self.pid.to_string().into()));
        plan.cgroup = self.cgroup.as_ref().map(|cgroup| cgroup.path().to_owned());
        Errand::begin(&plan, shim, exit, ground.poller)
    }

    /// Whether this is the process of a health check.
    pub(super) fn is_check(&self, pid: Pid) -> bool {
        self.checkup.as_ref().is_some_and(|checkup| checkup.is(pid))
    }

    /// The health check that runs is ended, to be made again at once.
    pub(super) fn interrupt_check(&mut self, poller: &mut Poller) {
        if let Some(checkup) = &mut self.checkup {
            checkup.interrupt(poller);
        }
    }

    // ---- its output -----------------------------------------------------------------------------------------------

    /// Reads a batch of what it prints.
    pub(super) fn pump(&mut self, source: Source, poller: &mut Poller) {
        let stream = if source == Source::Stdout(self.id) { &mut self.stdout } else { &mut self.stderr };
        let Some(watched) = stream else { return };
        if watched.it.pump(&mut self.tail) == Flow::Ended
            && let Some(ended) = stream.take()
        {
            ended.end(poller);
        }
    }

    /// Reads what it has printed so far, within reason: the reason for its end may be there.
    pub(super) fn drain_output(&mut self) {
        for stream in [&mut self.stdout, &mut self.stderr].into_iter().flatten() {
            for _ in 0..16 {
                if stream.it.pump(&mut self.tail) != Flow::More {
                    break;
                }
            }
        }
    }
}

fn failed(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("failed to {what}: {}", crate::sys::describe(error)))
}

pub(super) fn failure(step: &str, error: &str, hint: Option<&str>) -> String {
    match hint {
        Some(hint) => format!("cannot {step}: {error} ({hint})"),
        None => format!("cannot {step}: {error}"),
    }
}

/// What an instance, its readiness command and the hooks have in common.
pub(super) fn plan<'a>(
    release: &Release,
    program: &'a Program,
    argv: Vec<OsString>,
    (stdout, stderr): (BorrowedFd<'a>, BorrowedFd<'a>),
    nofile: Nofile,
) -> Plan<'a> {
    let privileges = &release.service.privileges;
    let limit = |(name, (soft, hard)): (&String, &(u64, u64))| Some((Resource::from_name(name)?, *soft, *hard));
    Plan {
        program,
        argv,
        env: release.environment.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        directory: release.directory.clone(),
        stdout,
        stderr,
        fds: Vec::new(),
        extra: None,
        listen_pid: false,
        watchdog_pid: false,
        identity: release.identity.clone(),
        umask: privileges.umask,
        limits: privileges.limits.iter().filter_map(limit).collect(),
        nofile,
        nice: privileges.nice,
        oom_score_adjust: privileges.oom_score_adjust,
        no_new_privileges: privileges.no_new_privileges,
        cgroup: None,
    }
}

fn environment_of_instance(id: InstanceId, slot: Slot, name: &str, ground: &Ground<'_>) -> Vec<(OsString, OsString)> {
    vec![
        ("NOTIFY_SOCKET".into(), ground.notify_path.clone().into()),
        ("ZDSUP_SERVICE".into(), ground.service.into()),
        ("ZDSUP_GENERATION".into(), id.generation.to_string().into()),
        ("ZDSUP_INSTANCE".into(), name.into()),
        ("ZDSUP_SLOT".into(), ground.surroundings.name_of_slot(slot).to_string().into()),
    ]
}

/// A listener for health checks alone.
fn private_listener() -> io::Result<Bound> {
    let anywhere = Endpoint::Tcp((Ipv4Addr::LOCALHOST, 0).into());
    let options = Options { backlog: PRIVATE_BACKLOG, ..Options::default() };
    socket::bind(&anywhere, &options).map_err(|error| io::Error::other(format!("private listener: {error}")))
}

/// LISTEN_FDS and LISTEN_FDNAMES (sd_listen_fds(3)); LISTEN_PID is for the process itself to know.
fn names(passed: &[Named<'_>]) -> Vec<(OsString, OsString)> {
    if passed.is_empty() {
        return Vec::new();
    }
    let names: Vec<&str> = passed.iter().map(|(name, _)| *name).collect();
    vec![("LISTEN_FDS".into(), names.len().to_string().into()), ("LISTEN_FDNAMES".into(), names.join(":").into())]
}
