//! What the config decides about one release, in the terms of the machine.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::Hook;

/// How long the shell may take to prepare a process up to the point where it waits for `go`.
pub const PREPARE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long `execve` may take (a hung network file system).
pub const LAUNCH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long pinning a release may take: reading the config, resolving names, binding listeners.
pub const PIN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long moving new connections to a candidate may take.
pub const SWITCH_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a canary step waits for somebody to promote it, where it waits for that.
pub const PROMOTE_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a candidate that is ready waits for those that are to be switched with it. Each of them has deadlines of its
/// own: this is for the case that they are promoted by hand.
pub const HOLD_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a first start waits for those that come before it to serve. Then it begins all the same.
pub const TURN_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// How long letting connections in again may take until it is asked for once more.
pub const RELEASE_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause until that is tried again where it has failed.
pub const RELEASE_AGAIN: Duration = Duration::from_secs(1);
/// How much longer than the time it may take a hook is waited for: ending it takes a moment.
pub const HOOK_GRACE: Duration = Duration::from_secs(10);
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
    /// Over what span the processes of a generation that was replaced are told to stop, one after the other.
    #[serde(default)]
    pub drain_spread: Duration,
    /// How many generations may be on their way out at once before an upgrade is refused.
    pub max_draining: u32,
    /// Delay before the first and the latest restart of a process that dies while serving.
    pub backoff: Backoff,
    /// Restarts in a row that fail before the service is given up; 0 never gives up.
    pub give_up_after: u32,
    /// How a candidate takes the place of what serves.
    #[serde(default)]
    pub strategy: Strategy,
    /// Whether an instance is ready only once its health checks pass, and of no use when they fail.
    #[serde(default)]
    pub health: bool,
    /// What is run at which moment of an upgrade.
    #[serde(default)]
    pub hooks: Hooks,
    /// How many releases that served are kept beside the one that serves, to go back to.
    #[serde(default)]
    pub keep_releases: u32,
}

impl Policy {
    /// How fast instances are replaced where they are replaced a few at a time; `None` where all start beside all.
    #[must_use]
    pub(super) fn pace(&self) -> Option<Pace> {
        match self.strategy {
            Strategy::Overlap | Strategy::Canary { .. } | Strategy::BlueGreen { .. } => None,
            Strategy::Rolling { max_surge, max_unavailable } => {
                Some(Pace { max_surge, max_unavailable, exclusive: false })
            }
            Strategy::StopStart => Some(Pace { max_surge: 0, max_unavailable: u32::MAX, exclusive: true }),
        }
    }
}

/// How a candidate takes the place of what serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// All of the new beside all of the old, then the switch.
    #[default]
    Overlap,
    /// A few instances at a time.
    Rolling {
        /// How many more than the service's number there may be.
        max_surge: u32,
        /// How many fewer of them may be available. Not 0 where `max_surge` is 0.
        max_unavailable: u32,
    },
    /// A share of new connections that grows step by step.
    Canary {
        /// The steps before all of them; weights rise from 1 to 99.
        steps: Vec<CanaryStep>,
        /// Each step waits for somebody to promote it, instead of for its time.
        manual: bool,
    },
    /// All of the new beside all of the old, one switch, and the old kept alive to switch back to.
    BlueGreen {
        /// For how long.
        standby: Duration,
    },
    /// The old is ended before the new is started; callers wait.
    StopStart,
}

/// One step of a canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryStep {
    /// The candidate's share of new connections, percent.
    pub weight: u32,
    /// For how long.
    pub hold: Duration,
}

/// How fast instances are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    pub(super) max_surge: u32,
    pub(super) max_unavailable: u32,
    /// Nothing new is started while anything of the old is left.
    pub(super) exclusive: bool,
}

/// Which hooks there are, and how long each may take.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// In the order of an upgrade.
    pub present: Vec<Hook>,
    /// All the commands of one hook together.
    pub timeout: Duration,
}

impl Hooks {
    /// Whether there is anything to run at this moment.
    #[must_use]
    pub fn has(&self, hook: Hook) -> bool {
        self.present.contains(&hook)
    }
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
    /// Leave it at that: the first start is a rehearsal. It is treated as if something served beside it: it soaks, can be
    /// aborted, and is ended when it fails.
    Rehearse,
}
