//! What services store for their successors (FDSTORE=1, as with systemd), and who gets it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Instant;

use nix::sys::signal::Signal;
use zdsup::control::types::{ServiceState, Status, Verdict};

use crate::support::process::{self, Holdings, settled_holdings};
use crate::support::supervisor::generation;
use crate::support::{Zdsup, eventually};

/// The program in tests/hazards that stores what it is told to.
fn started(max: u32) -> Zdsup {
    Zdsup::serving_with(&["stores"], |setup, place| {
        setup.command.extend(["--ready".into(), "--at".into(), place.path().display().to_string()]);
        setup.service = vec![format!("fd-store-max = {max}")];
    })
}

/// The conversation with one instance of it.
struct Told(BufReader<UnixStream>);

impl Told {
    #[track_caller]
    fn to(z: &Zdsup, instance: &str) -> Self {
        let path = z.place.join(&format!("web@{instance}"));
        let stream = eventually(&format!("{instance} listens"), || UnixStream::connect(&path).ok());
        stream.set_read_timeout(Some(crate::support::SOON)).expect("a timeout can be set");
        Self(BufReader::new(stream))
    }

    /// Its answer, once the supervisor has acted.
    #[track_caller]
    fn ask(&mut self, line: &str) -> String {
        writeln!(self.0.get_mut(), "{line}").expect("it listens");
        let mut answer = String::new();
        self.0.read_line(&mut answer).expect("it answers");
        assert!(answer.ends_with('\n'), "no answer to {line:?}");
        answer.trim_end().to_owned()
    }

    #[track_caller]
    fn all(&mut self, lines: &[&str]) {
        for line in lines {
            assert_eq!(self.ask(line), "done", "{line}");
        }
    }

    /// It ends.
    fn exit(mut self, status: i32) {
        writeln!(self.0.get_mut(), "exit {status}").expect("it listens");
    }
}

fn stored(z: &Zdsup) -> (u32, u32) {
    let service = &z.status().services[0];
    (service.fd_store, service.fd_store_max)
}

#[track_caller]
fn holds_no_more_than(z: &Zdsup, held: &Holdings) {
    let now = settled_holdings(z.supervisor.pid(), &z.supervisor.runtime, Some(held));
    assert!(now.is_within(held), "{now:?}, and before {held:?}");
}

