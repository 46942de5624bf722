//! What fails must not show: neither to clients, nor in what the supervisor holds, nor in the next upgrade.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use zdsup::control::types::{ServiceState, Verdict};

use crate::support::client::{Answer, Connection};
use crate::support::process;
use crate::support::supervisor::generation;
use crate::support::{Load, Zdsup, hazard};

/// A way to fail, and what the reload must say.
struct Failure {
    name: &'static str,
    prepare: fn(&mut Zdsup),
    verdict: Verdict,
    reason: &'static str,
}

fn script(z: &Zdsup, name: &str, text: &str, mode: u32) -> Vec<String> {
    let path = z.place.join(name);
    fs::write(&path, text).expect("a file can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it is ours");
    vec![path.display().to_string()]
}

fn pipe(z: &Zdsup, name: &str) -> PathBuf {
    let path = z.place.join(name);
    mkfifo(&path, Mode::S_IRWXU).expect("a pipe can be made");
    path
}

const FAILURES: &[Failure] = &[
    Failure {
        name: "never ready",
        prepare: |z| {
            z.release(&["never-ready"]);
            z.configure(|setup| setup.ready = vec!["timeout = \"400ms\"".into()]);
        },
        verdict: Verdict::Failed,
        reason: "never ready in 400 ms",
    },
    Failure {
        name: "never ready, and it ignores the stop signal",
        prepare: |z| {
            // It accepts nothing: what a candidate itself has accepted is lost with it, and that is no secret.
            z.release(&["ignores-term", "--no-ready", "--idle"]);
            z.configure(|setup| setup.ready = vec!["timeout = \"400ms\"".into()]);
        },
        verdict: Verdict::Failed,
        reason: "never ready in 400 ms",
    },
    Failure { name: "exits", prepare: |z| z.release(&["exits"]), verdict: Verdict::Failed, reason: "exit status 1" },
    Failure { name: "segfaults", prepare: |z| z.release(&["segfault"]), verdict: Verdict::Failed, reason: "SIGSEGV" },
    Failure {
        name: "forks away",
        prepare: |z| z.release(&["forks-away"]),
        verdict: Verdict::Failed,
        reason: "exit status 0",
    },
    Failure {
        name: "dies in its soak",
        prepare: |z| {
            z.release(&["ready-then-dies", "--after", "50"]);
            z.configure(|setup| setup.upgrade = vec!["soak = \"20s\"".into()]);
        },
        verdict: Verdict::RolledBack,
        reason: "during its soak",
    },
    Failure {
        name: "falls silent in its soak",
        prepare: |z| {
            // It accepts nothing: what a candidate itself has accepted is lost with it.
            z.release(&["watchdog", "--silent", "--idle"]);
            z.configure(|setup| {
                setup.watchdog = vec!["timeout = \"300ms\"".into()];
                setup.upgrade = vec!["soak = \"20s\"".into()];
            });
        },
        verdict: Verdict::RolledBack,
        reason: "no watchdog message in 300 ms",
    },
    Failure {
        name: "says in its soak that it is broken",
        prepare: |z| {
            z.release(&["watchdog", "--trigger", "--idle"]);
            z.configure(|setup| setup.upgrade = vec!["soak = \"20s\"".into()]);
        },
        verdict: Verdict::RolledBack,
        reason: "said WATCHDOG=trigger",
    },
    Failure {
        name: "missing",
        prepare: |z| z.configure(|setup| setup.command = vec!["/no/such/program".into()]),
        verdict: Verdict::Failed,
        reason: "/no/such/program",
    },
    Failure {
        name: "not executable",
        prepare: |z| {
            let command = script(z, "plain", "#!/bin/sh\n", 0o644);
            z.configure(|setup| setup.command = command);
        },
        verdict: Verdict::Failed,
        reason: "ermission denied",
    },
    Failure {
        name: "without its interpreter",
        prepare: |z| {
            let command = script(z, "lost", "#!/no/such/interpreter\n", 0o755);
            z.configure(|setup| setup.command = command);
        },
        verdict: Verdict::Failed,
        reason: "/no/such/interpreter",
    },
    Failure {
        name: "no program at all",
        prepare: |z| {
            let command = script(z, "noise", "\u{1}\u{2}", 0o755);
            z.configure(|setup| setup.command = command);
        },
        verdict: Verdict::Failed,
        reason: "noise",
    },
    Failure {
        name: "no such directory",
        prepare: |z| z.configure(|setup| setup.service = vec!["working-directory = \"/no/such/directory\"".into()]),
        verdict: Verdict::Failed,
        reason: "/no/such/directory",
    },
    Failure {
        name: "no such user",
        prepare: |z| z.configure(|setup| setup.service = vec!["user = \"no-such-user-here\"".into()]),
        verdict: Verdict::Failed,
        reason: "no-such-user-here",
    },
    Failure {
        name: "no environment file",
        prepare: |z| z.configure(|setup| setup.service = vec!["environment-file = \"/no/such/file\"".into()]),
        verdict: Verdict::Failed,
        reason: "/no/such/file",
    },
    Failure {
        name: "an environment file that is a pipe",
        prepare: |z| {
            let pipe = pipe(z, "variables");
            z.configure(|setup| setup.service = vec![format!("environment-file = {pipe:?}")]);
        },
        verdict: Verdict::Failed,
        reason: "variables: it is a pipe, not a file",
    },
    Failure {
        name: "an environment file without end",
        prepare: |z| z.configure(|setup| setup.service = vec!["environment-file = \"/dev/zero\"".into()]),
        verdict: Verdict::Failed,
        reason: "/dev/zero: it is a device, not a file",
    },
    Failure {
        name: "a log file that is a pipe which nobody reads",
        prepare: |z| {
            let pipe = pipe(z, "output");
            z.configure(|setup| setup.service = vec![format!("log = {{ file = {pipe:?} }}")]);
        },
        verdict: Verdict::Failed,
        reason: "output: it is a pipe, and nobody reads it",
    },
    Failure {
        name: "a listener that cannot be bound",
        prepare: |z| {
            let taken = format!("{}:9999", z.place.address());
            z.configure(|setup| setup.listen.push(("second".into(), taken)));
        },
        verdict: Verdict::Failed,
        reason: "in use",
    },
    Failure {
        name: "no config",
        prepare: |z| fs::write(z.place.join("web.toml"), "[service.web]\ncommand = 1\n").expect("it can be written"),
        verdict: Verdict::Refused,
        reason: "command",
    },
];

