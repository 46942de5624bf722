//! `zdsup rehearse`: says what a reload would come to, and production is as it was before.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::Signal;
use zdsup::control::types::{GenerationState, UpgradeEvent, Verdict, VerdictStatus};

use crate::support::process::{self, settled_holdings};
use crate::support::supervisor::command;
use crate::support::{Load, Place, Setup, Supervisor, Zdsup, eventually, is_root, skip};

/// Where rehearsals of a test take place.
struct Stage(PathBuf);

impl Stage {
    fn of(place: &Place) -> Self {
        let path = place.join("t");
        fs::create_dir_all(&path).expect("a directory can be made");
        Self(path)
    }

    fn command(&self, place: &Place, more: &[&str]) -> Command {
        let mut command = command(&place.join("run"));
        command.arg("rehearse").args(more).env("TMPDIR", &self.0).current_dir(place.path()).stdin(Stdio::null());
        command
    }

    /// A rehearsal whose end is waited for.
    #[track_caller]
    fn rehearse(&self, place: &Place, more: &[&str]) -> Rehearsed {
        let output = self.command(place, &[&["--json"], more].concat()).output().expect("zdsup can be started");
        self.nothing_left();
        Rehearsed(output)
    }

    /// One that goes on, ready and in its soak.
    fn soaking(&self, place: &Place, more: &[&str]) -> Child {
        let mut command = self.command(place, &[&["--json", "--for", "10m"], more].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("zdsup can be started");
        let mut lines = BufReader::new(child.stdout.take().expect("it is a pipe")).lines().map_while(Result::ok);
        assert!(lines.any(|line| line.contains("\"soaking\"")), "{:?}", child.wait_with_output());
        // Whoever reads no more must not be the reason for its end.
        std::thread::spawn(move || lines.count());
        child
    }

    fn instances(&self) -> Vec<u32> {
        let entries = fs::read_dir(&self.0).expect("it is there").flatten();
        entries.flat_map(|entry| process::instances_of(&entry.path())).collect()
    }

    /// Their supervisor.
    fn supervisor(&self, rehearse: &Child) -> u32 {
        let children = process::children(rehearse.id());
        assert_eq!(children.len(), 1, "{children:?}");
        children[0]
    }

    /// No process and no file.
    #[track_caller]
    fn nothing_left(&self) {
        assert_eq!(self.instances(), [0; 0], "processes are left");
        assert_eq!(fs::read_dir(&self.0).expect("it is there").count(), 0, "files are left in {}", self.0.display());
    }

    /// The same, soon, once these processes are gone.
    #[track_caller]
    fn soon_nothing_left(&self, processes: &[u32]) {
        eventually("the rehearsal has ended", || {
            let over = processes.iter().all(|pid| !process::is_alive(*pid)) && self.instances().is_empty();
            (over && fs::read_dir(&self.0).expect("it is there").count() == 0).then_some(())
        });
    }
}

struct Rehearsed(Output);

impl Rehearsed {
    fn events(&self) -> Vec<UpgradeEvent> {
        let text = String::from_utf8(self.0.stdout.clone()).expect("JSON is text");
        text.lines().map(|line| serde_json::from_str(line).expect("an event")).collect()
    }

    #[track_caller]
    fn verdict(&self) -> VerdictStatus {
        let verdict = self.events().into_iter().find_map(|event| event.verdict);
        *verdict.unwrap_or_else(|| panic!("no verdict: {:?}", self.0))
    }

