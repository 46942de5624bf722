//! Hooks: when each is run, with what, and what becomes of an upgrade whose hook fails, hangs or floods.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use zdsup::control::types::Verdict;

use crate::support::process::{anonymous_memory, is_alive, kill, settled_holdings};
use crate::support::supervisor::Reload;
use crate::support::{Load, Place, SOON, Setup, Supervisor, Zdsup, eventually, is_root, skip};

/// The order of an upgrade.
const ALL: [&str; 6] = ["before-start", "after-ready", "after-switch", "after-drain", "on-failure", "on-rollback"];

impl Setup {
    /// A hook of one command, which a shell runs.
    fn hook(&mut self, name: &str, script: &str) {
        self.commands(name, &[script]);
    }

    fn commands(&mut self, name: &str, scripts: &[&str]) {
        self.hooks.retain(|line| !line.starts_with(name));
        let commands: Vec<_> = scripts.iter().map(|script| vec!["/bin/sh", "-c", script]).collect();
        self.hooks.push(format!("{name} = {commands:?}"));
    }

    /// Every hook adds a line to the journal.
    fn journal(&mut self, path: &Path) {
        let journal = path.join("journal").display().to_string();
        for name in ALL {
            self.hook(name, &format!("echo $ZDSUP_HOOK $ZDSUP_GENERATION from=$ZDSUP_FROM >> {journal}"));
        }
    }
}

