//! The old generation: it finishes what it has, is watched while it does, and is ended when it does not.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use zdsup::control::types::{GenerationState, InstanceState, Verdict};

use crate::support::client::Connection;
use crate::support::process::{instances_of, is_alive};
use crate::support::supervisor::generation;
use crate::support::{Load, Zdsup, eventually};

#[test]
fn connections_are_counted_while_they_last() {
    let z = Zdsup::serving(&["serve", "--lame-duck", "600000"]);
    let mut held: Vec<_> = (0..5)
        .map(|_| {
            let mut connection = z.target().connect().expect("it is bound");
            connection.get("/").expect("it answers");
            connection
        })
        .collect();
    z.upgrade();
    let one = |status: &zdsup::control::types::Status| generation(status, 1).cloned();
    let counted = |count: u64| {
        move |status: &zdsup::control::types::Status| one(status).is_some_and(|g| g.connections == Some(count))
    };
    z.wait_for("five are left", counted(5));
    let said = |status: &zdsup::control::types::Status| {
        one(status).is_some_and(|one| one.instances[0].status.as_deref() == Some("draining"))
    };
    let old = one(&z.wait_for("it says that it drains", said)).expect("it is there");
    assert_eq!((old.state, old.instances[0].state), (GenerationState::Draining, InstanceState::Stopping));
    let remaining = old.instances[0].remaining.expect("it has a deadline");
    assert!((1.0..=30.0).contains(&remaining), "{remaining}");
    let table = String::from_utf8(z.supervisor.run(&["status"]).stdout).expect("text");
    assert!(table.contains("draining"), "{table}");
    held.truncate(2);
    z.wait_for("two are left", counted(2));
    // What is asked on them is answered, by the old one.
    let answer = held[0].get("/").expect("it answers").expect("it answers");
    assert!(answer.closes() && answer.generation() == 1);
    held.clear();
    z.settled(2);
    z.end();
}

#[test]
fn a_request_in_flight_is_finished() {
    let z = Zdsup::serving(&["serve"]);
    let mut slow = z.target().connect().expect("it is bound");
    slow.send("GET", "/slow/1500", None).expect("it can be sent");
    z.wait_for("it is accepted", |status| status.services[0].generations[0].connections == Some(1));
    z.upgrade();
    let answer = crate::support::client::Answer::read(&mut slow).expect("it is answered").expect("it is answered");
    assert_eq!((answer.status, answer.generation()), (200, 1));
    z.settled(2);
    z.end();
}

/// A drain that never ends: a deadline, then SIGKILL; new connections never notice.
#[test]
fn stuck_drain() {
    let mut z = Zdsup::serving_with(&["hangs-drain"], |setup, _| setup.drain = vec!["timeout = \"700ms\"".into()]);
    let load = Load::start(&z.target());
    z.release(&["serve"]);
    let pid = z.status().services[0].generations[0].instances[0].pid.expect("it runs");
    let reload = z.reload(&["--wait", "drained"]).is(Verdict::Upgraded);
    assert!(reload.events.iter().any(|event| event.event == "overdue"), "{reload:?}");
    let said = |event: &zdsup::control::types::UpgradeEvent| event.message.contains("waiting for the last connection");
    assert!(reload.events.iter().any(said), "{reload:?}");
    assert!(!is_alive(pid));
    z.settled(2);
    // Kept connections of a process that is killed are lost: that is what the deadline means. Others are not.
    let tally = load.finish();
    let other: Vec<_> = tally.failed.keys().filter(|class| !class.starts_with("answer (kept)")).collect();
    assert!(other.is_empty(), "{tally:?}");
    z.end();
}

/// Row 33: it ignores the stop signal, or has children that do. After the deadline all of it is gone.
#[test]
fn stop_signal_ignored() {
    let mut z = Zdsup::serving_with(&["ignores-term"], |setup, _| setup.drain = vec!["timeout = \"500ms\"".into()]);
    z.release(&["forks-children"]);
    let first = instances_of(&z.supervisor.runtime);
    assert_eq!(first.len(), 1);
    let began = Instant::now();
    z.upgrade();
    // The verdict does not wait for the deadline.
    z.settled(2);
    assert!(began.elapsed() >= Duration::from_millis(500));
    assert!(!is_alive(first[0]));
    let second =
        eventually("its children run", || Some(instances_of(&z.supervisor.runtime)).filter(|all| all.len() == 3));
    z.release(&["serve"]);
    z.upgrade();
    z.settled(3);
    assert!(second.iter().all(|pid| !is_alive(*pid)), "{second:?}");
    assert_eq!(instances_of(&z.supervisor.runtime).len(), 1);
    z.end();
}

