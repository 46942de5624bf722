//! The supervisor dies, and no other takes over: what it ran is ended by the stop that is under way, by the next start,
//! or by hand; and by nothing else.

use std::path::PathBuf;

use crate::adoption::STORED;
use crate::machine::{Machine, skipped};
use crate::release::{Config, UNIT};
use crate::stop::no_process_is_left;

impl Machine {
    /// The unit with these lines, too, in its section `[Service]`.
    pub(crate) fn with_drop_in(&self, lines: &str) {
        self.install_unit(&format!("{UNIT}.d/test.conf"), &format!("[Service]\n{lines}\n"));
    }

    /// SIGKILL to the supervisor.
    fn kill_main(&self) {
        self.ok(["kill", "-KILL", &self.property(UNIT, "MainPID")]);
    }

    /// A unit that failed as its supervisor died, while its service goes on.
    fn failed_while_serving(&self) {
        self.with_drop_in("RestartPreventExitStatus=SIGKILL");
        self.start_good();
        let load = self.load();
        load.flow(50);
        self.kill_main();
        self.await_property(UNIT, "ActiveState", "failed", |state| state == "failed");
        load.stop_unharmed();
        assert_eq!(self.service_processes().len(), 1);
    }

    /// The cgroup of the unit, as the test sees it.
    fn unit_cgroup(&self) -> PathBuf {
        self.path(format!("/sys/fs/cgroup{}", self.property(UNIT, "ControlGroup")))
    }
}

#[test]
fn a_stop_in_which_the_supervisor_dies_ends_everything() {
    let Some(machine) = Machine::boot() else { return };
    Config::mode("with-family").install(&machine);
    machine.with_drop_in(
        "ExecStopPost=\nExecStopPost=-+/usr/bin/zdsup stop --leftovers --timeout 2s --if-stopping %n --name %i",
    );
    machine.ok(["systemctl", "start", UNIT]);
    machine.ok(["systemctl", "stop", "--no-block", UNIT]);
    machine.await_property(UNIT, "StatusText", "draining", |text| text.contains("draining"));
    machine.kill_main();
    machine.await_property(UNIT, "ActiveState", "its end", |state| state == "failed" || state == "inactive");
    no_process_is_left(&machine);
    machine.await_entry(UNIT, "what was killed", |entry| {
        entry.message().contains("web@1.1, process") && entry.message().ends_with("killed")
    });
}

#[test]
fn a_stop_in_which_the_supervisor_dies_lets_requests_finish() {
    let Some(machine) = Machine::boot() else { return };
    Config::mode("lingers").install(&machine);
    machine.ok(["systemctl", "start", UNIT]);
    let slow = crate::stop::slow_request(&machine);
    machine.ok(["systemctl", "stop", "--no-block", UNIT]);
    machine.await_property(UNIT, "StatusText", "draining", |text| text.contains("draining"));
    machine.kill_main();
    machine.ok(["systemctl", "stop", UNIT]);
    let answer = slow.wait_with_output().expect("curl can be waited for");
    assert!(answer.status.success(), "the request in flight was cut off: {answer:?}");
    no_process_is_left(&machine);
}

#[test]
fn a_stop_of_a_supervisor_that_hangs_ends_everything() {
    let Some(machine) = Machine::boot() else { return };
    machine.with_drop_in("TimeoutStopSec=1s");
    machine.start_good();
    machine.ok(["kill", "-STOP", &machine.property(UNIT, "MainPID")]);
    machine.run(["systemctl", "stop", UNIT]);
    no_process_is_left(&machine);
}

/// The one that stops is the only one to be ended: ExecStopPost= runs in a restart and after a crash, too.
#[test]
fn a_restart_that_kills_the_supervisor_keeps_serving() {
    let Some(machine) = Machine::boot() else { return };
    machine.with_drop_in("RestartKillSignal=SIGKILL");
    machine.start_good();
    let processes = machine.service_processes();
    let load = machine.load();
    load.flow(50);
    machine.ok(["systemctl", "restart", UNIT]);
    load.flow(50);
    machine.kill_supervisor();
    load.flow(50);
    assert_eq!(machine.service_processes(), processes);
    machine.await_stored(STORED);
    load.stop_unharmed();
}

