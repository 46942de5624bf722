//! A service that dies while it serves: the unit stays up, callers wait, and a reload mends it.

use crate::machine::Machine;
use crate::release::{Config, UNIT};

#[test]
fn a_service_that_dies_is_started_again_while_callers_wait() {
    let Some(machine) = Machine::boot() else { return };
    machine.start_good();
    let main = machine.property(UNIT, "MainPID");
    let before = machine.ok(["pgrep", "--full", "service.py"]);
    machine.ok(["pkill", "-KILL", "--full", "service.py"]);
    // Whether or not it is up again: the listener is bound, so the connection waits.
    machine.answering();
    assert_ne!(machine.ok(["pgrep", "--full", "service.py"]), before);
    machine.await_entry(UNIT, "the crash", |entry| {
        entry.field("ZDSUP_SERVICE") == "web" && entry.message().contains("killed by SIGKILL")
    });
    assert_eq!(machine.property(UNIT, "MainPID"), main);
    assert_eq!(machine.property(UNIT, "ActiveState"), "active");
    machine.await_property(UNIT, "StatusText", "serving again", |text| text == "web@1 serving");
}

#[test]
fn a_service_that_was_given_up_is_mended_by_a_reload() {
    let Some(machine) = Machine::boot() else { return };
    let restart = "[service.web.restart]\nbackoff = \"10ms..1s\"\ngive-up-after = 2";
    Config::mode("ready-then-dies").tables(restart).install(&machine);
    machine.ok(["systemctl", "start", UNIT]);
    machine.await_property(UNIT, "StatusText", "given up", |text| text.contains("web@1 FAILED, given up"));
    assert_eq!(machine.property(UNIT, "ActiveState"), "active");

    Config::mode("crashes").tables(restart).install(&machine);
    assert!(!machine.reload().status.success());
    machine.await_entry(UNIT, "what serves", |entry| {
        entry.field("ZDSUP_GENERATION") == "2" && entry.message().contains("nothing is serving")
    });

    Config::mode("serve").install(&machine);
    let reload = machine.reload();
    assert!(reload.status.success(), "{reload:?}");
    assert_eq!(machine.answering(), 3);
    machine.await_property(UNIT, "StatusText", "serving", |text| text == "web@3 serving");
}