/// Row 21: connections that are all closed at once all come back at once. The instances are told one after the other.
#[test]
fn reconnect_stampede() {
    for traffic in ["shared", "steered"] {
        let z = Zdsup::serving_with(&["serve"], |setup, _| {
            setup.service = vec![format!("traffic = \"{traffic}\""), "instances = 4".into()];
            setup.drain = vec!["spread = \"2s\"".into()];
        });
        z.wait_for("all of it is ready", |status| status.services[0].generations[0].ready == 4);
        let (mut held, mut answerers): (Vec<Connection>, Vec<u32>) = (Vec::new(), Vec::new());
        // Where they share a queue one of them may take them all.
        eventually("several instances have connections", || {
            let mut more: Vec<Connection> = (0..40).map(|_| z.target().connect().expect("it is bound")).collect();
            answerers.extend(more.iter_mut().map(answerer));
            held.append(&mut more);
            let several = answerers.iter().collect::<BTreeSet<_>>().len() > 1;
            (held.len() >= 80 && several).then_some(())
        });
        let mut ends: BTreeMap<u32, Vec<Instant>> = BTreeMap::new();
        let load = Load::start(&z.target());
        let reload = thread::scope(|scope| {
            let reload = scope.spawn(|| z.upgrade());
            let closed = held.into_iter().map(|mut connection| scope.spawn(move || closed_at(&mut connection)));
            for (instance, end) in answerers.into_iter().zip(closed.collect::<Vec<_>>()) {
                ends.entry(instance).or_default().push(end.join().expect("it is closed"));
            }
            reload.join().expect("it does not panic")
        });
        let told = reload.events.iter().filter(|event| event.event == "draining").count();
        assert_eq!(told, 1, "{reload:?}");
        let mut first: Vec<Instant> = ends.values().filter_map(|all| all.iter().min().copied()).collect();
        first.sort();
        // Half a second lies between two of them; on a busy machine one may be late, but all of them are not at once.
        let (earliest, latest) = (first[0], first[first.len() - 1]);
        let planned = Duration::from_millis(500) * (first.len() as u32 - 1);
        assert!(latest - earliest >= planned / 2, "{traffic}: {first:?}");
        let tally = load.finish();
        let other: Vec<_> = tally.failed.keys().filter(|class| !class.starts_with("answer (kept)")).collect();
        assert!(other.is_empty(), "{tally:?}");
        z.settled(2);
        z.end();
    }
}

/// Which instance serves a connection.
fn answerer(connection: &mut Connection) -> u32 {
    let answer = connection.get("/").expect("it answers").expect("it answers");
    answer.value("pid").and_then(|pid| pid.parse().ok()).expect("it says who it is")
}

/// When the other side closes a connection.
fn closed_at(connection: &mut Connection) -> Instant {
    let mut rest = Vec::new();
    // A reset is an end, too.
    let _ = connection.read_to_end(&mut rest);
    Instant::now()
}

#[test]
fn a_stop_ends_what_ignores_it() {
    let mut z = Zdsup::serving_with(&["forks-children"], |setup, _| setup.drain = vec!["timeout = \"300ms\"".into()]);
    eventually("its children run", || (instances_of(&z.supervisor.runtime).len() == 3).then_some(()));
    assert_eq!(z.supervisor.end().code(), Some(0));
    z.supervisor.nothing_left();
}

#[test]
fn too_many_draining_generations_refuse_an_upgrade() {
    let mut z = Zdsup::serving_with(&["serve", "--lame-duck", "600000"], |setup, _| {
        setup.upgrade = vec!["max-draining = 2".into()];
    });
    let mut held = vec![];
    for generation in 1..=2 {
        // The one before may accept until it has heard that it is to stop.
        held.push(eventually("the new one accepts", || {
            let mut connection = z.target().connect().expect("it is bound");
            let answer = connection.get("/").expect("it answers").expect("it answers");
            (answer.generation() == generation).then_some(connection)
        }));
        z.upgrade();
    }
    let reload = z.reload(&[]).is(Verdict::Refused).because("2 old generations are still draining").still_serving(3);
    assert_eq!(reload.code, 5);
    assert!(reload.because("max-draining = 2").code == 5);
    held.remove(0);
    z.wait_for("one of them is gone", |status| status.services[0].generations.len() == 2);
    held.push(z.target().connect().expect("it is bound"));
    held[1].get("/").expect("it answers");
    z.upgrade();
    z.reload(&[]).is(Verdict::Refused);
    // A raised limit holds for the reload that brings it.
    z.configure(|setup| setup.upgrade = vec!["max-draining = 3".into()]);
    z.upgrade();
    drop(held);
    z.settled(5);
    z.end();
}

#[test]
fn a_drain_may_ask_for_more_time() {
    let z = Zdsup::serving_with(&["serve", "--lame-duck", "600000", "--extend-drain", "60000"], |setup, _| {
        setup.drain = vec!["timeout = \"5s\"".into()];
    });
    let mut held = z.target().connect().expect("it is bound");
    held.get("/").expect("it answers");
    z.upgrade();
    z.wait_for("it got what it asked for", |status| {
        let remaining = generation(status, 1).and_then(|one| one.instances[0].remaining);
        remaining.is_some_and(|remaining| (40.0..=60.0).contains(&remaining))
    });
    drop(held);
    z.settled(2);
    z.end();
}

#[test]
fn the_stop_signal_can_be_chosen() {
    let mut z = Zdsup::serving_with(&["serve"], |setup, _| setup.drain = vec!["signal = \"SIGQUIT\"".into()]);
    let load = Load::start(&z.target());
    z.upgrade();
    z.settled(2);
    load.unharmed();
    z.supervisor.signal(Signal::SIGTERM);
    assert_eq!(z.supervisor.wait(crate::support::SOON).code(), Some(0));
    z.supervisor.nothing_left();
}
