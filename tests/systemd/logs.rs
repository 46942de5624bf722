//! The journal: fields, the service's output, and a stream of its own.

use crate::machine::Machine;
use crate::release::{Config, UNIT};

#[test]
fn entries_carry_service_and_generation() {
    let Some(machine) = Machine::boot() else { return };
    machine.start_good();
    assert!(machine.reload().status.success());
    let journal = machine.journal(UNIT);
    for generation in ["1", "2"] {
        let entries = journal.iter().filter(|entry| entry.field("ZDSUP_GENERATION") == generation);
        let entries: Vec<_> = entries.collect();
        assert!(!entries.is_empty(), "nothing of generation {generation} in {journal:#?}");
        for entry in entries {
            assert_eq!(entry.field("ZDSUP_SERVICE"), "web", "{entry:?}");
            assert_eq!(entry.field("_SYSTEMD_UNIT"), UNIT, "{entry:?}");
        }
    }
}

/// `zdsup reload` of the unit writes to the same journal as the supervisor.
#[test]
fn the_story_of_an_upgrade_is_told_once() {
    let Some(machine) = Machine::boot() else { return };
    machine.start_good();
    assert!(machine.reload().status.success());
    let journal = machine.journal(UNIT);
    let told = journal.iter().filter(|entry| entry.message().contains("web@2: ready after")).count();
    assert_eq!(told, 1, "{journal:#?}");
    Config::mode("crashes").install(&machine);
    assert!(!machine.reload().status.success());
    let journal = machine.journal(UNIT);
    let words = journal.iter().filter(|entry| entry.message().contains("cannot read the settings")).count();
    assert_eq!(words, 2, "once as it was said, once with the verdict: {journal:#?}");
}

#[test]
fn a_failed_upgrade_is_logged_as_an_error() {
    let Some(machine) = Machine::boot() else { return };
    machine.start_good();
    Config::mode("crashes").install(&machine);
    assert!(!machine.reload().status.success());
    let journal = machine.journal(UNIT);
    let verdict = journal.iter().find(|entry| {
        entry.field("_COMM") == "zdsup" && entry.field("ZDSUP_SERVICE") == "web" && entry.message().contains("failed")
    });
    let verdict = verdict.unwrap_or_else(|| panic!("no verdict in {journal:#?}"));
    let priority: u8 = verdict.field("PRIORITY").parse().expect("a priority is a number");
    assert!(priority <= 4, "not a warning, nor an error: {verdict:?}");
}

#[test]
fn captured_output_reaches_the_journal() {
    let Some(machine) = Machine::boot() else { return };
    machine.start_good();
    machine.await_entry(UNIT, "the service's output", |entry| entry.message().contains("serving on http"));
}

#[test]
fn a_stream_of_its_own_is_tagged_with_the_generation() {
    let Some(machine) = Machine::boot() else { return };
    Config::mode("serve").keys("log = \"journal\"").install(&machine);
    machine.ok(["systemctl", "start", UNIT]);
    assert!(machine.reload().status.success());
    for generation in [1, 2] {
        let entry = machine.await_entry(UNIT, "the service's output", |entry| {
            entry.field("SYSLOG_IDENTIFIER") == format!("web@{generation}")
        });
        assert_eq!(entry.message(), "serving on http");
    }
}
