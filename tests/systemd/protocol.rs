//! What zdsup tells systemd: RELOADING and READY, longer timeouts, the watchdog, the status line.

use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::Duration;

use crate::machine::Machine;
use crate::release::{ADDRESS, Config, UNIT};

/// Timeouts of systemd that are shorter than what the service takes.
const SHORT: &str = "[Service]\nTimeoutStartSec=2s\nTimeoutStopSec=2s\n";

#[test]
fn a_start_longer_than_the_start_timeout_is_waited_for() {
    let Some(machine) = Machine::boot() else { return };
    machine.install_unit("zdsup@.service.d/short.conf", SHORT);
    Config::mode("slowly-ready").install(&machine);
    machine.ok(["systemctl", "start", UNIT]);
    assert_eq!(machine.answering(), 1);
}

#[test]
fn an_upgrade_longer_than_the_start_timeout_is_waited_for() {
    let Some(machine) = Machine::boot() else { return };
    machine.install_unit("zdsup@.service.d/short.conf", SHORT);
    machine.start_good();
    Config::mode("slowly-ready").tables("[service.web.upgrade]\nsoak = \"2s\"").install(&machine);
    let reload = machine.reload();
    assert!(reload.status.success(), "{reload:?}");
    assert!(reload.took.as_secs() >= 5, "{reload:?}");
    assert_eq!(machine.answering(), 2);
    assert_eq!(machine.property(UNIT, "ActiveState"), "active");
}

#[test]
fn a_failure_later_than_the_start_timeout_is_waited_for() {
    let Some(machine) = Machine::boot() else { return };
    machine.install_unit("zdsup@.service.d/short.conf", SHORT);
    machine.start_good();
    Config::mode("never-ready").tables("[service.web.ready]\ntimeout = \"4s\"").install(&machine);
    let reload = machine.reload();
    assert!(!reload.status.success() && reload.took.as_secs() >= 4, "{reload:?}");
    let control = machine.property(UNIT, "ExecReload");
    assert!(control.contains("status=4"), "systemd did not wait for the verdict: {control}");
    assert_eq!(machine.property(UNIT, "ActiveState"), "active");
    assert_eq!(machine.answering(), 1);
}

#[test]
fn a_drain_longer_than_the_stop_timeout_is_waited_for() {
    let Some(machine) = Machine::boot() else { return };
    machine.install_unit("zdsup@.service.d/short.conf", SHORT);
    Config::mode("lingers").install(&machine);
    machine.ok(["systemctl", "start", UNIT]);
    let stop = machine.run(["systemctl", "stop", UNIT]);
    assert!(stop.took.as_secs() >= 4, "{stop:?}");
    assert_eq!(machine.property(UNIT, "Result"), "success");
    assert_eq!(machine.property(UNIT, "ActiveState"), "inactive");
}

#[test]
fn an_upgrade_is_a_reload_to_systemd_however_it_began() {
    let Some(machine) = Machine::boot() else { return };
    machine.start_good();
    Config::mode("slowly-ready").install(&machine);
    let mut reload = machine.command(["zdsup", "reload", "--name", "web"]);
    let reload = reload.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("zdsup can be run");
    machine.await_entry(UNIT, "the candidate", |entry| entry.field("ZDSUP_GENERATION") == "2");
    machine.await_property(UNIT, "ActiveState", "reloading", |state| state == "reloading");
    let output = reload.wait_with_output().expect("it can be waited for");
    assert!(output.status.success(), "{output:?}");
    machine.await_property(UNIT, "ActiveState", "active again", |state| state == "active");
}

#[test]
fn the_status_line_tells_generation_state_and_drain() {
    let Some(machine) = Machine::boot() else { return };
    Config::mode("lingers").install(&machine);
    machine.ok(["systemctl", "start", UNIT]);
    let text = machine.property(UNIT, "StatusText");
    assert!(text.contains("web@1"), "no generation in {text:?}");
    assert!(machine.reload().status.success());
    let text = machine.property(UNIT, "StatusText");
    assert!(text.contains("web@2") && text.contains("draining"), "no drain in {text:?}");
    machine.await_end_of(1);
    machine.await_property(UNIT, "StatusText", "web@2 alone", |text| text == "web@2 serving");
}

