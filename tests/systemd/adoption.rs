//! The supervisor's own death: what it held is kept by systemd, and the next one goes on with it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::machine::Machine;
use crate::release::{Config, UNIT};

impl Machine {
    /// SIGKILL to the supervisor, and nothing else. Returns once another one answers, with its process.
    #[track_caller]
    pub(crate) fn kill_supervisor(&self) -> String {
        self.end_supervisor_by("KILL")
    }

    #[track_caller]
    fn end_supervisor_by(&self, signal: &str) -> String {
        let before = self.property(UNIT, "MainPID");
        self.ok(["kill", &format!("-{signal}"), &before]);
        // Rust's handler lets a SIGSEGV pass that no access has caused: again, until nobody is left to take it.
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.run(["kill", &format!("-{signal}"), &before]).status.success() {
            assert!(Instant::now() < deadline, "it does not die of SIG{signal}");
        }
        self.await_successor(&before)
    }

    /// Waits until another supervisor than that one answers.
    #[track_caller]
    pub(crate) fn await_successor(&self, before: &str) -> String {
        self.await_property(UNIT, "MainPID", "a successor", |pid| pid != before && pid != "0");
        self.await_property(UNIT, "ActiveState", "active", |state| state == "active");
        self.property(UNIT, "MainPID")
    }

    /// The processes of the service.
    pub(crate) fn service_processes(&self) -> BTreeSet<String> {
        self.run(["pgrep", "--full", "service.py"]).stdout.lines().map(str::to_owned).collect()
    }

    /// How many descriptors systemd keeps for the unit, once that is so many.
    #[track_caller]
    pub(crate) fn await_stored(&self, wanted: usize) {
        self.await_property(UNIT, "NFileDescriptorStore", &format!("{wanted} stored"), |n| n == wanted.to_string());
    }
}

/// What is kept of a supervisor with one serving process and its listener: state, control socket, listener,
/// executable; pidfd, notify socket and two streams.
pub(crate) const STORED: usize = 8;

#[test]
fn a_supervisor_that_is_killed_is_followed_by_one_that_goes_on() {
    let Some(machine) = Machine::boot() else { return };
    machine.start_good();
    machine.await_stored(STORED);
    let processes = machine.service_processes();
    let load = machine.load();
    load.flow(100);
    // However it dies.
    for signal in ["KILL", "ABRT", "SEGV"] {
        let began = Instant::now();
        machine.end_supervisor_by(signal);
        eprintln!("followed after {:?}", began.elapsed());
        load.flow(50);
        assert_eq!(machine.service_processes(), processes, "it was started again");
        assert_eq!(machine.status()["services"][0]["serving"], 1);
        machine.await_stored(STORED);
    }
    // And it can do what the first one could.
    assert!(machine.reload().status.success());
    assert_eq!(machine.answering(), 2);
    machine.await_end_of(1);
    machine.await_stored(STORED);
    load.stop_unharmed();
    machine.ok(["systemctl", "stop", UNIT]);
    assert!(machine.service_processes().is_empty());
}

/// A unit that lets systemd keep less than zdsup believes: systemd drops the rest without a word.
#[test]
fn what_systemd_did_not_keep_is_named() {
    let Some(machine) = Machine::boot() else { return };
    machine.with_drop_in("FileDescriptorStoreMax=6\nEnvironment=FDSTORE=4096");
    machine.start_good();
    machine.await_stored(6);
    machine.kill_supervisor();
    machine.await_entry(UNIT, "what is missing", |entry| {
        let message = entry.message();
        message.starts_with("2 of 8 descriptors were not kept")
            && message.contains("stdout (of web@1.1)")
            && message.contains("FileDescriptorStoreMax=")
    });
    assert_eq!(machine.answering(), 1);
}

#[test]
fn an_upgrade_in_flight_is_carried_to_its_verdict() {
    let Some(machine) = Machine::boot() else { return };
    machine.start_good();
    Config::mode("slowly-ready").install(&machine);
    let load = machine.load();
    load.flow(50);
    machine.ok(["zdsup", "reload", "--no-wait"]);
    machine.await_entry(UNIT, "the candidate", |entry| {
        entry.field("ZDSUP_GENERATION") == "2" && entry.message().contains("spawned")
    });
    machine.kill_supervisor();
    machine.await_entry(UNIT, "the verdict", |entry| {
        entry.field("ZDSUP_GENERATION") == "2" && entry.message().contains("upgraded")
    });
    assert_eq!(machine.answering(), 2);
    machine.await_end_of(1);
    assert_eq!(machine.service_processes().len(), 1);
    machine.await_stored(STORED);
    load.stop_unharmed();
}

