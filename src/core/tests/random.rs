//! Random orders of events, against a model that knows the guarantees and none of the machine's states.
//!
//! The world is a shell that answers what the machine wants late, in any order, well or badly; processes that say and
//! do what they like; operators who ask for anything at any time. The model sees only what goes in and what comes out.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::Strategy;

use super::super::policy::TURN_TIMEOUT;
use super::super::service::Role;
use super::super::{CanaryStep, Hook, Hooks, Strategy as Way};
use super::*;

// ---- the model ----------------------------------------------------------------------------------------------------

#[derive(Default)]
struct Model {
    upgrades: BTreeMap<UpgradeId, Upgrade>,
    services: BTreeMap<ServiceId, Service>,
    sequences: Vec<Line>,
    processes: BTreeMap<InstanceId, Process>,
    /// Those that were started for callers who wait where no process is: they are no part of what serves.
    reliefs: BTreeSet<InstanceId>,
    /// Those that were pinned and not let go of.
    releases: BTreeSet<ReleaseId>,
    /// Everything is being ended.
    ending: bool,
    /// And was when the machine heard the latest event.
    ended_before: bool,
    hurried: bool,
    finished: bool,
    /// A successor of the shell is asked once more what its predecessor did not answer.
    succeeded: bool,
    /// Whoever waits for the first start is told by the end that it failed.
    answers: bool,
}

struct Upgrade {
    service: ServiceId,
    kind: Kind,
    to: Option<Generation>,
    state: Course,
    /// It is one of a sequence, or takes one of them back.
    member: bool,
    asked_at: Time,
    verdict: Option<Verdict>,
    /// Since when the candidate waits for others.
    held: Option<Time>,
    /// What served when it began.
    from: Option<ReleaseId>,
    /// What takes it back.
    back: Option<UpgradeId>,
}

impl Upgrade {
    fn new(service: ServiceId, kind: Kind, to: Option<Generation>, member: bool, asked_at: Time) -> Self {
        let (state, verdict, held, from, back) = (Course::Waits, None, None, None, None);
        Self { service, kind, to, state, member, asked_at, verdict, held, from, back }
    }
}

/// Upgrades that follow each other.
struct Line {
    atomic: bool,
    upgrades: Vec<UpgradeId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    Waits,
    Runs,
    Over,
}

struct Service {
    in_flight: Option<UpgradeId>,
    serving: Option<Generation>,
    /// The one before it, unless it stands by.
    old: Option<Generation>,
    /// All that have served.
    served: BTreeSet<Generation>,
    /// The one that stands by and is gone back to.
    back: Option<Generation>,
    /// The candidate was given up and what it replaced comes back; so many of it may still be ended at once.
    returning: Option<usize>,
    /// So many instances of the candidate take part by now.
    rolled: usize,
    /// So many instances are not wanted any more since the service was scaled, and may be ended.
    spare: u32,
    /// What the config said when an operator chose another number of instances, and that number.
    scaled: Option<(u32, u32)>,
    generations: BTreeMap<Generation, Made>,
    stopping: bool,
    /// Those that it comes after.
    after: BTreeSet<ServiceId>,
    /// One of its processes was given up.
    gave_up: bool,
    leaving: bool,
    /// It has stopped, and nothing was begun since.
    stopped: bool,
    /// It was stopped because it was to be upgraded together with others; a later request starts it again.
    taken_back: bool,
    weights_owed: u32,
    /// New connections are wanted to wait: until when.
    paused: Option<Time>,
    /// They do.
    held: bool,
    /// When the serving generation last had no process that was ready.
    last_down: Time,
}

impl Service {
    fn new() -> Self {
        Self {
            in_flight: None,
            serving: None,
            old: None,
            served: BTreeSet::new(),
            back: None,
            returning: None,
            rolled: 0,
            spare: 0,
            scaled: None,
            generations: BTreeMap::new(),
            stopping: false,
            after: BTreeSet::new(),
            gave_up: false,
            leaving: false,
            stopped: false,
            taken_back: false,
            weights_owed: 0,
            paused: None,
            held: false,
            last_down: Time(0),
        }
    }
}

impl Service {
    /// How many instances there are to be where the config says so many: as many as were chosen, until it says another
    /// number than it did then.
    fn wanted(&self, configured: u32) -> u32 {
        self.scaled.filter(|(then, _)| *then == configured).map_or(configured, |(_, wanted)| wanted)
    }
}

struct Made {
    by: UpgradeId,
    release: ReleaseId,
    policy: Policy,
    /// How many instances its config says.
    configured: u32,
}

#[derive(Default)]
struct Process {
    launched: bool,
    ready_at: Option<Time>,
    /// It says that it lives at least so often.
    watchdog: Option<Duration>,
    /// It may be silent until then.
    silent_until: Option<Time>,
    triggered: bool,
    aborted: bool,
    said_stopping: bool,
    failing: bool,
    stop_wanted: bool,
    told: bool,
    ended: bool,
    gone: bool,
}

impl Process {
    fn is_healthy(&self) -> bool {
        self.ready_at.is_some() && !self.ended && !self.aborted
    }

    /// Whether new connections are well looked after with it.
    fn is_available(&self) -> bool {
        self.is_healthy() && !self.failing && !self.said_stopping && !self.stop_wanted
    }

    /// Whether it has been silent for longer than it may.
    fn is_silent(&self, now: Time) -> bool {
        let silent = self.silent_until.is_some_and(|until| until <= now);
        silent && self.is_healthy() && !self.stop_wanted
    }

    fn is_heard_anew(&mut self, now: Time) {
        self.silent_until = self.silent_until.max(self.watchdog.map(|span| now.after(span)));
    }

    fn lives(&mut self, now: Time) {
        self.silent_until = self.watchdog.map(|span| now.after(span));
    }
}

impl Model {
    /// The processes that a generation is meant to have.
    fn of(&self, service: ServiceId, generation: Generation) -> impl Iterator<Item = &Process> {
        let own = move |id: &InstanceId| id.service == service && id.generation == generation;
        let processes = self.processes.iter().filter(|(id, _)| !self.reliefs.contains(id));
        processes.filter(move |(id, _)| own(id)).map(|(_, process)| process)
    }

    fn all_of(&self, service: ServiceId, generation: Generation) -> impl Iterator<Item = &Process> {
        let own = move |id: &InstanceId| id.service == service && id.generation == generation;
        self.processes.iter().filter(move |(id, _)| own(id)).map(|(_, process)| process)
    }

    fn is_up(&self, service: ServiceId) -> bool {
        let serving = self.services[&service].serving;
        serving.is_some_and(|number| self.of(service, number).any(|it| it.is_healthy() && !it.stop_wanted))
    }

    fn admitted(
        &mut self,
        now: Time,
        service: ServiceId,
        (kind, to): (Kind, Option<Generation>),
        admission: Admission,
    ) {
        let waiting =
            |up: &Upgrade| up.service == service && (up.kind, up.to) == (kind, to) && up.state == Course::Waits;
        let id = admission.upgrade();
        match admission {
            Admission::Begun(_) => assert_eq!(self.services[&service].in_flight, None, "two upgrades in flight"),
            Admission::Queued(_) => {
                let starts =
                    |up: &Upgrade| up.service == service && up.kind == Kind::Start && up.state == Course::Waits;
                let start = kind == Kind::Start || self.upgrades.values().any(starts);
                assert!(start || self.services[&service].in_flight.is_some(), "it waits for nothing");
                let waiting = |up: &Upgrade| waiting(up) && !up.member;
                assert!(!self.upgrades.values().any(waiting), "another of its kind waits already");
            }
            Admission::Joined(_) => {
                assert!(waiting(&self.upgrades[&id]), "it joined one that has begun, or is of another kind");
                return;
            }
        }
        let before = self.upgrades.insert(id, Upgrade::new(service, kind, to, false, now));
        assert!(before.is_none(), "upgrade {id} exists already");
        self.services.get_mut(&service).expect("it was admitted").stopping = false;
    }

