//! The verdict of health checks, from their outcomes. Held by the shell, one an instance: the machine is told only when
//! the verdict changes.

use serde::{Deserialize, Serialize};

/// How many outcomes in a row make a verdict. Both at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thresholds {
    /// Checks in a row that must pass.
    pub successes: u32,
    /// Checks in a row that must fail.
    pub failures: u32,
}

/// What the checks of one instance have come to so far. One that was just made has no verdict: so it is with an instance
/// that has not been checked yet, and after a supervisor took over from another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    verdict: Option<Health>,
    /// The outcome of the latest checks, and how many in a row had it.
    latest: Option<Health>,
    in_a_row: u32,
}

/// How an instance is, by one check or by all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// It passes.
    Passing,
    /// It fails.
    Failing,
}

/// What one more outcome means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Turn {
    /// The verdict stays, or there is none yet.
    None,
    /// This is the verdict from now on.
    To(Health),
}

impl Tally {
    /// Counts the outcome of one check.
    pub fn count(&mut self, outcome: Health, thresholds: Thresholds) -> Turn {
        self.in_a_row = if self.latest == Some(outcome) { self.in_a_row.saturating_add(1) } else { 1 };
        self.latest = Some(outcome);
        let wanted = match outcome {
            Health::Passing => thresholds.successes,
            Health::Failing => thresholds.failures,
        };
        if self.in_a_row < wanted || self.verdict == Some(outcome) {
            return Turn::None;
        }
        self.verdict = Some(outcome);
        Turn::To(outcome)
    }

    /// The verdict, if there is one.
    #[must_use]
    pub fn verdict(&self) -> Option<Health> {
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Health::{Failing, Passing};
    use super::*;

    fn turns(successes: u32, failures: u32, outcomes: &[Health]) -> Vec<Turn> {
        let mut tally = Tally::default();
        outcomes.iter().map(|outcome| tally.count(*outcome, Thresholds { successes, failures })).collect()
    }

    #[test]
    fn enough_in_a_row_make_a_verdict() {
        assert_eq!(turns(1, 3, &[Passing, Passing]), [Turn::To(Passing), Turn::None]);
        assert_eq!(turns(2, 1, &[Passing, Passing, Failing]), [Turn::None, Turn::To(Passing), Turn::To(Failing)]);
        let fails = [Failing, Failing, Failing, Failing];
        assert_eq!(turns(1, 3, &fails), [Turn::None, Turn::None, Turn::To(Failing), Turn::None], "it is said once");
    }

    #[test]
    fn one_of_the_other_kind_begins_the_count_anew() {
        let flapping = [Passing, Failing, Failing, Passing, Failing, Failing, Passing, Failing, Failing, Failing];
        let turns = turns(1, 3, &flapping);
        assert_eq!(turns.iter().filter(|turn| **turn != Turn::None).count(), 2);
        assert_eq!((turns[0], turns[9]), (Turn::To(Passing), Turn::To(Failing)));
    }

    #[test]
    fn what_has_failed_may_recover() {
        let outcomes = [Failing, Failing, Passing, Passing, Passing];
        let expected = [Turn::None, Turn::To(Failing), Turn::None, Turn::To(Passing), Turn::None];
        assert_eq!(turns(2, 2, &outcomes), expected);
    }

    #[test]
    fn what_was_never_told_is_no_verdict() {
        let mut tally = Tally::default();
        assert_eq!(tally.verdict(), None);
        assert_eq!(tally.count(Failing, Thresholds { successes: 1, failures: 2 }), Turn::None);
        assert_eq!(tally.verdict(), None);
    }

    proptest! {
        /// The verdict is that of the latest run that was long enough, and it is told exactly when it changes.
        #[test]
        fn the_verdict_is_that_of_the_latest_long_run(
            outcomes in proptest::collection::vec(prop_oneof![Just(Passing), Just(Failing)], 0..40),
            successes in 1..4_u32,
            failures in 1..4_u32,
        ) {
            let thresholds = Thresholds { successes, failures };
            let mut tally = Tally::default();
            let mut told = None;
            for at in 0..outcomes.len() {
                if let Turn::To(verdict) = tally.count(outcomes[at], thresholds) {
                    prop_assert_ne!(told, Some(verdict));
                    told = Some(verdict);
                }
                let ends = |wanted: Health, length: u32| {
                    (0..=at).rev().find(|end| {
                        let length = length as usize;
                        end + 1 >= length && outcomes[end + 1 - length..=*end].iter().all(|one| *one == wanted)
                    })
                };
                let (passed, failed) = (ends(Passing, successes), ends(Failing, failures));
                let expected = match (passed, failed) {
                    (None, None) => None,
                    (passed, failed) if passed > failed => Some(Passing),
                    _ => Some(Failing),
                };
                prop_assert_eq!(told, expected);
                prop_assert_eq!(tally.verdict(), expected);
            }
        }
    }
}
