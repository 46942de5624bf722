//! Spawned, ready, serving: three different things, and four ways to prove the second.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use zdsup::control::types::{GenerationState, InstanceState, Verdict};

use crate::support::supervisor::generation;
use crate::support::{Load, Zdsup, eventually, hazard, is_root, setup, skip};

#[test]
fn ready_by_notify_and_not_before() {
    let mut z = Zdsup::serving(&["serve"]);
    // It answers at once, and says that it is ready when it is told to: nothing but READY=1 counts.
    z.release(&["never-ready", "--serves"]);
    let load = Load::start(&z.target());
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| z.reload(&[]));
        let status = z.wait_for("the candidate says what it waits for", |status| {
            let status = generation(status, 2).and_then(|two| two.instances[0].status.as_deref());
            status == Some("waiting for the database")
        });
        assert_eq!(status.services[0].serving, Some(1));
        let two = generation(&status, 2).expect("it is there");
        assert_eq!((two.state, two.instances[0].state), (GenerationState::Starting, InstanceState::Starting));
        let pid = two.instances[0].pid.expect("it runs");
        let socket = z.supervisor.runtime.join("n/2.1");
        eventually("web@2 answers too", || (z.get("/").generation() == 2).then_some(()));
        // Whoever says it must be one of the instance's: the test is not.
        let outsider = UnixDatagram::unbound().expect("a socket");
        outsider.send_to(b"READY=1", &socket).expect("anybody may send");
        z.supervisor.wait_for_log("is not one of this instance's");
        assert_eq!(z.status().services[0].serving, Some(1), "the test has no say, as {pid} is not its process");
        assert_eq!(z.supervisor.run(&["abort"]).status.code(), Some(0));
        reload.join().expect("it does not panic").is(Verdict::Aborted);
    });
    z.settled(1);
    load.unharmed();
    z.end();
}

#[test]
fn ready_by_a_newline_on_a_descriptor() {
    let mut z = Zdsup::serving_with(&["serve", "--ready-fd", "9", "--no-ready"], |setup, _| {
        setup.ready = vec!["by = \"fd\"".into(), "fd = 9".into(), "timeout = \"20s\"".into()];
    });
    let load = Load::start(&z.target());
    z.upgrade();
    // READY=1 is not what this one is asked for.
    z.configure(|setup| {
        setup.hazard(&["serve"]);
        setup.ready[2] = "timeout = \"500ms\"".into();
    });
    z.reload(&[]).is(Verdict::Failed).because("never ready in 500 ms").still_serving(2);
    load.unharmed();
    z.end();
}

#[test]
fn ready_by_a_command_that_succeeds() {
    let mut z = Zdsup::serving_with(&["serve", "--no-ready"], |setup, place| {
        let script = format!("echo $MAINPID >{0}/asked.$ZDSUP_GENERATION; test -e {0}/ready", place.path().display());
        fs::write(place.join("ready"), "").expect("it can be written");
        setup.ready = vec![
            "by = \"exec\"".into(),
            format!("exec = {}", setup::list(&["sh".into(), "-c".into(), script])),
            "interval = \"20ms\"".into(),
        ];
    });
    let status = z.status();
    let pid = status.services[0].generations[0].instances[0].pid.expect("it runs");
    let asked = fs::read_to_string(z.place.join("asked.1")).expect("it was asked");
    assert_eq!(asked.trim(), pid.to_string());

    fs::remove_file(z.place.join("ready")).expect("it is there");
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| z.reload(&[]));
        let asked = || fs::read_to_string(z.place.join("asked.2")).ok().filter(|text| text.ends_with('\n'));
        eventually("the candidate is asked", asked);
        assert_eq!(z.status().services[0].serving, Some(1));
        fs::write(z.place.join("ready"), "").expect("it can be written");
        reload.join().expect("it does not panic").is(Verdict::Upgraded);
    });
    fs::remove_file(z.place.join("ready")).expect("it is there");
    z.configure(|setup| setup.ready.push("timeout = \"300ms\"".into()));
    z.reload(&[]).is(Verdict::Failed).because("never ready in 300 ms").still_serving(2);
    // A command that hangs is no proof either, and nothing is left of it.
    z.configure(|setup| setup.ready[1] = "exec = [\"sleep\", \"1000\"]".into());
    z.reload(&[]).is(Verdict::Failed).because("never ready");
    z.configure(|setup| setup.ready[1] = "exec = [\"/no/such/probe\"]".into());
    z.reload(&[]).is(Verdict::Failed).still_serving(2);
    z.settled(2);
    z.end();
}

