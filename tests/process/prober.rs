//! What clients see of an upgrade, as zdsup itself sees it: the figures of its record, and what follows from them.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use zdsup::control::types::{HistoryPage, ProbeSummary, Status, SupervisorEvent, UpgradeRecord, Verdict};

use crate::support::{Place, Setup, Zdsup, eventually, process};

/// Asks so often that a test need not take long.
const PROBE: &str = "probe = { http = \"/healthz\", rate = 200 }";

impl Zdsup {
    /// The record of an upgrade, once it is written.
    #[track_caller]
    fn record(&self, upgrade: u64) -> UpgradeRecord {
        eventually(&format!("upgrade {upgrade} is on record"), || {
            let output = self.supervisor.run(&["history", "--json"]);
            assert!(output.status.success(), "{output:?}");
            let page: HistoryPage = serde_json::from_slice(&output.stdout).expect("a history");
            page.upgrades.into_iter().find(|record| record.id == upgrade)
        })
    }

    #[track_caller]
    fn probe(&self, upgrade: u64) -> ProbeSummary {
        let record = self.record(upgrade);
        record.probe.clone().unwrap_or_else(|| panic!("nobody asked: {record:?}"))
    }
}

fn words(place: &Place, health: &str) -> Vec<String> {
    ["serve", "--health"].map(str::to_owned).into_iter().chain([place.join(health).display().to_string()]).collect()
}

/// A service whose first release is well, and whose next one is as this file says.
fn serving(candidate: &str, adjust: impl FnOnce(&mut Setup, &Place)) -> Zdsup {
    let mut z = Zdsup::serving_with(&["serve"], |setup, place| {
        fs::write(place.join("candidate"), candidate).expect("a file can be written");
        setup.upgrade.push(PROBE.into());
        adjust(setup, place);
    });
    let words = words(&z.place, "candidate");
    z.release(&words.iter().map(String::as_str).collect::<Vec<_>>());
    z
}

fn canary(setup: &mut Setup, steps: &str) {
    setup.service.push("traffic = \"steered\"".into());
    setup.upgrade.push(format!("strategy = \"canary\"\ncanary = {{ {steps} }}"));
}

#[test]
fn a_good_upgrade_has_figures() {
    for steered in [false, true] {
        let z = serving("", |setup, _| {
            setup.upgrade.push("soak = \"500ms\"".into());
            if steered {
                setup.service.push("traffic = \"steered\"".into());
            }
        });
        let began = Instant::now();
        let reload = z.upgrade();
        assert!(began.elapsed() > Duration::from_secs(2), "what was before has to be seen");
        assert!(reload.events.iter().any(|event| event.event == "probing"), "{reload:?}");
        let ProbeSummary { inside, before, errors, kernel, partial } = z.probe(2);
        let before = before.expect("there is a time before");
        assert_eq!((inside.errors, before.errors, errors), (0, 0, Default::default()));
        assert!(before.requests > 100 && before.requests <= 410, "{before:?}");
        // The soak, and 2 s that follow the switch.
        assert!(inside.requests > 125 && inside.requests < 1000 && !partial, "{inside:?}");
        for figures in [&inside, &before] {
            assert!(figures.p50 > 0.0 && figures.p50 <= figures.p99 && figures.p99 < 2.0, "{figures:?}");
        }
        assert!(kernel.is_some());
        let shown = z.supervisor.run(&["history", "web@2"]);
        let shown = String::from_utf8(shown.stdout).expect("text");
        assert!(shown.contains("clients saw 0 errors in") && shown.contains("waited to be accepted"), "{shown}");
        let kpi = z.supervisor.run(&["kpi", "--json"]);
        let kpi: serde_json::Value = serde_json::from_slice(&kpi.stdout).expect("figures");
        assert_eq!(kpi["client_requests"], inside.requests);
        z.end();
    }
}

/// The old generation is gone before the last answers have come, so its end is on the disk before the upgrade itself.
#[test]
fn what_an_upgrade_has_ended_is_on_record_however_late_the_answers_are() {
    let z = serving("slow 1500", |setup, _| setup.upgrade.push("soak = \"500ms\"".into()));
    z.upgrade();
    z.settled(2);
    let record = z.record(2);
    let text = fs::read_to_string(z.place.join("state/history.jsonl")).expect("there is a history");
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("\"id\":2,")).collect();
    let place = |what: &str| lines.iter().position(|line| line.contains(what));
    assert!(place("\"drained\":").is_some_and(|at| Some(at) < place("\"upgrade\":")), "{text}");
    assert!(record.drain.is_some_and(|drain| drain < 1.5), "{record:?}");
    let shown = z.supervisor.run(&["history", "web@2"]);
    let shown = String::from_utf8(shown.stdout).expect("text");
    assert!(shown.lines().any(|line| line.trim_start().starts_with("draining")), "{shown}");
    z.end();
}

