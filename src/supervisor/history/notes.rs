//! What the loop tells the history, as it happens.

use std::ffi::OsString;

use super::super::Supervisor;
use crate::core::service::Role;
use crate::core::{Generation, ServiceId, Step, UpgradeId};
use crate::history::{Begun, Drained, Line, UpgradeRecord};
use crate::sys::clock;
use crate::text::floor_char_boundary;

/// Of a reason, as much as is recorded, bytes.
const REASON_MAX: usize = 4096;
/// The same for arguments together. A line of the history holds it, however it is escaped.
const ARGV_MAX: usize = 2048;

impl Supervisor {
    /// A step of an upgrade, once it is in the ledger.
    pub(in crate::supervisor) fn note_step(&mut self, service: ServiceId, upgrade: Option<UpgradeId>, step: &Step) {
        let name = self.name_of(service).to_owned();
        if let Step::Retrying { .. } = step {
            self.counters.restarted(&name);
        }
        let Some(id) = upgrade else { return };
        match step {
            // On record before it exists: its number is taken, whatever becomes of us.
            Step::Starting { generation } => {
                self.history.append(Line::Begun(Begun { id: id.0, service: name, generation: generation.0 }));
            }
            Step::Drained { generation } => {
                let Some((duration, served)) = self.ledger.drained(id, *generation) else { return };
                if served {
                    self.counters.drained(&name, duration);
                }
                self.note_drain(id, duration);
                let (id, generation, at) = (id.0, generation.0, clock::wall());
                self.history.append(Line::Drained(Drained { id, service: name, generation, at, duration, served }));
            }
            _ => {}
        }
    }

    /// An upgrade has its verdict, and that is in the ledger.
    pub(in crate::supervisor) fn note_verdict(&mut self, upgrade: UpgradeId) {
        if let Some(record) = self.record_of(upgrade) {
            self.note(record);
        }
    }

    /// One that is over, and whose record is whole.
    pub(in crate::supervisor) fn note(&mut self, record: UpgradeRecord) {
        self.counters.upgrade(&record);
        self.history.append(Line::Upgrade(Box::new(record)));
    }

    /// What a predecessor may not have had the time to write.
    pub(in crate::supervisor) fn note_what_is_missing(&mut self) {
        let begun: Vec<Line> = self
            .core
            .services()
            .values()
            .flat_map(|service| {
                let name = self.name_of(service.id);
                let candidates = service.generations.values().filter(|one| one.role != Role::Draining);
                let begun = candidates.filter_map(move |one| {
                    let id = one.upgrade?.0;
                    Some(Line::Begun(Begun { id, service: name.to_owned(), generation: one.number.0 }))
                });
                begun.collect::<Vec<_>>()
            })
            .collect();
        let concluded = self
            .ledger
            .ids()
            .into_iter()
            .filter_map(|id| self.record_of(id))
            .map(|record| Line::Upgrade(Box::new(record)));
        for line in begun.into_iter().chain(concluded) {
            self.history.append_if_missing(line);
        }
    }

    /// What is recorded of an upgrade that has its verdict.
    pub(in crate::supervisor) fn record_of(&self, upgrade: UpgradeId) -> Option<UpgradeRecord> {
        let mut record = self.ledger.record(upgrade)?;
        if let Some(reason) = &mut record.reason {
            reason.truncate(floor_char_boundary(reason, REASON_MAX));
        }
        // What is gone already will not be told again.
        let drained = |from| self.ledger.drained(upgrade, Generation(from)).map(|(took, _)| took);
        record.drain = record.from.and_then(drained);
        let service = self.services.iter().find(|(_, service)| service.name == record.service).map(|(id, _)| id)?;
        let machine = self.core.services().get(service)?;
        let generation = machine.generations.values().find(|one| Some(one.number.0) == record.generation);
        let release = generation.and_then(|one| self.releases.get(&one.release));
        if let Some(release) = release {
            record.release = Some(release.program.program.path.display().to_string());
            record.argv = bounded(&release.argv);
            record.directory = Some(release.directory.display().to_string());
            record.digest = Some(release.digest());
        }
        Some(record)
    }
}

/// Arguments as text, as many as are recorded.
fn bounded(argv: &[OsString]) -> Vec<String> {
    let (mut words, mut left) = (Vec::new(), ARGV_MAX);
    for word in argv {
        let mut word = word.to_string_lossy().into_owned();
        let fits = word.len() < left;
        if !fits {
            word.truncate(floor_char_boundary(&word, left));
            word.push('…');
        }
        left = left.saturating_sub(word.len() + 1);
        words.push(word);
        if !fits {
            break;
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_bounded_and_say_so() {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        assert_eq!(bounded(&words(&["python3", "", "app.py"])), ["python3", "", "app.py"]);
        // A character of two bytes lies across the end.
        let long = "ä".repeat(ARGV_MAX);
        let cut = bounded(&words(&["web", &long, "more"]));
        assert_eq!(cut.len(), 2);
        assert!(cut[1].ends_with("ä…") && cut[1].len() < ARGV_MAX, "{}", cut[1].len());
        let many = bounded(&words(&vec!["x"; ARGV_MAX]));
        assert_eq!((many.len(), many.last().unwrap().as_str()), (ARGV_MAX / 2 + 1, "…"));
        assert!(bounded(&[]).is_empty());
    }
}
