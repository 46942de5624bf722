//! Scenes of each strategy: how traffic and instances move from one generation to the next, and back.

use super::super::event::Moment;
use super::super::policy::PROMOTE_TIMEOUT;
use super::super::service::{Phase, Role};
use super::upgrade::Bench;
use super::*;
use InstanceEvent as E;

fn rolling(instances: u32, max_surge: u32, max_unavailable: u32) -> Policy {
    Policy { instances, strategy: Strategy::Rolling { max_surge, max_unavailable }, ..policy() }
}

fn canary(steps: &[(u32, u64)], manual: bool) -> Policy {
    let step = |&(weight, hold): &(u32, u64)| CanaryStep { weight, hold: secs(hold) };
    Policy { strategy: Strategy::Canary { steps: steps.iter().map(step).collect(), manual }, ..policy() }
}

fn blue_green(standby: u64) -> Policy {
    Policy { strategy: Strategy::BlueGreen { standby: secs(standby) }, keep_releases: 5, ..policy() }
}

/// A service of several instances whose first generation serves.
fn serving(policy: Policy) -> Bench {
    let instances = policy.instances;
    let mut b = Bench::new(policy, FirstFailure::Exit);
    let _ = b.request(Kind::Start);
    b.pinned(1);
    for number in 1..=instances {
        b.ready(1, number);
    }
    b.weights_set();
    b.actions();
    b
}

/// The same with an upgrade to the second one in flight, whose release is resolved.
fn upgrading(policy: Policy) -> Bench {
    let mut b = serving(policy);
    let _ = b.request(Kind::Reload);
    b.pinned(2);
    b
}

impl Bench {
    fn ready(&mut self, generation: u64, number: u32) {
        self.spawn(generation, number);
        self.on(generation, number, E::Ready);
    }

    fn role(&self, generation: u64) -> Option<Role> {
        let service = &self.core.services()[&self.service];
        service.generations.get(&Generation(generation)).map(|generation| generation.role)
    }

    fn routes(&self) -> Vec<(u64, u32, Vec<u32>)> {
        let routes = self.core.services()[&self.service].routes();
        let slots = |slots: Vec<Slot>| slots.into_iter().map(|slot| slot.0).collect();
        routes.into_iter().map(|route| (route.generation.0, route.percent, slots(route.slots))).collect()
    }
}

// ---- all at once ------------------------------------------------------------------------------------------------

fn spread() -> Policy {
    Policy { instances: 3, drain_spread: secs(30), ..policy() }
}

/// The second generation has replaced the first.
fn replaced(policy: Policy) -> Bench {
    let instances = policy.instances;
    let mut b = upgrading(policy);
    for number in 1..=instances {
        b.ready(2, number);
    }
    b.weights_set();
    b.actions();
    b
}

#[test]
fn a_spread_tells_one_after_the_other() {
    let mut b = upgrading(spread());
    for number in 1..=3 {
        b.ready(2, number);
    }
    b.actions();
    b.weights_set();
    b.wants(&["stop 1.1"]);
    b.told(1, 1);
    b.wants(&[]);
    b.pass(secs(10));
    b.wants(&["stop 1.2"]);
    b.told(1, 2);
    b.pass(secs(10));
    b.wants(&["stop 1.3"]);
    b.told(1, 3);
    b.wants(&["upgraded 2"]);
}

#[test]
fn one_that_ends_by_itself_is_not_waited_for() {
    let mut b = replaced(spread());
    b.told(1, 1);
    b.ends(1, 2, Exit::Code(0));
    b.pass(secs(20));
    b.wants(&["sweep 1.2", "stop 1.3"]);
    b.told(1, 3);
    b.wants(&["upgraded 2"]);
}

#[test]
fn a_stop_spreads_nothing() {
    let mut b = replaced(spread());
    b.told(1, 1);
    b.core.stop(b.now);
    b.wants(&["stop 1.2", "stop 1.3", "stop 2.1", "stop 2.2", "stop 2.3"]);
    let mut b = serving(spread());
    b.core.stop(b.now);
    b.wants(&["stop 1.1", "stop 1.2", "stop 1.3"]);
}

// ---- rolling ------------------------------------------------------------------------------------------------------

#[test]
fn instances_are_replaced_one_at_a_time() {
    let mut b = upgrading(rolling(3, 1, 0));
    b.wants(&["pin 2 reload", "prepare 2.1 r2"]);
    assert_eq!(b.routes(), [(1, 100, vec![0, 1, 2])]);
    b.ready(2, 1);
    b.wants(&["launch 2.1", "stop 1.3", "prepare 2.2 r2"]);
    assert_eq!(b.routes(), [(1, 100, vec![0, 1, 3])], "each has the same share");
    assert_eq!(b.core.services()[&b.service].weights(), [(Generation(1), 67), (Generation(2), 33)]);
    b.ready(2, 2);
    b.wants(&["launch 2.2", "stop 1.2", "prepare 2.3 r2"]);
    b.ready(2, 3);
    b.wants(&["launch 2.3", "stop 1.1", "weights 1=0 2=100"]);
    b.weights_set();
    assert_eq!(b.role(2), Some(Role::Serving));
    for number in 1..=3 {
        b.told(1, number);
    }
    b.wants(&["upgraded 2"]);
}

