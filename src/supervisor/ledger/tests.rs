//! Whatever a service says, what happens is on record.

use std::time::Duration;

use super::*;

const ID: UpgradeId = UpgradeId(7);

fn at(seconds: u64) -> Time {
    Time(0).after(Duration::from_secs(seconds))
}

fn news(event: &'static str, generation: Option<u64>) -> News {
    News { event, message: format!("{event}, as it is"), generation: generation.map(Generation) }
}

fn rolled_back() -> VerdictStatus {
    VerdictStatus {
        verdict: Verdict::RolledBack,
        exit_code: 4,
        step: "weighted".into(),
        reason: Some("too many errors".into()),
        hint: None,
        output: Vec::new(),
        output_elsewhere: None,
        because_of: None,
        serving: Some(1),
    }
}

/// A canary that talks each second and whose predecessor is restarted again and again; then it is given up.
fn a_long_canary() -> Ledger {
    let mut ledger = Ledger::default();
    ledger.open(ID, "web", Kind::Reload, Some(Generation(1)), at(0));
    ledger.step(ID, at(0), &Step::Pinning, Some(Generation(1)), news("pinning", None));
    ledger.step(ID, at(1), &Step::Starting { generation: Generation(2) }, None, news("starting", Some(2)));
    ledger.tell(ID, at(2), news("ready", Some(2)));
    for second in 3..1000 {
        for said in ["status", "check", "output"] {
            ledger.tell(ID, at(second), news(said, Some(2)));
        }
        ledger.tell(ID, at(second), news("retrying", Some(1)));
        if second % 100 == 0 {
            ledger.tell(ID, at(second), news("weighted", Some(2)));
        }
    }
    ledger.tell(ID, at(1000), news("over-budget", Some(2)));
    ledger.tell(ID, at(1001), news("draining", Some(2)));
    ledger.tell(ID, at(1001), news("returning", Some(1)));
    ledger.conclude(ID, at(1002), rolled_back(), false, news("verdict", Some(2)));
    ledger
}

#[test]
fn what_a_service_says_keeps_nothing_that_happens_off_the_record() {
    let mut ledger = a_long_canary();
    let record = ledger.record(ID).unwrap();
    assert_eq!(record.rollback, Some(2.0));
    let names: Vec<&str> = record.phases.iter().map(|phase| phase.name.as_str()).collect();
    assert_eq!(names, ["pinning", "starting", "ready", "weighted", "weighted", "draining", "returning"]);
    // What remains takes long to be gone, and is as talkative.
    for second in 1003..2000 {
        ledger.tell(ID, at(second), news("overdue", Some(2)));
    }
    ledger.step(ID, at(2000), &Step::Drained { generation: Generation(2) }, None, news("drained", Some(2)));
    assert_eq!(ledger.drained(ID, Generation(2)), Some((999.0, false)));
    let page = ledger.events(ID, 0).unwrap();
    assert_eq!(page.events.iter().filter(|event| event.verdict.is_some()).count(), 1);
    assert!(page.finished && page.events.is_sorted_by(|one, other| one.seq < other.seq));
}

/// What ends behind it may take long to be told so.
#[test]
fn a_rollback_has_taken_as_long_as_new_connections_took_to_go_back() {
    let mut ledger = Ledger::default();
    ledger.open(ID, "web", Kind::Rollback, Some(Generation(2)), at(0));
    let step = Step::SwitchingBack { generation: Generation(1) };
    ledger.step(ID, at(0), &step, None, news("switching-back", Some(1)));
    ledger.tell(ID, at(1), news("serving", Some(1)));
    ledger.tell(ID, at(1), news("draining", Some(2)));
    let upgraded = VerdictStatus { verdict: Verdict::Upgraded, ..rolled_back() };
    ledger.conclude(ID, at(10), upgraded, false, news("verdict", Some(1)));
    let record = ledger.record(ID).unwrap();
    assert_eq!((record.rollback, record.duration), (Some(1.0), 10.0));
}

#[test]
fn a_story_is_bounded() {
    let ledger = a_long_canary();
    let events = ledger.events(ID, 0).unwrap().events;
    let said = events.iter().filter(|event| ["status", "check", "output"].contains(&&*event.event)).count();
    assert_eq!((said, events.len()), (SAID, SAID + EVENTS));
    assert_eq!((events[0].event.as_str(), events.last().unwrap().event.as_str()), ("pinning", "verdict"));
    // The latest of what happens is there, whatever came before.
    assert!(events.iter().any(|event| event.event == "retrying" && event.elapsed == 999.0));
}

/// Forty services are upgraded together, and the last one fails: until whoever asked has read that, the others are
/// taken back.
#[test]
fn there_is_room_for_all_services_twice() {
    let mut ledger = Ledger::default();
    ledger.make_room(40);
    for id in 1..=80 {
        ledger.open(UpgradeId(id), "web", Kind::Reload, None, Time(1));
        ledger.conclude(UpgradeId(id), Time(2), rolled_back(), true, news("verdict", None));
    }
    assert!(ledger.status(UpgradeId(1), Time(3)).is_some());
    for id in 81..=200 {
        ledger.open(UpgradeId(id), "web", Kind::Reload, None, Time(1));
        ledger.conclude(UpgradeId(id), Time(2), rolled_back(), true, news("verdict", None));
    }
    assert_eq!(ledger.ids().len(), UPGRADES + 80, "and it does not grow");
}
