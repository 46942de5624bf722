//! Scenes of several services: who starts, is upgraded and ends after whom, and what becomes of all when one fails.

use super::super::policy::{HOLD_TIMEOUT, TURN_TIMEOUT};
use super::super::service::{Purpose, Role};
use super::*;
use InstanceEvent as E;

/// A machine with some services, and a shell that answers everything well and at once. What a process does is up to the
/// scene: it becomes ready, ends early, or, where its service is slow, ends after its stop signal.
struct Fleet {
    core: Core,
    now: Time,
    policies: Vec<Policy>,
    /// Services whose processes take their time to end.
    slow: Vec<u32>,
    /// Services whose release cannot be resolved.
    unpinnable: Vec<u32>,
    releases: u64,
    /// What was said since somebody last looked.
    said: Vec<String>,
}

const NAMES: [&str; 4] = ["db", "api", "web", "ads"];

fn plain() -> Policy {
    Policy { keep_releases: 2, ..policy() }
}

fn blue_green() -> Policy {
    Policy { strategy: Strategy::BlueGreen { standby: secs(600) }, ..plain() }
}

impl Fleet {
    /// Each service comes after those.
    fn new(policies: &[Policy], after: &[&[u32]]) -> Self {
        Self::of(FirstFailure::Retry, policies, after)
    }

    fn of(first_failure: FirstFailure, policies: &[Policy], after: &[&[u32]]) -> Self {
        let mut core = Core::new();
        for _ in policies {
            core.add_service(Generation(1), first_failure);
        }
        let ids = |of: &[u32]| of.iter().map(|id| ServiceId(*id)).collect();
        let order = after.iter().zip(0..).map(|(of, id)| (ServiceId(id), ids(of))).collect();
        core.set_order(&order);
        let (slow, unpinnable, said) = (vec![], vec![], vec![]);
        Self { core, now: Time(1_000_000_000), policies: policies.to_vec(), slow, unpinnable, releases: 0, said }
    }

    /// The same, serving.
    fn serving(policies: &[Policy], after: &[&[u32]]) -> Self {
        let mut fleet = Self::new(policies, after);
        for id in fleet.core.in_order() {
            let _ = fleet.core.request(fleet.now, id, Kind::Start);
            fleet.pump();
            fleet.ready(id.0);
        }
        fleet.said.clear();
        fleet
    }

    fn ask(&mut self, services: &[u32], atomic: bool) -> Result<Vec<Admission>, Refusal> {
        self.ask_and_lose(services, atomic, &[])
    }

    fn ask_and_lose(&mut self, services: &[u32], atomic: bool, lost: &[u32]) -> Result<Vec<Admission>, Refusal> {
        let ids = |of: &[u32]| of.iter().map(|id| ServiceId(*id)).collect();
        let asked = Together { services: ids(services), kind: Kind::Reload, atomic, lost: ids(lost) };
        let admissions = self.core.request_in_order(self.now, asked);
        self.pump();
        admissions.map(|all| all.into_iter().map(|(_, admission)| admission).collect())
    }

    fn handle(&mut self, event: Event) {
        let document = serde_json::to_string(&self.core).expect("the state can be written");
        self.core = serde_json::from_str(&document).expect("and read again");
        self.core.handle(self.now, event);
        self.pump();
    }

    fn on(&mut self, id: InstanceId, event: InstanceEvent) {
        self.handle(Event::Instance(id, event));
    }

    fn pass(&mut self, span: Duration) {
        self.now = self.now.after(span);
        self.handle(Event::Tick);
    }

    /// The latest process of a service.
    fn latest(&self, service: u32) -> InstanceId {
        let generations = self.core.services()[&ServiceId(service)].generations.values();
        generations.flat_map(|one| one.instances.values()).map(|one| one.id).max().expect("there is one")
    }

    fn ready(&mut self, service: u32) {
        self.on(self.latest(service), E::Ready);
    }

