//! The record that lasts: numbers that go on, figures that are right, disks that fail.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;
use zdsup::control::types::{GenerationState, HistoryPage, Kind, Kpi, Verdict};

use crate::support::supervisor::{command, wrapped};
use crate::support::{Place, SOON, Setup, Supervisor, Zdsup, eventually, is_root, process, skip};

impl Zdsup {
    fn history(&self, more: &[&str]) -> HistoryPage {
        let output = self.supervisor.run(&[&["history", "--json"], more].concat());
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).expect("a history")
    }

    /// Another supervisor in the same place, which has nothing to go on with.
    fn start_again(&mut self) {
        let config = self.place.join("web.toml").display().to_string();
        self.supervisor = Supervisor::start(&self.place, &["-c".into(), config], &self.setup.environment);
        self.supervisor.wait_for("it serves", |status| status.services[0].serving.is_some());
    }

    fn file(&self) -> PathBuf {
        self.place.join("state/history.jsonl")
    }
}

#[test]
fn history_outlives_the_supervisor_and_numbers_go_on() {
    let mut z = Zdsup::serving(&["serve"]);
    z.upgrade();
    z.settled(2);
    z.release(&["exits", "1"]);
    z.reload(&[]).is(Verdict::Failed);
    z.release(&["serve"]);
    let page = z.history(&[]);
    let said: Vec<_> = page.upgrades.iter().map(|one| (one.id, one.kind, one.generation, one.verdict)).collect();
    let expected = [
        (3, Kind::Reload, Some(3), Verdict::Failed),
        (2, Kind::Reload, Some(2), Verdict::Upgraded),
        (1, Kind::Start, Some(1), Verdict::Upgraded),
    ];
    assert_eq!((said.as_slice(), page.skipped), (&expected[..], 0));
    let uid = nix::unistd::geteuid().as_raw();
    let upgraded = &page.upgrades[1];
    assert_eq!((upgraded.from, &upgraded.requested_by[..], upgraded.exit_code), (Some(1), &[uid][..], 0));
    assert!(upgraded.release.as_ref().is_some_and(|release| release.ends_with("hazard")), "{upgraded:?}");
    assert!(upgraded.drain.is_some_and(|drain| drain > 0.0), "{upgraded:?}");
    let names: Vec<&str> = upgraded.phases.iter().map(|phase| phase.name.as_str()).collect();
    assert_eq!(names, ["pinning", "starting", "spawned", "ready", "serving", "draining"]);
    let whole: f64 = upgraded.phases.iter().map(|phase| phase.duration).sum();
    assert!((whole - upgraded.duration).abs() < 1e-6, "{upgraded:?}");
    assert!(page.upgrades[0].reason.as_ref().is_some_and(|reason| reason.contains("exit status 1")));

    assert_eq!(z.supervisor.end().code(), Some(0));
    // What stopping has ended is on record as well, and no supervisor is needed to read it.
    let output = z.supervisor.run(&["history", "--state-dir", &z.place.join("state").display().to_string()]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("web@3") && text.contains("exit status 1"), "{text}");
    z.start_again();
    assert_eq!(z.status().services[0].serving, Some(4));
    let reload = z.upgrade();
    assert_eq!((reload.events[0].upgrade, z.status().services[0].serving), (5, Some(5)));
    let output = z.supervisor.run(&["history", "web@5"]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.starts_with("web@5  reload #5: upgraded in ") && text.contains("█"), "{text}");
    let unknown = z.supervisor.run(&["history", "web@77"]);
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
    z.end();
}

