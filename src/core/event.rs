//! What the shell tells the machine (events), what the machine wants done (actions), and the reasons it gives.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::id::{Generation, InstanceId, ReleaseId, ServiceId, Slot, UpgradeId};
use super::policy::Policy;
use super::span::spoken;

/// Something that happened. Each effect that an [`Action`] asked for has its completion here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A release is resolved and its listeners are bound (completes [`Action::Pin`]).
    Pinned {
        /// The upgrade it was pinned for.
        upgrade: UpgradeId,
        /// What will be run.
        release: ReleaseId,
        /// How.
        policy: Policy,
    },
    /// The release cannot be run at all, and nothing has been changed (completes [`Action::Pin`]).
    PinFailed {
        /// The upgrade it was to be pinned for.
        upgrade: UpgradeId,
        /// Why.
        reason: Reason,
    },
    /// A process was told its stop signal, or was found dead at the attempt (completes [`Action::Stop`]).
    Told(InstanceId),
    /// New connections go where [`Action::SetWeights`] said.
    WeightsSet(ServiceId),
    /// New connections wait, or are let in again (completes [`Action::Hold`]).
    Held {
        /// The service.
        service: ServiceId,
        /// What was asked for.
        on: bool,
        /// Why it cannot be; they are all let in then, or all made to wait as before.
        result: Result<(), String>,
    },
    /// A hook has ended (completes [`Action::RunHook`]).
    HookDone {
        /// The service.
        service: ServiceId,
        /// The generation it was run for.
        generation: Generation,
        /// Which.
        hook: Hook,
        /// Why it failed, if it did.
        result: Result<(), String>,
    },
    /// Requests that were sent through the public listener say that this candidate is not to be gone on with.
    Condemned {
        /// The upgrade.
        upgrade: UpgradeId,
        /// What they say.
        reason: String,
    },
    /// Callers wait in a slot that no process has.
    Abandoned {
        /// The service.
        service: ServiceId,
        /// Where.
        slot: Slot,
    },
    /// Something about one process.
    Instance(InstanceId, InstanceEvent),
    /// A deadline that [`super::Core::poll_timeout`] named may have passed.
    Tick,
}

/// Something that happened to one process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InstanceEvent {
    /// It waits for `go`, recorded and with its pidfd stored (completes [`Action::Prepare`]).
    Prepared,
    /// It could not be prepared; no process is left of the attempt.
    PrepareFailed(String),
    /// It runs the release's program: *spawned* (completes [`Action::Launch`]).
    Launched,
    /// The program could not be executed; no process is left of the attempt.
    LaunchFailed(String),
    /// It proved that it is ready.
    Ready,
    /// Its health checks pass.
    Healthy,
    /// Its health checks fail; the text says what the last one came to.
    Unhealthy(String),
    /// It says that it is stopping.
    Stopping,
    /// It asks that the deadline it runs under be at least this far ahead.
    Extend(Duration),
    /// It says that it lives. Frequent: it moves a deadline and nothing else, so that nothing has to be done, told or
    /// recorded.
    KeepAlive,
    /// From now on it says that it lives within this time; zero: no more.
    WatchdogInterval(Duration),
    /// It says that it is broken: to be treated as if it had been silent for too long.
    WatchdogTrigger,
    /// Whoever was starting it is gone, and it never executed: a successor has to begin its start again.
    Unstarted,
    /// Its main process ended.
    Exited(Exit),
    /// No process of it is left.
    Emptied,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// It exited with this status.
    Code(i32),
    /// It was killed by this signal.
    Signal {
        /// The signal's number.
        signal: i32,
        /// Whether a core dump was written.
        core: bool,
    },
    /// We killed it before its program was executed.
    Unrun,
    /// It is gone and nobody knows how.
    Unknown,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal { signal, core } => {
                match signal_name(signal) {
                    Some(name) => write!(f, "killed by {name}")?,
                    None => write!(f, "killed by signal {signal}")?,
                }
                if core { f.write_str(" (core dumped)") } else { Ok(()) }
            }
            Self::Unrun => f.write_str("killed by zdsup before its program was executed"),
            Self::Unknown => f.write_str("ended, exit status unknown"),
        }
    }
}