    fn dies(&mut self, service: u32) {
        let id = self.latest(service);
        self.on(id, E::Exited(Exit::Code(1)));
        self.on(id, E::Emptied);
    }

    /// What is left of a slow service ends.
    fn ends(&mut self, service: u32) {
        let generations = self.core.services()[&ServiceId(service)].generations.values();
        let ids: Vec<InstanceId> = generations.flat_map(|one| one.instances.values()).map(|one| one.id).collect();
        for id in ids {
            self.on(id, E::Exited(Exit::Code(0)));
            self.on(id, E::Emptied);
        }
    }

    fn pump(&mut self) {
        while let Some(action) = self.core.poll_action() {
            let name = |id: ServiceId| NAMES[id.0 as usize];
            let event = match action {
                Action::Pin { service, upgrade, .. } if self.unpinnable.contains(&service.0) => {
                    Event::PinFailed { upgrade, reason: Reason::Pin("no such file".into()) }
                }
                Action::Pin { service, upgrade, again, .. } => {
                    self.said.push(format!("{} begins", name(service)));
                    self.releases += 1;
                    let release = again.unwrap_or(ReleaseId(self.releases));
                    Event::Pinned { upgrade, release, policy: self.policies[service.0 as usize].clone() }
                }
                Action::Prepare { instance, .. } => Event::Instance(instance, E::Prepared),
                Action::Launch(instance) => Event::Instance(instance, E::Launched),
                Action::SetWeights { service, .. } => Event::WeightsSet(service),
                Action::Stop(id) => {
                    self.said.push(format!("{}@{} is told", name(id.service), id.generation));
                    self.core.handle(self.now, Event::Told(id));
                    if self.slow.contains(&id.service.0) {
                        continue;
                    }
                    Event::Instance(id, E::Exited(Exit::Code(0)))
                }
                Action::Sweep { instance, .. } => Event::Instance(instance, E::Emptied),
                Action::Kill(instance) => Event::Instance(instance, E::Exited(Exit::Code(0))),
                Action::Progress { service, step, .. } => {
                    let what = match step {
                        Step::Serving { generation } => format!("@{generation} serves"),
                        Step::Held { generation } => format!("@{generation} is held"),
                        Step::TakingBack { upgrade } => format!(" takes {upgrade} back"),
                        Step::SwitchingBack { generation } => format!(" switches back to {generation}"),
                        Step::Leaving { reason } => format!(" leaves: {reason}"),
                        _ => continue,
                    };
                    self.said.push(format!("{}{what}", name(service)));
                    continue;
                }
                Action::Conclude { upgrade, verdict, reason, .. } => {
                    let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
                    self.said.push(format!("{upgrade} {verdict}{reason}"));
                    continue;
                }
                Action::Remove(service) => {
                    self.said.push(format!("{} is removed", name(service)));
                    continue;
                }
                Action::Finish(outcome) => {
                    self.said.push(format!("{outcome:?}"));
                    continue;
                }
                Action::Hold { .. } | Action::Discard(_) | Action::RunHook { .. } | Action::Abort(_) => continue,
            };
            self.core.handle(self.now, event);
        }
    }

    #[track_caller]
    fn says(&mut self, expected: &[&str]) {
        assert_eq!(std::mem::take(&mut self.said), expected);
    }

    fn lineage(&self, service: u32) -> u64 {
        self.core.services()[&ServiceId(service)].serving().expect("it serves").lineage.0
    }
}

fn id(number: u64) -> UpgradeId {
    UpgradeId(number)
}

// ---- start and stop -----------------------------------------------------------------------------------------------

#[test]
fn a_first_start_waits_until_those_before_it_serve() {
    let mut f = Fleet::new(&[plain(), plain(), plain()], &[&[], &[0], &[1]]);
    for service in [2, 1, 0] {
        let _ = f.core.request(f.now, ServiceId(service), Kind::Start);
    }
    f.pump();
    f.says(&["db begins"]);
    assert!(f.core.is_starting());
    f.ready(0);
    f.says(&["db@1 serves", "3 upgraded", "api begins"]);
    f.ready(1);
    f.ready(2);
    f.says(&["api@1 serves", "2 upgraded", "web begins", "web@1 serves", "1 upgraded"]);
    assert!(!f.core.is_starting());
}