#[test]
fn whoever_starts_later_gets_what_is_stored_after_the_listeners() {
    let z = started(4);
    let mut one = Told::to(&z, "1.1");
    assert_eq!(one.ask("passed"), "http=socket");
    assert_eq!((one.ask("env FDSTORE"), one.ask("env LISTEN_FDS")), ("4".into(), "1".into()));
    one.all(&["memfd sessions first", "store sessions FDNAME=sessions", "pipe way", "store way"]);
    // A bad name is none.
    one.all(&["memfd other second", "store other FDNAME=a:b"]);
    assert_eq!(stored(&z), (3, 4));
    let shown = z.supervisor.run(&["status"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("3 of 4 descriptors stored"), "{shown:?}");

    z.upgrade();
    let mut two = Told::to(&z, "2.1");
    let all = "http=socket sessions=first stored=pipe stored=second";
    assert_eq!(two.ask("passed"), all);
    assert_eq!((two.ask("env LISTEN_FDS"), two.ask("env FDSTORE")), ("4".into(), "4".into()));
    assert_eq!(two.ask("env LISTEN_FDNAMES"), "http:sessions:stored:stored");
    // A restart after a crash gets them too, and what was stored last.
    two.all(&["memfd late third", "store late FDNAME=late"]);
    let pid = z.status().services[0].generations[0].instances[0].pid.expect("it runs");
    process::kill(pid, Signal::SIGKILL);
    let mut again = Told::to(&z, "2.2");
    assert_eq!(again.ask("passed").split(' ').collect::<Vec<_>>().last(), Some(&"late=third"));
    // The other end of the pipe went with its process.
    assert_eq!(again.ask("env LISTEN_FDNAMES"), "http:sessions:stored:late");
    z.end();
}

#[test]
fn a_store_is_bounded_and_so_is_what_is_said_about_it() {
    let z = started(3);
    let began = Instant::now();
    let mut one = Told::to(&z, "1.1");
    one.all(&["store-many null 5"]);
    assert_eq!(stored(&z), (3, 3));
    z.supervisor.wait_for_log("FDSTORE=1 with FDNAME=null was ignored: the store is full: fd-store-max is 3");
    let held = settled_holdings(z.supervisor.pid(), &z.supervisor.runtime, None);
    for _ in 0..100 {
        // As many as a message can carry.
        one.all(&["store-many null 253"]);
    }
    assert_eq!(stored(&z), (3, 3));
    holds_no_more_than(&z, &held);
    let lines = z.supervisor.log().matches("was ignored").count() as u64;
    assert!(lines <= 5 * (began.elapsed().as_secs() / 10 + 1), "{lines} lines");
    one.all(&["say FDSTOREREMOVE=1 FDNAME=null"]);
    assert_eq!(stored(&z), (0, 3));
    z.end();
}

/// More than one message of the kernel can carry, all the way to a successor.
#[test]
fn as_many_as_may_be_stored_are_passed_on() {
    let z = started(1024);
    let mut one = Told::to(&z, "1.1");
    one.all(&["store-many null 253"; 3]);
    one.all(&["memfd m last", "store m FDNAME=m"]);
    z.upgrade();
    let mut two = Told::to(&z, "2.1");
    assert_eq!(two.ask("env LISTEN_FDS"), "761");
    assert!(two.ask("passed").ends_with(" null=/dev/null m=last"));
    assert_eq!(stored(&z), (760, 1024));
    z.end();
}

#[test]
fn the_same_descriptor_is_stored_once_under_a_name() {
    let z = started(8);
    let mut one = Told::to(&z, "1.1");
    one.all(&["memfd m text", "store m FDNAME=a", "store m FDNAME=a", "store m FDNAME=b", "memfd n text"]);
    one.all(&["store n FDNAME=a"]);
    assert_eq!(stored(&z), (3, 8));
    z.upgrade();
    assert_eq!(Told::to(&z, "2.1").ask("env LISTEN_FDNAMES"), "http:a:b:a");
    z.end();
}

#[test]
fn what_hangs_up_is_let_go_of_unless_it_is_not_to_be_polled() {
    let z = started(8);
    let mut one = Told::to(&z, "1.1");
    one.all(&["pipe a", "pipe b", "store a FDNAME=a", "store b FDNAME=b FDPOLL=0", "memfd m text", "store m FDNAME=m"]);
    assert_eq!(stored(&z), (3, 8));
    one.all(&["hang-up b", "hang-up a"]);
    z.wait_for("one is let go of", |status| status.services[0].fd_store == 2);
    z.upgrade();
    assert_eq!(Told::to(&z, "2.1").ask("passed"), "http=socket b=pipe m=text");
    z.end();
}

/// No failure of a candidate is visible: what it stores and removes happens when it serves, and not before.
#[test]
fn a_failed_candidate_leaves_the_store_as_it_was() {
    let mut z = started(2);
    Told::to(&z, "1.1").all(&["memfd m first", "store m FDNAME=m"]);
    let starting = |z: &mut Zdsup| z.configure(|setup| setup.command.retain(|word| word != "--ready"));
    starting(&mut z);
    let in_between = |z: &Zdsup, number: u64| {
        let mut candidate = Told::to(z, &format!("{number}.1"));
        assert_eq!(candidate.ask("passed"), "http=socket m=first");
        candidate.all(&["say FDSTOREREMOVE=1 FDNAME=m", "memfd m other", "store m FDNAME=m", "store m FDNAME=n"]);
        assert_eq!(stored(z), (1, 2));
        // Full for it, as it would be.
        candidate.all(&["memfd o other", "store o FDNAME=o"]);
        candidate
    };
    let held = settled_holdings(z.supervisor.pid(), &z.supervisor.runtime, None);
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| z.reload(&[]));
        in_between(&z, 2).exit(1);
        reload.join().expect("it does not panic").is(Verdict::Failed).because("exit status 1").still_serving(1);
    });
    z.settled(1);
    assert_eq!(stored(&z), (1, 2));
    holds_no_more_than(&z, &held);
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| z.reload(&[]));
        let mut candidate = in_between(&z, 3);
        candidate.all(&["say READY=1"]);
        assert_eq!(stored(&z), (2, 2));
        reload.join().expect("it does not panic").is(Verdict::Upgraded);
    });
    // And so for a process that is started again after a crash.
    let pid = z.status().services[0].generations[0].instances[0].pid.expect("it runs");
    process::kill(pid, Signal::SIGKILL);
    let mut again = Told::to(&z, "3.2");
    assert_eq!(again.ask("passed"), "http=socket m=other n=other");
    again.all(&["say FDSTOREREMOVE=1 FDNAME=n"]);
    again.exit(1);
    let mut again = Told::to(&z, "3.3");
    assert_eq!(again.ask("passed"), "http=socket m=other n=other");
    again.all(&["say FDSTOREREMOVE=1 FDNAME=n READY=1"]);
    assert_eq!(stored(&z), (1, 2));
    z.end();
}

