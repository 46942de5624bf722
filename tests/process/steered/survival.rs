//! What outlives the supervisor, and what does not grow.

use nix::sys::signal::Signal;
use zdsup::control::types::{GenerationState, Verdict};

use super::{
    INSTANCES, by_generation, canary, canary_at, crash, draw, during, pids, steered, steered_with, within_binomial,
};
use crate::support::process::{self, settled_holdings};
use crate::support::supervisor::generation;
use crate::support::{Load, Zdsup};

/// Rows 31 and 15: the supervisor dies in the middle of a canary's step. Without one the weights stay in force, and the next
/// one goes on with the step, and with the next.
#[test]
fn the_supervisor_dies_in_a_canary_step() {
    let mut z = steered_with(&["serve"], &[], |setup, _| setup.arguments.push("--keeper".into()));
    let load = Load::start(&z.target());
    z.configure(|setup| setup.upgrade = canary(&[(30, 3000), (60, 500)], ""));
    during(&z, |reload| {
        let before = z.is_canary(2).supervisor.pid;
        process::freeze(before);
        crash(before);
        has_share(&z, 2, 0.3);
        let status = z.wait_for("another supervisor", |status| status.supervisor.pid != before);
        assert_eq!(pids(&status, 1).len() + pids(&status, 2).len(), 2 * INSTANCES, "nobody is lost or doubled");
        // Its connection went with the supervisor.
        let _ = reload.join().expect("it does not panic");
    });
    let upgrade = z.status().services[0].upgrade.clone().or(z.status().services[0].last_upgrade.clone());
    let upgrade = upgrade.expect("it is known").id;
    assert_eq!(z.supervisor.verdict_of(upgrade).verdict, Verdict::Upgraded, "the steps have gone on");
    z.whole(2);
    assert_eq!(by_generation(&draw(z.address(), 300)).into_keys().collect::<Vec<_>>(), [2]);
    load.unharmed();
    z.end();
}

/// The same where it replaces its program, and then dies, and the canary is aborted in the end.
#[test]
fn reexec_in_a_canary_step() {
    let mut z = steered(&["serve"], &[]);
    let load = Load::start(&z.target());
    z.configure(|setup| setup.upgrade = canary_at(30));
    during(&z, |reload| {
        z.is_canary(2);
        for incarnation in 2..=3 {
            z.supervisor.signal(Signal::SIGUSR2);
            z.wait_for("the next incarnation", |status| status.supervisor.incarnation == incarnation);
            has_share(&z, 2, 0.3);
        }
        let status = z.is_canary(2);
        // What crashes in a canary takes it back, also under another supervisor.
        assert_eq!(pids(&status, 2).len(), INSTANCES);
        z.abort(reload);
    });
    z.whole(1);
    assert_eq!(by_generation(&draw(z.address(), 300)).into_keys().collect::<Vec<_>>(), [1]);
    z.configure(|setup| setup.upgrade = canary(&[(30, 1500)], ""));
    during(&z, |reload| {
        z.is_canary(3);
        z.supervisor.signal(Signal::SIGUSR2);
        z.wait_for("the next incarnation", |status| status.supervisor.incarnation == 4);
        reload.join().expect("it does not panic").is(Verdict::Upgraded);
    });
    z.whole(3);
    load.unharmed();
    z.end();
}

/// A standby goes on standing by under another supervisor, for no longer than it was to.
#[test]
fn the_supervisor_dies_while_a_generation_stands_by() {
    let z = steered_with(&["serve"], &["strategy = \"blue-green\"", "standby = \"3s\""], |setup, _| {
        setup.arguments.push("--keeper".into());
    });
    let load = Load::start(&z.target());
    z.upgrade();
    let before = z.status().supervisor.pid;
    crash(before);
    let status = z.wait_for("another supervisor", |status| status.supervisor.pid != before);
    if let Some(old) = generation(&status, 1) {
        assert!(matches!(old.state, GenerationState::Standby | GenerationState::Draining), "{old:?}");
    }
    assert_eq!(by_generation(&draw(z.address(), 300)).into_keys().collect::<Vec<_>>(), [2]);
    z.whole(2);
    load.unharmed();
    z.end();
}

#[track_caller]
fn has_share(z: &Zdsup, number: u64, share: f64) {
    let share_of = || by_generation(&draw(z.address(), 1000)).get(&number).copied().unwrap_or(0);
    let first = share_of();
    // Outside once in a thousand draws; twice in a row it is no accident.
    if !within_binomial(first, 1000, share) {
        let second = share_of();
        assert!(within_binomial(second, 1000, share), "{first} and {second} of 1000, not {share}");
    }
}

/// Guarantee 8: slots that are free are used again, so that neither descriptors nor sockets grow.
#[test]
fn a_hundred_upgrades() {
    let count: u64 = std::env::var("ZDSUP_TEST_UPGRADES").map_or(100, |count| count.parse().expect("a number"));
    let z = steered_with(&["serve", "--lame-duck", "300"], &[], |setup, _| {
        setup.upgrade = vec!["max-draining = 100".into()];
    });
    let pid = z.supervisor.pid();
    let load = Load::start(&z.target());
    let mut held = None;
    for number in 2..=count + 1 {
        z.upgrade();
        z.whole(number);
        if number == 6 {
            held = Some((settled_holdings(pid, &z.supervisor.runtime, None), listening(&z)));
        }
    }
    let (held, sockets) = held.expect("it came by");
    assert_eq!(settled_holdings(pid, &z.supervisor.runtime, Some(&held)), held, "after {count} upgrades");
    assert_eq!((listening(&z), sockets), (2 * INSTANCES, 2 * INSTANCES), "as many slots as two generations need");
    let tally = load.unharmed();
    println!("{count} upgrades: {} requests, slowest {:?}", tally.ok, tally.slowest);
    z.end();
}

/// How many sockets listen at the service's address.
fn listening(z: &Zdsup) -> usize {
    let std::net::SocketAddr::V4(address) = z.address() else { panic!("it listens on IPv4") };
    // proc(5): the address as the processor has it, and the state LISTEN.
    let wanted = format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").expect("there is a /proc");
    let mut fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields.by_ref().filter(|fields| fields.get(1) == Some(&wanted.as_str()) && fields.get(3) == Some(&"0A")).count()
}