#[test]
fn a_service_that_dies_meanwhile_is_started_again_and_how_it_died_is_known() {
    let Some(machine) = Machine::boot() else { return };
    machine.start_good();
    machine.kill_supervisor();
    machine.ok(["pkill", "-SEGV", "--full", "service.py"]);
    machine.answering();
    machine.await_entry(UNIT, "how it ended", |entry| entry.message().contains("killed by SIGSEGV"));
    machine.await_property(UNIT, "StatusText", "serving again", |text| text == "web@1 serving");
    machine.await_stored(STORED);
}

#[test]
fn restart_keeps_serving_and_stop_ends_everything() {
    let Some(machine) = Machine::boot() else { return };
    machine.start_good();
    let processes = machine.service_processes();
    let load = machine.load();
    load.flow(50);
    let before = machine.property(UNIT, "MainPID");
    let restart = machine.run(["systemctl", "restart", UNIT]);
    assert!(restart.status.success(), "{restart:?}");
    assert_ne!(machine.property(UNIT, "MainPID"), before);
    assert_eq!(machine.service_processes(), processes);
    load.flow(50);
    load.stop_unharmed();
    let stop = machine.run(["systemctl", "stop", UNIT]);
    assert!(stop.status.success() && stop.took < Duration::from_secs(20), "{stop:?}");
    assert!(machine.service_processes().is_empty());
    machine.await_stored(0);
}

#[test]
fn a_config_that_is_invalid_by_now_does_not_keep_a_successor_from_going_on() {
    let Some(machine) = Machine::boot() else { return };
    machine.start_good();
    Config::mode("serve").keys("handof = \"inherit\"").install(&machine);
    machine.kill_supervisor();
    assert_eq!(machine.answering(), 1);
    let reload = machine.reload();
    assert!(!reload.status.success(), "{reload:?}");
    Config::mode("serve").install(&machine);
    assert!(machine.reload().status.success());
    assert_eq!(machine.answering(), 2);
}

/// Something about the state kills every supervisor that takes it over: it is held in the end, and reexec tries again.
#[test]
fn poison_state() {
    let Some(machine) = Machine::boot() else { return };
    machine.start_good();
    Config::mode("never-ready").install(&machine);
    let load = machine.load();
    load.flow(50);
    machine.ok(["zdsup", "reload", "--no-wait"]);
    machine.await_entry(UNIT, "the candidate", |entry| {
        entry.field("ZDSUP_GENERATION") == "2" && entry.message().contains("spawned")
    });
    // Each as soon as it is there: from inside, since every command from here takes its time.
    machine.ok([
        "bash",
        "-c",
        &format!(
            "seen=; for death in 1 2 3 4 5; do \
               while pid=$(systemctl show --property=MainPID --value {UNIT}); [[ $pid == 0 || $pid == \"$seen\" ]]; do :; done; \
               if [[ $seen ]]; then while [[ $(</proc/$pid/comm) != zdsup ]]; do :; done; sleep 0.1; fi; \
               kill -KILL $pid; seen=$pid; done"
        ),
    ]);
    machine
        .await_property(UNIT, "StatusText", "holding", |text| text.starts_with("HOLDING: the supervisor died 4 times"));
    machine.await_entry(UNIT, "the verdict", |entry| entry.message().contains("the supervisor died 2 times in a row"));
    assert_eq!(machine.answering(), 1);
    let status = machine.ok(["zdsup", "status"]);
    assert!(status.contains("HOLDING what runs"), "{status}");
    let reload = machine.run(["zdsup", "reload"]);
    assert!(!reload.status.success() && reload.stderr.contains("only holds what runs"), "{reload:?}");

    Config::mode("serve").install(&machine);
    machine.ok(["zdsup", "reexec"]);
    machine.await_property(UNIT, "StatusText", "serving", |text| text.starts_with("web@1 serving"));
    assert!(machine.reload().status.success());
    load.stop_unharmed();
}

#[test]
fn what_is_held_can_be_stopped() {
    let Some(machine) = Machine::boot() else { return };
    machine.start_good();
    // A state that no zdsup can read.
    let main = machine.property(UNIT, "MainPID");
    machine.ok([
        "bash",
        "-c",
        &format!(
            "for fd in /proc/{main}/fd/*; do if [[ $(readlink $fd) == /memfd:zdsup-state* ]]; then \
               kill -STOP {main}; dd if=/dev/zero of=$fd bs=1 seek=0 count=8 conv=notrunc status=none; fi; done"
        ),
    ]);
    machine.kill_supervisor();
    machine.await_property(UNIT, "StatusText", "holding", |text| text.starts_with("HOLDING: the state"));
    assert_eq!(machine.answering(), 1);
    machine.ok(["systemctl", "stop", UNIT]);
    assert!(machine.service_processes().is_empty());
    machine.await_stored(0);
}