#[test]
fn who_is_asked_for_more_waits_for_its_start() {
    let mut f = Fleet::new(&[plain(), plain()], &[&[], &[0]]);
    let start = |f: &mut Fleet, service, kind| f.core.request(f.now, ServiceId(service), kind);
    let _ = start(&mut f, 0, Kind::Start);
    assert_eq!(start(&mut f, 1, Kind::Start), Ok(Admission::Queued(id(2))));
    assert_eq!(start(&mut f, 1, Kind::Reload), Ok(Admission::Queued(id(3))));
    assert_eq!(start(&mut f, 1, Kind::Reload), Ok(Admission::Joined(id(3))));
    f.pump();
    f.ready(0);
    f.ready(1);
    f.ready(1);
    let said = std::mem::take(&mut f.said);
    assert!(said.ends_with(&["3 upgraded".to_owned()]), "{said:?}");
}

#[test]
fn one_that_cannot_serve_is_not_waited_for() {
    let mut f = Fleet::new(&[Policy { give_up_after: 1, ..plain() }, plain()], &[&[], &[0]]);
    for service in [0, 1] {
        let _ = f.core.request(f.now, ServiceId(service), Kind::Start);
    }
    f.pump();
    f.dies(0);
    f.says(&["db begins", "1 failed: ended before it was ready: exit status 1", "api begins"]);
}

#[test]
fn one_that_cannot_start_does_not_end_those_that_serve() {
    let mut f = Fleet::new(&[plain(), plain(), plain()], &[&[], &[0], &[1]]);
    for service in [0, 1, 2] {
        let _ = f.core.request(f.now, ServiceId(service), Kind::Start);
    }
    f.pump();
    assert_eq!(f.core.request(f.now, ServiceId(1), Kind::Restart), Ok(Admission::Queued(id(4))));
    f.said.clear();
    f.unpinnable = vec![1];
    f.ready(0);
    // What was asked for meanwhile is done, and who comes after it does not wait for it.
    let refused = "4 refused: there is no release to restart: the service has never started";
    f.says(&["db@1 serves", "1 upgraded", "2 failed: no such file", refused, "web begins"]);
    assert!(f.core.services()[&ServiceId(1)].is_down() && !f.core.is_ending());
    f.unpinnable.clear();
    f.ready(2);
    let _ = f.core.request(f.now, ServiceId(1), Kind::Reload);
    f.pump();
    f.ready(1);
    assert!(!f.core.services()[&ServiceId(1)].is_down());
    f.says(&["web@1 serves", "3 upgraded", "api begins", "api@1 serves", "5 upgraded"]);
}

#[test]
fn where_none_can_start_it_is_over() {
    let mut f = Fleet::new(&[plain(), plain()], &[&[], &[]]);
    for service in [0, 1] {
        let _ = f.core.request(f.now, ServiceId(service), Kind::Start);
    }
    f.unpinnable = vec![0, 1];
    f.pump();
    f.says(&["1 failed: no such file", "2 failed: no such file", "NeverStarted"]);
}

/// Whoever waited for the first start waited for another shell.
#[test]
fn in_a_successor_none_that_cannot_start_ends_those_that_serve() {
    for poisoned in [false, true] {
        let mut f = Fleet::of(FirstFailure::Exit, &[plain(), plain()], &[&[], &[0]]);
        for service in [0, 1] {
            let _ = f.core.request(f.now, ServiceId(service), Kind::Start);
        }
        f.pump();
        // Its release is being resolved as the shell dies.
        f.core.handle(f.now, Event::Instance(f.latest(0), E::Ready));
        while let Some(action) = f.core.poll_action() {
            match action {
                Action::SetWeights { service, .. } => f.core.handle(f.now, Event::WeightsSet(service)),
                Action::Pin { .. } => break,
                _ => {}
            }
        }
        f.unpinnable = vec![1];
        if poisoned {
            f.core.give_up_poisoned(f.now, 2);
        } else {
            f.core.ask_again(f.now);
        }
        f.pump();
        assert!(f.core.services()[&ServiceId(1)].is_down(), "{:?}", f.said);
        assert!(!f.core.is_ending() && f.lineage(0) == 1, "{:?}", f.said);
    }
}