/// The errors of the record are exactly those that the candidate has answered.
#[test]
fn a_canary_that_answers_errors_is_rolled_back_by_the_budget() {
    let z = serving("500", |setup, _| {
        canary(setup, "steps = [{ weight = 20, hold = \"60s\" }]");
        setup.upgrade.push("max-error-rate = \"1%\"".into());
    });
    let reload = z.reload(&[]).is(Verdict::RolledBack).because("probe requests failed (").still_serving(1);
    assert!(reload.events.iter().any(|event| event.event == "over-budget"), "{reload:?}");
    let feed = z.supervisor.run(&["events", "--json"]);
    let feed = String::from_utf8(feed.stdout).expect("text");
    let feed: Vec<SupervisorEvent> = feed.lines().map(|line| serde_json::from_str(line).expect("an event")).collect();
    for (event, generation) in [("probing", None), ("over-budget", Some(2))] {
        let told = feed.iter().find(|told| told.event == event).unwrap_or_else(|| panic!("no {event}: {feed:?}"));
        assert_eq!((told.upgrade, told.generation), (Some(2), generation), "{told:?}");
    }
    let reason = reload.verdict().and_then(|verdict| verdict.reason.clone()).expect("a reason");
    for part in ["at most 1 % may; before: 0 of ", ": /healthz through http; the last one: status 500"] {
        assert!(reason.contains(part), "{reason}");
    }
    let ProbeSummary { inside, before, errors, .. } = z.probe(2);
    assert_eq!(before.expect("there is a time before").errors, 0);
    assert_eq!(errors.status, inside.errors, "{errors:?}");
    assert!(inside.errors >= 2 && inside.errors < inside.requests, "{inside:?}");
    // What it says itself.
    let log = z.supervisor.log();
    let answered = log.lines().filter(|line| line.contains("answered /healthz with 500")).count();
    assert_eq!(answered as u64, inside.errors, "{log}");
    let rollback = z.record(2).rollback.expect("that is what it was");
    assert!(rollback < 1.0, "{rollback} s");
    z.settled(1);
    z.end();
}

#[test]
fn clients_that_stay_with_one_release_are_many() {
    let z = serving("500", |setup, _| {
        canary(setup, "steps = [{ weight = 20, hold = \"60s\" }], affinity = \"source\"");
        setup.upgrade.push("max-error-rate = \"1%\"".into());
    });
    z.reload(&[]).is(Verdict::RolledBack).because("the last one: status 500").still_serving(1);
    z.end();
}

#[test]
fn a_soak_in_which_clients_see_errors_is_rolled_back() {
    let z = serving("500", |setup, _| {
        setup.upgrade.push("soak = \"60s\"\nmax-error-rate = \"5%\"".into());
    });
    z.reload(&[]).is(Verdict::RolledBack).because("at most 5 % may").still_serving(1);
    z.end();
}

/// A service that fails as it is could not be mended otherwise.
#[test]
fn what_failed_before_is_not_the_candidates_fault() {
    let z = serving("", |setup, _| {
        canary(setup, "steps = [{ weight = 50, hold = \"500ms\" }]");
        setup.upgrade.push("max-error-rate = \"1%\"".into());
    });
    z.upgrade();
    fs::write(z.place.join("candidate"), "500").expect("a file can be written");
    z.upgrade();
    let ProbeSummary { inside, before, .. } = z.probe(3);
    let before = before.expect("there is a time before");
    assert!(before.requests > 100 && before.errors == before.requests, "{before:?}");
    assert!(inside.errors > 100, "{inside:?}");
    z.end();
}

/// The first instances of it are judged while the others wait.
#[test]
fn a_rolling_upgrade_is_judged() {
    let z = serving("500", |setup, _| {
        setup.service.push("instances = 3".into());
        setup.upgrade.push("strategy = \"rolling\"\nsoak = \"60s\"\nmax-error-rate = \"5%\"".into());
    });
    z.reload(&[]).is(Verdict::RolledBack).because("at most 5 % may").still_serving(1);
    z.end();
}