#[test]
fn some_may_be_missing_where_none_may_be_more() {
    let mut b = upgrading(rolling(4, 0, 2));
    b.wants(&["pin 2 reload", "stop 1.4", "stop 1.3", "prepare 2.1 r2", "prepare 2.2 r2"]);
    b.ready(2, 1);
    b.wants(&["launch 2.1"]);
    b.ready(2, 2);
    b.wants(&["launch 2.2", "stop 1.2", "stop 1.1", "prepare 2.3 r2", "prepare 2.4 r2"]);
}

#[test]
fn each_batch_has_its_soak_and_takes_no_part_before() {
    let mut b = upgrading(Policy { soak: secs(5), ..rolling(2, 1, 0) });
    b.ready(2, 1);
    b.wants(&["pin 2 reload", "prepare 2.1 r2", "launch 2.1"]);
    assert_eq!(b.routes(), [(1, 100, vec![0, 1])], "it has not soaked");
    b.pass(secs(5));
    b.wants(&["stop 1.2", "prepare 2.2 r2"]);
    assert_eq!(b.routes(), [(1, 100, vec![0, 2])]);
}

#[test]
fn a_bad_first_batch_touches_nothing() {
    let mut b = upgrading(rolling(3, 1, 0));
    b.spawn(2, 1);
    b.actions();
    b.ends(2, 1, Exit::Code(1));
    b.wants(&["weights 1=100 2=0", "failed 2: ended before it was ready: exit status 1", "sweep 2.1", "discard r2"]);
}

#[test]
fn a_bad_later_batch_brings_back_what_was_replaced_before_it_goes() {
    let mut b = upgrading(rolling(2, 1, 0));
    b.ready(2, 1);
    b.actions();
    b.spawn(2, 2);
    b.ends(2, 2, Exit::Code(1));
    b.wants(&["launch 2.2", "prepare 1.3 r1", "sweep 2.2"]);
    assert_eq!(b.role(2), Some(Role::Retreating));
    assert_eq!(b.routes(), [(1, 100, vec![0, 2])], "the good one of the two helps until then");
    assert_eq!(b.core.abort(b.now, b.service), Err(Refusal::Returning));
    b.ready(1, 3);
    b.wants(&[
        "launch 1.3",
        "stop 2.1",
        "weights 1=100 2=0",
        "rolled-back 2: ended before it was ready: exit status 1",
    ]);
    assert_eq!(b.role(2), Some(Role::Ending));
}

#[test]
fn a_verdict_does_not_wait_for_ever_for_what_comes_back() {
    let mut b = upgrading(rolling(2, 1, 0));
    b.ready(2, 1);
    let _ = b.core.abort(b.now, b.service);
    b.actions();
    b.pass(secs(60));
    assert!(b.actions().iter().any(|action| action.starts_with("aborted 2")));
    assert_eq!(b.role(2), Some(Role::Retreating), "what helps goes on helping");
}

/// Nothing of the candidate is left that it would take the place of.
#[test]
fn what_comes_back_does_not_wait_for_another_that_crashes() {
    let mut b = upgrading(rolling(2, 0, 1));
    b.wants(&["pin 2 reload", "stop 1.2", "prepare 2.1 r2"]);
    b.ends(1, 1, Exit::Code(1));
    b.wants(&["sweep 1.1"]);
    let _ = b.core.abort(b.now, b.service);
    b.wants(&["kill 2.1", "prepare 1.3 r1"]);
}

/// Its candidate has replaced nothing, so that nothing has to come back for it.
#[test]
fn an_upgrade_that_fails_does_not_wait_for_what_comes_back_after_another() {
    let mut b = upgrading(rolling(3, 1, 0));
    b.ready(2, 1);
    b.ready(2, 2);
    let _ = b.core.abort(b.now, b.service);
    b.pass(secs(120));
    assert_eq!(b.role(2), Some(Role::Retreating), "what helps goes on helping");
    b.policy.strategy = Strategy::Overlap;
    let _ = b.request(Kind::Reload);
    b.pinned(3);
    b.actions();
    b.on(3, 1, E::PrepareFailed("no memory".into()));
    let actions = b.actions();
    assert!(actions.iter().any(|action| action.starts_with("failed 3")), "{actions:?}");
    assert_eq!((b.role(2), b.role(3)), (Some(Role::Retreating), Some(Role::Ending)));
}