#[test]
fn a_first_start_does_not_wait_for_ever() {
    let mut f = Fleet::new(&[Policy { give_up_after: 0, ..plain() }, plain()], &[&[], &[0]]);
    for service in [0, 1] {
        let _ = f.core.request(f.now, ServiceId(service), Kind::Start);
    }
    f.pump();
    f.dies(0);
    f.says(&["db begins", "1 failed: ended before it was ready: exit status 1"]);
    f.pass(TURN_TIMEOUT);
    f.says(&["api begins"]);
}

#[test]
fn the_end_goes_the_other_way_round_and_serves_until_then() {
    let mut f = Fleet::serving(&[plain(), plain(), plain(), plain()], &[&[], &[0], &[1], &[]]);
    f.slow = vec![0, 1, 2];
    f.core.stop(f.now);
    f.pump();
    f.says(&["web@1 is told", "ads@1 is told"]);
    f.dies(0);
    f.pass(secs(1));
    f.ready(0);
    f.says(&[]);
    f.ends(2);
    f.says(&["api@1 is told"]);
    f.ends(1);
    f.ends(0);
    f.says(&["db@1 is told", "Stopped"]);
    assert_eq!(f.core.longest_end(), Duration::ZERO);
}

#[test]
fn a_second_request_to_stop_knows_no_order() {
    let mut f = Fleet::serving(&[plain(), plain()], &[&[], &[0]]);
    f.slow = vec![0, 1];
    f.core.stop(f.now);
    assert_eq!(f.core.longest_end(), secs(60));
    f.pump();
    f.core.kill(f.now);
    f.pump();
    f.says(&["api@1 is told", "db@1 is told", "Stopped"]);
}

#[test]
fn the_end_gives_up_what_is_in_flight_before_it_is_its_turn() {
    let mut f = Fleet::serving(&[plain(), plain()], &[&[], &[0]]);
    f.slow = vec![1];
    let _ = f.ask(&[0, 1], true);
    f.core.stop(f.now);
    f.pump();
    let aborted = |n| format!("{n} aborted: the service is being stopped");
    f.says(&["db begins", &aborted(4), "api@1 is told", "db@2 is told", &aborted(3)]);
    f.ends(1);
    f.says(&["db@1 is told", "Stopped"]);
}

/// Nobody can go back to it any more.
#[test]
fn what_stands_by_ends_as_soon_as_everything_does() {
    let hooks = Hooks { present: vec![Hook::AfterDrain], ..Hooks::default() };
    let mut f = Fleet::serving(&[Policy { hooks, ..blue_green() }, plain()], &[&[], &[0]]);
    f.slow = vec![1];
    let _ = f.ask(&[0], false);
    f.ready(0);
    f.said.clear();
    f.core.stop(f.now);
    f.pump();
    f.says(&["api@1 is told", "db@1 is told"]);
    f.ends(1);
    f.says(&["db@2 is told", "Stopped"]);
}

#[test]
fn a_circle_is_cut() {
    let mut f = Fleet::new(&[plain(), plain()], &[&[1], &[0]]);
    assert_eq!(f.core.in_order(), [ServiceId(1), ServiceId(0)]);
    f.core.stop(f.now);
    f.pump();
    f.says(&["Stopped"]);
}

// ---- one after the other ------------------------------------------------------------------------------------------

