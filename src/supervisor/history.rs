//! What the loop has to say to the history, written by somebody else: nothing here waits for a disk.
//!
//! ```text
//!  append ─► waiting ─► a blocking thread, as long as something waits ─► history.jsonl
//! ```
//!
//! - One thread at a time, so that lines keep their order. While nothing is to be written there is none.
//! - A line waits until it is on the disk. A disk that is full, or gone, is said once, and tried again with the next
//!   line; what does not fit into the queue is dropped, and counted.

mod answer;
mod notes;
pub(super) mod story;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::history::read::Numbers;
use crate::history::{FILE, Line, file, read};
use crate::sys::describe;

pub(super) use answer::{history, kpi};

/// Lines that may wait for the disk.
const WAITING_MAX: usize = 256;
/// How long a start waits for the numbers that were given out before it.
const NUMBERS_PATIENCE: Duration = Duration::from_secs(2);
/// How much of the end is looked at for what a predecessor may have written, bytes.
const TAIL: u64 = 64 * 1024;

/// The history of this supervisor.
#[derive(Clone, Debug)]
pub(super) struct History(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// `None`: there is no place for one.
    path: Option<PathBuf>,
    state: Mutex<State>,
    written: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// A thread is at it.
    writing: bool,
    /// The last attempt failed, which has been said.
    failing: bool,
    lost: u64,
}

#[derive(Clone, Debug)]
struct Waiting {
    line: Line,
    /// A predecessor may have written it.
    unsure: bool,
}

impl History {
    /// In this state directory. Nothing is made there before there is something to write.
    pub(super) fn new(directory: Option<PathBuf>) -> Self {
        if directory.is_none() {
            tracing::warn!(
                "there is no history: neither XDG_STATE_HOME nor HOME is set (--state-dir names a place for it)"
            );
        }
        let path = directory.map(|directory| directory.join(FILE));
        Self(Arc::new(Shared { path, state: Mutex::default(), written: Condvar::new() }))
    }

    /// The numbers that were given out until now. Where that cannot be known in time, those of a first start.
    pub(super) async fn numbers(&self, services: Vec<String>) -> Numbers {
        let Some(path) = self.0.path.clone() else { return Numbers::default() };
        let of = path.clone();
        let read = tokio::task::spawn_blocking(move || {
            let services: Vec<&str> = services.iter().map(String::as_str).collect();
            Numbers::read(&of, &services)
        });
        let why = match tokio::time::timeout(NUMBERS_PATIENCE, read).await {
            Ok(Ok(Ok(numbers))) => return numbers,
            Ok(Ok(Err(error))) => describe(&error),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it took over 2 s".to_owned(),
        };
        tracing::warn!("{} cannot be read, so numbers begin at 1: {why}", path.display());
        Numbers::default()
    }

    /// Adds a line.
    pub(super) fn append(&self, line: Line) {
        self.push(Waiting { line, unsure: false });
    }

    /// Adds a line, unless a predecessor has done so.
    pub(super) fn append_if_missing(&self, line: Line) {
        self.push(Waiting { line, unsure: true });
    }

    /// Where it is, and what waits to be written there.
    pub(super) fn known(&self) -> (Option<PathBuf>, Vec<Line>) {
        let state = self.0.lock();
        (self.0.path.clone(), state.waiting.iter().map(|waiting| waiting.line.clone()).collect())
    }

    /// Lines that were dropped because the disk did not take them.
    pub(super) fn lost(&self) -> u64 {
        self.0.lock().lost
    }

    /// Waits until everything is written, or has failed to be; at most `patience`.
    pub(super) fn flush(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut state = self.0.lock();
        while state.writing {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return };
            state = self.0.written.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn push(&self, waiting: Waiting) {
        let Some(path) = self.0.path.clone() else { return };
        let mut state = self.0.lock();
        if state.waiting.len() < WAITING_MAX {
            state.waiting.push_back(waiting);
        } else {
            state.lost += 1;
        }
        if !std::mem::replace(&mut state.writing, true) {
            let shared = Arc::clone(&self.0);
            tokio::task::spawn_blocking(move || shared.write(&path));
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what waits, until nothing does or the disk fails.
    fn write(&self, path: &Path) {
        loop {
            let mut state = self.lock();
            let batch: Vec<Waiting> = state.waiting.iter().cloned().collect();
            if batch.is_empty() {
                state.writing = false;
                self.written.notify_all();
                return;
            }
            drop(state);
            let written = append(path, &batch);
            let mut state = self.lock();
            let failed_before = std::mem::replace(&mut state.failing, written.is_err());
            match written {
                Ok(()) => {
                    state.waiting.drain(..batch.len());
                    drop(state);
                    if failed_before {
                        tracing::info!("the history is written again");
                    }
                }
                Err(error) => {
                    state.writing = false;
                    self.written.notify_all();
                    drop(state);
                    if !failed_before {
                        tracing::warn!(
                            "the history {} cannot be written; upgrades go on without: {}",
                            path.display(),
                            describe(&error)
                        );
                    }
                    return;
                }
            }
        }
    }
}

fn append(path: &Path, batch: &[Waiting]) -> io::Result<()> {
    let there = if batch.iter().any(|waiting| waiting.unsure) { latest(path)? } else { Vec::new() };
    let missing =
        batch.iter().filter(|waiting| !(waiting.unsure && there.iter().any(|one| is_same(one, &waiting.line))));
    let text: Vec<u8> = missing.filter_map(|waiting| waiting.line.encode()).flatten().collect();
    if text.is_empty() { Ok(()) } else { file::append(path, &text) }
}

/// The lines at the end of a history.
fn latest(path: &Path) -> io::Result<Vec<Line>> {
    let mut lines = Vec::new();
    match file::open(path) {
        Ok(mut file) => drop(read::tail(&mut file, TAIL, |line| lines.push(line))?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(lines)
}

/// Whether both say the same of the same.
fn is_same(one: &Line, other: &Line) -> bool {
    match (one, other) {
        (Line::Begun(one), Line::Begun(other)) => one == other,
        (Line::Upgrade(one), Line::Upgrade(other)) => one.is_same(other),
        (Line::Drained(one), Line::Drained(other)) => {
            (one.id, &one.service, one.generation) == (other.id, &other.service, other.generation)
                && (one.at - other.at).abs() < 1.0
        }
        (Line::Begun(_) | Line::Upgrade(_) | Line::Drained(_), _) => false,
    }
}

#[cfg(test)]
mod tests;
