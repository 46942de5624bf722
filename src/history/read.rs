//! Going through a history, in memory that does not grow with it.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use super::line::{LINE_MAX, Line};
use super::record::{Drained, UpgradeRecord};

/// Lines that are remembered until the record of their upgrade comes: that waits for the last answers to its prober,
/// while the generation that it ended may be gone at once.
const EARLY_MAX: usize = 256;
/// How much of the end is looked at first for numbers, bytes.
const TAIL: u64 = 256 * 1024;
/// Numbers beyond that are nobody's: JSON cannot carry them everywhere.
const NUMBER_MAX: u64 = 1 << 53;

/// Takes every line of `source` that says something, in order; gives the number of those that say nothing.
///
/// # Errors
/// When it cannot be read further.
pub fn lines(source: impl Read, mut take: impl FnMut(Line)) -> io::Result<u64> {
    let mut source = BufReader::with_capacity(16 * 1024, source);
    let (mut line, mut skipped) = (Vec::new(), 0);
    loop {
        line.clear();
        if source.by_ref().take(LINE_MAX as u64).read_until(b'\n', &mut line)? == 0 {
            return Ok(skipped);
        }
        let whole = line.pop_if(|last| *last == b'\n').is_some();
        if !whole && line.len() == LINE_MAX {
            skip_line(&mut source)?;
        }
        match Line::decode(&line) {
            Ok(line) => take(line),
            // What a torn line was ended with.
            Err(_) if line.is_empty() => {}
            Err(_) => skipped += 1,
        }
    }
}

/// The rest of a line that is too long to be one.
fn skip_line(source: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = source.fill_buf()?;
        let (used, over) = match buffer.iter().position(|byte| *byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        source.consume(used);
        if over {
            return Ok(());
        }
    }
}

/// The same for a file; one that is not there is empty.
///
/// # Errors
/// When it cannot be opened or read.
pub fn file(path: &Path, take: impl FnMut(Line)) -> io::Result<u64> {
    match super::file::open(path) {
        Ok(file) => lines(file, take),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// The same for the end of a file, from the first line that begins there.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn tail(file: &mut File, length: u64, take: impl FnMut(Line)) -> io::Result<u64> {
    let size = file.metadata()?.len();
    if size <= length {
        file.rewind()?;
        return lines(file, take);
    }
    // One byte before: if that is a newline, nothing is cut.
    file.seek(SeekFrom::Start(size - length - 1))?;
    let mut source = BufReader::with_capacity(16 * 1024, file);
    skip_line(&mut source)?;
    lines(source, take)
}

/// The highest numbers that were given out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Of upgrades.
    pub upgrade: u64,
    /// Of generations, by service.
    pub generations: BTreeMap<String, u64>,
}

impl Numbers {
    /// Of these services, and perhaps of others. Looks through all of the file only where its end does not tell.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(path: &Path, services: &[&str]) -> io::Result<Self> {
        let mut this = Self::default();
        let mut file = match super::file::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(this),
            Err(error) => return Err(error),
        };
        tail(&mut file, TAIL, |line| this.note(&line))?;
        if file.metadata()?.len() > TAIL && services.iter().any(|name| !this.generations.contains_key(*name)) {
            tail(&mut file, super::file::SIZE_MAX, |line| this.note(&line))?;
        }
        Ok(this)
    }

    /// Takes note of those in a line.
    pub fn note(&mut self, line: &Line) {
        let (id, service, generation) = match line {
            Line::Begun(begun) => (begun.id, &begun.service, Some(begun.generation)),
            Line::Upgrade(upgrade) => (upgrade.id, &upgrade.service, upgrade.generation),
            Line::Drained(drained) => (drained.id, &drained.service, Some(drained.generation)),
        };
        if id < NUMBER_MAX {
            self.upgrade = self.upgrade.max(id);
        }
        if let Some(generation) = generation.filter(|number| *number < NUMBER_MAX) {
            match self.generations.get_mut(service) {
                Some(highest) => *highest = generation.max(*highest),
                None => drop(self.generations.insert(service.clone(), generation)),
            }
        }
    }
}

/// Which records are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Of this service.
    pub service: Option<String>,
    /// Later than this upgrade.
    pub after: u64,
    /// Of this generation.
    pub generation: Option<u64>,
    /// Only the latest of them; so many at most.
    pub limit: usize,
}

/// The latest records that are wanted, joined with what came after their verdicts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Latest {
    wanted: Wanted,
    records: VecDeque<UpgradeRecord>,
    /// What came before the record that it belongs to.
    early: VecDeque<Drained>,
}

impl Latest {
    /// None so far.
    #[must_use]
    pub fn new(wanted: Wanted) -> Self {
        Self { wanted, ..Self::default() }
    }

    /// Takes the next line. One that comes twice counts once.
    pub fn add(&mut self, line: Line) {
        match line {
            Line::Upgrade(mut record) if self.wants(&record) && !self.has(&record) => {
                self.early.iter().for_each(|drained| record.join(drained));
                self.early.retain(|drained| !drained.is_of(&record));
                self.records.push_back(*record);
                if self.records.len() > self.wanted.limit {
                    self.records.pop_front();
                }
            }
            Line::Drained(drained) => match self.records.iter_mut().rev().find(|record| drained.is_of(record)) {
                Some(record) => record.join(&drained),
                None => {
                    if self.early.len() >= EARLY_MAX {
                        self.early.pop_front();
                    }
                    self.early.push_back(drained);
                }
            },
            Line::Begun(_) | Line::Upgrade(_) => {}
        }
    }

    /// Newest first, by their numbers: records are written as they become whole.
    #[must_use]
    pub fn newest_first(self) -> Vec<UpgradeRecord> {
        let mut records = Vec::from(self.records);
        // Of the same number, where numbers began anew, the later one first.
        records.reverse();
        records.sort_by_key(|record| std::cmp::Reverse(record.id));
        records
    }

    fn wants(&self, record: &UpgradeRecord) -> bool {
        record.id > self.wanted.after
            && self.wanted.service.as_ref().is_none_or(|service| *service == record.service)
            && self.wanted.generation.is_none_or(|generation| record.generation == Some(generation))
    }

    fn has(&self, record: &UpgradeRecord) -> bool {
        self.records.iter().rev().any(|known| known.is_same(record))
    }
}

impl UpgradeRecord {
    /// Whether both are of the same upgrade.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.id == other.id && self.service == other.service && (self.at - other.at).abs() < 1.0
    }

    /// A generation that it ended took so long to be gone: the slowest counts.
    pub(crate) fn add_drain(&mut self, took: f64) {
        self.drain = Some(self.drain.unwrap_or(0.0).max(took));
    }

    /// Takes from a line what is its own.
    fn join(&mut self, drained: &Drained) {
        if drained.is_of(self) {
            self.add_drain(drained.duration);
        }
    }
}

impl Drained {
    /// Whether that upgrade ended it.
    fn is_of(&self, record: &UpgradeRecord) -> bool {
        self.id == record.id && self.service == record.service && self.at >= record.at
    }
}
