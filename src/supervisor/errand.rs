//! A command that is run to its end for us: by way of the shim, as everything that we start.

use std::io;
use std::os::fd::AsFd;

use super::poller::{Poller, Source};
use super::process::{Watched, failure};
use crate::sys::Pid;
use crate::sys::pidfd::{ExitInfo, PidFd, kill_group};
use crate::sys::shim::{Blank, Plan, Report, Shim};

/// A command on its way. It leads a group of its own.
#[derive(Debug)]
pub(super) struct Errand {
    shim: Option<Watched<Shim>>,
    process: Watched<PidFd>,
}

impl Errand {
    /// Begins it. `shim` and `exit` are reported when [`Self::launch`] and [`Self::exit`] are to be called.
    pub(super) fn begin(plan: &Plan<'_>, shim: Source, exit: Source, poller: &mut Poller) -> io::Result<Self> {
        let started = Blank::start()?.send(plan)?;
        let process = PidFd::from(started.pidfd.as_fd().try_clone_to_owned()?);
        let process = Watched::new(process, exit, poller)?;
        Ok(Self { shim: Some(Watched::new(started, shim, poller)?), process })
    }

    /// Its shim has something to say. `Err`: the command cannot be executed.
    pub(super) fn launch(&mut self, poller: &mut Poller) -> Result<(), String> {
        let Some(shim) = &self.shim else { return Ok(()) };
        let (over, result) = match shim.it.receive() {
            Ok(Some(Report::Prepared)) => (shim.it.go().is_err(), Ok(())),
            Ok(None) => (false, Ok(())),
            Ok(Some(Report::Failed { step, error, hint })) => (true, Err(failure(&step, &error, hint.as_deref()))),
            Ok(Some(Report::Closed)) | Err(_) => (true, Ok(())),
        };
        if over && let Some(shim) = self.shim.take() {
            shim.end(poller);
        }
        result
    }

    /// How it ended, if it has.
    pub(super) fn exit(&self) -> Option<ExitInfo> {
        match self.process.it.reap() {
            Ok(exit) => exit,
            // Somebody else has reaped it, and knows.
            Err(_) => Some(ExitInfo::Code(255)),
        }
    }

    /// Whether this is its process.
    pub(super) fn is(&self, pid: Pid) -> bool {
        self.process.it.pid().ok().flatten() == Some(pid)
    }

    /// Lets go of it; one that has not ended is killed.
    pub(super) fn end(self, poller: &mut Poller) {
        // Only an unreaped process shows a number, and as long as it does the group is its own.
        if let Ok(Some(pid)) = self.process.it.pid() {
            let _ = kill_group(pid, nix::libc::SIGKILL);
        }
        let _ = self.process.it.signal(nix::libc::SIGKILL);
        self.process.end(poller);
        if let Some(shim) = self.shim {
            shim.end(poller);
        }
    }
}
