//! Strategies with several instances and shared traffic, with good releases and bad ones, under load: no request fails,
//! there are never too few instances nor too many, and whatever goes wrong, the old ones serve at the end.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::Signal;
use zdsup::control::types::{
    GenerationState, InstanceState, ServiceState, ServiceStatus, Status, UpgradeAccepted, Verdict,
};

use crate::support::supervisor::{Reload, generation};
use crate::support::{Load, Place, Setup, Zdsup, client, eventually, process, skip};

const INSTANCES: u32 = 3;

/// How a rolling upgrade goes.
#[derive(Clone, Copy)]
struct Pace {
    surge: u32,
    unavailable: u32,
}

const PACES: [Pace; 2] = [Pace { surge: 1, unavailable: 0 }, Pace { surge: 0, unavailable: 1 }];

/// Three instances of a good service.
fn three(strategy: &[&str]) -> Zdsup {
    let z = Zdsup::serving_with(&["serve", "--lame-duck", "300"], |setup, _| instances(setup, strategy));
    all_serve(&z, 1);
    z
}

fn instances(setup: &mut Setup, strategy: &[&str]) {
    setup.service.push(format!("instances = {INSTANCES}"));
    setup.upgrade = strategy.iter().map(|line| (*line).to_owned()).collect();
}

fn rolling(pace: Pace) -> Vec<String> {
    let Pace { surge, unavailable } = pace;
    vec![
        "strategy = \"rolling\"".into(),
        format!("max-surge = {surge}"),
        format!("max-unavailable = {unavailable}"),
        "max-draining = 100".into(),
    ]
}

/// Waits until only this generation is left, with each of its instances ready, and gives their processes.
#[track_caller]
fn all_serve(z: &Zdsup, number: u64) -> BTreeSet<u32> {
    let status = z.wait_for(&format!("all instances of web@{number} serve, and nothing else is left"), |status| {
        let service = &status.services[0];
        service.generations.len() == 1 && service.upgrade.is_none() && is_whole(service, number)
    });
    let theirs = generation(&status, number).expect("it serves").instances.iter();
    let ready = theirs.filter(|one| one.state == InstanceState::Ready).filter_map(|one| one.pid);
    let ready: BTreeSet<u32> = ready.collect();
    assert_eq!(ready.len() as u32, status.services[0].instances);
    ready
}

fn is_whole(service: &ServiceStatus, number: u64) -> bool {
    let whole = |one: &&zdsup::control::types::GenerationStatus| {
        let left = one.instances.iter().filter(|instance| instance.state != InstanceState::Ready).count();
        one.generation == number && one.ready == one.desired && left == 0
    };
    service.serving == Some(number) && service.generations.iter().any(|one| whole(&one))
}

/// How many instances are of use for new connections, and how many there are that were not told to stop.
fn strength(status: &Status) -> (u32, u32) {
    let generations = &status.services[0].generations;
    let parts = [GenerationState::Serving, GenerationState::Rolling, GenerationState::Retreating];
    let ready = generations.iter().filter(|one| parts.contains(&one.state)).map(|one| one.ready).sum();
    let living = [InstanceState::Preparing, InstanceState::Starting, InstanceState::Ready];
    let instances = generations.iter().flat_map(|one| &one.instances);
    let wanted = instances.filter(|one| living.contains(&one.state)).count();
    (ready, u32::try_from(wanted).expect("a small number"))
}

/// Looks all the time while something goes on, and gives the fewest that were of use and the most that there were.
fn bounds<T>(z: &Zdsup, work: impl FnOnce() -> T) -> (T, u32, u32) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let (mut fewest, mut most) = strength(&z.status());
            while !over.load(Ordering::Relaxed) {
                let (ready, wanted) = strength(&z.status());
                (fewest, most) = (fewest.min(ready), most.max(wanted));
            }
            (fewest, most)
        });
        let done = work();
        over.store(true, Ordering::Relaxed);
        let (fewest, most) = looks.join().expect("it does not panic");
        (done, fewest, most)
    })
}

fn messages(reload: &Reload, event: &str) -> Vec<String> {
    reload.events.iter().filter(|one| one.event == event).map(|one| one.message.clone()).collect()
}

// ---- rolling ------------------------------------------------------------------------------------------------------