/// What still helps since an upgrade that failed ends with the next one that does not.
#[test]
fn nothing_comes_back_while_another_has_taken_its_part_over() {
    let mut b = upgrading(rolling(2, 1, 0));
    b.ready(2, 1);
    let _ = b.core.abort(b.now, b.service);
    b.pass(secs(60));
    assert_eq!(b.role(2), Some(Role::Retreating), "what helps goes on helping");
    let _ = b.request(Kind::Reload);
    b.pinned(3);
    b.ready(3, 1);
    b.ready(3, 2);
    assert_eq!(b.role(3), Some(Role::Switching));
    b.actions();
    b.ends(1, 1, Exit::Code(0));
    b.wants(&["sweep 1.1"]);
    b.weights_set();
    b.weights_set();
    b.wants(&["stop 2.1", "upgraded 3"]);
}

#[test]
fn an_abort_of_stop_start_waits_for_the_candidate_to_be_gone() {
    let mut b = upgrading(Policy { strategy: Strategy::StopStart, ..policy() });
    b.wants(&["pin 2 reload", "stop 1.1"]);
    assert_eq!(b.routes(), [(1, 100, vec![0])], "callers wait there");
    b.told(1, 1);
    b.ends(1, 1, Exit::Code(0));
    b.wants(&["sweep 1.1", "prepare 2.1 r2"]);
    b.spawn(2, 1);
    let _ = b.core.abort(b.now, b.service);
    b.wants(&["launch 2.1", "stop 2.1"]);
    b.ends(2, 1, Exit::Code(0));
    b.wants(&["sweep 2.1", "prepare 1.2 r1"]);
    b.ready(1, 2);
    b.wants(&["launch 1.2", "weights 1=100 2=0", "aborted 2: aborted by an operator", "discard r2"]);
}

#[test]
fn stop_start_goes_on_in_the_same_slot() {
    let mut b = upgrading(Policy { strategy: Strategy::StopStart, ..policy() });
    b.ends(1, 1, Exit::Code(0));
    b.ready(2, 1);
    b.weights_set();
    assert_eq!(b.routes(), [(2, 100, vec![0])], "whoever waits in its queue is answered");
    assert!(b.actions().contains(&"upgraded 2".to_owned()));
}

/// Whatever the one before was, and in whichever slots.
#[test]
fn stop_start_goes_on_where_callers_wait() {
    let mut b = replaced(Policy { instances: 2, ..policy() });
    b.actions();
    for number in 1..=2 {
        b.told(1, number);
        b.ends(1, number, Exit::Code(0));
    }
    b.policy.strategy = Strategy::StopStart;
    let _ = b.request(Kind::Reload);
    b.pinned(3);
    assert_eq!(b.routes(), [(2, 100, vec![2, 3])], "callers wait there");
    for number in 1..=2 {
        b.told(2, number);
        b.ends(2, number, Exit::Code(0));
    }
    b.ready(3, 1);
    b.ready(3, 2);
    b.weights_set();
    assert_eq!(b.routes(), [(3, 100, vec![2, 3])], "whoever waits in their queues is answered");
}

// ---- canary -------------------------------------------------------------------------------------------------------

#[test]
fn a_canary_grows_step_by_step() {
    let mut b = upgrading(canary(&[(5, 30), (50, 60)], false));
    b.ready(2, 1);
    b.wants(&["pin 2 reload", "prepare 2.1 r2", "launch 2.1", "weights 1=95 2=5"]);
    assert_eq!(b.routes(), [(1, 95, vec![0]), (2, 5, vec![1])]);
    b.weights_set();
    b.wants(&[]);
    assert_eq!(*b.last_step(), Step::Weighted { generation: Generation(2), weight: 5, hold: Some(secs(30)) });
    b.pass(secs(30));
    b.wants(&["weights 1=50 2=50"]);
    b.weights_set();
    b.pass(secs(60));
    b.wants(&["weights 1=0 2=100"]);
    b.weights_set();
    b.told(1, 1);
    b.wants(&["stop 1.1", "upgraded 2"]);
}

#[test]
fn a_manual_canary_waits_for_its_promotion() {
    let mut b = upgrading(canary(&[(5, 0), (50, 0)], true));
    assert_eq!(b.core.promote(b.now, b.service, false), Err(Refusal::NothingToPromote));
    b.ready(2, 1);
    b.weights_set();
    b.pass(secs(3600));
    assert_eq!(b.core.promote(b.now, b.service, false), Ok(UpgradeId(2)));
    assert_eq!(b.core.promote(b.now, b.service, false), Err(Refusal::NothingToPromote), "its share is being set");
    b.weights_set();
    b.actions();
    assert_eq!(b.core.promote(b.now, b.service, true), Ok(UpgradeId(2)));
    b.wants(&["weights 1=0 2=100"]);

    let mut b = upgrading(canary(&[(5, 0)], true));
    b.ready(2, 1);
    b.weights_set();
    b.actions();
    b.pass(PROMOTE_TIMEOUT);
    b.wants(&["stop 2.1", "weights 1=100 2=0", "rolled-back 2: nobody promoted it in 24 h"]);
}