    fn admitted_in_order(&mut self, now: Time, asked: &Together, admissions: &[(ServiceId, Admission)]) {
        let services: Vec<ServiceId> = admissions.iter().map(|(service, _)| *service).collect();
        assert_eq!(services, asked.services);
        let upgrades: Vec<UpgradeId> = admissions.iter().map(|(_, admission)| admission.upgrade()).collect();
        let Some(line) = self.sequences.iter().find(|line| line.upgrades == upgrades) else {
            for (service, admission) in admissions {
                assert!(!matches!(admission, Admission::Joined(_)));
                let up = Upgrade::new(*service, asked.kind, None, true, now);
                assert!(self.upgrades.insert(admission.upgrade(), up).is_none(), "its number was given out before");
                self.services.get_mut(service).expect("it was admitted").stopping = false;
            }
            return self.sequences.push(Line { atomic: asked.atomic, upgrades });
        };
        assert_eq!(line.atomic, asked.atomic);
        let waits = |(_, admission): &(ServiceId, Admission)| matches!(admission, Admission::Joined(id) if self.upgrades[id].verdict.is_none());
        // One of them may have been aborted or stopped before its turn.
        assert!(admissions.iter().any(waits), "it joined one that has begun");
    }

    /// Those before it in its sequence are upgraded, or wait for it.
    fn is_its_turn(&self, id: UpgradeId) {
        let Some(line) = self.sequences.iter().find(|line| line.upgrades.contains(&id)) else { return };
        for earlier in line.upgrades.iter().take_while(|earlier| **earlier != id) {
            let up = &self.upgrades[earlier];
            let held = line.atomic && up.held.is_some() && up.verdict.is_none();
            assert!(held || up.verdict == Some(Verdict::Upgraded), "{id} begins before {earlier} has its verdict");
        }
    }

    /// What is switched together is switched once all of it is ready, unless it was needed before.
    fn are_all_ready(&self, id: UpgradeId) {
        let Some(since) = self.upgrades[&id].held else { return };
        let needed = self.services[&self.upgrades[&id].service].last_down >= since;
        let line = self.sequences.iter().find(|line| line.upgrades.contains(&id)).expect("it waits for others");
        let ready = |other: &UpgradeId| {
            let up = &self.upgrades[other];
            up.verdict == Some(Verdict::Upgraded) || (up.held.is_some() && up.verdict.is_none())
        };
        assert!(needed || line.upgrades.iter().all(ready), "{id} is switched before the others are ready");
    }

    /// What started before it serves, as far as it can.
    fn may_start(&self, now: Time, id: UpgradeId) {
        let up = &self.upgrades[&id];
        if up.kind != Kind::Start || now >= up.asked_at.after(TURN_TIMEOUT) {
            return;
        }
        for earlier in &self.services[&up.service].after {
            let other = &self.services[earlier];
            let over = |up: &Upgrade| up.service == *earlier && up.verdict.is_some();
            let failed = other.serving.is_none() && self.upgrades.values().any(over);
            // One that leaves serves until nothing that leaves needs it; from then on it is being stopped.
            let leaving = other.leaving && (other.serving.is_none() || !self.is_needed(*earlier, true));
            let hopeless = failed || leaving || other.gave_up || other.stopping || other.stopped;
            assert!(self.is_up(*earlier) || hopeless, "{id} starts before {earlier:?} serves");
        }
    }

    /// Whether anything is left of what comes after a service, or of those of it that leave.
    fn is_needed(&self, service: ServiceId, leaving: bool) -> bool {
        let later = self.services.iter().filter(|(_, other)| other.after.contains(&service));
        let mut later = later.filter(|(_, other)| !leaving || other.leaving);
        let runs = |later| self.processes.iter().any(|(id, it)| id.service == later && !it.gone);
        later.any(|(later, _)| runs(*later) || self.is_needed(*later, leaving))
    }

    /// Whether what comes after a service has yet to stop: without a process it may still owe an answer.
    fn serves_others(&self, service: ServiceId) -> bool {
        let mut later = self.services.iter().filter(|(_, other)| other.after.contains(&service));
        later.any(|(later, other)| !other.stopped || self.serves_others(*later))
    }

    /// What all of a sequence or none of it was to be is so.
    fn is_all_or_none(&self, line: &Line) {
        let failed = line.upgrades.iter().any(|id| self.upgrades[id].verdict != Some(Verdict::Upgraded));
        if !line.atomic || !failed || self.ending {
            return;
        }
        for id in &line.upgrades {
            let up = &self.upgrades[id];
            let made = self.services[&up.service].generations.values().find(|made| made.by == *id);
            let same = made.is_some_and(|made| Some(made.release) == up.from);
            let undone = up.back.is_some() || up.from.is_none() || same;
            assert!(up.verdict != Some(Verdict::Upgraded) || undone, "{id} is not taken back");
        }
    }

    /// What is said to the machine, before it hears it.
    fn hears(&mut self, now: Time, event: &Event) {
        if let Event::Instance(id, event) = event
            && let Some(process) = self.processes.get_mut(id)
        {
            match event {
                InstanceEvent::Launched => process.launched = true,
                InstanceEvent::Stopping => process.said_stopping = true,
                // Its start begins again, unless its end was wanted.
                InstanceEvent::Unstarted if !process.stop_wanted => *process = Process::default(),
                InstanceEvent::Unstarted | InstanceEvent::PrepareFailed(_) | InstanceEvent::LaunchFailed(_) => {
                    process.ended = true;
                    process.gone = true;
                }
                InstanceEvent::Exited(_) => process.ended = true,
                InstanceEvent::Emptied => process.gone = true,
                InstanceEvent::KeepAlive => process.lives(now),
                InstanceEvent::Extend(by) => {
                    process.silent_until = process.silent_until.map(|until| until.max(now.after(*by)));
                }
                InstanceEvent::WatchdogInterval(span) => {
                    process.watchdog = Some(*span).filter(|span| *span > Duration::ZERO);
                    process.lives(now);
                }
                InstanceEvent::WatchdogTrigger => process.triggered = true,
                InstanceEvent::Unhealthy(_) => process.failing |= process.ready_at.is_some(),
                InstanceEvent::Healthy => process.failing = false,
                InstanceEvent::Prepared | InstanceEvent::Ready => {}
            }
        }
        match event {
            Event::Told(id) => self.processes.get_mut(id).expect("it exists").told = true,
            Event::WeightsSet(id) => self.services.get_mut(id).expect("it exists").weights_owed -= 1,
            Event::Pinned { release, .. } => {
                self.releases.insert(*release);
            }
            Event::Held { service, on, result } => {
                let service = self.services.get_mut(service).expect("it exists");
                service.held |= *on && result.is_ok();
                if *on && !service.held {
                    service.paused = None;
                }
            }
            Event::PinFailed { .. }
            | Event::Instance(..)
            | Event::HookDone { .. }
            | Event::Condemned { .. }
            | Event::Abandoned { .. }
            | Event::Tick => {}
        }
        self.look(now);
    }

    fn look(&mut self, now: Time) {
        for id in self.services.keys().copied().collect::<Vec<_>>() {
            if !self.is_up(id) {
                self.services.get_mut(&id).expect("its key was there").last_down = now;
            }
        }
    }

