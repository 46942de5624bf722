//! A supervisor is killed where nobody starts another one: what it ran is ended by hand, or by the next one.

use std::process::{Command, Output};

use nix::sys::signal::Signal;

use crate::support::supervisor::{command, wrapped};
use crate::support::{Place, SOON, Setup, Supervisor, Zdsup, is_root, process, skip};

impl Zdsup {
    /// SIGKILL to the supervisor; its instances, which live.
    fn orphaned(&mut self) -> Vec<u32> {
        self.supervisor.signal(Signal::SIGKILL);
        self.supervisor.wait(SOON);
        let left = process::instances_of(&self.supervisor.runtime);
        assert!(!left.is_empty(), "they died with it");
        left
    }
}

/// Runs a program as root in a container is run: it may signal whom it likes, and look into nobody who may do more.
fn blinkered() -> Command {
    let mut setpriv = Command::new("setpriv");
    // Those three let it read what others have in their memory (ptrace(2); perf_event_open(2) for the last two). The fourth
    // makes it one that may do less than its service.
    let without = "-sys_ptrace,-perfmon,-sys_admin,-chown";
    setpriv.args(["--bounding-set", without, "--inh-caps", without]);
    setpriv
}

fn can_be_blinkered() -> bool {
    let can = is_root() && std::path::Path::new("/usr/bin/setpriv").exists();
    if !can {
        skip("privileges can only be lost by root, and with setpriv");
    }
    can
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn leftovers_are_ended_by_hand() {
    let mut z = Zdsup::serving(&["serve"]);
    let refused = z.supervisor.run(&["stop", "--leftovers"]);
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");
    z.orphaned();
    z.get("/");
    let stop = z.supervisor.run(&["stop", "--leftovers"]);
    assert!(stop.status.success(), "{stop:?}");
    let said = String::from_utf8_lossy(&stop.stderr).into_owned();
    assert!(said.contains("web@1.1, process ") && said.contains("ended by SIGTERM"), "{said}");
    z.supervisor.nothing_left();
    assert!(!z.supervisor.runtime.join("lock").exists() && !z.supervisor.runtime.join("n").exists());
    let again = z.supervisor.run(&["stop", "--leftovers"]);
    assert!(again.status.success(), "{again:?}");
    assert!(String::from_utf8_lossy(&again.stderr).contains("nothing was left"), "{again:?}");
}

#[test]
fn leftovers_that_ignore_the_signal_are_killed() {
    let mut z = Zdsup::serving(&["ignores-term"]);
    z.orphaned();
    let stop = z.supervisor.run(&["stop", "--leftovers", "--timeout", "100ms"]);
    assert!(stop.status.success(), "{stop:?}");
    assert!(String::from_utf8_lossy(&stop.stderr).contains(": killed"), "{stop:?}");
    z.supervisor.nothing_left();
}

#[test]
fn leftovers_are_ended_by_the_next_supervisor() {
    let mut z = Zdsup::serving(&["serve"]);
    let left = z.orphaned();
    let config = vec!["-c".to_owned(), z.place.join("web.toml").display().to_string()];
    let next = Supervisor::start(&z.place, &config, &z.setup.environment);
    // Numbers go on from the history.
    next.wait_for("it serves", |status| status.services[0].serving == Some(2));
    next.wait_for_log("was left by a supervisor that is gone: ended by SIGTERM");
    assert!(left.iter().all(|pid| !process::is_alive(*pid)));
    assert_eq!(process::instances_of(&next.runtime).len(), 1);
    let mut next = next;
    assert_eq!(next.end().code(), Some(0));
    next.nothing_left();
}

#[test]
fn what_cannot_be_looked_into_is_not_said_to_be_nothing() {
    if !can_be_blinkered() {
        return;
    }
    let mut z = Zdsup::serving(&["serve"]);
    let left = z.orphaned();
    for _attempt in 0..2 {
        let stop = wrapped(blinkered(), command(&z.supervisor.runtime).args(["stop", "--leftovers"]));
        let stop = { stop }.output().expect("setpriv can be run");
        assert_eq!(stop.status.code(), Some(6), "{stop:?}");
        let said = said(&stop);
        assert!(said.contains("1 instance was not found and may serve still: "), "{said}");
        assert!(said.contains("cannot be looked into") && said.contains("CAP_SYS_PTRACE"), "{said}");
        assert!(!said.contains("nothing was left"), "{said}");
        z.get("/");
    }
    assert_eq!(process::instances_of(&z.supervisor.runtime), left);
    let stop = z.supervisor.run(&["stop", "--leftovers"]);
    assert!(stop.status.success() && said(&stop).contains("ended by SIGTERM"), "{stop:?}");
    z.supervisor.nothing_left();
}

#[test]
fn where_every_instance_is_found_others_may_be_as_they_are() {
    if !can_be_blinkered() {
        return;
    }
    let place = Place::new();
    let setup = Setup::new(&place, &["serve"]);
    std::fs::write(place.join("web.toml"), setup.toml()).expect("a config can be written");
    let mut run = command(&place.join("run"));
    run.args(["run", "-c"]).arg(place.join("web.toml"));
    let mut run = wrapped(blinkered(), &run);
    let log = std::fs::File::create(place.join("log")).expect("a log can be made");
    let child = run.stdout(log.try_clone().expect("it can be duplicated")).stderr(log).spawn();
    let mut z = Zdsup { supervisor: Supervisor::adopt(child.expect("setpriv can be run"), &place), setup, place };
    z.wait_for("it serves", |status| status.services[0].serving == Some(1));
    z.orphaned();
    let stop = wrapped(blinkered(), command(&z.supervisor.runtime).args(["stop", "--leftovers"]));
    let stop = { stop }.output().expect("setpriv can be run");
    assert!(stop.status.success() && said(&stop).contains("ended by SIGTERM"), "{stop:?}");
    z.supervisor.nothing_left();
}
