//! What goes over the control socket, as JSON. The OpenAPI document describes the same; a test compares the two.
//!
//! Durations are seconds as floating point, instants are seconds since the epoch as floating point, keys are
//! snake_case, sizes are bytes. Names: a generation is its number, an instance is `GENERATION.NUMBER`.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

pub use crate::core::{Kind, Verdict};
pub use crate::history::{
    KernelFigures, Kpi, PhaseRecord, ProbeErrors, ProbeFigures, ProbeSummary, Spread, UpgradeRecord,
};

/// `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The supervisor.
    pub supervisor: SupervisorStatus,
    /// Its services.
    pub services: Vec<ServiceStatus>,
}

/// The supervisor itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SupervisorStatus {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// How long it has run, its predecessors included, seconds.
    pub age: f64,
    /// How many supervisors there have been in its place, it included: more than one after `zdsup reexec` or a death.
    pub incarnation: u64,
    /// Why it only holds what runs and does nothing else, if that is so.
    pub holding: Option<String>,
    /// Resident memory, bytes.
    pub memory: Option<u64>,
    /// The config file, if there is one.
    pub config: Option<String>,
    /// Whether it is on its way out.
    pub stopping: bool,
    /// Lines of output and log that nobody read in time, dropped.
    pub lines_dropped: u64,
}

/// `POST /v1/reexec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replacement {
    /// The binary, as an absolute path; the one at the supervisor's own path without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<PathBuf>,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub state: ServiceState,
    /// A sentence about it, where the state alone does not say enough: why it is backing off, until when.
    pub detail: Option<String>,
    /// With `detail`: what the process that ended last while serving had printed.
    pub last_output: Option<LastOutput>,
    /// The generation that new connections go to.
    pub serving: Option<u64>,
    /// The upgrade in flight.
    pub upgrade: Option<UpgradeStatus>,
    /// Those that wait to begin: behind that one, or behind upgrades of other services. Oldest first.
    #[serde(default)]
    pub queued: Vec<UpgradeStatus>,
    /// The latest upgrade that ended.
    pub last_upgrade: Option<UpgradeStatus>,
    /// The hook that is being run: its name, and the generation.
    #[serde(default)]
    pub hook: Option<String>,
    /// New connections are made to wait, for so many seconds more at most.
    #[serde(default)]
    pub paused: Option<f64>,
    /// How many instances it is meant to have.
    #[serde(default)]
    pub instances: u32,
    /// What its config says about that, where an operator chose another number.
    pub configured: Option<u32>,
    /// How it is upgraded, as the config has it: `overlap`, `rolling`, `canary`, `blue-green` or `stop-start`.
    #[serde(default)]
    pub strategy: String,
    /// How new connections are divided, as the config has it: `shared` or `steered`.
    #[serde(default)]
    pub traffic: String,
    /// Its generations, newest first.
    pub generations: Vec<GenerationStatus>,
    /// The releases that served before and can be gone back to, the latest first.
    #[serde(default)]
    pub kept: Vec<KeptStatus>,
    /// Its listeners, in the order of their descriptors.
    pub listeners: Vec<ListenerStatus>,
    /// How many descriptors it has stored for its successors.
    pub fd_store: u32,
    /// How many it may.
    pub fd_store_max: u32,
}

/// The last output of a process that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastOutput {
    /// `GENERATION.NUMBER`.
    pub instance: String,
    /// Its last lines.
    pub lines: Vec<String>,
    /// Where to look when they cannot be known.
    pub elsewhere: Option<String>,
}

/// Where a service stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceState {
    /// Its first generation is starting.
    Starting,
    /// It serves.
    Serving,
    /// It serves, and a candidate is on its way.
    Upgrading,
    /// It died and will be started again.
    BackingOff,
    /// It died too often and was given up, or could not be started at all; its listeners are bound, nobody answers.
    Failed,
    /// It is being stopped.
    Stopping,
    /// It was stopped.
    Stopped,
}

/// One generation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerationStatus {
    /// Its number.
    pub generation: u64,
    /// Its part.
    pub state: GenerationState,
    /// The executable it runs.
    pub executable: String,
    /// Share of new connections in percent: where traffic is steered, and as a generation takes over instance by
    /// instance.
    pub weight: Option<u32>,
    /// How many instances it is meant to have.
    #[serde(default)]
    pub desired: u32,
    /// How many of them are of use for new connections.
    #[serde(default)]
    pub ready: u32,
    /// While it stands by: for how long, seconds.
    pub standby: Option<f64>,
    /// Until its part changes by itself, seconds: while it soaks, is held, has a step of a canary (where that waits to be
    /// promoted: until it is given up), or stands by.
    #[serde(default)]
    pub remaining: Option<f64>,
    /// Client connections it still has; absent where it cannot be known.
    pub connections: Option<u64>,
    /// Its processes.
    pub instances: Vec<InstanceStatus>,
}

