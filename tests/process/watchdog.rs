//! The watchdog of services: who says that it lives is left alone, who falls silent is ended and started again.

use std::fs;

use nix::sys::signal::Signal;
use zdsup::control::types::{ServiceState, Status, Verdict};

use crate::support::supervisor::generation;
use crate::support::{Setup, Zdsup, eventually};

/// No core dumps from tests.
const NO_CORE: &str = "limits = { core = 0 }";

fn watched(setup: &mut Setup, timeout: &str) {
    setup.service = vec![NO_CORE.into()];
    setup.watchdog = vec![format!("timeout = {timeout:?}")];
    setup.restart = vec!["backoff = \"100ms..1s\"".into()];
}

/// The newest process of this generation is this one, and ready.
fn runs(status: &Status, number: u64, instance: &str) -> bool {
    status.services[0].serving == Some(number)
        && generation(status, number).is_some_and(|one| one.instances.iter().all(|one| one.instance == instance))
}

fn detail(status: &Status) -> &str {
    status.services[0].detail.as_deref().unwrap_or_default()
}

#[test]
fn one_that_says_that_it_lives_is_left_alone() {
    let z = Zdsup::serving_with(&["watchdog"], |setup, _| watched(setup, "2s"));
    let status = z.wait_for("it has lived for thrice its time", |status| {
        generation(status, 1).is_some_and(|one| one.instances[0].age > 6.0)
    });
    assert!(runs(&status, 1, "1.1"), "{status:?}");
    assert_eq!(generation(&status, 1).and_then(|one| one.instances[0].remaining), None);
    let log = z.supervisor.log();
    assert!(!log.contains("atchdog"), "a keep-alive is nothing to be told: {log}");
    z.end();
}

#[test]
fn one_that_falls_silent_is_ended_and_started_again() {
    let z = Zdsup::serving_with(&["watchdog"], |setup, place| {
        watched(setup, "1s");
        // Long enough to be seen.
        setup.restart = vec!["backoff = \"2s..5s\"".into()];
        setup.command.extend(["--silent-when".into(), place.join("silent").display().to_string()]);
    });
    fs::write(z.place.join("silent"), "").expect("a file can be written");
    let status = z.wait_for("it backs off, and says why", |status| {
        status.services[0].state == ServiceState::BackingOff && detail(status).contains("failure 1 in a row")
    });
    assert!(detail(&status).starts_with("no watchdog message in 1 s;"), "{status:?}");
    z.wait_for("the next one serves", |status| runs(status, 1, "1.2"));
    assert_eq!(z.get("/").generation(), 1);
    let log = z.supervisor.log();
    assert!(log.contains("is sent the watchdog's signal"), "{log}");
    assert!(log.contains("ended: killed by SIGABRT"), "{log}");
    z.upgrade();
    z.settled(2);
    z.end();
}

#[test]
fn one_that_falls_silent_in_its_soak_is_rolled_back_and_the_old_one_is_untouched() {
    let mut z = Zdsup::serving(&["serve"]);
    let pid = z.get("/").value("pid").expect("a number").to_owned();
    z.release(&["watchdog", "--silent", "--idle"]);
    z.configure(|setup| {
        watched(setup, "500ms");
        setup.upgrade = vec!["soak = \"1h\"".into()];
    });
    let reload = z.reload(&[]).is(Verdict::RolledBack).because("no watchdog message in 500 ms").still_serving(1);
    assert!(reload.events.iter().any(|event| event.event == "aborting"), "{reload:?}");
    let hint = reload.verdict().and_then(|verdict| verdict.hint.clone()).expect("it says what to do");
    assert!(hint.contains("WATCHDOG=1"), "{hint}");
    let status = z.settled(1);
    assert!(runs(&status, 1, "1.1"), "{status:?}");
    assert_eq!(z.get("/").value("pid"), Some(pid.as_str()));
    assert!(!z.supervisor.log().contains("web@1 is draining"));
    z.end();
}

