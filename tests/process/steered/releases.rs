//! Every strategy, with good releases and with each kind of bad one, under load.

use std::fs;
use std::thread;

use zdsup::control::types::{GenerationState, Verdict};

use super::{INSTANCES, by_generation, canary, canary_at, draw, lines, pids, steered_with};
use crate::support::supervisor::generation;
use crate::support::{Load, Manner, Zdsup};

/// A release that fails, and what the reload says of it.
#[derive(Clone, Copy)]
struct Bad {
    words: &'static [&'static str],
    soak: &'static str,
    /// What is asked of it, and what its answer is.
    check: Option<(&'static str, &'static str)>,
    verdict: Verdict,
    reason: &'static str,
}

impl Bad {
    const fn new(words: &'static [&'static str], reason: &'static str) -> Self {
        Self { words, soak: "0s", check: None, verdict: Verdict::Failed, reason }
    }

    /// Makes it the release, and the config such that it is found out.
    fn put(&self, z: &mut Zdsup) {
        let mut words: Vec<String> = lines(self.words);
        let file = z.place.join("answers");
        if let Some((_, answer)) = self.check {
            fs::write(&file, answer).expect("a file can be written");
            words.extend(["--health".into(), file.display().to_string()]);
        }
        z.release(&words.iter().map(String::as_str).collect::<Vec<_>>());
        z.configure(|setup| {
            setup.upgrade.push(format!("soak = \"{}\"", self.soak));
            if let Some((path, _)) = self.check {
                let more = ["interval = \"20ms\"", "timeout = \"300ms\"", "failures = 2"].map(str::to_owned);
                setup.health = [vec![format!("http = \"{path}\"")], more.to_vec()].concat();
            }
        });
    }
}

const BAD: &[Bad] = &[
    Bad::new(&["never-ready"], "never ready"),
    Bad::new(&["exits", "--status", "7"], "exit status 7"),
    Bad::new(&["segfault"], "SIGSEGV"),
    Bad {
        soak: "20s",
        verdict: Verdict::RolledBack,
        ..Bad::new(&["ready-then-dies", "--after", "500"], "exit status 1")
    },
    Bad { check: Some(("/healthz", "503")), ..Bad::new(&["serve"], "GET /healthz: 503") },
    Bad { check: Some(("/healthz", "slow 5000")), ..Bad::new(&["serve"], "GET /healthz: no answer in 300 ms") },
    Bad { check: Some(("/", "500")), ..Bad::new(&["serve", "--everywhere"], "GET /: 500") },
];

/// Upgrades to good releases and to each kind of bad one: the verdicts are right, the old generation serves on in whole
/// after each failure, and no request fails. `what_fails`: the verdict of what is never ready.
fn good_and_bad(upgrade: &[String], what_fails: Verdict) {
    good_and_each(BAD, upgrade, what_fails);
}

fn good_and_each(bad: &[Bad], upgrade: &[String], what_fails: Verdict) {
    let z = &mut steered_with(&["serve", "--lame-duck", "300"], &[], |setup, _| {
        setup.upgrade = upgrade.to_vec();
        setup.ready = lines(&["timeout = \"2s\""]);
        setup.drain = lines(&["timeout = \"10s\""]);
    });
    let good = z.setup.clone();
    let load = Load::start(&z.target());
    let mut serving = 1;
    let mut next = 2;
    for bad in bad {
        load.more(100);
        bad.put(z);
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
    let good: Vec<u64> = (0..=bad.len() as u64).map(|upgrades| 1 + 2 * upgrades).collect();
    assert_eq!(answered, good, "each that served has answered, and no other");
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
fn stop_start() {
    // Whoever waits is answered by the candidate as soon as it accepts, before its checks can tell what it is worth.
    let silent: Vec<Bad> = BAD.iter().copied().filter(|bad| bad.check.is_none()).collect();
    good_and_each(&silent, &lines(&["strategy = \"stop-start\""]), Verdict::RolledBack);
}

/// Whoever comes while nothing else runs is answered by such a release as it answers, and nobody in any worse way.
#[test]
fn stop_start_to_what_answers_badly() {
    let mut z = steered_with(&["serve", "--lame-duck", "300"], &["strategy = \"stop-start\""], |setup, _| {
        setup.ready = lines(&["timeout = \"2s\""]);
    });
    let good = z.setup.clone();
    for bad in BAD.iter().filter(|bad| bad.check.is_some()) {
        let load = Load::with(&z.target(), &[Manner::Fresh; 4]);
        load.more(100);
        bad.put(&mut z);
        z.reload(&[]).is(Verdict::RolledBack).because(bad.reason).still_serving(1);
        z.whole(1);
        assert_eq!(
            by_generation(&draw(z.address(), 200)).into_keys().collect::<Vec<_>>(),
            [1],
            "after {:?}",
            bad.words
        );
        load.more(100);
        let tally = load.finish();
        let as_it_answers = |class: &String| bad.words.len() > 1 && class.starts_with("status");
        assert!(tally.failed.keys().all(as_it_answers), "{:?}: {tally:?}", bad.words);
        z.configure(|setup| *setup = good.clone());
    }
    z.end();
}

/// Whichever slots the one before has, whoever waits there is answered.
#[test]
fn stop_start_after_others() {
    let mut z = steered_with(&["serve", "--lame-duck", "100"], &[], |_, _| {});
    let load = Load::with(&z.target(), &[Manner::Fresh; 4]);
    let mut number = 1;
    for strategy in ["overlap", "stop-start", "rolling", "stop-start", "overlap", "overlap", "stop-start"] {
        z.configure(|setup| setup.upgrade = vec![format!("strategy = {strategy:?}")]);
        load.more(100);
        z.upgrade();
        number += 1;
        z.whole(number);
        let queues = z.status().services[0].listeners[0].queue;
        load.more(100);
        assert_eq!(z.status().services[0].serving, Some(number), "{strategy} {queues:?}");
    }
    load.unharmed();
    z.end();
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
    let reason = format!("ended while it had {WEIGHT} % of new connections: exit status 1");
    z.reload(&[]).is(Verdict::RolledBack).because(&reason).still_serving(1);
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

/// What a canary answers with errors is at most its weight of all requests, each is counted as what it was, and the error
/// budget ends it.
#[test]
fn errors_in_a_canary_step() {
    const WEIGHT: u32 = 20;
    let mut z = steered_with(&["serve"], &[], |setup, _| {
        setup.upgrade = canary(&[(WEIGHT, 30_000)], "");
        setup.upgrade.extend(lines(&["probe = { http = \"/\", rate = 50 }", "max-error-rate = \"1%\""]));
    });
    let file = z.place.join("answers");
    fs::write(&file, "500").expect("a file can be written");
    z.release(&["serve", "--everywhere", "--health", &file.display().to_string()]);
    let load = Load::with(&z.target(), &[Manner::Fresh; 4]);
    load.more(400);
    z.reload(&[]).is(Verdict::RolledBack).because("probe requests failed").still_serving(1);
    assert_eq!(by_generation(&draw(z.address(), 400)).into_keys().collect::<Vec<_>>(), [1]);
    z.whole(1);
    load.more(400);
    let tally = load.finish();
    let failed: u64 = tally.failed.values().sum();
    assert!(failed > 0 && failed * 100 <= tally.asked * u64::from(WEIGHT), "{tally:?}");
    assert!(tally.failed.keys().all(|class| class.starts_with("status")), "{tally:?}");
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
