//! Health checks: what counts is what an instance answers, not what it says of itself.

use std::fs;

use nix::sys::signal::Signal;
use zdsup::control::types::{InstanceHealth, InstanceState, InstanceStatus, ServiceState, Status, Verdict};

use crate::support::supervisor::generation;
use crate::support::{Load, Place, Setup, Zdsup, eventually, process, setup};

/// Over a listener of its own, often, and after two failures.
fn private(setup: &mut Setup) {
    let lines = ["http = \"/healthz\"", "private = \"health\"", "interval = \"20ms\"", "failures = 2"];
    setup.health = lines.map(str::to_owned).to_vec();
}

/// The switch of a release: what is in this file is how it is.
fn switch(place: &Place, release: u32) -> String {
    place.join(&format!("health{release}")).display().to_string()
}

fn serving_well() -> Zdsup {
    Zdsup::serving_with(&["serve"], |setup, place| {
        private(setup);
        setup.command.extend(["--health".into(), switch(place, 1)]);
    })
}

/// Makes a second release with a switch of its own.
fn second_release(z: &mut Zdsup) {
    let switch = switch(&z.place, 2);
    z.release(&["serve", "--health", &switch]);
}

fn set(z: &Zdsup, release: u32, how: &str) {
    // Whole, so that nobody reads half of it.
    let (draft, path) = (z.place.join("draft"), switch(&z.place, release));
    fs::write(&draft, how).expect("a file can be written");
    fs::rename(draft, path).expect("it can be put in its place");
}

fn instance(status: &Status, number: u64) -> Option<&InstanceStatus> {
    generation(status, number)?.instances.first()
}

fn pid(status: &Status, number: u64) -> u32 {
    instance(status, number).and_then(|one| one.pid).expect("it runs")
}

fn is(status: &Status, number: u64, health: InstanceHealth) -> bool {
    instance(status, number).is_some_and(|one| one.health == health)
}

#[test]
fn a_candidate_that_is_ready_and_not_healthy_is_failed_and_the_old_one_untouched() {
    let mut z = serving_well();
    let old = pid(&z.status(), 1);
    let load = Load::start(&z.target());
    second_release(&mut z);
    set(&z, 2, "503");
    z.configure(|setup| setup.ready = vec!["timeout = \"60s\"".into()]);
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| z.reload(&[]));
        let status = z.wait_for("the candidate is seen to fail", |status| {
            instance(status, 2).is_some_and(|one| one.health_failure.is_some())
        });
        let two = instance(&status, 2).expect("it is there");
        assert_eq!((two.state, two.health), (InstanceState::Proving, InstanceHealth::Proving));
        assert_eq!(two.health_failure.as_deref(), Some("GET /healthz: 503 Service Unavailable"));
        assert_eq!(status.services[0].serving, Some(1));
        let shown = z.supervisor.run(&["status"]);
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.contains("not healthy yet: GET /healthz: 503 Service Unavailable"), "{shown}");
        assert_eq!(z.supervisor.run(&["abort"]).status.code(), Some(0));
        let reload = reload.join().expect("it does not panic").is(Verdict::Aborted).still_serving(1);
        let said = |event: &&zdsup::control::types::UpgradeEvent| event.event == "check";
        let check = reload.events.iter().find(said).expect("it is part of the story");
        assert_eq!(check.message, "a health check failed: GET /healthz: 503 Service Unavailable");
    });
    z.configure(|setup| setup.ready = vec!["timeout = \"500ms\"".into()]);
    let reload = z.reload(&[]).is(Verdict::Failed).still_serving(1);
    let reload =
        reload.because("said that it was ready, and its health checks did not pass in 500 ms; the last one: GET");
    assert!(reload.verdict().and_then(|verdict| verdict.hint.as_deref()).is_some_and(|hint| hint.contains("health")));
    // What answers in time is as good as nothing where nothing is said in time.
    set(&z, 2, "hangs");
    z.configure(|setup| {
        setup.health.push("timeout = \"50ms\"".into());
        setup.drain = vec!["timeout = \"500ms\"".into()];
    });
    z.reload(&[]).is(Verdict::Failed).because("the last one: GET /healthz: no answer in 50 ms").still_serving(1);
    let status = z.settled(1);
    assert_eq!(pid(&status, 1), old);
    // It was meant to take part only once it is well, and answered clients all the same: traffic is shared.
    load.unharmed();
    set(&z, 2, "");
    z.configure(|setup| {
        setup.ready.clear();
        setup.health.pop();
    });
    z.upgrade();
    z.end();
}

