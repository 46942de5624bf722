//! Questions about the history, answered off the loop from the file and from what waits to be written there.

use std::io;
use std::path::PathBuf;

use crate::control::server::{Rejection, RejectionKind};
use crate::control::types::HistoryPage;
use crate::history::read::{self, Latest, Wanted};
use crate::history::{Figures, Kpi, Line};
use crate::sys::{clock, describe};

/// Where the history is, and what waits to be written there.
type Known = (Option<PathBuf>, Vec<Line>);

/// The records that are wanted. Blocks.
pub(in crate::supervisor) fn history(known: Known, wanted: Wanted) -> Result<HistoryPage, Rejection> {
    let mut latest = Latest::new(wanted);
    let skipped = lines(known, |line| latest.add(line))?;
    Ok(HistoryPage { upgrades: latest.newest_first(), skipped })
}

/// The figures of the last `since` seconds. Blocks.
pub(in crate::supervisor) fn kpi(known: Known, service: Option<String>, since: f64) -> Result<Kpi, Rejection> {
    let mut figures = Figures::new(service, clock::wall() - since);
    let skipped = lines(known, |line| figures.add(&line))?;
    Ok(figures.kpi(since, skipped))
}

fn lines((path, waiting): Known, mut take: impl FnMut(Line)) -> Result<u64, Rejection> {
    let Some(path) = path else {
        let error = "this supervisor keeps no history: it has no state directory".to_owned();
        let hint = Some("give `zdsup run` one with --state-dir");
        return Err(Rejection { kind: RejectionKind::Unavailable, error, hint: hint.map(Into::into) });
    };
    let skipped = read::file(&path, &mut take).map_err(|error| unreadable(&path, &error))?;
    waiting.into_iter().for_each(take);
    Ok(skipped)
}

fn unreadable(path: &std::path::Path, error: &io::Error) -> Rejection {
    let error = format!("the history {} cannot be read: {}", path.display(), describe(error));
    Rejection { kind: RejectionKind::Unavailable, error, hint: None }
}
