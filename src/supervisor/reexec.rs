//! Replacing the supervisor's own program: the same process, with the same children, executes another binary.
//!
//! ```text
//!  asked ─► resolve the binary (off the loop) ─► try it: `BINARY --check-state` on the state, in a child
//!                                                    │                     │
//!                                         it says that it can go on   it cannot: nothing has happened
//!                                                    ▼
//!                      tell whoever listens ─► state with the numbers of all descriptors ─► execve
//! ```
//!
//! What was begun and not answered, such as a release that is being pinned, is begun anew by the successor.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{F_SETFD, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use tokio::sync::oneshot;

use super::errand::Errand;
use super::poller::Source;
use super::survival::{self, Memory, Name, STATE_FD};
use super::{Elsewhere, End, LAST_WORDS, Supervisor, inherited};
use crate::control::server::{Rejection, RejectionKind};
use crate::control::types::Done;
use crate::core::Time;
use crate::sys::pidfd::ExitInfo;
use crate::sys::shim::{Plan, Program};
use crate::sys::{Pid, describe, proc, signal};

/// How long a new binary may take to read the state; an answer over the control socket takes little more.
const TRIAL: Duration = Duration::from_secs(8);
/// How often it is looked whether our output was read.
const LOOK: Duration = Duration::from_millis(2);
/// The descriptor on which it finds the state.
const TRIAL_FD: u32 = 3;
/// The argument that asks for it.
const ARGUMENT: &str = "--check-state";
/// What it says when it can go on with it: a program that is no zdsup says nothing of the kind.
const WORD: &str = "zdsup can go on with this state";
/// The most that is shown of what it says otherwise, bytes.
const SAID_MAX: usize = 2048;

/// Where the answer to a request goes.
pub(super) type Reply = oneshot::Sender<Result<Done, Rejection>>;

/// A replacement on its way.
#[derive(Debug)]
pub(super) struct Reexec {
    /// What is to be executed, as it was asked for.
    binary: PathBuf,
    trial: Option<Errand>,
    said: Option<File>,
    deadline: Time,
    /// Until when it is waited for whoever reads our output: what waits for a reader is lost with the program.
    patience: Option<Time>,
    reply: Option<Reply>,
}

impl Reexec {
    /// When it has taken too long, or may be over.
    pub(super) fn deadline(&self, now: Time) -> Time {
        self.patience.map_or(self.deadline, |patience| patience.min(now.after(LOOK)).min(self.deadline))
    }

    /// Whether this is the process of the trial.
    pub(super) fn is(&self, pid: Pid) -> bool {
        self.trial.as_ref().is_some_and(|trial| trial.is(pid))
    }
}

impl Supervisor {
    /// Begins it. Without a binary: the one that is at our own path now.
    pub(super) fn reexec(&mut self, binary: Option<PathBuf>, reply: Option<Reply>) {
        let reject = |reply: Option<Reply>, error: String| {
            tracing::error!("the supervisor was not replaced: {error}");
            if let Some(reply) = reply {
                // Whoever asked may be gone.
                let _ = reply.send(Err(rejection(error)));
            }
        };
        if self.reexec.is_some() {
            return reject(reply, "another replacement is on its way".into());
        }
        let binary = match binary.map_or_else(proc::own_path, Ok) {
            Ok(binary) if binary.is_absolute() => binary,
            Ok(binary) => return reject(reply, format!("{} is not an absolute path", binary.display())),
            Err(error) => return reject(reply, format!("our own path is not known: {error}")),
        };
        let deadline = self.now().after(TRIAL);
        self.reexec = Some(Reexec { binary: binary.clone(), trial: None, said: None, deadline, patience: None, reply });
        self.off_the_loop(move || {
            let program = Program::resolve(binary.as_os_str(), Path::new("/"), "".as_ref());
            Some(Elsewhere::Binary(Box::new(program.map_err(|error| format!("cannot {error}")))))
        });
    }

    /// The binary is found, or cannot be: tries it.
    pub(super) fn on_binary(&mut self, program: Result<Program, String>) {
        let tried = program.and_then(|program| {
            self.begin_trial(&program).map_err(|error| format!("it cannot be tried: {}", describe(&error)))
        });
        if let Err(error) = tried {
            self.give_reexec_up(&error);
        }
    }

