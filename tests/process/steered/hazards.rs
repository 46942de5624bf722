//! The rows of the hazards that are about slots.

use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::ReusePort;
use zdsup::control::types::Verdict;

use super::callers::{Callers, thaw};
use super::{INSTANCES, by_generation, canary, crash, draw, during, lines, pids, steered, steered_with, who};
use crate::support::client::{Answer, Connection};
use crate::support::supervisor::{command, wrapped};
use crate::support::{Load, Place, Setup, Supervisor, Target, Zdsup, eventually, process};

/// Row 1: connections wait in the queues of processes that are being replaced. They are taken before those are stopped.
#[test]
fn accept_queue_reset() {
    let z = steered(&["serve"], &[]);
    let old = pids(&z.status(), 1);
    old.iter().for_each(|pid| process::freeze(*pid));
    let callers = Callers::call(&z, 400);
    assert_eq!(z.status().services[0].listeners[0].queue, Some(400));
    thread::scope(|scope| {
        let reload = scope.spawn(|| z.upgrade());
        z.wait_for("the new generation serves", |status| status.services[0].serving == Some(2));
        let new = draw(z.address(), 200);
        assert_eq!(by_generation(&new).into_keys().collect::<Vec<_>>(), [2], "nobody else joins the queues");
        assert!(!reload.is_finished(), "they are not stopped while somebody waits for them");
        thaw(&old);
        reload.join().expect("it does not panic");
    });
    let (counts, lost) = callers.answers();
    assert_eq!((lost, by_generation(&counts).get(&1)), (0, Some(&400)), "{counts:?}");
    z.whole(2);
    z.end();
}

/// The same where they never accept again, and are killed at last: others answer what they have left behind.
#[test]
fn queues_of_processes_that_never_accept_again() {
    let z = steered_with(&["serve"], &[], |setup, _| setup.drain = lines(&["timeout = \"1s\""]));
    pids(&z.status(), 1).into_iter().for_each(process::freeze);
    let callers = Callers::call(&z, 400);
    z.upgrade();
    let (counts, lost) = callers.answers();
    assert_eq!((lost, by_generation(&counts).get(&2)), (0, Some(&400)), "{counts:?}");
    z.whole(2);
    z.end();
}

/// A process among several dies: it gets nothing, and who waits in its queue is answered by the one that takes its place.
#[test]
fn a_crash_among_several() {
    let z = steered_with(&["serve"], &[], |setup, _| setup.restart = lines(&["backoff = \"1s..2s\""]));
    let first = pids(&z.status(), 1);
    let victim = first[0];
    process::freeze(victim);
    // Those of the others are answered at once.
    let callers = Callers::call(&z, 300);
    let waiting = eventually("only the queue of the one is left", || {
        let queue = z.status().services[0].listeners[0].queue;
        queue.filter(|queue| (60..140).contains(queue))
    });
    crash(victim);
    eventually("its end is known", || (!pids(&z.status(), 1).contains(&victim)).then_some(()));
    let load = Load::start(&z.target());
    let began = Instant::now();
    let counts = draw(z.address(), 200);
    assert!(counts.len() >= INSTANCES - 1 && counts.keys().all(|(_, pid)| *pid != victim), "{counts:?}");
    println!("200 requests in {:?} beside a process that is gone", began.elapsed());
    z.whole(1);
    let successor = pids(&z.status(), 1).into_iter().find(|pid| !first.contains(pid));
    let (counts, lost) = callers.answers();
    assert_eq!(lost, 0, "{counts:?}");
    let taken_over = successor.and_then(|pid| counts.get(&(1, pid)).copied()).unwrap_or(0);
    assert!(taken_over >= waiting as usize - 1, "{taken_over} of {waiting}: {counts:?}");
    load.unharmed();
    z.end();
}

