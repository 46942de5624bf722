//! The loop: it waits for whatever happens, hands it on, does what follows, and ends.

use std::collections::HashSet;
use std::io;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use nix::libc::{SIGCHLD, SIGHUP, SIGKILL, SIGUSR1, SIGUSR2};
use signal_hook_tokio::Signals;
use tokio::sync::mpsc;

use super::poller::{self, Source};
use super::prober::Stage;
use super::process::Process;
use super::several::Ask;
use super::{Elsewhere, LAST_WORDS, StartError, Supervisor};
use crate::control::server::Command;
use crate::core::{Event, Kind, Outcome, Time};
use crate::exit::Exit;
use crate::sys::{clock, limits, pidfd, proc, shim, signal};

/// How often what a service has hidden is looked for at the end, and the pause in between.
const STRANGERS_ROUNDS: u32 = 100;
const STRANGERS_PAUSE: Duration = Duration::from_millis(10);
/// How long requests of clients that are connected are waited for before the supervisor replaces itself.
const LAST_REQUESTS: Duration = Duration::from_millis(3);
/// How long whoever reads our output is waited for then.
const LAST_LINES: Duration = Duration::from_millis(5);
/// How often the control server gets its turn before the supervisor ends.
const ANSWER_TURNS: u32 = 32;
/// How long after the last thing that happened memory is given back to the kernel: a storm leaves none behind, and an
/// idle supervisor sleeps.
const TIDY_AFTER: Duration = Duration::from_secs(1);

/// What comes in by channels.
pub(super) struct Intake {
    pub(super) signals: Signals,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) elsewhere: mpsc::UnboundedReceiver<Elsewhere>,
}

/// How the loop ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Everything has ended.
    Over(Outcome),
    /// The supervisor leaves, and everything goes on: whoever starts the next one keeps it.
    Leave,
    /// The supervisor executes another binary.
    Reexec,
}

/// What the loop woke up for.
enum Wake {
    Signal(i32),
    Ready(io::Result<Vec<(poller::Token, Source)>>),
    Command(Command),
    Elsewhere(Elsewhere),
    Deadline,
}

impl Supervisor {
    pub(super) async fn run(mut self) -> Result<Exit, StartError> {
        let Some(mut intake) = self.intake.take() else { return Ok(Exit::Internal) };
        let outcome = loop {
            match self.serve(&mut intake).await? {
                End::Reexec => self.replace(&mut intake).await,
                outcome => break outcome,
            }
        };
        // Answers that were given are sent first: whoever asked to stop must not be cut off.
        self.answer_asks();
        self.answer_all(&mut intake).await;
        self.history.flush(LAST_WORDS);
        if let End::Over(_) = outcome {
            end_strangers().await;
            self.runtime_directory.clear();
            self.survival.clear();
        }
        self.systemd.finish(LAST_WORDS).await;
        match (outcome, self.first_failure.take()) {
            (End::Over(Outcome::NeverStarted), Some(error)) => Err(error),
            (End::Over(Outcome::NeverStarted), None) => Ok(Exit::Failed),
            (End::Over(Outcome::Stopped), _) => Ok(Exit::Done),
            (End::Leave | End::Reexec, _) => {
                // Nothing that we hold may be cleaned up.
                std::mem::forget(self);
                Ok(Exit::Done)
            }
        }
    }

    /// The loop.
    async fn serve(&mut self, intake: &mut Intake) -> Result<End, StartError> {
        loop {
            self.act();
            self.begin_checkups();
            // What a successor is handed it takes for stored.
            if let Some(outcome) = self.outcome.filter(|end| self.may_end(*end)) {
                return Ok(outcome);
            }
            let wake = self.wake(intake).await;
            // Checks go on while nothing happens.
            if !matches!(wake, Wake::Deadline | Wake::Elsewhere(Elsewhere::Checked { .. })) {
                self.tidy_at = Some(self.now().after(TIDY_AFTER));
            }
            match wake {
                Wake::Signal(signal) => self.on_signal(signal),
                Wake::Ready(Ok(ready)) => {
                    for (token, source) in ready {
                        if self.poller.is_current(token) {
                            self.on_ready(source);
                            self.act();
                        }
                    }
                    // A service that floods us keeps its descriptors ready for ever: the control server has its turn.
                    tokio::task::yield_now().await;
                }
                Wake::Ready(Err(error)) => {
                    return Err(StartError::internal("cannot wait for events", &error));
                }
                Wake::Command(command) => self.on_command(command),
                Wake::Elsewhere(done) => self.on_elsewhere(done),
                Wake::Deadline => {}
            }
            self.on_time();
        }
    }