impl Zdsup {
    fn journal(&self) -> Vec<String> {
        let text = fs::read_to_string(self.place.join("journal")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits until the journal has as many lines.
    #[track_caller]
    fn journaled(&self, lines: &[&str]) {
        let what = format!("the journal has {} lines", lines.len());
        eventually(&what, || (self.journal().len() >= lines.len()).then_some(()));
        assert_eq!(self.journal(), lines);
    }

    /// A file that a hook writes, once it is there.
    #[track_caller]
    fn written(&self, name: &str) -> String {
        eventually(&format!("{name} is written"), || {
            fs::read_to_string(self.place.join(name)).ok().filter(|text| text.ends_with('\n'))
        })
    }

    /// A number in such a file.
    #[track_caller]
    fn number(&self, name: &str) -> u32 {
        self.written(name).trim().parse().expect("a number")
    }
}

#[track_caller]
fn gone(pid: u32) {
    eventually(&format!("process {pid} is gone"), || (!is_alive(pid)).then_some(()));
}

#[test]
fn each_at_its_moment() {
    let z = Zdsup::serving_with(&["serve"], |setup, place| setup.journal(place.path()));
    // There never was an old generation: nothing of one is left.
    let mut lines = vec!["before-start 1 from=", "after-ready 1 from=", "after-switch 1 from=", "after-drain 1 from="];
    z.journaled(&lines);
    let load = Load::start(&z.target());
    z.upgrade();
    lines.extend(["before-start 2 from=1", "after-ready 2 from=1", "after-switch 2 from=1", "after-drain 2 from=1"]);
    z.journaled(&lines);
    load.unharmed();
    z.end();
}

#[test]
fn environment() {
    let mut z = Zdsup::serving_with(&["serve"], |setup, place| {
        setup.service = vec!["environment = { COLOUR = \"blue\" }".into()];
        let out = place.path().display();
        for name in ["before-start", "on-failure"] {
            setup.hook(
                name,
                &format!("(env; pwd; ls -l /proc/self/fd) > {out}/{name}.new; mv {out}/{name}.new {out}/{name}"),
            );
        }
    });
    let said = z.written("before-start");
    let has = |said: &str, line: &str| said.lines().any(|it| it == line);
    let program = z.setup.command[0].clone();
    for line in ["ZDSUP_SERVICE=web", "ZDSUP_GENERATION=1", "ZDSUP_HOOK=before-start", "COLOUR=blue", "/"] {
        assert!(has(&said, line), "{line} in {said}");
    }
    assert!(has(&said, &format!("ZDSUP_RELEASE={program}")), "{said}");
    for name in ["NOTIFY_SOCKET", "LISTEN_FDS", "ZDSUP_INSTANCE", "ZDSUP_FROM", "ZDSUP_REASON", "ZDSUP_VERDICT"] {
        assert!(!said.contains(name), "{name} in {said}");
    }
    assert!(!said.contains("socket:"), "{said}");
    z.release(&["exits"]);
    z.reload(&[]).is(Verdict::Failed);
    let said = z.written("on-failure");
    let lines = ["ZDSUP_HOOK=on-failure", "ZDSUP_GENERATION=2", "ZDSUP_FROM=1", "ZDSUP_VERDICT=failed"];
    for line in lines.into_iter().chain(["ZDSUP_REASON=ended before it was ready: exit status 1"]) {
        assert!(has(&said, line), "{line} in {said}");
    }
    z.end();
}

#[test]
fn runs_as_the_service_does() {
    if !is_root() {
        return skip("another user takes root");
    }
    let z = Zdsup::serving_with(&["serve"], |setup, _| {
        setup.service = vec!["user = \"nobody\"".into(), "limits = { nofile = 77 }".into(), "umask = \"0027\"".into()];
        setup.hook("before-start", "id -un; ulimit -n; umask");
    });
    for line in ["nobody", "77", "0027"] {
        z.supervisor.wait_for_log(&format!("web hook before-start | {line}\n"));
    }
    z.end();
}

#[test]
fn before_start_fails() {
    let mut z = Zdsup::serving_with(&["serve"], |setup, place| setup.journal(place.path()));
    let load = Load::start(&z.target());
    let before = settled_holdings(z.supervisor.pid(), &z.supervisor.runtime, None);
    z.configure(|setup| setup.commands("before-start", &["seq 30", "echo broken; exit 3", "echo never"]));
    let reload =
        z.reload(&[]).is(Verdict::Failed).still_serving(1).because("the before-start hook failed: /bin/sh -c ");
    let verdict = reload.verdict().expect("it has one").clone();
    assert!(verdict.reason.is_some_and(|reason| reason.ends_with("exit status 3")), "{reload:?}");
    assert_eq!((verdict.step.as_str(), verdict.output.len()), ("before-start", 20));
    assert_eq!((verdict.output[0].as_str(), verdict.output[19].as_str()), ("12", "broken"));
    assert!(!reload.events.iter().any(|event| event.event == "starting"), "{reload:?}");
    z.supervisor.wait_for_log("web hook before-start | broken\n");
    eventually("the hook of the failure", || z.journal().contains(&"on-failure 2 from=1".to_owned()).then_some(()));
    assert!(!z.supervisor.log().contains("| never"));
    let after = settled_holdings(z.supervisor.pid(), &z.supervisor.runtime, Some(&before));
    assert!(after.is_within(&before), "{after:?} after it, {before:?} before");
    z.configure(|setup| setup.hook("before-start", "true"));
    z.upgrade();
    z.settled(3);
    load.unharmed();
    z.end();
}

#[test]
fn after_ready_fails() {
    let mut z = Zdsup::serving_with(&["serve"], |setup, place| setup.journal(place.path()));
    z.configure(|setup| setup.hook("after-ready", "echo no smoke; exit 1"));
    let reload = z.reload(&["--wait", "drained"]).is(Verdict::Failed).still_serving(1).last_lines_say("no smoke");
    let events: Vec<&str> = reload.events.iter().map(|event| event.event.as_str()).collect();
    assert!(events.contains(&"ready") && !events.contains(&"serving"), "{events:?}");
    z.settled(1);
    z.end();
}

#[test]
fn rolled_back() {
    let mut z = Zdsup::serving_with(&["serve"], |setup, place| {
        setup.upgrade = vec!["soak = \"60s\"".into()];
        let out = place.join("reason").display().to_string();
        setup.hook("on-rollback", &format!("echo $ZDSUP_VERDICT: $ZDSUP_REASON > {out}"));
        setup.hook("on-failure", &format!("echo wrong > {out}"));
    });
    z.release(&["ready-then-dies"]);
    let reason = z.reload(&[]).is(Verdict::RolledBack).verdict().and_then(|verdict| verdict.reason.clone());
    assert_eq!(z.written("reason"), format!("rolled-back: {}\n", reason.expect("it has one")));
    z.end();
}

/// A client of `zdsup reload` sees what is done, and the last line of what it says.
#[test]
fn is_shown_as_it_happens() {
    let mut z = Zdsup::serving(&["serve"]);
    let gate = z.place.join("gate");
    let script = format!("echo altering the table; until [ -e {} ]; do sleep 0.02; done", gate.display());
    z.configure(|setup| setup.hook("before-start", &script));
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| z.supervisor.run(&["reload"]));
        let running = |status: &zdsup::control::types::Status| {
            let service = &status.services[0];
            let step = service.upgrade.as_ref().is_some_and(|upgrade| upgrade.step == "before-start");
            step && service.hook.as_deref() == Some("before-start of generation 2")
        };
        z.wait_for("the hook runs", running);
        let table = String::from_utf8(z.supervisor.run(&["status"]).stdout).expect("text");
        assert!(table.contains("running the hook before-start of generation 2"), "{table}");
        z.supervisor.wait_for_log("web hook before-start | altering the table\n");
        fs::write(&gate, "").expect("it can be written");
        let said = String::from_utf8(reload.join().expect("it ends").stderr).expect("text");
        assert!(said.contains("web@2: running the before-start hook\n"), "{said}");
        assert!(said.contains("web@2: | altering the table\n"), "{said}");
    });
    assert_eq!(z.status().services[0].hook, None);
    z.end();
}