/// Row 37, at the end of a service: each process shuts its slots down as it stops.
#[test]
fn slot_shutdown_at_the_end() {
    let mut z = steered(&["shutdown-shared"], &[]);
    z.upgrade();
    z.supervisor.wait_for_log("was shut down by web@1");
    z.whole(2);
    z.release(&["serve"]);
    z.upgrade();
    z.whole(3);
    let counts = draw(z.address(), 600);
    assert_eq!((by_generation(&counts).get(&3), counts.len()), (Some(&600), INSTANCES), "{counts:?}");
    // The slots listen again, and the next ones accept from them.
    let load = Load::start(&z.target());
    for generation in 4..=6 {
        z.upgrade();
        z.whole(generation);
        assert_eq!(draw(z.address(), 200).len(), INSTANCES);
    }
    load.unharmed();
    z.end();
}

/// Row 37, in the middle of a canary: a process of it shuts its slot down and goes on. The shares are what they were, by
/// indexes that are others.
#[test]
fn slot_shutdown_in_a_canary() {
    let mut z = steered(&["shutdown-shared"], &[]);
    z.configure(|setup| setup.upgrade = canary(&[(50, 600_000)], ""));
    during(&z, |reload| {
        let status = z.is_canary(2);
        for (number, pid) in [(1, pids(&status, 1)[0]), (2, pids(&status, 2)[1]), (1, pids(&status, 1)[2])] {
            let said = |what: &str| z.supervisor.log().matches(what).count();
            let before = said("was shut down by");
            process::kill(pid, Signal::SIGUSR2);
            eventually("it was healed", || {
                let shut_down = said("was shut down by");
                (shut_down > before && said("listens again") == shut_down).then_some(())
            });
            let counts = draw(z.address(), 600);
            assert_eq!(counts.len(), 2 * INSTANCES, "after a process of web@{number}: {counts:?}");
            let sums = by_generation(&counts);
            assert!(super::within_binomial(sums[&2], 600, 0.5), "{sums:?}");
        }
        z.abort(reload);
    });
    // Each of the canary's shuts its slot down once more as it stops.
    z.whole(1);
    let counts = draw(z.address(), 300);
    assert_eq!((by_generation(&counts).get(&1), counts.len()), (Some(&300), INSTANCES), "{counts:?}");
    z.end();
}

/// Row 38: a handshake that began before the switch completes after it. The old process waits for it.
#[test]
fn half_open_at_switch() {
    let z = steered_with(&["serve"], &[], |setup, _| setup.listen_options = "defer-accept = \"30s\"".into());
    // Connected, as the client sees it; its process is not told before it sends something.
    let mut early: Vec<Connection> = (0..20).map(|_| Connection::tcp(z.address()).expect("it is bound")).collect();
    thread::scope(|scope| {
        let reload = scope.spawn(|| z.upgrade());
        z.wait_for("the new generation serves", |status| status.services[0].serving == Some(2));
        assert_eq!(ask(&mut Connection::tcp(z.address()).expect("it is bound")), 2);
        assert!(!reload.is_finished(), "they are not stopped while a handshake is open");
        for connection in &mut early {
            assert_eq!(ask(connection), 1);
        }
        reload.join().expect("it does not panic");
    });
    z.whole(2);
    z.end();
}

/// Row 38, where the client speaks only when nobody waits for it any more: it is answered all the same.
#[test]
fn half_open_for_too_long() {
    let z = steered_with(&["serve"], &[], |setup, _| {
        setup.listen_options = "defer-accept = \"60s\"".into();
        setup.drain = lines(&["timeout = \"1s\""]);
    });
    let mut early: Vec<Connection> = (0..20).map(|_| Connection::tcp(z.address()).expect("it is bound")).collect();
    z.upgrade();
    z.whole(2);
    for connection in &mut early {
        assert_eq!(ask(connection), 2, "by another process of the release that serves");
    }
    z.whole(2);
    z.end();
}

fn ask(connection: &mut Connection) -> u64 {
    who(&connection.get("/").expect("it answers").expect("it answers")).0
}