/// The name of a signal number on Linux, as it is the same on every architecture that Rust's std supports here
/// (signal(7)); `None` for the real-time ones and those that differ.
fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        7 | 10 => {
            if (signal == 7) != cfg!(any(target_arch = "mips", target_arch = "mips64")) {
                "SIGBUS"
            } else {
                "SIGUSR1"
            }
        }
        12 => "SIGUSR2",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => return None,
    })
}

/// Something to be done. The machine has recorded that it wants it before the shell sees it, so that a successor
/// finds the intent; the shell answers each with an [`Event`], except the last five, which need no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[must_use]
pub enum Action {
    /// Read the config (where there is a release to run again: do not), resolve the release, bind new listeners.
    Pin {
        /// The service to be upgraded.
        service: ServiceId,
        /// What to name in the answer.
        upgrade: UpgradeId,
        /// What is asked for.
        kind: Kind,
        /// The release to run again, for [`Kind::Restart`] and [`Kind::Rollback`].
        again: Option<ReleaseId>,
    },
    /// Make a process for this instance, up to the point where it waits for `go`.
    Prepare {
        /// The instance.
        instance: InstanceId,
        /// What it will run.
        release: ReleaseId,
    },
    /// Let the prepared process run its program.
    Launch(InstanceId),
    /// Divide new connections between these generations, in percent, and inside each among the instances that
    /// [`super::service::Service::routes`] names. Nothing to do when traffic is shared.
    SetWeights {
        /// The service.
        service: ServiceId,
        /// The generations that exist, oldest first.
        weights: Vec<(Generation, u32)>,
    },
    /// Make new connections wait at all listeners of a service, or let them in again. It may be so already.
    Hold {
        /// The service.
        service: ServiceId,
        /// Wait.
        on: bool,
    },
    /// Run the commands of a hook. The first two are answered by [`Event::HookDone`]; nobody waits for the others.
    RunHook {
        /// The service.
        service: ServiceId,
        /// The generation that it is run for.
        generation: Generation,
        /// The release whose hook it is.
        release: ReleaseId,
        /// Which.
        hook: Hook,
        /// Why the upgrade failed, where it did.
        reason: Option<Reason>,
    },
    /// No new connections go to it any more: take what waits for it alone, then send the stop signal to the main process.
    Stop(InstanceId),
    /// Send the watchdog's signal to the main process. Answered by its exit.
    Abort(InstanceId),
    /// SIGKILL to every process of the instance. Answered by its exit.
    Kill(InstanceId),
    /// The main process has ended: end what is left of the instance, with SIGKILL if `force`; answer
    /// [`InstanceEvent::Emptied`] once nothing is.
    Sweep {
        /// The instance.
        instance: InstanceId,
        /// SIGKILL rather than SIGTERM.
        force: bool,
    },
    /// Tell whoever listens what is going on.
    Progress {
        /// The service.
        service: ServiceId,
        /// The upgrade that this is a part of.
        upgrade: Option<UpgradeId>,
        /// What.
        step: Step,
    },
    /// An upgrade has its verdict.
    Conclude {
        /// The service.
        service: ServiceId,
        /// The upgrade.
        upgrade: UpgradeId,
        /// The verdict.
        verdict: Verdict,
        /// Why, unless it succeeded.
        reason: Option<Reason>,
    },
    /// No generation runs this release, and none will: let go of it.
    Discard(ReleaseId),
    /// No process of this service is left, and it is not wanted any more: close its listeners and forget it.
    Remove(ServiceId),
    /// Everything has ended: so should the supervisor.
    Finish(Outcome),
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The first start of a service.
    Start,
    /// The release that the config names now.
    Reload,
    /// The release that is pinned already.
    Restart,
    /// A release that served before.
    Rollback,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Reload => "reload",
            Self::Restart => "restart",
            Self::Rollback => "rollback",
        })
    }
}