/// A release that is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeptStatus {
    /// The latest generation that it served as.
    pub generation: u64,
    /// The executable it runs.
    pub executable: String,
    /// While that generation stands by, so that it can be gone back to at once: for how long, seconds.
    pub standby: Option<f64>,
}

/// The part that a generation plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GenerationState {
    /// A candidate, not ready.
    Starting,
    /// A candidate, ready, that must stay up for a while.
    Soaking,
    /// A candidate, ready, that is switched to together with those of other services.
    Held,
    /// A candidate that takes over a few instances at a time.
    Rolling,
    /// A candidate that has a share of new connections.
    Canary,
    /// New connections go to it.
    Serving,
    /// It should serve, and waits to be started again.
    BackingOff,
    /// It should serve, and was given up.
    Failed,
    /// It served, has no part in the traffic any more, and is kept alive to go back to.
    Standby,
    /// A candidate that was given up after it had taken a part over, and serves until what it replaced is back.
    Retreating,
    /// It served, and finishes its connections.
    Draining,
    /// A candidate that was given up, being ended.
    Ending,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// `GENERATION.NUMBER`.
    pub instance: String,
    /// Where it stands.
    pub state: InstanceState,
    /// Its main process.
    pub pid: Option<u32>,
    /// Since it was spawned, seconds.
    pub age: f64,
    /// Client connections of all its processes; absent where it cannot be known.
    pub connections: Option<u64>,
    /// Resident memory of all its processes, bytes.
    pub memory: Option<u64>,
    /// Processor time of all its processes, seconds.
    pub cpu: Option<f64>,
    /// What its health checks say.
    pub health: InstanceHealth,
    /// What the latest check that failed came to, until one passes.
    pub health_failure: Option<String>,
    /// Its last STATUS=.
    pub status: Option<String>,
    /// Until its deadline (ready or drain), seconds.
    pub remaining: Option<f64>,
    /// Something an operator should know: no handler for the stop signal, a listener made non-blocking.
    pub notes: Vec<String>,
}

/// What the health checks of a process say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceHealth {
    /// There are none, or it is not in a state to be checked.
    Unchecked,
    /// It says that it is ready, and they have not passed yet.
    Proving,
    /// They pass.
    Passing,
    /// They fail.
    Failing,
}

/// Where a process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceState {
    /// It is being made.
    Preparing,
    /// It runs and is not ready.
    Starting,
    /// It says that it is ready, and its health checks have not passed yet.
    Proving,
    /// It is ready.
    Ready,
    /// It was told to stop, or says that it is stopping.
    Stopping,
    /// It missed its watchdog's deadline, or said that it is broken, and was sent the watchdog's signal.
    Aborting,
    /// It was sent SIGKILL.
    Killing,
    /// Its main process is gone, others are left.
    Leftovers,
}

/// One listener.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Its address as bound.
    pub address: String,
    /// Connections that wait to be accepted; with steered traffic, in the queues of all processes.
    pub queue: Option<u32>,
    /// How many may, likewise.
    pub backlog: Option<u32>,
    /// Where it came from: `bound` or `inherited` (from systemd).
    pub origin: String,
}

/// `POST /v1/upgrades`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpgradeRequest {
    /// Which service. Without this and `services`: all of them; with `rollback` it may be left out where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Which services, one after the other until one fails, in the order of the config; all of them if it is empty. Not
    /// beside `service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<Vec<String>>,
    /// `reload`, `restart` or `rollback`.
    #[serde(deserialize_with = "kind_to_ask_for")]
    pub kind: Kind,
    /// Whether those that are upgraded already are taken back when a later one fails; as the config has it without this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub atomic: Option<bool>,
    /// With `rollback`: the generation to go back to; the one before without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
}

/// A start is nothing to ask for, nor to be named to whoever asks for what there is not.
fn kind_to_ask_for<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Kind, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Asked {
        Reload,
        Restart,
        Rollback,
    }
    Ok(match Asked::deserialize(deserializer)? {
        Asked::Reload => Kind::Reload,
        Asked::Restart => Kind::Restart,
        Asked::Rollback => Kind::Rollback,
    })
}

/// The answer to `POST /v1/upgrades`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeAccepted {
    /// The upgrade to watch.
    pub id: u64,
    /// The service.
    pub service: String,
    /// How the request was taken.
    pub admission: AdmissionKind,
    /// The upgrades of other services, in the order in which they follow it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub then: Vec<UpgradeThen>,
    /// Whether those that are upgraded already are taken back when a later one fails.
    #[serde(default)]
    pub atomic: bool,
    /// Services that the config does not have any more, and that are removed once all are upgraded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removes: Vec<String>,
    /// Services that take no part, since they are being stopped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
}

/// An upgrade that follows another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeThen {
    /// Its number.
    pub id: u64,
    /// The service.
    pub service: String,
}

/// How a request for an upgrade was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdmissionKind {
    /// It began.
    Begun,
    /// Another upgrade is in flight: it begins after that.
    Queued,
    /// It shares an upgrade that waits to begin.
    Joined,
}

