//! The proof that an instance is ready, where it is not a message: a newline on a descriptor, or a command that succeeds.

use std::io::{self, Read as _};
use std::sync::Arc;
use std::time::Duration;

use super::{Ground, Process};
use crate::config::ReadyBy;
use crate::core::Time;
use crate::supervisor::errand::Errand;
use crate::supervisor::poller::{Poller, Source};
use crate::sys::Pid;
use crate::sys::pidfd;

/// The command that tests whether an instance is ready.
#[derive(Debug)]
pub(in crate::supervisor) struct Probe {
    pub(super) interval: Duration,
    /// When it is run next.
    pub(in crate::supervisor) due: Option<Time>,
    pub(super) running: Option<Errand>,
}

impl Process {
    /// Whether it has written the newline that says that it is ready.
    pub(in crate::supervisor) fn read_ready_fd(&mut self, poller: &mut Poller) -> bool {
        let Some(watched) = &mut self.ready_fd else { return false };
        let mut buffer = [0; 256];
        match watched.it.read(&mut buffer) {
            Ok(count) if buffer[..count].contains(&b'\n') => {
                self.stop_ready_fd(poller);
                true
            }
            Ok(0) => {
                self.stop_ready_fd(poller);
                false
            }
            Ok(_) => false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => false,
            Err(_) => {
                self.stop_ready_fd(poller);
                false
            }
        }
    }

    pub(super) fn stop_ready_fd(&mut self, poller: &mut Poller) {
        if let Some(fd) = self.ready_fd.take() {
            fd.end(poller);
        }
    }

    /// Runs the readiness command, if it is due.
    pub(in crate::supervisor) fn probe(&mut self, now: Time, ground: &mut Ground<'_>) {
        let release = Arc::clone(&self.release);
        let ReadyBy::Exec { command, interval } = &release.service.ready.by else { return };
        let (Some(probe), Some(program)) = (&self.probe, &release.probe) else { return };
        if probe.running.is_some() || probe.due.is_none_or(|due| due > now) {
            return;
        }
        let sources = (Source::ProbeShim(self.id), Source::ProbeExit(self.id));
        let started = self.errand(&program.program, command, sources, ground);
        let Some(probe) = &mut self.probe else { return };
        match started {
            Ok(running) => (probe.due, probe.running) = (None, Some(running)),
            Err(error) => {
                self.status = Some(format!("readiness command cannot be started: {error}"));
                probe.due = Some(now.after(*interval));
            }
        }
    }

    /// The readiness command is about to be executed, or cannot be.
    pub(in crate::supervisor) fn probe_launch(&mut self, poller: &mut Poller) {
        let Some(running) = self.probe.as_mut().and_then(|probe| probe.running.as_mut()) else { return };
        if let Err(error) = running.launch(poller) {
            self.status = Some(format!("readiness command: {error}"));
        }
    }

    /// Whether the readiness command has ended, and said yes.
    pub(in crate::supervisor) fn probe_exit(&mut self, now: Time, poller: &mut Poller) -> bool {
        let Some(probe) = &mut self.probe else { return false };
        let Some(exit) = probe.running.as_ref().and_then(Errand::exit) else { return false };
        if let Some(running) = probe.running.take() {
            running.end(poller);
        }
        if exit == pidfd::ExitInfo::Code(0) {
            return true;
        }
        self.status = Some(format!("readiness command: {exit}"));
        probe.due = Some(now.after(probe.interval));
        false
    }

    /// The process that tests its readiness.
    pub(in crate::supervisor) fn is_probe(&self, pid: Pid) -> bool {
        let running = self.probe.as_ref().and_then(|probe| probe.running.as_ref());
        running.is_some_and(|running| running.is(pid))
    }

    /// The readiness command that runs is ended, to be run again at once.
    pub(in crate::supervisor) fn interrupt_probe(&mut self, poller: &mut Poller) {
        if let Some(probe) = &mut self.probe
            && let Some(running) = probe.running.take()
        {
            running.end(poller);
            probe.due = Some(Time(0));
        }
    }

    /// No proof of readiness is wanted any more.
    pub(in crate::supervisor) fn stop_probe(&mut self, poller: &mut Poller) {
        let Some(probe) = self.probe.take() else { return };
        if let Some(running) = probe.running {
            running.end(poller);
        }
    }
}