#[test]
fn a_candidate_becomes_ready_when_it_becomes_healthy() {
    let mut z = serving_well();
    second_release(&mut z);
    set(&z, 2, "500");
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| z.reload(&[]));
        z.wait_for("the candidate is seen to fail", |status| {
            instance(status, 2).is_some_and(|one| one.health_failure.is_some())
        });
        set(&z, 2, "200");
        let reload = reload.join().expect("it does not panic").is(Verdict::Upgraded);
        assert!(reload.events.iter().any(|event| event.event == "check"), "{reload:?}");
    });
    let status = z.settled(2);
    let two = instance(&status, 2).expect("it serves");
    assert_eq!((two.health, two.health_failure.as_deref()), (InstanceHealth::Passing, None));
    z.end();
}

#[test]
fn one_that_fails_in_its_soak_is_rolled_back() {
    let mut z = serving_well();
    let old = pid(&z.status(), 1);
    second_release(&mut z);
    z.configure(|setup| setup.upgrade = vec!["soak = \"1h\"".into()]);
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| z.reload(&[]));
        z.wait_for("the candidate soaks, and is well", |status| is(status, 2, InstanceHealth::Passing));
        set(&z, 2, "502");
        let reload = reload.join().expect("it does not panic").is(Verdict::RolledBack).still_serving(1);
        reload.because("its health checks failed: GET /healthz: 502 Bad Gateway");
    });
    let status = z.settled(1);
    assert_eq!(pid(&status, 1), old);
    assert!(is(&status, 1, InstanceHealth::Passing));
    z.end();
}

#[test]
fn one_that_fails_while_it_serves_is_started_again() {
    let z = Zdsup::serving_with(&["serve"], |setup, place| {
        private(setup);
        setup.command.extend(["--health".into(), switch(place, 1)]);
        setup.restart = vec!["backoff = \"100ms..1s\"".into()];
    });
    let old = pid(&z.status(), 1);
    set(&z, 1, "500");
    z.supervisor
        .wait_for_log(&format!("process {old}: its health checks failed: GET /healthz: 500 Internal Server Error"));
    z.wait_for("another process is started", |status| instance(status, 1).is_some_and(|one| one.pid != Some(old)));
    // The next one is no better, until it is.
    set(&z, 1, "");
    let status = z.wait_for("it serves again", |status| {
        status.services[0].state == ServiceState::Serving && is(status, 1, InstanceHealth::Passing)
    });
    assert_ne!(pid(&status, 1), old);
    assert!(!process::is_alive(old));
    z.get("/");
    z.end();
}

/// One that hangs accepts connections, and answers none.
#[test]
fn one_that_hangs_is_found_out() {
    let z = Zdsup::serving_with(&["serve"], |setup, _| {
        private(setup);
        setup.health.push("timeout = \"500ms\"".into());
        setup.restart = vec!["backoff = \"100ms..1s\"".into()];
        setup.drain = vec!["timeout = \"200ms\"".into()];
    });
    let old = pid(&z.status(), 1);
    process::kill(old, Signal::SIGSTOP);
    z.supervisor.wait_for_log("its health checks failed: GET /healthz: no answer in 500 ms");
    let status = z.wait_for("another process serves", |status| {
        status.services[0].state == ServiceState::Serving && instance(status, 1).is_some_and(|one| one.pid != Some(old))
    });
    assert!(is(&status, 1, InstanceHealth::Passing), "{status:?}");
    z.end();
}

#[test]
fn failures_that_are_not_enough_in_a_row_change_nothing() {
    let z = Zdsup::serving_with(&["serve"], |setup, place| {
        private(setup);
        setup.health[3] = "failures = 1000".into();
        setup.command.extend(["--health".into(), switch(place, 1)]);
    });
    let old = pid(&z.status(), 1);
    set(&z, 1, "500");
    let status =
        z.wait_for("a check failed", |status| instance(status, 1).is_some_and(|one| one.health_failure.is_some()));
    assert!(is(&status, 1, InstanceHealth::Passing), "the verdict stays: {status:?}");
    set(&z, 1, "");
    let status =
        z.wait_for("they pass again", |status| instance(status, 1).is_some_and(|one| one.health_failure.is_none()));
    assert_eq!(pid(&status, 1), old);
    assert!(!z.supervisor.log().contains("health checks failed"));
    z.end();
}

#[test]
fn a_connection_has_to_be_accepted() {
    let mut z = Zdsup::serving_with(&["serve"], |setup, _| {
        setup.health = ["tcp = true", "private = \"health\"", "interval = \"20ms\"", "timeout = \"500ms\""]
            .map(str::to_owned)
            .to_vec();
    });
    z.wait_for("it is well", |status| is(status, 1, InstanceHealth::Passing));
    // The kernel connects all the same.
    z.release(&["never-ready"]);
    z.configure(|setup| {
        setup.ready = vec!["by = \"alive\"".into(), "alive-for = \"10ms\"".into(), "timeout = \"2s\"".into()];
    });
    z.reload(&[]).is(Verdict::Failed).because("the last one: nobody accepted the connection in 500 ms");
    z.settled(1);
    z.end();
}