    /// What the machine wants.
    fn wants(&mut self, now: Time, action: &Action, pinned: &BTreeMap<UpgradeId, (ReleaseId, Policy)>) {
        // A release may still be on its way while the supervisor goes.
        assert!(!self.finished || matches!(action, Action::Discard(_)), "{action:?} after the end");
        match action {
            Action::Pin { upgrade, .. }
                if self.succeeded && self.upgrades.get(upgrade).is_some_and(|up| up.state == Course::Runs) => {}
            Action::Pin { service, upgrade, kind, .. } => {
                self.is_first(*service, *upgrade);
                self.is_its_turn(*upgrade);
                self.may_start(now, *upgrade);
                let left = self.processes.iter().any(|(id, process)| id.service == *service && !process.gone);
                let up = self.upgrades.get_mut(upgrade).expect("it was admitted");
                assert_eq!((up.service, up.kind, up.state), (*service, *kind, Course::Waits));
                up.state = Course::Runs;
                let service = self.services.get_mut(service).expect("it exists");
                up.from = service.serving.map(|serving| service.generations[&serving].release);
                assert_eq!(service.in_flight.replace(*upgrade), None, "two upgrades in flight");
                service.stopping &= !service.taken_back || left;
                (service.taken_back, service.stopped) = (false, false);
                assert!(!service.stopping);
                (service.returning, service.rolled) = (None, 0);
            }
            Action::Prepare { instance, release } => {
                let service = &self.services[&instance.service];
                let restarts = service.serving == Some(instance.generation) && self.serves_others(instance.service);
                let ends = service.stopping || (self.ended_before && !restarts);
                assert!(!ends, "a process is started while everything ends");
                assert!(self.releases.contains(release), "{release} was let go of");
                assert_eq!(service.generations[&instance.generation].release, *release);
                let watchdog = service.generations[&instance.generation].policy.watchdog;
                let process = Process { watchdog, ..Process::default() };
                let before = self.processes.insert(*instance, process);
                let unstarted = |before: Process| self.succeeded && !before.launched && !before.ended;
                assert!(before.is_none_or(unstarted), "the name of a process was used again");
                self.is_not_too_many(instance);
            }
            Action::Launch(id) => {
                let service = &self.services[&id.service];
                let restarts = service.serving == Some(id.generation) && self.serves_others(id.service);
                assert!(!service.stopping && (!self.ended_before || restarts), "a process is started at the end");
                assert!(!self.processes[id].ended);
            }
            Action::SetWeights { service, weights } => {
                assert_eq!(weights.iter().map(|(_, weight)| weight).sum::<u32>(), 100);
                self.services.get_mut(service).expect("it exists").weights_owed += 1;
            }
            Action::Hold { service, on } => {
                let service = self.services.get_mut(service).expect("it exists");
                assert!(!on || service.paused.is_some(), "nobody asked for it");
                if !on {
                    (service.paused, service.held) = (None, false);
                }
            }
            Action::RunHook { service, generation, hook, .. } => self.hooked(*service, *generation, *hook),
            Action::Stop(id) => {
                self.protected(id, action);
                self.is_not_needed(id);
                self.is_enough_without(id);
                self.processes.get_mut(id).expect("it exists").stop_wanted = true;
            }
            Action::Abort(id) if self.succeeded && self.processes[id].aborted => {}
            Action::Abort(id) => {
                let process = self.processes.get_mut(id).expect("it exists");
                assert!(process.triggered || process.is_silent(now), "{id:?} is aborted and did nothing wrong");
                assert!(!process.stop_wanted, "{id:?} is on its way out and need not say anything");
                process.aborted = true;
                process.stop_wanted = true;
            }
            Action::Kill(id) => {
                self.protected(id, action);
                let process = &self.processes[id];
                let ran = process.launched || process.ready_at.is_some();
                assert!(!ran || process.stop_wanted || self.hurried, "{id:?} is killed without its stop signal");
                self.processes.get_mut(id).expect("it exists").stop_wanted = true;
            }
            Action::Sweep { instance, .. } => assert!(self.processes[instance].ended, "a sweep among the living"),
            Action::Progress { service, step: Step::Starting { generation }, .. } => {
                let service = self.services.get_mut(service).expect("it exists");
                let last = service.generations.keys().last();
                assert!(last.is_none_or(|last| *last < *generation), "a number was used again");
                let by = service.in_flight.expect("a generation is made by an upgrade");
                let (release, mut policy) = pinned[&by].clone();
                let configured = policy.instances;
                policy.instances = service.wanted(configured);
                service.generations.insert(*generation, Made { by, release, policy, configured });
            }
            Action::Progress { service, upgrade, step } => self.tells(now, *service, *upgrade, step),
            Action::Conclude { service, upgrade, verdict, reason } => {
                self.concludes(*service, *upgrade, *verdict, reason.as_ref());
            }
            Action::Discard(release) => {
                assert!(self.releases.remove(release), "{release} is let go of twice");
                for (id, process) in &self.processes {
                    let runs = self.services[&id.service].generations[&id.generation].release == *release;
                    assert!(!runs || process.gone, "{release} is let go of while {id:?} runs it");
                }
            }
            Action::Remove(id) => {
                assert!(self.services[id].leaving, "{id:?} is removed and wanted");
                let left = self.processes.iter().any(|(process, it)| process.service == *id && !it.gone);
                assert!(!left, "{id:?} is removed, and a process is left");
                let over = |up: &Upgrade| up.service != *id || up.state == Course::Over;
                assert!(self.upgrades.values().all(over), "{id:?} is removed, and an upgrade has no verdict");
                // What came after it by way of it does not come after those before it any more.
                for other in self.services.values_mut() {
                    other.after.remove(id);
                }
            }
            Action::Finish(_) => {
                self.finished = true;
                assert!(self.ending);
                assert!(self.services.values().all(|service| service.paused.is_none()), "the end, and callers wait");
                assert!(self.processes.values().all(|process| process.gone), "the end, and a process is left");
                assert!(self.upgrades.values().all(|up| up.state == Course::Over), "the end without a verdict");
            }
        }
        self.look(now);
    }

    /// Guarantee 2: as long as it is the serving generation and not itself at fault, nothing is done to it.
    fn protected(&mut self, id: &InstanceId, action: &Action) {
        let service = &self.services[&id.service];
        let ends = service.stopping || service.leaving || self.ending;
        let serves = service.serving == Some(id.generation) && !ends;
        let named = self.pace(id.service).is_none() && self.processes[id].is_available();
        if serves && named && !self.reliefs.contains(id) {
            let spare = &mut self.services.get_mut(&id.service).expect("it exists").spare;
            *spare = spare.checked_sub(1).unwrap_or_else(|| panic!("{action:?} names the serving generation"));
        }
    }

    /// It is not told to stop before those that come after it have ended.
    fn is_not_needed(&self, id: &InstanceId) {
        let service = &self.services[&id.service];
        let serves = service.serving == Some(id.generation) && self.processes[id].is_available();
        let ends = (self.ending && !self.hurried) || service.leaving;
        let serves = serves && !self.reliefs.contains(id);
        if serves && ends && !service.stopping && self.pace(id.service).is_none() {
            assert!(!self.is_needed(id.service, !self.ending), "{id:?} is told to stop before its turn");
        }
    }

    /// Those that wait for a service begin in the order in which they were asked for, beside those of sequences.
    fn is_first(&self, service: ServiceId, upgrade: UpgradeId) {
        let waits = |up: &Upgrade| up.service == service && up.state == Course::Waits && !up.member;
        let first = self.upgrades.iter().find(|(_, up)| waits(up)).map(|(id, _)| *id);
        assert!(self.upgrades[&upgrade].member || first == Some(upgrade), "it is not its turn");
    }

    /// What the candidate's config asks for by name: so many more, so many fewer, one after the other.
    fn pace(&self, service: ServiceId) -> Option<(usize, usize, bool)> {
        let service = &self.services[&service];
        let (_, made) = service.generations.iter().find(|(_, made)| Some(made.by) == service.in_flight)?;
        match made.policy.strategy {
            Way::Rolling { max_surge, max_unavailable } => Some((max_surge as usize, max_unavailable as usize, false)),
            Way::StopStart => Some((0, usize::MAX, true)),
            Way::Overlap | Way::Canary { .. } | Way::BlueGreen { .. } => None,
        }
    }

    /// The generation that serves, and the candidate.
    fn pair(&self, service: ServiceId) -> Option<(Generation, Generation)> {
        let of = &self.services[&service];
        let (candidate, _) = of.generations.iter().find(|(_, made)| Some(made.by) == of.in_flight)?;
        // While the old one is being told to stop, what was the candidate serves already: nothing is replaced any more.
        Some((of.serving?, *candidate)).filter(|(serving, candidate)| serving != candidate)
    }