#[test]
fn whoever_is_on_its_way_out_changes_nothing() {
    let mut z = started(4);
    z.configure(|setup| setup.command.push("--ignores-term".into()));
    z.upgrade();
    let mut two = Told::to(&z, "2.1");
    two.all(&["memfd m text", "store m FDNAME=m"]);
    z.configure(|setup| setup.command.retain(|word| word != "--ignores-term"));
    z.upgrade();
    assert!(generation(&z.status(), 2).is_some(), "it drains");
    two.all(&["store m FDNAME=late", "say FDSTOREREMOVE=1 FDNAME=m"]);
    assert_eq!(stored(&z), (1, 4));
    z.supervisor.wait_for_log("with FDNAME=late was ignored: it is on its way out, and its successor runs already");
    two.exit(0);
    z.settled(3);
    z.end();
}

#[test]
fn without_a_store_nothing_is_stored() {
    let mut z = started(0);
    let mut one = Told::to(&z, "1.1");
    assert_eq!(one.ask("env FDSTORE"), "-");
    one.all(&["memfd m text", "store m FDNAME=m"]);
    assert_eq!(stored(&z), (0, 0));
    z.supervisor.wait_for_log("FDSTORE=1 with FDNAME=m was ignored: fd-store-max is 0, so that there is no store");
    // A store that is switched off is emptied, and one that shrinks is not.
    for (generation, max, left) in [(2, 4, 0), (3, 1, 2), (4, 0, 0)] {
        z.configure(|setup| setup.service = vec![format!("fd-store-max = {max}")]);
        z.upgrade();
        assert_eq!(stored(&z), (left, max));
        if generation == 2 {
            Told::to(&z, "2.1").all(&["store-many null 2"]);
        }
    }
    assert_eq!(Told::to(&z, "4.1").ask("passed"), "http=socket");
    z.end();
}

#[test]
fn a_stopped_service_has_no_successors() {
    let mut z = started(4);
    z.configure(|setup| setup.command.push("--ignores-term".into()));
    z.upgrade();
    let mut two = Told::to(&z, "2.1");
    two.all(&["memfd m text", "store m FDNAME=m"]);
    z.supervisor.signal(Signal::SIGTERM);
    let stopping = |status: &Status| status.services[0].state == ServiceState::Stopping;
    let status = z.wait_for("it is being stopped", stopping);
    assert_eq!(status.services[0].fd_store, 0);
    two.all(&["store m FDNAME=m"]);
    assert_eq!(z.status().services[0].fd_store, 0);
    two.exit(0);
    assert_eq!(z.supervisor.wait(crate::support::SOON).code(), Some(0));
}

