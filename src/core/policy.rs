//! What the config decides about one release, in the terms of the machine.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long the shell may take to prepare a process up to the point where it waits for `go`.
pub const PREPARE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long `execve` may take (a hung network file system).
pub const LAUNCH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long pinning a release may take: reading the config, resolving names, binding listeners.
pub const PIN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long moving new connections to a candidate may take.
pub const SWITCH_TIMEOUT: Duration = Duration::from_secs(10);
/// How far ahead a process may move its deadline at once. It may ask again, and must go on living to do so.
pub const EXTEND_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a process may take to end after the watchdog's signal, and to write its core dump, before SIGKILL.
pub const ABORT_TIMEOUT: Duration = Duration::from_secs(30);
/// After SIGKILL, how long until it is said that a process will not die, and the signal is sent again.
pub const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// The policies of one release. They are pinned with it: a draining generation keeps its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// How many processes a generation has; at least 1.
    pub instances: u32,
    /// What makes an instance ready.
    pub readiness: Readiness,
    /// How long an instance may take to become ready.
    pub ready_timeout: Duration,
    /// How long a ready candidate must stay up before the old generation is told to stop.
    pub soak: Duration,
    /// Within what time a ready process must say that it lives, again and again; `None`: it need not.
    pub watchdog: Option<Duration>,
    /// How long a process may take to end after its stop signal.
    pub drain_timeout: Duration,
    /// How many generations may be on their way out at once before an upgrade is refused.
    pub max_draining: u32,
    /// Delay before the first and the latest restart of a process that dies while serving.
    pub backoff: Backoff,
    /// Restarts in a row that fail before the service is given up; 0 never gives up.
    pub give_up_after: u32,
}

/// What makes an instance ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Readiness {
    /// The shell sees it and says so: a notify message, a newline on a descriptor, a command that succeeds.
    Reported,
    /// It has run for this long.
    Alive(Duration),
}

/// Exponential backoff: `min`, then twice as long each time, at most `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// The first delay.
    pub min: Duration,
    /// The longest delay. A process that was ready for this long has a clean record again.
    pub max: Duration,
}

impl Backoff {
    /// The delay after this many failures in a row (from 1).
    #[must_use]
    pub fn delay(self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        self.min.saturating_mul(1 << doublings).min(self.max)
    }
}

/// What happens when the first generation of a service never gets ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FirstFailure {
    /// Stop everything and say so: under systemd, where `systemctl start` waits for the answer.
    Exit,
    /// Try again with backoff; callers wait in the listeners' backlogs.
    Retry,
}
