//! Who gets which part of new connections, by counting.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use zdsup::control::types::Verdict;

use super::{INSTANCES, by_generation, canary, canary_at, draw, during, lines, pids, steered, who, within_binomial};
use crate::support::client::Connection;
use crate::support::supervisor::generation;
use crate::support::{Load, Zdsup};

const CONNECTIONS: usize = 4000;

/// Guarantee of `traffic = "steered"`: the candidate's share is its weight, and each process of a generation gets as much as
/// another. An abort takes all of it back.
#[test]
fn a_canary_gets_its_share() {
    let mut z = steered(&["serve"], &[]);
    let load = Load::start(&z.target());
    for (number, weight) in [(2, 5), (3, 50)] {
        z.configure(|setup| setup.upgrade = canary_at(weight));
        during(&z, |reload| {
            let status = z.is_canary(number);
            is_divided_within_two_draws(&z, number, weight);
            assert_eq!((pids(&status, 1).len(), pids(&status, number).len()), (INSTANCES, INSTANCES));
            z.abort(reload).still_serving(1);
        });
        let after = draw(z.address(), 400);
        assert_eq!(by_generation(&after).into_keys().collect::<Vec<_>>(), [1], "an abort takes all of it back");
        z.whole(1);
    }
    load.unharmed();
    z.end();
}

/// Outside once in a thousand draws; twice in a row it is no accident.
#[track_caller]
fn is_divided_within_two_draws(z: &Zdsup, candidate: u64, weight: u32) {
    if let Err(first) = is_divided(z, candidate, weight)
        && let Err(second) = is_divided(z, candidate, weight)
    {
        panic!("at {weight} percent: {first}\n{second}");
    }
}

fn is_divided(z: &Zdsup, candidate: u64, weight: u32) -> Result<(), String> {
    let counts = draw(z.address(), CONNECTIONS);
    let total: usize = counts.values().sum();
    assert_eq!(total, CONNECTIONS, "every request is answered");
    assert_eq!(counts.len(), 2 * INSTANCES, "every process answers: {counts:?}");
    let sums = by_generation(&counts);
    if !within_binomial(sums[&candidate], total, f64::from(weight) / 100.0) {
        return Err(format!("{sums:?}"));
    }
    let equal = |((generation, _), count): (&(u64, u32), &usize)| {
        within_binomial(*count, sums[generation], 1.0 / INSTANCES as f64)
    };
    if counts.iter().all(equal) { Ok(()) } else { Err(format!("{counts:?}")) }
}

#[test]
fn timed_steps_end_with_everything_at_the_new_generation() {
    let mut z = steered(&["serve"], &[]);
    let load = Load::start(&z.target());
    z.configure(|setup| setup.upgrade = canary(&[(10, 200), (60, 200)], ""));
    let reload = z.upgrade();
    let steps: Vec<&str> = reload.events.iter().map(|event| event.event.as_str()).collect();
    let place = |step: &str| steps.iter().position(|one| *one == step).unwrap_or_else(|| panic!("{step}: {steps:?}"));
    assert_eq!(steps.iter().filter(|step| **step == "weighted").count(), 2, "{steps:?}");
    assert!(place("weighted") < place("serving") && place("serving") < place("draining"), "{steps:?}");
    assert_eq!(by_generation(&draw(z.address(), 400)).into_keys().collect::<Vec<_>>(), [2]);
    z.whole(2);
    let tally = load.unharmed();
    assert_eq!(tally.by.keys().copied().collect::<Vec<_>>(), [1, 2]);
    z.end();
}

/// A canary that an operator promotes: step by step, then all of it; and all at once with `--full`.
#[test]
fn promoted_by_hand() {
    let mut z = steered(&["serve"], &[]);
    let load = Load::start(&z.target());
    let promote = |z: &Zdsup, more: &[&str]| {
        let promoted = z.supervisor.run(&[&["promote"], more].concat());
        assert!(promoted.status.success(), "{promoted:?}");
    };
    z.configure(|setup| {
        setup.upgrade =
            lines(&["strategy = \"canary\"", "canary = { steps = [{ weight = 10 }, { weight = 70 }], manual = true }"]);
    });
    for (number, full) in [(2, false), (3, true)] {
        during(&z, |reload| {
            let weighs = |weight: u32| {
                z.wait_for("it has its share", |status| {
                    generation(status, number).is_some_and(|candidate| candidate.weight == Some(weight))
                });
                z.is_canary(number);
                is_divided_within_two_draws(&z, number, weight);
            };
            weighs(10);
            if full {
                promote(&z, &["--full"]);
            } else {
                promote(&z, &[]);
                weighs(70);
                promote(&z, &[]);
            }
            reload.join().expect("it does not panic").is(Verdict::Upgraded);
        });
        assert_eq!(by_generation(&draw(z.address(), 200)).into_keys().collect::<Vec<_>>(), [number]);
        z.whole(number);
    }
    load.unharmed();
    z.end();
}