#[test]
fn the_status_line_counts_the_connections_that_a_drain_waits_for() {
    let Some(machine) = Machine::boot() else { return };
    machine.start_good();
    // A client that has asked for nothing yet: the service waits for it, ten seconds.
    let client = machine.inside(|| TcpStream::connect(ADDRESS)).expect("the service answers");
    machine.answering();
    assert!(machine.reload().status.success());
    machine.await_property(UNIT, "StatusText", "the connection", |text| {
        text.contains("web@1 draining, 1 connection,") && text.contains(" left")
    });
    drop(client);
    machine.await_end_of(1);
}

#[test]
fn a_failed_upgrade_is_in_the_status_line() {
    let Some(machine) = Machine::boot() else { return };
    machine.start_good();
    Config::mode("crashes").install(&machine);
    assert!(!machine.reload().status.success());
    let text = machine.property(UNIT, "StatusText");
    assert!(text.contains("web@1") && text.contains("failed"), "the failure is not in {text:?}");
}

#[test]
fn the_watchdog_is_fed_and_bites() {
    let Some(machine) = Machine::boot() else { return };
    machine.install_unit("zdsup@.service.d/watchdog.conf", "[Service]\nWatchdogSec=2s\nRestart=no\n");
    machine.start_good();
    let pid = machine.property(UNIT, "MainPID");
    // Long enough for several deadlines, and busy.
    Config::mode("slowly-ready").tables("[service.web.upgrade]\nsoak = \"2s\"").install(&machine);
    let reload = machine.reload();
    assert!(reload.status.success() && reload.took.as_secs() >= 5, "{reload:?}");
    assert_eq!(machine.property(UNIT, "MainPID"), pid);
    assert_eq!(machine.property(UNIT, "ActiveState"), "active");

    machine.ok(["kill", "-STOP", &pid]);
    machine.await_property(UNIT, "ActiveState", "the end", |state| state == "failed");
    assert_eq!(machine.property(UNIT, "Result"), "watchdog");
}

#[test]
fn systemd_hears_of_each_step() {
    let Some(machine) = Machine::boot() else { return };
    Config::mode("serve").install(&machine);
    // In systemd's place: its messages, word for word.
    let address = machine.shared().join("notify");
    let socket = UnixDatagram::bind(&address).expect("a socket can be bound");
    socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout can be set");
    let mut environment = std::ffi::OsString::from("NOTIFY_SOCKET=");
    environment.push(&address);
    let run = ["env".as_ref(), &*environment, "zdsup".as_ref(), "run".as_ref(), "-c".as_ref()];
    let mut supervisor = machine.command(run.into_iter().chain(["/etc/zdsup/web.toml".as_ref()]));
    let mut supervisor = supervisor.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it can be run");

    let heard = |words: &[&str]| {
        let mut datagram = [0; 4096];
        loop {
            let length = socket.recv(&mut datagram).unwrap_or_else(|error| panic!("{words:?} was not heard: {error}"));
            let message = String::from_utf8_lossy(&datagram[..length]).into_owned();
            if words.iter().all(|word| message.lines().any(|line| line.starts_with(word))) {
                return message;
            }
            // Nothing of the service's own gets through.
            assert!(!message.contains("STATUS=finishing"), "{message}");
        }
    };
    heard(&["EXTEND_TIMEOUT_USEC="]);
    heard(&["READY=1", "STATUS=web@1 serving"]);
    machine.ok(["zdsup", "reload"]);
    let reloading = heard(&["RELOADING=1", "MONOTONIC_USEC=", "STATUS="]);
    let stamp = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    assert!(stamp.is_some_and(|stamp| stamp.parse::<u64>().is_ok_and(|stamp| stamp > 0)), "{reloading}");
    heard(&["EXTEND_TIMEOUT_USEC="]);
    heard(&["READY=1", "STATUS=web@2 serving"]);
    machine.ok(["zdsup", "stop"]);
    heard(&["STOPPING=1", "STATUS="]);
    assert!(supervisor.wait().expect("it can be waited for").success());
}