    /// While instances are replaced, never fewer than may be.
    fn is_enough_without(&mut self, id: &InstanceId) {
        let Some((serving, candidate)) = self.pair(id.service) else { return };
        let Some((_, unavailable, _)) = self.pace(id.service) else { return };
        let service = &self.services[&id.service];
        if service.stopping || self.ending || !self.processes[id].is_available() || self.reliefs.contains(id) {
            return;
        }
        if id.generation == candidate {
            // What has taken no part can be ended at once.
            match &mut self.services.get_mut(&id.service).expect("it exists").returning {
                None => return,
                Some(exempt @ 1..) => {
                    *exempt -= 1;
                    return;
                }
                Some(0) => {}
            }
        } else if id.generation != serving {
            return;
        }
        let service = &self.services[&id.service];
        let wanted = [serving, candidate].map(|number| service.generations[&number].policy.instances as usize);
        let at_least = wanted.into_iter().min().unwrap_or(0).saturating_sub(unavailable);
        let available =
            [serving, candidate].map(|number| self.of(id.service, number).filter(|it| it.is_available()).count());
        assert!(available.iter().sum::<usize>() > at_least, "{id:?} cannot be spared: {available:?} of {at_least}");
    }

    /// Nor more.
    fn is_not_too_many(&self, id: &InstanceId) {
        let Some((serving, candidate)) = self.pair(id.service) else { return };
        let Some((surge, _, exclusive)) = self.pace(id.service) else { return };
        // What stands by since an upgrade before is neither of the two.
        if ![serving, candidate].contains(&id.generation) {
            return;
        }
        let service = &self.services[&id.service];
        let wanted = [serving, candidate].map(|number| service.generations[&number].policy.instances as usize);
        let at_most = wanted.into_iter().max().unwrap_or(0) + surge;
        let running = |number| self.of(id.service, number).filter(|it| !it.ended && !it.stop_wanted).count();
        let running = [serving, candidate].map(running);
        assert!(running.iter().sum::<usize>() <= at_most, "{id:?} is one too many: {running:?} of {at_most}");
        let other = if id.generation == serving { candidate } else { serving };
        let left = self.all_of(id.service, other).any(|process| !process.gone);
        assert!(!exclusive || !left, "{id:?} is started while something of {other} is left");
    }

    fn hooked(&mut self, id: ServiceId, generation: Generation, hook: Hook) {
        let service = &self.services[&id];
        let mut processes = self.all_of(id, generation);
        match hook {
            Hook::BeforeStart => assert!(processes.next().is_none(), "it has started"),
            Hook::AfterReady => assert!(processes.any(Process::is_available), "it is not ready"),
            Hook::AfterSwitch => assert_eq!(service.serving, Some(generation)),
            Hook::AfterDrain => {
                assert_eq!(service.serving, Some(generation));
                let old = service.served.iter().filter(|old| **old != generation);
                let left = old.flat_map(|old| self.all_of(id, *old)).any(|process| !process.gone);
                assert!(!left, "an old process is left");
            }
            Hook::OnFailure | Hook::OnRollback => {}
        }
    }

    fn tells(&mut self, now: Time, id: ServiceId, upgrade: Option<UpgradeId>, step: &Step) {
        match step {
            Step::Held { .. } => {
                let upgrade = upgrade.expect("it is a candidate");
                let line = self.sequences.iter().find(|line| line.upgrades.contains(&upgrade));
                assert!(line.is_some_and(|line| line.atomic), "it waits for nobody");
                self.upgrades.get_mut(&upgrade).expect("it was admitted").held = Some(now);
            }
            Step::TakingBack { upgrade: undone } => {
                let line = self.sequences.iter().find(|line| line.upgrades.contains(undone));
                let line = line.filter(|line| line.atomic).expect("all or none was not asked for");
                let failed = |id: &UpgradeId| self.upgrades[id].verdict.is_some_and(|it| it != Verdict::Upgraded);
                assert!(line.upgrades.iter().any(failed), "nothing has failed");
                let up = self.upgrades.get_mut(undone).expect("it was admitted");
                assert_eq!((up.verdict, up.back), (Some(Verdict::Upgraded), None));
                match upgrade {
                    Some(by) => {
                        up.back = Some(by);
                        self.upgrades.insert(by, Upgrade::new(id, Kind::Rollback, None, true, now));
                    }
                    None => {
                        assert_eq!(up.from, None, "there is something to go back to");
                        let service = self.services.get_mut(&id).expect("it exists");
                        (service.stopping, service.taken_back) = (true, true);
                    }
                }
            }
            Step::Leaving { .. } => self.services.get_mut(&id).expect("it exists").leaving = true,
            Step::Stopped => {
                let service = self.services.get_mut(&id).expect("it exists");
                (service.stopped, service.serving) = (true, None);
            }
            Step::GaveUp { .. } => self.services.get_mut(&id).expect("it exists").gave_up = true,
            Step::Ready { instance, .. } => {
                let process = self.processes.get_mut(instance).expect("it exists");
                assert!(!process.ended && process.ready_at.is_none());
                process.failing = false;
                process.ready_at = Some(now);
                let service = self.services.get_mut(&id).expect("it exists");
                // A relief is only for those that wait: the places of its generation stay empty.
                let serves = service.serving == Some(instance.generation) && !self.reliefs.contains(instance);
                service.gave_up &= !serves;
                let process = self.processes.get_mut(instance).expect("it exists");
                process.lives(now);
            }
            Step::Serving { generation } => {
                let service = &self.services[&id];
                let made = &service.generations[generation];
                let back = service.back == Some(*generation);
                assert!(back || service.in_flight == Some(made.by), "it is no candidate");
                assert_eq!(service.weights_owed, 0, "new connections do not go to it yet");
                let all: Vec<&Process> = self.of(id, *generation).filter(|process| !process.ended).collect();
                assert_eq!(all.len(), made.policy.instances as usize);
                assert!(all.iter().all(|process| process.is_available()));
                let ready = all.iter().filter_map(|process| process.ready_at).max().expect("all are ready");
                let soaked = now >= ready.after(made.policy.soak) || service.last_down >= ready;
                assert!(back || soaked, "it serves before its soak is over");
                self.are_all_ready(service.in_flight.expect("an upgrade makes it serve"));
                let service = self.services.get_mut(&id).expect("it exists");
                service.gave_up = false;
                let configured = service.generations[generation].configured;
                service.scaled = service.scaled.filter(|(then, _)| *then == configured);
                service.served.insert(*generation);
                service.old = service.serving.replace(*generation);
            }
            Step::SwitchingBack { generation } => {
                let upgrade = upgrade.expect("somebody asked for it");
                self.is_first(id, upgrade);
                self.upgrades.get_mut(&upgrade).expect("it exists").state = Course::Runs;
                let service = self.services.get_mut(&id).expect("it exists");
                assert!(service.served.contains(generation) && service.serving != Some(*generation));
                assert_eq!(service.in_flight.replace(upgrade), None, "two upgrades in flight");
                service.back = Some(*generation);
            }
            Step::Rolled { ready, .. } => self.services.get_mut(&id).expect("it exists").rolled = *ready as usize,
            Step::Standby { generation, .. } => {
                let service = self.services.get_mut(&id).expect("it exists");
                assert_eq!(service.old.take(), Some(*generation));
            }
            Step::Returning { .. } => {
                let (_, candidate) = self.pair(id).expect("there are two");
                let available = self.of(id, candidate).filter(|process| process.is_available()).count();
                let service = self.services.get_mut(&id).expect("it exists");
                // Those that have taken part go one by one.
                service.returning = Some(available.saturating_sub(service.rolled));
            }
            Step::Scaled { generation, instances } => {
                let service = self.services.get_mut(&id).expect("it exists");
                let policy = &mut service.generations.get_mut(generation).expect("it exists").policy;
                service.spare += policy.instances.saturating_sub(*instances);
                policy.instances = *instances;
            }
            Step::Pinning
            | Step::Weighted { .. }
            | Step::HookBegun { .. }
            | Step::Paused { .. }
            | Step::Resumed
            | Step::Unhealthy { .. }
            | Step::Healthy { .. }
            | Step::Starting { .. }
            | Step::Spawned { .. }
            | Step::Soaking { .. }
            | Step::Draining { .. }
            | Step::Stopping { .. }
            | Step::Aborting { .. }
            | Step::Exited { .. }
            | Step::Overdue { .. }
            | Step::Undead { .. }
            | Step::Retrying { .. }
            | Step::Drained { .. } => {}
        }
    }

