//! Holding: there is a state, and it cannot be gone on with. What runs goes on serving, its descriptors stay where they
//! are kept, and nothing is done but what an operator asks for: status, stop, and reexec, which is another attempt.
//!
//! That is so when the state is of a newer zdsup, cannot be read, or has killed supervisor after supervisor. Nothing in
//! here looks into it.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use futures_util::StreamExt;
use nix::libc::{SIGHUP, SIGINT, SIGKILL, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook_tokio::Signals;
use tokio::sync::{mpsc, watch};

use super::event_loop::{answer, until};
use super::paths::RuntimeDirectory;
use super::survival::{FdStore, Impossible, Name, Part, names};
use super::systemd::Systemd;
use super::{LAST_WORDS, Options, StartError, leftovers, metrics, release};
use crate::control::server::{self, Access, Command, Rejection, RejectionKind};
use crate::control::types::{Done, Status, SupervisorStatus};
use crate::core::{Time, spoken};
use crate::exit::Exit;
use crate::sys::pidfd::PidFd;
use crate::sys::{clock, signal};

/// How long processes may take to end before they are killed: what a config would say is not known.
const DRAIN: Duration = Duration::from_secs(30);
/// How often it is looked whether they have.
const LOOK: Duration = Duration::from_millis(50);

/// What is held.
struct Hold {
    name: String,
    reason: String,
    since: Time,
    fds: HashMap<Name, OwnedFd>,
    systemd: Systemd,
    /// When everything that has been told to stop is killed.
    kill_at: Option<Time>,
    killed: bool,
}

/// Holds until an operator decides.
pub(super) async fn hold(options: &Options, impossible: Impossible) -> Result<Exit, StartError> {
    let now = Time(clock::monotonic());
    let path = RuntimeDirectory::find(options.runtime_dir.as_deref(), &options.name)?;
    let runtime_directory = RuntimeDirectory::adopt(path, false, None)?;
    let Impossible { reason, mut fds, memory, .. } = impossible;
    let listener = runtime_directory.listen_on(fds.remove(&Name::Control))?;
    let unserved = |error: std::io::Error| StartError::internal("cannot serve the control socket", &error);
    let listener = tokio::net::UnixListener::from_std(listener).map_err(unserved)?;
    let access = options
        .config
        .as_ref()
        .map_or_else(|| Access { uid: nix::unistd::geteuid().as_raw(), ..Access::default() }, release::access);
    let (_access, access_seen) = watch::channel(access);
    let (commands_in, mut commands) = mpsc::channel(64);
    tokio::spawn(server::serve(listener, access_seen, commands_in));
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2])
        .map_err(|error| StartError::internal("cannot handle signals", &error))?;
    signal::unblock_all();
    let mut store = FdStore::from_environment(names(&fds));
    let mut hold = Hold {
        name: options.name.clone(),
        reason,
        since: now,
        fds,
        systemd: Systemd::from_environment(now),
        kill_at: None,
        killed: false,
    };
    tracing::error!("HOLDING: {}; what runs goes on, and only status, stop and reexec are taken", hold.reason);
    hold.systemd.ready(&format!("HOLDING: {}", hold.reason));
    let exit = loop {
        let now = Time(clock::monotonic());
        if hold.kill_at.is_some() && hold.is_over(now) {
            break Exit::Done;
        }
        let looks = hold.kill_at.map(|_| now.after(LOOK));
        let deadline = hold.systemd.deadline(now, hold.kill_at.is_some()).into_iter().chain(looks).min();
        tokio::select! {
            Some(signal) = signals.next() => match signal {
                SIGUSR1 => break Exit::Done,
                SIGUSR2 => break hold.another_attempt(memory.as_ref()),
                SIGTERM | SIGINT => hold.stop(now),
                _ => tracing::error!("a reload is not taken: {}", hold.reason),
            },
            Some(command) = commands.recv() => {
                if let Some(exit) = hold.on_command(command, now, memory.as_ref()) {
                    break exit;
                }
            }
            () = until(deadline) => {
                hold.systemd.tick(now);
            }
        }
    };
    answer().await;
    if let Some(kill_at) = hold.kill_at {
        let rest = kill_at.since(Time(clock::monotonic()));
        if let Err(error) = leftovers::end_after_holding(&runtime_directory, rest, &mut hold.systemd).await {
            tracing::error!("{error}");
        }
        // Nothing is left that somebody could go on with.
        if let Some(store) = &mut store {
            let _ = store.drop_others(&BTreeSet::new());
        }
        runtime_directory.clear();
    }
    hold.systemd.finish(LAST_WORDS).await;
    Ok(exit)
}