#[test]
fn one_that_says_that_it_is_broken_is_ended_without_a_watchdog_too() {
    let z = Zdsup::serving_with(&["watchdog"], |setup, place| {
        setup.watchdog = vec!["signal = \"SIGKILL\"".into()];
        setup.command.extend(["--trigger-when".into(), place.join("broken").display().to_string()]);
    });
    fs::write(z.place.join("broken"), "").expect("a file can be written");
    z.wait_for("the next one serves", |status| runs(status, 1, "1.2"));
    let log = z.supervisor.log();
    assert!(log.contains("said WATCHDOG=trigger: process"), "{log}");
    assert!(log.contains("ended: killed by SIGKILL"), "the configured signal: {log}");
    z.end();
}

#[test]
fn one_may_choose_its_own_watchdog() {
    let z = Zdsup::serving_with(&["watchdog", "--interval", "1000"], |setup, place| {
        setup.service = vec![NO_CORE.into()];
        setup.command.extend(["--silent-when".into(), place.join("silent").display().to_string()]);
    });
    fs::write(z.place.join("silent"), "").expect("a file can be written");
    z.wait_for("the next one serves", |status| runs(status, 1, "1.2"));
    z.supervisor.wait_for_log("no watchdog message in 1 s");
    z.end();
}

/// What it said while the supervisor did not listen was said in time.
#[test]
fn a_supervisor_that_stalls_blames_nobody() {
    let z = Zdsup::serving_with(&["watchdog"], |setup, place| {
        watched(setup, "2s");
        setup.command.extend(["--count".into(), place.join("count").display().to_string()]);
    });
    let count = || fs::read_to_string(z.place.join("count")).ok()?.parse::<u32>().ok();
    let pid = z.status().services[0].generations[0].instances[0].pid;
    for _ in 0..3 {
        z.supervisor.signal(Signal::SIGSTOP);
        let before = eventually("it has said that it lives", count);
        eventually("it has done so for longer than it may be silent", || count().filter(|now| *now >= before + 6));
        z.supervisor.signal(Signal::SIGCONT);
        let status = z.wait_for("the supervisor answers", |_| true);
        assert_eq!(status.services[0].generations[0].instances[0].pid, pid, "{status:?}");
        assert_eq!(status.services[0].state, ServiceState::Serving, "{status:?}");
    }
    z.end();
}

#[test]
fn a_watched_service_is_told_so() {
    for (listen_pid, tells_the_process) in [(true, true), (false, false)] {
        let z = Zdsup::serving_with(&["report"], |setup, place| {
            setup.command.extend(["--to".into(), place.join("report").display().to_string()]);
            watched(setup, "1h");
            setup.service.push(format!("listen-pid = {listen_pid}"));
        });
        let report = fs::read_to_string(z.place.join("report")).expect("it reported");
        let env = |name: &str| report.lines().find_map(|line| line.strip_prefix(&format!("env {name}=")));
        assert_eq!(env("WATCHDOG_USEC"), Some("3600000000"));
        let pid = report.lines().find_map(|line| line.strip_prefix("pid "));
        assert_eq!(env("WATCHDOG_PID"), pid.filter(|_| tells_the_process));
        z.end();
    }
}

/// The library for services, in the example that uses it, against the real thing.
#[test]
fn the_librarys_watchdog_is_heard() {
    let hyper = crate::support::hazard().with_file_name("hyper");
    let z = Zdsup::serving_with(&[], |setup, _| {
        setup.command = vec![hyper.display().to_string()];
        watched(setup, "2s");
    });
    let pid = z.status().services[0].generations[0].instances[0].pid.expect("it runs");
    let status = z.wait_for("it has lived for twice its time", |status| {
        generation(status, 1).is_some_and(|one| one.instances[0].age > 4.0)
    });
    assert!(runs(&status, 1, "1.1"), "{status:?}");
    // Stopped, its event loop does not turn.
    crate::support::process::kill(pid, Signal::SIGSTOP);
    z.supervisor.wait_for_log("no watchdog message in 2 s");
    crate::support::process::kill(pid, Signal::SIGCONT);
    z.wait_for("the next one serves", |status| runs(status, 1, "1.2"));
    z.end();
}