    fn concludes(&mut self, id: ServiceId, upgrade: UpgradeId, verdict: Verdict, reason: Option<&Reason>) {
        let up = self.upgrades.get_mut(&upgrade).expect("it was admitted");
        assert_eq!(up.service, id);
        let was = std::mem::replace(&mut up.state, Course::Over);
        up.verdict = Some(verdict);
        let service = self.services.get_mut(&id).expect("it exists");
        if was == Course::Runs {
            assert_eq!(service.in_flight.take(), Some(upgrade));
        } else {
            assert_eq!(was, Course::Waits, "upgrade {upgrade} is concluded twice");
            assert!(matches!(verdict, Verdict::Refused | Verdict::Aborted), "it never began");
        }
        assert_eq!(reason.is_none(), verdict == Verdict::Upgraded, "a reason for all but success");
        let made = service.generations.iter().find(|(_, made)| made.by == upgrade).map(|(number, _)| *number);
        // One that never began leaves what another does.
        let (back, returning) =
            if was == Course::Runs { (service.back.take(), None) } else { (None, service.returning) };
        let made = made.or(back);
        service.returning = returning;
        if verdict == Verdict::Upgraded {
            assert_eq!(service.serving, made, "upgraded, and it does not serve");
            if let Some(undone) = self.upgrades.values().find(|up| up.back == Some(upgrade)) {
                let serves = service.serving.map(|serving| service.generations[&serving].release);
                assert_eq!(serves, undone.from, "it is taken back to something else");
            }
            let old = service.old;
            let untold =
                |process: &Process| process.launched && !process.told && !process.ended && !process.stop_wanted;
            assert!(!old.is_some_and(|old| self.all_of(id, old).any(untold)), "the old generation was not told");
        } else {
            assert!(made.is_none() || service.serving != made, "it serves, and that is not said");
        }
    }
}

// ---- the world ----------------------------------------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Op {
    Request(u8, Kind),
    /// Of several services, from this one on.
    Together(Several),
    Rollback(u8, Option<u8>),
    Promote(u8, bool),
    Scale(u8, u8),
    Condemn(u8),
    /// For so long, seconds.
    Pause(u8, u16),
    Resume(u8),
    Abort(u8),
    /// Callers wait in a slot, or so it seems.
    Callers(u8, u8),
    StopService(u8),
    Stop,
    Kill,
    /// The shell answers one of the actions that wait.
    Answer(u16, Luck),
    /// A process does something.
    Act(u16, Deed),
    /// Somebody repeats what is long over, or speaks of what never was.
    Echo(u16, Deed),
    /// Time passes, milliseconds.
    Pass(u32),
    /// The machine's alarm rings.
    Alarm,
    /// The shell dies, and a successor takes over.
    Succeed,
}

#[derive(Clone, Copy, Debug)]
struct Several {
    first: u8,
    count: u8,
    kind: Kind,
    atomic: bool,
    /// The config has another service by now.
    gains: bool,
    /// It does not have one of those that are left out any more.
    loses: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Luck {
    Good,
    Bad,
    Worse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    Ready,
    Stopping,
    Extend(u16),
    KeepAlive,
    WatchdogInterval(u16),
    WatchdogTrigger,
    Healthy,
    Unhealthy,
    Exit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Shim,
    Runs,
    Left,
}

struct World {
    core: Core,
    now: Time,
    model: Model,
    /// Actions that are not yet answered.
    pending: Vec<Action>,
    lives: BTreeMap<InstanceId, Life>,
    pinned: BTreeMap<UpgradeId, (ReleaseId, Policy)>,
    releases: u64,
    policies: Vec<Policy>,
    steps: u32,
}

impl World {
    fn new(orders: &[u8], first_failure: FirstFailure, policies: Vec<Policy>) -> Self {
        let mut core = Core::new();
        let mut model = Model { answers: first_failure == FirstFailure::Exit, ..Model::default() };
        for order in orders {
            let id = core.add_service(Generation(1), first_failure);
            let after = model.services.keys().copied().filter(|earlier| order & 1 << earlier.0 != 0).collect();
            model.services.insert(id, Service { after, ..Service::new() });
        }
        core.set_order(&model.services.iter().map(|(id, service)| (*id, service.after.clone())).collect());
        let (pending, lives, pinned) = (vec![], BTreeMap::new(), BTreeMap::new());
        Self { core, now: Time(1), model, pending, lives, pinned, releases: 0, policies, steps: 0 }
    }

    fn service(&self, which: u8) -> ServiceId {
        ServiceId(u32::from(which) % u32::try_from(self.model.services.len()).expect("there are few"))
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Request(which, kind) => {
                let service = self.service(which);
                // The shell asks for the first start once, before anything else.
                let kind =
                    if self.model.upgrades.values().any(|up| up.service == service) { kind } else { Kind::Start };
                if let Ok(admission) = self.core.request(self.now, service, kind) {
                    self.model.admitted(self.now, service, (kind, None), admission);
                }
            }
            Op::Rollback(which, to) => {
                let (service, to) = (self.service(which), to.map(|to| Generation(u64::from(to))));
                if let Ok(admission) = self.core.rollback(self.now, service, to) {
                    self.model.admitted(self.now, service, (Kind::Rollback, to), admission);
                }
            }
            Op::Together(several) => self.together(several),
            Op::Promote(which, full) => {
                let service = self.service(which);
                if let Ok(id) = self.core.promote(self.now, service, full) {
                    assert_eq!(self.model.services[&service].in_flight, Some(id));
                }
            }
            Op::Scale(which, instances) => {
                let service = self.service(which);
                if let Ok(number) = self.core.scale(self.now, service, instances.into()) {
                    let service = self.model.services.get_mut(&service).expect("it exists");
                    assert_eq!(service.serving, Some(number));
                    let before = service.generations[&number].policy.instances;
                    let configured = service.scaled.map_or(before, |(configured, _)| configured);
                    let wanted = u32::from(instances);
                    service.scaled = Some((configured, wanted)).filter(|_| wanted != configured);
                }
            }
            Op::Condemn(which) => {
                if let Some(upgrade) = self.model.services[&self.service(which)].in_flight {
                    self.handle(Event::Condemned { upgrade, reason: "too many errors".into() });
                }
            }
            Op::Callers(which, slot) => {
                let service = self.service(which);
                let event = Event::Abandoned { service, slot: Slot(u32::from(slot)) };
                self.model.hears(self.now, &event);
                self.core.handle(self.now, event);
                let generations = self.core.services().values().flat_map(|service| service.generations.values());
                let reliefs = generations.flat_map(|one| one.instances.values()).filter(|instance| instance.relief);
                self.model.reliefs.extend(reliefs.map(|instance| instance.id));
            }
            Op::Pause(which, seconds) => {
                let service = self.service(which);
                if self.core.pause(self.now, service, secs(u64::from(seconds))).is_ok() {
                    let service = self.model.services.get_mut(&service).expect("it exists");
                    assert!(!service.stopping && !self.model.ending, "it is to end");
                    service.paused = Some(self.now.after(secs(u64::from(seconds))));
                }
            }
            Op::Resume(which) => {
                let service = self.service(which);
                let resumed = self.core.resume(self.now, service).is_ok();
                assert_eq!(resumed, self.model.services[&service].paused.is_some());
            }
            Op::Abort(which) => {
                let service = self.service(which);
                if let Ok(id) = self.core.abort(self.now, service) {
                    let up = &self.model.upgrades[&id];
                    let waits = up.member && up.state == Course::Waits;
                    assert!(waits || self.model.services[&service].in_flight == Some(id));
                }
            }
            Op::StopService(which) => {
                let id = self.service(which);
                if self.core.stop_service(self.now, id).is_ok() {
                    let service = self.model.services.get_mut(&id).expect("it exists");
                    (service.stopping, service.taken_back) = (true, false);
                }
            }
            Op::Stop => {
                self.model.ending = true;
                self.core.stop(self.now);
            }
            Op::Kill => {
                self.model.ending = true;
                self.model.hurried = true;
                self.core.kill(self.now);
            }
            Op::Answer(which, luck) => self.answer(which, luck),
            Op::Act(which, deed) => {
                let alive: Vec<InstanceId> =
                    self.lives.iter().filter(|(_, life)| **life != Life::Left).map(|(id, _)| *id).collect();
                if !alive.is_empty() {
                    self.act(alive[usize::from(which) % alive.len()], deed);
                }
            }
            Op::Echo(which, deed) => {
                let generation = Generation(u64::from(which % 5));
                let id = InstanceId { service: self.service(0), generation, number: u32::from(which / 5 % 4) };
                if !self.lives.contains_key(&id) && !self.pending.iter().any(|action| about(action) == Some(id)) {
                    self.handle(Event::Instance(id, deed.event()));
                    self.handle(Event::Instance(id, InstanceEvent::Launched));
                    self.handle(Event::Instance(id, InstanceEvent::Emptied));
                }
            }
            Op::Pass(span) => {
                self.now = self.now.after(millis(u64::from(span)));
                self.tick();
            }
            Op::Alarm => self.alarm(),
            Op::Succeed => self.succeed(),
        }
        self.pump();
        self.check();
    }

