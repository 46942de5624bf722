//! The record of each upgrade, and the story of it, event by event: what the control API shows.
//!
//! Bounded: the latest upgrades are kept, and of each so many events: of what is only said (STATUS=, checks, output) the first,
//! of what happens the first and the latest. What the history derives from them is there whatever a service says.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap, VecDeque};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::watch;

use super::history::story::{self, Moment};
use crate::control::server::EventsPage;
use crate::control::types::{UpgradeEvent, UpgradeStatus, VerdictStatus};
use crate::core::{Generation, Kind, Step, Time, UpgradeId, Verdict};
use crate::history::{ProbeSummary, UpgradeRecord};
use crate::sys::clock;

/// Upgrades that are remembered, beside two of each service: all of them may be upgraded together, and taken back, before
/// whoever asked has read what became of the first.
const UPGRADES: usize = 32;
/// Upgrades that a successor is told of.
const UPGRADES_HANDED_ON: usize = 8;
/// Events that are remembered of one upgrade, but for those that say something.
const EVENTS: usize = 256;
/// As many of the first of them are, whatever happens later.
const FIRST: usize = EVENTS / 2;
/// What is said in the course of one upgrade, as far as it is remembered.
const SAID: usize = 64;
/// Warnings that are remembered of one upgrade.
const WARNINGS: usize = 8;

/// Every upgrade that is remembered.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    records: BTreeMap<UpgradeId, Record>,
    services: usize,
}

/// One upgrade.
#[derive(Debug)]
pub(super) struct Record {
    status: UpgradeStatus,
    began: Time,
    concluded: Option<Time>,
    events: VecDeque<Event>,
    changed: watch::Sender<u64>,
    /// What is known of a candidate that was given up, while what it replaced is on its way back.
    given_up: Option<GivenUp>,
    /// It all, as a successor reads it, once nothing more will be added.
    written: OnceCell<Box<RawValue>>,
}

/// A candidate that was given up before the verdict can fall.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct GivenUp {
    /// The step at which it was.
    step: String,
    #[serde(default)]
    last_words: Option<LastWords>,
}

/// What a process of a candidate that was given up has left to tell.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct LastWords {
    /// The last lines of its output.
    pub(super) lines: Vec<String>,
    /// Where to look for more.
    pub(super) elsewhere: Option<String>,
    /// Its last STATUS=.
    pub(super) status: Option<String>,
    /// How its last health check failed.
    pub(super) check: Option<String>,
}

/// One upgrade, as a successor reads it.
#[derive(Serialize, Deserialize)]
struct RecordEntry<'a> {
    status: Cow<'a, UpgradeStatus>,
    began: Time,
    concluded: Option<Time>,
    events: Cow<'a, VecDeque<Event>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    given_up: Option<Cow<'a, GivenUp>>,
}

/// One event of an upgrade, as small as it can be kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Event {
    seq: u64,
    wall: f64,
    at: Time,
    event: Cow<'static, str>,
    message: Box<str>,
    generation: Option<Generation>,
    /// It is the verdict: the record has all about it.
    concludes: bool,
}

/// Something to be told about an upgrade.
pub(super) struct News {
    pub(super) event: &'static str,
    pub(super) message: String,
    pub(super) generation: Option<Generation>,
}

impl Ledger {
    /// What a predecessor has written down.
    pub(super) fn adopt(records: BTreeMap<UpgradeId, Cow<'_, RawValue>>) -> serde_json::Result<Self> {
        let record = |(id, text): (UpgradeId, Cow<'_, RawValue>)| {
            let entry: RecordEntry<'_> = serde_json::from_str(text.get())?;
            let events = entry.events.into_owned();
            let changed = watch::Sender::new(events.back().map_or(0, |last| last.seq));
            let status = entry.status.into_owned();
            let (began, concluded, written) = (entry.began, entry.concluded, OnceCell::new());
            let given_up = entry.given_up.map(Cow::into_owned);
            Ok((id, Record { status, began, concluded, events, changed, given_up, written }))
        };
        let records = records.into_iter().map(record).collect::<serde_json::Result<_>>()?;
        Ok(Self { records, services: 0 })
    }

    /// So many services there are.
    pub(super) fn make_room(&mut self, services: usize) {
        self.services = services;
    }