    /// It came to this, and the exit code says so.
    #[track_caller]
    fn is(&self, expected: Verdict, code: i32) -> VerdictStatus {
        let verdict = self.verdict();
        assert_eq!((verdict.verdict, self.0.status.code()), (expected, Some(code)), "{:?}", self.0);
        assert_eq!((i32::from(verdict.exit_code), verdict.serving), (code, None), "{verdict:?}");
        verdict
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }
}

#[test]
fn a_good_release_in_the_surroundings_of_the_real_one() {
    let z = &mut Zdsup::serving_with(&["serve"], |setup, _| {
        setup.environment.insert("FROM_PRODUCTION".into(), "yes".into());
    });
    let stage = Stage::of(&z.place);
    let report = z.place.join("report");
    z.release(&["report", "--to", &report.display().to_string()]);
    let rehearsed = stage.rehearse(&z.place, &["--for", "100ms"]);
    rehearsed.is(Verdict::Upgraded, 0);
    let events = rehearsed.events();
    let kinds: Vec<&str> = events.iter().map(|event| event.event.as_str()).collect();
    assert_eq!(kinds, ["pinning", "starting", "spawned", "ready", "soaking", "verdict", "exited"]);
    assert!(events.iter().zip(1..).all(|(event, place)| event.seq == place && event.generation.is_none()));
    assert_eq!(events[6].message, "ended: exit status 0");

    let report = fs::read_to_string(report).expect("it ran");
    for line in ["env ZDSUP_REHEARSAL=1", "env FROM_PRODUCTION=yes", "env LISTEN_FDNAMES=http", "env ZDSUP_SERVICE=web"]
    {
        assert!(report.lines().any(|found| found == line), "{line} is not in {report}");
    }
    assert!(!report.contains("STATE_DIRECTORY"), "{report}");
    // Production has had no part in it.
    let status = z.status();
    assert_eq!(status.services[0].serving, Some(1));
    assert_eq!(status.services[0].last_upgrade.as_ref().map(|upgrade| upgrade.id), Some(1));
}

#[test]
fn a_bad_release_fails_as_it_would_and_the_next_is_tried_as_well() {
    let mut z = Zdsup::serving(&["serve"]);
    let stage = Stage::of(&z.place);
    let bad: [(&[&str], _, &str, &str); 4] = [
        (&["never-ready"], Verdict::Failed, "never ready in 400 ms", "waiting for the database"),
        (&["exits"], Verdict::Failed, "exit status 1", "cannot read /etc/missing.conf"),
        (&["segfault"], Verdict::Failed, "SIGSEGV", ""),
        (&["ready-then-dies", "--after", "50"], Verdict::RolledBack, "during its soak", "the cache is corrupt"),
    ];
    z.configure(|setup| setup.ready = vec!["timeout = \"400ms\"".into()]);
    for (words, verdict, reason, output) in bad {
        z.release(words);
        let verdict = stage.rehearse(&z.place, &["--for", "20s"]).is(verdict, 4);
        assert!(verdict.reason.as_ref().is_some_and(|found| found.contains(reason)), "{verdict:?}");
        assert!(verdict.output.join("\n").contains(output), "{verdict:?}");
    }
    z.configure(|setup| setup.command = vec!["/no/such/program".into()]);
    let verdict = stage.rehearse(&z.place, &[]).is(Verdict::Failed, 4);
    assert!(verdict.reason.is_some_and(|reason| reason.contains("/no/such/program")));
    z.release(&["serve"]);
    stage.rehearse(&z.place, &["--for", "0s"]).is(Verdict::Upgraded, 0);
    assert_eq!(z.status().services[0].serving, Some(1));
    z.end();
}

#[test]
fn what_is_piped_reads_as_a_reload_does() {
    let mut z = Zdsup::serving(&["serve"]);
    let stage = Stage::of(&z.place);
    let text = |z: &Zdsup| {
        let output = stage.command(&z.place, &["--for", "20ms"]).output().expect("zdsup can be started");
        assert!(output.stdout.is_empty(), "{output:?}");
        String::from_utf8(output.stderr).expect("text")
    };
    let good = text(&z);
    assert!(good.contains("web: rehearsing one instance") && good.contains("web: a reload would succeed\n"), "{good}");
    z.release(&["exits"]);
    let bad = text(&z);
    let wanted =
        "web: a reload would fail at step spawned: ended before it was ready: exit status 1\n  its last output:\n";
    assert!(bad.contains(wanted) && bad.contains("production is untouched"), "{bad}");
}

#[test]
fn what_cannot_be_rehearsed_is_said() {
    let z = Zdsup::serving(&["serve"]);
    let stage = Stage::of(&z.place);
    let refused = |more: &[&str], code: i32, words: &str| {
        let rehearsed = stage.rehearse(&z.place, more);
        assert_eq!(rehearsed.0.status.code(), Some(code), "{:?}", rehearsed.0);
        assert!(rehearsed.said().contains(words), "{:?}", rehearsed.0);
    };
    refused(&["api"], 2, "there is no service api");
    refused(&["-c", "/no/such/file.toml"], 2, "there is no such file");
    refused(&["--http", "healthz"], 2, "begins with");
    let steered = z.setup.toml().replace("[service.web]", "[service.web]\ntraffic = \"steered\"");
    fs::write(z.place.join("web.toml"), steered).expect("it can be written");
    refused(&[], 2, "how traffic is divided cannot change");
    fs::write(z.place.join("web.toml"), "nonsense").expect("it can be written");
    refused(&[], 2, "web.toml:1");
    fs::write(z.place.join("web.toml"), "[service.a]\ncommand = [\"/a\"]\n[service.b]\ncommand = [\"/b\"]\n")
        .expect("it can be written");
    refused(&[], 2, "say which: a, b");
    refused(&["a", "--http", "/"], 2, "has no TCP listener");
    fs::write(
        z.place.join("web.toml"),
        "[service.web]\ncommand = [\"/a\"]\nenvironment = { ZDSUP_REHEARSAL = \"1\" }\n",
    )
    .expect("it can be written");
    refused(&[], 2, "`ZDSUP_REHEARSAL` is set by zdsup itself");
    let place = Place::new();
    let stage = Stage::of(&place);
    assert_eq!(stage.rehearse(&place, &[]).0.status.code(), Some(3));
}

#[test]
fn production_under_load_notices_nothing() {
    let mut z = Zdsup::serving_with(&["serve"], |setup, place| {
        setup.listen.push(("admin".into(), format!("unix:{}", place.join("admin").display())));
        setup.service = vec!["instances = 3".into()];
    });
    let stage = Stage::of(&z.place);
    let (pid, runtime) = (z.supervisor.pid(), z.supervisor.runtime.clone());
    let inode = |z: &Zdsup| fs::metadata(z.place.join("admin")).expect("it is bound").ino();
    let before = (settled_holdings(pid, &runtime, None), inode(&z), z.status());
    let load = Load::start(&z.target());
    for (words, code) in [(&["serve"][..], 0), (&["exits"], 4), (&["unlinks-path"], 0), (&["shutdown-shared"], 0)] {
        z.release(words);
        let rehearsed = stage.rehearse(&z.place, &["--for", "200ms"]);
        assert_eq!(rehearsed.0.status.code(), Some(code), "{words:?}: {:?}", rehearsed.0);
        load.more(20);
    }
    let tally = load.unharmed();
    assert_eq!(tally.by.keys().collect::<Vec<_>>(), [&1]);
    let after = z.status();
    assert_eq!(settled_holdings(pid, &runtime, Some(&before.0)), before.0);
    assert_eq!(inode(&z), before.1);
    let seen = |status: &zdsup::control::types::Status| {
        let service = &status.services[0];
        let instances = service.generations.iter().flat_map(|one| one.instances.iter().map(|one| one.pid));
        let listeners = service.listeners.iter().map(|one| one.address.clone());
        (service.serving, instances.collect::<Vec<_>>(), listeners.collect::<Vec<_>>())
    };
    assert_eq!(seen(&after), seen(&before.2));
    assert!(!z.supervisor.log().contains("shut down"), "{}", z.supervisor.log());
    z.end();
}

#[test]
fn one_of_several_instances_is_started_beside_an_upgrade() {
    let mut z = Zdsup::serving_with(&["serve"], |setup, _| setup.service = vec!["instances = 3".into()]);
    let stage = Stage::of(&z.place);
    let mut rehearse = stage.soaking(&z.place, &[]);
    assert_eq!(stage.instances().len(), 1);
    // Nobody finds its supervisor, and an upgrade is no news to it.
    let status = z.supervisor.run(&["status", "--json"]);
    assert!(!String::from_utf8_lossy(&status.stdout).contains("rehearsal"), "{status:?}");
    z.release(&["serve"]);
    z.upgrade();
    assert_eq!(stage.instances().len(), 1);
    process::kill(rehearse.id(), Signal::SIGINT);
    assert_eq!(rehearse.wait().expect("it is our child").code(), Some(130));
    stage.nothing_left();
    z.end();
}

#[test]
fn what_is_interrupted_is_ended() {
    let mut z = Zdsup::serving(&["serve"]);
    let stage = Stage::of(&z.place);
    z.release(&["hangs-drain"]);
    let mut rehearse = stage.soaking(&z.place, &[]);
    process::kill(rehearse.id(), Signal::SIGINT);
    let [instance] = stage.instances()[..] else { panic!("there is one") };
    eventually("it is told to stop", || {
        let events = fs::read(format!("/proc/{instance}/environ")).ok()?;
        let socket = events.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"NOTIFY_SOCKET="))?;
        let runtime = PathBuf::from(String::from_utf8(socket.to_vec()).ok()?).ancestors().nth(2)?.to_owned();
        let answer = crate::support::client::control(&runtime.join("control.sock"), "GET", "/v1/status", None).ok()?;
        let status: zdsup::control::types::Status = serde_json::from_str(&answer.body).ok()?;
        (status.services[0].generations[0].state == GenerationState::Ending
            || status.services[0].generations[0].state == GenerationState::Draining)
            .then_some(())
    });
    // It would take its whole drain timeout. Whoever asks again does not wait for that.
    process::kill(rehearse.id(), Signal::SIGINT);
    let output = rehearse.wait().expect("it is our child");
    assert_eq!(output.code(), Some(130));
    stage.nothing_left();
}

