//! New connections that are made to wait: nobody is refused, nothing else stops, and it ends whatever happens.

use std::fs;
use std::process::Output;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use zdsup::control::types::Verdict;

use crate::support::supervisor::{command, wrapped};
use crate::support::{Place, SOON, Setup, Target, Zdsup, eventually, is_root, process, skip};

/// A client of its own, which waits for as long as the kernel sends its SYN again.
struct Client(JoinHandle<(u64, Duration)>);

impl Client {
    fn connect(target: &Target) -> Self {
        let (target, began) = (target.clone(), Instant::now());
        Self(thread::spawn(move || {
            let mut connection = target.connect().expect("nobody is refused");
            let answer = connection.get("/").expect("it answers").expect("it answers");
            (answer.generation(), began.elapsed())
        }))
    }

    /// The generation that answered, once one has, and how long that took.
    #[track_caller]
    fn answer(self) -> (u64, Duration) {
        eventually("the client has its answer", || self.0.is_finished().then_some(()));
        self.0.join().expect("it does not panic")
    }
}

fn steered(setup: &mut Setup) {
    setup.service.push("traffic = \"steered\"".into());
}

/// Each way to divide traffic that can be paused here.
fn ways() -> Vec<fn(&mut Setup)> {
    let shared: fn(&mut Setup) = |_| ();
    if is_root() {
        return vec![steered, shared];
    }
    skip("shared traffic cannot be paused without CAP_NET_ADMIN");
    vec![steered]
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn paused(z: &Zdsup, more: &[&str]) {
    let output = z.supervisor.run(&[&["pause"], more].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(said(&output).contains("web is paused: new connections wait, for"), "{output:?}");
    assert!(z.status().services[0].paused.is_some());
}

#[test]
fn callers_wait_and_get_through() {
    for way in ways() {
        let z = Zdsup::serving_with(&["serve"], |setup, _| way(setup));
        let mut established = z.target().connect().expect("it is bound");
        established.get("/").expect("it answers");
        paused(&z, &[]);
        let clients: Vec<Client> = (0..20).map(|_| Client::connect(&z.target())).collect();
        for _ in 0..100 {
            established.get("/").expect("it goes on").expect("it goes on");
        }
        let left = z.status().services[0].paused.expect("it is paused");
        assert!(left > 20.0 && left <= 30.0, "{left}");
        let shown = String::from_utf8_lossy(&z.supervisor.run(&["status"]).stdout).into_owned();
        assert!(shown.contains("PAUSED: new connections wait"), "{shown}");
        assert!(clients.iter().all(|client| !client.0.is_finished()), "somebody got in");
        let output = z.supervisor.run(&["resume"]);
        assert!(output.status.success() && said(&output).contains("web is resumed"), "{output:?}");
        assert_eq!(z.status().services[0].paused, None);
        for client in clients {
            assert_eq!(client.answer().0, 1);
        }
        let again = z.supervisor.run(&["resume"]);
        assert!(again.status.code() == Some(5) && said(&again).contains("it is not paused"), "{again:?}");
        let events = z.supervisor.run(&["events", "--json"]);
        let events = String::from_utf8_lossy(&events.stdout).into_owned();
        assert!(events.contains("\"paused\"") && events.contains("\"resumed\""), "{events}");
        drop(established);
        z.end();
    }
}

#[test]
fn it_ends_by_itself() {
    for way in ways() {
        let z = Zdsup::serving_with(&["serve"], |setup, _| way(setup));
        paused(&z, &["web", "--max", "60s"]);
        // The end moves.
        paused(&z, &["--max", "1500ms"]);
        let (_, took) = Client::connect(&z.target()).answer();
        assert!(took > Duration::from_millis(900), "{took:?}");
        assert_eq!(z.status().services[0].paused, None);
        z.end();
    }
}

/// The supervisor is killed: the pause goes on without it, and its successor ends it in time.
#[test]
fn it_outlives_the_supervisor_and_ends_in_time() {
    for way in ways() {
        let z = Zdsup::serving_with(&["serve"], |setup, _| {
            way(setup);
            setup.arguments.push("--keeper".into());
        });
        paused(&z, &["--max", "4s"]);
        let began = Instant::now();
        let before = z.status().supervisor.pid;
        process::kill(before, Signal::SIGKILL);
        let client = Client::connect(&z.target());
        let after = z.wait_for("a successor is there", |status| status.supervisor.pid != before);
        assert!(after.services[0].paused.is_some_and(|left| left < 4.0), "{after:?}");
        assert_eq!(client.answer().0, 1);
        let took = began.elapsed();
        // Of its SYNs, those after 1 s and 3 s are dropped.
        assert!(took > Duration::from_secs(3) && took < SOON, "{took:?}");
        assert_eq!(z.status().services[0].paused, None);
        z.end();
    }
}

#[test]
fn an_upgrade_goes_on_and_a_stop_ends_it() {
    for way in ways() {
        let mut z = Zdsup::serving_with(&["serve"], |setup, _| way(setup));
        paused(&z, &[]);
        // A listener that comes meanwhile is held as well.
        let place = z.place.address();
        z.configure(|setup| setup.listen.push(("other".into(), format!("{place}:8081"))));
        z.upgrade();
        z.settled(2);
        let other = Target::Tcp(format!("{place}:8081").parse().expect("an address"));
        let clients = [Client::connect(&z.target()), Client::connect(&other)];
        assert!(z.status().services[0].paused.is_some());
        assert!(clients.iter().all(|client| !client.0.is_finished()), "somebody got in");
        assert!(z.supervisor.run(&["resume"]).status.success());
        clients.into_iter().for_each(|client| assert_eq!(client.answer().0, 2));
        paused(&z, &[]);
        z.supervisor.signal(Signal::SIGTERM);
        assert_eq!(z.supervisor.wait(SOON).code(), Some(0));
        assert!(z.supervisor.log().contains("resumed: new connections are let in again"), "{}", z.supervisor.log());
    }
}

#[test]
fn what_cannot_be_paused_is_refused_with_the_reason() {
    let mut z = Zdsup::serving_with(&["serve"], |setup, place| {
        setup.listen.push(("admin".into(), format!("unix:{}", place.join("admin").display())));
    });
    let output = z.supervisor.run(&["pause"]);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    for text in ["its listener admin (unix:", "is not TCP", "hint: ", "stop-start"] {
        assert!(said(&output).contains(text), "{text} is missing: {output:?}");
    }
    assert_eq!(z.status().services[0].paused, None);
    z.get("/");
    for (max, code) in [("0s", 2), ("11m", 2)] {
        let output = z.supervisor.run(&["pause", "--max", max]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
    }

    if is_root() {
        z.configure(|setup| drop(setup.listen.pop()));
        z.upgrade();
        z.settled(2);
        paused(&z, &[]);
        // One that cannot be held comes: nothing is held any more.
        let place = z.place.join("admin").display().to_string();
        z.configure(|setup| setup.listen.push(("admin".into(), format!("unix:{place}"))));
        z.reload(&[]).is(Verdict::Upgraded);
        z.wait_for("it is resumed", |status| status.services[0].paused.is_none());
        z.get("/");
    }
    z.end();
}

/// Steered traffic needs no privilege; shared traffic says which, and what else would do.
#[test]
fn without_the_privilege() {
    if is_root() && fs::metadata("/usr/bin/setpriv").is_err() {
        return skip("there is no setpriv to lose root's privileges with");
    }
    for (service, code) in [(vec![], 5), (vec!["traffic = \"steered\"".to_owned()], 0)] {
        let place = Place::new();
        let mut setup = Setup::new(&place, &["serve"]);
        setup.service = service;
        fs::write(place.join("web.toml"), setup.toml()).expect("a config can be written");
        let plain = command(&place.join("run"));
        let mut dropped = match is_root() {
            true => {
                let mut dropped = std::process::Command::new("setpriv");
                dropped.args(["--inh-caps=-net_admin", "--bounding-set=-net_admin"]);
                wrapped(dropped, &plain)
            }
            false => plain,
        };
        let log = fs::File::create(place.join("log")).expect("a log can be made");
        dropped.args(["run", "-c"]).arg(place.join("web.toml")).current_dir(place.path()).stderr(log);
        let child = dropped.spawn().expect("it can be started");
        let z = Zdsup { supervisor: crate::support::supervisor::Supervisor::adopt(child, &place), setup, place };
        z.wait_for("it serves", |status| status.services[0].serving == Some(1));
        let output = z.supervisor.run(&["pause"]);
        if code == 5 && output.status.success() {
            return skip("this kernel asks no privilege for a socket filter");
        }
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        if code == 5 {
            for text in ["wants a privilege", "CAP_NET_ADMIN", "steered traffic"] {
                assert!(said(&output).contains(text), "{text} is missing: {output:?}");
            }
            z.get("/");
        }
        z.end();
    }
}