#[test]
fn ready_by_being_alive() {
    let mut z = Zdsup::serving_with(&["serve", "--no-ready"], |setup, _| {
        setup.ready = vec!["by = \"alive\"".into(), "alive-for = \"1s\"".into()];
    });
    let began = Instant::now();
    z.upgrade();
    assert!(began.elapsed() >= Duration::from_secs(1));
    z.release(&["exits", "--status", "7"]);
    z.reload(&[]).is(Verdict::Failed).because("exit status 7").last_lines_say("/etc/missing.conf").still_serving(2);
    z.end();
}

#[test]
fn a_candidate_that_asks_for_more_time_gets_it() {
    let mut z = Zdsup::serving_with(&["serve"], |setup, _| {
        setup.ready = vec!["timeout = \"2s\"".into()];
        // One that sleeps hears no signal.
        setup.drain = vec!["timeout = \"3s\"".into()];
    });
    z.release(&["serve", "--ready-delay", "2500", "--extend", "50000"]);
    z.upgrade();
    z.release(&["serve", "--ready-delay", "60000", "--extend", "2500"]);
    z.reload(&[]).is(Verdict::Failed).because("never ready in").still_serving(2);
    z.settled(2);
    z.end();
}

/// Row 24: hangs, exits 0, exits 1, segfaults, forks away before READY. Each has its own reason and the candidate's
/// last words; the old one is untouched.
#[test]
fn never_ready() {
    let mut z = Zdsup::serving_with(&["serve"], |setup, _| setup.ready = vec!["timeout = \"1500ms\"".into()]);
    let load = Load::start(&z.target());
    let pid = z.get("/").value("pid").map(str::to_owned);
    let cases: [(&[&str], &str, &str); 6] = [
        (&["never-ready"], "never ready in 1.5 s", "waiting for the database"),
        (&["exits", "--status", "0"], "ended before it was ready: exit status 0", "/etc/missing.conf"),
        (&["exits", "--status", "1"], "exit status 1", "/etc/missing.conf"),
        (&["segfault"], "killed by SIGSEGV", "null pointer"),
        (&["forks-away"], "exit status 0", "going to the background"),
        (&["exits", "--after", "200", "--status", "77"], "exit status 77", "starting"),
    ];
    for (words, reason, line) in cases {
        z.release(words);
        let reload = z.reload(&[]).is(Verdict::Failed).because(reason).last_lines_say(line).still_serving(1);
        let plain = z.supervisor.run(&["status"]);
        let text = String::from_utf8_lossy(&plain.stdout).into_owned();
        assert!(text.contains("failed"), "{reload:?}\n{text}");
        z.settled(1);
    }
    assert_eq!(z.get("/").value("pid").map(str::to_owned), pid, "the old one was restarted");
    z.release(&["serve"]);
    z.upgrade();
    load.unharmed();
    z.end();
}

#[test]
fn a_failed_reload_tells_a_person_what_happened() {
    let mut z = Zdsup::serving(&["serve"]);
    z.release(&["exits", "--status", "3"]);
    let output = z.supervisor.run(&["reload"]);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    for fragment in ["exit status 3", "cannot read /etc/missing.conf", "web@1", "serving"] {
        assert!(text.contains(fragment), "{fragment:?} is not in\n{text}");
    }
    assert!(output.stdout.is_empty(), "progress goes to stderr");
    z.end();
}

/// Row 23: READY, then a crash. The soak sees it while the old one is still there.
#[test]
fn ready_then_dies() {
    let mut z = Zdsup::serving_with(&["serve"], |setup, _| setup.upgrade = vec!["soak = \"60s\"".into()]);
    let load = Load::start(&z.target());
    z.release(&["ready-then-dies", "--after", "100"]);
    let reload = z.reload(&[]).is(Verdict::RolledBack).because("ended during its soak: exit status 1");
    reload.last_lines_say("the cache is corrupt").still_serving(1);
    z.release(&["ready-then-dies", "--after", "100", "--signal"]);
    z.reload(&[]).is(Verdict::RolledBack).because("killed by SIGSEGV").still_serving(1);
    z.release(&["serve", "--stopping-after", "100"]);
    z.reload(&[]).is(Verdict::RolledBack).because("STOPPING=1").still_serving(1);
    z.settled(1);
    // One that holds out is soaked and serves.
    z.configure(|setup| {
        setup.hazard(&["serve"]);
        setup.upgrade = vec!["soak = \"600ms\"".into()];
    });
    let began = Instant::now();
    let reload = z.upgrade();
    assert!(began.elapsed() >= Duration::from_millis(600));
    assert!(reload.events.iter().any(|event| event.event == "soaking"), "{reload:?}");
    z.settled(5);
    load.unharmed();
    z.end();
}

