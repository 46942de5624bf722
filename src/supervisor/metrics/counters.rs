//! What has to be counted as it happens.

use std::collections::BTreeMap;

use crate::core::Verdict;
use crate::history::UpgradeRecord;

/// The upper bounds of buckets, seconds.
const BOUNDS: [f64; 12] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0];

/// Since this process has run: a successor begins anew, as a monitoring system expects of a process.
#[derive(Clone, Debug, Default)]
pub(in crate::supervisor) struct Counters(BTreeMap<String, OfService>);

/// Of one service.
#[derive(Clone, Debug, Default)]
pub(super) struct OfService {
    pub(super) restarts: u64,
    verdicts: [u64; Self::VERDICTS.len()],
    pub(super) upgrade: Histogram,
    pub(super) rollback: Histogram,
    pub(super) drain: Histogram,
}

impl Counters {
    /// An upgrade has its verdict.
    pub(in crate::supervisor) fn upgrade(&mut self, record: &UpgradeRecord) {
        let of = self.of(&record.service);
        if let Some(at) = OfService::VERDICTS.iter().position(|verdict| *verdict == record.verdict) {
            of.verdicts[at] += 1;
        }
        if record.verdict == Verdict::Upgraded {
            of.upgrade.observe(record.duration);
        }
        if let Some(rollback) = record.rollback {
            of.rollback.observe(rollback);
        }
    }

    /// A generation that served is gone.
    pub(in crate::supervisor) fn drained(&mut self, service: &str, duration: f64) {
        self.of(service).drain.observe(duration);
    }

    /// A process of a serving generation has failed, and is started again.
    pub(in crate::supervisor) fn restarted(&mut self, service: &str) {
        self.of(service).restarts += 1;
    }

    /// Of this service.
    pub(super) fn get(&self, service: &str) -> OfService {
        self.0.get(service).cloned().unwrap_or_default()
    }

    fn of(&mut self, service: &str) -> &mut OfService {
        self.0.entry(service.to_owned()).or_default()
    }
}

impl OfService {
    pub(super) const VERDICTS: [Verdict; 5] =
        [Verdict::Upgraded, Verdict::Failed, Verdict::RolledBack, Verdict::Aborted, Verdict::Refused];

    /// Every verdict, those that have not fallen among them: an increase from nothing is none to whoever looks.
    pub(super) fn verdicts(&self) -> impl Iterator<Item = (Verdict, u64)> {
        Self::VERDICTS.into_iter().zip(self.verdicts)
    }
}

/// How values are spread.
#[derive(Clone, Debug, Default)]
pub(super) struct Histogram {
    /// Of each bucket alone; the last one has no bound.
    counts: [u64; BOUNDS.len() + 1],
    sum: f64,
}

impl Histogram {
    pub(super) fn observe(&mut self, value: f64) {
        let at = BOUNDS.iter().position(|bound| value <= *bound).unwrap_or(BOUNDS.len());
        self.counts[at] += 1;
        self.sum += value;
    }

    /// Upper bounds, and how many values do not exceed them.
    pub(super) fn buckets(&self) -> impl Iterator<Item = (Option<f64>, u64)> {
        let bounds = BOUNDS.into_iter().map(Some).chain([None]);
        bounds.zip(self.counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        }))
    }

    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub(super) fn sum(&self) -> f64 {
        self.sum
    }
}
