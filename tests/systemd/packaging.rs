//! A newer zdsup is installed while supervisors run.

use std::path::Path;

use crate::adoption::STORED;
use crate::machine::Machine;
use crate::release::UNIT;

#[test]
fn supervisors_go_on_with_the_zdsup_that_was_installed() {
    let Some(machine) = Machine::boot() else { return };
    machine.start_good();
    let main = machine.property(UNIT, "MainPID");
    let processes = machine.service_processes();
    // One that is gone, and has left its socket.
    let stale = "import os, socket; os.mkdir('/run/zdsup/stale'); \
                 socket.socket(socket.AF_UNIX).bind('/run/zdsup/stale/control.sock')";
    machine.ok(["python3", "-c", stale]);
    let load = machine.load();
    load.flow(50);
    let install = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/install.sh");
    let binary = Path::new(env!("CARGO_BIN_EXE_zdsup"));
    let installed = machine.run([install.as_os_str(), "--reexec".as_ref(), "--binary".as_ref(), binary.as_os_str()]);
    assert!(installed.status.success(), "{installed:?}");
    assert!(installed.stdout.contains("web: zdsup ") && !installed.stdout.contains("stale"), "{installed:?}");
    assert_eq!(installed.stderr, "");
    assert_eq!(machine.property(UNIT, "MainPID"), main);
    // It is the file that was just installed: the former one would be called deleted.
    assert_eq!(machine.ok(["readlink", &format!("/proc/{main}/exe")]).trim(), "/usr/bin/zdsup");
    assert_eq!(machine.status()["supervisor"]["incarnation"], 2);
    assert_eq!(machine.service_processes(), processes);
    machine.await_stored(STORED);
    load.stop_unharmed();
}

#[test]
fn one_that_cannot_go_on_with_it_goes_on_as_it_is() {
    let Some(machine) = Machine::boot() else { return };
    machine.start_good();
    machine.ok(["sh", "-c", "cp /usr/bin/zdsup /run/zdsup.good; rm /usr/bin/zdsup; echo broken >/usr/bin/zdsup"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/postinst");
    let run = machine.run(["env".as_ref(), "ZDSUP=/run/zdsup.good".as_ref(), script.as_os_str()]);
    assert!(run.status.success(), "{run:?}");
    assert!(run.stderr.contains("web goes on with the former zdsup: "), "{run:?}");
    assert_eq!(machine.answering(), 1);
}
