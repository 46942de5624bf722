//! The supervisor replaces its own program: same process, nothing dropped, at any moment.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use zdsup::control::types::{GenerationState, Status, Verdict};

use crate::support::process::{self, settled_holdings};
use crate::support::supervisor::command;
use crate::support::{Load, Place, SOON, Supervisor, Zdsup, eventually, hazard, zdsup};

impl Zdsup {
    /// `zdsup reexec`, which must succeed.
    #[track_caller]
    fn reexec(&self) {
        let done = self.supervisor.run(&["reexec"]);
        assert!(done.status.success(), "{done:?}");
    }
}

#[test]
fn reexec_goes_on_with_everything() {
    let z = Zdsup::serving(&["serve"]);
    let before = z.status();
    let load = Load::start(&z.target());
    let held = settled_holdings(z.supervisor.pid(), &z.supervisor.runtime, None);
    for incarnation in 2..=4 {
        z.reexec();
        let status = z.status();
        assert_eq!(status.supervisor.incarnation, incarnation);
        assert_eq!(status.supervisor.pid, before.supervisor.pid);
        assert_eq!(
            status.services[0].generations[0].instances[0].pid,
            before.services[0].generations[0].instances[0].pid
        );
    }
    let after = settled_holdings(z.supervisor.pid(), &z.supervisor.runtime, Some(&held));
    assert_eq!(after, held, "each leaves something behind");
    // Children are still children, and requests are still taken.
    z.upgrade().is(Verdict::Upgraded);
    z.settled(2);
    load.unharmed();
    z.end();
}

#[test]
fn reexec_during_an_upgrade_carries_it_to_its_verdict_and_who_waits_is_told() {
    let mut z = Zdsup::serving(&["serve"]);
    let load = Load::start(&z.target());
    let gate = z.place.join("gate");
    z.release(&["serve", "--gate", &gate.display().to_string()]);
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| z.upgrade());
        z.wait_for("the candidate", |status| {
            status.services[0]
                .generations
                .iter()
                .any(|one| one.generation == 2 && one.state == GenerationState::Starting)
        });
        z.reexec();
        z.reexec();
        std::fs::write(&gate, "").expect("a file");
        let reload = reload.join().expect("it does not panic").is(Verdict::Upgraded);
        assert!(reload.events.iter().any(|event| event.event == "reexec"), "it was not told: {:?}", reload.events);
    });
    z.settled(2);
    load.unharmed();
    z.end();
}

#[test]
fn sigusr2_is_reexec() {
    let z = Zdsup::serving(&["serve"]);
    z.supervisor.signal(Signal::SIGUSR2);
    z.wait_for("a successor", |status| status.supervisor.incarnation == 2);
    z.upgrade().is(Verdict::Upgraded);
    z.end();
}

#[test]
fn a_binary_that_cannot_take_over_changes_nothing_and_the_caller_is_told_why() {
    let z = Zdsup::serving(&["serve"]);
    let load = Load::start(&z.target());
    let script = |name: &str, text: &str| {
        let path = z.place.join(name);
        std::fs::write(&path, text).expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("its mode");
        path.display().to_string()
    };
    let hangs = z.place.join("hangs.pid");
    let cases = [
        ("/bin/true".to_owned(), "it is no zdsup that could go on with the state"),
        ("/nowhere/zdsup".to_owned(), "no such file or directory"),
        ("/etc/passwd".to_owned(), "permission denied"),
        (
            script("old", "#!/bin/sh\necho 'it is of version 7, and this zdsup knows versions up to 1' >&2; exit 1\n"),
            "version 7",
        ),
        (script("dies", "#!/bin/sh\nkill -SEGV $$\n"), "SIGSEGV"),
        (script("hangs", &format!("#!/bin/sh\nsleep 3600 & echo $! >{}; wait\n", hangs.display())), "in 8 s"),
    ];
    for (binary, reason) in cases {
        let refused = z.supervisor.run(&["reexec", "--binary", &binary]);
        assert_eq!(refused.status.code(), Some(5), "{binary}: {refused:?}");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(said.contains(reason) && said.contains("nothing has changed"), "{binary}: {said}");
    }
    let hung = std::fs::read_to_string(&hangs).expect("it was tried").trim().parse().expect("a number");
    eventually("what was tried is gone", || (!process::is_alive(hung)).then_some(()));
    let status = z.status();
    assert_eq!((status.supervisor.incarnation, status.services[0].serving), (1, Some(1)));
    z.reexec();
    z.upgrade().is(Verdict::Upgraded);
    z.settled(2);
    load.unharmed();
    z.end();
}