/// Nobody waits for it, and everybody can see that it failed.
#[test]
fn failure_that_changes_nothing() {
    let mut z = Zdsup::serving(&["serve"]);
    z.configure(|setup| setup.hook("after-switch", "exit 7"));
    z.upgrade();
    let status = z.wait_for("the warning", |status| {
        status.services[0].last_upgrade.as_ref().is_some_and(|upgrade| !upgrade.warnings.is_empty())
    });
    let upgrade = status.services[0].last_upgrade.as_ref().expect("it was there");
    assert_eq!(upgrade.warnings, ["the after-switch hook failed: /bin/sh -c exit 7: exit status 7"]);
    z.supervisor.wait_for_log("the after-switch hook failed");
    let table = String::from_utf8(z.supervisor.run(&["status"]).stdout).expect("text");
    assert!(table.contains("warning: the after-switch hook failed"), "{table}");
    z.end();
}

/// Contracting is for when nobody is left who needs what is contracted.
#[test]
fn after_drain_waits_for_the_last_of_all() {
    let z = Zdsup::serving_with(&["serve", "--lame-duck", "600000"], |setup, place| setup.journal(place.path()));
    let lines = |z: &Zdsup| z.journal().iter().filter(|line| line.starts_with("after-drain")).count();
    eventually("that of the first start", || (lines(&z) == 1).then_some(()));
    let hold = |z: &Zdsup| {
        let mut connection = z.target().connect().expect("it is bound");
        let generation = connection.get("/").expect("it answers").expect("it answers").generation();
        (connection, generation)
    };
    let (first, _) = hold(&z);
    z.upgrade();
    let (second, generation) = hold(&z);
    assert_eq!(generation, 2);
    z.upgrade();
    z.wait_for("two drain", |status| status.services[0].generations.len() == 3);
    drop(second);
    z.wait_for("one drains", |status| status.services[0].generations.len() == 2);
    assert_eq!(lines(&z), 1);
    drop(first);
    eventually("the hook", || (lines(&z) == 2).then_some(()));
    assert_eq!(z.journal().last().map(String::as_str), Some("after-drain 3 from=2"));
    assert_eq!(z.status().services[0].generations.len(), 1);
    z.end();
}

#[test]
fn timeout() {
    let mut z = Zdsup::serving(&["serve"]);
    let place = z.place.path().display().to_string();
    z.configure(|setup| {
        setup.hooks.push("timeout = \"1s\"".into());
        setup.commands("before-start", &["true", &format!("echo $$ > {place}/pid; exec sleep 1000")]);
    });
    let began = Instant::now();
    let reload = z.reload(&[]).is(Verdict::Failed).because("not over in 1 s").still_serving(1);
    assert!(began.elapsed() >= Duration::from_secs(1), "{reload:?}");
    gone(z.number("pid"));
    z.end();
}

