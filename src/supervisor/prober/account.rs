//! What became of the requests. Pure.
//!
//! - A request belongs to the time in which it was begun: before the upgrade, or inside.
//! - One that failed while callers were made to wait says nothing of the service, nor does one that failed for want of
//!   something of our own: neither is counted.
//! - Whether errors are too many is judged by the latest requests since the candidate took part, and since its share grew.
//!   Those that are as frequent as before the upgrade are not the candidate's.

use std::collections::VecDeque;
use std::time::Duration;

use super::times::Times;
use crate::config::ErrorBudget;
use crate::history::{ProbeErrors, ProbeFigures, ProbeSummary};

/// How many of the latest requests are looked at.
const LATEST: usize = 1000;

/// What a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It was answered with a status below 400.
    Good,
    /// It was not.
    Bad(Bad),
    /// Nothing can be said: it was we who had no descriptor, or no port.
    Ours,
}

/// How a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// The connection was refused.
    Refused,
    /// There is no way there: no route, no permission.
    Unreachable,
    /// It was reset.
    Reset,
    /// There was no connection, or no whole answer, in time.
    TimedOut,
    /// It was closed before the answer was whole.
    Cut,
    /// What came is not HTTP.
    Malformed,
    /// It was answered with this status.
    Status(u16),
}

impl std::fmt::Display for Bad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::Reset => f.write_str("connection reset"),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Cut => f.write_str("closed before the answer was whole"),
            Self::Malformed => f.write_str("an answer that is not HTTP"),
            Self::Status(status) => write!(f, "status {status}"),
        }
    }
}

/// A request that was begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    inside: bool,
    /// In which judged time; 0: in none.
    judged: u32,
    interruptions: u32,
}

/// The requests of one upgrade.
#[derive(Debug)]
pub(super) struct Account {
    /// What is asked for, and where.
    asked: String,
    budget: Option<ErrorBudget>,
    before: Tally,
    inside: Tally,
    errors: ProbeErrors,
    has_begun: bool,
    paused: bool,
    /// A predecessor had part of them.
    partial: bool,
    /// Pauses that began or ended.
    interruptions: u32,
    /// The judged time, from 1.
    judged: u32,
    /// Whether each of the latest requests of it failed.
    latest: VecDeque<bool>,
    /// So many of those did.
    failed: u64,
    last: Option<Bad>,
}

#[derive(Debug, Default)]
struct Tally {
    requests: u64,
    errors: u64,
    times: Times,
    /// What a predecessor knew of the times: these count as long as there are none of our own.
    former: Option<(f64, f64)>,
}

impl Account {
    /// `asked`: what is asked for and where, such as `/healthz through web`.
    pub(super) fn new(asked: String, budget: Option<ErrorBudget>) -> Self {
        Self {
            asked,
            budget,
            before: Tally::default(),
            inside: Tally::default(),
            errors: ProbeErrors::default(),
            has_begun: false,
            paused: false,
            partial: false,
            interruptions: 0,
            judged: 0,
            latest: VecDeque::new(),
            failed: 0,
            last: None,
        }
    }

    /// Goes on with what a predecessor had counted. Times do not add up: those of the upgrade are of the time since.
    pub(super) fn resume(&mut self, summary: ProbeSummary) {
        self.inside = Tally::of(&summary.inside);
        self.before = summary.before.as_ref().map(Tally::of).unwrap_or_default();
        self.errors = summary.errors;
        self.partial = true;
    }

    /// The upgrade has its verdict: nothing is judged any more.
    pub(super) fn conclude(&mut self) {
        self.budget = None;
    }

    /// From now on requests are inside the upgrade.
    pub(super) fn enter(&mut self) {
        self.has_begun = true;
    }

    /// The candidate takes part from now on; anew: with another share than before.
    pub(super) fn judge(&mut self, anew: bool) {
        if anew || self.judged == 0 {
            self.judged += 1;
            self.latest.clear();
            (self.failed, self.last) = (0, None);
        }
    }