    /// The latest records, for a successor.
    pub(super) fn written(&self) -> BTreeMap<UpgradeId, Cow<'_, RawValue>> {
        let (over, others): (Vec<_>, Vec<_>) = self.records.iter().rev().partition(|(_, record)| record.is_finished());
        let wanted = over.into_iter().take(UPGRADES_HANDED_ON).chain(others);
        wanted.filter_map(|(id, record)| Some((*id, record.written()?))).collect()
    }

    /// What clients have seen of an upgrade.
    pub(super) fn probed(&mut self, id: UpgradeId, probe: ProbeSummary) {
        if let Some(record) = self.records.get_mut(&id) {
            record.status.probe = Some(probe);
            record.written.take();
        }
    }

    /// What is known of that.
    pub(super) fn probe_of(&self, id: UpgradeId) -> Option<ProbeSummary> {
        self.records.get(&id)?.status.probe.clone()
    }

    /// Adds to the story of every upgrade that is not over.
    pub(super) fn tell_all(&mut self, now: Time, event: &'static str, message: &str) {
        for record in self.records.values_mut().filter(|record| !record.is_finished()) {
            record.push(now, News { event, message: message.to_owned(), generation: None }, false);
        }
    }

    /// Opens a record.
    pub(super) fn open(&mut self, id: UpgradeId, service: &str, kind: Kind, from: Option<Generation>, now: Time) {
        while self.records.len() >= UPGRADES + 2 * self.services {
            // Those that are not over are bounded by the number of services.
            let oldest = self.records.iter().find(|(_, record)| record.is_finished());
            let Some(oldest) = oldest.map(|(id, _)| *id) else { break };
            self.records.remove(&oldest);
        }
        let status = UpgradeStatus {
            id: id.0,
            service: service.to_owned(),
            kind,
            requested_by: Vec::new(),
            step: "queued".into(),
            generation: None,
            from: from.map(|from| from.0),
            requested_at: clock::wall(),
            duration: 0.0,
            ended_at: None,
            takes_back: None,
            verdict: None,
            drained: false,
            warnings: Vec::new(),
            probe: None,
        };
        let record = Record {
            status,
            began: now,
            concluded: None,
            events: VecDeque::new(),
            changed: watch::Sender::new(0),
            given_up: None,
            written: OnceCell::new(),
        };
        self.records.insert(id, record);
    }

    /// Notes who asked.
    pub(super) fn requested_by(&mut self, id: UpgradeId, uid: u32) {
        if let Some(record) = self.records.get_mut(&id)
            && !record.status.requested_by.contains(&uid)
        {
            record.status.requested_by.push(uid);
        }
    }

    /// Notes which upgrade it undoes.
    pub(super) fn takes_back(&mut self, id: UpgradeId, undone: UpgradeId) {
        if let Some(record) = self.records.get_mut(&id) {
            record.status.takes_back = Some(undone.0);
        }
    }

    /// The service of an upgrade.
    pub(super) fn service_of(&self, id: UpgradeId) -> Option<&str> {
        self.records.get(&id).map(|record| record.status.service.as_str())
    }

    /// Adds to the story.
    pub(super) fn tell(&mut self, id: UpgradeId, now: Time, news: News) {
        if let Some(record) = self.records.get_mut(&id) {
            record.push(now, news, false);
        }
    }

    /// An upgrade takes a step.
    pub(super) fn step(&mut self, id: UpgradeId, now: Time, step: &Step, from: Option<Generation>, news: News) {
        let Some(record) = self.records.get_mut(&id) else { return };
        match step {
            Step::Pinning => {
                record.began = now;
                record.status.from = from.map(|from| from.0);
            }
            Step::Starting { generation } | Step::SwitchingBack { generation } | Step::HookBegun { generation, .. } => {
                record.status.generation = Some(generation.0);
            }
            Step::Returning { .. } => {
                let step = record.status.step.clone();
                record.given_up.get_or_insert(GivenUp { step, last_words: None });
            }
            Step::Drained { .. } => record.status.drained = true,
            _ => {}
        }
        if record.concluded.is_none() && is_stage(news.event) {
            record.status.step = match step {
                Step::HookBegun { hook, .. } => hook.to_string(),
                _ => news.event.to_owned(),
            };
        }
        record.push(now, news, false);
    }

    /// An upgrade has its verdict. `drained`: nothing remains to be ended behind it.
    pub(super) fn conclude(&mut self, id: UpgradeId, now: Time, verdict: VerdictStatus, drained: bool, news: News) {
        let Some(record) = self.records.get_mut(&id) else { return };
        record.status.drained |= drained;
        record.status.step = "done".into();
        record.concluded = Some(now);
        record.status.verdict = Some(verdict);
        record.push(now, news, true);
        record.events.shrink_to_fit();
    }

    /// The step that an upgrade has come to; of one that was given up, at which it was.
    pub(super) fn stage_of(&self, id: UpgradeId) -> &str {
        self.records.get(&id).map_or("", |record| record.given_up.as_ref().map_or(&record.status.step, |it| &it.step))
    }

    /// Keeps what a candidate that was given up has left to tell until its verdict falls.
    pub(super) fn keep_last_words(&mut self, id: UpgradeId, words: LastWords) {
        if let Some(given_up) = self.records.get_mut(&id).and_then(|record| record.given_up.as_mut()) {
            given_up.last_words = Some(words);
        }
    }

    /// That, if there was a reason to keep it.
    pub(super) fn take_last_words(&mut self, id: UpgradeId) -> Option<LastWords> {
        self.records.get_mut(&id)?.given_up.as_mut()?.last_words.take()
    }

    /// An upgrade's record.
    pub(super) fn status(&self, id: UpgradeId, now: Time) -> Option<UpgradeStatus> {
        self.records.get(&id).map(|record| record.status_at(now))
    }

    /// Every record, oldest first.
    pub(super) fn all(&self, now: Time) -> Vec<UpgradeStatus> {
        self.records.values().map(|record| record.status_at(now)).collect()
    }

    /// The latest upgrade of a service to this generation.
    pub(super) fn latest_to(&self, service: &str, generation: Generation) -> Option<UpgradeId> {
        let is_it = |status: &UpgradeStatus| status.service == service && status.generation == Some(generation.0);
        self.records.iter().rev().find(|(_, record)| is_it(&record.status)).map(|(id, _)| *id)
    }

    /// The upgrades of a service that wait to begin, oldest first; none of them is the one in flight.
    pub(super) fn queued(&self, service: &str, in_flight: Option<UpgradeId>, now: Time) -> Vec<UpgradeStatus> {
        let of_it = self.records.iter().filter(|(id, record)| {
            record.concluded.is_none() && record.status.service == service && Some(**id) != in_flight
        });
        of_it.map(|(_, record)| record.status_at(now)).collect()
    }

    /// The latest upgrade of a service that has its verdict.
    pub(super) fn latest_ended(&self, service: &str) -> Option<UpgradeId> {
        let ended = self.records.iter().filter(|(_, record)| record.status.service == service);
        let ended = ended.filter_map(|(id, record)| Some((record.concluded?, *id)));
        ended.max().map(|(_, id)| id)
    }

    /// Adds what went wrong behind the verdict, or beside it.
    pub(super) fn warn(&mut self, id: UpgradeId, now: Time, news: News) {
        let Some(record) = self.records.get_mut(&id) else { return };
        record.written.take();
        if record.status.warnings.len() < WARNINGS {
            record.status.warnings.push(news.message.clone());
        }
        record.push(now, news, false);
    }

    /// The latest upgrade of each service that ended.
    pub(super) fn each_last_ended(&self) -> HashMap<&str, &UpgradeStatus> {
        let mut ended: Vec<&Record> = self.records.values().filter(|record| record.concluded.is_some()).collect();
        ended.sort_by_key(|record| record.concluded);
        ended.into_iter().map(|record| (record.status.service.as_str(), &record.status)).collect()
    }

    /// The latest upgrade of a service that ended.
    pub(super) fn last_ended(&self, service: &str, now: Time) -> Option<UpgradeStatus> {
        let ended = |record: &&Record| record.concluded.is_some() && record.status.service == service;
        self.records.values().filter(ended).max_by_key(|record| record.concluded).map(|record| record.status_at(now))
    }

    /// The upgrades that are remembered.
    pub(super) fn ids(&self) -> Vec<UpgradeId> {
        self.records.keys().copied().collect()
    }

    /// What the history keeps of an upgrade that has its verdict, but for the release.
    pub(super) fn record(&self, id: UpgradeId) -> Option<UpgradeRecord> {
        self.records.get(&id).and_then(Record::to_history)
    }

    /// How long a generation took to be gone that an upgrade ended, seconds, and whether it had served.
    pub(super) fn drained(&self, id: UpgradeId, generation: Generation) -> Option<(f64, bool)> {
        let record = self.records.get(&id)?;
        let of = |event: &&Event| event.generation == Some(generation);
        let gone = record.events.iter().rev().filter(of).find(|event| event.event == "drained")?.at;
        let told = record.events.iter().filter(of).find(|event| event.event == "draining").map(|event| event.at);
        let served = record.status.generation != Some(generation.0);
        Some((gone.since(told.or(record.concluded)?).as_secs_f64(), served))
    }

    /// What happened in an upgrade after event `after`.
    pub(super) fn events(&self, id: UpgradeId, after: u64) -> Option<EventsPage> {
        let record = self.records.get(&id)?;
        Some(EventsPage {
            events: record.events.iter().filter(|event| event.seq > after).map(|event| record.tell(event)).collect(),
            after,
            finished: record.is_finished(),
            changed: record.changed.subscribe(),
        })
    }
}