/// A moment of an upgrade at which commands may be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    /// The release is resolved, nothing is started. A failure fails the upgrade.
    BeforeStart,
    /// The candidate is ready and has no part in the traffic yet. A failure fails the upgrade.
    AfterReady,
    /// The verdict has fallen: upgraded.
    AfterSwitch,
    /// No process of an old generation is left.
    AfterDrain,
    /// The verdict has fallen: failed or aborted.
    OnFailure,
    /// The verdict has fallen: rolled back.
    OnRollback,
}

impl Hook {
    /// All of them, in the order of an upgrade.
    pub const ALL: [Self; 6] =
        [Self::BeforeStart, Self::AfterReady, Self::AfterSwitch, Self::AfterDrain, Self::OnFailure, Self::OnRollback];
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BeforeStart => "before-start",
            Self::AfterReady => "after-ready",
            Self::AfterSwitch => "after-switch",
            Self::AfterDrain => "after-drain",
            Self::OnFailure => "on-failure",
            Self::OnRollback => "on-rollback",
        })
    }
}

/// How an upgrade ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The candidate serves.
    Upgraded,
    /// The candidate was given up before it was ready; whatever served, serves.
    Failed,
    /// The candidate was given up after it was ready; the old generation, never told to stop, goes on.
    RolledBack,
    /// Somebody asked for it to end.
    Aborted,
    /// It was not begun.
    Refused,
}

impl Verdict {
    /// What follows the name of an upgrade in a sentence.
    #[must_use]
    pub fn spoken(self) -> &'static str {
        match self {
            Self::Upgraded => "succeeded",
            Self::Failed => "failed",
            Self::RolledBack => "was rolled back",
            Self::Aborted => "was aborted",
            Self::Refused => "was refused",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Upgraded => "upgraded",
            Self::Failed => "failed",
            Self::RolledBack => "rolled-back",
            Self::Aborted => "aborted",
            Self::Refused => "refused",
        })
    }
}

/// Why an upgrade ended as it did, or why a process counts as failed. Displayed as a fragment that fits after a colon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The config cannot be read or is invalid; the text says where and why.
    Config(String),
    /// The release cannot be resolved, or a listener cannot be bound.
    Pin(String),
    /// The supervisor has too little left of something to begin an upgrade.
    Resources(String),
    /// Pinning took longer than [`super::policy::PIN_TIMEOUT`].
    PinTimeout(Duration),
    /// The process could not be prepared.
    Prepare(String),
    /// The process was not prepared, or did not execute, in time.
    LaunchTimeout(Duration),
    /// The program could not be executed.
    Exec(String),
    /// The file of the release that is to run again has another content by now.
    Overwritten(String),
    /// It ended before it was ready.
    ExitedBeforeReady(Exit),
    /// It was not ready in time.
    NeverReady(Duration),
    /// It said that it was ready, and its health checks did not pass in time.
    NeverHealthy(Duration),
    /// It was ready, and its health checks failed; the text says what the last one came to.
    Unhealthy(String),
    /// A hook failed.
    Hook {
        /// Which.
        hook: Hook,
        /// How.
        error: String,
    },
    /// What clients were answered while it had a part in the traffic was not good enough.
    Condemned(String),
    /// A canary step waited for so long, and nobody promoted it.
    NeverPromoted(Duration),
    /// The old generation had to be gone first, and lives on in spite of SIGKILL.
    OldLives,
    /// It said that it was stopping before it was ready.
    StoppingBeforeReady,
    /// It was ready, and ended during the soak.
    ExitedInSoak(Exit),
    /// It was ready, and said that it was stopping during the soak.
    StoppingInSoak,
    /// It was ready, and ended outside its soak, before it served or while it stood by.
    ExitedAt {
        /// In the middle of what.
        moment: Moment,
        /// How.
        exit: Exit,
    },
    /// It was ready, and said outside its soak, before it served, that it was stopping.
    StoppingAt(Moment),
    /// It was ready, and new connections could not be moved to it in time.
    SwitchTimeout(Duration),
    /// It ended while it was serving.
    Crashed(Exit),
    /// It did not say within this time that it lives.
    WatchdogMissed(Duration),
    /// It said that the watchdog shall treat it as broken.
    WatchdogTriggered,
    /// Too many generations are still on their way out.
    TooManyDraining {
        /// How many.
        draining: u32,
        /// How many may.
        limit: u32,
    },
    /// An operator aborted it.
    AbortedByOperator,
    /// The service or the supervisor is being stopped.
    Stopping,
    /// Another one that was asked for with it, and comes before it, did not succeed.
    NotBegun {
        /// Which.
        upgrade: UpgradeId,
        /// How that ended.
        verdict: Verdict,
    },
    /// All of those that were asked for with it were to succeed or none, and another one did not.
    NotAlone {
        /// Which.
        upgrade: UpgradeId,
        /// How that ended.
        verdict: Verdict,
    },
    /// It was ready, and those that it was to be switched with were not in time.
    HeldTooLong(Duration),
    /// Something else was asked of the service before it could be taken back.
    MovedOn,
    /// The config does not have the service any more.
    NotInConfig,
    /// The service is new, and has never served.
    NeverServed,
    /// There is no pinned release to restart.
    NothingPinned,
    /// There is no release to go back to.
    NothingKept,
    /// What was to be gone back to serves.
    ServesAlready(Generation),
    /// The supervisor died again and again as it took the upgrade over.
    Poisoned {
        /// How often in a row.
        deaths: u32,
    },
}

