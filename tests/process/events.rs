//! What happens to all services, followed: across upgrades, crashes and supervisors.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use nix::sys::signal::Signal;
use zdsup::control::types::{SupervisorEvent, Verdict};

use crate::support::supervisor::command;
use crate::support::{SOON, Zdsup, process};

/// `zdsup events --follow --json`, as it goes on.
struct Followed {
    child: Child,
    events: Receiver<SupervisorEvent>,
    last: u64,
}

impl Followed {
    fn start(z: &Zdsup) -> Self {
        let mut command = command(&z.supervisor.runtime);
        command.args(["events", "--follow", "--json"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn().expect("zdsup can be started");
        let lines = BufReader::new(child.stdout.take().expect("it is a pipe")).lines();
        let (sender, events) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        Self { child, events, last: 0 }
    }

    /// The next event that is so. Numbers rise, whatever lies between.
    #[track_caller]
    fn until(&mut self, event: &str, generation: Option<u64>) -> SupervisorEvent {
        loop {
            let next = self.events.recv_timeout(SOON).unwrap_or_else(|error| panic!("no {event}: {error}"));
            assert!(next.seq > self.last, "{next:?} after {}", self.last);
            self.last = next.seq;
            if next.event == event && (generation.is_none() || next.generation == generation) {
                return next;
            }
        }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn events_go_on_across_upgrades_crashes_and_supervisors() {
    let mut z = Zdsup::serving(&["serve"]);
    let mut events = Followed::start(&z);
    // From the beginning, as far as it is remembered.
    events.until("started", None);
    assert_eq!(events.until("verdict", Some(1)).upgrade, Some(1));
    z.upgrade();
    let verdict = events.until("verdict", Some(2));
    assert_eq!(verdict.verdict.map(|verdict| verdict.verdict), Some(Verdict::Upgraded));
    events.until("drained", Some(1));

    assert!(z.supervisor.run(&["reexec"]).status.success());
    events.until("reexec", None);
    events.until("adopted", None);
    z.upgrade();
    events.until("verdict", Some(3));
    z.settled(3);

    let status = z.status();
    process::kill(status.services[0].generations[0].instances[0].pid.expect("it runs"), Signal::SIGKILL);
    let retrying = events.until("retrying", Some(3));
    assert!(retrying.upgrade.is_none() && retrying.message.contains("killed by SIGKILL"), "{retrying:?}");
    events.until("ready", Some(3));

    z.release(&["exits", "1"]);
    z.reload(&[]).is(Verdict::Failed);
    assert!(events.until("verdict", Some(4)).message.contains("exit status 1"));
    z.release(&["serve"]);
    assert_eq!(z.supervisor.end().code(), Some(0));
    events.until("ending", None);
    events.until("stopped", None);
    let status = events.child.wait().expect("it is our child");
    assert_eq!(status.code(), Some(3), "its supervisor has ended, and no other took its place");
    z.supervisor.nothing_left();
}

#[test]
fn what_operators_do_to_an_upgrade_is_told() {
    let z = Zdsup::serving_with(&["serve"], |setup, _| {
        setup.service.push("traffic = \"steered\"".into());
        setup.upgrade.push("strategy = \"canary\"\ncanary = { steps = [{ weight = 20 }], manual = true }".into());
    });
    let mut events = Followed::start(&z);
    assert_eq!(z.reload(&["--no-wait"]).code, 0);
    events.until("awaiting-promotion", Some(2));
    assert_eq!(z.reload(&["--no-wait"]).code, 0);
    assert_eq!(events.until("queued", None).upgrade, Some(3));
    assert!(z.supervisor.run(&["promote", "--full"]).status.success());
    assert_eq!(events.until("promoted", Some(2)).upgrade, Some(2));
    events.until("awaiting-promotion", Some(3));
    assert!(z.supervisor.run(&["abort"]).status.success());
    events.until("verdict", Some(3));
    z.settled(2);
    z.end();
}

#[test]
fn events_that_are_remembered_are_shown_and_that_is_all() {
    let z = Zdsup::serving(&["serve"]);
    z.upgrade();
    let output = z.supervisor.run(&["events", "web"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success() && text.contains("Z web@2: upgraded\n"), "{text}");
    let other = z.supervisor.run(&["events", "api"]);
    let text = String::from_utf8(other.stdout).expect("text");
    assert!(!text.contains("web@2") && text.contains("zdsup 0.1.0 supervises web"), "{text}");
    z.end();
}
