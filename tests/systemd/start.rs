//! `systemctl start`: returns when the service is ready, and fails with the reason where it never gets ready.

use crate::machine::Machine;
use crate::release::{Config, UNIT};

#[test]
fn start_returns_when_the_service_is_ready() {
    let Some(machine) = Machine::boot() else { return };
    Config::mode("slowly-ready").install(&machine);
    let start = machine.run(["systemctl", "start", UNIT]);
    assert!(start.status.success(), "{start:?}");
    assert!(start.took.as_secs() >= 3, "it did not wait until the service was ready: {start:?}");
    assert_eq!(machine.property(UNIT, "ActiveState"), "active");
    assert_eq!(machine.answering(), 1);
}

#[test]
fn the_main_process_is_zdsup_for_ever() {
    let Some(machine) = Machine::boot() else { return };
    machine.start_good();
    let main = machine.property(UNIT, "MainPID");
    assert_eq!(std::fs::read_to_string(machine.path(format!("/proc/{main}/comm"))).unwrap(), "zdsup\n");
    for generation in 2..=4 {
        assert!(machine.reload().status.success());
        assert_eq!(machine.answering(), generation);
        assert_eq!(machine.property(UNIT, "MainPID"), main);
    }
    Config::mode("crashes").install(&machine);
    assert!(!machine.reload().status.success());
    assert_eq!(machine.property(UNIT, "MainPID"), main);
    assert_eq!(machine.property(UNIT, "NRestarts"), "0");
}

/// Starting that release fails: with this exit status of zdsup, this said in the journal, and no second attempt.
fn refused_at_start(config: &Config, exit_status: &str, reasons: &[&str]) {
    let Some(machine) = Machine::boot() else { return };
    config.install(&machine);
    let start = machine.run(["systemctl", "start", UNIT]);
    assert!(!start.status.success(), "{start:?}");
    assert_eq!(machine.property(UNIT, "ActiveState"), "failed");
    assert_eq!(machine.property(UNIT, "ExecMainStatus"), exit_status);
    assert_eq!(machine.property(UNIT, "NRestarts"), "0");
    let status = machine.run(["systemctl", "status", "--no-pager", "--full", UNIT]).stdout;
    for reason in reasons {
        assert!(status.contains(reason), "{reason:?} is not in:\n{status}");
    }
    let left = machine.run(["pgrep", "--full", "service.py"]);
    assert_eq!(left.stdout, "", "a process was left behind");
}

#[test]
fn start_of_a_release_that_is_never_ready_fails() {
    let reasons = ["never ready in 2 s", "waiting for a database that is not there"];
    refused_at_start(&never_ready(), "4", &reasons);
}

#[test]
fn start_of_a_release_that_crashes_fails() {
    let reasons = ["exit status 3", "cannot read the settings: no such file"];
    refused_at_start(&Config::mode("crashes"), "4", &reasons);
}

#[test]
fn start_of_a_release_that_segfaults_fails() {
    refused_at_start(&Config::mode("segfaults"), "4", &["killed by SIGSEGV"]);
}

#[test]
fn start_of_a_program_that_is_missing_fails() {
    refused_at_start(&Config::command(&["/srv/web/bin/web"]), "4", &["/srv/web/bin/web"]);
}

#[test]
fn start_of_a_file_that_is_not_executable_fails() {
    refused_at_start(&Config::command(&["/etc/passwd"]), "4", &["/etc/passwd"]);
}

#[test]
fn start_with_an_invalid_config_fails() {
    let config = Config::mode("serve").keys("handof = \"inherit\"");
    refused_at_start(&config, "2", &["handof", "/etc/zdsup/web.toml"]);
}

#[test]
fn start_with_an_address_in_use_fails() {
    let Some(machine) = Machine::boot() else { return };
    let holder = machine.inside(|| std::net::TcpListener::bind(crate::release::ADDRESS)).expect("the port is free");
    Config::mode("serve").install(&machine);
    assert!(!machine.run(["systemctl", "start", UNIT]).status.success());
    assert_eq!(machine.property(UNIT, "ExecMainStatus"), "4");
    machine.await_entry(UNIT, "why", |entry| entry.message().contains("127.0.0.1:8080"));
    drop(holder);
}

#[test]
fn the_sandbox_drop_in_leaves_room_for_zdsup() {
    let Some(machine) = Machine::boot() else { return };
    let drop_in = include_str!("../../systemd/sandbox.conf");
    machine.install_unit("zdsup@.service.d/sandbox.conf", drop_in);
    machine.start_good();
    let load = machine.load();
    load.flow(50);
    assert!(machine.reload().status.success());
    assert_eq!(machine.answering(), 2);
    let service = machine.status()["services"][0].clone();
    assert!(service["generations"][0]["connections"].is_u64(), "connections cannot be counted: {service:#}");
    load.stop_unharmed();
    machine.ok(["systemctl", "stop", UNIT]);
    assert_eq!(machine.property(UNIT, "Result"), "success");
}

fn never_ready() -> Config {
    Config::mode("never-ready").tables("[service.web.ready]\ntimeout = \"2s\"")
}