#[test]
fn a_url_of_the_instances_own() {
    let z = Zdsup::serving_with(&["serve"], |setup, place| {
        let own = format!("{}:9100", place.address());
        setup.health = vec![
            format!("url = \"http://{}:{{9100+slot}}/healthz\"", place.address()),
            "body = \"well\"".into(),
            "interval = \"20ms\"".into(),
        ];
        setup.command.extend(["--own".into(), own, "--health".into(), switch(place, 1)]);
    });
    z.wait_for("it is well", |status| is(status, 1, InstanceHealth::Passing));
    // Old and new are there at once, each at its own address.
    z.upgrade();
    let status = z.settled(2);
    assert!(is(&status, 2, InstanceHealth::Passing));
    set(&z, 1, "500");
    z.supervisor.wait_for_log("its health checks failed: GET http://");
    set(&z, 1, "");
    z.wait_for("it is well again", |status| is(status, 2, InstanceHealth::Passing));
    z.end();
}

#[test]
fn a_command_that_succeeds() {
    let mut z = Zdsup::serving_with(&["serve"], |setup, place| {
        let script = format!(
            "echo $MAINPID $ZDSUP_INSTANCE >{0}/asked.$ZDSUP_GENERATION; ! test -e {0}/sick.$ZDSUP_GENERATION",
            place.path().display()
        );
        setup.health = vec![
            format!("exec = {}", setup::list(&["sh".into(), "-c".into(), script])),
            "interval = \"20ms\"".into(),
            "failures = 2".into(),
        ];
        setup.restart = vec!["backoff = \"100ms..1s\"".into()];
    });
    let old = pid(&z.status(), 1);
    let asked = eventually("it was asked", || {
        fs::read_to_string(z.place.join("asked.1")).ok().filter(|text| text.ends_with('\n'))
    });
    assert_eq!(asked.trim(), format!("{old} web@1.1"));
    fs::write(z.place.join("sick.2"), "").expect("it can be written");
    z.configure(|setup| setup.ready = vec!["timeout = \"500ms\"".into()]);
    z.reload(&[]).is(Verdict::Failed).because("the last one: the command: exit status 1").still_serving(1);
    z.configure(|setup| {
        setup.health[0] = "exec = [\"sleep\", \"1000\"]".into();
        setup.health.push("timeout = \"50ms\"".into());
    });
    z.reload(&[]).is(Verdict::Failed).because("the last one: the command did not end in 50 ms").still_serving(1);
    z.configure(|setup| setup.health[0] = "exec = [\"/no/such/check\"]".into());
    z.reload(&[]).is(Verdict::Failed).because("/no/such/check").still_serving(1);
    assert_eq!(pid(&z.settled(1), 1), old);
    fs::write(z.place.join("sick.1"), "").expect("it can be written");
    z.supervisor.wait_for_log("its health checks failed: the command: exit status 1");
    fs::remove_file(z.place.join("sick.1")).expect("it is there");
    z.wait_for("another process serves, and is well", |status| {
        instance(status, 1).is_some_and(|one| one.pid != Some(old) && one.health == InstanceHealth::Passing)
    });
    z.end();
}

/// A successor begins to count anew: it calls nobody unhealthy, and goes on checking over the same listener.
#[test]
fn checks_go_on_after_the_supervisor_was_replaced() {
    for dies in [false, true] {
        let z = Zdsup::serving_with(&["serve"], |setup, place| {
            private(setup);
            setup.command.extend(["--health".into(), switch(place, 1)]);
            setup.restart = vec!["backoff = \"100ms..1s\"".into()];
            if dies {
                setup.arguments.push("--keeper".into());
            }
        });
        let before = z.status();
        let old = pid(&before, 1);
        z.supervisor.wait_for("it is well", |status| is(status, 1, InstanceHealth::Passing));
        process::kill(before.supervisor.pid, if dies { Signal::SIGKILL } else { Signal::SIGUSR2 });
        let status = z.wait_for("the next one", |status| status.supervisor.incarnation == 2);
        assert_eq!(pid(&status, 1), old);
        assert!(is(&status, 1, InstanceHealth::Passing), "{status:?}");
        assert!(!z.supervisor.log().contains("health checks failed"));
        set(&z, 1, "500");
        z.supervisor.wait_for_log("its health checks failed: GET /healthz: 500");
        set(&z, 1, "");
        z.wait_for("another process serves, and is well", |status| {
            instance(status, 1).is_some_and(|one| one.pid != Some(old) && one.health == InstanceHealth::Passing)
        });
        z.end();
    }
}