#[test]
fn rolling_replaces_a_few_at_a_time() {
    for pace in PACES {
        let mut z = three(&[]);
        z.configure(|setup| setup.upgrade = rolling(pace));
        let load = Load::start(&z.target());
        let (reload, fewest, most) = bounds(&z, || z.upgrade());
        let rolled = messages(&reload, "rolled");
        assert_eq!(rolled, ["1 of 3 instances take part", "2 of 3 instances take part", "all 3 instances take part"]);
        assert!(
            messages(&reload, "ready").iter().any(|ready| ready.starts_with("instance 3 ready after")),
            "{reload:?}"
        );
        assert!(fewest >= INSTANCES - pace.unavailable, "{fewest} were of use at a time");
        assert!(most <= INSTANCES + pace.surge, "{most} at a time");
        all_serve(&z, 2);
        load.more(50);
        load.unharmed();
        z.end();
    }
}

/// Where the last of the old instances has gone and the last of the new one is not there yet, the others serve, and nothing
/// is said to be down.
#[test]
fn what_replaces_piece_by_piece_is_what_serves() {
    let mut z = three(&[]);
    z.configure(|setup| setup.upgrade = rolling(PACES[1]));
    let gate = z.place.join("gate").display().to_string();
    z.release(&["later", "--from", "3", "--then", "serve", "--gate", &gate]);
    let load = Load::start(&z.target());
    thread::scope(|scope| {
        let reload = scope.spawn(|| z.reload(&[]));
        let status = z.wait_for("two of the new serve, and none of the old", |status| {
            let ready = |number| generation(status, number).map_or(0, |one| one.ready);
            (ready(1), ready(2)) == (0, 2)
        });
        let service = &status.services[0];
        assert_eq!((service.state, service.serving), (ServiceState::Upgrading, Some(2)));
        assert_eq!(generation(&status, 1).map(|one| one.state), Some(GenerationState::Draining));
        let metrics =
            client::control(&z.supervisor.control_socket(), "GET", "/metrics", None).expect("it answers").body;
        for sample in ["service_state{service=\"web\",state=\"upgrading\"} 1", "instances_ready{service=\"web\"} 2"] {
            assert!(metrics.contains(&format!("\nzdsup_{sample}\n")), "{sample}: {metrics}");
        }
        let aborted = z.supervisor.run(&["abort"]);
        let said = String::from_utf8_lossy(&aborted.stderr).into_owned();
        assert!(said.contains("is given up; its verdict falls when web@1 is back"), "{said}");
        reload.join().expect("it does not panic").is(Verdict::Aborted).still_serving(1);
    });
    all_serve(&z, 1);
    load.unharmed();
    z.end();
}

/// A release that is no good, and what the reload must say.
struct Bad {
    words: &'static [&'static str],
    settings: fn(&mut Setup),
    reason: &'static str,
    /// What it prints last.
    says: &'static str,
    /// In the first batch, so that where one more may be started nothing has been replaced.
    at_once: bool,
}

const BAD: [Bad; 7] = [
    Bad {
        words: &["never-ready"],
        settings: |setup| setup.ready = vec!["timeout = \"1s\"".into()],
        reason: "never ready in 1 s",
        says: "",
        at_once: true,
    },
    Bad { words: &["exits"], settings: |_| {}, reason: "exit status 1", says: "cannot read", at_once: true },
    Bad { words: &["segfault"], settings: |_| {}, reason: "SIGSEGV", says: "", at_once: true },
    Bad {
        words: &["serve", "--lame-duck", "300"],
        settings: |setup| {
            setup.ready = vec!["timeout = \"1s\"".into()];
            setup.health = vec!["exec = [\"/bin/false\"]".into()];
        },
        reason: "its health checks did not pass in 1 s",
        says: "",
        at_once: true,
    },
    Bad {
        words: &["ready-then-dies", "--after", "100"],
        settings: |setup| setup.upgrade.push("soak = \"20s\"".into()),
        reason: "ended during its soak: exit status 1",
        says: "the cache is corrupt",
        at_once: true,
    },
    Bad {
        words: &["later", "--from", "2", "--then", "exits"],
        settings: |_| {},
        reason: "ended before it was ready: exit status 1",
        says: "cannot read",
        at_once: false,
    },
    Bad {
        words: &["later", "--from", "3", "--then", "never-ready"],
        settings: |setup| setup.ready = vec!["timeout = \"1s\"".into()],
        reason: "never ready in 1 s",
        says: "",
        at_once: false,
    },
];

