//! From the story of an upgrade to what is recorded of it. By the names of its steps alone, so that a strategy with
//! steps of its own is recorded without a change here.

use crate::history::PhaseRecord;

/// Phases that are recorded at most; the last one then lasts until the verdict.
const PHASES_MAX: usize = 64;

/// One event of an upgrade.
#[derive(Clone, Copy, Debug)]
pub(in crate::supervisor) struct Moment<'a> {
    /// What happened.
    pub(in crate::supervisor) event: &'a str,
    /// Since the upgrade began, seconds.
    pub(in crate::supervisor) at: f64,
    /// The generation that it is about.
    pub(in crate::supervisor) generation: Option<u64>,
}

impl Moment<'_> {
    /// Whether something went wrong, or the traffic is being brought back.
    fn is_trouble(&self) -> bool {
        matches!(self.event, "exited" | "stopping" | "aborting" | "unhealthy" | "over-budget" | "returning")
    }

    /// Whether it begins a phase also where one of its name goes on: a canary has another share.
    fn begins_anew(&self) -> bool {
        matches!(self.event, "weighted" | "awaiting-promotion")
    }

    /// Whether it is told in the course of a phase, and begins none.
    fn is_incident(&self) -> bool {
        let aside = matches!(
            self.event,
            "status"
                | "promoted"
                | "check"
                | "healthy"
                | "output"
                | "warning"
                | "overdue"
                | "undead"
                | "retrying"
                | "gave-up"
                | "verdict"
                | "drained"
                | "stopped"
                | "reexec"
        );
        aside || (self.is_trouble() && self.event != "returning")
    }
}

/// What an upgrade went through until its verdict, which fell at `end`.
pub(in crate::supervisor) fn phases<'a>(moments: impl Iterator<Item = Moment<'a>>, end: f64) -> Vec<PhaseRecord> {
    let mut phases: Vec<PhaseRecord> = Vec::new();
    for moment in moments.filter(|moment| !moment.is_incident() && moment.at <= end) {
        // Several processes take the same step.
        let goes_on = phases.last().is_some_and(|last| last.name == moment.event) && !moment.begins_anew();
        if goes_on || phases.len() >= PHASES_MAX {
            continue;
        }
        if let Some(last) = phases.last_mut() {
            last.duration = moment.at - last.start;
        }
        phases.push(PhaseRecord { name: moment.event.to_owned(), start: moment.at, duration: 0.0 });
    }
    if let Some(last) = phases.last_mut() {
        last.duration = end - last.start;
    }
    phases
}

/// How long the traffic took to be back after something had gone wrong with a candidate that was ready, or after a release
/// that had made way for it began to come back; `None` where the story has neither.
pub(in crate::supervisor) fn rollback<'a>(
    moments: impl Iterator<Item = Moment<'a>>,
    candidate: Option<u64>,
    end: f64,
) -> Option<f64> {
    let of_candidate = |moment: &Moment<'_>| moment.generation.is_none() || moment.generation == candidate;
    let mut was_ready = false;
    let mut trouble = moments.take_while(|moment| moment.at <= end).filter(|moment| {
        was_ready |= moment.event == "ready";
        moment.event == "returning" || (was_ready && moment.is_trouble() && of_candidate(moment))
    });
    trouble.next().map(|moment| end - moment.at)
}