    /// Whether nothing has to be waited for first: hooks of the last verdict, a store that a successor relies on.
    fn may_end(&self, end: End) -> bool {
        match end {
            End::Over(_) => self.services.values().all(|service| service.hooks.is_idle()) && self.probing.is_empty(),
            End::Leave => true,
            End::Reexec => self.survival.is_complete() && self.has_said_all(),
        }
    }

    /// Executes the binary that was asked for; comes back only if that fails.
    async fn replace(&mut self, intake: &mut Intake) {
        // Whoever has been taken until now is answered by us, the others by the successor.
        self.stop_accepting();
        let last_requests = tokio::time::sleep(LAST_REQUESTS);
        tokio::pin!(last_requests);
        loop {
            tokio::select! {
                Some(command) = intake.commands.recv() => {
                    self.on_command(command);
                    self.act();
                }
                () = &mut last_requests => break,
            }
        }
        self.answer_asks();
        self.settle_probing();
        self.announce_reexec();
        self.answer_all(intake).await;
        self.history.flush(LAST_WORDS);
        // What came before has been waited for.
        self.stdout.flush(LAST_LINES);
        self.stderr.flush(LAST_LINES);
        // Handlers are lost with the program, and what they have taken with them: what comes from here on waits in the
        // kernel until the successor has its own, and what came before joins it.
        signal::block_all();
        answer().await;
        while let Some(Some(taken)) = intake.signals.next().now_or_never() {
            signal::raise(taken);
        }
        self.replace_ourselves();
        if let Err(error) = self.accept_again() {
            tracing::error!("{error}");
        }
    }

    /// Lets the control server send what it was given, and what its streams ask for on that.
    async fn answer_all(&mut self, intake: &mut Intake) {
        for _ in 0..ANSWER_TURNS {
            while let Ok(command) = intake.commands.try_recv() {
                self.on_command(command);
                self.answer_asks();
                self.act();
            }
            tokio::task::yield_now().await;
        }
    }

    async fn wake(&mut self, intake: &mut Intake) -> Wake {
        let deadline = self.deadline();
        // In no fixed order: a service that floods us must not keep operators waiting.
        tokio::select! {
            Some(signal) = intake.signals.next() => Wake::Signal(signal),
            ready = self.poller.ready() => Wake::Ready(ready),
            Some(done) = intake.elsewhere.recv() => Wake::Elsewhere(done),
            Some(command) = intake.commands.recv() => Wake::Command(command),
            () = until(deadline) => Wake::Deadline,
        }
    }

    /// When something has to be done if nothing happens.
    fn deadline(&mut self) -> Option<Time> {
        let now = self.now();
        let busy = self.is_busy();
        let probes = self.processes.values().filter_map(|process| process.probe.as_ref().and_then(|probe| probe.due));
        let probes = probes.min();
        let checks = self.processes.values().filter_map(Process::check_deadline).min();
        let ignored = self.processes.values().filter_map(|process| process.ignored.due()).min();
        let others =
            self.systemd.deadline(now, busy).into_iter().chain(probes).chain(checks).chain(ignored).chain(self.tidy_at);
        let hooks = self.services.values().filter_map(|service| service.hooks.deadline()).min();
        let others = others.chain(self.restore_at).chain(self.adoption_deadline()).chain(hooks);
        self.core.poll_timeout().into_iter().chain(others).min()
    }

    /// Whether something goes on that systemd should give time to.
    fn is_busy(&self) -> bool {
        self.core.is_ending()
            || self.core.is_starting()
            || self.core.has_sequence()
            || self.core.services().values().any(|service| service.upgrade.is_some() || service.generations.len() > 1)
    }

