//! What happens to any service, in one sequence, for whoever follows it.
//!
//! Bounded in bytes: the latest events are kept. Their numbers begin with the milliseconds of the start, so that they only
//! ever rise, also past a supervisor that left nothing to go on with: a client goes on with `after` the last that it has.

use std::collections::VecDeque;

use tokio::sync::watch;

use super::ledger::News;
use super::{Supervisor, story};
use crate::control::server::{EventsPage, FeedLine};
use crate::control::types::{SupervisorEvent, VerdictStatus};
use crate::core::{Generation, ServiceId, Step, UpgradeId};
use crate::sys::clock;

/// As much is kept, bytes.
const KEPT: usize = 128 * 1024;

/// The latest events.
#[derive(Debug)]
pub(super) struct Feed {
    lines: VecDeque<FeedLine>,
    bytes: usize,
    last: u64,
    changed: watch::Sender<u64>,
}

/// Something to be told. What has no service is about the supervisor.
#[derive(Debug, Default)]
pub(super) struct Told<'a> {
    pub(super) event: &'a str,
    pub(super) message: &'a str,
    pub(super) service: Option<&'a str>,
    pub(super) generation: Option<u64>,
    pub(super) upgrade: Option<u64>,
    pub(super) verdict: Option<&'a VerdictStatus>,
}

impl Feed {
    pub(super) fn new() -> Self {
        let last = (clock::wall() * 1000.0) as u64;
        Self { lines: VecDeque::new(), bytes: 0, last, changed: watch::Sender::new(last) }
    }

    /// Adds an event.
    pub(super) fn tell(&mut self, told: &Told<'_>) {
        let seq = self.last + 1;
        let event = SupervisorEvent {
            seq,
            at: clock::wall(),
            event: told.event.to_owned(),
            message: told.message.to_owned(),
            service: told.service.map(str::to_owned),
            generation: told.generation,
            upgrade: told.upgrade,
            verdict: told.verdict.cloned().map(Box::new),
        };
        let Ok(text) = serde_json::to_string(&event) else { return };
        self.last = seq;
        self.bytes += text.len();
        self.lines.push_back(FeedLine { seq, text: text.into() });
        while self.bytes > KEPT
            && let Some(oldest) = self.lines.pop_front()
        {
            self.bytes -= oldest.text.len();
        }
        self.changed.send_replace(seq);
    }

    /// What happened after event `after`; all that is kept, where that is one of another time.
    pub(super) fn page(&self, after: u64) -> EventsPage<FeedLine> {
        let after = if after > self.last { 0 } else { after };
        EventsPage {
            events: self.lines.iter().filter(|line| line.seq > after).cloned().collect(),
            after,
            finished: false,
            changed: self.changed.subscribe(),
        }
    }
}

impl Supervisor {
    /// Something about the supervisor itself.
    pub(super) fn tell(&mut self, event: &str, message: &str) {
        self.feed.tell(&Told { event, message, ..Told::default() });
    }

    /// A step of a service.
    pub(super) fn tell_step(&mut self, service: ServiceId, upgrade: Option<UpgradeId>, step: &Step, message: &str) {
        let name = self.services.get(&service).map(|service| service.name.as_str());
        let generation = story::generation(step).map(|generation| generation.0);
        let (event, upgrade) = (story::name(step), upgrade.map(|upgrade| upgrade.0));
        self.feed.tell(&Told { event, message, service: name, generation, upgrade, verdict: None });
    }

    /// An upgrade has its verdict.
    pub(super) fn tell_verdict(&mut self, service: ServiceId, id: UpgradeId, verdict: &VerdictStatus, news: &News) {
        let name = self.services.get(&service).map(|service| service.name.as_str());
        let generation = news.generation.map(|generation| generation.0);
        let (event, message) = (news.event, news.message.as_str());
        let (upgrade, verdict) = (Some(id.0), Some(verdict));
        self.feed.tell(&Told { event, message, service: name, generation, upgrade, verdict });
    }

    /// Something else about a service.
    pub(super) fn tell_of_service(
        &mut self,
        service: ServiceId,
        generation: Option<Generation>,
        event: &str,
        message: &str,
    ) {
        let name = self.services.get(&service).map(|service| service.name.as_str());
        self.feed.tell(&Told {
            event,
            message,
            service: name,
            generation: generation.map(|generation| generation.0),
            ..Told::default()
        });
    }

    /// Something else about an upgrade: for whoever follows that one, and for whoever follows everything.
    pub(super) fn tell_of_upgrade(&mut self, service: ServiceId, id: UpgradeId, news: News) {
        self.feed_of_upgrade(service, id, &news);
        let now = self.now();
        self.ledger.tell(id, now, news);
    }

    /// What goes wrong behind its verdict, or beside it, likewise.
    pub(super) fn warn_of_upgrade(&mut self, service: ServiceId, id: UpgradeId, news: News) {
        self.feed_of_upgrade(service, id, &news);
        let now = self.now();
        self.ledger.warn(id, now, news);
    }

    fn feed_of_upgrade(&mut self, service: ServiceId, id: UpgradeId, news: &News) {
        let name = self.services.get(&service).map(|service| service.name.as_str());
        let (event, message) = (news.event, news.message.as_str());
        let (generation, upgrade) = (news.generation.map(|generation| generation.0), Some(id.0));
        self.feed.tell(&Told { event, message, service: name, generation, upgrade, verdict: None });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_numbers_rise() {
        let mut feed = Feed::new();
        let message = "x".repeat(1000);
        for _ in 0..1000 {
            feed.tell(&Told { event: "status", message: &message, ..Told::default() });
        }
        let page = feed.page(0);
        let bytes: usize = page.events.iter().map(|line| line.text.len()).sum();
        assert!(bytes <= KEPT && page.events.len() > 100, "{bytes}");
        assert!(page.events.is_sorted_by(|one, other| one.seq + 1 == other.seq));
        let last = page.events.last().unwrap().seq;
        assert_eq!(feed.page(last - 2).events.len(), 2);
        assert!(feed.page(last).events.is_empty());
        // A client that has seen more than there was is one of another time.
        assert_eq!(feed.page(last + 1).events.len(), page.events.len());
        let one = SupervisorEvent { seq: last, ..serde_json::from_str(&page.events[0].text).unwrap() };
        assert_eq!((one.event.as_str(), one.service), ("status", None));
    }
}
