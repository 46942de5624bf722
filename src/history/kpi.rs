//! What the upgrades of some time come to, in figures.

use serde::{Deserialize, Serialize};

use super::line::Line;
use super::record::UpgradeRecord;
use crate::core::{Kind, Verdict};

/// The figures.
///
/// A *deployment* is an upgrade that somebody asked for and that was begun: neither a first start nor a rollback, and not
/// refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kpi {
    /// Of this service; of all without one.
    pub service: Option<String>,
    /// The time that they are about, seconds until now.
    pub since: f64,
    /// Deployments.
    pub deployments: u64,
    /// Those of them that ended as `upgraded`.
    pub upgraded: u64,
    /// As `failed`.
    pub failed: u64,
    /// As `rolled-back`.
    pub rolled_back: u64,
    /// As `aborted`.
    pub aborted: u64,
    /// Requests that were refused, which are no deployments.
    pub refused: u64,
    /// The share of deployments that succeeded, from 0 to 1; none without deployments.
    pub success_rate: Option<f64>,
    /// Requests of probers during upgrades.
    pub client_requests: u64,
    /// Those of them that failed.
    pub client_errors: u64,
    /// The share of those, from 0 to 1; none without requests.
    pub client_error_rate: Option<f64>,
    /// Time to upgrade: from the beginning of a deployment that succeeded to its verdict.
    pub upgrade: Spread,
    /// Time to rollback: until the traffic was back.
    pub rollback: Spread,
    /// Time to drain: from when a generation that served was told to stop until it was gone.
    pub drain: Spread,
    /// Lines of the history that could not be read.
    pub skipped: u64,
}

/// How times are spread, seconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// How many there are; without any, the rest is not there.
    pub count: u64,
    /// What half of them do not exceed.
    pub p50: Option<f64>,
    /// The mean.
    pub mean: Option<f64>,
    /// The worst.
    pub max: Option<f64>,
}

/// Figures in the making.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    service: Option<String>,
    from: f64,
    /// The last few lines: whether of a verdict, whose, when.
    seen: Vec<(bool, u64, f64)>,
    verdicts: [u64; 5],
    requests: u64,
    errors: u64,
    upgrades: Vec<f64>,
    rollbacks: Vec<f64>,
    drains: Vec<f64>,
}

impl Figures {
    /// Of what happened at `from` or later, in seconds since the epoch.
    #[must_use]
    pub fn new(service: Option<String>, from: f64) -> Self {
        Self { service, from, ..Self::default() }
    }

    /// Takes the next line. An upgrade that comes twice counts once.
    pub fn add(&mut self, line: &Line) {
        let wanted = |service: &String| self.service.as_ref().is_none_or(|name| name == service);
        match line {
            Line::Upgrade(record) if wanted(&record.service) && record.at >= self.from => self.upgrade(record),
            Line::Drained(drained) if wanted(&drained.service) && drained.at >= self.from && drained.served => {
                if !self.is_known((false, drained.id, drained.at)) {
                    self.drains.push(drained.duration);
                }
            }
            Line::Begun(_) | Line::Upgrade(_) | Line::Drained(_) => {}
        }
    }

    /// The result. `since`: how long ago the beginning is, seconds; `skipped`: lines that could not be read.
    #[must_use]
    pub fn kpi(self, since: f64, skipped: u64) -> Kpi {
        let [upgraded, failed, rolled_back, aborted, refused] = self.verdicts;
        let deployments = upgraded + failed + rolled_back + aborted;
        let share = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
        Kpi {
            service: self.service,
            since,
            deployments,
            upgraded,
            failed,
            rolled_back,
            aborted,
            refused,
            success_rate: share(upgraded, deployments),
            client_requests: self.requests,
            client_errors: self.errors,
            client_error_rate: share(self.errors, self.requests),
            upgrade: Spread::of(self.upgrades),
            rollback: Spread::of(self.rollbacks),
            drain: Spread::of(self.drains),
            skipped,
        }
    }

    fn upgrade(&mut self, record: &UpgradeRecord) {
        if self.is_known((true, record.id, record.at)) {
            return;
        }
        self.rollbacks.extend(record.rollback);
        if let Some(probe) = &record.probe {
            self.requests = self.requests.saturating_add(probe.inside.requests);
            self.errors = self.errors.saturating_add(probe.inside.errors);
        }
        if record.kind == Kind::Start || record.kind == Kind::Rollback {
            return;
        }
        let verdict = match record.verdict {
            Verdict::Upgraded => 0,
            Verdict::Failed => 1,
            Verdict::RolledBack => 2,
            Verdict::Aborted => 3,
            Verdict::Refused => 4,
        };
        self.verdicts[verdict] += 1;
        if record.verdict == Verdict::Upgraded {
            self.upgrades.push(record.duration);
        }
    }

    /// Whether this one was there among the last few: what waits to be written may have been written meanwhile.
    fn is_known(&mut self, line: (bool, u64, f64)) -> bool {
        const RECENT: usize = 512;
        if self.seen.contains(&line) {
            return true;
        }
        if self.seen.len() >= RECENT {
            self.seen.drain(..RECENT / 2);
        }
        self.seen.push(line);
        false
    }
}

impl Spread {
    fn of(mut times: Vec<f64>) -> Self {
        times.retain(|time| time.is_finite());
        times.sort_by(f64::total_cmp);
        let count = times.len() as u64;
        let mean = (count > 0).then(|| times.iter().sum::<f64>() / count as f64);
        // The smallest that half of them do not exceed.
        let p50 = times.get(times.len().div_ceil(2).saturating_sub(1)).copied();
        Self { count, p50, mean, max: times.last().copied() }
    }
}
