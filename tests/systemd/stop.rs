//! `systemctl stop`: drains, and leaves nothing.

use crate::machine::Machine;
use crate::release::{ADDRESS, Config, UNIT};

#[test]
fn stop_lets_a_request_in_flight_finish() {
    let Some(machine) = Machine::boot() else { return };
    machine.start_good();
    let slow = slow_request(&machine);
    let stop = machine.run(["systemctl", "stop", UNIT]);
    assert!(stop.status.success(), "{stop:?}");
    let answer = slow.wait_with_output().expect("curl can be waited for");
    assert!(answer.status.success(), "the request in flight was cut off: {answer:?}");
    assert_eq!(String::from_utf8_lossy(&answer.stdout), "1\n");
    nothing_is_left(&machine);
}

#[test]
fn stop_ends_draining_generations_too() {
    let Some(machine) = Machine::boot() else { return };
    Config::mode("lingers").install(&machine);
    machine.ok(["systemctl", "start", UNIT]);
    assert!(machine.reload().status.success());
    machine.ok(["systemctl", "stop", UNIT]);
    nothing_is_left(&machine);
}

#[test]
fn stop_kills_what_ignores_the_stop_signal() {
    let Some(machine) = Machine::boot() else { return };
    let drain = "[service.web.drain]\ntimeout = \"1s\"";
    Config::mode("with-family").tables(drain).install(&machine);
    machine.ok(["systemctl", "start", UNIT]);
    let stop = machine.run(["systemctl", "stop", UNIT]);
    assert!(stop.status.success(), "{stop:?}");
    nothing_is_left(&machine);
}

#[test]
fn stop_ends_an_upgrade_in_flight() {
    let Some(machine) = Machine::boot() else { return };
    machine.start_good();
    Config::mode("never-ready").install(&machine);
    machine.ok(["systemctl", "reload", "--no-block", UNIT]);
    machine.await_entry(UNIT, "the candidate", |entry| entry.message().contains("a database that is not there"));
    let stop = machine.run(["systemctl", "stop", UNIT]);
    assert!(stop.status.success(), "{stop:?}");
    // Where `zdsup reload` hears of the end from zdsup before systemd's signal reaches it, it exits 4, truthfully, and
    // the unit is `failed` once stopped.
    let state = machine.property(UNIT, "ActiveState");
    assert!(["inactive", "failed"].contains(&state.as_str()), "{state}");
    no_process_is_left(&machine);
}

#[test]
fn a_service_that_was_stopped_starts_again() {
    let Some(machine) = Machine::boot() else { return };
    machine.start_good();
    machine.ok(["systemctl", "restart", UNIT]);
    machine.answering();
    machine.ok(["systemctl", "stop", UNIT]);
    machine.ok(["systemctl", "start", UNIT]);
    machine.answering();
}

/// A request that takes a second and a half, begun.
pub(crate) fn slow_request(machine: &Machine) -> std::process::Child {
    let mut command = machine.command(["curl", "--silent", "--show-error", &format!("http://{ADDRESS}/slow")]);
    let child = command.stdout(std::process::Stdio::piped()).spawn().expect("curl can be run");
    machine.await_entry(UNIT, "the slow request", |entry| entry.message() == "slow request begun");
    child
}

#[track_caller]
fn nothing_is_left(machine: &Machine) {
    assert_eq!(machine.property(UNIT, "ActiveState"), "inactive");
    assert_eq!(machine.property(UNIT, "Result"), "success");
    no_process_is_left(machine);
}

#[track_caller]
pub(crate) fn no_process_is_left(machine: &Machine) {
    assert_eq!(machine.run(["pgrep", "--full", "service.py|zdsup"]).stdout, "", "processes are left");
    let cgroup = machine.path("/sys/fs/cgroup/system.slice/system-zdsup.slice").join(UNIT);
    assert!(!cgroup.exists(), "{} is left", cgroup.display());
    assert!(!machine.path("/run/zdsup/web").exists(), "the runtime directory is left");
    let address = ADDRESS.parse::<std::net::SocketAddr>().expect("it is an address");
    machine.inside(move || std::net::TcpListener::bind(address)).expect("the port is free");
}
