//! The numbers of processes that are gone.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use zdsup::control::types::{GenerationState, Verdict};

use crate::support::supervisor::{Supervisor, command, generation, wrapped};
use crate::support::{Place, Setup, hazard, is_root, skip};

/// How a command is made the first process of a namespace of processes.
fn unshare() -> Command {
    let mut unshare = Command::new("unshare");
    unshare.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
    if !is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare
}

/// Row 10: the number of a process that has ended is given to an innocent one, which leads a group of that number. Then
/// what was left of the instance is killed, another upgrade is made, and everything is stopped: it lives.
#[test]
fn pid_reuse() {
    let probe = unshare().args(["test", "-w", "/proc/sys/kernel/ns_last_pid"]).stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        return skip("no namespace of processes can be made here (unshare --pid), or no number in it chosen");
    }
    let place = Place::new();
    let mut setup = Setup::new(&place, &["grandchild-holds-port"]);
    setup.drain = vec!["timeout = \"6s\"".into()];
    let config = place.join("web.toml");
    fs::write(&config, setup.toml()).expect("a config can be written");
    let plain = command(&place.join("run"));
    let mut started = unshare();
    started.arg(hazard()).args(["namespace", "--"]);
    let mut started = wrapped(started, &plain);
    let log = fs::File::create(place.join("log")).expect("a log can be made");
    started.args(["run", "-c"]).arg(&config).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
    let mut child = started.spawn().expect("there is an unshare");
    let mut input = child.stdin.take().expect("it is a pipe");
    let mut output = BufReader::new(child.stdout.take().expect("it is a pipe")).lines();
    let supervisor = Supervisor::adopt(child, &place);
    let mut tell = |line: &str| {
        writeln!(input, "{line}").expect("somebody listens");
        // What the supervisor and its services print comes the same way.
        let known = |line: &String| {
            ["taken", "missed", "alive"].contains(&line.as_str())
                || line.contains("status: ")
                || line.starts_with("signal: ")
        };
        output.by_ref().map(|line| line.expect("it is text")).find(known).expect("it answers")
    };

    // Its number in the namespace, which status and the choice of the next one both speak of.
    let status = supervisor.wait_for("it serves", |status| status.services[0].serving == Some(1));
    let number = status.services[0].generations[0].instances[0].pid.expect("it runs");
    setup.hazard(&["serve"]);
    fs::write(&config, setup.toml()).expect("a config can be written");
    supervisor.upgrade("reload", &[]).is(Verdict::Upgraded);
    let left = |status: &zdsup::control::types::Status| {
        let one = generation(status, 1).expect("its grandchild holds on");
        one.state == GenerationState::Draining
            && one.instances[0].state == zdsup::control::types::InstanceState::Leftovers
    };
    supervisor.wait_for("only the grandchild is left", left);
    assert_eq!(tell(&format!("take {number}")), "taken");
    // Killed by now is what was left, and nothing else.
    supervisor.wait_for("nothing of it is left", |status| generation(status, 1).is_none());
    assert_eq!(tell("look"), "alive");
    supervisor.upgrade("reload", &[]).is(Verdict::Upgraded);
    assert_eq!(tell("look"), "alive");
    assert_eq!(supervisor.run(&["stop"]).status.code(), Some(0));
    assert_eq!(tell("look"), "alive");
}