#[test]
fn it_dies_with_the_command() {
    let z = Zdsup::serving(&["serve"]);
    let stage = Stage::of(&z.place);
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let mut rehearse = stage.soaking(&z.place, &[]);
        let supervisor = stage.supervisor(&rehearse);
        process::kill(rehearse.id(), signal);
        assert_eq!(rehearse.wait().expect("it is our child").signal(), Some(signal as i32));
        stage.soon_nothing_left(&[supervisor]);
    }
    assert_eq!(z.status().services[0].serving, Some(1));
}

#[test]
fn a_supervisor_of_its_own_that_is_killed_leaves_nothing() {
    let z = Zdsup::serving(&["serve"]);
    let stage = Stage::of(&z.place);
    let rehearse = stage.soaking(&z.place, &[]);
    process::kill(stage.supervisor(&rehearse), Signal::SIGKILL);
    let output = rehearse.wait_with_output().expect("it is our child");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    stage.nothing_left();
}

#[test]
fn what_is_asked_for_must_be_answered() {
    let mut z = Zdsup::serving(&["serve"]);
    let stage = Stage::of(&z.place);
    let health = z.place.join("health");
    z.release(&["serve", "--health", &health.display().to_string()]);
    let answers = |status: &str| fs::write(&health, status).expect("it can be written");
    for status in ["204", "302"] {
        answers(status);
        stage.rehearse(&z.place, &["--for", "50ms", "--http", "/healthz"]).is(Verdict::Upgraded, 0);
    }
    // It is asked for at least once, and what was asked is waited for.
    stage.rehearse(&z.place, &["--for", "0s", "--http", "/slow/300"]).is(Verdict::Upgraded, 0);
    for (status, time) in [("503 Service Unavailable", "10m"), ("404 Not Found", "0s")] {
        answers(&status[..3]);
        let rehearsed = stage.rehearse(&z.place, &["--for", time, "--http", "/healthz"]);
        let reason = rehearsed.is(Verdict::RolledBack, 4).reason;
        assert_eq!(reason, Some(format!("GET /healthz: {status}")));
    }
    // It accepts nothing.
    let report = z.place.join("report").display().to_string();
    z.release(&["report", "--to", &report]);
    let verdict = stage.rehearse(&z.place, &["--for", "10m", "--http", "/"]).is(Verdict::RolledBack, 4);
    assert_eq!(verdict.reason.as_deref(), Some("GET /: no answer in 5 s"));
}