#[test]
fn over_a_unix_socket() {
    let z = serving("500", |setup, place| {
        setup.listen.push(("admin".into(), format!("unix:{}", place.join("admin").display())));
        let probe = "probe = { http = \"/healthz\", rate = 200, listener = \"admin\" }";
        setup.upgrade = vec![probe.into(), "soak = \"60s\"\nmax-error-rate = \"5%\"".into()];
    });
    z.reload(&[]).is(Verdict::RolledBack).because("/healthz through admin; the last one: status 500");
    let ProbeSummary { inside, before, kernel, .. } = z.probe(2);
    assert!(before.is_some_and(|before| before.requests > 100 && before.errors == 0));
    assert!(inside.errors > 0 && kernel.is_some(), "{inside:?}");
    z.end();
}

/// All of the traffic moves with the verdict: that is what clients notice.
#[test]
fn what_follows_the_switch_is_seen() {
    let z = serving("500", |setup, _| setup.service.push("traffic = \"steered\"".into()));
    z.upgrade();
    let ProbeSummary { inside, partial, .. } = z.probe(2);
    assert!(inside.errors > 100 && !partial, "{inside:?}");
    z.end();
}

/// Nobody waits for what follows, and who is not there any more makes no errors.
#[test]
fn what_follows_ends_with_the_service_and_with_the_next_upgrade() {
    let z = serving("", |_, _| {});
    z.upgrade();
    z.upgrade();
    z.record(2);
    assert!(z.supervisor.run(&["stop", "web"]).status.success());
    let probe = z.probe(3);
    assert_eq!((probe.inside.errors, probe.partial), (0, false), "{probe:?}");
    z.end();
}

/// The supervisor dies after the verdict and before the record: what was seen until then is in it.
#[test]
fn a_death_before_the_record_loses_no_figures() {
    let z = serving("", |setup, _| {
        setup.upgrade.push("soak = \"500ms\"".into());
        setup.arguments.push("--keeper".into());
    });
    z.upgrade();
    let pid = z.settled(2).supervisor.pid;
    process::kill(pid, Signal::SIGKILL);
    let probe = z.probe(2);
    assert!(z.record(2).drain.is_some(), "it was over before the record was written");
    assert!(probe.partial && probe.before.is_some() && probe.inside.requests > 10, "{probe:?}");
    let shown = z.supervisor.run(&["history", "web@2"]);
    let shown = String::from_utf8(shown.stdout).expect("text");
    assert!(shown.contains("  at least: "), "{shown}");
    z.end();
}

#[test]
fn a_reexec_goes_on_counting() {
    let z = serving("", |setup, _| {
        canary(setup, "steps = [{ weight = 50 }], manual = true");
        setup.upgrade.push("max-error-rate = \"1%\"".into());
    });
    assert_eq!(z.reload(&["--no-wait"]).code, 0);
    let seen = |status: &Status| status.services[0].upgrade.as_ref().and_then(|upgrade| upgrade.probe.clone());
    let requests = |status: &Status| seen(status).map_or(0, |probe| probe.inside.requests);
    let before = z.wait_for("the canary answers", |status| {
        let step = status.services[0].upgrade.as_ref().map(|upgrade| upgrade.step.as_str());
        step == Some("awaiting-promotion") && requests(status) > 50
    });
    assert!(z.supervisor.run(&["reexec"]).status.success());
    let after = z.wait_for("its successor asks", |status| {
        status.supervisor.incarnation == 2 && requests(status) > requests(&before) + 10
    });
    assert_eq!(seen(&after).map(|probe| probe.before), seen(&before).map(|probe| probe.before));
    fs::write(z.place.join("candidate"), "500").expect("a file can be written");
    assert_eq!(z.supervisor.verdict_of(2).verdict, Verdict::RolledBack);
    let probe = z.probe(2);
    assert!(probe.partial && probe.inside.requests > requests(&after), "{probe:?}");
    z.end();
}

/// Nothing is resolved for it, and it is probed all the same.
#[test]
fn a_rollback_to_what_stands_by() {
    let z = serving("", |setup, _| {
        setup.service.push("traffic = \"steered\"".into());
        setup.upgrade.push("strategy = \"blue-green\"".into());
    });
    z.upgrade();
    z.supervisor.upgrade("rollback", &[]).is(Verdict::Upgraded);
    let probe = z.probe(3);
    assert!(probe.before.is_none() && probe.inside.requests > 100 && probe.inside.errors == 0, "{probe:?}");
    z.end();
}

