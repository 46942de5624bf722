//! What a person reads: pure functions from the control API's types to text.

mod history;
mod overview;
mod progress;
mod rehearsal;
mod status;
mod table;
mod units;
mod watch;

pub(super) use history::{history, kpi, timeline, told};
pub(super) use progress::{accepted, event, waiting};
pub(super) use rehearsal::{rehearsal_overdue, rehearsal_seen, rehearsed, rehearsed_in_short, rehearsing};
pub(super) use status::{draining, status};
pub(super) use units::{instant, span};
pub(super) use watch::{Peaks, watch};

#[cfg(test)]
mod tests;