#[test]
fn the_probe_asks_what_is_rehearsed() {
    for traffic in ["steered", "shared"] {
        let mut z = Zdsup::serving_with(&["serve"], |setup, _| setup.service = vec![format!("traffic = {traffic:?}")]);
        let stage = Stage::of(&z.place);
        let health = z.place.join("health");
        z.release(&["serve", "--health", &health.display().to_string()]);
        z.configure(|setup| setup.upgrade = vec!["probe = { http = \"/healthz\", rate = 200 }".into()]);
        let seen = |rehearsed: &Rehearsed| {
            let event = rehearsed.events().into_iter().find(|event| event.event == "probed");
            event.unwrap_or_else(|| panic!("nobody asked: {:?}", rehearsed.0)).message
        };
        fs::write(&health, "").expect("it can be written");
        let rehearsed = stage.rehearse(&z.place, &["--for", "300ms"]);
        rehearsed.is(Verdict::Upgraded, 0);
        let message = seen(&rehearsed);
        assert!(message.starts_with("clients would have seen 0 errors in ") && message.contains("p99"), "{message}");
        // Without a budget they are only told.
        fs::write(&health, "500").expect("it can be written");
        let rehearsed = stage.rehearse(&z.place, &["--for", "300ms"]);
        rehearsed.is(Verdict::Upgraded, 0);
        let message = seen(&rehearsed);
        assert!(message.ends_with("by their status"), "{message}");
        if traffic == "steered" {
            continue;
        }
        z.configure(|setup| setup.upgrade.push("soak = \"10s\"\nmax-error-rate = \"1%\"".into()));
        let rehearsed = stage.rehearse(&z.place, &[]);
        let reason = rehearsed.is(Verdict::RolledBack, 4).reason.expect("a reason");
        assert!(reason.contains("probe requests failed (") && reason.contains("through http"), "{reason}");
        assert_eq!(z.status().services[0].serving, Some(1));
    }
}