#[test]
fn each_begins_when_the_one_before_is_upgraded() {
    let mut f = Fleet::serving(&[plain(), plain(), plain()], &[]);
    f.slow = vec![0, 1, 2];
    assert_eq!(f.ask(&[1, 0], false), Ok(vec![Admission::Begun(id(4)), Admission::Queued(id(5))]));
    f.says(&["api begins"]);
    f.ready(1);
    f.says(&["api@2 serves", "api@1 is told", "4 upgraded", "db begins"]);
    f.ready(0);
    f.says(&["db@2 serves", "db@1 is told", "5 upgraded"]);
    assert!(!f.core.has_sequence());
}

#[test]
fn the_first_failure_ends_it() {
    let mut f = Fleet::serving(&[plain(), plain(), plain()], &[]);
    let _ = f.ask(&[0, 1, 2], false);
    f.ready(0);
    f.said.clear();
    f.dies(1);
    f.says(&["5 failed: ended before it was ready: exit status 1", "6 refused: not begun, since upgrade #5 failed"]);
    assert_eq!([0, 1, 2].map(|service| f.lineage(service)), [2, 1, 1]);
    assert!(!f.core.has_sequence());
}

#[test]
fn equal_requests_share_one_that_waits_and_none_that_has_begun() {
    let mut f = Fleet::serving(&[plain(), plain(), plain()], &[]);
    let _ = f.ask(&[0, 1], false);
    let waits = [Admission::Queued(id(6)), Admission::Queued(id(7))];
    assert_eq!(f.ask(&[0, 1], false), Ok(waits.to_vec()));
    assert_eq!(f.ask(&[0, 1], false), Ok([6, 7].map(|n| Admission::Joined(id(n))).to_vec()));
    for (services, atomic) in [(&[0, 1][..], true), (&[1, 0], false), (&[0, 2], false)] {
        assert!(f.ask(services, atomic).expect("there is room").iter().all(|it| matches!(it, Admission::Queued(_))));
    }
    assert_eq!(f.ask(&[1, 2], false), Err(Refusal::TooManyWait(4)));
}

#[test]
fn what_waits_can_be_aborted_and_ends_with_its_service() {
    for stop in [false, true] {
        let mut f = Fleet::serving(&[plain(), plain(), plain()], &[]);
        let _ = f.ask(&[0, 1, 2], false);
        f.said.clear();
        if stop {
            f.core.stop_service(f.now, ServiceId(1)).expect("it exists");
        } else {
            assert_eq!(f.core.abort(f.now, ServiceId(1)), Ok(id(5)));
        }
        f.pump();
        f.said.retain(|said| said.starts_with('5') || said.starts_with('6'));
        let why = if stop { "the service is being stopped" } else { "aborted by an operator" };
        f.says(&[&format!("5 aborted: {why}"), "6 refused: not begun, since upgrade #5 was aborted"]);
        f.ready(0);
        f.says(&["db@2 serves", "db@1 is told", "4 upgraded"]);
        assert!(!f.core.has_sequence());
    }
}

#[test]
fn what_somebody_else_asked_for_comes_first() {
    let mut f = Fleet::serving(&[plain(), plain()], &[]);
    let _ = f.core.request(f.now, ServiceId(0), Kind::Reload);
    assert_eq!(f.ask(&[0, 1], false), Ok(vec![Admission::Queued(id(4)), Admission::Queued(id(5))]));
    f.ready(0);
    f.ready(0);
    f.ready(1);
    f.said.retain(|said| said.ends_with("upgraded"));
    f.says(&["3 upgraded", "4 upgraded", "5 upgraded"]);
}

#[test]
fn one_of_a_sequence_is_shared_with_nobody() {
    let mut f = Fleet::serving(&[plain(), plain()], &[]);
    let _ = f.core.request(f.now, ServiceId(0), Kind::Reload);
    let _ = f.ask(&[0, 1], true);
    assert_eq!(f.core.request(f.now, ServiceId(0), Kind::Reload), Ok(Admission::Queued(id(6))));
    assert_eq!(f.core.request(f.now, ServiceId(0), Kind::Reload), Ok(Admission::Joined(id(6))));
}