/// Rows 12, 13, 24 and 26: after every kind of failure the next upgrade succeeds, nothing is held that was not held
/// before, and no client has noticed.
#[test]
fn reload_after_failure_and_no_leaks() {
    let mut z = Zdsup::serving_with(&["serve"], |setup, _| {
        setup.drain = vec!["timeout = \"1s\"".into()];
    });
    // Not the address that the service has, but a port of it that is taken.
    let _taken = TcpListener::bind((z.place.address(), 9999)).expect("the address is free");
    let pid = z.supervisor.pid();
    let good = z.setup.clone();
    let load = Load::start(&z.target());
    let mut serving = 1;
    let mut upgrade_to_the_next = |z: &mut Zdsup, why: &str| {
        z.configure(|setup| *setup = good.clone());
        z.upgrade();
        let status = z.wait_for("only one is left", |status| status.services[0].generations.len() == 1);
        let now = status.services[0].serving.unwrap_or_else(|| panic!("nothing serves after: {why}"));
        assert!(now > serving, "after: {why}");
        serving = now;
        now
    };
    upgrade_to_the_next(&mut z, "nothing");
    let before = settled_holdings(&z, None);
    for failure in FAILURES {
        let from = z.status().services[0].serving.expect("it serves");
        (failure.prepare)(&mut z);
        z.reload(&[]).is(failure.verdict).because(failure.reason).still_serving(from);
        z.settled(from);
        let after = settled_holdings(&z, Some(&before));
        assert_eq!(after, before, "after: {}", failure.name);
        upgrade_to_the_next(&mut z, failure.name);
        let after = settled_holdings(&z, Some(&before));
        assert_eq!(after, before, "after the upgrade that came after: {}", failure.name);
        assert_eq!(z.supervisor.pid(), pid);
    }
    load.unharmed();
    z.end();
}

fn settled_holdings(z: &Zdsup, expected: Option<&process::Holdings>) -> process::Holdings {
    process::settled_holdings(z.supervisor.pid(), &z.supervisor.runtime, expected)
}

/// Row 13: a listener of an upgrade that failed is closed again; nobody waits in a queue that nobody reads.
#[test]
fn failed_reload_leaks() {
    let mut z = Zdsup::serving(&["serve"]);
    let second = format!("{}:8081", z.place.address());
    z.configure(|setup| {
        setup.listen.push(("second".into(), second.clone()));
        setup.hazard(&["exits"]);
    });
    z.reload(&[]).is(Verdict::Failed);
    z.settled(1);
    let refused = Connection::tcp(second.parse().expect("an address"));
    assert_eq!(refused.err().map(|error| error.kind()), Some(std::io::ErrorKind::ConnectionRefused));
    assert_eq!(z.status().services[0].listeners.len(), 1);
    z.release(&["serve"]);
    z.upgrade();
    Connection::tcp(second.parse().expect("an address")).expect("now it is bound");
    z.end();
}