/// What a generation that does not serve is in the middle of, once a process of it is ready and unless that is its soak.
/// Displayed as a fragment that fits after a verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// Others of its processes are starting.
    Starting,
    /// A hook runs that it waits for.
    Hook(Hook),
    /// It waits for those that it is to be switched with.
    Held,
    /// It replaces what serves piece by piece, and this process takes part.
    Part,
    /// It has this share of new connections, percent.
    Share(u32),
    /// New connections are being moved to it.
    Switch,
    /// It stands by.
    Standby,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("before all of its instances were ready"),
            Self::Hook(hook) => write!(f, "while the {hook} hook ran"),
            Self::Held => f.write_str("while it waited for the others to be switched with it"),
            Self::Part => f.write_str("while it replaced what serves"),
            Self::Share(percent) => write!(f, "while it had {percent} % of new connections"),
            Self::Switch => f.write_str("while it was being switched to"),
            Self::Standby => f.write_str("while it stood by"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(text)
            | Self::Resources(text)
            | Self::Pin(text)
            | Self::Prepare(text)
            | Self::Exec(text)
            | Self::Overwritten(text) => f.write_str(text),
            Self::PinTimeout(span) => write!(f, "the release could not be resolved in {}", spoken(*span)),
            Self::LaunchTimeout(span) => write!(f, "the program was not executed in {}", spoken(*span)),
            Self::ExitedBeforeReady(exit) => write!(f, "ended before it was ready: {exit}"),
            Self::NeverReady(span) => write!(f, "never ready in {}", spoken(*span)),
            Self::NeverHealthy(span) => {
                write!(f, "said that it was ready, and its health checks did not pass in {}", spoken(*span))
            }
            Self::Unhealthy(text) => write!(f, "its health checks failed: {text}"),
            Self::Hook { hook, error } => write!(f, "the {hook} hook failed: {error}"),
            Self::Condemned(text) => f.write_str(text),
            Self::NeverPromoted(span) => write!(f, "nobody promoted it in {}", spoken(*span)),
            Self::OldLives => f.write_str("the old generation survives SIGKILL (stuck in the kernel?)"),
            Self::StoppingBeforeReady => f.write_str("said STOPPING=1 before it was ready"),
            Self::ExitedInSoak(exit) => write!(f, "ended during its soak: {exit}"),
            Self::StoppingInSoak => f.write_str("said STOPPING=1 during its soak"),
            Self::ExitedAt { moment, exit } => write!(f, "ended {moment}: {exit}"),
            Self::StoppingAt(moment) => write!(f, "said STOPPING=1 {moment}"),
            Self::SwitchTimeout(span) => write!(f, "new connections could not be moved to it in {}", spoken(*span)),
            Self::Crashed(exit) => write!(f, "ended while serving: {exit}"),
            Self::WatchdogMissed(span) => write!(f, "no watchdog message in {}", spoken(*span)),
            Self::WatchdogTriggered => f.write_str("said WATCHDOG=trigger"),
            Self::TooManyDraining { draining, limit } => write!(
                f,
                "{draining} old generation{} still draining (max-draining = {limit})",
                if *draining == 1 { " is" } else { "s are" }
            ),
            Self::AbortedByOperator => f.write_str("aborted by an operator"),
            Self::Stopping => f.write_str("the service is being stopped"),
            Self::NotBegun { upgrade, verdict } => {
                write!(f, "not begun, since upgrade #{upgrade} {}", verdict.spoken())
            }
            Self::NotAlone { upgrade, verdict } => {
                write!(f, "upgrade #{upgrade} {}, and all of them were to succeed or none", verdict.spoken())
            }
            Self::HeldTooLong(span) => write!(f, "the others were not ready to be switched in {}", spoken(*span)),
            Self::MovedOn => f.write_str("another upgrade of it was asked for meanwhile: it is left as it is"),
            Self::NotInConfig => f.write_str("the config does not have it any more"),
            Self::NeverServed => f.write_str("it is new, and has never served"),
            Self::NothingPinned => f.write_str("there is no release to restart: the service has never started"),
            Self::NothingKept => f.write_str("there is no release to go back to"),
            Self::ServesAlready(generation) => write!(f, "generation {generation} serves already"),
            Self::Poisoned { deaths } => write!(f, "the supervisor died {deaths} times in a row as it went on with it"),
        }
    }
}