#[test]
fn the_candidate_takes_over_when_the_old_one_dies_in_its_soak() {
    let mut z = Zdsup::serving(&["serve"]);
    z.configure(|setup| setup.upgrade = vec!["soak = \"1000s\"".into()]);
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| z.reload(&[]));
        let soaks = |status: &zdsup::control::types::Status| {
            generation(status, 2).is_some_and(|two| two.state == GenerationState::Soaking)
        };
        let status = z.wait_for("the candidate soaks", soaks);
        let left = generation(&status, 2).and_then(|two| two.remaining).expect("its soak ends by itself");
        assert!((900.0..=1000.0).contains(&left), "{left} s");
        let shown = String::from_utf8(z.supervisor.run(&["status"]).stdout).expect("text");
        assert!(shown.contains(": soaking for 16 min more, "), "{shown}");
        let old = generation(&status, 1).and_then(|one| one.instances[0].pid).expect("it runs");
        crate::support::process::kill(old, nix::sys::signal::Signal::SIGKILL);
        reload.join().expect("it does not panic").is(Verdict::Upgraded);
    });
    z.settled(2);
    z.end();
}

/// Row 8: READY comes from a short-lived process that is gone when the message is read.
#[test]
fn late_notify() {
    let z = Zdsup::serving(&["late-notify"]);
    let load = Load::start(&z.target());
    for _ in 0..5 {
        z.upgrade();
    }
    load.unharmed();
    z.end();
}

/// Row 9: READY comes from the old generation, or from a process of another user.
#[test]
fn foreign_ready() {
    let mut z = Zdsup::serving_with(&["foreign-ready"], |setup, _| setup.ready = vec!["timeout = \"1s\"".into()]);
    let load = Load::start(&z.target());
    z.release(&["never-ready"]);
    z.reload(&[]).is(Verdict::Failed).because("never ready in 1 s").still_serving(1);
    let log = z.supervisor.log();
    assert!(log.contains("claimed that"), "the old generation said nothing:\n{log}");
    assert!(log.contains("is not one of this instance's"), "{log}");
    if is_root() && fs::metadata("/usr/bin/setpriv").is_ok() {
        std::thread::scope(|scope| {
            let reload = scope.spawn(|| z.reload(&[]));
            let socket = z.supervisor.runtime.join("n/3.1");
            eventually("the candidate has its socket", || socket.exists().then_some(()));
            // The socket is there before everybody may write to it.
            eventually("somebody else says it", || {
                let mut other = std::process::Command::new("setpriv");
                other.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(hazard());
                other.args(["says", "--text", "READY=1", "--to"]).arg(&socket);
                other.stderr(std::process::Stdio::null());
                other.status().expect("it can be started").success().then_some(())
            });
            z.supervisor.wait_for_log("it comes from user 65534");
            reload.join().expect("it does not panic").is(Verdict::Failed).because("never ready");
        });
    } else {
        skip("only root can send as another user");
    }
    load.unharmed();
    z.release(&["serve"]);
    z.upgrade();
    z.end();
}

#[test]
fn a_barrier_is_answered() {
    use std::io::Read;
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};

    let z = Zdsup::serving(&["serve"]);
    let (mut ours, theirs) = std::io::pipe().expect("a pipe can be made");
    let socket = UnixDatagram::unbound().expect("a socket");
    let address = UnixAddr::new(&z.supervisor.runtime.join("n/1.1")).expect("a short path");
    let fds = [theirs.as_raw_fd()];
    let text = [std::io::IoSlice::new(b"BARRIER=1")];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg(socket.as_raw_fd(), &text, &rights, MsgFlags::empty(), Some(&address)).expect("it can be sent");
    drop(theirs);
    // The end of the pipe is the answer.
    assert_eq!(ours.read(&mut [0]).expect("it can be read"), 0);
    z.end();
}

/// Row 7: a stop signal before its handler is installed kills. It is not sent to what is not ready, and a program
/// without a handler is named.
#[test]
fn term_before_handler() {
    let mut z = Zdsup::serving(&["slow-handler", "--after", "150"]);
    let load = Load::start(&z.target());
    for _ in 0..3 {
        // Each is followed by another at once, so that each generation is replaced as early as it can be.
        assert_eq!(z.reload(&["--no-wait"]).code, 0);
        z.upgrade();
    }
    load.unharmed();
    z.release(&["slow-handler", "--never"]);
    z.upgrade();
    let status = z.wait_for("it is said", |status| !status.services[0].generations[0].instances[0].notes.is_empty());
    let note = &status.services[0].generations[0].instances[0].notes[0];
    assert!(note.contains("no handler for SIGTERM"), "{note}");
    z.end();
}