#[test]
fn health_checks_reach_what_is_rehearsed() {
    let mut z = Zdsup::serving_with(&["serve"], |setup, _| {
        setup.service = vec!["instances = 2\ntraffic = \"steered\"".into()];
    });
    let stage = Stage::of(&z.place);
    let health = z.place.join("health");
    z.release(&["serve", "--health", &health.display().to_string()]);
    z.configure(|setup| {
        setup.health = vec!["http = \"/healthz\"".into(), "interval = \"20ms\"".into()];
        setup.ready = vec!["timeout = \"2s\"".into()];
    });
    fs::write(&health, "").expect("it can be written");
    stage.rehearse(&z.place, &["--for", "100ms"]).is(Verdict::Upgraded, 0);
    fs::write(&health, "503").expect("it can be written");
    let reason = stage.rehearse(&z.place, &["--for", "100ms"]).is(Verdict::Failed, 4).reason;
    assert!(reason.as_ref().is_some_and(|reason| reason.contains("503")), "{reason:?}");
}

#[test]
fn it_has_no_slot_of_the_real_ones_and_no_hook_is_run() {
    let mut z = Zdsup::serving_with(&["serve"], |setup, _| setup.service = vec!["instances = 2".into()]);
    let stage = Stage::of(&z.place);
    let (report, hooked) = (z.place.join("report"), z.place.join("hooked"));
    z.release(&["report", "--to", &report.display().to_string()]);
    let hook = format!("hooks = {{ before-start = [[\"/bin/touch\", {:?}]] }}", hooked.display().to_string());
    z.configure(|setup| setup.service.push(hook));
    stage.rehearse(&z.place, &["--for", "10ms"]).is(Verdict::Upgraded, 0);
    let report = fs::read_to_string(report).expect("it ran");
    assert!(report.lines().any(|line| line == "env ZDSUP_SLOT=2"), "{report}");
    assert!(!hooked.exists());
}

#[test]
fn every_kind_of_listener_has_one_of_its_own() {
    let z = &mut Zdsup::serving_with(&["sockets"], |setup, place| {
        let address = place.address();
        let path = |name: &str| place.join(name).display().to_string();
        setup.listen.extend([
            ("udp".into(), format!("udp:{address}:8081")),
            ("stream".into(), format!("unix:{}", path("s"))),
            ("dgram".into(), format!("unix-dgram:{}", path("d"))),
            ("packets".into(), format!("unix-seqpacket:{}", path("p"))),
            ("abstract".into(), format!("unix:@{}", path("a"))),
        ]);
    });
    let stage = Stage::of(&z.place);
    let rehearsed = stage.rehearse(&z.place, &["--for", "50ms", "--http", "/"]);
    rehearsed.is(Verdict::Upgraded, 0);
    for name in ["s", "d", "p"] {
        assert!(z.place.join(name).exists(), "{name} is gone");
    }
    assert_eq!(z.get("/").status, 200);
}