#[test]
fn a_rolling_upgrade_to_a_bad_release_ends_with_all_of_the_old_instances() {
    for pace in PACES {
        let mut z = three(&[]);
        z.configure(|setup| setup.upgrade = rolling(pace));
        let good = z.setup.clone();
        let load = Load::start(&z.target());
        let mut serving = 1;
        for bad in &BAD {
            z.release(bad.words);
            z.configure(|setup| (bad.settings)(setup));
            let (reload, fewest, most) = bounds(&z, || z.reload(&[]));
            let soaked = bad.words[0] == "ready-then-dies";
            let replaced = pace.surge == 0 || !bad.at_once || soaked;
            let reload = reload.is(if replaced { Verdict::RolledBack } else { Verdict::Failed });
            let reload = reload.because(bad.reason).last_lines_say(bad.says).still_serving(serving);
            let step = &reload.verdict().expect("there is one").step;
            assert_ne!(step, "returning", "it says where it was given up");
            assert!(fewest >= INSTANCES - pace.unavailable, "{fewest} were of use at a time: {:?}", bad.words);
            assert!(most <= INSTANCES + pace.surge, "{most} at a time: {:?}", bad.words);
            all_serve(&z, serving);
            // What comes next succeeds.
            z.configure(|setup| *setup = good.clone());
            serving = z.upgrade().verdict().and_then(|verdict| verdict.serving).expect("it serves");
            all_serve(&z, serving);
        }
        load.unharmed();
        z.end();
    }
}

// ---- stop-start ---------------------------------------------------------------------------------------------------

#[test]
fn with_stop_start_callers_wait_and_none_is_refused() {
    let mut z = three(&["strategy = \"stop-start\""]);
    let good = z.setup.clone();
    let load = Load::start(&z.target());
    let overlap = |status: &Status| {
        let service = &status.services[0];
        let living = |one: &&zdsup::control::types::GenerationStatus| !one.instances.is_empty();
        service.generations.iter().filter(living).count() > 1
    };
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let looks = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let status = z.status();
                assert!(!overlap(&status), "two generations at a time: {status:?}");
            }
        });
        z.upgrade();
        over.store(true, Ordering::Relaxed);
        looks.join().expect("never two at a time");
    });
    all_serve(&z, 2);
    load.more(50);
    let mut serving = 2;
    for bad in &BAD {
        z.release(bad.words);
        z.configure(|setup| (bad.settings)(setup));
        z.reload(&[]).is(Verdict::RolledBack).because(bad.reason).last_lines_say(bad.says).still_serving(serving);
        all_serve(&z, serving);
        z.configure(|setup| *setup = good.clone());
        serving = z.upgrade().verdict().and_then(|verdict| verdict.serving).expect("it serves");
        all_serve(&z, serving);
    }
    let tally = load.unharmed();
    assert!(tally.by.len() >= 3, "{tally:?}");
    z.end();
}

// ---- rollback -----------------------------------------------------------------------------------------------------

/// A service whose program lies at a path of its own, and can be replaced.
fn deployed() -> Zdsup {
    Zdsup::serving_with(&["serve", "--lame-duck", "300"], |setup, place| {
        put(place, "web");
        setup.command[0] = place.join("web").display().to_string();
        setup.service.push("environment = { TOKEN = \"one\" }".into());
    })
}

fn put(place: &Place, name: &str) {
    std::fs::copy(crate::support::hazard(), place.join(name)).expect("a program can be copied");
}

fn token(z: &mut Zdsup, token: &str) {
    z.configure(|setup| setup.service = vec![format!("environment = {{ TOKEN = {token:?} }}")]);
}

impl Zdsup {
    fn rollback(&self, more: &[&str]) -> Reload {
        self.supervisor.upgrade("rollback", more)
    }
}