/// Row 39: it goes on serving its control socket while it waits for whoever reads its output, and does not wait long.
#[test]
fn a_reader_of_the_output_that_does_not_read_makes_nobody_wait() {
    let (_reader, mut writer) = std::io::pipe().expect("a pipe can be made");
    nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096)).expect("it is a pipe");
    writer.write_all(&[b'x'; 4096]).expect("it fits");
    let place = Place::new();
    std::fs::File::create(place.join("log")).expect("a log can be made");
    let child = command(&place.join("run"))
        .args(["run", "--name", "web", "--listen", &format!("http={}:8080", place.address()), "--"])
        .args([hazard().as_os_str(), "serve".as_ref()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(writer)
        .spawn()
        .expect("zdsup can be started");
    let mut supervisor = Supervisor::adopt(child, &place);
    let serves = |status: &Status| status.services.first().is_some_and(|one| one.serving == Some(1));
    supervisor.wait_for("it serves", serves);
    let mut longest = Duration::ZERO;
    for incarnation in 2..=4 {
        supervisor.signal(Signal::SIGUSR2);
        let deadline = Instant::now() + SOON;
        loop {
            let asked = Instant::now();
            let status = supervisor.wait_for("an answer", |_| true);
            longest = longest.max(asked.elapsed());
            if status.supervisor.incarnation == incarnation {
                break;
            }
            assert!(Instant::now() < deadline, "it was not replaced");
        }
    }
    // A stopped reader would cost half a second, each time.
    assert!(longest < Duration::from_millis(400), "nobody answered for {longest:?}");
    assert_eq!(supervisor.end().code(), Some(0));
    supervisor.nothing_left();
}

#[test]
fn the_directory_that_it_was_started_in_may_be_gone() {
    let place = Place::new();
    let home = place.join("home");
    std::fs::create_dir(&home).expect("a directory");
    let log = std::fs::File::create(place.join("log")).expect("a log can be made");
    let child = command(&place.join("run"))
        .args(["run", "--name", "web", "--listen", &format!("http={}:8080", place.address()), "--"])
        .args([hazard().as_os_str(), "serve".as_ref()])
        .current_dir(&home)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a descriptor"))
        .stderr(log)
        .spawn()
        .expect("zdsup can be started");
    let mut supervisor = Supervisor::adopt(child, &place);
    supervisor.wait_for_log("upgraded");
    std::fs::remove_dir(&home).expect("nothing is in it");
    let done = supervisor.run(&["reexec"]);
    assert!(done.status.success(), "{done:?}\n{}", supervisor.log());
    supervisor
        .wait_for("a successor", |status| status.supervisor.incarnation == 2 && status.services[0].serving == Some(1));
    assert_eq!(supervisor.end().code(), Some(0));
    supervisor.nothing_left();
}

/// Versions side by side, and a link to the one to be used: the link is the path, whatever it led to at the start.
#[test]
fn the_path_that_it_was_executed_by_may_be_a_link() {
    for keeper in [false, true] {
        let place = Place::new();
        let link = place.join("zdsup");
        let versions = ["1", "2", "3"].map(|version| place.join(version));
        for version in &versions {
            // By a child: a descriptor for writing that another test's child has would make it ETXTBSY.
            assert!(Command::new("cp").arg(zdsup()).arg(version).status().expect("there is cp").success());
        }
        let lead_to = |version: &Path| {
            let newer = place.join("newer");
            std::os::unix::fs::symlink(version, &newer).expect("a link can be made");
            std::fs::rename(&newer, &link).expect("it takes the place of the former");
        };
        lead_to(&versions[0]);
        let log = std::fs::File::create(place.join("log")).expect("a log can be made");
        let inner = command(&place.join("run"));
        let mut run = Command::new(&link);
        run.args(inner.get_args()).args(["run", "--name", "web"]).args(keeper.then_some("--keeper"));
        run.args(["--listen", &format!("http={}:8080", place.address()), "--"]).arg(hazard()).arg("serve");
        run.env("STATE_DIRECTORY", place.join("state")).env_remove("NOTIFY_SOCKET").stdin(Stdio::null());
        let child = run.stdout(log.try_clone().expect("a descriptor")).stderr(log).spawn().expect("it can be started");
        let mut supervisor = Supervisor::adopt(child, &place);
        let runs = |version: &PathBuf, status: &Status| {
            std::fs::read_link(format!("/proc/{}/exe", status.supervisor.pid)).is_ok_and(|exe| exe == *version)
        };
        supervisor.wait_for("the first version", |status| status.services.len() == 1 && runs(&versions[0], status));
        supervisor.wait_for_log("upgraded");
        lead_to(&versions[1]);
        let done = supervisor.run(&["reexec"]);
        assert!(done.status.success(), "{done:?}\n{}", supervisor.log());
        let second = supervisor.wait_for("the second version", |status| runs(&versions[1], status));
        lead_to(&versions[2]);
        if keeper {
            process::kill(second.supervisor.pid, Signal::SIGKILL);
        } else {
            supervisor.signal(Signal::SIGUSR2);
        }
        supervisor.wait_for("the third version", |status| runs(&versions[2], status));
        assert_eq!(supervisor.end().code(), Some(0));
        supervisor.nothing_left();
    }
}

#[test]
fn a_stop_at_the_last_moment_is_not_lost() {
    for _ in 0..5 {
        let mut z = Zdsup::serving(&["serve"]);
        z.supervisor.signal(Signal::SIGUSR2);
        let deadline = Instant::now() + SOON;
        while !z.supervisor.log().contains("replaces itself") {
            assert!(Instant::now() < deadline, "{}", z.supervisor.log());
        }
        z.supervisor.signal(Signal::SIGTERM);
        let ended = z.supervisor.wait(Duration::from_secs(20));
        assert!(ended.success(), "{ended:?}");
    }
}

#[test]
fn signals_that_come_during_reexec_are_not_lost() {
    let mut z = Zdsup::serving(&["serve"]);
    for _ in 0..20 {
        z.supervisor.signal(Signal::SIGUSR2);
    }
    z.supervisor.signal(Signal::SIGTERM);
    let ended = z.supervisor.wait(Duration::from_secs(20));
    assert!(ended.success(), "{ended:?}");
}