/// Row 33, of a hook: all of it is gone, children that ignore the signal too.
#[test]
fn ignores_sigterm() {
    let mut z = Zdsup::serving(&["serve"]);
    let load = Load::start(&z.target());
    let place = z.place.path().display().to_string();
    z.configure(|setup| {
        setup.hooks.push("timeout = \"1s\"".into());
        let script =
            format!("trap '' TERM; sleep 1000 & echo $! > {place}/child; echo $$ > {place}/pid; wait; sleep 9");
        setup.hook("before-start", &script);
    });
    z.reload(&[]).is(Verdict::Failed).because("killed, since it ignored SIGTERM").still_serving(1);
    gone(z.number("pid"));
    gone(z.number("child"));
    load.unharmed();
    z.end();
}

/// What it leaves in the background does not outlive it.
#[test]
fn leaves_nothing_behind() {
    let mut z = Zdsup::serving(&["serve"]);
    let place = z.place.path().display().to_string();
    z.configure(|setup| setup.hook("before-start", &format!("sleep 1000 & echo $! > {place}/child")));
    z.upgrade();
    gone(z.number("child"));
    z.end();
}

#[test]
fn floods_its_output() {
    let mut z = Zdsup::serving(&["serve"]);
    let load = Load::start(&z.target());
    z.configure(|setup| {
        setup.hook("before-start", "yes 'what a flood' | head -c 50000000; printf '\\nthe\\033[2Jend'; exit 1");
    });
    let before = anonymous_memory(z.supervisor.pid());
    let reload = z.reload(&[]).is(Verdict::Failed);
    let last = reload.verdict().and_then(|verdict| verdict.output.last().cloned());
    assert_eq!(last.as_deref(), Some("the\u{fffd}[2Jend"));
    assert!(reload.events.len() < 100, "{} events", reload.events.len());
    let after = anonymous_memory(z.supervisor.pid());
    assert!(after < before + 2048, "{before} KiB before, {after} KiB after");
    load.unharmed();
    z.end();
}

/// Seen as the release is pinned: nothing is run, and nothing started.
#[test]
fn missing_program() {
    let mut z = Zdsup::serving_with(&["serve"], |setup, place| setup.journal(place.path()));
    z.configure(|setup| {
        setup.hooks.retain(|line| !line.starts_with("after-drain"));
        setup.hooks.push("after-drain = [[\"/nowhere/contract\"]]".into());
    });
    let reload = z.reload(&[]).is(Verdict::Failed).still_serving(1);
    let reload = reload.because("the after-drain hook: cannot execute /nowhere/contract");
    assert_eq!(reload.verdict().map(|verdict| verdict.step.as_str()), Some("pinning"));
    // The hook of what serves tells of it.
    eventually("the failure", || z.journal().last().filter(|line| *line == "on-failure 1 from=1").map(drop));
    let count = z.journal().iter().filter(|line| line.starts_with("before-start")).count();
    assert_eq!(count, 1);
    z.end();
}

/// The program is that of the release, whatever becomes of its path; as for `zdsup restart`.
#[test]
fn program_is_pinned() {
    use std::os::unix::fs::PermissionsExt;
    let script = |z: &Zdsup, text: &str| {
        let (new, path) = (z.place.join("new"), z.place.join("migrate"));
        fs::write(&new, format!("#!/bin/sh\n{text}\n")).expect("it can be written");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).expect("it is ours");
        fs::rename(new, path).expect("it can be replaced");
    };
    let mut z = Zdsup::serving(&["serve"]);
    script(&z, "echo the first");
    let place = z.place.path().to_owned();
    z.configure(|setup| {
        setup.service = vec![format!("working-directory = {place:?}")];
        setup.hooks.push("before-start = [[\"./migrate\"]]".into());
    });
    z.upgrade();
    z.supervisor.wait_for_log("| the first\n");
    script(&z, "echo the second");
    z.supervisor.upgrade("restart", &[]).is(Verdict::Upgraded);
    eventually("the first again", || (z.supervisor.log().matches("| the first\n").count() == 2).then_some(()));
    assert!(!z.supervisor.log().contains("| the second\n"));
    z.upgrade();
    z.supervisor.wait_for_log("| the second\n");
    z.end();
}