/// Row 18: a reload follows `current`; a restart runs the very file that was pinned, even when its path has gone on.
#[test]
fn stale_binary() {
    let z = Zdsup::serving_with(&["serve"], |setup, place| {
        for release in ["r1", "r2"] {
            fs::create_dir(place.join(release)).expect("a directory can be made");
            fs::copy(hazard(), place.join(release).join("web")).expect("a program can be copied");
        }
        std::os::unix::fs::symlink(place.join("r1"), place.join("current")).expect("a link can be made");
        setup.command[0] = place.join("current/web").display().to_string();
    });
    let point = |z: &Zdsup, release: &str| {
        std::os::unix::fs::symlink(z.place.join(release), z.place.join("next")).expect("a link can be made");
        fs::rename(z.place.join("next"), z.place.join("current")).expect("a link can be moved");
    };
    let exe = |z: &Zdsup| z.get("/").value("exe").expect("it says so").to_owned();
    let path = |z: &Zdsup, release: &str| z.place.join(release).join("web").display().to_string();
    assert_eq!(exe(&z), path(&z, "r1"));
    point(&z, "r2");
    z.supervisor.upgrade("restart", &[]).is(Verdict::Upgraded);
    z.settled(2);
    assert_eq!(exe(&z), path(&z, "r1"), "a restart is not a reload");
    z.upgrade();
    z.settled(3);
    assert_eq!(exe(&z), path(&z, "r2"));

    // Another program takes the path of the pinned one, as an installer does it.
    fs::copy("/bin/false", z.place.join("r2/new")).expect("there is a false");
    fs::rename(z.place.join("r2/new"), z.place.join("r2/web")).expect("it can be moved");
    z.supervisor.upgrade("restart", &[]).is(Verdict::Upgraded);
    z.settled(4);
    assert_eq!(exe(&z), format!("{} (deleted)", path(&z, "r2")));
    // So does a crash: what runs is what was pinned.
    let pid = z.get("/").value("pid").and_then(|pid| pid.parse().ok()).expect("a number");
    process::kill(pid, Signal::SIGKILL);
    z.wait_for("it runs again", |status| {
        status.services[0].generations[0].instances.iter().any(|one| one.instance == "4.2")
    });
    z.wait_for("it serves again", |status| status.services[0].serving == Some(4));
    assert_eq!(z.get("/").generation(), 4);
    // And a reload takes what the path means now.
    z.reload(&[]).is(Verdict::Failed).because("exit status 1").still_serving(4);
    z.end();
}

#[test]
fn a_script_is_a_program_too() {
    let mut z = Zdsup::serving(&["serve"]);
    let text = format!("#!/bin/sh\nexec {} serve\n", hazard().display());
    let command = script(&z, "web.sh", &text, 0o755);
    z.configure(|setup| setup.command = command);
    z.upgrade();
    z.settled(2);
    // A script that was replaced still runs from what is held, and not as what took its place.
    script(&z, "other", "#!/bin/false\n", 0o755);
    fs::rename(z.place.join("other"), z.place.join("web.sh")).expect("it can be moved");
    let restart = z.supervisor.upgrade("restart", &[]);
    assert_eq!(restart.verdict().map(|verdict| verdict.verdict), Some(Verdict::Upgraded), "{restart:?}");
    z.settled(3);
    z.end();
}

/// Row 34: it dies at once, again and again. Callers wait in the backlog instead of being refused, status says why,
/// and a reload starts at once.
#[test]
fn crash_loop() {
    let mut z = Zdsup::started(&["ready-then-dies"], |setup, _| {
        setup.restart = vec!["backoff = \"50ms..200ms\"".into(), "give-up-after = 4".into()];
    });
    z.wait_for("it backs off", |status| status.services[0].state == ServiceState::BackingOff);
    let mut caller = Connection::tcp(z.address()).expect("a caller is not refused");
    caller.send("GET", "/", None).expect("nor when it asks");
    let status = z.wait_for("it is given up", |status| status.services[0].state == ServiceState::Failed);
    let detail = status.services[0].detail.clone().expect("it says why");
    assert!(detail.contains("exit status 1"), "{detail}");
    let output = status.services[0].last_output.clone().expect("and what it printed");
    assert_eq!((output.instance.as_str(), output.elsewhere), ("1.4", None));
    assert!(output.lines.contains(&"the cache is corrupt".to_owned()), "{:?}", output.lines);
    let mut later = Connection::tcp(z.address()).expect("the listener is bound still");
    later.send("GET", "/", None).expect("and takes what is sent");
    let table = String::from_utf8(z.supervisor.run(&["status"]).stdout).expect("text");
    assert!(table.contains("FAILED, given up"), "{table}");
    assert!(table.contains("the last output of web@1.4:") && table.contains("| the cache is corrupt"), "{table}");
    // A failed attempt to mend it says that nothing serves.
    z.release(&["exits"]);
    let reload = z.reload(&[]).is(Verdict::Failed);
    assert_eq!(reload.verdict().and_then(|verdict| verdict.serving), None);
    z.release(&["serve"]);
    z.upgrade();
    assert_eq!(z.status().services[0].last_output, None, "that is over");
    for waiting in [&mut caller, &mut later] {
        let answer = Answer::read(waiting).expect("it is answered").expect("it is answered");
        assert_eq!(answer.generation(), 3);
    }
    z.end();
}