/// What was run is on record: the same digest wherever it was the same, and another for whatever makes a difference.
#[test]
fn releases_are_told_apart_although_their_program_is_the_same() {
    let mut z = Zdsup::serving_with(&["serve"], |setup, place| {
        for release in ["a", "b"] {
            fs::create_dir(place.join(release)).expect("a directory can be made");
        }
        std::os::unix::fs::symlink("a", place.join("current")).expect("a link can be made");
        setup.service.push(format!("working-directory = \"{}\"", place.join("current").display()));
    });
    // The same, twice.
    z.upgrade();
    assert_eq!(z.supervisor.upgrade("restart", &[]).is(Verdict::Upgraded).code, 0);
    // A deployment, another argument, another config; and back to the one before the last.
    fs::remove_file(z.place.join("current")).expect("a link can be removed");
    std::os::unix::fs::symlink("b", z.place.join("current")).expect("a link can be made");
    z.upgrade();
    z.release(&["serve", "--lame-duck", "100"]);
    z.upgrade();
    z.configure(|setup| setup.drain.push("timeout = \"7s\"".into()));
    z.upgrade();
    assert_eq!(z.supervisor.upgrade("rollback", &[]).is(Verdict::Upgraded).code, 0);
    let mut records = z.history(&[]).upgrades;
    records.reverse();
    let digests: Vec<&str> = records.iter().map(|record| record.digest.as_deref().expect("there is one")).collect();
    let [first, second, restarted, deployed, argument, config, back] = digests[..] else { panic!("{records:?}") };
    assert_eq!((first, second, argument), (second, restarted, back), "{records:?}");
    let mut different = vec![first, deployed, argument, config];
    different.sort_unstable();
    different.dedup();
    assert_eq!(different.len(), 4, "{records:?}");
    assert!(records[4].argv.ends_with(&["serve", "--lame-duck", "100"].map(str::to_owned)), "{records:?}");
    let place = fs::canonicalize(z.place.path()).expect("it is there");
    let directories = [&records[2], &records[3]].map(|record| record.directory.clone().map(PathBuf::from));
    assert_eq!(directories, [Some(place.join("a")), Some(place.join("b"))]);
    let shown = z.supervisor.run(&["history", "web@5"]);
    let shown = String::from_utf8(shown.stdout).expect("text");
    assert!(shown.contains("serve --lame-duck 100\n") && shown.contains(&format!("  digest {argument}\n")), "{shown}");
    z.end();
}

#[test]
fn killed_in_the_middle_of_an_upgrade_no_number_is_given_out_twice() {
    let mut z = Zdsup::serving(&["serve"]);
    let gate = z.place.join("gate");
    z.release(&["serve", "--gate", &gate.display().to_string()]);
    assert_eq!(z.reload(&["--no-wait"]).code, 0);
    z.wait_for("the candidate", |status| {
        status.services[0].generations.iter().any(|one| one.generation == 2 && one.state == GenerationState::Starting)
    });
    // Its number is on the disk before it is anybody's.
    eventually("the number is taken", || fs::read_to_string(z.file()).ok()?.contains("\"generation\":2").then_some(()));
    z.supervisor.signal(Signal::SIGKILL);
    z.supervisor.wait(SOON);
    // One that waits for its gate hears no signal.
    process::instances_of(&z.supervisor.runtime).into_iter().for_each(|pid| process::kill(pid, Signal::SIGKILL));
    assert!(z.supervisor.run(&["stop", "--leftovers"]).status.success());
    // Torn in the middle of a line, as a machine that loses its power leaves it.
    let mut bytes = fs::read(z.file()).expect("there is a history");
    bytes.extend(b"{\"crc\":\"0123abcd\",\"upgrade\":{\"id\":2,\"serv");
    fs::write(z.file(), bytes).expect("it can be written");
    z.release(&["serve"]);
    z.start_again();
    assert_eq!(z.status().services[0].serving, Some(3));
    let page = z.history(&[]);
    assert_eq!((page.upgrades[0].generation, page.skipped), (Some(3), 1), "{page:?}");
    z.end();
}

/// What a supervisor told last before it died its successor does not tell again: nothing of it is due.
#[test]
fn a_death_long_after_an_upgrade_adds_nothing_to_it() {
    let z = Zdsup::serving_with(&["serve"], |setup, _| setup.arguments.push("--keeper".into()));
    z.upgrade();
    z.settled(2);
    let drained = || fs::read_to_string(z.file()).unwrap_or_default().matches("\"drained\"").count();
    eventually("the drain is on record", || (drained() == 1).then_some(()));
    let before = z.history(&[]).upgrades;
    let supervisor = z.status().supervisor;
    process::kill(supervisor.pid, Signal::SIGKILL);
    z.wait_for("a successor is there", |status| status.supervisor.incarnation == supervisor.incarnation + 1);
    assert_eq!(z.history(&[]).upgrades, before);
    assert_eq!(drained(), 1);
    z.upgrade();
    z.settled(3);
    eventually("the drain is on record", || (drained() == 2).then_some(()));
    z.end();
}

#[test]
fn a_supervisor_that_replaces_itself_writes_each_upgrade_once() {
    let z = Zdsup::serving(&["serve"]);
    for generation in 2..=3 {
        z.upgrade();
        assert!(z.supervisor.run(&["reexec"]).status.success());
        z.settled(generation);
    }
    let page = z.history(&[]);
    assert_eq!(page.upgrades.iter().map(|one| one.id).collect::<Vec<_>>(), [3, 2, 1]);
    assert!(page.upgrades[..2].iter().all(|one| one.drain.is_some()), "{page:?}");
    z.end();
}