// ---- all or none --------------------------------------------------------------------------------------------------

#[test]
fn those_upgraded_are_taken_back_the_latest_first() {
    let mut f = Fleet::serving(&[plain(), plain(), plain(), plain()], &[]);
    let _ = f.ask(&[0, 1, 2, 3], true);
    f.ready(0);
    f.ready(1);
    f.said.clear();
    f.dies(2);
    f.says(&[
        "7 failed: ended before it was ready: exit status 1",
        "8 refused: not begun, since upgrade #7 failed",
        "api takes 6 back",
        "db takes 5 back",
        "api begins",
    ]);
    f.ready(1);
    f.says(&["api@3 serves", "api@2 is told", "9 upgraded", "db begins"]);
    f.ready(0);
    f.says(&["db@3 serves", "db@2 is told", "10 upgraded"]);
    assert_eq!([0, 1, 2, 3].map(|service| f.lineage(service)), [1; 4]);
    assert!(!f.core.has_sequence());
}

#[test]
fn one_that_cannot_be_taken_back_does_not_keep_the_others() {
    let mut f = Fleet::serving(&[plain(), plain(), plain()], &[]);
    let _ = f.ask(&[0, 1, 2], true);
    f.ready(0);
    f.ready(1);
    f.dies(2);
    f.dies(1);
    f.ready(0);
    assert_eq!([0, 1, 2].map(|service| f.lineage(service)), [1, 2, 1]);
    assert!(!f.core.has_sequence());
}

#[test]
fn what_is_to_be_taken_back_is_kept_even_where_the_config_keeps_none() {
    let mut f = Fleet::serving(&[policy(), policy()], &[]);
    let _ = f.ask(&[0, 1], true);
    f.ready(0);
    f.dies(1);
    f.ready(0);
    assert_eq!([0, 1].map(|service| f.lineage(service)), [1, 1]);
}

#[test]
fn what_was_asked_for_meanwhile_is_left_as_it_is() {
    let mut f = Fleet::serving(&[plain(), plain()], &[]);
    let _ = f.ask(&[0, 1], true);
    f.ready(0);
    let _ = f.core.request(f.now, ServiceId(0), Kind::Reload);
    f.pump();
    f.said.clear();
    f.dies(1);
    let moved_on = "6 refused: another upgrade of it was asked for meanwhile: it is left as it is";
    f.says(&["4 failed: ended before it was ready: exit status 1", "db takes 3 back", moved_on]);
}

#[test]
fn blue_and_green_are_switched_once_all_are_ready() {
    let mut f = Fleet::serving(&[blue_green(), Policy { soak: secs(5), ..blue_green() }], &[]);
    let _ = f.ask(&[0, 1], true);
    f.ready(0);
    f.says(&["db begins", "db@2 is held", "api begins"]);
    f.ready(1);
    f.says(&[]);
    f.pass(secs(5));
    f.says(&["api@2 is held", "db@2 serves", "3 upgraded", "api@2 serves", "4 upgraded"]);
}

#[test]
fn where_one_fails_nothing_was_switched() {
    let mut f = Fleet::serving(&[blue_green(), blue_green(), blue_green()], &[]);
    let _ = f.ask(&[0, 1, 2], true);
    f.ready(0);
    f.said.clear();
    f.dies(1);
    f.says(&[
        "5 failed: ended before it was ready: exit status 1",
        "db@2 is told",
        "4 aborted: upgrade #5 failed, and all of them were to succeed or none",
        "6 refused: not begun, since upgrade #5 failed",
    ]);
    let service = &f.core.services()[&ServiceId(0)];
    assert_eq!(service.generations.values().map(|one| one.role).collect::<Vec<_>>(), [Role::Serving]);
}

