//! Messages that were ignored, as far as the log tells: a service that sends nonsense all the time must not fill it.

use std::time::Duration;

use crate::core::Time;

/// Different lines about one instance within [`SPAN`]; what comes beyond, or again, is counted.
const LINES: usize = 5;
const SPAN: Duration = Duration::from_secs(10);

/// What of one instance was ignored.
#[derive(Debug, Default)]
pub(super) struct Ignored {
    /// When the first line of this span was written.
    began: Option<Time>,
    lines: Vec<String>,
    more: u64,
}

impl Ignored {
    /// Counts one. Whether it is to be said, with this reason; else it is one more that was not.
    pub(super) fn is_to_be_said(&mut self, now: Time, why: &str) -> bool {
        self.began.get_or_insert(now);
        let is_new = self.lines.len() < LINES && !self.lines.iter().any(|line| line == why);
        if is_new {
            self.lines.push(why.to_owned());
        } else {
            self.more += 1;
        }
        is_new
    }

    /// When it is to be said how many more there were.
    pub(super) fn due(&self) -> Option<Time> {
        self.began.map(|began| began.after(SPAN)).filter(|_| self.more > 0)
    }

    /// Begins a new span if this one is over. How many more there were, unless none.
    pub(super) fn turn(&mut self, now: Time) -> Option<u64> {
        let over = self.began.is_some_and(|began| began.after(SPAN) <= now);
        if over { self.take() } else { None }
    }

    /// Begins a new span. How many more there were, unless none.
    pub(super) fn take(&mut self) -> Option<u64> {
        let more = std::mem::take(self).more;
        (more > 0).then_some(more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_said_once_and_the_rest_is_counted() {
        let mut ignored = Ignored::default();
        let start = Time(7);
        let said = (0..100).filter(|_| ignored.is_to_be_said(start, "a stranger")).count();
        assert_eq!((said, ignored.due()), (1, Some(start.after(SPAN))));
        assert!(ignored.is_to_be_said(start, "not UTF-8"), "another reason is not lost among them");
        assert_eq!(ignored.turn(start.after(SPAN / 2)), None);
        assert_eq!(ignored.turn(start.after(SPAN)), Some(99));
        assert_eq!((ignored.turn(start.after(SPAN)), ignored.due()), (None, None));
        // A new span has lines again; one in which nothing was kept back says nothing more.
        assert!(ignored.is_to_be_said(start.after(SPAN), "a stranger"));
        assert_eq!((ignored.due(), ignored.turn(start.after(2 * SPAN))), (None, None));
        assert_eq!(ignored.take(), None);
    }

    #[test]
    fn no_number_of_reasons_fills_the_log() {
        let mut ignored = Ignored::default();
        let said = (0..100).filter(|which| ignored.is_to_be_said(Time(7), &format!("process {which}"))).count();
        assert_eq!((said, ignored.take()), (LINES, Some(100 - LINES as u64)));
    }
}