    /// Callers are made to wait, or are not any more.
    pub(super) fn pause(&mut self, paused: bool) {
        if self.paused != paused {
            self.paused = paused;
            self.interruptions += 1;
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    pub(super) fn begin(&self) -> Ticket {
        Ticket { inside: self.has_begun, judged: self.judged, interruptions: self.interruptions }
    }

    /// Takes note of what a request came to, and how long it took; says so where errors are too many.
    #[must_use]
    pub(super) fn end(&mut self, ticket: Ticket, answer: Answer, took: Duration) -> Option<String> {
        let bad = match answer {
            Answer::Ours => return None,
            Answer::Bad(_) if ticket.interruptions != self.interruptions || self.paused => return None,
            Answer::Bad(bad) => Some(bad),
            Answer::Good => None,
        };
        let tally = if ticket.inside { &mut self.inside } else { &mut self.before };
        tally.requests += 1;
        if matches!(bad, None | Some(Bad::Status(_))) {
            tally.times.add(took);
        }
        if let Some(bad) = bad {
            tally.errors += 1;
            if ticket.inside {
                *class(&mut self.errors, bad) += 1;
            }
        }
        if ticket.judged == 0 || ticket.judged != self.judged {
            return None;
        }
        self.look_at(bad);
        self.exceeded()
    }

    fn look_at(&mut self, bad: Option<Bad>) {
        if self.latest.len() == LATEST && self.latest.pop_front() == Some(true) {
            self.failed -= 1;
        }
        self.latest.push_back(bad.is_some());
        self.failed += u64::from(bad.is_some());
        self.last = bad.or(self.last);
    }

    fn exceeded(&self) -> Option<String> {
        let (budget, failed, requests) = (self.budget?, self.failed, self.latest.len() as u64);
        let counted = requests.max(ErrorBudget::AS_IF.into());
        let too_many = budget.is_exceeded_by(failed, counted) && !self.before.explains(failed, counted);
        if requests < ErrorBudget::FEWEST.into() || !too_many {
            return None;
        }
        let percent = failed as f64 * 100.0 / requests as f64;
        let percent = format!("{percent:.1}");
        let percent = percent.strip_suffix(".0").unwrap_or(&percent);
        let last = self.last.map(|bad| format!("; the last one: {bad}")).unwrap_or_default();
        let budget = budget.to_string().replace('%', " %");
        let before = match &self.before {
            Tally { requests: 0, .. } => String::new(),
            Tally { requests, errors, .. } => format!("; before: {errors} of {requests}"),
        };
        let asked = &self.asked;
        Some(format!(
            "{failed} of {requests} probe requests failed ({percent} %; at most {budget} may{before}): {asked}{last}"
        ))
    }

    /// What clients have seen so far.
    pub(super) fn summary(&self) -> ProbeSummary {
        let before = Some(&self.before).filter(|before| before.requests > 0);
        ProbeSummary {
            inside: self.inside.figures(),
            before: before.map(Tally::figures),
            errors: self.errors.clone(),
            kernel: None,
            partial: self.partial,
        }
    }
}

impl Tally {
    fn of(figures: &ProbeFigures) -> Self {
        let ProbeFigures { requests, errors, p50, p99 } = *figures;
        Self { requests, errors, times: Times::default(), former: Some((p50, p99)) }
    }

    /// Whether so many errors among so many requests are what is to be expected by this: no more often than here, or two
    /// standard deviations more often. Where none failed, none is expected.
    fn explains(&self, errors: u64, requests: u64) -> bool {
        let expected = self.errors as f64 + 2.0 * (self.errors as f64).sqrt();
        errors as f64 * self.requests as f64 <= expected * requests as f64 && self.requests > 0
    }

    fn figures(&self) -> ProbeFigures {
        let former = self.former.unwrap_or_default();
        let time = |part, former| self.times.percentile(part).map_or(former, |time| time.as_secs_f64());
        let (p50, p99) = (time(0.5, former.0), time(0.99, former.1));
        ProbeFigures { requests: self.requests, errors: self.errors, p50, p99 }
    }
}

fn class(errors: &mut ProbeErrors, bad: Bad) -> &mut u64 {
    match bad {
        Bad::Refused => &mut errors.refused,
        Bad::Unreachable => &mut errors.unreachable,
        Bad::Reset => &mut errors.reset,
        Bad::TimedOut => &mut errors.timed_out,
        Bad::Cut => &mut errors.cut,
        Bad::Malformed => &mut errors.malformed,
        Bad::Status(_) => &mut errors.status,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER_ERROR: Answer = Answer::Bad(Bad::Status(500));

    fn account(percent: Option<u32>) -> Account {
        Account::new("/healthz through web".into(), percent.map(|percent| ErrorBudget::per_million(percent * 10_000)))
    }

    fn ask(account: &mut Account, answer: Answer) -> Option<String> {
        let ticket = account.begin();
        account.end(ticket, answer, Duration::from_millis(1))
    }

    /// Until it is condemned: how many requests that took, and why.
    fn until_condemned(account: &mut Account, answers: impl IntoIterator<Item = Answer>) -> Option<(usize, String)> {
        answers.into_iter().enumerate().find_map(|(at, answer)| Some((at + 1, ask(account, answer)?)))
    }

    #[test]
    fn each_belongs_to_the_time_in_which_it_was_begun() {
        let mut account = account(None);
        assert_eq!(account.summary().before, None);
        let early = account.begin();
        assert_eq!(ask(&mut account, Answer::Good), None);
        account.enter();
        assert_eq!(account.end(early, SERVER_ERROR, Duration::from_millis(30)), None);
        for (answer, times) in [(Answer::Good, 3), (SERVER_ERROR, 2), (Answer::Bad(Bad::TimedOut), 1)] {
            for _ in 0..times {
                assert_eq!(ask(&mut account, answer), None, "nobody set a limit");
            }
        }
        let summary = account.summary();
        let before = summary.before.clone().expect("there were some");
        assert_eq!((before.requests, before.errors), (2, 1));
        assert!(before.p99 > 0.029 && before.p99 < 0.032, "{before:?}");
        assert_eq!((summary.inside.requests, summary.inside.errors), (6, 3));
        assert_eq!(summary.errors, ProbeErrors { status: 2, timed_out: 1, ..ProbeErrors::default() });
        assert!(summary.inside.p99 < 0.0011, "who was not answered has no time: {summary:?}");
    }

    #[test]
    fn what_is_our_own_fault_is_not_counted() {
        let mut account = account(Some(0));
        account.enter();
        account.judge(false);
        for _ in 0..20 {
            assert_eq!(ask(&mut account, Answer::Ours), None);
        }
        // Begun before a pause, in it, and over after it.
        let before = account.begin();
        account.pause(true);
        let within = account.begin();
        assert_eq!(account.end(before, Answer::Bad(Bad::TimedOut), Duration::from_secs(2)), None);
        account.pause(false);
        assert_eq!(account.end(within, Answer::Bad(Bad::TimedOut), Duration::from_secs(2)), None);
        assert_eq!(account.summary().inside.requests, 0);
        assert_eq!(ask(&mut account, Answer::Bad(Bad::Reset)), None);
        assert_eq!(account.summary().inside.errors, 1);
    }

    #[test]
    fn only_what_the_candidate_may_have_answered_is_judged() {
        let mut account = account(Some(1));
        assert_eq!(ask(&mut account, Answer::Good), None);
        account.enter();
        assert_eq!(until_condemned(&mut account, [SERVER_ERROR; 50]), None);
        let early = account.begin();
        account.judge(false);
        assert_eq!(account.end(early, SERVER_ERROR, Duration::ZERO), None);
        assert_eq!(until_condemned(&mut account, [SERVER_ERROR; 9]), None, "too few to say anything");
        let why = ask(&mut account, SERVER_ERROR).expect("it is too much");
        let expected = "10 of 10 probe requests failed (100 %; at most 1 % may; before: 0 of 1): /healthz through web; \
                        the last one: status 500";
        assert_eq!(why, expected);
        account.judge(false);
        assert!(ask(&mut account, Answer::Good).is_some(), "it takes part already");
        account.judge(true);
        assert_eq!(until_condemned(&mut account, [Answer::Good; 500]), None, "its share is another");
    }

    #[test]
    fn a_single_error_does_not_exceed_one_percent() {
        let mut answers = vec![Answer::Good; 119];
        answers[3] = SERVER_ERROR;
        let mut strict = account(Some(0));
        strict.enter();
        strict.judge(false);
        assert_eq!(until_condemned(&mut strict, answers.clone()).expect("none may fail").0, 10);
        let mut account = account(Some(1));
        account.enter();
        account.judge(false);
        assert_eq!(until_condemned(&mut account, answers.clone()), None);
        answers[110] = Answer::Bad(Bad::Refused);
        account.judge(true);
        let (at, why) = until_condemned(&mut account, answers).expect("two are too many");
        assert_eq!(at, 111);
        let expected = "2 of 111 probe requests failed (1.8 %; at most 1 % may): /healthz through web; \
                        the last one: connection refused";
        assert_eq!(why, expected);
    }

    #[test]
    fn a_successor_goes_on_counting() {
        let mut first = account(Some(1));
        failing(3).for_each(|answer| drop(ask(&mut first, answer)));
        first.enter();
        failing(2).for_each(|answer| drop(ask(&mut first, answer)));
        let handed_on = first.summary();
        assert!(!handed_on.partial);
        let mut second = account(Some(1));
        second.resume(handed_on.clone());
        second.enter();
        second.judge(false);
        assert_eq!(second.summary(), ProbeSummary { partial: true, ..handed_on });
        // It still knows what was before.
        assert_eq!(until_condemned(&mut second, failing(5)), None);
        let summary = second.summary();
        assert_eq!((summary.inside.requests, summary.inside.errors, summary.errors.status), (200, 7, 7));
        second.conclude();
        assert_eq!(until_condemned(&mut second, failing(100)), None, "it is over");
    }

    /// So many of a hundred.
    fn failing(errors: usize) -> impl Iterator<Item = Answer> {
        (0..100).map(move |at| if at < errors { SERVER_ERROR } else { Answer::Good })
    }

    #[test]
    fn what_failed_before_is_not_the_candidates_fault() {
        // By chance there may be a few more than before, but not many more.
        for (before, inside, condemned) in [
            (0, 1, false),
            (0, 2, true),
            (3, 3, false),
            (3, 6, false),
            (3, 7, true),
            (50, 60, false),
            (100, 100, false),
        ] {
            let mut account = account(Some(1));
            failing(before).for_each(|answer| assert_eq!(ask(&mut account, answer), None));
            account.enter();
            account.judge(false);
            let found = until_condemned(&mut account, failing(inside));
            assert_eq!(found.is_some(), condemned, "{inside} after {before}: {found:?}");
            if let Some((_, why)) = found {
                assert!(why.contains(&format!("before: {before} of 100")), "{why}");
            }
        }
    }

    #[test]
    fn a_long_time_of_good_answers_excuses_nothing() {
        let mut account = account(Some(1));
        account.enter();
        account.judge(false);
        assert_eq!(until_condemned(&mut account, vec![Answer::Good; 100_000]), None);
        assert_eq!(until_condemned(&mut account, [SERVER_ERROR; 100]).expect("it went bad").0, 11);
        assert_eq!(account.latest.len(), LATEST);
    }
}