#[test]
fn a_failure_of_what_is_held_ends_it_for_all() {
    let mut f = Fleet::serving(&[blue_green(), blue_green()], &[]);
    let _ = f.ask(&[0, 1], true);
    f.ready(0);
    f.said.clear();
    f.dies(0);
    f.says(&[
        "3 rolled-back: ended while it waited for the others to be switched with it: exit status 1",
        "api@2 is told",
        "4 aborted: upgrade #3 was rolled back, and all of them were to succeed or none",
    ]);
    assert!(!f.core.has_sequence());
}

#[test]
fn where_the_switch_has_begun_what_is_switched_goes_back_to_what_stands_by() {
    let mut f = Fleet::serving(&[blue_green(), blue_green()], &[]);
    let _ = f.ask(&[0, 1], true);
    f.ready(0);
    // The second one dies at the very moment of its switch.
    let second = f.latest(1);
    f.core.handle(f.now, Event::Instance(second, E::Ready));
    let mut late = vec![];
    while let Some(action) = f.core.poll_action() {
        late.push(action);
    }
    let weights = |id: u32| Action::SetWeights {
        service: ServiceId(id),
        weights: vec![(Generation(1), 0), (Generation(2), 100)],
    };
    assert!([0, 1].map(weights).iter().all(|action| late.contains(action)), "{late:?}");
    f.handle(Event::WeightsSet(ServiceId(0)));
    f.said.clear();
    f.dies(1);
    f.handle(Event::WeightsSet(ServiceId(1)));
    f.says(&[
        "4 rolled-back: ended while it was being switched to: exit status 1",
        "db takes 3 back",
        "db switches back to 1",
        "db@1 serves",
        "db@2 is told",
        "5 upgraded",
    ]);
    assert_eq!([0, 1].map(|service| f.lineage(service)), [1, 1]);
}

#[test]
fn while_nothing_serves_nothing_is_held() {
    let mut f = Fleet::serving(&[blue_green(), blue_green()], &[]);
    let _ = f.ask(&[0, 1], true);
    f.ready(0);
    f.said.clear();
    let serving = InstanceId { service: ServiceId(0), generation: Generation(1), number: 1 };
    f.on(serving, E::Exited(Exit::Code(1)));
    assert!(f.said.contains(&"db@2 serves".to_owned()), "{:?}", f.said);
}

#[test]
fn nobody_is_held_for_ever() {
    let mut f = Fleet::serving(&[blue_green(), blue_green()], &[]);
    let _ = f.ask(&[0, 1], true);
    f.ready(0);
    f.said.clear();
    let other = f.latest(1);
    f.on(other, E::Extend(HOLD_TIMEOUT));
    f.pass(HOLD_TIMEOUT);
    assert!(
        f.said.contains(&"3 rolled-back: the others were not ready to be switched in 24 h".to_owned()),
        "{:?}",
        f.said
    );
}

/// What makes room for the next is over at the same time.
#[test]
fn none_begins_once_one_before_it_was_held_for_too_long() {
    let canary = Strategy::Canary { steps: vec![CanaryStep { weight: 5, hold: secs(0) }], manual: true };
    let mut f = Fleet::serving(&[blue_green(), Policy { strategy: canary, ..plain() }], &[]);
    let _ = f.ask(&[1], false);
    f.ready(1);
    let _ = f.ask(&[0, 1], true);
    f.ready(0);
    f.said.clear();
    f.pass(HOLD_TIMEOUT);
    f.says(&[
        "db@2 is told",
        "4 rolled-back: the others were not ready to be switched in 24 h",
        "5 refused: not begun, since upgrade #4 was rolled back",
        "api@2 is told",
        "3 rolled-back: nobody promoted it in 24 h",
    ]);
}

// ---- what the config has gained and lost --------------------------------------------------------------------------