#[test]
fn what_a_failed_unit_has_left_is_ended_by_hand() {
    let Some(machine) = Machine::boot() else { return };
    machine.failed_while_serving();
    // There is nothing that systemd would run.
    machine.ok(["systemctl", "stop", UNIT]);
    assert_eq!(machine.service_processes().len(), 1);
    let stop = machine.run(["zdsup", "stop", "--leftovers", "--name", "web"]);
    assert!(stop.status.success(), "{stop:?}");
    assert!(stop.stderr.contains("web@1.1, process ") && stop.stderr.contains("ended by SIGTERM"), "{stop:?}");
    no_process_is_left(&machine);
    let again = machine.run(["zdsup", "stop", "--leftovers"]);
    assert!(again.status.success() && again.stderr.contains("nothing was left"), "{again:?}");
    machine.ok(["systemctl", "start", UNIT]);
    assert_eq!(machine.answering(), 2);
}

#[test]
fn what_a_failed_unit_has_left_is_ended_by_the_next_start() {
    let Some(machine) = Machine::boot() else { return };
    machine.failed_while_serving();
    let before = machine.service_processes();
    machine.ok(["systemctl", "start", UNIT]);
    assert_eq!(machine.answering(), 2);
    let after = machine.service_processes();
    assert!(after.len() == 1 && after != before, "{before:?} {after:?}");
    machine.await_entry(UNIT, "what was ended", |entry| entry.message().contains("ended by SIGTERM"));
    machine.await_stored(STORED);
}

/// There is nothing that systemd would run for a unit that it is about to start again, either.
#[test]
fn what_is_left_of_a_unit_that_was_stopped_before_it_was_started_again() {
    let Some(machine) = Machine::boot() else { return };
    machine.with_drop_in("RestartSec=1h");
    let stopped = || {
        machine.kill_main();
        machine.await_property(UNIT, "SubState", "a pause", |state| state == "auto-restart");
        machine.ok(["systemctl", "stop", UNIT]);
        machine.await_property(UNIT, "ActiveState", "its end", |state| state == "failed" || state == "inactive");
        assert_eq!(machine.service_processes().len(), 1);
    };
    machine.start_good();
    stopped();
    let stop = machine.run(["zdsup", "stop", "--leftovers", "--name", "web"]);
    assert!(stop.status.success() && stop.stderr.contains("ended by SIGTERM"), "{stop:?}");
    assert!(machine.service_processes().is_empty());
    machine.ok(["systemctl", "start", UNIT]);
    let before = machine.service_processes();
    stopped();
    machine.ok(["systemctl", "start", UNIT]);
    assert_eq!(machine.answering(), 3);
    let after = machine.service_processes();
    assert!(after.len() == 1 && after != before, "{before:?} {after:?}");
    machine.await_stored(STORED);
}

#[test]
fn a_unit_that_has_died_too_often_can_be_started_again() {
    let Some(machine) = Machine::boot() else { return };
    machine.install_unit(&format!("{UNIT}.d/burst.conf"), "[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=2\n");
    machine.start_good();
    machine.kill_supervisor();
    machine.kill_main();
    machine.await_property(UNIT, "ActiveState", "failed", |state| state == "failed");
    machine.ok(["systemctl", "stop", UNIT]);
    assert_eq!(machine.service_processes().len(), 1);
    machine.ok(["systemctl", "reset-failed", UNIT]);
    machine.ok(["systemctl", "start", UNIT]);
    assert_eq!(machine.answering(), 2);
    assert_eq!(machine.service_processes().len(), 1);
}