/// Row 18: what is gone back to is what ran, even when another program lies at its path.
#[test]
fn a_rollback_runs_what_ran_even_if_its_file_was_replaced() {
    let mut z = deployed();
    let load = Load::start(&z.target());
    let path = z.place.join("web").display().to_string();
    let running = |z: &Zdsup| {
        let answer = z.get("/");
        (answer.value("token").unwrap_or_default().to_owned(), answer.value("exe").unwrap_or_default().to_owned())
    };
    let refused = z.supervisor.run(&["rollback"]);
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("none served before this one") && said.contains("none is kept so far"), "{said}");

    put(&z.place, "next");
    std::fs::rename(z.place.join("next"), z.place.join("web")).expect("it can be moved");
    token(&mut z, "two");
    z.upgrade();
    z.settled(2);
    assert_eq!(running(&z), ("two".into(), path.clone()));

    let reload = z.rollback(&[]).is(Verdict::Upgraded);
    let message = &reload.events.iter().find(|event| event.verdict.is_some()).expect("a verdict").message;
    assert_eq!(message, "upgraded: it runs the release of web@1");
    z.settled(3);
    assert_eq!(running(&z), ("one".into(), format!("{path} (deleted)")));
    let status = z.status();
    let kept: Vec<u64> = status.services[0].kept.iter().map(|kept| kept.generation).collect();
    assert_eq!(kept, [2]);
    let table = String::from_utf8(z.supervisor.run(&["status"]).stdout).expect("text");
    assert!(table.contains("  rollback: web@2\n"), "{table}");

    // The one before is now the other one; and it is named by its generation.
    z.rollback(&["--to", "web@2"]).is(Verdict::Upgraded);
    z.settled(4);
    assert_eq!(running(&z), ("two".into(), path.clone()));
    z.rollback(&["web", "--to", "1"]).is(Verdict::Upgraded);
    z.settled(5);
    assert_eq!(running(&z).0, "one");
    for (to, reason) in [("5", "generation 5 serves already"), ("9", "the release of generation 9 is not kept")] {
        let refused = z.supervisor.run(&["rollback", "--to", to]);
        assert_eq!(refused.status.code(), Some(5), "{refused:?}");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains(reason) && said.contains(&format!("kept are web@4 ({path})")), "{said}");
    }
    assert_eq!(z.supervisor.run(&["rollback", "web", "--to", "api@1"]).status.code(), Some(2));
    load.unharmed();
    z.end();
}

/// Two that are asked for during an upgrade go back to what served, and no further, whatever becomes of that.
#[test]
fn a_rollback_that_waits_goes_back_to_what_served() {
    let mut z = Zdsup::serving(&["serve", "--lame-duck", "300"]);
    z.upgrade();
    z.settled(2);
    z.release(&["never-ready"]);
    thread::scope(|scope| {
        let z = &z;
        let reload = scope.spawn(|| z.reload(&[]));
        z.wait_for("the candidate", |status| generation(status, 3).is_some());
        let rollbacks = [&["--to", "2"][..], &[]].map(|more| scope.spawn(move || z.rollback(more)));
        for upgrade in [4, 5] {
            z.supervisor.wait_for_log(&format!("requested during an upgrade: it is the next upgrade={upgrade}"));
        }
        assert!(z.supervisor.run(&["abort"]).status.success());
        reload.join().expect("it does not panic").is(Verdict::Aborted).still_serving(2);
        for rollback in rollbacks {
            let rollback = rollback.join().expect("it does not panic");
            assert_eq!(rollback.is(Verdict::Refused).because("generation 2 serves already").code, 5);
        }
    });
    z.settled(2);
    z.end();
}

#[test]
fn a_rollback_to_what_was_overwritten_is_refused() {
    let mut z = deployed();
    let load = Load::start(&z.target());
    put(&z.place, "other");
    z.configure(|setup| setup.command[0] = setup.command[0].replace("/web", "/other"));
    z.upgrade();
    z.settled(2);
    std::fs::write(z.place.join("web"), "#!/bin/false\n").expect("nothing runs it");
    let reload = z.rollback(&[]).is(Verdict::Refused).because("was overwritten in place since it was pinned");
    assert_eq!(reload.code, 5);
    let hint = reload.verdict().and_then(|verdict| verdict.hint.clone()).unwrap_or_default();
    assert!(hint.contains("kept are web@1 ("), "{hint}");
    z.settled(2);
    z.upgrade();
    load.unharmed();
    z.end();
}

#[test]
fn where_no_release_is_kept_there_is_no_way_back() {
    let z = Zdsup::serving_with(&["serve", "--lame-duck", "300"], |setup, _| {
        setup.upgrade = vec!["keep-releases = 0".into()]
    });
    z.upgrade();
    z.settled(2);
    let refused = z.supervisor.run(&["rollback", "--to", "1"]);
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("upgrade.keep-releases = 0"), "{said}");
    z.end();
}

// ---- scale, and a crash of one among several ----------------------------------------------------------------------