#[test]
fn what_is_gained_starts_in_its_turn_and_what_is_lost_leaves_at_the_end() {
    let mut f = Fleet::serving(&[plain(), plain()], &[&[], &[0]]);
    f.slow = vec![0, 1];
    f.policies.push(plain());
    let gained = f.core.gain_service(Generation(7));
    assert_eq!(gained, ServiceId(2));
    let _ = f.ask_and_lose(&[2], false, &[0, 1]);
    f.says(&["web begins"]);
    f.ready(2);
    f.says(&[
        "web@7 serves",
        "3 upgraded",
        "db leaves: the config does not have it any more",
        "api leaves: the config does not have it any more",
        "api@1 is told",
    ]);
    assert_eq!(f.core.request(f.now, ServiceId(0), Kind::Reload), Err(Refusal::Stopping));
    f.ends(1);
    f.says(&["db@1 is told", "api is removed"]);
    f.ends(0);
    f.says(&["db is removed"]);
    assert_eq!(f.core.services().keys().copied().collect::<Vec<_>>(), [ServiceId(2)]);
    assert_eq!(f.core.gain_service(Generation(1)), ServiceId(3), "no number is used twice");
}

#[test]
fn what_the_config_has_again_by_then_stays() {
    let mut f = Fleet::serving(&[plain(), plain(), plain()], &[]);
    f.slow = vec![2];
    let _ = f.ask_and_lose(&[0], false, &[1, 2]);
    f.core.keep(&[ServiceId(0), ServiceId(1)]);
    assert!(f.ask_and_lose(&[0, 1], false, &[2]).is_ok());
    f.ready(0);
    assert!(!f.core.is_leaving(ServiceId(1)) && f.core.is_leaving(ServiceId(2)));
    f.ready(0);
    f.ready(1);
    assert_eq!([0, 1].map(|service| f.lineage(service)), [3, 2]);
}

#[test]
fn what_is_gained_and_does_not_start_is_removed_and_what_is_lost_stays() {
    let mut f = Fleet::serving(&[plain()], &[]);
    f.policies.push(plain());
    f.core.gain_service(Generation(1));
    let _ = f.ask_and_lose(&[1], false, &[0]);
    f.said.clear();
    f.dies(1);
    f.says(&[
        "2 failed: ended before it was ready: exit status 1",
        "api leaves: it is new, and has never served",
        "api is removed",
    ]);
    assert_eq!(f.lineage(0), 1);
}

#[test]
fn what_is_gained_and_taken_back_is_removed() {
    let mut f = Fleet::serving(&[plain()], &[]);
    f.policies.push(plain());
    f.core.gain_service(Generation(1));
    let _ = f.ask(&[1, 0], true);
    f.ready(1);
    f.said.clear();
    f.dies(0);
    f.says(&[
        "3 failed: ended before it was ready: exit status 1",
        "api takes 2 back",
        "api@1 is told",
        "api leaves: it is new, and has never served",
        "api is removed",
    ]);
}

#[test]
fn what_was_stopped_and_is_taken_back_is_stopped_again() {
    let mut f = Fleet::serving(&[plain(), plain()], &[]);
    f.core.stop_service(f.now, ServiceId(0)).expect("it exists");
    f.pump();
    let _ = f.ask(&[0, 1], true);
    f.ready(0);
    f.dies(1);
    assert_eq!(f.core.services()[&ServiceId(0)].purpose, Purpose::Stopped);
}

/// It is the last one, and on its way out only because of a sequence before.
#[test]
fn one_that_is_being_stopped_fails_those_that_it_is_upgraded_with() {
    let mut f = Fleet::serving(&[plain(), plain()], &[]);
    f.core.stop_service(f.now, ServiceId(0)).expect("it exists");
    f.pump();
    f.slow = vec![0];
    let _ = f.ask(&[0, 1], true);
    let _ = f.ask(&[1, 0], true);
    f.ready(0);
    f.said.clear();
    f.dies(1);
    f.says(&["4 failed: ended before it was ready: exit status 1", "db takes 3 back", "db@2 is told", "api begins"]);
    f.ready(1);
    f.says(&[
        "api@3 serves",
        "api@1 is told",
        "5 upgraded",
        "6 refused: the service is being stopped",
        "api takes 5 back",
        "api begins",
    ]);
}