    fn together(&mut self, several: Several) {
        let there = |id: &&ServiceId| self.core.services().contains_key(id) && !self.core.is_leaving(**id);
        let all: Vec<ServiceId> = self.model.services.keys().filter(there).copied().collect();
        let all: Vec<ServiceId> = all.iter().cycle().skip(several.first.into()).take(all.len()).copied().collect();
        let (services, rest) = all.split_at(usize::from(several.count).min(all.len()));
        let mut services = services.to_vec();
        if several.gains && self.model.services.len() < 5 && !self.core.is_ending() {
            let id = self.core.gain_service(Generation(1));
            self.model.services.insert(id, Service::new());
            services.insert(services.len() / 2, id);
        }
        if services.is_empty() {
            return;
        }
        let lost = rest.iter().copied().take(usize::from(several.loses)).collect();
        let asked = Together { services, kind: several.kind, atomic: several.atomic, lost };
        match self.core.request_in_order(self.now, asked.clone()) {
            Ok(admissions) => match (admissions.as_slice(), asked.lost.is_empty()) {
                ([(service, admission)], true) => {
                    self.model.admitted(self.now, *service, (asked.kind, None), *admission);
                }
                (admissions, _) => self.model.admitted_in_order(self.now, &asked, admissions),
            },
            Err(Refusal::Stopping | Refusal::TooManyWait(_)) => {}
            Err(refusal) => panic!("{refusal}"),
        }
    }

    /// Whatever was begun and not answered is lost, and shims go with their supervisor; processes live on.
    fn succeed(&mut self) {
        self.pending.clear();
        self.core = serde_json::from_slice(&serde_json::to_vec(&self.core).expect("written")).expect("and read");
        self.model.succeeded = true;
        self.model.services.values_mut().for_each(|service| service.weights_owed = 0);
        // What was said may not have been heard.
        let now = self.now;
        self.model.processes.values_mut().for_each(|process| process.is_heard_anew(now));
        self.core.ask_again(now);
        // The end is said to each shell.
        self.model.finished = false;
        let executed = |id: &InstanceId| matches!(self.lives.get(id), Some(Life::Runs | Life::Left));
        let unstarted: Vec<InstanceId> = self
            .core
            .services()
            .values()
            .flat_map(|service| service.generations.values())
            .flat_map(|generation| generation.instances.values().map(|instance| instance.id))
            .filter(|id| !executed(id))
            .collect();
        for id in unstarted {
            self.lives.remove(&id);
            self.handle(Event::Instance(id, InstanceEvent::Unstarted));
        }
    }

    fn alarm(&mut self) {
        if let Some(at) = self.core.poll_timeout() {
            self.now = self.now.max(at);
            self.tick();
        }
    }

    fn tick(&mut self) {
        self.handle(Event::Tick);
        let silent = self.model.processes.iter().find(|(_, process)| process.is_silent(self.now));
        let over = |service: &Service| service.paused.is_some_and(|until| until <= self.now);
        assert!(!self.model.services.values().any(over), "a pause does not end");
        assert!(silent.is_none(), "{:?} is silent and nobody minds", silent.map(|(id, _)| id));
        assert!(
            self.core.poll_timeout().is_none_or(|at| at > self.now),
            "the alarm would ring for ever: {:#?}",
            self.core
        );
    }

    fn handle(&mut self, event: Event) {
        self.model.hears(self.now, &event);
        self.core.handle(self.now, event);
        self.pump();
    }

    fn pump(&mut self) {
        if self.core.is_ending() && !self.model.ending {
            // Nobody asked for it.
            let answers = self.model.answers && !self.model.succeeded;
            let serves =
                self.model.services.keys().any(|id| self.model.is_up(*id) && !self.model.services[id].stopping);
            assert!(answers || !serves, "one that cannot start ends another that serves");
        }
        self.model.ending |= self.core.is_ending();
        while let Some(action) = self.core.poll_action() {
            self.model.wants(self.now, &action, &self.pinned);
            if let Action::Conclude { service, upgrade, .. } = action {
                self.first_start_goes_on(service, upgrade);
            }
            let answered = match action {
                Action::Progress { .. }
                | Action::Conclude { .. }
                | Action::Discard(_)
                | Action::Remove(_)
                | Action::Finish(_) => false,
                Action::RunHook { hook, .. } => matches!(hook, Hook::BeforeStart | Hook::AfterReady),
                _ => true,
            };
            if let Action::Hold { service: ours, .. } = action {
                // Only what is wanted last is done.
                self.pending.retain(|it| !matches!(it, Action::Hold { service, .. } if *service == ours));
            }
            if answered {
                self.pending.push(action);
            }
        }
        self.model.ended_before = self.model.ending;
    }

    /// A first start that failed and is tried again is from then on the serving generation.
    fn first_start_goes_on(&mut self, id: ServiceId, upgrade: UpgradeId) {
        let serving = self.core.services().get(&id).and_then(|service| service.serving()).map(|one| one.number);
        let service = self.model.services.get_mut(&id).expect("it exists");
        let made = service.generations.iter().find(|(_, made)| made.by == upgrade).map(|(number, _)| *number);
        if serving.is_some() && serving == made && service.serving.is_none() {
            assert_eq!(self.model.upgrades[&upgrade].kind, Kind::Start);
            service.serving = serving;
            service.served.extend(serving);
        }
    }

    fn act(&mut self, id: InstanceId, deed: Deed) {
        if deed == Deed::Exit {
            self.lives.insert(id, Life::Left);
            self.pending.retain(|action| !matches!(action, Action::Launch(other) if *other == id));
        } else if self.lives[&id] == Life::Shim {
            return;
        }
        self.handle(Event::Instance(id, deed.event()));
    }