/// Row 30: an address that somebody has already is refused, also where both would be of one group; and a socket that
/// joined the group by itself is found out before it shifts an index.
#[test]
fn mixed_reuseport() {
    let mut z = steered(&["serve"], &[]);
    let ip: std::net::Ipv4Addr = z.place.address().parse().expect("an address");
    let bound = |port: u16, reuse: bool| -> OwnedFd {
        use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, socket};
        let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
        setsockopt(&fd, ReusePort, &reuse).expect("an option of it");
        let address = SockaddrIn::from(std::net::SocketAddrV4::new(ip, port));
        bind(std::os::fd::AsRawFd::as_raw_fd(&fd.as_fd()), &address).expect("it is free for this one");
        listen(&fd, Backlog::MAXCONN).expect("it can listen");
        fd
    };

    let stranger = bound(8080, true);
    // Nothing goes to it, since the program names indexes of ours.
    let counts = draw(z.address(), 200);
    assert_eq!(counts.len(), INSTANCES);
    z.reload(&[]).is(Verdict::Failed).because("SO_REUSEPORT").still_serving(1);
    drop(stranger);

    let (alone, group) = (bound(9001, false), bound(9002, true));
    let good = z.setup.clone();
    for (port, reason) in [(9001, "in use"), (9002, "SO_REUSEPORT")] {
        let second = format!("{}:{port}", z.place.address());
        z.configure(|setup| setup.listen.push(("second".into(), second)));
        z.reload(&[]).is(Verdict::Failed).because(reason).still_serving(1);
        z.configure(|setup| *setup = good.clone());
    }
    drop((alone, group));
    let load = Load::start(&z.target());
    z.upgrade();
    load.more(20);
    load.unharmed();
    z.end();
}

/// How traffic is divided cannot change while the sockets are in use.
#[test]
fn traffic_cannot_change_at_a_reload() {
    for (before, after) in [("steered", "shared"), ("shared", "steered")] {
        let service = |traffic: &str| vec![format!("traffic = \"{traffic}\"")];
        let mut z = Zdsup::serving_with(&["serve"], |setup, _| setup.service = service(before));
        let load = Load::start(&z.target());
        z.configure(|setup| setup.service = service(after));
        let refused = z.reload(&[]).is(Verdict::Refused).because("how traffic is divided cannot change");
        assert_eq!(refused.code, 2, "{refused:?}");
        z.configure(|setup| setup.service = service(before));
        z.upgrade();
        z.settled(2);
        load.unharmed();
        z.end();
    }
}

/// Socket activation: the socket that was passed becomes the first slot.
#[test]
fn sockets_from_systemd() {
    for reuse in [false, true] {
        let place = Place::new();
        let mut setup = Setup::new(&place, &["serve"]);
        setup.service = vec!["traffic = \"steered\"".into(), format!("instances = {INSTANCES}")];
        std::fs::write(place.join("web.toml"), setup.toml()).expect("a config can be written");
        let listener = TcpListener::bind((place.address(), 8080)).expect("the address is free");
        setsockopt(&listener, ReusePort, &reuse).expect("an option of it");
        let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=http exec \"$@\"";
        let mut started = Command::new("sh");
        started.args(["-c", script, "sh"]);
        let mut started = wrapped(started, &command(&place.join("run")));
        started.args(["run", "-c"]).arg(place.join("web.toml"));
        let log = std::fs::File::create(place.join("log")).expect("a log can be made");
        started.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(log);
        // A caller from before anything serves.
        let address = format!("{}:8080", place.address()).parse().expect("an address");
        let mut early = Connection::tcp(address).expect("it is bound");
        early.send("GET", "/", None).expect("it can be sent");
        let mut supervisor = Supervisor::adopt(started.spawn().expect("there is a shell"), &place);
        let status = supervisor.wait_for("it serves", |status| pids(status, 1).len() == INSTANCES);
        assert_eq!(status.services[0].listeners[0].origin, "inherited");
        let first = Answer::read(&mut early).expect("it is answered").expect("it is answered");
        assert_eq!(first.generation(), 1);
        let load = Load::start(&Target::Tcp(address));
        for generation in 2..=4 {
            assert_eq!(draw(address, 200).len(), INSTANCES, "each has its part");
            supervisor.upgrade("reload", &[]).is(Verdict::Upgraded);
            let counts = draw(address, 100);
            assert_eq!(by_generation(&counts).into_keys().collect::<Vec<_>>(), [generation]);
        }
        load.unharmed();
        assert_eq!(supervisor.end().code(), Some(0));
        supervisor.nothing_left();
    }
}