/// Why a request is not taken at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No such service.
    UnknownService,
    /// The service or the supervisor is being stopped.
    Stopping,
    /// There is no upgrade to abort.
    NothingInFlight,
    /// The old generation has been told to stop: it is too late to abort.
    TooLate,
    /// The first start cannot be aborted, only stopped.
    FirstStart,
    /// The old generation is already on its way back.
    Returning,
    /// No canary step waits to be promoted.
    NothingToPromote,
    /// New connections are not made to wait.
    NotPaused,
    /// An upgrade is in flight.
    Upgrading,
    /// Nothing of the service runs.
    NotRunning,
    /// The release of that generation is not kept, or none is.
    NotKept(Option<Generation>),
    /// That generation serves already.
    Serves(Generation),
    /// So many upgrades of several services wait already.
    TooManyWait(usize),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotKept(Some(generation)) => return write!(f, "the release of generation {generation} is not kept"),
            Self::Serves(generation) => return write!(f, "generation {generation} serves already"),
            Self::TooManyWait(waiting) => {
                return write!(f, "{waiting} requests for upgrades of several services wait already");
            }
            Self::NotKept(None) => "there is no release to go back to: none served before this one",
            Self::Returning => "the upgrade has failed already, and the old generation is on its way back",
            Self::NothingToPromote => "no canary step waits to be promoted",
            Self::NotPaused => "it is not paused",
            Self::Upgrading => "an upgrade is in flight",
            Self::NotRunning => "nothing of the service runs",
            Self::UnknownService => "no such service",
            Self::Stopping => "the service is being stopped",
            Self::NothingInFlight => "no upgrade is in flight",
            Self::TooLate => "the new generation already serves and the old one has been told to stop",
            Self::FirstStart => "this is the first start: nothing would be left to serve (`zdsup stop` ends it)",
        })
    }
}

/// How a request for an upgrade was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Admission {
    /// It began.
    Begun(UpgradeId),
    /// Another upgrade is in flight: it begins after that.
    Queued(UpgradeId),
    /// It shares this upgrade, which has not begun.
    Joined(UpgradeId),
}

impl Admission {
    /// The upgrade to watch.
    #[must_use]
    pub fn upgrade(self) -> UpgradeId {
        match self {
            Self::Begun(id) | Self::Queued(id) | Self::Joined(id) => id,
        }
    }
}