impl Zdsup {
    #[track_caller]
    fn scale(&self, instances: u32) -> String {
        let done = self.supervisor.run(&["scale", "web", &instances.to_string()]);
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stderr).expect("text")
    }
}

/// Rather nothing at all than some of them, and no descriptors for anything else.
#[test]
fn more_than_there_are_descriptors_for() {
    let z = three(&[]);
    let limited = Command::new("prlimit").args(["--pid", &z.supervisor.pid().to_string(), "--nofile=100:"]).status();
    if limited.is_err() {
        return skip("there is no prlimit");
    }
    let refused = z.supervisor.run(&["scale", "web", "40"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(5), "{said}");
    assert!(said.contains("of at most 100 descriptors open") && said.contains("free for a scaling"), "{said}");
    assert_eq!(all_serve(&z, 1).len(), 3);
    z.end();
}

#[test]
fn scale_up_and_down_and_over_reloads() {
    let mut z = three(&["max-draining = 100"]);
    let load = Load::start(&z.target());
    let said = z.scale(5);
    assert!(said.contains("web@1 has 5 instances: 2 more are started"), "{said}");
    assert_eq!(all_serve(&z, 1).len(), 5);
    let service = z.status().services.remove(0);
    assert_eq!((service.instances, service.configured), (5, Some(3)));
    let table = String::from_utf8(z.supervisor.run(&["status"]).stdout).expect("text");
    assert!(table.contains("scaled to 5 instances; its config says 3"), "{table}");
    z.upgrade();
    assert_eq!(all_serve(&z, 2).len(), 5, "a reload whose config says what it said");

    let said = z.scale(1);
    assert!(said.contains("4 are ended"), "{said}");
    assert_eq!(all_serve(&z, 2).len(), 1);
    z.supervisor.upgrade("restart", &[]).is(Verdict::Upgraded);
    assert_eq!(all_serve(&z, 3).len(), 1);
    let said = z.scale(3);
    assert!(said.contains("that is what its config says"), "{said}");
    assert_eq!(all_serve(&z, 3).len(), 3);
    assert_eq!(z.status().services[0].configured, None);

    z.scale(4);
    z.configure(|setup| setup.service = vec!["instances = 2".into()]);
    z.upgrade();
    assert_eq!(all_serve(&z, 4).len(), 2, "the config says another number");

    z.release(&["never-ready"]);
    thread::scope(|scope| {
        let reload = scope.spawn(|| z.reload(&[]));
        z.wait_for("the candidate", |status| status.services[0].upgrade.is_some());
        let refused = z.supervisor.run(&["scale", "web", "3"]);
        assert_eq!(refused.status.code(), Some(5), "{refused:?}");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains("an upgrade is in flight") && said.contains("zdsup abort web"), "{said}");
        let refused = z.supervisor.run(&["promote"]);
        assert_eq!(refused.status.code(), Some(5), "{refused:?}");
        assert!(z.supervisor.run(&["abort"]).status.success());
        reload.join().expect("it does not panic").is(Verdict::Aborted);
    });
    load.unharmed();
    z.end();
}

#[test]
fn one_of_several_that_crashes_is_started_again_and_the_others_serve() {
    let z = three(&[]);
    let before = all_serve(&z, 1);
    let victim = *before.first().expect("there are three");
    process::kill(victim, Signal::SIGKILL);
    let status = z.wait_for("it is started again", |status| {
        generation(status, 1).is_some_and(|one| one.instances.iter().any(|instance| instance.instance == "1.4"))
    });
    assert_eq!(status.services[0].serving, Some(1), "the others serve meanwhile");
    for _ in 0..20 {
        assert_eq!(z.get("/").status, 200);
    }
    let after = all_serve(&z, 1);
    assert_eq!(before.intersection(&after).count(), 2, "the others were left alone");
    z.end();
}

// ---- the supervisor dies, or replaces itself, in the middle -------------------------------------------------------

/// How another supervisor comes to take its place.
#[derive(Clone, Copy, Debug)]
enum Succession {
    Killed,
    Reexecuted,
}

impl Succession {
    const ALL: [Self; 2] = [Self::Killed, Self::Reexecuted];

    fn arguments(self) -> Vec<String> {
        match self {
            Self::Killed => vec!["--keeper".into()],
            Self::Reexecuted => vec![],
        }
    }