#[test]
fn kpi_figures() {
    let mut z = Zdsup::serving(&["serve"]);
    z.upgrade();
    z.settled(2);
    z.release(&["exits", "1"]);
    z.reload(&[]).is(Verdict::Failed);
    z.release(&["serve"]);
    z.upgrade();
    z.settled(4);
    fs::write(z.place.join("web.toml"), "nonsense").expect("it can be written");
    z.reload(&[]).is(Verdict::Refused);
    let ask = |words: &[&str]| {
        let output = z.supervisor.run(words);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let kpi: Kpi = serde_json::from_str(&ask(&["kpi", "--json", "--since", "1h"])).expect("figures");
    assert_eq!((kpi.deployments, kpi.upgraded, kpi.failed, kpi.refused), (3, 2, 1, 1), "{kpi:?}");
    assert!(kpi.success_rate.is_some_and(|rate| (rate - 2.0 / 3.0).abs() < 1e-9), "{kpi:?}");
    assert_eq!((kpi.upgrade.count, kpi.drain.count, kpi.rollback.count), (2, 2, 0), "{kpi:?}");
    assert_eq!(kpi.client_error_rate, None);
    let text = ask(&["kpi", "web"]);
    assert!(text.contains("66.67 %") && text.contains("2 upgraded, 1 failed, 1 refused"), "{text}");
    let other: Kpi = serde_json::from_str(&ask(&["kpi", "api", "--json"])).expect("figures");
    assert_eq!(other.deployments, 0);
    z.release(&["serve"]);
    z.end();
}

#[test]
fn a_disk_that_is_full_stops_no_upgrade_and_is_said_once() {
    if !is_root() {
        return skip("a disk of a test's own can be mounted by root alone");
    }
    let place = Place::new();
    let setup = Setup::new(&place, &["serve"]);
    fs::write(place.join("web.toml"), setup.toml()).expect("a config can be written");
    fs::create_dir(place.join("state")).expect("a directory can be made");
    let plain = command(&place.join("run"));
    let log = fs::File::create(place.join("log")).expect("a log can be made");
    let other = log.try_clone().expect("a descriptor can be duplicated");
    // The filler takes all of it.
    let script = "mount -t tmpfs -o size=64k none state && head -c 65536 /dev/zero >state/filler && exec \"$@\"";
    let mut child = Command::new("unshare");
    child.args(["--mount", "--", "sh", "-c", script, "sh"]);
    let mut child = wrapped(child, &plain);
    child.args(["run", "-c", "web.toml"]).current_dir(place.path());
    let child = child.stdout(log).stderr(other).spawn().expect("there is an unshare");
    let mut supervisor = Supervisor::adopt(child, &place);
    supervisor.wait_for("it serves", |status| status.services[0].serving == Some(1));
    for _ in 0..3 {
        supervisor.upgrade("reload", &[]).is(Verdict::Upgraded);
    }
    supervisor.wait_for_log("cannot be written; upgrades go on without: no space left on device");
    let said = supervisor.log().matches("cannot be written").count();
    assert_eq!(said, 1, "{}", supervisor.log());
    // What waits is known all the same, and is written once there is room.
    let state = format!("/proc/{}/root{}", supervisor.pid(), place.join("state").display());
    let history = supervisor.run(&["history", "--json"]);
    let page: HistoryPage = serde_json::from_slice(&history.stdout).expect("a history");
    assert_eq!(page.upgrades.len(), 4, "{page:?}");
    fs::remove_file(format!("{state}/filler")).expect("it can be removed");
    supervisor.upgrade("reload", &[]).is(Verdict::Upgraded);
    supervisor.wait_for_log("the history is written again");
    assert_eq!(supervisor.end().code(), Some(0));
    supervisor.nothing_left();
}

#[test]
fn without_a_place_for_it_there_is_no_history_and_all_else_works() {
    let z = Zdsup::serving_with(&["serve"], |setup, place| {
        // No directory can be made below a file.
        fs::write(place.join("file"), "").expect("a file can be made");
        setup.arguments = vec!["--state-dir".into(), place.join("file/state").display().to_string()];
    });
    z.upgrade();
    z.supervisor.wait_for_log("cannot be written; upgrades go on without");
    let history = z.supervisor.run(&["history"]);
    assert_eq!(history.status.code(), Some(5), "{history:?}");
    z.end();
}
