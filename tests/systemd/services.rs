//! Several services in one unit.

use crate::machine::Machine;
use crate::release::{ADDRESS, Config, PROGRAM, UNIT};

const OTHER: &str = "127.0.0.1:8081";

/// `web` comes after `api`, which is in one of the modes of the service of the tests.
fn two(machine: &Machine, api: &str) {
    let command = ["/usr/bin/python3", "-IS", PROGRAM, api];
    let api = format!(
        "[service.api]\ncommand = {command:?}\nready = {{ timeout = \"10s\" }}\n\
         [[service.api.listen]]\nname = \"api\"\naddress = \"{OTHER}\"\n"
    );
    Config::mode("serve").keys("after = [\"api\"]").tables(&api).install(machine);
}

#[test]
fn start_and_reload_wait_for_all_of_them_and_each_has_its_sockets() {
    let Some(machine) = Machine::boot() else { return };
    let sockets = format!("[Socket]\nListenStream={ADDRESS}\nListenStream={OTHER}\n");
    machine.install_unit("zdsup@web.socket", &sockets);
    two(&machine, "slowly-ready");
    let start = machine.run(["systemctl", "start", "zdsup@web.socket", UNIT]);
    assert!(start.status.success(), "{start:?}");
    assert!(start.took.as_secs() >= 3, "it did not wait until the first was ready: {start:?}");
    let status = machine.status();
    for service in status["services"].as_array().expect("services") {
        assert_eq!((service["serving"].as_u64(), service["state"].as_str()), (Some(1), Some("serving")), "{service}");
        assert_eq!(service["listeners"][0]["origin"], "inherited", "{service}");
    }
    assert_eq!(machine.property(UNIT, "StatusText"), "web@1 serving; api@1 serving");
    let reload = machine.reload();
    assert!(reload.status.success() && reload.took.as_secs() >= 3, "{reload:?}");
    assert_eq!(machine.property(UNIT, "StatusText"), "web@2 serving; api@2 serving");
    two(&machine, "crashes");
    let reload = machine.reload();
    assert!(!reload.status.success(), "{reload:?}");
    assert_eq!(machine.property(UNIT, "ActiveState"), "active");
    let line = machine.property(UNIT, "StatusText");
    assert!(
        line.contains("web@2 serving") && line.contains("web refused: not begun, since upgrade #5 of api failed"),
        "{line}"
    );
}

#[test]
fn the_failure_of_one_is_the_failure_of_the_start() {
    let Some(machine) = Machine::boot() else { return };
    two(&machine, "crashes");
    let start = machine.run(["systemctl", "start", UNIT]);
    assert!(!start.status.success(), "{start:?}");
    let status = machine.run(["systemctl", "status", "--no-pager", "--full", UNIT]).stdout;
    assert!(status.contains("api did not start: ended before it was ready: exit status 3"), "{status}");
    assert_eq!(machine.run(["pgrep", "--full", "service.py"]).stdout, "", "a process was left behind");
}