#[test]
fn a_crash_while_serving_is_restarted_and_callers_wait() {
    let z = Zdsup::serving_with(&["serve"], |setup, _| setup.restart = vec!["backoff = \"300ms..1s\"".into()]);
    let pid = z.get("/").value("pid").and_then(|pid| pid.parse().ok()).expect("a number");
    process::kill(pid, Signal::SIGKILL);
    z.wait_for("it is down", |status| status.services[0].serving.is_none());
    let began = std::time::Instant::now();
    let answer = z.get("/");
    assert_ne!(answer.value("pid"), Some(pid.to_string().as_str()));
    assert!(began.elapsed() < std::time::Duration::from_secs(10));
    assert_eq!(z.status().services[0].generations[0].instances[0].instance, "1.2");
    z.end();
}

#[test]
fn a_first_start_that_fails_from_a_shell_is_tried_again() {
    let mut z = Zdsup::started(&["exits"], |setup, _| setup.restart = vec!["backoff = \"50ms..100ms\"".into()]);
    z.wait_for("it was tried again", |status| {
        let service = &status.services[0];
        service.detail.as_deref().is_some_and(|detail| detail.contains("exit status 1"))
            && generation(status, 1).is_some_and(|one| one.instances.iter().all(|i| i.instance != "1.1"))
    });
    z.release(&["serve"]);
    z.upgrade();
    z.settled(2);
    z.end();
}

#[test]
fn a_first_start_that_somebody_waits_for_ends_with_its_reason() {
    let place = crate::support::Place::new();
    let manager = std::os::unix::net::UnixDatagram::bind(place.join("manager")).expect("a path is free");
    let mut setup = crate::support::Setup::new(&place, &["exits", "--status", "9"]);
    setup.environment.insert("NOTIFY_SOCKET".into(), place.join("manager").display().to_string());
    fs::write(place.join("web.toml"), setup.toml()).expect("a config can be written");
    let arguments = ["-c".to_owned(), place.join("web.toml").display().to_string()];
    let mut supervisor = crate::support::Supervisor::start(&place, &arguments, &setup.environment);
    assert_eq!(supervisor.wait(crate::support::SOON).code(), Some(4));
    let log = supervisor.log();
    for fragment in ["exit status 9", "cannot read /etc/missing.conf"] {
        assert!(log.contains(fragment), "{fragment:?} is not in\n{log}");
    }
    manager.set_nonblocking(true).expect("it is a socket");
    let mut buffer = [0; 4096];
    while let Ok(count) = manager.recv(&mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
        assert!(!text.contains("READY=1"), "{text}");
    }
    supervisor.nothing_left();
    assert!(!Path::new(&supervisor.runtime).join("n").exists(), "the notify sockets are left");
}

#[test]
fn the_last_lines_are_elsewhere_when_the_output_is() {
    let mut z = Zdsup::serving(&["serve"]);
    let file = z.place.join("web.log");
    z.configure(|setup| {
        setup.hazard(&["exits", "--status", "3"]);
        setup.service = vec![format!("log = {{ file = {:?} }}", file)];
    });
    let reload = z.reload(&[]).is(Verdict::Failed).because("exit status 3");
    let verdict = reload.verdict().expect("there is one");
    assert!(verdict.output.is_empty());
    let elsewhere = verdict.output_elsewhere.clone().expect("it says where to look");
    assert!(elsewhere.contains(&file.display().to_string()), "{elsewhere}");
    let printed = fs::read_to_string(&file).expect("it was written");
    assert!(printed.contains("cannot read /etc/missing.conf"), "{printed}");
    z.configure(|setup| setup.service = vec!["log = \"inherit\"".into()]);
    let reload = z.reload(&[]).is(Verdict::Failed);
    assert!(reload.verdict().is_some_and(|verdict| verdict.output_elsewhere.is_some()), "{reload:?}");
    assert!(z.supervisor.log().contains("cannot read /etc/missing.conf"));
    z.end();
}
