//! Upgrades of several services, one after the other.
//!
//! ```text
//!             the one before is upgraded, or held          its verdict
//!   Waits ───────────────────────────────────────► Runs ───────────────► Upgraded
//!     │                                             │                       │ one of the others has failed,
//!     │ one before it has failed, or is withdrawn   │ failed                │ and all were to succeed or none
//!     └──────────────────────► Over ◄───────────────┴───────────────────────┴──► Returns ──► Over
//! ```
//!
//! - One sequence is in progress; the next ones wait, and equal requests share one that waits.
//! - The numbers of all its upgrades are known from the beginning, and each of them gets its verdict: `refused`, where it
//!   was not begun.
//! - *Together*: all of them succeed or none. Candidates of `blue-green` are held, each ready, until all are, and then all
//!   are switched. What was upgraded by then or in spite of that is taken back, the latest first, by a rollback of its
//!   own: to what stands by, else to the release that is kept.
//! - A member whose service was asked for something else after its upgrade is not taken back. One that nothing had served
//!   before is stopped.
//! - What the config has lost leaves once all the others are upgraded, unless the config has it again by then.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Core;
use super::event::{Action, Admission, Kind, Reason, Refusal, Step, Verdict};
use super::id::{Generation as Number, ServiceId, Time, UpgradeId};
use super::service::{Outbox, Phase, Purpose, Request, Role, Service};

/// How many sequences may wait.
pub const WAITING_MAX: usize = 4;

/// What is asked for of several services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Together {
    /// The services, each once, in their order.
    pub services: Vec<ServiceId>,
    /// [`Kind::Reload`] or [`Kind::Restart`].
    pub kind: Kind,
    /// All of them succeed, or none.
    pub atomic: bool,
    /// Services that leave once all the others are upgraded.
    pub lost: Vec<ServiceId>,
}