    fn answer(&mut self, which: u16, luck: Luck) {
        if self.pending.is_empty() {
            return;
        }
        let mut place = usize::from(which) % self.pending.len();
        // The moves of new connections are answered in order; everything else in any order.
        if let Action::SetWeights { service: ours, .. } = self.pending[place] {
            let first = |action: &Action| matches!(action, Action::SetWeights { service, .. } if *service == ours);
            place = self.pending.iter().position(first).expect("there is this one");
        }
        let failure = || "bad luck".to_owned();
        match self.pending.remove(place) {
            Action::Pin { upgrade, again, .. } => match luck {
                Luck::Good => {
                    self.releases += 1;
                    let release = again.unwrap_or(ReleaseId(self.releases));
                    let policy = self.policies[usize::from(which) % self.policies.len()].clone();
                    self.pinned.insert(upgrade, (release, policy.clone()));
                    self.handle(Event::Pinned { upgrade, release, policy });
                }
                Luck::Bad => self.handle(Event::PinFailed { upgrade, reason: Reason::Pin(failure()) }),
                Luck::Worse => self.handle(Event::PinFailed { upgrade, reason: Reason::Config(failure()) }),
            },
            Action::Prepare { instance: id, .. } => {
                if luck == Luck::Good {
                    self.lives.insert(id, Life::Shim);
                    self.handle(Event::Instance(id, InstanceEvent::Prepared));
                } else {
                    self.handle(Event::Instance(id, InstanceEvent::PrepareFailed(failure())));
                }
            }
            Action::Launch(id) => {
                if luck == Luck::Good {
                    self.lives.insert(id, Life::Runs);
                    self.handle(Event::Instance(id, InstanceEvent::Launched));
                } else {
                    self.lives.remove(&id);
                    self.handle(Event::Instance(id, InstanceEvent::LaunchFailed(failure())));
                }
            }
            Action::SetWeights { service, .. } => self.handle(Event::WeightsSet(service)),
            Action::Hold { service, on } => {
                let result = if luck == Luck::Good { Ok(()) } else { Err(failure()) };
                self.handle(Event::Held { service, on, result });
            }
            Action::RunHook { service, generation, hook, .. } => {
                let result = if luck == Luck::Good { Ok(()) } else { Err(failure()) };
                self.handle(Event::HookDone { service, generation, hook, result });
            }
            Action::Stop(id) => {
                self.handle(Event::Told(id));
                if luck == Luck::Good && self.lives.get(&id).is_some_and(|life| *life != Life::Left) {
                    self.act(id, Deed::Exit);
                }
            }
            Action::Abort(id) => {
                if luck == Luck::Good && self.lives.get(&id).is_some_and(|life| *life != Life::Left) {
                    self.act(id, Deed::Exit);
                }
            }
            Action::Kill(id) => {
                let unmade = |action: &Action| matches!(action, Action::Prepare { instance, .. } if *instance == id);
                if let Some(place) = self.pending.iter().position(unmade) {
                    drop(self.pending.remove(place));
                    self.handle(Event::Instance(id, InstanceEvent::PrepareFailed("killed".into())));
                } else if self.lives.get(&id).is_some_and(|life| *life != Life::Left) {
                    self.act(id, Deed::Exit);
                }
            }
            Action::Sweep { instance, force } => {
                if force || luck == Luck::Good {
                    self.lives.remove(&instance);
                    self.handle(Event::Instance(instance, InstanceEvent::Emptied));
                }
            }
            other => panic!("{other:?} needs no answer"),
        }
    }

    fn check(&mut self) {
        for service in self.core.services().values() {
            let serving = service.generations.values().filter(|generation| generation.role == Role::Serving).count();
            let candidate = |role| match role {
                Role::Starting
                | Role::Soaking { .. }
                | Role::Held { .. }
                | Role::Rolling { .. }
                | Role::Stepping { .. }
                | Role::Switching => true,
                Role::Serving | Role::Standby { .. } | Role::Retreating | Role::Draining | Role::Ending => false,
            };
            let candidates = service.generations.values().filter(|generation| candidate(generation.role)).count();
            assert!(serving <= 1 && candidates <= 1, "{serving} serve, {candidates} are candidates");
            assert_eq!(service.upgrade.as_ref().map(|up| up.id), self.model.services[&service.id].in_flight);
            self.goes_where_it_may(service);
            self.has_as_many_as_wanted(service);
        }
        let waits = self.model.upgrades.values().any(|up| up.state != Course::Over);
        assert!(!waits || self.core.poll_timeout().is_some() || !self.pending.is_empty(), "a wait without a deadline");
        // Often enough, and not so often that it takes most of the time.
        self.steps += 1;
        if !self.steps.is_multiple_of(4) {
            return;
        }
        let document = serde_json::to_string(&self.core).expect("the state can be written");
        let read: Core = serde_json::from_str(&document).expect("and read again");
        assert_eq!(read, self.core);
        self.core = read;
    }

    /// What was scaled stays so, whatever serves.
    fn has_as_many_as_wanted(&self, service: &super::super::service::Service) {
        let model = &self.model.services[&service.id];
        if let (Some(serving), None) = (model.serving, &service.upgrade) {
            let wanted = model.wanted(model.generations[&serving].configured);
            assert!(service.serving().is_none() || service.desired() == wanted, "{} of {wanted}", service.desired());
        }
    }

    /// No connection goes to what is not ready, as long as there is something else; and after an upgrade that failed
    /// what serves has all of them.
    fn goes_where_it_may(&self, service: &super::super::service::Service) {
        let routes = service.routes();
        let percent: u32 = routes.iter().map(|route| route.percent).sum();
        assert!(percent == 100 || service.generations.is_empty() || routes.len() < 2, "{routes:?}");
        if let (Some(serving), None) = (service.serving(), &service.upgrade) {
            let helped = service.generations.values().any(|generation| generation.role == Role::Retreating);
            assert!(helped || service.weights().contains(&(serving.number, 100)), "{:?}", service.weights());
        }
        for route in &routes {
            let generations = service.generations.values();
            let instances = generations.flat_map(|generation| generation.instances.values());
            let there: Vec<_> = instances.filter(|instance| route.slots.contains(&instance.slot)).collect();
            let available = |id: &InstanceId| self.model.processes.get(id).is_some_and(Process::is_available);
            if service.generations[&route.generation].available() > 0 {
                for slot in &route.slots {
                    let served = there.iter().any(|one| one.slot == *slot && available(&one.id));
                    assert!(served, "nobody answers in {slot}: {routes:?}");
                }
            }
        }
    }

    /// The shell answers well, every process does what it is meant to: what is left in the end?
    fn settles(&mut self) {
        for _ in 0..3000 {
            if !self.pending.is_empty() {
                self.apply(&Op::Answer(0, Luck::Good));
                continue;
            }
            let wishes = |process: &Process, life: &Life| *life == Life::Runs && process.ready_at.is_none();
            // Who is watched for ever never settles.
            let watched = self
                .model
                .processes
                .iter()
                .find(|(_, process)| process.watchdog.is_some() && process.is_healthy() && !process.stop_wanted);
            if let Some(id) = watched.map(|(id, _)| *id) {
                self.act(id, Deed::WatchdogInterval(0));
            }
            let due = self.lives.iter().find(|(id, life)| {
                let process = &self.model.processes[id];
                wishes(process, life) || (process.stop_wanted && **life != Life::Left)
            });
            let due = due.map(|(id, _)| (*id, self.model.processes[id].stop_wanted));
            match due {
                Some((id, true)) => self.act(id, Deed::Exit),
                Some((id, false)) => {
                    self.act(id, Deed::Ready);
                    self.act(id, Deed::Healthy);
                    if self.model.processes[&id].ready_at.is_none() {
                        self.act(id, Deed::Exit);
                    }
                }
                None if self.core.poll_timeout().is_some() => self.alarm(),
                None => return self.settled(),
            }
            self.check();
        }
        panic!("it does not settle: {:#?}", self.core);
    }

    fn settled(&self) {
        self.model.sequences.iter().for_each(|line| self.model.is_all_or_none(line));
        assert!(!self.core.has_sequence(), "a sequence without an end");
        assert!(self.model.upgrades.values().all(|up| up.state == Course::Over), "an upgrade without a verdict");
        assert_eq!(self.model.ending, self.model.finished);
        let mut needed = BTreeSet::new();
        for (id, service) in self.core.services() {
            let stopped = self.model.ending || self.model.services[id].stopping;
            // What could not come back is helped out by what was to replace it.
            let helps = |it: &&super::super::service::Generation| it.role == Role::Retreating && it.is_up();
            let helped =
                service.generations.values().find(helps).filter(|_| !service.serving().expect("one").is_ready());
            needed.extend(helped.map(|helper| helper.release));
            let left = service.generations.len() - usize::from(helped.is_some());
            assert!(left <= 1, "{left} generations are left: {service:#?}");
            assert!(!stopped || service.generations.is_empty(), "it was stopped");
            if let Some(generation) = service.generations.values().next() {
                assert_eq!(generation.role, Role::Serving);
                let stopping = generation.instances.values().any(|instance| instance.said_stopping);
                let empty = generation.seats.iter().any(|seat| seat.instance.is_none());
                assert!(generation.is_ready() || stopping || empty, "{service:#?}");
                assert_eq!(
                    generation.instances.len(),
                    generation.seats.iter().filter_map(|seat| seat.instance).count()
                );
                needed.insert(generation.release);
            }
            needed.extend(service.pinned.as_ref().map(|(release, _)| *release));
            needed.extend(service.every_kept().map(|kept| kept.release));
        }
        assert_eq!(self.model.releases, needed, "releases that nobody needs");
    }