/// Those who are named go to the candidate, and the others to neither more nor less than its weight says.
#[test]
fn clients_of_a_network_go_to_the_canary() {
    let mut z = steered(&["serve"], &[]);
    z.configure(|setup| setup.upgrade = canary(&[(1, 600_000)], ", from = [\"127.1.0.0/16\", \"127.2.3.4\"]"));
    during(&z, |reload| {
        z.is_canary(2);
        for named in (1..=100u8).map(|n| Ipv4Addr::new(127, 1, n, n)).chain([Ipv4Addr::new(127, 2, 3, 4)]) {
            assert_eq!(at(&z, named), 2, "{named}");
        }
        let others = (1..=400u32).map(|n| Ipv4Addr::from_bits(0x7f03_0000 + n));
        let strayed = others.filter(|other| at(&z, *other) == 2).count();
        assert!(within_binomial(strayed, 400, 0.01), "{strayed} of 400 at 1 percent");
        z.abort(reload);
    });
    assert_eq!(at(&z, Ipv4Addr::new(127, 1, 1, 1)), 1, "an abort takes them back");
    z.whole(1);
    z.end();
}

/// With affinity no client ever goes back while the shares rise, nor changes within a step; an abort takes all back.
#[test]
fn a_client_stays_with_its_release() {
    let mut z = steered(&["serve"], &[]);
    let clients: Vec<Ipv4Addr> = (0..200).map(|n| Ipv4Addr::from_bits(0x7f05_0001 + n * 61)).collect();
    let sweep = |z: &Zdsup| -> Vec<u64> { clients.iter().map(|client| at(z, *client)).collect() };

    z.configure(|setup| setup.upgrade = canary(&[(40, 600_000)], ", affinity = \"source\""));
    during(&z, |reload| {
        z.is_canary(2);
        let first = sweep(&z);
        let moved = first.iter().filter(|generation| **generation == 2).count();
        assert!(within_binomial(moved, clients.len(), 0.4), "{moved} of {} at 40 percent", clients.len());
        assert_eq!(sweep(&z), first, "nobody changes within a step");
        z.abort(reload);
    });
    assert_eq!(sweep(&z), vec![1; clients.len()], "an abort takes all of them back");
    z.whole(1);

    z.configure(|setup| setup.upgrade = canary(&[(5, 500), (30, 500), (60, 500)], ", affinity = \"source\""));
    during(&z, |reload| {
        let mut before = sweep(&z);
        loop {
            let now = sweep(&z);
            let back = clients.iter().zip(before.iter().zip(&now)).filter(|(_, (before, now))| now < before);
            assert_eq!(back.count(), 0, "somebody went back");
            before = now;
            if before.iter().all(|generation| *generation == 3) {
                break;
            }
        }
        let reload = reload.join().expect("it does not panic").is(Verdict::Upgraded);
        assert_eq!(reload.events.iter().filter(|event| event.event == "weighted").count(), 3);
    });
    z.whole(3);
    z.end();
}

/// The generation that answers this client.
fn at(z: &Zdsup, client: Ipv4Addr) -> u64 {
    let SocketAddr::V4(target) = z.address() else { panic!("it listens on IPv4") };
    let mut connection =
        Connection::tcp_from(client, SocketAddrV4::new(*target.ip(), target.port())).expect("it is bound");
    who(&connection.get("/").expect("it answers").expect("it answers")).0
}

/// A scale needs slots that there are not yet, also while new connections are held, which keeps the rows busy.
#[test]
fn a_scale_makes_slots() {
    let z = steered(&["serve"], &[]);
    assert!(z.supervisor.run(&["pause", "--max", "60s"]).status.success());
    assert!(z.supervisor.run(&["scale", "web", "8"]).status.success());
    z.wait_for("all eight are ready", |status| pids(status, 1).len() == 8);
    assert!(z.supervisor.run(&["resume"]).status.success());
    // Each has about 100: that one of them gets none is impossible.
    assert_eq!(draw(z.address(), 800).len(), 8);
    assert!(z.supervisor.run(&["scale", "web", &INSTANCES.to_string()]).status.success());
    z.whole(1);
    assert_eq!(draw(z.address(), 200).len(), INSTANCES);
    z.end();
}
