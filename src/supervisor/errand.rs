//! A command that is run to its end for us: by way of the shim, as everything that we start.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::libc::{EINVAL, SIGKILL};

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
    /// Whether it is our child: that of a predecessor that died is not.
    is_ours: bool,
}

impl Errand {
    /// Begins it. `shim` and `exit` are reported when [`Self::launch`] and [`Self::exit`] are to be called.
    pub(super) fn begin(plan: &Plan<'_>, shim: Source, exit: Source, poller: &mut Poller) -> io::Result<Self> {
        let started = Blank::start()?.send(plan)?;
        let process = PidFd::from(started.pidfd.as_fd().try_clone_to_owned()?);
        let process = Watched::new(process, exit, poller)?;
        Ok(Self { shim: Some(Watched::new(started, shim, poller)?), process, is_ours: true })
    }

    /// One that a predecessor has begun, to be ended. `is_ours`: the predecessor was this very process.
    pub(super) fn adopt(process: PidFd, is_ours: bool, exit: Source, poller: &mut Poller) -> io::Result<Self> {
        Ok(Self { shim: None, process: Watched::new(process, exit, poller)?, is_ours })
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

    /// How it ended, if it has. It stays unreaped until [`Self::end`]: its group is known by its number.
    pub(super) fn exit(&self) -> Option<ExitInfo> {
        if !self.process.it.has_exited() {
            return None;
        }
        // Somebody else has reaped it, and knows.
        self.process.it.peek_exit().unwrap_or(Some(ExitInfo::Code(255)))
    }

    /// Its number, until it is reaped.
    pub(super) fn pid(&self) -> Option<Pid> {
        self.process.it.pid().ok().flatten()
    }

    /// Whether this is its process.
    pub(super) fn is(&self, pid: Pid) -> bool {
        self.pid() == Some(pid)
    }

    /// Its process.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.process.it.as_fd()
    }

    /// Signals all of its group.
    pub(super) fn signal(&self, signal: i32) {
        match self.process.it.signal_group(signal) {
            Ok(()) => return,
            // Before Linux 6.9. Only an unreaped process shows a number, and nobody reaps ours but us: as long as it does
            // the group is its own.
            Err(error) if error.raw_os_error() == Some(EINVAL) => {
                let certain = self.is_ours || !self.process.it.has_exited();
                if let Some(pid) = self.process.it.pid().ok().flatten().filter(|_| certain)
                    && kill_group(pid, signal).is_ok()
                {
                    return;
                }
            }
            Err(_) => {}
        }
        // Before its shim has made the group. One that is gone needs no signal.
        let _ = self.process.it.signal(signal);
    }

    /// Lets go of it; whatever of its group has not ended is killed.
    pub(super) fn end(self, poller: &mut Poller) {
        self.signal(SIGKILL);
        let _ = self.process.it.reap();
        self.process.end(poller);
        if let Some(shim) = self.shim {
            shim.end(poller);
        }
    }
}