/// What is kept for a successor of the supervisor has its bounds, and whoever keeps it drops what is beyond without a
/// word: so nothing is begun, and nothing stored, that would not fit.
#[test]
fn what_a_successor_of_the_supervisor_is_kept_is_bounded() {
    let z = Zdsup::serving_with(&["stores"], |setup, place| {
        let path = place.join("manager");
        let manager = UnixDatagram::bind(&path).expect("a path is free");
        // What comes with a message that is read like this is closed.
        std::thread::spawn(move || while manager.recv(&mut [0; 4096]).is_ok() {});
        setup.environment.insert("NOTIFY_SOCKET".into(), path.display().to_string());
        setup.environment.insert("FDSTORE".into(), "40".into());
        setup.command.extend(["--ready".into(), "--at".into(), place.path().display().to_string()]);
        setup.service = vec!["fd-store-max = 100".into()];
    });
    // State, control socket, listener and executable; pidfd, notify socket and two streams of each process.
    let scale = |instances: &str| z.supervisor.run(&["scale", "web", instances]);
    assert!(scale("3").status.success());
    let refused = scale("7");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(5), "{said}");
    assert!(
        said.contains("16 of at most 40 descriptors are kept for a successor, and scaling wants 32 more"),
        "{said}"
    );
    assert!(scale("4").status.success());
    // Four more fit beside an upgrade.
    let mut told = Told::to(&z, "1.1");
    told.all(&["store-many null 30"]);
    assert_eq!(stored(&z), (4, 100));
    z.supervisor.wait_for_log("FDSTORE=1 with FDNAME=null was ignored: ");
    told.all(&["say FDSTOREREMOVE=1 FDNAME=null"]);
    assert!(scale("5").status.success());
    let reload = z.reload(&[]);
    let reason = reload.verdict().and_then(|verdict| verdict.reason.clone()).unwrap_or_default();
    assert!(
        reason.contains("24 of at most 40 descriptors are kept for a successor, and an upgrade wants"),
        "{reload:?}"
    );
    z.end();
}

/// The supervisor is replaced: what is stored stays, what is staged stays staged, and hang-ups are still seen.
#[test]
fn a_supervisor_that_replaces_itself_keeps_what_is_stored() {
    let mut z = started(4);
    let mut one = Told::to(&z, "1.1");
    one.all(&["memfd m text", "store m FDNAME=m", "pipe way", "store way FDNAME=way"]);
    z.configure(|setup| setup.command.retain(|word| word != "--ready"));
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| z.reload(&[]));
        let mut candidate = Told::to(&z, "2.1");
        candidate.all(&["say FDSTOREREMOVE=1 FDNAME=m", "memfd n other", "store n FDNAME=n"]);
        assert_eq!(z.supervisor.run(&["reexec"]).status.code(), Some(0));
        assert_eq!(stored(&z), (2, 4));
        one.all(&["hang-up way"]);
        z.wait_for("it is let go of", |status| status.services[0].fd_store == 1);
        candidate.all(&["say READY=1", "store n FDNAME=n"]);
        reload.join().expect("it does not panic").is(Verdict::Upgraded);
    });
    assert_eq!(stored(&z), (1, 4));
    let pid = z.status().services[0].generations[0].instances[0].pid.expect("it runs");
    process::kill(pid, Signal::SIGKILL);
    assert_eq!(Told::to(&z, "2.2").ask("passed"), "http=socket n=other");
    z.end();
}

/// A wrapper that starts the real program as its child passes on all of them.
#[test]
fn a_wrapper_without_listen_pid_passes_them_on() {
    let mut z = started(4);
    Told::to(&z, "1.1").all(&["memfd m text", "store m FDNAME=m"]);
    z.configure(|setup| {
        let script = format!("{}; exit $?", setup.command.join(" "));
        setup.command = vec!["/bin/sh".into(), "-c".into(), script];
        setup.service.push("listen-pid = false".into());
    });
    z.upgrade();
    let mut two = Told::to(&z, "2.1");
    assert_eq!((two.ask("passed"), two.ask("env LISTEN_PID")), ("http=socket m=text".into(), "-".into()));
    two.all(&["memfd n more", "store n FDNAME=n"]);
    assert_eq!(stored(&z), (2, 4));
    z.end();
}

/// Guarantee 8: what each generation stores and removes leaves nothing behind.
#[test]
fn nothing_grows_with_what_is_stored() {
    let z = started(6);
    let mut held = None;
    for number in 1..=30 {
        let mut told = Told::to(&z, &format!("{number}.1"));
        told.all(&["say FDSTOREREMOVE=1 FDNAME=mine", "store-many mine 3", "pipe way", "store way FDNAME=way"]);
        told.all(&["memfd m text", "say FDSTOREREMOVE=1 FDNAME=shared", "store m FDNAME=shared", "hang-up way"]);
        z.wait_for("it hung up", |status| status.services[0].fd_store == 4);
        if number == 5 {
            held = Some(settled_holdings(z.supervisor.pid(), &z.supervisor.runtime, None));
        }
        if number < 30 {
            z.upgrade();
            z.settled(number + 1);
        }
    }
    let held = held.expect("it came by");
    holds_no_more_than(&z, &held);
    z.end();
}
