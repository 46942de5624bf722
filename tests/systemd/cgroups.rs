//! The delegated cgroup: one below it for each instance, ended as a whole.

use std::fs;
use std::path::PathBuf;

use crate::machine::Machine;
use crate::release::{Config, UNIT};

#[test]
fn each_instance_has_a_cgroup_of_its_own() {
    let Some(machine) = Machine::boot() else { return };
    Config::mode("lingers").install(&machine);
    machine.ok(["systemctl", "start", UNIT]);
    assert!(machine.reload().status.success());
    let main = machine.property(UNIT, "MainPID");
    let groups = cgroups(&machine);
    let own = groups.iter().filter(|(_, pids)| !pids.contains(&main) && !pids.is_empty()).count();
    assert_eq!(own, 2, "one for the serving generation, one for the draining one: {groups:?}");
    for (group, _) in &groups {
        let controllers = fs::read_to_string(group.join("cgroup.subtree_control")).unwrap_or_default();
        assert_eq!(controllers, "", "controllers are enabled in {}", group.display());
    }
    machine.await_end_of(1);
    let groups = cgroups(&machine);
    assert!(groups.iter().filter(|(_, pids)| !pids.contains(&main)).count() <= 1, "an empty one is left: {groups:?}");
}

#[test]
fn an_instance_is_ended_with_all_its_processes() {
    let Some(machine) = Machine::boot() else { return };
    Config::mode("with-family").tables("[service.web.drain]\ntimeout = \"1s\"").install(&machine);
    machine.ok(["systemctl", "start", UNIT]);
    assert_eq!(machine.ok(["pgrep", "--full", "service.py"]).lines().count(), 4);
    Config::mode("serve").install(&machine);
    assert!(machine.reload().status.success());
    machine.await_end_of(1);
    assert_eq!(machine.ok(["pgrep", "--full", "service.py"]).lines().count(), 1, "the family outlived its generation");
    assert_eq!(machine.answering(), 2);
}

#[test]
fn waiting_for_the_last_process_costs_nothing() {
    let Some(machine) = Machine::boot() else { return };
    Config::mode("with-family").tables("[service.web.drain]\ntimeout = \"3s\"").install(&machine);
    machine.ok(["systemctl", "start", UNIT]);
    Config::mode("serve").install(&machine);
    assert!(machine.reload().status.success());
    let before = ticks(&machine);
    machine.await_end_of(1);
    let spent = ticks(&machine) - before;
    // Three seconds of waiting without sleeping are three hundred.
    assert!(spent < 60, "{spent} hundredths of a second of processor time");
}

/// Processor time of the supervisor, in hundredths of a second (proc_pid_stat(5), fields 14 and 15).
fn ticks(machine: &Machine) -> u64 {
    let stat = machine.ok(["cat", &format!("/proc/{}/stat", machine.property(UNIT, "MainPID"))]);
    let fields = stat.rsplit_once(") ").expect("a name in brackets").1;
    fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().expect("a number")).sum()
}

#[test]
fn the_death_of_a_candidate_does_not_touch_the_unit() {
    let Some(machine) = Machine::boot() else { return };
    machine.start_good();
    assert_eq!(machine.property(UNIT, "OOMPolicy"), "continue");
    let load = machine.load();
    load.flow(50);
    // What the kernel's OOM killer does to it.
    Config::command(&["/bin/sh", "-c", "kill -KILL $$"]).install(&machine);
    let reload = machine.reload();
    assert!(!reload.status.success(), "{reload:?}");
    machine.await_entry(UNIT, "how it ended", |entry| entry.message().contains("SIGKILL"));
    assert_eq!(machine.property(UNIT, "ActiveState"), "active");
    assert_eq!(machine.property(UNIT, "Result"), "success");
    assert_eq!(machine.answering(), 1);
    load.stop_unharmed();
}

/// The unit's cgroup and those below it, with their processes; without the one that systemd makes for ExecReload=.
fn cgroups(machine: &Machine) -> Vec<(PathBuf, Vec<String>)> {
    let unit = machine.property(UNIT, "ControlGroup");
    let mut open = vec![machine.path(format!("/sys/fs/cgroup{unit}"))];
    let mut found = Vec::new();
    while let Some(group) = open.pop() {
        let entries = fs::read_dir(&group).expect("the cgroup is there").map(|entry| entry.expect("it can be read"));
        let entries = entries.filter(|entry| entry.path().is_dir() && entry.file_name() != ".control");
        open.extend(entries.map(|entry| entry.path()));
        let inside = group.strip_prefix(machine.path("/")).expect("it is in the machine").to_owned();
        let pids = machine.ok(["cat".as_ref(), PathBuf::from("/").join(inside).join("cgroup.procs").as_os_str()]);
        found.push((group, pids.lines().map(str::to_owned).collect()));
    }
    found
}