#[test]
fn whatever_is_wrong_with_a_canary_brings_all_traffic_back() {
    type Fault = (&'static str, fn(&mut Bench));
    let faults: [Fault; 5] = [
        ("ended while it had 5 % of new connections: exit status 1", |b| b.ends(2, 1, Exit::Code(1))),
        ("its health checks failed: 500", |b| b.on(2, 1, E::Unhealthy("500".into()))),
        ("said STOPPING=1 while it had 5 % of new connections", |b| b.on(2, 1, E::Stopping)),
        ("3 of 100 requests failed", |b| {
            let reason = "3 of 100 requests failed".to_owned();
            b.handle(Event::Condemned { upgrade: UpgradeId(2), reason });
        }),
        ("said WATCHDOG=trigger", |b| b.on(2, 1, E::WatchdogTrigger)),
    ];
    for (reason, fault) in faults {
        let mut b = serving(canary(&[(5, 30)], false));
        let _ = b.request(Kind::Reload);
        b.pinned(2);
        b.ready(2, 1);
        b.weights_set();
        b.actions();
        fault(&mut b);
        let actions = b.actions();
        assert!(actions.contains(&"weights 1=100 2=0".to_owned()), "{actions:?}");
        let verdict = format!("rolled-back 2: {reason}");
        assert!(actions.iter().any(|action| action.starts_with(&verdict)), "{actions:?}");
    }
}

#[test]
fn a_canary_takes_over_when_nothing_else_serves() {
    let mut b = upgrading(canary(&[(5, 30)], true));
    b.ready(2, 1);
    b.weights_set();
    b.actions();
    b.on(1, 1, E::Exited(Exit::Code(1)));
    assert!(b.actions().contains(&"weights 1=0 2=100".to_owned()));
}

#[test]
fn what_a_process_was_in_the_middle_of_as_it_ended_is_said() {
    let verdict = |mut b: Bench, number: u32| {
        b.actions();
        b.ends(2, number, Exit::Code(1));
        b.actions().into_iter().find(|action| action.contains(" 2: ")).expect("a verdict")
    };
    let mut b = upgrading(Policy { instances: 2, ..policy() });
    b.ready(2, 1);
    assert_eq!(verdict(b, 1), "failed 2: ended before all of its instances were ready: exit status 1");
    let mut b = hooked();
    b.hook(2, Hook::BeforeStart, Ok(()));
    b.ready(2, 1);
    assert_eq!(verdict(b, 1), "failed 2: ended while the after-ready hook ran: exit status 1");
    let mut b = upgrading(Policy { soak: secs(5), ..canary(&[(5, 30), (50, 60)], false) });
    b.ready(2, 1);
    b.pass(secs(5));
    b.weights_set();
    b.pass(secs(30));
    assert_eq!(verdict(b, 1), "rolled-back 2: ended while it had 50 % of new connections: exit status 1");

    // One that takes part, and one that is still to: in its soak, then with the others of its batch.
    let mut b = upgrading(Policy { soak: secs(5), ..rolling(2, 1, 0) });
    b.ready(2, 1);
    b.pass(secs(5));
    b.ends(1, 2, Exit::Code(0));
    b.ready(2, 2);
    b.ends(2, 1, Exit::Code(1));
    b.actions();
    let reason = Reason::ExitedAt { moment: Moment::Part, exit: Exit::Code(1) };
    assert_eq!(reason.to_string(), "ended while it replaced what serves: exit status 1");
    assert_eq!(*b.last_step(), Step::Returning { generation: Generation(1), reason });
    let mut b = upgrading(Policy { soak: secs(5), ..rolling(3, 2, 0) });
    b.ready(2, 1);
    b.ready(2, 2);
    assert_eq!(verdict(b, 1), "rolled-back 2: ended during its soak: exit status 1");
    let mut b = upgrading(rolling(3, 2, 0));
    b.ready(2, 1);
    assert_eq!(verdict(b, 1), "failed 2: ended before all of its instances were ready: exit status 1");
}

#[test]
fn what_stands_by_neither_serves_nor_soaks_as_it_ends() {
    let retried = |b: &Bench| match b.last_step() {
        Step::Retrying { reason, .. } => reason.to_string(),
        other => panic!("{other:?}"),
    };
    let mut b = switched();
    b.on(1, 1, E::Exited(Exit::Code(1)));
    b.actions();
    assert_eq!(retried(&b), "ended while it stood by: exit status 1");
    let mut b = switched();
    let _ = b.core.rollback(b.now, b.service, None);
    b.actions();
    b.on(1, 1, E::Exited(Exit::Code(1)));
    let reason = "ended while it was being switched to: exit status 1";
    assert!(b.actions().contains(&format!("rolled-back 3: {reason}")));
    assert_eq!(retried(&b), reason);
}

// ---- blue-green, and going back -----------------------------------------------------------------------------------

/// The second generation serves, the first stands by.
fn switched() -> Bench {
    let mut b = upgrading(blue_green(600));
    b.ready(2, 1);
    b.weights_set();
    b.wants(&["pin 2 reload", "prepare 2.1 r2", "launch 2.1", "weights 1=0 2=100", "upgraded 2"]);
    assert!(matches!(b.role(1), Some(Role::Standby { .. })));
    b
}

#[test]
fn the_old_generation_stands_by_for_its_time() {
    let mut b = switched();
    b.pass(secs(600));
    b.wants(&["stop 1.1"]);
    assert_eq!(b.role(1), Some(Role::Draining));
    b.ends(1, 1, Exit::Code(0));
    b.wants(&["sweep 1.1"]);
}

#[test]
fn a_rollback_to_the_standby_is_one_switch() {
    let mut b = switched();
    assert_eq!(b.core.rollback(b.now, b.service, None), Ok(Admission::Begun(UpgradeId(3))));
    b.wants(&["weights 1=100 2=0"]);
    b.weights_set();
    b.told(2, 1);
    b.wants(&["stop 2.1", "upgraded 3"]);
    assert_eq!((b.role(1), b.role(2)), (Some(Role::Serving), Some(Role::Draining)));
    assert_eq!(b.core.rollback(b.now, b.service, Some(Generation(1))), Err(Refusal::Serves(Generation(1))));
}

#[test]
fn a_switch_back_that_fails_leaves_it_standing_by() {
    let mut b = switched();
    let _ = b.core.rollback(b.now, b.service, None);
    b.actions();
    assert_eq!(b.core.abort(b.now, b.service), Ok(UpgradeId(3)));
    b.wants(&["weights 1=0 2=100", "aborted 3: aborted by an operator"]);
    assert!(matches!(b.role(1), Some(Role::Standby { .. })));
}

/// What was scaled meanwhile stays so.
#[test]
fn a_standby_has_as_many_instances_as_are_wanted_by_now() {
    let mut b = switched();
    assert_eq!(b.core.scale(b.now, b.service, 3), Ok(Generation(2)));
    b.ready(2, 2);
    b.ready(2, 3);
    b.actions();
    let _ = b.core.rollback(b.now, b.service, None);
    b.weights_set();
    let wanted = b.actions();
    for action in ["prepare 1.2 r1", "prepare 1.3 r1"] {
        assert!(wanted.contains(&action.to_owned()), "{wanted:?}");
    }
    assert_eq!(b.core.services()[&b.service].desired(), 3);
    b.ready(1, 2);
    assert_eq!(
        b.routes().iter().map(|(generation, share, slots)| (*generation, *share, slots.len())).next(),
        Some((1, 100, 2))
    );
}

#[test]
fn the_next_upgrade_ends_what_stands_by() {
    let mut b = switched();
    let _ = b.request(Kind::Reload);
    b.pinned(3);
    b.ready(3, 1);
    b.weights_set();
    b.wants(&["pin 3 reload", "prepare 3.1 r3", "launch 3.1", "weights 1=0 2=0 3=100", "stop 1.1", "upgraded 3"]);
    assert!(matches!(b.role(2), Some(Role::Standby { .. })));
}

#[test]
fn a_standby_that_dies_is_started_again_and_is_none_meanwhile() {
    let mut b = switched();
    b.ends(1, 1, Exit::Code(1));
    b.wants(&["sweep 1.1"]);
    assert_eq!(b.core.rollback(b.now, b.service, None), Ok(Admission::Begun(UpgradeId(3))));
    b.wants(&["pin 3 rollback r1"]);
}

#[test]
fn a_rollback_without_standby_starts_the_kept_release() {
    let mut b = upgrading(Policy { keep_releases: 2, ..policy() });
    b.ready(2, 1);
    b.weights_set();
    b.told(1, 1);
    b.ends(1, 1, Exit::Code(0));
    b.actions();
    assert_eq!(b.core.rollback(b.now, b.service, Some(Generation(7))), Err(Refusal::NotKept(Some(Generation(7)))));
    assert_eq!(b.core.rollback(b.now, b.service, None), Ok(Admission::Begun(UpgradeId(3))));
    b.wants(&["pin 3 rollback r1"]);
    b.pinned_as(3, 1);
    b.ready(3, 1);
    b.weights_set();
    b.told(2, 1);
    b.ends(2, 1, Exit::Code(0));
    b.wants(&["prepare 3.1 r1", "launch 3.1", "weights 2=0 3=100", "stop 2.1", "upgraded 3", "sweep 2.1"]);
    // The one before is now the other one.
    assert_eq!(b.core.rollback(b.now, b.service, None), Ok(Admission::Begun(UpgradeId(4))));
    b.wants(&["pin 4 rollback r2"]);
}

/// The second generation serves, the release of the first is kept.
fn kept() -> Bench {
    let mut b = upgrading(Policy { keep_releases: 5, ..policy() });
    b.ready(2, 1);
    b.weights_set();
    b.told(1, 1);
    b.ends(1, 1, Exit::Code(0));
    b.actions();
    b
}

#[test]
fn a_rollback_that_waits_goes_no_further_back_than_to_what_served() {
    for to in [None, Some(Generation(2))] {
        let mut b = kept();
        let _ = b.request(Kind::Reload);
        b.pinned(3);
        b.actions();
        assert_eq!(b.core.rollback(b.now, b.service, to), Ok(Admission::Queued(UpgradeId(4))));
        assert_eq!(b.core.abort(b.now, b.service), Ok(UpgradeId(3)));
        b.wants(&["kill 3.1", "aborted 3: aborted by an operator", "refused 4: generation 2 serves already"]);
    }
    for to in [None, Some(Generation(2))] {
        let mut b = kept();
        let _ = b.request(Kind::Reload);
        b.pinned(3);
        assert_eq!(b.core.rollback(b.now, b.service, to), Ok(Admission::Queued(UpgradeId(4))));
        b.ready(3, 1);
        b.weights_set();
        b.actions();
        b.told(2, 1);
        b.wants(&["upgraded 3", "pin 4 rollback r2"]);
    }
}

#[test]
fn a_rollback_during_another_does_not_go_forth_again() {
    let mut b = kept();
    let _ = b.core.rollback(b.now, b.service, None);
    assert_eq!(b.core.rollback(b.now, b.service, None), Ok(Admission::Queued(UpgradeId(4))));
    b.pinned_as(3, 1);
    b.ready(3, 1);
    b.weights_set();
    b.actions();
    b.told(2, 1);
    b.wants(&["upgraded 3", "refused 4: generation 3 serves already"]);

    // Another one that fails is no reason not to try.
    let mut b = kept();
    let _ = b.core.rollback(b.now, b.service, None);
    b.pinned_as(3, 1);
    b.actions();
    assert_eq!(b.core.rollback(b.now, b.service, None), Ok(Admission::Queued(UpgradeId(4))));
    let _ = b.core.abort(b.now, b.service);
    b.wants(&["kill 3.1", "aborted 3: aborted by an operator", "pin 4 rollback r1"]);

    let mut b = switched();
    let _ = b.core.rollback(b.now, b.service, None);
    let _ = b.core.rollback(b.now, b.service, None);
    b.weights_set();
    b.actions();
    b.told(2, 1);
    b.wants(&["upgraded 3", "refused 4: generation 1 serves already"]);
}

#[test]
fn so_many_releases_are_kept_and_no_more() {
    let mut b = serving(Policy { keep_releases: 1, ..policy() });
    for upgrade in 2..=4 {
        let _ = b.request(Kind::Reload);
        b.pinned(upgrade);
        b.ready(upgrade, 1);
        b.weights_set();
        b.told(upgrade - 1, 1);
        b.ends(upgrade - 1, 1, Exit::Code(0));
        let discarded = b.actions().iter().filter(|action| action.starts_with("discard")).count();
        assert_eq!(discarded, usize::from(upgrade > 2));
    }
    assert_eq!(b.core.rollback(b.now, b.service, Some(Generation(1))), Err(Refusal::NotKept(Some(Generation(1)))));
}

// ---- instances ----------------------------------------------------------------------------------------------------

#[test]
fn a_service_is_scaled_until_its_config_says_otherwise() {
    let mut b = serving(Policy { instances: 2, ..policy() });
    assert_eq!(b.core.scale(b.now, b.service, 4), Ok(Generation(1)));
    b.wants(&["prepare 1.3 r1", "prepare 1.4 r1"]);
    b.ready(1, 3);
    assert_eq!(b.routes(), [(1, 100, vec![0, 1, 2])], "the fourth is not ready");
    b.ready(1, 4);
    assert_eq!(b.core.scale(b.now, b.service, 3), Ok(Generation(1)));
    b.wants(&["launch 1.3", "launch 1.4", "stop 1.4"]);
    assert_eq!(b.routes(), [(1, 100, vec![0, 1, 2])]);
    let _ = b.request(Kind::Reload);
    assert_eq!(b.core.scale(b.now, b.service, 5), Err(Refusal::Upgrading));
    b.pinned(2);
    b.wants(&["pin 2 reload", "prepare 2.1 r2", "prepare 2.2 r2", "prepare 2.3 r2"]);

    let mut b = serving(Policy { instances: 2, ..policy() });
    let _ = b.core.scale(b.now, b.service, 3);
    b.ready(1, 3);
    b.policy.instances = 1;
    let _ = b.request(Kind::Reload);
    b.actions();
    b.pinned(2);
    b.wants(&["prepare 2.1 r2"]);
    // One that fails changes nothing.
    let _ = b.core.abort(b.now, b.service);
    b.policy.instances = 2;
    let _ = b.request(Kind::Reload);
    b.actions();
    b.pinned(3);
    b.wants(&["prepare 3.1 r3", "prepare 3.2 r3", "prepare 3.3 r3"]);
}

#[test]
fn scaled_to_what_the_config_says_is_not_scaled() {
    let mut b = serving(Policy { instances: 2, ..policy() });
    let _ = b.core.scale(b.now, b.service, 4);
    assert_eq!(b.core.services()[&b.service].scaled.map(|scaled| (scaled.configured, scaled.wanted)), Some((2, 4)));
    let _ = b.core.scale(b.now, b.service, 2);
    assert_eq!(b.core.services()[&b.service].scaled, None);
    let _ = b.core.scale(b.now, b.service, 3);
    assert_eq!(b.core.services()[&b.service].scaled.map(|scaled| scaled.configured), Some(2));
}

#[test]
fn the_process_that_is_to_blame_is_named_until_the_next_upgrade() {
    let mut b = upgrading(rolling(2, 1, 0));
    let blamed = |b: &Bench| b.core.services()[&b.service].blamed.map(|id| (id.generation.0, id.number));
    b.ready(2, 1);
    b.spawn(2, 2);
    b.ends(2, 2, Exit::Code(1));
    assert_eq!(blamed(&b), Some((2, 2)));
    b.ready(1, 3);
    assert_eq!(blamed(&b), Some((2, 2)), "the verdict has fallen");
    let _ = b.request(Kind::Reload);
    assert_eq!(blamed(&b), None);
}

#[test]
fn what_was_overwritten_is_refused() {
    let mut b = serving(policy());
    let _ = b.request(Kind::Restart);
    let reason = Reason::Overwritten("/bin/web was overwritten".into());
    b.handle(Event::PinFailed { upgrade: UpgradeId(2), reason });
    b.wants(&["pin 2 restart r1", "refused 2: /bin/web was overwritten"]);
}

#[test]
fn one_that_crashes_gets_nothing_and_its_slot_is_kept() {
    let mut b = serving(Policy { instances: 2, ..policy() });
    b.on(1, 2, E::Exited(Exit::Code(1)));
    assert_eq!(b.routes(), [(1, 100, vec![0])]);
    b.pass(secs(1));
    assert_eq!(b.core.services()[&b.service].generations[&Generation(1)].instances[&3].slot, Slot(1));
    assert_eq!(b.routes(), [(1, 100, vec![0])], "it is not ready");
    b.ready(1, 3);
    assert_eq!(b.routes(), [(1, 100, vec![0, 1])]);
}

#[test]
fn where_nothing_serves_callers_wait_for_whoever_comes_next() {
    let mut b = serving(policy());
    b.ends(1, 1, Exit::Code(1));
    assert_eq!(b.routes(), [(1, 100, vec![0])]);
    let _ = b.request(Kind::Reload);
    b.pinned(2);
    assert_eq!(b.core.services()[&b.service].generations[&Generation(2)].instances[&1].slot, Slot(0));
}

#[test]
fn one_that_fails_its_checks_is_replaced_by_policy() {
    let mut b = serving(Policy { instances: 2, ..policy() });
    b.on(1, 1, E::Unhealthy("GET /healthz: 500".into()));
    b.wants(&["stop 1.1"]);
    assert_eq!(b.routes(), [(1, 100, vec![1])]);
    b.ends(1, 1, Exit::Code(0));
    b.wants(&["sweep 1.1"]);
    let Step::Retrying { reason, .. } = b.last_step() else { panic!("{:?}", b.last_step()) };
    assert_eq!(reason.to_string(), "its health checks failed: GET /healthz: 500");
}

// ---- hooks --------------------------------------------------------------------------------------------------------

fn hooked() -> Bench {
    let hooks = Hooks { present: Hook::ALL.to_vec(), timeout: secs(60) };
    let mut b = Bench::new(Policy { hooks, ..policy() }, FirstFailure::Exit);
    let _ = b.request(Kind::Start);
    b.pinned(1);
    b.hook(1, Hook::BeforeStart, Ok(()));
    b.ready(1, 1);
    b.hook(1, Hook::AfterReady, Ok(()));
    b.weights_set();
    b.wants(&[
        "pin 1 start",
        "hook before-start 1",
        "prepare 1.1 r1",
        "launch 1.1",
        "hook after-ready 1",
        "weights 1=100",
        "upgraded 1",
        "hook after-switch 1",
        "hook after-drain 1",
    ]);
    let _ = b.request(Kind::Reload);
    b.pinned(2);
    b.wants(&["pin 2 reload", "hook before-start 2"]);
    b
}

impl Bench {
    fn hook(&mut self, generation: u64, hook: Hook, result: Result<(), &str>) {
        let (service, generation) = (self.service, Generation(generation));
        self.handle(Event::HookDone { service, generation, hook, result: result.map_err(str::to_owned) });
    }
}

#[test]
fn what_is_to_follow_the_drain_waits_for_the_last_old_process() {
    let mut b = hooked();
    b.hook(2, Hook::BeforeStart, Ok(()));
    b.ready(2, 1);
    b.hook(2, Hook::AfterReady, Ok(()));
    b.weights_set();
    b.told(1, 1);
    b.on(1, 1, E::Exited(Exit::Code(0)));
    b.wants(&[
        "prepare 2.1 r2",
        "launch 2.1",
        "hook after-ready 2",
        "weights 1=0 2=100",
        "stop 1.1",
        "upgraded 2",
        "hook after-switch 2",
        "sweep 1.1",
    ]);
    b.on(1, 1, E::Emptied);
    b.wants(&["discard r1", "hook after-drain 2"]);
}

#[test]
fn a_hook_that_fails_fails_the_upgrade_with_nothing_changed() {
    let mut b = hooked();
    b.hook(2, Hook::BeforeStart, Err("exit status 1"));
    let reason = "the before-start hook failed: exit status 1";
    b.wants(&[&format!("failed 2: {reason}"), &format!("hook on-failure 2: {reason}"), "discard r2"]);

    let mut b = hooked();
    b.hook(2, Hook::BeforeStart, Ok(()));
    b.ready(2, 1);
    b.hook(2, Hook::AfterReady, Err("exit status 1"));
    let reason = "the after-ready hook failed: exit status 1";
    b.wants(&[
        "prepare 2.1 r2",
        "launch 2.1",
        "hook after-ready 2",
        "stop 2.1",
        &format!("failed 2: {reason}"),
        &format!("hook on-failure 2: {reason}"),
    ]);
}

#[test]
fn a_hook_has_a_deadline_and_belongs_to_whom_it_was_run_for() {
    let mut b = hooked();
    b.hook(1, Hook::BeforeStart, Err("of another generation"));
    b.hook(2, Hook::AfterReady, Err("of another moment"));
    b.wants(&[]);
    b.pass(secs(70));
    assert!(b.actions()[0].starts_with("failed 2: the before-start hook failed: it did not end in time"));
}

#[test]
fn a_successor_runs_the_hook_that_is_waited_for_again() {
    let mut b = hooked();
    b.core.ask_again(b.now);
    b.wants(&["hook before-start 2"]);
    assert!(matches!(b.core.services()[&b.service].upgrade.as_ref().map(|up| up.phase), Some(Phase::Candidate(_))));
}

// ---- callers where no process is ----------------------------------------------------------------------------------

impl Bench {
    fn callers_in(&mut self, slot: u32) {
        self.handle(Event::Abandoned { service: self.service, slot: Slot(slot) });
    }
}

#[test]
fn who_waits_where_a_canary_crashed_is_answered_by_what_serves() {
    let mut b = upgrading(Policy { instances: 2, ..canary(&[(5, 60)], false) });
    b.ready(2, 1);
    b.ready(2, 2);
    b.weights_set();
    b.callers_in(2);
    b.actions();
    b.ends(2, 1, Exit::Code(1));
    b.actions();
    b.callers_in(2);
    b.wants(&["prepare 1.3 r1"]);
    b.callers_in(2);
    b.wants(&[]);
    b.spawn(1, 3);
    assert_eq!(b.routes(), [(1, 100, vec![0, 1])], "it has no part in the traffic");
    b.on(1, 3, E::Ready);
    b.wants(&["launch 1.3", "stop 1.3"]);
    b.told(1, 3);
    b.ends(1, 3, Exit::Code(0));
    b.wants(&["sweep 1.3"]);
    assert_eq!(b.core.services()[&b.service].serving().map(|serving| serving.seats.len()), Some(2));
}

#[test]
fn a_relief_that_fails_is_not_followed_by_another() {
    let mut b = serving(Policy { instances: 2, ..policy() });
    b.callers_in(7);
    b.spawn(1, 3);
    b.wants(&["prepare 1.3 r1", "launch 1.3"]);
    b.ends(1, 3, Exit::Code(1));
    b.wants(&["sweep 1.3"]);
    b.callers_in(7);
    b.wants(&[]);
    b.callers_in(6);
    b.wants(&["prepare 1.4 r1"]);
}

#[test]
fn nobody_is_relieved_beside_what_must_be_alone_or_is_to_come_anyway() {
    let mut b = serving(Policy { strategy: Strategy::StopStart, ..policy() });
    b.callers_in(3);
    b.wants(&[]);
    let mut b = serving(Policy { instances: 2, strategy: Strategy::StopStart, ..policy() });
    b.callers_in(3);
    b.wants(&["prepare 1.3 r1"]);
    let mut b = serving(Policy { instances: 2, ..policy() });
    b.callers_in(0);
    b.wants(&[]);
    b.ends(1, 2, Exit::Code(1));
    b.wants(&["sweep 1.2"]);
    b.callers_in(1);
    b.wants(&[]);
    let mut b = upgrading(rolling(2, 1, 0));
    b.actions();
    b.callers_in(7);
    b.wants(&[]);
}