#[test]
fn one_that_does_not_end_in_time_is_killed_and_that_is_said() {
    let mut z = Zdsup::serving(&["serve"]);
    let stage = Stage::of(&z.place);
    z.release(&["hangs-drain"]);
    z.configure(|setup| setup.drain = vec!["timeout = \"100ms\"".into()]);
    let rehearsed = stage.rehearse(&z.place, &["--for", "20ms"]);
    rehearsed.is(Verdict::Upgraded, 0);
    assert!(rehearsed.events().iter().any(|event| event.event == "overdue"), "{:?}", rehearsed.0);
    let output = stage.command(&z.place, &["--for", "20ms"]).output().expect("zdsup can be started");
    assert!(String::from_utf8_lossy(&output.stderr).contains("warning: it outlived its drain timeout"), "{output:?}");
    stage.nothing_left();
    z.release(&["serve"]);
}

#[test]
fn without_a_supervisor_by_a_file() {
    let place = Place::new();
    let stage = Stage::of(&place);
    let setup = Setup::new(&place, &["serve"]);
    fs::write(place.join("web.toml"), setup.toml()).expect("a config can be written");
    stage.rehearse(&place, &["-c", "web.toml", "--for", "10ms"]).is(Verdict::Upgraded, 0);
    assert!(!place.join("run").exists());
}

#[test]
fn without_a_file_by_the_command_line_of_the_supervisor() {
    let place = Place::new();
    let stage = Stage::of(&place);
    let release = place.join("current");
    let install = |words: &str| {
        let hazard = crate::support::hazard();
        fs::write(&release, format!("#!/bin/sh\nexec {} {words}\n", hazard.display())).expect("it can be written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&release, mode).expect("it is ours");
    };
    install("serve");
    let listen = format!("http={}:8080", place.address());
    let arguments = ["--listen", &listen, "--drain-timeout", "5s", "--", "./current"].map(str::to_owned);
    let mut supervisor = Supervisor::start(&place, &arguments, &[("TOKEN".to_owned(), "t".to_owned())].into());
    supervisor.wait_for("it serves", |status| status.services[0].serving == Some(1));
    let rehearsed = stage.rehearse(&place, &["--for", "10ms"]);
    rehearsed.is(Verdict::Upgraded, 0);
    install("exits");
    stage.rehearse(&place, &["current", "--for", "10ms"]).is(Verdict::Failed, 4);
    assert_eq!(supervisor.end().code(), Some(0));
}

#[test]
fn as_another_user() {
    if !is_root() {
        return skip("only root can become another user");
    }
    let mut z = Zdsup::serving_with(&["serve"], |setup, _| setup.service = vec!["user = \"nobody\"".into()]);
    let stage = Stage::of(&z.place);
    stage.rehearse(&z.place, &["--for", "10ms"]).is(Verdict::Upgraded, 0);
    // Another user than the supervisor's would rehearse something else.
    z.configure(|setup| setup.service.clear());
    let plain = stage.command(&z.place, &[]);
    let mut other = Command::new("setpriv");
    other.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]).arg(plain.get_program());
    let output = other.args(plain.get_args()).output().expect("there is a setpriv");
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    stage.nothing_left();
    z.end();
}

#[test]
fn a_service_in_earnest_is_never_told_that_it_is_a_rehearsal() {
    let z = Zdsup::serving_with(&["serve"], |setup, place| {
        setup.environment.insert("ZDSUP_REHEARSAL".into(), "1".into());
        fs::write(place.join("env"), "ZDSUP_REHEARSAL=1\nOTHER=2\n").expect("a file can be written");
        setup.service = vec![format!("environment-file = {:?}", place.join("env").display().to_string())];
    });
    let environment = z.get("/env").body;
    assert!(environment.contains("OTHER=2") && !environment.contains("ZDSUP_REHEARSAL"), "{environment}");
    z.end();
}