impl Hold {
    fn on_command(&mut self, command: Command, now: Time, memory: Option<&super::survival::Memory>) -> Option<Exit> {
        let refused = || Rejection {
            kind: RejectionKind::Unavailable,
            error: format!("the supervisor only holds what runs: {}", self.reason),
            hint: Some("`zdsup reexec` tries again, with the binary that is installed now".into()),
        };
        // Whoever asked may be gone: then nobody wants the answer.
        match command {
            Command::Status { reply } => drop(reply.send(self.status(now))),
            Command::Request { reply, .. } => drop(reply.send(Err(refused()))),
            Command::Abort { reply, .. } => drop(reply.send(Err(refused()))),
            Command::Pause { reply, .. } | Command::Resume { reply, .. } => drop(reply.send(Err(refused()))),
            Command::Promote { reply, .. } => drop(reply.send(Err(refused()))),
            Command::Scale { reply, .. } => drop(reply.send(Err(refused()))),
            Command::Upgrades { reply } => drop(reply.send(Vec::new())),
            Command::Upgrade { reply, .. } => drop(reply.send(None)),
            Command::Events { reply, .. } => drop(reply.send(None)),
            Command::Feed { reply, .. } => drop(reply.send(None)),
            Command::Metrics { reply } => drop(reply.send(metrics::holding(&self.status(now)))),
            Command::History { reply, .. } => drop(reply.send(Err(refused()))),
            Command::Kpi { reply, .. } => drop(reply.send(Err(refused()))),
            Command::Stop { target, reply, .. } if target.service.is_some() => drop(reply.send(Err(refused()))),
            Command::Stop { reply, uid, .. } => {
                tracing::info!("stop requested by user {uid}");
                self.stop(now);
                let message = format!("stopping: draining takes {} at most", spoken(DRAIN));
                drop(reply.send(Ok(Done { message })));
            }
            Command::Reexec { reply, uid, .. } => {
                tracing::info!("reexec requested by user {uid}");
                let message = "the supervisor ends, for whoever started it to start it again".to_owned();
                drop(reply.send(Ok(Done { message })));
                return Some(self.another_attempt(memory));
            }
        }
        None
    }

    /// Ends with a failure, so that whoever keeps the descriptors starts another one, whose death would be the first.
    fn another_attempt(&self, memory: Option<&super::survival::Memory>) -> Exit {
        if let Some(Err(error)) = memory.map(|memory| memory.set_deaths(0)) {
            tracing::warn!("the state cannot be written down: {error}");
        }
        Exit::Internal
    }

    /// The stop signal to every process; a second time, SIGKILL.
    fn stop(&mut self, now: Time) {
        self.systemd.stopping("stopping what was held");
        self.signal(if self.kill_at.is_some() { SIGKILL } else { SIGTERM });
        self.kill_at.get_or_insert(now.after(DRAIN));
    }

    fn signal(&self, signal: i32) {
        for process in self.processes() {
            // The group goes with its leader; a process that is gone is what was wanted.
            let _ = process.signal_group(signal);
            let _ = process.signal(signal);
        }
    }

    /// Whether every process has ended, killing those that take too long.
    fn is_over(&mut self, now: Time) -> bool {
        if self.kill_at.is_some_and(|at| at <= now) && !std::mem::replace(&mut self.killed, true) {
            tracing::warn!("not everything ended in {}: killed", spoken(DRAIN));
            self.signal(SIGKILL);
        }
        self.processes().all(|process| process.has_exited())
    }

    fn processes(&self) -> impl Iterator<Item = PidFd> {
        let pidfds = self.fds.iter().filter(|(name, _)| matches!(name, Name::Process(_, Part::Pid(_))));
        // A copy that cannot be made leaves its process to the next look.
        pidfds.filter_map(|(_, fd)| fd.as_fd().try_clone_to_owned().ok()).map(PidFd::from)
    }

    fn status(&self, now: Time) -> Status {
        let supervisor = SupervisorStatus {
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            age: now.since(self.since).as_secs_f64(),
            incarnation: 0,
            holding: Some(self.reason.clone()),
            memory: None,
            config: None,
            stopping: self.kill_at.is_some(),
            lines_dropped: super::log::dropped(),
        };
        Status { supervisor, services: Vec::new() }
    }
}