/// A stage of an upgrade, or something worth telling about a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// The release is being resolved.
    Pinning,
    /// The candidate exists.
    Starting {
        /// The candidate.
        generation: Generation,
    },
    /// A process runs the program.
    Spawned {
        /// Which.
        instance: InstanceId,
    },
    /// A process proved that it is ready.
    Ready {
        /// Which.
        instance: InstanceId,
        /// How long after it was spawned.
        after: Duration,
    },
    /// The candidate must stay up for this long.
    Soaking {
        /// The candidate.
        generation: Generation,
        /// How long.
        span: Duration,
    },
    /// The candidate is ready, and is switched to together with others.
    Held {
        /// The candidate.
        generation: Generation,
    },
    /// An upgrade that was to succeed with others is undone, since one of them did not: by another one, or, where nothing
    /// had served before, by a stop.
    TakingBack {
        /// Which.
        upgrade: UpgradeId,
    },
    /// New connections go back to a generation that stands by.
    SwitchingBack {
        /// Which.
        generation: Generation,
    },
    /// So many instances of the candidate are ready and take part.
    Rolled {
        /// The candidate.
        generation: Generation,
        /// How many.
        ready: u32,
        /// Of how many.
        of: u32,
    },
    /// The candidate has a share of new connections.
    Weighted {
        /// The candidate.
        generation: Generation,
        /// Percent.
        weight: u32,
        /// For how long; `None`: until somebody promotes it.
        hold: Option<Duration>,
    },
    /// New connections go to this generation.
    Serving {
        /// Which.
        generation: Generation,
    },
    /// A generation has no part in the traffic any more, and is kept alive to go back to.
    Standby {
        /// Which.
        generation: Generation,
        /// For how long.
        span: Duration,
    },
    /// The candidate was given up, and what it had replaced already is started again.
    Returning {
        /// The generation that comes back.
        generation: Generation,
        /// Why.
        reason: Reason,
    },
    /// The commands of a hook are run.
    HookBegun {
        /// The generation it is run for.
        generation: Generation,
        /// Which.
        hook: Hook,
    },
    /// The service has another number of instances.
    Scaled {
        /// The generation.
        generation: Generation,
        /// How many.
        instances: u32,
    },
    /// New connections are made to wait.
    Paused {
        /// For how long from now on, at most.
        span: Duration,
    },
    /// They are let in again.
    Resumed,
    /// The health checks of a process that serves fail.
    Unhealthy {
        /// Which.
        instance: InstanceId,
        /// What the last one came to.
        reason: Reason,
    },
    /// They pass again.
    Healthy {
        /// Which.
        instance: InstanceId,
    },
    /// A generation is on its way out.
    Draining {
        /// Which.
        generation: Generation,
        /// How long it may take.
        timeout: Duration,
    },
    /// A process says that it is stopping.
    Stopping {
        /// Which.
        instance: InstanceId,
    },
    /// A process missed its watchdog's deadline, or says that it is broken, and is sent the watchdog's signal.
    Aborting {
        /// Which.
        instance: InstanceId,
        /// Why.
        reason: Reason,
    },
    /// A process ended.
    Exited {
        /// Which.
        instance: InstanceId,
        /// How.
        exit: Exit,
    },
    /// A process outlived its drain deadline and is sent SIGKILL.
    Overdue {
        /// Which.
        instance: InstanceId,
    },
    /// A process survived SIGKILL for [`super::policy::KILL_TIMEOUT`].
    Undead {
        /// Which.
        instance: InstanceId,
    },
    /// A process of the serving generation will be started again.
    Retrying {
        /// The generation.
        generation: Generation,
        /// When.
        delay: Duration,
        /// Failures in a row.
        failures: u32,
        /// Why the last one failed.
        reason: Reason,
    },
    /// The service is given up: its listeners stay bound, nothing answers.
    GaveUp {
        /// The generation.
        generation: Generation,
        /// Failures in a row.
        failures: u32,
        /// Why the last one failed.
        reason: Reason,
    },
    /// No process of a generation is left.
    Drained {
        /// Which.
        generation: Generation,
    },
    /// The service is not wanted any more: it is stopped, and then removed.
    Leaving {
        /// Why.
        reason: Reason,
    },
    /// No process of the service is left.
    Stopped,
}

/// How the supervisor ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was asked to stop.
    Stopped,
    /// The first start failed; the upgrade's record says why.
    NeverStarted,
}
