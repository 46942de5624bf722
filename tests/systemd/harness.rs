//! Tests of the harness itself: what the other tests rely on.

use std::time::Duration;

use crate::machine::Machine;

/// A service that needs nothing but a shell.
const SHELL_SERVICE: &str = "\
[Service]
Type=notify
NotifyAccess=all
ExecStart=/bin/sh -c 'echo hello from the machine; systemd-notify --ready --status=here; exec sleep infinity'
";

#[test]
fn a_machine_runs_services_and_keeps_a_journal() {
    let Some(machine) = Machine::boot_bare() else { return };
    machine.install_unit("shell.service", SHELL_SERVICE);
    machine.ok(["systemctl", "start", "shell.service"]);
    assert_eq!(machine.property("shell.service", "StatusText"), "here");
    machine.await_entry("shell.service", "its greeting", |entry| entry.message() == "hello from the machine");
    assert!(machine.journal("shell.service").iter().any(|entry| entry.field("_COMM") == "sh"));
    let refused = machine.inside(|| std::net::TcpStream::connect(("127.0.0.1", 9)).map(drop));
    assert_eq!(refused.expect_err("nobody listens").kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_machine_leaves_nothing_behind() {
    let Some(machine) = Machine::boot_bare() else { return };
    machine.install_unit("shell.service", SHELL_SERVICE);
    machine.ok(["systemctl", "start", "shell.service"]);
    let dir = machine.shared().to_owned();
    let root = machine.path("/");
    assert!(root.exists());
    let output = machine.run(["true"]);
    assert!(output.took < Duration::from_secs(10), "{output:?}");
    drop(machine);
    assert!(!root.exists(), "pid 1 of the machine is still there");
    assert!(!dir.exists(), "{} is still there", dir.display());
}
