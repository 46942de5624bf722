//! A supervisor is killed where nobody starts another one: what it ran is ended by hand, or by the next one.

use nix::sys::signal::Signal;

use crate::support::{SOON, Supervisor, Zdsup, process};

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