#[test]
fn abort_ends_it() {
    let mut z = Zdsup::serving_with(&["serve"], |setup, place| {
        setup.hook("on-failure", &format!("echo $ZDSUP_VERDICT > {}", place.join("verdict").display()));
    });
    let place = z.place.path().display().to_string();
    z.configure(|setup| setup.hook("before-start", &format!("echo $$ > {place}/pid; exec sleep 1000")));
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| z.reload(&[]));
        let pid = z.number("pid");
        assert!(z.supervisor.run(&["abort"]).status.success());
        reload.join().expect("it ends").is(Verdict::Aborted).still_serving(1);
        gone(pid);
    });
    assert_eq!(z.written("verdict"), "aborted\n");
    z.configure(|setup| setup.hook("before-start", "true"));
    z.upgrade();
    z.end();
}

/// Whichever hook it is, the supervisor does not wait for it when it is to stop.
#[test]
fn stop_ends_it() {
    for name in ["before-start", "after-switch"] {
        let mut z = Zdsup::serving(&["serve"]);
        let place = z.place.path().display().to_string();
        z.configure(|setup| setup.hook(name, &format!("echo $$ > {place}/pid; exec sleep 1000")));
        let accepted = z.supervisor.run(&["reload", "--no-wait"]);
        assert!(accepted.status.success());
        let pid = z.number("pid");
        let began = Instant::now();
        z.end();
        assert!(began.elapsed() < Duration::from_secs(20), "{name}");
        gone(pid);
    }
}

/// One at a time, in their order: also when the next upgrade is quicker than they are.
#[test]
fn one_at_a_time() {
    let mut z = Zdsup::serving(&["serve"]);
    let place = z.place.path().display().to_string();
    z.configure(|setup| {
        for name in ALL {
            let script = format!(
                "mkdir {place}/busy || echo overlap >> {place}/journal; sleep 0.05; rmdir {place}/busy; \
                 echo $ZDSUP_HOOK $ZDSUP_GENERATION >> {place}/journal"
            );
            setup.hook(name, &script);
        }
    });
    for _ in 0..3 {
        z.upgrade();
    }
    let moments = ["before-start", "after-ready", "after-switch", "after-drain"];
    eventually("the last", || z.journal().contains(&"after-switch 4".to_owned()).then_some(()));
    eventually("the last", || z.journal().contains(&"after-drain 4".to_owned()).then_some(()));
    let journal = z.journal();
    assert!(!journal.contains(&"overlap".to_owned()), "{journal:?}");
    for name in &moments[..3] {
        let numbers: Vec<&String> = journal.iter().filter(|line| line.starts_with(name)).collect();
        assert_eq!(numbers.len(), 3, "{journal:?}");
        assert!(numbers.is_sorted(), "{journal:?}");
    }
    z.end();
}

/// One that hangs on after its verdict does not hold up the next upgrade for ever, and is named.
#[test]
fn waits_its_turn() {
    let mut z = Zdsup::serving(&["serve"]);
    let place = z.place.path().display().to_string();
    z.configure(|setup| {
        setup.hooks.push("timeout = \"1s\"".into());
        setup.hook("after-switch", &format!("trap '' TERM; echo $$ > {place}/pid; while :; do sleep 1; done"));
        setup.hook("before-start", "true");
    });
    z.upgrade();
    let pid = z.number("pid");
    let late = "its turn did not come in 1 s, for after-switch of generation 2 was not over";
    z.reload(&[]).is(Verdict::Failed).because(late).still_serving(2);
    gone(pid);
    z.configure(|setup| setup.hook("after-switch", "true"));
    z.upgrade();
    z.end();
}

