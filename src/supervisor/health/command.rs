//! Checks by a command.

use std::ffi::OsString;
use std::sync::Arc;

use super::{Checkup, LATE, Outcome, Running};
use crate::core::{InstanceId, spoken};
use crate::supervisor::Supervisor;
use crate::supervisor::errand::Errand;
use crate::supervisor::poller::Source;
use crate::sys::describe;
use crate::sys::pidfd::ExitInfo;

impl Supervisor {
    pub(super) fn begin_command(&mut self, id: InstanceId, command: &[OsString]) -> Result<Errand, String> {
        let (mut ground, processes) = self.ground(id);
        let process = processes.get(&id).ok_or("its process is gone")?;
        let program = process.release.check.as_ref().map(Arc::clone).ok_or("its command is not at hand")?;
        let sources = (Source::CheckShim(id), Source::CheckExit(id));
        let begun = process.errand(&program.program, command, sources, &mut ground);
        begun.map_err(|error| format!("the command cannot be started: {}", describe(&error)))
    }

    /// The command of a check is about to be executed, or cannot be.
    pub(in crate::supervisor) fn on_check_shim(&mut self, id: InstanceId) {
        let checkup = self.processes.get_mut(&id).and_then(|process| process.checkup.as_mut());
        let Some(Checkup { running: Some(Running::Command(errand)), .. }) = checkup else { return };
        if let Err(error) = errand.launch(&mut self.poller) {
            self.command_over(id, Outcome::Failed(format!("the command: {error}")));
        }
    }

    /// The command of a check may have ended.
    pub(in crate::supervisor) fn on_check_exit(&mut self, id: InstanceId) {
        if let Some(exit) = self.exit_of_command(id) {
            self.command_over(id, outcome(exit));
        }
    }

    /// The command of a check has had its time.
    pub(super) fn on_command_overdue(&mut self, id: InstanceId) {
        let now = self.now();
        // Both may have happened while we did not look.
        if let Some(exit) = self.exit_of_command(id) {
            return self.command_over(id, outcome(exit));
        }
        let Some(process) = self.processes.get(&id) else { return };
        let (Some(checkup), Some(health)) = (&process.checkup, &process.release.service.health) else { return };
        let outcome = if now >= checkup.began.after(health.timeout).after(LATE) {
            Outcome::Late
        } else {
            Outcome::Failed(format!("the command did not end in {}", spoken(health.timeout)))
        };
        self.command_over(id, outcome);
    }

    fn exit_of_command(&self, id: InstanceId) -> Option<ExitInfo> {
        let checkup = self.processes.get(&id)?.checkup.as_ref()?;
        match &checkup.running {
            Some(Running::Command(errand)) => errand.exit(),
            Some(Running::Connection(_)) | None => None,
        }
    }

    fn command_over(&mut self, id: InstanceId, outcome: Outcome) {
        let checkup = self.processes.get_mut(&id).and_then(|process| process.checkup.as_mut());
        if let Some(running) = checkup.and_then(|checkup| checkup.running.take()) {
            running.end(&mut self.poller);
        }
        self.checked(id, outcome);
    }
}

fn outcome(exit: ExitInfo) -> Outcome {
    match exit {
        ExitInfo::Code(0) => Outcome::Passed,
        ExitInfo::Code(_) | ExitInfo::Signal { .. } => Outcome::Failed(format!("the command: {exit}")),
    }
}
