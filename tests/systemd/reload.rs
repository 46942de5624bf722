//! `systemctl reload`, under load: waits for the verdict and fails where the upgrade failed, and no client notices
//! either way.

use crate::machine::Machine;
use crate::release::{Config, UNIT};

#[test]
fn reload_upgrades_without_a_client_noticing() {
    let Some(machine) = Machine::boot() else { return };
    machine.start_good();
    let load = machine.load();
    for generation in 2..=6 {
        load.flow(50);
        let reload = machine.reload();
        assert!(reload.status.success(), "{reload:?}");
        assert_eq!(machine.answering(), generation, "reload returned before the verdict");
        assert_eq!(machine.property(UNIT, "ActiveState"), "active");
    }
    let report = load.stop_unharmed();
    assert_eq!(report.answers().len(), 6, "each generation answered: {:?}", report.answers());
}

#[test]
fn reload_returns_when_the_candidate_serves() {
    let Some(machine) = Machine::boot() else { return };
    machine.start_good();
    Config::mode("slowly-ready").install(&machine);
    let load = machine.load();
    load.flow(50);
    let reload = machine.reload();
    assert!(reload.status.success(), "{reload:?}");
    assert!(reload.took.as_secs() >= 3, "it did not wait until the service was ready: {reload:?}");
    assert_eq!(machine.answering(), 2);
    load.stop_unharmed();
}

#[test]
fn sighup_upgrades_as_reload_does() {
    let Some(machine) = Machine::boot() else { return };
    machine.start_good();
    let load = machine.load();
    load.flow(50);
    machine.ok(["systemctl", "kill", "--kill-whom=main", "--signal=HUP", UNIT]);
    machine.await_entry(UNIT, "the verdict", |entry| {
        entry.field("ZDSUP_GENERATION") == "2" && entry.message().contains("upgraded")
    });
    assert_eq!(machine.answering(), 2);
    load.stop_unharmed();
}

/// Reloading to that release fails with the reason in `systemctl status`, while generation 1 serves under load and goes
/// on doing so; and the next good release is taken.
fn refused_at_reload(config: &Config, exit_status: &str, reasons: &[&str]) {
    let Some(machine) = Machine::boot() else { return };
    machine.start_good();
    let main = machine.property(UNIT, "MainPID");
    let load = machine.load();
    load.flow(50);

    config.install(&machine);
    let reload = machine.reload();
    assert!(!reload.status.success() && reload.stderr.contains("failed"), "{reload:?}");
    assert_eq!(machine.property(UNIT, "ActiveState"), "active");
    let control = machine.property(UNIT, "ExecReload");
    assert!(control.contains(&format!("status={exit_status}")), "zdsup reload ended otherwise: {control}");
    let status = machine.run(["systemctl", "status", "--no-pager", "--full", "--lines=100", UNIT]).stdout;
    for reason in reasons {
        assert!(status.contains(reason), "{reason:?} is not in:\n{status}");
    }
    assert_eq!(machine.answering(), 1, "the old generation does not serve");

    Config::mode("serve").install(&machine);
    let reload = machine.reload();
    assert!(reload.status.success(), "the next one, a good one, failed: {reload:?}");
    assert!(machine.answering() >= 2);
    assert_eq!(machine.property(UNIT, "MainPID"), main);
    load.stop_unharmed();
}

#[test]
fn reload_to_a_release_that_is_never_ready_fails() {
    let reasons = ["never ready in 2 s", "waiting for a database that is not there"];
    refused_at_reload(&never_ready(), "4", &reasons);
}

#[test]
fn reload_to_a_release_that_crashes_fails() {
    let reasons = ["exit status 3", "cannot read the settings: no such file"];
    refused_at_reload(&Config::mode("crashes"), "4", &reasons);
}

#[test]
fn reload_to_a_release_that_segfaults_fails() {
    refused_at_reload(&Config::mode("segfaults"), "4", &["killed by SIGSEGV"]);
}

#[test]
fn reload_to_a_release_that_goes_into_the_background_fails() {
    refused_at_reload(&Config::command(&["/bin/sh", "-c", "sleep 60 &"]), "4", &["exit status 0"]);
}

#[test]
fn reload_to_a_file_that_is_not_executable_fails() {
    refused_at_reload(&Config::command(&["/etc/passwd"]), "4", &["/etc/passwd"]);
}

#[test]
fn reload_to_a_program_that_is_missing_fails() {
    refused_at_reload(&Config::command(&["/srv/web/bin/web"]), "4", &["/srv/web/bin/web"]);
}

#[test]
fn reload_to_a_release_that_dies_in_its_soak_fails() {
    let config = Config::mode("ready-then-dies").tables("[service.web.upgrade]\nsoak = \"2s\"");
    refused_at_reload(&config, "4", &["rolled-back", "exit status 4", "lost the database"]);
}

#[test]
fn reload_with_an_invalid_config_fails() {
    let config = Config::mode("serve").keys("handof = \"inherit\"");
    refused_at_reload(&config, "2", &["handof", "/etc/zdsup/web.toml"]);
}

#[test]
fn reload_with_an_address_in_use_fails() {
    let listen = "[[service.web.listen]]\nname = \"http\"\naddress = \"127.0.0.1:8080\"\n\
                  [[service.web.listen]]\nname = \"more\"\naddress = \"192.0.2.1:80\"\n";
    refused_at_reload(&Config::mode("serve").listen(listen), "4", &["192.0.2.1:80"]);
}

fn never_ready() -> Config {
    Config::mode("never-ready").tables("[service.web.ready]\ntimeout = \"2s\"")
}