/// Whoever waits for a first start is told of its end once the hook of its failure has been run.
#[test]
fn first_start_that_fails() {
    let place = Place::new();
    let _manager = std::os::unix::net::UnixDatagram::bind(place.join("manager")).expect("a path is free");
    let mut setup = Setup::new(&place, &["exits"]);
    setup.environment.insert("NOTIFY_SOCKET".into(), place.join("manager").display().to_string());
    let done = place.join("done");
    setup.hook("on-failure", &format!("sleep 0.3; echo $ZDSUP_VERDICT > {}", done.display()));
    fs::write(place.join("web.toml"), setup.toml()).expect("a config can be written");
    let arguments = ["-c".to_owned(), place.join("web.toml").display().to_string()];
    let mut supervisor = Supervisor::start(&place, &arguments, &setup.environment);
    assert_eq!(supervisor.wait(SOON).code(), Some(4), "{}", supervisor.log());
    assert_eq!(fs::read_to_string(done).ok().as_deref(), Some("failed\n"), "{}", supervisor.log());
    supervisor.nothing_left();
}

// ---- the supervisor's own end ---------------------------------------------------------------------------------------

/// What a hook that is run twice does: the first time it waits for ever.
fn once_for_ever(place: &Path) -> String {
    let place = place.display();
    format!(
        "if mkdir {place}/once; then echo $$ > {place}/pid; exec sleep 1000; fi; echo $ZDSUP_HOOK again > {place}/again"
    )
}

#[test]
fn supervisor_dies_during_it() {
    for name in ["before-start", "after-ready", "after-switch", "on-failure"] {
        let mut z = Zdsup::serving_with(&["serve"], |setup, _| setup.arguments.push("--keeper".into()));
        let load = Load::start(&z.target());
        let script = once_for_ever(z.place.path());
        z.configure(|setup| setup.hook(name, &script));
        let expected = if name == "on-failure" { Verdict::Failed } else { Verdict::Upgraded };
        if name == "on-failure" {
            z.release(&["exits"]);
        }
        std::thread::scope(|scope| {
            let reload = scope.spawn(|| z.reload(&[]));
            let first = z.number("pid");
            kill(z.status().supervisor.pid, Signal::SIGKILL);
            assert_eq!(z.written("again"), format!("{name} again\n"));
            assert!(!is_alive(first), "it was ended before it was run again");
            reload.join().expect("it ends").is(expected);
        });
        load.unharmed();
        z.end();
    }
}

#[test]
fn supervisor_is_replaced_during_it() {
    for name in ["after-ready", "after-drain"] {
        let mut z = Zdsup::serving(&["serve"]);
        let script = once_for_ever(z.place.path());
        z.configure(|setup| setup.hook(name, &script));
        std::thread::scope(|scope| {
            let reload = scope.spawn(|| z.reload(&[]));
            let first = z.number("pid");
            assert!(z.supervisor.run(&["reexec"]).status.success());
            assert_eq!(z.written("again"), format!("{name} again\n"));
            assert!(!is_alive(first), "it was ended before it was run again");
            reload.join().expect("it ends").is(Verdict::Upgraded);
        });
        z.settled(2);
        z.end();
    }
}

/// Nothing of them stays, however many there were.
#[test]
fn nothing_grows() {
    let mut z = Zdsup::serving_with(&["serve"], |setup, place| {
        setup.journal(place.path());
        // Those that are kept hold their programs.
        setup.upgrade = vec!["keep-releases = 0".into()];
    });
    let round = |z: &mut Zdsup, number: u64| -> Reload {
        z.configure(|setup| setup.hook("after-ready", "exit 1"));
        z.reload(&[]).is(Verdict::Failed);
        z.configure(|setup| setup.hook("after-ready", "true"));
        let reload = z.upgrade();
        z.settled(number);
        eventually("no hook runs", || z.status().services[0].hook.is_none().then_some(()));
        reload
    };
    round(&mut z, 3);
    let before = settled_holdings(z.supervisor.pid(), &z.supervisor.runtime, None);
    for number in 1..=10 {
        round(&mut z, 3 + 2 * number);
    }
    let after = settled_holdings(z.supervisor.pid(), &z.supervisor.runtime, Some(&before));
    assert!(after.is_within(&before), "{after:?} after, {before:?} before");
    z.end();
}
