//! Every strategy, with good releases and with each kind of bad one, under load.

use std::thread;

use zdsup::control::types::{GenerationState, Verdict};

use super::{INSTANCES, by_generation, canary, canary_at, draw, lines, pids, steered_with};
use crate::support::supervisor::generation;
use crate::support::{Load, Manner};

/// A release that fails, and what the reload says of it.
struct Bad {
    words: &'static [&'static str],
    soak: &'static str,
    verdict: Verdict,
    reason: &'static str,
}

const BAD: &[Bad] = &[
    Bad { words: &["never-ready"], soak: "0s", verdict: Verdict::Failed, reason: "never ready" },
    Bad { words: &["exits", "--status", "7"], soak: "0s", verdict: Verdict::Failed, reason: "exit status 7" },
    Bad { words: &["segfault"], soak: "0s", verdict: Verdict::Failed, reason: "SIGSEGV" },
    Bad {
        words: &["ready-then-dies", "--after", "100"],
        soak: "20s",
        verdict: Verdict::RolledBack,
        reason: "exit status 1",
    },
];

/// Upgrades to good releases and to each kind of bad one: the verdicts are right, the old generation serves on in whole
/// after each failure, and no request fails. `what_fails`: the verdict of what is never ready.
fn good_and_bad(upgrade: &[String], what_fails: Verdict) {
    let z = &mut steered_with(&["serve", "--lame-duck", "300"], &[], |setup, _| {
        setup.upgrade = upgrade.to_vec();
        setup.ready = lines(&["timeout = \"1s\""]);
        setup.drain = lines(&["timeout = \"10s\""]);
    });
    let good = z.setup.clone();
    let load = Load::start(&z.target());
    let mut serving = 1;
    let mut next = 2;
    for bad in BAD {
        load.more(100);
        z.release(bad.words);
        z.configure(|setup| setup.upgrade.push(format!("soak = \"{}\"", bad.soak)));
        let verdict = if bad.verdict == Verdict::Failed { what_fails } else { bad.verdict };
        let failed = z.reload(&[]).is(verdict).because(bad.reason).still_serving(serving);
        assert!(failed.events.iter().all(|event| event.event != "serving"), "{failed:?}");
        z.whole(serving);
        let answers = by_generation(&draw(z.address(), 200));
        assert_eq!(answers.into_keys().collect::<Vec<_>>(), [serving], "after {:?}", bad.words);
        next += 1;

        z.configure(|setup| *setup = good.clone());
        z.upgrade();
        let status = z.status();
        assert_eq!(status.services[0].serving, Some(next));
        assert_eq!(pids(&status, next).len(), INSTANCES);
        serving = next;
        next += 1;
        let answers = by_generation(&draw(z.address(), 200));
        assert_eq!(answers.into_keys().collect::<Vec<_>>(), [serving], "after the verdict");
        z.wait_for("the others are gone", |status| {
            let others = status.services[0].generations.iter().filter(|one| one.generation != serving);
            others.filter(|one| one.state != GenerationState::Standby).count() == 0
        });
    }
    let tally = load.unharmed();
    let answered: Vec<u64> = tally.by.keys().copied().collect();
    assert_eq!(answered, [1, 3, 5, 7, 9], "each that served has answered, and no other");
}

#[test]
fn overlap() {
    good_and_bad(&[], Verdict::Failed);
}

#[test]
fn rolling() {
    good_and_bad(&lines(&["strategy = \"rolling\"", "max-surge = 2"]), Verdict::Failed);
}

#[test]
fn rolling_with_some_missing() {
    // Something was ended for it, and is started again.
    good_and_bad(&lines(&["strategy = \"rolling\"", "max-surge = 0", "max-unavailable = 1"]), Verdict::RolledBack);
}

#[test]
fn blue_green() {
    good_and_bad(&lines(&["strategy = \"blue-green\"", "standby = \"0s\""]), Verdict::Failed);
}

#[test]
fn a_canary() {
    good_and_bad(&canary(&[(20, 100), (50, 100)], ""), Verdict::Failed);
}

/// Guarantee 2 in its steered form: what a canary's process had taken when it crashed is lost, at most its weight of all
/// requests, and nothing else; the others come back to what served.
#[test]
fn a_crash_in_a_canary_step() {
    const WEIGHT: u32 = 20;
    let mut z = steered_with(&["serve"], &[], |setup, _| setup.upgrade = canary_at(WEIGHT));
    z.release(&["ready-then-dies", "--serves", "--after", "1500"]);
    let load = Load::with(&z.target(), &[Manner::Fresh; 4]);
    z.reload(&[]).is(Verdict::RolledBack).because("exit status 1").still_serving(1);
    assert_eq!(by_generation(&draw(z.address(), 400)).into_keys().collect::<Vec<_>>(), [1]);
    z.whole(1);
    load.more(100);
    let tally = load.finish();
    let failed: u64 = tally.failed.values().sum();
    let took_part = tally.by.get(&2).copied().unwrap_or(0) + failed;
    assert!(took_part > 0, "it had a share: {tally:?}");
    // Each of the clients may have had one request there at that time, and there are several processes.
    assert!(failed <= 4 * INSTANCES as u64 && failed * 100 <= tally.asked * u64::from(WEIGHT), "{tally:?}");
    // Nothing but what a process had in its hands: nobody was refused, and nobody waits in vain.
    let in_hand = |class: &String| class.starts_with("answer") && !class.contains("WouldBlock");
    assert!(tally.failed.keys().all(in_hand), "{tally:?}");
    z.end();
}

/// The old generation stands by, whole, and gets nothing until the time is over.
#[test]
fn standby() {
    let z = steered_with(&["serve"], &["strategy = \"blue-green\"", "standby = \"4s\""], |_, _| {});
    let load = Load::with(&z.target(), &[Manner::Fresh, Manner::Fresh]);
    z.upgrade();
    let status = z.status();
    assert_eq!(generation(&status, 1).map(|one| one.state), Some(GenerationState::Standby));
    let (old, new) = (pids(&status, 1), pids(&status, 2));
    assert_eq!((old.len(), new.len()), (INSTANCES, INSTANCES));
    // What was accepted before the verdict is answered by now.
    let counts = draw(z.address(), 1000);
    assert_eq!(by_generation(&counts).into_keys().collect::<Vec<_>>(), [2]);
    assert_eq!(counts.len(), INSTANCES, "each has its part: {counts:?}");
    z.whole(2);
    load.unharmed();
    z.end();
}

/// Many switches in a row, and reloads that come together.
#[test]
fn reloads_at_the_same_time_in_a_canary() {
    let mut z = steered_with(&["serve"], &[], |_, _| {});
    z.configure(|setup| setup.upgrade = canary(&[(30, 150)], ""));
    let load = Load::start(&z.target());
    thread::scope(|scope| {
        let reloads: Vec<_> = (0..4).map(|_| scope.spawn(|| z.upgrade())).collect();
        let verdicts = reloads.into_iter().map(|reload| reload.join().expect("it does not panic"));
        assert_eq!(verdicts.count(), 4);
    });
    let serving = z.status().services[0].serving.expect("it serves");
    assert!(serving < 5, "they share upgrades");
    z.whole(serving);
    load.unharmed();
    z.end();
}
