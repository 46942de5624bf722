//! What is recorded. The same types go over the control socket; durations are seconds, instants seconds since the epoch.

use serde::{Deserialize, Serialize};

use crate::core::{Kind, Verdict};

/// An upgrade that has its verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpgradeRecord {
    /// Its number; with a history they go on across restarts.
    pub id: u64,
    /// The service.
    pub service: String,
    /// What was asked for.
    pub kind: Kind,
    /// The candidate; none where it did not get so far.
    pub generation: Option<u64>,
    /// The generation that served when it began.
    pub from: Option<u64>,
    /// The executable of the candidate.
    #[serde(default)]
    pub release: Option<String>,
    /// Its arguments, the program's name first. Of very long ones only the beginning, which then ends with `…`.
    #[serde(default)]
    pub argv: Vec<String>,
    /// The directory that it was started in, every symlink resolved.
    #[serde(default)]
    pub directory: Option<String>,
    /// The same wherever the same was run: of the executable (which file, its size, when it was modified), arguments,
    /// environment, directory, user, and the config of the service. 32 hexadecimal digits.
    #[serde(default)]
    pub digest: Option<String>,
    /// The uids that asked for it; empty where it was a signal or zdsup itself.
    #[serde(default)]
    pub requested_by: Vec<u32>,
    /// The upgrade that it takes back, since another of the same request failed.
    #[serde(default)]
    pub takes_back: Option<u64>,
    /// When it began.
    pub at: f64,
    /// From its beginning to its verdict, seconds.
    pub duration: f64,
    /// How it ended.
    pub verdict: Verdict,
    /// Why, unless it succeeded.
    #[serde(default)]
    pub reason: Option<String>,
    /// The exit code that says the same as the verdict.
    pub exit_code: u8,
    /// The step at which it was given up, or had come to.
    #[serde(default)]
    pub step: String,
    /// What it went through until its verdict, in order.
    #[serde(default)]
    pub phases: Vec<PhaseRecord>,
    /// How long the traffic took to be back at a release that is well, where that was the matter: for a rollback from its
    /// beginning on, for the verdict `rolled-back` from what went wrong on; none where that is not known. Seconds.
    #[serde(default)]
    pub rollback: Option<f64>,
    /// How long the generation that it ended took to be gone; none as long as it is not. Seconds.
    #[serde(default)]
    pub drain: Option<f64>,
    /// What clients saw, where a prober asked in their place.
    #[serde(default)]
    pub probe: Option<ProbeSummary>,
}

/// A part of an upgrade.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhaseRecord {
    /// The step that began it, as events name it.
    pub name: String,
    /// Since the upgrade began, seconds.
    pub start: f64,
    /// Until the next one, or the verdict, seconds.
    pub duration: f64,
}

/// What a prober saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProbeSummary {
    /// During the upgrade.
    pub inside: ProbeFigures,
    /// Just before it.
    #[serde(default)]
    pub before: Option<ProbeFigures>,
    /// How requests failed during the upgrade.
    #[serde(default)]
    pub errors: ProbeErrors,
    /// What the kernel counted meanwhile.
    #[serde(default)]
    pub kernel: Option<KernelFigures>,
    /// Whether something is missing: a supervisor was replaced, or died. The counts are at least these; times of the
    /// upgrade, and what the kernel counted, are of the time since then.
    #[serde(default)]
    pub partial: bool,
}

/// Requests that failed, by how they did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeErrors {
    /// The connection was refused.
    pub refused: u64,
    /// There was no way there: no route, no permission.
    #[serde(default)]
    pub unreachable: u64,
    /// It was reset.
    pub reset: u64,
    /// There was no connection, or no whole answer, in time.
    pub timed_out: u64,
    /// It was closed before the answer was whole.
    pub cut: u64,
    /// What came is not HTTP.
    pub malformed: u64,
    /// The status was 400 or more.
    pub status: u64,
}

/// What the kernel counted during an upgrade. All but the queue is of all sockets of the network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelFigures {
    /// The most connections that were seen waiting to be accepted, in one queue of the listener.
    pub queue: u32,
    /// Connections that found a full accept queue; those of a pause are among them.
    pub overflows: u64,
    /// Connections that were dropped before they could be accepted, for whatever reason.
    pub drops: u64,
    /// Established connections that were reset.
    pub resets: u64,
}

/// The requests of a prober over some time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProbeFigures {
    /// How many.
    pub requests: u64,
    /// How many of them failed.
    pub errors: u64,
    /// The time that half of them took at most, seconds.
    pub p50: f64,
    /// The same for 99 of 100.
    pub p99: f64,
}

/// A generation begins to exist: its number is taken for good, whatever becomes of the upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// The upgrade.
    pub id: u64,
    /// The service.
    pub service: String,
    /// The generation.
    pub generation: u64,
}

/// What an upgrade ended is gone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drained {
    /// The upgrade.
    pub id: u64,
    /// The service.
    pub service: String,
    /// The generation that is gone.
    pub generation: u64,
    /// When that was.
    pub at: f64,
    /// How long it took, seconds.
    pub duration: f64,
    /// Whether it had served: not a candidate that was given up.
    pub served: bool,
}
