//! How a service is upgraded: the strategy, and what must hold meanwhile.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Affinity, Network};

/// How new connections are divided between generations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Traffic {
    /// All processes accept from one socket, and the kernel gives a connection to whichever is there first.
    #[default]
    Shared,
    /// Each process accepts from sockets of its own, and a program in the kernel chooses among them. All listeners are
    /// TCP then, and there is at least one.
    Steered,
}

impl Traffic {
    /// As the file has it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Steered => "steered",
        }
    }
}

/// How a service is upgraded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Upgrade {
    /// How a candidate takes the place of what serves. Default [`Strategy::Overlap`].
    pub strategy: Strategy,
    /// How long a ready candidate must stay up before the old generation is told to stop. Default 0.
    pub soak: Duration,
    /// Generations that may drain at once. Default 5, at least 1.
    pub max_draining: u32,
    /// How many releases that served are kept beside the one that serves, to go back to. Default 5, at most 100.
    pub keep_releases: u32,
    /// What is asked for meanwhile, as a client would ask. Default: nothing.
    pub probe: Option<UpgradeProbe>,
}

impl Default for Upgrade {
    fn default() -> Self {
        Self { strategy: Strategy::Overlap, soak: Duration::ZERO, max_draining: 5, keep_releases: 5, probe: None }
    }
}

/// How a candidate takes the place of what serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// All of the new beside all of the old, then the switch.
    #[default]
    Overlap,
    /// A few instances at a time. The two numbers are of instances, worked out of percentages for the number of
    /// instances that the config asks for; they are never both 0.
    Rolling {
        /// How many more than the service's number there may be. Default 1.
        max_surge: u32,
        /// How many fewer of them may be available. Default 0.
        max_unavailable: u32,
    },
    /// A share of new connections that grows step by step. Only where traffic is steered.
    Canary(Canary),
    /// All of the new beside all of the old, one switch, and the old kept alive to switch back to. Only where traffic is
    /// steered.
    BlueGreen {
        /// For how long; 0: not at all. Default 10 min.
        standby: Duration,
    },
    /// The old is ended before the new is started; callers wait.
    StopStart,
}

impl Strategy {
    /// The default of `max-surge`.
    pub const MAX_SURGE: u32 = 1;
    /// The default of `max-unavailable`.
    pub const MAX_UNAVAILABLE: u32 = 0;
    /// The default of `standby`.
    pub const STANDBY: Duration = Duration::from_secs(10 * 60);

    /// As the file has it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Overlap => "overlap",
            Self::Rolling { .. } => "rolling",
            Self::Canary(_) => "canary",
            Self::BlueGreen { .. } => "blue-green",
            Self::StopStart => "stop-start",
        }
    }
}

/// How the share of a candidate grows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// The steps before all of them, 1 to 32; weights rise.
    pub steps: Vec<CanaryStep>,
    /// Each step waits for somebody to promote it, instead of for its time. Default false.
    pub manual: bool,
    /// Clients that go to the candidate from the first step on, whatever its weight. Default: none.
    pub from: Vec<Network>,
    /// Whether a client stays with one release. Default [`Affinity::Random`].
    pub affinity: Affinity,
}

/// One step of a canary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryStep {
    /// The candidate's share of new connections, percent: 1 to 99.
    pub weight: u32,
    /// For how long; not 0 unless the canary is manual and says nothing.
    pub hold: Duration,
}

/// Requests that are sent during an upgrade, through a public listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradeProbe {
    /// The path and query that is asked for; begins with `/`.
    pub http: String,
    /// The Host header. Default: the address.
    #[serde(default)]
    pub host: Option<String>,
    /// Requests a second, 1 to 1000. Default 20.
    pub rate: u32,
    /// The name of the listener: TCP, or a unix stream. Default: the first such.
    pub listener: String,
    /// More errors than this fail the upgrade. Default: they are only counted.
    pub max_error_rate: Option<ErrorBudget>,
}

impl UpgradeProbe {
    /// The default of `rate`.
    pub const RATE: u32 = 20;
}

/// The greatest part of requests that may fail, below 100 %.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ErrorBudget {
    per_million: u32,
}

impl ErrorBudget {
    /// Nothing is judged by fewer requests.
    pub(crate) const FEWEST: u32 = 10;
    /// Fewer are judged as if there had been so many, the others good: so one error alone does not exceed 1 %.
    pub(crate) const AS_IF: u32 = 100;

    pub(crate) fn per_million(per_million: u32) -> Self {
        Self { per_million }
    }

    /// Fewer requests cannot exceed it, even if all of them failed.
    pub(crate) fn fewest(self) -> u64 {
        let to_exceed = u64::from(self.per_million) * u64::from(Self::AS_IF) / 1_000_000 + 1;
        to_exceed.max(Self::FEWEST.into())
    }

    /// Whether so many errors among so many requests are more than it allows.
    #[must_use]
    pub fn is_exceeded_by(self, errors: u64, requests: u64) -> bool {
        u128::from(errors) * 1_000_000 > u128::from(requests) * u128::from(self.per_million)
    }
}

impl std::fmt::Display for ErrorBudget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&super::units::format_percent(self.per_million))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_exceeded_by_more_than_it_allows() {
        let budget = ErrorBudget::per_million(10_000);
        assert_eq!(budget.to_string(), "1%");
        for (errors, requests, exceeded) in
            [(0, 0, false), (1, 100, false), (2, 100, true), (1, 99, true), (u64::MAX, u64::MAX, true)]
        {
            assert_eq!(budget.is_exceeded_by(errors, requests), exceeded, "{errors} of {requests}");
        }
        for (per_million, fewest) in [(0, 10), (10_000, 10), (100_000, 11), (500_000, 51), (999_999, 100)] {
            assert_eq!(ErrorBudget::per_million(per_million).fewest(), fewest, "{per_million}");
        }
        let nothing = ErrorBudget::per_million(0);
        assert!(!nothing.is_exceeded_by(0, 100) && nothing.is_exceeded_by(1, u64::MAX));
    }

    #[test]
    fn what_an_older_version_wrote_is_read() {
        let upgrade: Upgrade =
            serde_json::from_str(r#"{"soak":{"secs":5,"nanos":0},"max_draining":2}"#).expect("an upgrade");
        assert_eq!(upgrade, Upgrade { soak: Duration::from_secs(5), max_draining: 2, ..Upgrade::default() });
    }
}