    /// Does what is due.
    fn on_time(&mut self) {
        let now = self.now();
        if self.core.poll_timeout().is_some_and(|at| at <= now) {
            // If we were late, others were not: what waits to be read was said in time.
            self.catch_up();
            self.tell_core(Event::Tick);
        }
        self.on_adoption_time();
        if self.systemd.tick(now) {
            self.count_connections();
        }
        self.run_probes();
        self.run_checks();
        self.on_hook_time();
        self.tell_ignored();
        self.restore_directory();
        if self.tidy_at.is_some_and(|at| at <= now) {
            self.tidy_at = None;
            limits::trim_memory();
            limits::let_go_of_code();
        }
    }

    fn on_signal(&mut self, signal: i32) {
        match signal {
            SIGCHLD => self.on_children(),
            SIGHUP => {
                tracing::info!("SIGHUP: reload");
                self.ask(Ask { names: Vec::new(), kind: Kind::Reload, atomic: None, by: None });
            }
            SIGUSR1 => self.leave(),
            SIGUSR2 => {
                tracing::info!("SIGUSR2: reexec");
                self.reexec(None, None);
            }
            _ => self.stop_everything(),
        }
    }

    /// Ends without touching anything, for a successor.
    fn leave(&mut self) {
        if self.survival.store.is_some() {
            tracing::info!("leaving: everything that runs goes on, for the next supervisor");
        } else {
            tracing::warn!("leaving, although nobody keeps the listeners: what runs goes on, and no other finds it");
        }
        // Leaving soon after the start is no death.
        if let Err(error) = self.survival.memory.set_deaths(0) {
            tracing::warn!("the state cannot be written down: {error}");
        }
        self.settle_probing();
        self.survival.stale = true;
        self.record();
        self.outcome = Some(End::Leave);
    }

    /// The first time gracefully, the second time at once. What a predecessor was asked does not count: the keeper asks
    /// us once more.
    pub(super) fn stop_everything(&mut self) {
        let now = self.now();
        let again = std::mem::replace(&mut self.stop_asked, true);
        if self.stopping && !again {
            return;
        }
        if self.stopping {
            tracing::warn!("asked to stop again: ending everything at once");
            self.core.kill(now);
            self.settle_probing();
            self.stop_hooks(true);
            self.survival.stale = true;
            return;
        }
        self.stopping = true;
        self.end_probing(|_| true, Stage::Ended);
        tracing::info!("stopping: every service drains first (ask again to end them at once)");
        self.systemd.stopping("stopping");
        self.tell("ending", "stopping: every service drains first");
        self.core.stop(now);
        self.stop_hooks(false);
        self.survival.stale = true;
    }
}

/// Whatever a service has hidden from us, with a session and an environment of its own, has become our child as its
/// parents died. It may hold a listener, and goes with everything else. `ours` is on its way out by itself.
async fn end_strangers() {
    let mut told = HashSet::new();
    for _ in 0..STRANGERS_ROUNDS {
        let children = proc::children_of_self().unwrap_or_default();
        if children.is_empty() {
            return;
        }
        for pid in children {
            // One that was to become a process of a service, and is on its way out.
            let may_be_ours = shim::may_be_shim(pid);
            // A child's number is its own until we reap it.
            if let Ok(child) = pidfd::PidFd::open(pid)
                && !child.has_exited()
                && child.signal(SIGKILL).is_ok()
                && !may_be_ours
                && told.insert(pid)
            {
                let name = proc::name(pid).unwrap_or_default();
                tracing::warn!("{name}, process {pid}, was left behind by a service: killed");
            }
            // What is not dead yet is looked at again.
            let _ = pidfd::reap_pid(pid);
        }
        tokio::time::sleep(STRANGERS_PAUSE).await;
    }
}

/// Lets the control server send what it was given.
pub(super) async fn answer() {
    for _ in 0..ANSWER_TURNS {
        tokio::task::yield_now().await;
    }
}

pub(super) async fn until(deadline: Option<Time>) {
    match deadline {
        Some(at) => tokio::time::sleep(at.since(Time(clock::monotonic()))).await,
        None => std::future::pending().await,
    }
}