/// Keep-alives are not written down: what a successor reads of them is old, and is held against nobody.
#[test]
fn a_watched_service_is_not_blamed_for_the_supervisors_death() {
    let Some(machine) = Machine::boot() else { return };
    Config::mode("watched").tables("[service.web.watchdog]\ntimeout = \"3s\"").install(&machine);
    machine.ok(["systemctl", "start", UNIT]);
    let processes = machine.service_processes();
    let lived = |seconds: f64| {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let status = machine.status();
            let instance = &status["services"][0]["generations"][0]["instances"][0];
            if instance["age"].as_f64().is_some_and(|age| age > seconds) {
                return;
            }
            assert!(Instant::now() < deadline, "{status}");
        }
    };
    lived(4.0);
    machine.kill_supervisor();
    lived(9.0);
    assert_eq!(machine.service_processes(), processes, "it was started again");
    // It is watched still.
    machine.ok(["pkill", "-STOP", "--full", "service.py"]);
    machine.await_entry(UNIT, "the watchdog", |entry| entry.message().contains("no watchdog message in 3 s"));
    machine.ok(["pkill", "-CONT", "--full", "service.py"]);
    machine.await_property(UNIT, "StatusText", "serving again", |text| text == "web@1 serving");
    assert_ne!(machine.service_processes(), processes);
}

#[test]
fn a_control_socket_that_was_bound_anew_is_the_one_that_a_successor_has() {
    let Some(machine) = Machine::boot() else { return };
    machine.start_good();
    machine.await_stored(STORED);
    machine.ok(["rm", "-r", "/run/zdsup/web"]);
    machine.await_entry(UNIT, "a new control socket", |entry| entry.message().contains("bound anew"));
    machine.status();
    machine.kill_supervisor();
    assert_eq!(machine.status()["services"][0]["serving"], 1);
    machine.await_stored(STORED);
    assert!(machine.reload().status.success());
}

#[test]
fn the_state_of_another_supervisor_is_kept_aside_and_its_listeners_are_used_again() {
    let Some(machine) = Machine::boot() else { return };
    machine.start_good();
    let former = machine.service_processes();
    // The same unit, for a supervisor of another name.
    let command = "/usr/bin/zdsup run --name other -c /etc/zdsup/web.toml";
    let directory = format!("/run/systemd/system/{UNIT}.d");
    machine.write(&format!("{directory}/name.conf"), &format!("[Service]\nExecStart=\nExecStart={command}\n"));
    machine.ok(["systemctl", "daemon-reload"]);
    machine.kill_supervisor();
    machine.await_entry(UNIT, "why", |entry| {
        entry.message().contains("it is of supervisor web, and this is other; it is kept as")
    });
    machine.await_property(UNIT, "StatusText", "serving", |text| text == "web@2 serving");
    let aside = machine.ok(["cat", "/run/zdsup/web/state.refused.json"]);
    assert!(aside.starts_with("{\"version\":1,"), "{aside}");
    // The port was never let go of, and is not bound a second time.
    machine.await_stored(STORED);
    // What ran for the other one is nobody's any more.
    assert!(machine.service_processes().is_disjoint(&former));
    machine.answering();
}

#[test]
fn what_a_service_says_and_prints_while_no_supervisor_is_there_is_not_lost() {
    let Some(machine) = Machine::boot() else { return };
    machine.write(&format!("/run/systemd/system/{UNIT}.d/pause.conf"), "[Service]\nRestartSec=1s\n");
    let script = "systemd-notify --ready; n=0; while :; do \
                    echo tick $n; systemd-notify --status=\"tick $n\"; n=$((n+1)); sleep 0.05; done";
    Config::command(&["/bin/bash", "-c", script]).install(&machine);
    machine.ok(["systemctl", "daemon-reload"]);
    machine.ok(["systemctl", "start", UNIT]);
    let tick = |entry: &crate::machine::Entry| -> Option<u64> { entry.message().strip_prefix("tick ")?.parse().ok() };
    machine.await_entry(UNIT, "some output", |entry| tick(entry) == Some(10));
    machine.kill_supervisor();
    machine.await_entry(UNIT, "more output", |entry| tick(entry) == Some(60));
    let ticks: Vec<u64> = machine.journal(UNIT).iter().filter_map(tick).collect();
    assert_eq!(ticks, (0..ticks.len() as u64).collect::<Vec<_>>(), "each line once, and in order");
    let status = machine.status()["services"][0]["generations"][0]["instances"][0]["status"].clone();
    assert!(status.as_str().is_some_and(|status| status.starts_with("tick ")), "{status}");
}