/// The supervisor dies while a candidate has still to pass its checks: they go on, and it becomes ready.
#[test]
fn a_candidate_is_proven_by_the_next_supervisor() {
    let mut z = Zdsup::serving_with(&["serve"], |setup, place| {
        private(setup);
        setup.command.extend(["--health".into(), switch(place, 1)]);
        setup.arguments.push("--keeper".into());
    });
    second_release(&mut z);
    set(&z, 2, "500");
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| z.reload(&[]));
        let status = z.wait_for("the candidate is seen to fail", |status| {
            instance(status, 2).is_some_and(|one| one.health_failure.is_some())
        });
        process::kill(status.supervisor.pid, Signal::SIGKILL);
        z.wait_for("the next one checks it too", |status| {
            status.supervisor.incarnation == 2 && instance(status, 2).is_some_and(|one| one.health_failure.is_some())
        });
        set(&z, 2, "");
        reload.join().expect("it does not panic").is(Verdict::Upgraded);
    });
    z.settled(2);
    z.end();
}

/// A listener for checks is nothing that grows: after each generation as much is held as before.
#[test]
fn nothing_is_left_of_a_checked_instance() {
    let z = serving_well();
    z.upgrade();
    z.settled(2);
    let held = || process::holdings(z.supervisor.pid(), &z.supervisor.runtime).fds.get("socket:[]").copied();
    let before = eventually("it is at rest", held);
    for generation in 3..6 {
        z.upgrade();
        z.settled(generation);
    }
    // One more while a check is on its way.
    eventually("as many sockets as before", || held().filter(|now| *now <= before + 1));
    z.end();
}

/// Over the very listener that clients use, where traffic is steered: each instance is asked, and no other.
#[test]
fn a_check_over_a_steered_listener_reaches_the_instance_that_it_means() {
    for check in ["http = \"/healthz\"", "tcp = true"] {
        let mut z = Zdsup::serving_with(&["serve"], |setup, place| {
            setup.service = vec!["traffic = \"steered\"".into()];
            let lines = [check, "interval = \"20ms\"", "failures = 2", "timeout = \"1s\""];
            setup.health = lines.map(str::to_owned).to_vec();
            setup.ready = vec!["timeout = \"2s\"".into()];
            setup.command.extend(["--health".into(), switch(place, 1)]);
        });
        z.wait_for("it is well", |status| is(status, 1, InstanceHealth::Passing));
        let old = pid(&z.status(), 1);
        let load = Load::start(&z.target());
        if check == "tcp = true" {
            // It says that it is ready, and accepts nothing.
            z.release(&["watchdog", "--idle"]);
            z.reload(&[]).is(Verdict::Failed).because("nobody accepted the connection").still_serving(1);
        } else {
            second_release(&mut z);
            set(&z, 2, "500");
            z.reload(&[]).is(Verdict::Failed).because("GET /healthz: 500 Internal Server Error").still_serving(1);
        }
        let status = z.settled(1);
        assert_eq!(pid(&status, 1), old);
        assert!(is(&status, 1, InstanceHealth::Passing), "{status:?}");
        second_release(&mut z);
        set(&z, 2, "");
        z.upgrade();
        let status = z.settled(3);
        assert!(is(&status, 3, InstanceHealth::Passing), "{status:?}");
        load.unharmed();
        z.end();
    }
}

#[test]
fn each_of_several_instances_is_checked_over_the_steered_listener() {
    let z = Zdsup::serving_with(&["serve"], |setup, place| {
        setup.service = vec!["traffic = \"steered\"".into(), "instances = 4".into()];
        let lines = ["http = \"/healthz\"", "interval = \"20ms\"", "failures = 2", "timeout = \"1s\""];
        setup.health = lines.map(str::to_owned).to_vec();
        setup.restart = vec!["backoff = \"100ms..1s\"".into()];
        setup.drain = vec!["timeout = \"200ms\"".into()];
        setup.command.extend(["--health".into(), switch(place, 1)]);
    });
    let all_well = |status: &Status| {
        let one = generation(status, 1).filter(|one| one.instances.len() == 4);
        one.is_some_and(|one| one.instances.iter().all(|one| one.health == InstanceHealth::Passing))
    };
    let status = z.wait_for("all are well", all_well);
    let pids = |status: &Status| -> Vec<Option<u32>> {
        generation(status, 1).map(|one| one.instances.iter().map(|one| one.pid).collect()).unwrap_or_default()
    };
    let before = pids(&status);
    // One of them hangs, and only that one is replaced.
    process::kill(before[2].expect("it runs"), Signal::SIGSTOP);
    let status = z.wait_for("it is replaced", |status| all_well(status) && !pids(status).contains(&before[2]));
    let kept = pids(&status).into_iter().filter(|pid| before.contains(pid)).count();
    assert_eq!(kept, 3, "{status:?}");
    z.end();
}