    fn begin_trial(&mut self, program: &Program) -> io::Result<()> {
        // A state of its own, since ours goes on changing.
        let mut memory = Memory::new()?;
        self.write_to(&mut memory, BTreeMap::new())?;
        let said = File::from(memfd_create(c"zdsup-trial", MFdFlags::MFD_CLOEXEC)?);
        let plan = Plan {
            program,
            argv: [program.path.clone().into(), ARGUMENT.into()]
                .into_iter()
                .chain(std::env::args_os().skip(1))
                .collect(),
            env: std::env::vars_os().collect(),
            directory: "/".into(),
            stdout: said.as_fd(),
            stderr: said.as_fd(),
            fds: Vec::new(),
            extra: Some((TRIAL_FD, memory.as_fd())),
            listen_pid: false,
            watchdog_pid: false,
            identity: None,
            umask: None,
            limits: Vec::new(),
            nofile: self.surroundings.nofile,
            nice: None,
            oom_score_adjust: None,
            no_new_privileges: false,
            cgroup: None,
        };
        let trial = Errand::begin(&plan, Source::TrialShim, Source::TrialExit, &mut self.poller)?;
        match &mut self.reexec {
            Some(reexec) => (reexec.trial, reexec.said) = (Some(trial), Some(said)),
            None => trial.end(&mut self.poller),
        }
        Ok(())
    }

    /// The trial is about to be executed, or cannot be.
    pub(super) fn on_trial_shim(&mut self) {
        let Some(trial) = self.reexec.as_mut().and_then(|reexec| reexec.trial.as_mut()) else { return };
        if let Err(error) = trial.launch(&mut self.poller) {
            self.give_reexec_up(&error);
        }
    }

    /// The trial has ended.
    pub(super) fn on_trial_exit(&mut self) {
        let patience = self.now().after(LAST_WORDS);
        let Some(reexec) = &mut self.reexec else { return };
        let Some(exit) = reexec.trial.as_ref().and_then(Errand::exit) else { return };
        let said = reexec.said.as_ref().map(said).unwrap_or_default();
        if exit == ExitInfo::Code(0) && said.lines().any(|line| line == WORD) {
            reexec.patience = Some(patience);
            // It has said what was wanted of it: whatever has to be waited for now, it is asked no more.
            if let Some(trial) = reexec.trial.take() {
                trial.end(&mut self.poller);
            }
            self.outcome = Some(End::Reexec);
        } else if exit == ExitInfo::Code(0) {
            self.give_reexec_up("it is no zdsup that could go on with the state");
        } else {
            let said = said.trim_end();
            let error = if said.is_empty() { exit.to_string() } else { format!("{exit}: {said}") };
            self.give_reexec_up(&error);
        }
    }

    /// Whether nobody has to be waited for who reads our output.
    pub(super) fn has_said_all(&self) -> bool {
        let patience = self.reexec.as_ref().and_then(|reexec| reexec.patience);
        patience.is_none_or(|patience| patience <= self.now()) || (self.stdout.is_idle() && self.stderr.is_idle())
    }

    /// It has taken too long.
    pub(super) fn on_reexec_time(&mut self) {
        let now = self.now();
        if self.reexec.as_ref().is_some_and(|reexec| reexec.deadline <= now) {
            let stuck = self.outcome == Some(End::Reexec);
            self.give_reexec_up(if stuck {
                "the fd store does not listen"
            } else {
                "it did not read the state in 8 s"
            });
        }
    }

    fn give_reexec_up(&mut self, why: &str) {
        let Some(reexec) = self.reexec.take() else { return };
        if self.outcome == Some(End::Reexec) {
            self.outcome = None;
        }
        let error = format!("{} cannot take over: {why}", reexec.binary.display());
        tracing::error!("the supervisor goes on as it is: {error}");
        if let Some(trial) = reexec.trial {
            trial.end(&mut self.poller);
        }
        if let Some(reply) = reexec.reply {
            // Whoever asked may be gone.
            let _ = reply.send(Err(rejection(error)));
        }
    }

    /// Tells everybody who listens.
    pub(super) fn announce_reexec(&mut self) {
        let now = self.now();
        let Some(reexec) = &mut self.reexec else { return };
        let message = format!("the supervisor replaces itself by {}: reconnect", reexec.binary.display());
        tracing::info!("{message}");
        if let Some(reply) = reexec.reply.take() {
            // Whoever asked may be gone.
            let _ = reply.send(Ok(Done { message: message.clone() }));
        }
        self.ledger.tell_all(now, "reexec", &message);
        self.tell("reexec", &message);
    }

    /// Executes it, and comes back only if that fails: then everything is as it was. Signals are to be blocked.
    pub(super) fn replace_ourselves(&mut self) {
        for process in self.processes.values_mut() {
            process.interrupt_probe(&mut self.poller);
            process.interrupt_check(&mut self.poller);
        }
        let binary = self.reexec.as_ref().map(|reexec| reexec.binary.clone()).unwrap_or_default();
        let error = self.execute(&binary);
        signal::unblock_all();
        self.survival.stale = true;
        self.give_reexec_up(&describe(&error));
    }

