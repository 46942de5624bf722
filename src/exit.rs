//! The exit codes, the same for every command.

use std::process::ExitCode;

/// How a command ends. The numbers are a contract: scripts and unit files depend on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    /// Done. With `--no-wait`: accepted. For `status`: the supervisor answered.
    Done = 0,
    /// An internal error.
    Internal = 1,
    /// Wrong usage, or a config that is invalid or unreadable, also at reload.
    Usage = 2,
    /// No such supervisor.
    NoSupervisor = 3,
    /// The verdict is failed, rolled-back or aborted; a missing or unexecutable program too.
    Failed = 4,
    /// Refused, with the reason.
    Refused = 5,
    /// Not permitted.
    NotPermitted = 6,
    /// `--timeout` passed.
    TimedOut = 7,
    /// Interrupted; an upgrade that was waited for goes on.
    Interrupted = 130,
}

impl Exit {
    /// Every code with its meaning, for the help and the man page.
    pub const TABLE: [(Self, &'static str); 9] = [
        (Self::Done, "done (--no-wait: accepted; status: the supervisor answered)"),
        (Self::Internal, "internal error"),
        (Self::Usage, "wrong usage, or a config that is invalid or unreadable, also at reload"),
        (Self::NoSupervisor, "no such supervisor"),
        (Self::Failed, "the verdict is failed, rolled-back or aborted (a missing or unexecutable program too)"),
        (Self::Refused, "refused, with the reason"),
        (Self::NotPermitted, "not permitted"),
        (Self::TimedOut, "--timeout passed"),
        (Self::Interrupted, "interrupted: the upgrade goes on"),
    ];

    /// The code with this number.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::TABLE.iter().map(|(exit, _)| *exit).find(|exit| exit.code() == code)
    }

    /// The number.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}