#[test]
fn without_a_budget_errors_are_only_counted() {
    let z = serving("503", |setup, _| canary(setup, "steps = [{ weight = 50, hold = \"500ms\" }]"));
    z.upgrade();
    let ProbeSummary { inside, errors, .. } = z.probe(2);
    assert!(inside.errors > 10 && errors.status == inside.errors, "{inside:?}");
    let output = z.supervisor.run(&["history"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("clients saw"), "{text}");
    z.end();
}

#[test]
fn a_slow_release_shows() {
    let z = serving("slow 150", |setup, _| canary(setup, "steps = [{ weight = 30, hold = \"1s\" }]"));
    z.upgrade();
    let ProbeSummary { inside, before, .. } = z.probe(2);
    let before = before.expect("there is a time before");
    assert!(inside.p99 > 0.15 && inside.p99 < 2.0, "{inside:?}");
    assert!(before.p50 < 0.1 && before.p99 < inside.p99, "{before:?} {inside:?}");
    z.end();
}

/// What callers see of a pause is nobody's error.
#[test]
fn a_pause_is_not_counted() {
    let z = serving("", |setup, _| {
        canary(setup, "steps = [{ weight = 50 }], manual = true");
        setup.upgrade.push("max-error-rate = \"0%\"".into());
    });
    assert_eq!(z.reload(&["--no-wait"]).code, 0);
    z.wait_for("the canary has its share", |status| {
        status.services[0].upgrade.as_ref().is_some_and(|upgrade| upgrade.step == "awaiting-promotion")
    });
    assert!(z.supervisor.run(&["pause", "--max", "2500ms"]).status.success());
    z.wait_for("it is over", |status| status.services[0].paused.is_none());
    assert!(z.supervisor.run(&["promote"]).status.success());
    assert_eq!(z.supervisor.verdict_of(2).verdict, Verdict::Upgraded);
    let probe = z.probe(2);
    assert_eq!(probe.inside.errors, 0, "{probe:?}");
    z.end();
}

#[test]
fn nothing_is_left_of_it() {
    let z = serving("", |_, _| {});
    z.upgrade();
    z.settled(2);
    z.probe(2);
    let before = process::settled_holdings(z.supervisor.pid(), &z.supervisor.runtime, None);
    for upgrade in 3..6 {
        z.upgrade();
        z.settled(upgrade);
        z.probe(upgrade);
    }
    let after = process::settled_holdings(z.supervisor.pid(), &z.supervisor.runtime, Some(&before));
    assert_eq!(after, before);
    z.end();
}

/// A rollback is not to wait.
#[test]
fn a_rollback_measures_nothing_before() {
    let z = serving("", |_, _| {});
    z.upgrade();
    z.settled(2);
    let began = Instant::now();
    z.supervisor.upgrade("rollback", &[]).is(Verdict::Upgraded);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(z.probe(3).before, None);
    z.end();
}

/// Whatever ends it while clients are asked for before: the release is let go of, and the next upgrade goes well.
#[test]
fn an_abort_before_anything_is_started() {
    let z = serving("", |_, _| {});
    let reload = z.reload(&["--no-wait"]);
    assert_eq!(reload.code, 0);
    eventually("it asks", || z.supervisor.log().contains("before anything is started").then_some(()));
    assert!(z.supervisor.run(&["abort"]).status.success());
    assert_eq!(z.supervisor.verdict_of(2).verdict, Verdict::Aborted);
    z.reload(&[]).is(Verdict::Upgraded);
    z.settled(2);
    z.end();
}

/// The supervisor is killed in a step of a canary: its successor goes on asking, and judges.
#[test]
fn a_successor_goes_on_asking() {
    let z = serving("", |setup, _| {
        canary(setup, "steps = [{ weight = 50, hold = \"60s\" }]");
        setup.upgrade.push("max-error-rate = \"1%\"".into());
        setup.arguments.push("--keeper".into());
    });
    assert_eq!(z.reload(&["--no-wait"]).code, 0);
    let before = z.wait_for("the canary has its share", |status| {
        status.services[0].upgrade.as_ref().is_some_and(|upgrade| upgrade.step == "weighted")
    });
    process::kill(before.supervisor.pid, Signal::SIGKILL);
    let after = z.wait_for("a successor asks", |status| {
        let upgrade = status.services[0].upgrade.as_ref();
        let asks = upgrade.and_then(|upgrade| upgrade.probe.as_ref()).is_some_and(|probe| probe.inside.requests > 0);
        status.supervisor.pid != before.supervisor.pid && asks
    });
    assert_eq!(after.services[0].serving, Some(1));
    fs::write(z.place.join("candidate"), "500").expect("a file can be written");
    let verdict = z.supervisor.verdict_of(2);
    assert_eq!(verdict.verdict, Verdict::RolledBack, "{verdict:?}");
    let probe = z.probe(2);
    assert!(probe.inside.errors > 0 && probe.partial, "{probe:?}");
    assert!(probe.before.is_some_and(|before| before.requests > 100), "what was before is known still");
    z.end();
}