impl Record {
    fn is_finished(&self) -> bool {
        self.concluded.is_some() && self.status.drained
    }

    fn written(&self) -> Option<Cow<'_, RawValue>> {
        let write = || {
            let (status, events) = (Cow::Borrowed(&self.status), Cow::Borrowed(&self.events));
            let given_up = self.given_up.as_ref().map(Cow::Borrowed);
            let entry = RecordEntry { status, began: self.began, concluded: self.concluded, events, given_up };
            serde_json::value::to_raw_value(&entry).ok()
        };
        if !self.is_finished() {
            return write().map(Cow::Owned);
        }
        if self.written.get().is_none() {
            // Somebody else cannot have been quicker.
            let _ = self.written.set(write()?);
        }
        self.written.get().map(|written| Cow::Borrowed(&**written))
    }

    fn to_history(&self) -> Option<UpgradeRecord> {
        let (status, concluded) = (&self.status, self.concluded?);
        let verdict = status.verdict.as_ref()?;
        let duration = concluded.since(self.began).as_secs_f64();
        let moments = || {
            self.events.iter().map(|event| Moment {
                event: &event.event,
                at: event.at.since(self.began).as_secs_f64(),
                generation: event.generation.map(|generation| generation.0),
            })
        };
        let rollback = if verdict.verdict == Verdict::RolledBack {
            story::rollback(moments(), status.generation, duration)
        } else {
            let back = status.kind == Kind::Rollback && verdict.verdict == Verdict::Upgraded;
            let serving = moments().find(|moment| moment.event == "serving").map_or(duration, |moment| moment.at);
            Some(serving).filter(|_| back)
        };
        let began = self.events.iter().find(|event| event.event == "pinning");
        Some(UpgradeRecord {
            id: status.id,
            service: status.service.clone(),
            kind: status.kind,
            generation: status.generation,
            from: status.from,
            release: None,
            argv: Vec::new(),
            directory: None,
            digest: None,
            requested_by: status.requested_by.clone(),
            takes_back: status.takes_back,
            at: began.map_or(status.requested_at, |event| event.wall),
            duration,
            verdict: verdict.verdict,
            reason: verdict.reason.clone(),
            exit_code: verdict.exit_code,
            step: verdict.step.clone(),
            phases: story::phases(moments(), duration),
            rollback,
            drain: None,
            probe: status.probe.clone(),
        })
    }

    fn status_at(&self, now: Time) -> UpgradeStatus {
        let mut status = self.status.clone();
        status.duration = self.concluded.unwrap_or(now).since(self.began).as_secs_f64();
        status.ended_at = self.events.iter().find(|event| event.concludes).map(|event| event.wall);
        status
    }

    fn push(&mut self, now: Time, news: News, concludes: bool) {
        let seq = self.events.back().map_or(0, |last| last.seq) + 1;
        let (event, message, generation) = (news.event, news.message.into_boxed_str(), news.generation);
        let event = Event { seq, wall: clock::wall(), at: now, event: event.into(), message, generation, concludes };
        if !self.make_room(&event) {
            return;
        }
        self.written.take();
        self.events.push_back(event);
        self.changed.send_replace(seq);
    }

    /// Whether there is room for one more event; where need be, one that matters less gives way.
    fn make_room(&mut self, event: &Event) -> bool {
        if event.is_said() {
            return self.events.iter().filter(|event| event.is_said()).count() < SAID;
        }
        let happened = self.events.iter().enumerate().filter(|(_, event)| !event.is_said());
        if happened.clone().count() >= EVENTS {
            // Where there is none, those that stay are as few as there are generations.
            let middle = happened.skip(FIRST).find(|(_, event)| !event.is_kept()).map(|(at, _)| at);
            middle.and_then(|at| self.events.remove(at));
        }
        true
    }

    fn tell(&self, event: &Event) -> UpgradeEvent {
        UpgradeEvent {
            seq: event.seq,
            at: event.wall,
            elapsed: event.at.since(self.began).as_secs_f64(),
            upgrade: self.status.id,
            service: self.status.service.clone(),
            event: event.event.clone().into_owned(),
            message: event.message.clone().into_string(),
            generation: event.generation.map(|generation| generation.0),
            verdict: self.status.verdict.clone().filter(|_| event.concludes).map(Box::new),
        }
    }
}

impl Event {
    /// Whether it tells what somebody says, and nothing has happened: there may be any number of these.
    fn is_said(&self) -> bool {
        matches!(&*self.event, "status" | "check" | "output")
    }

    /// Whether what comes later is measured from it, or somebody waits for it.
    fn is_kept(&self) -> bool {
        self.concludes || matches!(&*self.event, "pinning" | "serving" | "draining" | "drained")
    }
}

/// Whether an event names a stage of an upgrade, rather than something that happens during one.
fn is_stage(event: &str) -> bool {
    matches!(
        event,
        "pinning"
            | "hook"
            | "starting"
            | "spawned"
            | "ready"
            | "soaking"
            | "held"
            | "switching-back"
            | "rolled"
            | "weighted"
            | "awaiting-promotion"
            | "serving"
            | "standby"
            | "draining"
            | "returning"
    )
}

#[cfg(test)]
mod tests;