    fn execute(&mut self, binary: &Path) -> io::Error {
        let dams = self.dams();
        let mut handed: BTreeMap<Name, i32> =
            self.holdings(&dams).into_iter().map(|(name, fd)| (name, fd.as_raw_fd())).collect();
        let unclaimed = match self.unclaimed() {
            Ok(unclaimed) => unclaimed,
            Err(error) => return error,
        };
        handed.extend(unclaimed.iter().enumerate().map(|(place, fd)| (Name::Unclaimed(place), fd.as_raw_fd())));
        let mut arguments = std::env::args_os();
        let first = arguments.next().unwrap_or_else(|| "zdsup".into());
        let arguments: Result<Vec<CString>, _> =
            std::iter::once(first).chain(arguments).map(|argument| CString::new(argument.as_bytes())).collect();
        let state = self.survival.memory.as_fd().as_raw_fd().to_string();
        // What was passed at the start is ours by now, and must not be taken for it again.
        let kept = std::env::vars_os().filter(|(name, _)| !name.as_bytes().starts_with(b"LISTEN_") && name != STATE_FD);
        let environment: Result<Vec<CString>, _> = kept
            .chain(std::iter::once((OsString::from(STATE_FD), OsString::from(state))))
            .map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()))
            .collect();
        let (Ok(path), Ok(arguments), Ok(environment)) =
            (CString::new(binary.as_os_str().as_bytes()), arguments, environment)
        else {
            return io::ErrorKind::InvalidInput.into();
        };
        if let Err(error) = self.write(BTreeSet::new(), handed) {
            return error;
        }
        let failed = self
            .keep_across_exec(true)
            .and_then(|()| nix::unistd::execve(&path, &arguments, &environment).map_err(io::Error::from));
        // Never the value: execve does not return unless it fails.
        let error = failed.err().unwrap_or_else(|| io::ErrorKind::Other.into());
        if let Err(error) = self.keep_across_exec(false) {
            tracing::error!("descriptors may leak into services: {error}");
        }
        error
    }

    /// Sockets that no service has claimed, as they go to the next program: if that cannot be executed, they are closed
    /// again, and the others are as they were.
    fn unclaimed(&self) -> io::Result<Vec<OwnedFd>> {
        let inherited = inherited::lock(&self.inherited);
        let hand = |passed: &inherited::Passed| {
            let fd = passed.fd.try_clone()?;
            fcntl(&fd, F_SETFD(FdFlag::empty()))?;
            Ok(fd)
        };
        inherited.passed().iter().map(hand).collect()
    }

    fn keep_across_exec(&self, keep: bool) -> io::Result<()> {
        let flags = if keep { FdFlag::empty() } else { FdFlag::FD_CLOEXEC };
        for (_, fd) in self.holdings(&self.dams()) {
            fcntl(fd, F_SETFD(flags))?;
        }
        Ok(())
    }
}

/// Reads the state and says whether it could be gone on with, if that is what this process was started for: also with
/// the command line, which `understands` is asked about. To be called first of all in `main`.
pub fn check_state_if_asked(
    understands: impl FnOnce(Vec<OsString>) -> Result<(), String>,
) -> Option<std::process::ExitCode> {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    if words.get(1)? != ARGUMENT {
        return None;
    }
    words.remove(1);
    let state = crate::sys::systemd::handed(i32::try_from(TRIAL_FD).unwrap_or_default());
    let read = state
        .map_err(|error| format!("the state was not passed: {error}"))
        .and_then(check_state)
        .and_then(|()| understands(words).map_err(|error| format!("the command line cannot be used: {error}")));
    match read {
        Ok(()) => {
            println!("{WORD}");
            Some(std::process::ExitCode::SUCCESS)
        }
        Err(error) => {
            eprintln!("{error}");
            Some(std::process::ExitCode::FAILURE)
        }
    }
}

/// Whether a supervisor could go on with what is in this memfd, and why not.
#[doc(hidden)]
pub fn check_state(state: OwnedFd) -> Result<(), String> {
    let (_, text) = Memory::open(state).map_err(|error| format!("the state cannot be read: {error}"))?;
    survival::check(&text).map_err(|error| format!("the state cannot be used: {error}"))
}

/// What the trial has said.
fn said(file: &File) -> String {
    let mut bytes = vec![0; SAID_MAX];
    let length = file.read_at(&mut bytes, 0).unwrap_or_default();
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

fn rejection(error: String) -> Rejection {
    Rejection { kind: RejectionKind::Refused, error, hint: Some("nothing has changed: the supervisor goes on".into()) }
}