    /// Waits until the next supervisor answers.
    fn happen(self, z: &Zdsup) {
        let before = z.status().supervisor;
        match self {
            Self::Killed => process::kill(before.pid, Signal::SIGKILL),
            Self::Reexecuted => z.supervisor.signal(Signal::SIGUSR2),
        }
        z.wait_for("another supervisor", |status| status.supervisor.incarnation > before.incarnation);
    }
}

fn ask_for_upgrade(z: &Zdsup) -> u64 {
    let socket = z.supervisor.control_socket();
    let answer = client::control(&socket, "POST", "/v1/upgrades", Some(r#"{"kind":"reload"}"#)).expect("it answers");
    serde_json::from_str::<UpgradeAccepted>(&answer.body).expect("an upgrade").id
}

#[test]
fn a_rolling_upgrade_goes_on_past_the_supervisor() {
    for succession in Succession::ALL {
        let mut z = Zdsup::serving_with(&["serve", "--lame-duck", "300"], |setup, _| {
            instances(setup, &[]);
            setup.upgrade = rolling(PACES[0]);
            setup.arguments = succession.arguments();
        });
        all_serve(&z, 1);
        let load = Load::start(&z.target());
        let gate = z.place.join("gate");
        z.release(&["later", "--from", "2", "--then", "serve", "--gate", &gate.display().to_string()]);
        let upgrade = ask_for_upgrade(&z);
        z.wait_for("one instance takes part, the next is on its way", |status| {
            generation(status, 2).is_some_and(|one| one.state == GenerationState::Rolling && one.instances.len() == 2)
        });
        succession.happen(&z);
        let status = z.status();
        let new = generation(&status, 2).expect("the candidate is there");
        assert_eq!((new.state, new.ready, strength(&status).0), (GenerationState::Rolling, 1, 3), "{succession:?}");
        std::fs::write(&gate, "").expect("a file");
        assert_eq!(z.supervisor.verdict_of(upgrade).verdict, Verdict::Upgraded, "{succession:?}");
        all_serve(&z, 2);
        load.unharmed();
        z.end();
    }
}

#[test]
fn the_way_back_goes_on_past_the_supervisor() {
    for succession in Succession::ALL {
        let mut z = Zdsup::started(&["serve"], |setup, place| {
            let gate = place.join("gate").display().to_string();
            std::fs::write(&gate, "").expect("a file");
            setup.hazard(&["serve", "--lame-duck", "300", "--gate", &gate]);
            instances(setup, &[]);
            setup.upgrade = rolling(PACES[0]);
            setup.arguments = succession.arguments();
        });
        all_serve(&z, 1);
        let load = Load::start(&z.target());
        let gate = z.place.join("gate");
        std::fs::remove_file(&gate).expect("it is there");
        z.release(&["later", "--from", "2", "--then", "exits"]);
        let upgrade = ask_for_upgrade(&z);
        z.wait_for("the candidate is given up", |status| {
            generation(status, 2).is_some_and(|one| one.state == GenerationState::Retreating)
        });
        succession.happen(&z);
        let status = z.status();
        assert_eq!(generation(&status, 2).map(|one| one.state), Some(GenerationState::Retreating), "{succession:?}");
        assert_eq!(status.services[0].upgrade.as_ref().map(|upgrade| upgrade.step.as_str()), Some("returning"));
        let refused = z.supervisor.run(&["abort"]);
        assert_eq!(refused.status.code(), Some(5), "{refused:?}");
        load.more(20);
        std::fs::write(&gate, "").expect("a file");
        let verdict = z.supervisor.verdict_of(upgrade);
        assert_eq!(verdict.verdict, Verdict::RolledBack, "{succession:?}: {verdict:?}");
        assert_eq!(verdict.reason.as_deref(), Some("ended before it was ready: exit status 1"));
        assert_ne!(verdict.step, "returning");
        assert!(verdict.output.iter().any(|line| line.contains("cannot read")), "{succession:?}: {verdict:?}");
        all_serve(&z, 1);
        load.unharmed();
        z.end();
    }
}

// ---- what steered traffic adds ------------------------------------------------------------------------------------

#[test]
fn a_canary_waits_for_whoever_promotes_it() {
    let z = Zdsup::serving_with(&["serve", "--lame-duck", "300"], |setup, _| {
        setup.service.push("traffic = \"steered\"".into());
        setup.upgrade = vec![
            "strategy = \"canary\"".into(),
            "canary = { steps = [{ weight = 5 }, { weight = 50 }], manual = true }".into(),
        ];
    });
    let load = Load::start(&z.target());
    let weights = |status: &Status| -> Vec<(u64, Option<u32>)> {
        status.services[0].generations.iter().map(|one| (one.generation, one.weight)).collect()
    };
    let waits = |weight: u32| {
        z.wait_for(&format!("it waits at {weight} %"), |status| {
            status.services[0].upgrade.as_ref().is_some_and(|upgrade| upgrade.step == "awaiting-promotion")
                && generation(status, 2).is_some_and(|one| one.weight == Some(weight))
        })
    };
    thread::scope(|scope| {
        let reload = scope.spawn(|| z.upgrade());
        assert_eq!(weights(&waits(5)), [(2, Some(5)), (1, Some(95))]);
        let promoted = z.supervisor.run(&["promote"]);
        assert!(promoted.status.success(), "{promoted:?}");
        let said = String::from_utf8_lossy(&promoted.stderr).into_owned();
        assert!(said.contains("web@2 is promoted: 50 % of new connections go to it"), "{said}");
        assert_eq!(weights(&waits(50)), [(2, Some(50)), (1, Some(50))]);
        let promoted = z.supervisor.run(&["promote", "web", "--full"]);
        assert!(promoted.status.success(), "{promoted:?}");
        let reload = reload.join().expect("it does not panic");
        let user = nix::unistd::geteuid();
        let promotions = messages(&reload, "promoted");
        assert_eq!(promotions[0], format!("promoted by user {user}: 50 % of new connections go to it"));
        assert_eq!(promotions[1], format!("promoted by user {user}: all new connections go to it"));
    });
    z.settled(2);
    load.unharmed();
    z.end();
}

#[test]
fn a_standby_is_gone_back_to_at_once() {
    let z = Zdsup::serving_with(&["serve", "--lame-duck", "300"], |setup, _| {
        setup.service.push("traffic = \"steered\"".into());
        setup.upgrade = vec!["strategy = \"blue-green\"".into(), "standby = \"10m\"".into()];
    });
    let load = Load::start(&z.target());
    z.upgrade();
    let status = z.wait_for("it stands by", |status| {
        generation(status, 1).is_some_and(|one| one.state == GenerationState::Standby)
    });
    let service = &status.services[0];
    assert!(service.kept[0].standby.is_some_and(|left| (1.0..=600.0).contains(&left)), "{service:?}");
    let table = String::from_utf8(z.supervisor.run(&["status"]).stdout).expect("text");
    assert!(table.contains("rollback: web@1 (at once)"), "{table}");
    let pid = generation(&status, 1).and_then(|one| one.instances[0].pid);
    let back = z.rollback(&[]).is(Verdict::Upgraded);
    let message = &back.events.iter().find(|event| event.verdict.is_some()).expect("a verdict").message;
    assert_eq!(message, "upgraded: web@1 serves again");
    let status = z.settled(1);
    assert_eq!(generation(&status, 1).and_then(|one| one.instances[0].pid), pid, "the very same process");
    load.unharmed();
    z.end();
}

// ---- watching -----------------------------------------------------------------------------------------------------

#[test]
fn a_status_that_is_watched_goes_on_past_the_supervisor() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;
    let mut z = Zdsup::serving(&["serve", "--lame-duck", "300"]);
    let mut command = crate::support::supervisor::command(&z.supervisor.runtime);
    command.args(["status", "--watch"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut watch = command.spawn().expect("zdsup can be started");
    let mut lines = BufReader::new(watch.stdout.take().expect("it is piped")).lines();
    let mut until = |fragment: &str| {
        let found = lines.by_ref().any(|line| line.expect("text").contains(fragment));
        assert!(found, "{fragment:?} was never shown");
    };
    until("--- ");
    until("web@1       serving  1/1");
    let before = z.status().supervisor.incarnation;
    z.supervisor.signal(Signal::SIGUSR2);
    z.wait_for("a successor", |status| status.supervisor.incarnation > before);
    z.upgrade();
    until("web@2       serving");
    until("--- ");
    assert!(z.supervisor.end().success());
    z.supervisor.nothing_left();
    let ended = eventually("it ends with the supervisor", || watch.try_wait().expect("it is our child"));
    assert_eq!(ended.code(), Some(3));
}