    /// The shell never answers again: does every upgrade get its verdict all the same?
    fn is_left_alone(&mut self) {
        for step in 0..3000 {
            if self.model.upgrades.values().all(|up| up.state == Course::Over) {
                return;
            }
            assert!(self.core.poll_timeout().is_some(), "it would wait for ever");
            // What survives SIGKILL rings often, and a promotion may take a day.
            let hour = 60 * 60 * 1000;
            self.apply(&if step % 16 == 15 { Op::Pass(hour) } else { Op::Alarm });
        }
        panic!("no verdict: {:#?}", self.core);
    }
}

impl Deed {
    fn event(self) -> InstanceEvent {
        match self {
            Self::Ready => InstanceEvent::Ready,
            Self::Stopping => InstanceEvent::Stopping,
            Self::Extend(seconds) => InstanceEvent::Extend(secs(u64::from(seconds))),
            Self::KeepAlive => InstanceEvent::KeepAlive,
            Self::WatchdogInterval(seconds) => InstanceEvent::WatchdogInterval(secs(u64::from(seconds))),
            Self::WatchdogTrigger => InstanceEvent::WatchdogTrigger,
            Self::Healthy => InstanceEvent::Healthy,
            Self::Unhealthy => InstanceEvent::Unhealthy("500".into()),
            Self::Exit => InstanceEvent::Exited(Exit::Code(1)),
        }
    }
}

fn about(action: &Action) -> Option<InstanceId> {
    match action {
        Action::Prepare { instance, .. } | Action::Sweep { instance, .. } => Some(*instance),
        Action::Launch(id) | Action::Stop(id) | Action::Abort(id) | Action::Kill(id) => Some(*id),
        _ => None,
    }
}

// ---- the strategies -----------------------------------------------------------------------------------------------

fn op() -> impl Strategy<Value = Op> {
    let kind = select(vec![Kind::Reload, Kind::Reload, Kind::Restart]);
    let luck = || prop_oneof![10 => Just(Luck::Good), 1 => Just(Luck::Bad), 1 => Just(Luck::Worse)];
    let deed = || {
        prop_oneof![
            8 => Just(Deed::Ready),
            1 => Just(Deed::Stopping),
            1 => (0..100_u16).prop_map(Deed::Extend),
            6 => Just(Deed::KeepAlive),
            1 => (0..20_u16).prop_map(Deed::WatchdogInterval),
            1 => Just(Deed::WatchdogTrigger),
            4 => Just(Deed::Healthy),
            1 => Just(Deed::Unhealthy),
            2 => Just(Deed::Exit),
        ]
    };
    prop_oneof![
        50 => (any::<u16>(), luck()).prop_map(|(which, luck)| Op::Answer(which, luck)),
        25 => (any::<u16>(), deed()).prop_map(|(which, deed)| Op::Act(which, deed)),
        12 => (any::<u8>(), kind.clone()).prop_map(|(which, kind)| Op::Request(which, kind)),
        6 => several(kind).prop_map(Op::Together),
        6 => prop_oneof![0..500_u32, 0..40_000_u32].prop_map(Op::Pass),
        6 => Just(Op::Alarm),
        3 => (any::<u16>(), deed()).prop_map(|(which, deed)| Op::Echo(which, deed)),
        2 => any::<u8>().prop_map(Op::Abort),
        4 => (any::<u8>(), 0..8_u8).prop_map(|(which, slot)| Op::Callers(which, slot)),
        3 => (any::<u8>(), proptest::option::of(1..6_u8)).prop_map(|(which, to)| Op::Rollback(which, to)),
        3 => (any::<u8>(), any::<bool>()).prop_map(|(which, full)| Op::Promote(which, full)),
        2 => (any::<u8>(), 1..5_u8).prop_map(|(which, instances)| Op::Scale(which, instances)),
        1 => any::<u8>().prop_map(Op::Condemn),
        2 => (any::<u8>(), 0..40_u16).prop_map(|(which, seconds)| Op::Pause(which, seconds)),
        1 => any::<u8>().prop_map(Op::Resume),
        2 => Just(Op::Succeed),
        1 => any::<u8>().prop_map(Op::StopService),
    ]
}

fn several(kind: impl Strategy<Value = Kind>) -> impl Strategy<Value = Several> {
    let sometimes = || select(vec![true, false, false, false]);
    (any::<u8>(), 1..5_u8, kind, any::<bool>(), sometimes(), sometimes())
        .prop_map(|(first, count, kind, atomic, gains, loses)| Several { first, count, kind, atomic, gains, loses })
}

/// How it goes on after a while: nothing special, a stop, or a second one.
fn end() -> impl Strategy<Value = Vec<Op>> {
    prop_oneof![
        4 => Just(vec![]),
        2 => vec(op(), 0..20).prop_map(|ops| [vec![Op::Stop], ops].concat()),
        1 => vec(op(), 0..20).prop_map(|ops| [vec![Op::Stop], ops, vec![Op::Kill]].concat()),
        1 => Just(vec![Op::Kill]),
    ]
}

fn some_policy() -> impl Strategy<Value = Policy> {
    let watchdog = select(vec![None, None, Some(secs(3)), Some(secs(10))]);
    let hooks = select(vec![vec![], vec![], Hook::ALL.to_vec(), vec![Hook::BeforeStart], vec![Hook::AfterDrain]]);
    let spread = select(vec![0, 0, 0, 6]);
    let extras = (some_way(), any::<bool>(), hooks, 0..3_u32, spread);
    (1..4_u32, select(vec![0, 0, 5]), any::<bool>(), 1..4_u32, 0..4_u32, watchdog, extras).prop_map(
        |(instances, soak, alive, max_draining, give_up_after, watchdog, (strategy, health, present, keep, spread))| {
            Policy {
                strategy,
                health,
                hooks: Hooks { present, timeout: secs(20) },
                keep_releases: keep,
                drain_spread: secs(spread),
                instances,
                readiness: if alive { Readiness::Alive(secs(1)) } else { Readiness::Reported },
                soak: secs(soak),
                watchdog,
                max_draining,
                give_up_after,
                ..policy()
            }
        },
    )
}

fn some_way() -> impl Strategy<Value = Way> {
    let rolling = (0..3_u32, 0..3_u32).prop_map(|(max_surge, max_unavailable)| Way::Rolling {
        max_surge: if max_unavailable == 0 { max_surge.max(1) } else { max_surge },
        max_unavailable,
    });
    let step = (1..100_u32, 0..60_u64).prop_map(|(weight, hold)| CanaryStep { weight, hold: secs(hold) });
    let canary = (vec(step, 1..3), any::<bool>()).prop_map(|(steps, manual)| Way::Canary { steps, manual });
    prop_oneof![
        3 => Just(Way::Overlap),
        3 => rolling,
        2 => canary,
        2 => (0..100_u64).prop_map(|standby| Way::BlueGreen { standby: secs(standby) }),
        2 => Just(Way::StopStart),
    ]
}

/// For each service those that it comes after, as bits; how a first start fails; policies.
fn world() -> impl Strategy<Value = (Vec<u8>, FirstFailure, Vec<Policy>)> {
    let first = select(vec![FirstFailure::Exit, FirstFailure::Retry, FirstFailure::Rehearse]);
    (vec(any::<u8>(), 1..4), first, vec(some_policy(), 1..4))
}

proptest! {
    #[test]
    fn guarantees_hold_and_nothing_is_left((orders, first, policies) in world(), ops in vec(op(), 0..150), end in end()) {
        let mut world = World::new(&orders, first, policies);
        world.apply(&Op::Request(0, Kind::Start));
        ops.iter().chain(&end).for_each(|op| world.apply(op));
        world.settles();
    }

    #[test]
    fn a_dead_shell_costs_no_verdict((orders, first, policies) in world(), ops in vec(op(), 0..80), end in end()) {
        let mut world = World::new(&orders, first, policies);
        world.apply(&Op::Request(0, Kind::Start));
        ops.iter().chain(&end).for_each(|op| world.apply(op));
        world.is_left_alone();
    }
}