/// Whatever a service does to its environment and its session, it is in its cgroup.
#[test]
fn leftovers_are_known_by_their_cgroup() {
    let Some(machine) = Machine::boot() else { return };
    machine.with_drop_in("RestartPreventExitStatus=SIGKILL");
    let hides = "systemd-notify --ready; env -i setsid sleep 1000 & exec env -i sleep 1000";
    Config::command(&["/bin/sh", "-c", hides]).install(&machine);
    machine.ok(["systemctl", "start", UNIT]);
    machine.kill_main();
    machine.await_property(UNIT, "ActiveState", "failed", |state| state == "failed");
    assert_eq!(machine.ok(["pgrep", "--full", "sleep 1000"]).lines().count(), 2);
    machine.ok(["zdsup", "stop", "--leftovers", "--name", "web"]);
    assert_eq!(machine.run(["pgrep", "--full", "sleep 1000"]).stdout, "");
    no_process_is_left(&machine);
}

#[test]
fn where_a_supervisor_lives_nothing_is_left_over() {
    let Some(machine) = Machine::boot() else { return };
    machine.start_good();
    let stop = machine.run(["zdsup", "stop", "--leftovers"]);
    assert_eq!(stop.status.code(), Some(5), "{stop:?}");
    assert!(
        stop.stderr.contains("a supervisor runs in /run/zdsup/web") && stop.stderr.contains("`zdsup stop`"),
        "{stop:?}"
    );
    assert_eq!(machine.answering(), 1);
}

#[test]
fn what_a_successor_is_about_to_take_over_is_not_left_over() {
    let Some(machine) = Machine::boot() else { return };
    machine.with_drop_in("RestartSec=3s");
    machine.start_good();
    let processes = machine.service_processes();
    let before = machine.property(UNIT, "MainPID");
    machine.kill_main();
    machine.await_property(UNIT, "SubState", "a pause", |state| state == "auto-restart");
    let stop = machine.run(["zdsup", "stop", "--leftovers"]);
    assert_eq!(stop.status.code(), Some(5), "{stop:?}");
    machine.await_successor(&before);
    assert_eq!(machine.service_processes(), processes);
    machine.await_stored(STORED);
}

/// Row 42: controllers that are enabled below the unit keep systemd 252 from starting it again.
#[test]
fn subtree_control_does_not_keep_a_successor_from_adopting() {
    let Some(machine) = Machine::boot() else { return };
    let text = |path: &str| std::fs::read_to_string(machine.path(path)).expect("it is there");
    let available = text("/sys/fs/cgroup/cgroup.controllers");
    let Some(controller) = available.split_whitespace().next() else {
        return skipped("no cgroup controller is available to the machine");
    };
    // Only while no process is in the unit's own cgroup can they be enabled: between two supervisors.
    let enable = "/bin/sh -c 'for g in / /system.slice /system.slice/system-zdsup.slice /system.slice/system-zdsup.slice/%n; \
                  do echo +CONTROLLER >/sys/fs/cgroup$$g/cgroup.subtree_control; done'";
    machine.with_drop_in(&format!(
        "ExecStopPost=\nExecStopPost=+{}\n\
         ExecStopPost=-+/usr/bin/zdsup stop --leftovers --if-stopping %n --name %i",
        enable.replace("CONTROLLER", controller)
    ));
    machine.start_good();
    let processes = machine.service_processes();
    let load = machine.load();
    load.flow(50);
    machine.kill_supervisor();
    load.flow(50);
    assert_eq!(machine.service_processes(), processes);
    machine.await_entry(UNIT, "what was enabled", |entry| {
        entry.message().contains("cgroup controllers were enabled") && entry.message().contains(controller)
    });
    let file = machine.unit_cgroup().join("cgroup.subtree_control");
    assert_eq!(std::fs::read_to_string(file).expect("it is there").trim(), "");
    machine.await_stored(STORED);
    load.stop_unharmed();
}