/// `GET /v1/upgrades/{id}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpgradeStatus {
    /// Its number.
    pub id: u64,
    /// The service.
    pub service: String,
    /// What was asked for.
    pub kind: Kind,
    /// The uids that asked for it; empty where it was a signal or zdsup itself.
    pub requested_by: Vec<u32>,
    /// `queued`, `pinning`, `before-start`, `starting`, `spawned`, `ready`, `after-ready`, `soaking`, `switching-back`,
    /// `rolled`, `held`, `weighted`, `awaiting-promotion`, `serving`, `standby`, `draining`, `returning`, or `done`.
    pub step: String,
    /// The candidate.
    pub generation: Option<u64>,
    /// The generation that served when it began.
    pub from: Option<u64>,
    /// When it was asked for.
    pub requested_at: f64,
    /// From its beginning to its verdict, or to now, seconds.
    pub duration: f64,
    /// When it had its verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<f64>,
    /// The upgrade that it takes back, since another of the same request failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub takes_back: Option<u64>,
    /// How it ended.
    pub verdict: Option<VerdictStatus>,
    /// Whether the generation it ended is gone as well.
    pub drained: bool,
    /// What went wrong and changed nothing about the verdict, such as a hook that nobody waits for.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What clients have seen of it, where a prober asks in their place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeSummary>,
}

/// How an upgrade ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictStatus {
    /// The verdict.
    pub verdict: Verdict,
    /// The exit code that says the same.
    pub exit_code: u8,
    /// The step at which it was given up.
    pub step: String,
    /// Why, unless it succeeded.
    pub reason: Option<String>,
    /// What would mend it.
    pub hint: Option<String>,
    /// The last lines of the candidate's output.
    pub output: Vec<String>,
    /// Where to look when they cannot be known.
    pub output_elsewhere: Option<String>,
    /// The upgrade of the same request that did not succeed, where that is the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because_of: Option<u64>,
    /// The generation that serves now.
    pub serving: Option<u64>,
}

/// One line of `GET /v1/upgrades/{id}/events`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpgradeEvent {
    /// Its place, from 1. Of a very long story a part is left out: there it rises by more than 1.
    pub seq: u64,
    /// When.
    pub at: f64,
    /// Since the upgrade began, seconds.
    pub elapsed: f64,
    /// The upgrade.
    pub upgrade: u64,
    /// The service.
    pub service: String,
    /// What kind: `queued`, `pinning`, `probing`, `hook`, `output` (the last line of a hook), `starting`, `spawned`,
    /// `status`, `check`, `ready`, `soaking`, `held` (it waits for the others of its request), `taking-back`,
    /// `switching-back`, `rolled`, `weighted`, `awaiting-promotion`, `promoted`, `serving`, `standby`, `draining`,
    /// `returning`, `over-budget`, `unhealthy`, `healthy`, `stopping`, `aborting`, `exited`, `overdue`, `undead`,
    /// `verdict`, `warning` (a hook that nobody waited for has failed), `drained`. More may come.
    pub event: String,
    /// A sentence for a person.
    pub message: String,
    /// The generation it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// With `verdict`: all about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Box<VerdictStatus>>,
}

/// One line of `GET /v1/events`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SupervisorEvent {
    /// Its place. Rises, also from one supervisor to the next; where it rises by more than 1, something was missed.
    pub seq: u64,
    /// When.
    pub at: f64,
    /// What kind: those of an upgrade's events but `status`, `check` and `output`; `requested`, `scaled`, `retrying`,
    /// `gave-up`, `paused`, `resumed`, `stopped`, `leaving` and `removed` of a service; `started`, `adopted`, `reexec` and
    /// `ending` of the
    /// supervisor.
    pub event: String,
    /// A sentence for a person.
    pub message: String,
    /// The service it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The generation it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The upgrade it is a part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<u64>,
    /// With `verdict`: all about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Box<VerdictStatus>>,
}

/// `GET /v1/history`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryPage {
    /// The upgrades, newest first.
    pub upgrades: Vec<UpgradeRecord>,
    /// Lines of the history that could not be read.
    pub skipped: u64,
}

/// `POST /v1/abort`, `/v1/stop` and `/v1/resume`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Which service; left out, for `stop`, the whole supervisor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

/// `POST /v1/pause`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PauseRequest {
    /// Which service; may be left out where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// For how long at most, seconds: 30 without it, and not more than 600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
}

/// `POST /v1/promote`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promotion {
    /// Which service; may be left out where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// All of the traffic at once, instead of the next step.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub full: bool,
}

/// `POST /v1/scale`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scaling {
    /// Which service; may be left out where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// How many instances it is to have, 1 to 1024.
    pub instances: u32,
}

/// The answer to `POST /v1/abort`, `/v1/promote`, `/v1/scale`, `/v1/pause`, `/v1/resume`,
/// `/v1/stop` and `/v1/reexec`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// A sentence for a person.
    pub message: String,
}

/// Every answer with a status of 400 or more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What is wrong.
    pub error: String,
    /// What would mend it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}