/// A sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sequence {
    asked: Together,
    members: Vec<Member>,
    /// The first that did not succeed.
    failed: Option<(UpgradeId, Verdict)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Member {
    service: ServiceId,
    upgrade: UpgradeId,
    part: Part,
    /// What served when it began, by the generation that its release was pinned for first.
    from: Option<Number>,
    /// And what serves by its verdict.
    to: Option<Number>,
    /// The upgrade that takes it back.
    back: Option<UpgradeId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Part {
    Waits,
    Runs,
    Upgraded,
    Returns,
    Over,
}

impl Core {
    /// Asks for upgrades of several services, in this order; the next begins when the one before is upgraded.
    ///
    /// # Errors
    /// When none can be taken at all.
    pub fn request_in_order(&mut self, now: Time, asked: Together) -> Result<Vec<(ServiceId, Admission)>, Refusal> {
        if let ([service], true) = (asked.services.as_slice(), asked.lost.is_empty()) {
            let service = *service;
            return Ok(vec![(service, self.request(now, service, asked.kind)?)]);
        }
        if self.ending.is_some() {
            return Err(Refusal::Stopping);
        }
        for service in &asked.services {
            let service = self.services.get(service).ok_or(Refusal::UnknownService)?;
            if self.is_stopping(service.id) {
                return Err(Refusal::Stopping);
            }
        }
        let equal = |sequence: &&Sequence| sequence.asked == asked && sequence.failed.is_none();
        if let Some(equal) = self.sequences.iter().skip(1).find(equal) {
            let joined = |member: &Member| (member.service, Admission::Joined(member.upgrade));
            return Ok(equal.members.iter().map(joined).collect());
        }
        if self.sequences.len() > WAITING_MAX {
            return Err(Refusal::TooManyWait(WAITING_MAX));
        }
        let members: Vec<Member> =
            asked.services.iter().map(|service| Member::new(*service, self.fresh_id())).collect();
        let admission = |member: &Member| (member.service, Admission::Queued(member.upgrade));
        let mut admissions: Vec<_> = members.iter().map(admission).collect();
        self.sequences.push_back(Sequence { asked, members, failed: None });
        self.go_on(now);
        if let Some((service, first)) = admissions.first_mut() {
            let id = first.upgrade();
            let began = self.services.get(service).and_then(|service| service.upgrade.as_ref());
            if began.is_some_and(|upgrade| upgrade.id == id) {
                *first = Admission::Begun(id);
            }
        }
        Ok(admissions)
    }

    /// The config has these again: what was to make them leave at its end does not.
    pub fn keep(&mut self, services: &[ServiceId]) {
        for sequence in &mut self.sequences {
            sequence.asked.lost.retain(|lost| !services.contains(lost));
        }
    }

    /// Whether upgrades of several services are in progress.
    #[must_use]
    pub fn has_sequence(&self) -> bool {
        !self.sequences.is_empty()
    }

    /// The sequence goes on as far as it can. Whether it has done anything.
    pub(super) fn go_on_with_sequence(&mut self, now: Time, verdicts: &[(UpgradeId, Verdict)]) -> bool {
        let Some(mut sequence) = self.sequences.pop_front() else { return false };
        sequence.note(&self.services, verdicts);
        let moved = match sequence.failed {
            None => self.go_forward(now, &mut sequence),
            Some(by) => self.go_back(now, &mut sequence, by),
        };
        if sequence.is_over() {
            let lost = std::mem::take(&mut sequence.asked.lost);
            if sequence.failed.is_none() {
                self.leave(lost, &Reason::NotInConfig);
            }
            return true;
        }
        self.sequences.push_front(sequence);
        moved
    }

    /// The next one begins; or all are held, and are switched.
    fn go_forward(&mut self, now: Time, sequence: &mut Sequence) -> bool {
        let held = |member: &Member| member.is_held(&self.services);
        let done = |member: &Member| member.part == Part::Upgraded || held(member);
        match sequence.members.iter().position(|member| !done(member)) {
            Some(next) if sequence.members[next].part == Part::Waits => {
                let (kind, together) = (sequence.asked.kind, sequence.asked.atomic);
                let member = &mut sequence.members[next];
                let request = Request { of_sequence: true, together, ..Request::new(member.upgrade, kind, None) };
                let service = self.services.get_mut(&member.service);
                member.part = Part::Runs;
                if service.is_none_or(|service| service.enqueue(now, request, &mut self.out).is_err()) {
                    member.conclude(Verdict::Refused, Reason::Stopping, &mut self.out);
                    // Known at once: were it the last one, the sequence would be over, and have succeeded.
                    sequence.failed.get_or_insert((member.upgrade, Verdict::Refused));
                }
                true
            }
            Some(_) => false,
            None => {
                let held: Vec<ServiceId> =
                    sequence.members.iter().filter(|member| held(member)).map(|member| member.service).collect();
                for service in &held {
                    if let Some(service) = self.services.get_mut(service) {
                        service.let_switch(now, &mut self.out);
                    }
                }
                !held.is_empty()
            }
        }
    }

    /// One of them has failed: those that wait are not begun, and where all are to succeed or none, those in flight are
    /// given up and those that are upgraded are taken back.
    fn go_back(&mut self, now: Time, sequence: &mut Sequence, (upgrade, verdict): (UpgradeId, Verdict)) -> bool {
        let mut moved = false;
        for member in &mut sequence.members {
            match member.part {
                Part::Waits => {
                    member.conclude(Verdict::Refused, Reason::NotBegun { upgrade, verdict }, &mut self.out);
                    moved = true;
                }
                Part::Runs if sequence.asked.atomic => {
                    let service = self.services.get_mut(&member.service);
                    moved |= service.is_some_and(|service| {
                        service.give_up_together(now, member.upgrade, (upgrade, verdict), &mut self.out)
                    });
                }
                Part::Runs | Part::Upgraded | Part::Returns | Part::Over => {}
            }
        }
        let running = sequence.members.iter().any(|member| matches!(member.part, Part::Runs | Part::Returns));
        if moved || running || !sequence.asked.atomic {
            return moved;
        }
        for member in sequence.members.iter_mut().rev().filter(|member| member.wants_back()) {
            // Whoever watches them is to know at once which upgrades those are.
            let id = self.fresh_id();
            member.back = Some(id);
            let step = Step::TakingBack { upgrade: member.upgrade };
            self.out.push(Action::Progress { service: member.service, upgrade: Some(id), step });
        }
        let next = sequence.members.iter_mut().rev().find(|member| member.part == Part::Upgraded);
        next.is_some_and(|member| {
            self.take_back(now, member);
            true
        })
    }

    /// Another upgrade, back to what served before.
    fn take_back(&mut self, now: Time, member: &mut Member) {
        member.part = Part::Over;
        let (service, out) = (self.services.get_mut(&member.service), &mut self.out);
        let undisturbed = service.as_ref().is_some_and(|service| {
            let serves = service.serving().map(|serving| serving.lineage);
            service.is_idle() && service.queue.is_empty() && serves == member.to
        });
        let running = service.filter(|service| service.purpose == Purpose::Run);
        match (member.back, running) {
            (None, Some(service)) if undisturbed && member.from.is_none() => {
                let step = Step::TakingBack { upgrade: member.upgrade };
                out.push(Action::Progress { service: member.service, upgrade: None, step });
                service.stop(now, out);
            }
            (None, _) => {}
            (Some(id), Some(service)) if undisturbed => {
                let request = Request { of_sequence: true, ..Request::new(id, Kind::Rollback, member.from) };
                member.part = Part::Returns;
                // It runs, so it is taken.
                let _ = service.enqueue(now, request, out);
            }
            (Some(id), running) => {
                let reason = if running.is_some() { Reason::MovedOn } else { Reason::Stopping };
                conclude(member.service, id, Verdict::Refused, reason, out);
            }
        }
    }

    /// What waits for a service in a sequence is not begun; which upgrade that was first.
    pub(super) fn withdraw(&mut self, service: ServiceId, verdict: Verdict, reason: &Reason) -> Option<UpgradeId> {
        let mut first = None;
        for sequence in &mut self.sequences {
            let withdrawn = sequence.withdraw(service, verdict, reason, &mut self.out);
            first = first.or(withdrawn);
        }
        first
    }

    /// Everything ends.
    pub(super) fn withdraw_all(&mut self) {
        for mut sequence in std::mem::take(&mut self.sequences) {
            for member in &mut sequence.members {
                match (member.part, member.back) {
                    (Part::Waits, _) => member.conclude(Verdict::Aborted, Reason::Stopping, &mut self.out),
                    (Part::Upgraded, Some(back)) => {
                        conclude(member.service, back, Verdict::Aborted, Reason::Stopping, &mut self.out);
                    }
                    (Part::Upgraded, None) | (Part::Runs | Part::Returns | Part::Over, _) => {}
                }
            }
        }
    }

    fn fresh_id(&mut self) -> UpgradeId {
        let id = UpgradeId(self.next_upgrade);
        self.next_upgrade += 1;
        id
    }
}

impl Sequence {
    /// Whether it is about this service.
    pub(super) fn has(&self, service: ServiceId) -> bool {
        self.members.iter().any(|member| member.service == service)
    }

    /// What waits for this service is not begun, and so nothing that waits, unless others have begun: they come first.
    fn withdraw(&mut self, of: ServiceId, verdict: Verdict, reason: &Reason, out: &mut Outbox) -> Option<UpgradeId> {
        let waits = |member: &&mut Member| member.part == Part::Waits;
        let member = self.members.iter_mut().filter(waits).find(|member| member.service == of)?;
        let upgrade = member.upgrade;
        member.conclude(verdict, reason.clone(), out);
        self.failed.get_or_insert((upgrade, verdict));
        let begun = |member: &Member| !matches!(member.part, Part::Waits | Part::Over);
        if !self.members.iter().any(begun) {
            for member in self.members.iter_mut().filter(waits) {
                member.conclude(Verdict::Refused, Reason::NotBegun { upgrade, verdict }, out);
            }
        }
        Some(upgrade)
    }

    /// Takes note of what has begun, and of verdicts.
    fn note(&mut self, services: &BTreeMap<ServiceId, Service>, verdicts: &[(UpgradeId, Verdict)]) {
        for member in &mut self.members {
            let service = services.get(&member.service);
            let lineage = service.and_then(Service::serving).map(|serving| serving.lineage);
            let own = member.back.unwrap_or(member.upgrade);
            let verdict = verdicts.iter().find(|(id, _)| *id == own).map(|(_, verdict)| *verdict);
            match (member.part, verdict) {
                (Part::Runs, None) if member.is_pinning(service) => member.from = lineage,
                (Part::Runs, Some(Verdict::Upgraded)) => (member.part, member.to) = (Part::Upgraded, lineage),
                (Part::Returns, Some(_)) => member.part = Part::Over,
                (Part::Waits | Part::Runs | Part::Upgraded | Part::Over, Some(verdict)) if member.back.is_none() => {
                    member.part = Part::Over;
                    self.failed = self.failed.or(Some((member.upgrade, verdict)));
                }
                (Part::Waits | Part::Runs | Part::Upgraded | Part::Returns | Part::Over, _) => {}
            }
        }
    }

    fn is_over(&self) -> bool {
        self.members.iter().all(|member| match member.part {
            Part::Waits | Part::Runs | Part::Returns => false,
            Part::Upgraded => self.failed.is_none() || !self.asked.atomic,
            Part::Over => true,
        })
    }
}

impl Member {
    fn new(service: ServiceId, upgrade: UpgradeId) -> Self {
        Self { service, upgrade, part: Part::Waits, from: None, to: None, back: None }
    }

    fn in_flight<'a>(&self, service: Option<&'a Service>) -> Option<&'a super::service::Upgrade> {
        service?.upgrade.as_ref().filter(|upgrade| upgrade.id == self.upgrade)
    }

    fn is_pinning(&self, service: Option<&Service>) -> bool {
        self.in_flight(service).is_some_and(|upgrade| matches!(upgrade.phase, Phase::Pinning { .. }))
    }

    fn is_held(&self, services: &BTreeMap<ServiceId, Service>) -> bool {
        let service = services.get(&self.service);
        let candidate = self.in_flight(service).and(service).and_then(Service::candidate);
        candidate.is_some_and(|candidate| matches!(candidate.role, Role::Held { .. }))
    }

    /// Whether it is to be taken back by an upgrade that has no number yet. There is nothing to undo where it runs the
    /// release that ran before.
    fn wants_back(&self) -> bool {
        self.part == Part::Upgraded && self.from.is_some() && self.from != self.to && self.back.is_none()
    }

    fn conclude(&mut self, verdict: Verdict, reason: Reason, out: &mut Outbox) {
        self.part = Part::Over;
        conclude(self.service, self.upgrade, verdict, reason, out);
    }
}

fn conclude(service: ServiceId, upgrade: UpgradeId, verdict: Verdict, reason: Reason, out: &mut Outbox) {
    out.push(Action::Conclude { service, upgrade, verdict, reason: Some(reason) });
}
