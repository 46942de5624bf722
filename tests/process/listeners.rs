//! A listener stays bound from its first bind until the config drops it, whatever a process does to it.

use std::io::ErrorKind;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd;

use nix::sys::signal::Signal;
use nix::sys::socket::sockopt::ReusePort;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket};
use zdsup::control::types::Verdict;

use crate::support::client::{Answer, Connection};
use crate::support::process::{self, is_alive};
use crate::support::{Load, Manner, Target, Zdsup, eventually, skip};

/// Row 1: connections that wait in the queue when the old process ends. There is one queue, and the new one reads it.
#[test]
fn accept_queue_reset() {
    let z = Zdsup::serving_with(&["serve"], |setup, _| setup.drain = vec!["timeout = \"1s\"".into()]);
    let pid: u32 = z.get("/").value("pid").and_then(|pid| pid.parse().ok()).expect("a number");
    process::freeze(pid);
    let mut waiting: Vec<Connection> = (0..400)
        .map(|_| {
            let mut connection = Connection::tcp(z.address()).expect("there is room in the queue");
            connection.send("GET", "/", None).expect("it can be sent");
            connection
        })
        .collect();
    let queue = z.status().services[0].listeners[0].queue.expect("it can be known");
    assert!(queue >= 399, "{queue} wait");
    // The old one is stopped and will be killed, with whatever it has.
    z.upgrade();
    let mut answers =
        waiting.iter_mut().map(|connection| Answer::read(connection).map(|answer| answer.map(|a| a.generation())));
    let lost: Vec<_> = answers.by_ref().filter(|answer| !matches!(answer, Ok(Some(2)))).collect();
    assert!(lost.is_empty(), "{lost:?}");
    z.settled(2);
    z.end();
}

/// Row 38 with one queue for all: a handshake that began before the switch is the new process's when it completes.
#[test]
fn half_open_at_switch() {
    let z = Zdsup::serving_with(&["serve"], |setup, _| setup.listen_options = "defer-accept = \"30s\"".into());
    let mut early: Vec<Connection> = (0..20).map(|_| Connection::tcp(z.address()).expect("it is bound")).collect();
    z.upgrade();
    z.settled(2);
    for connection in &mut early {
        let answer = connection.get("/").expect("it answers").expect("it answers");
        assert_eq!(answer.generation(), 2);
    }
    drop(early);
    z.end();
}

/// Row 30: a port that others share with SO_REUSEPORT is not joined by accident, and nothing of what serves is touched.
#[test]
fn mixed_reuseport() {
    let mut z = Zdsup::serving(&["serve"]);
    let load = Load::start(&z.target());
    let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    setsockopt(&fd, ReusePort, &true).expect("an option of it");
    let address = SocketAddrV4::new(z.place.address().parse().expect("an address"), 9002);
    bind(fd.as_raw_fd(), &SockaddrIn::from(address)).expect("it is free");
    listen(&fd, Backlog::MAXCONN).expect("it can listen");
    let good = z.setup.clone();
    z.configure(|setup| setup.listen.push(("second".into(), address.to_string())));
    z.reload(&[]).is(Verdict::Failed).because("SO_REUSEPORT").still_serving(1);
    z.configure(|setup| *setup = good);
    z.upgrade();
    load.unharmed();
    z.end();
}

/// Row 4: the old process calls shutdown() on the shared listener. It listens again at once, and it is said who did it.
#[test]
fn shutdown_shared() {
    let mut z = Zdsup::serving(&["shutdown-shared"]);
    z.release(&["serve"]);
    z.upgrade();
    z.supervisor.wait_for_log("was shut down by web@1");
    z.settled(2);
    let load = Load::start(&z.target());
    load.more(50);
    z.upgrade();
    load.unharmed();
    z.end();
}

/// Row 4 on a unix socket, which cannot listen again: it is made anew, and a new generation gets it.
#[test]
fn shutdown_shared_unix() {
    let mut z = Zdsup::serving_with(&["shutdown-shared"], |setup, place| {
        setup.listen[0].1 = format!("unix:{}", place.join("web.sock").display());
    });
    z.release(&["serve"]);
    z.upgrade();
    z.supervisor.wait_for_log("cannot listen again");
    z.settled(3);
    eventually("it answers", || z.target().connect().ok()?.get("/").ok()?.filter(|answer| answer.generation() == 3));
    let load = Load::start(&z.target());
    load.more(50);
    z.upgrade();
    load.unharmed();
    z.end();
}

/// The new generation that a socket which was made anew needs is refused while too many drain, and comes once it may.
#[test]
fn a_refused_restart_is_asked_for_again() {
    let mut z = Zdsup::serving_with(&["shutdown-shared", "--lame-duck", "600000"], |setup, place| {
        setup.listen[0].1 = format!("unix:{}", place.join("web.sock").display());
        setup.upgrade = vec!["max-draining = 1".into()];
    });
    let mut held = z.target().connect().expect("it is bound");
    held.get("/").expect("it answers");
    z.release(&["serve"]);
    z.upgrade();
    z.supervisor.wait_for_log("refused: 1 old generation is still draining");
    let status = z.wait_for("it waits", |status| status.services[0].generations.len() == 2);
    assert_eq!(status.services[0].serving, Some(2));
    drop(held);
    z.settled(3);
    assert_eq!(z.get("/").generation(), 3);
    z.end();
}

/// Row 5: O_NONBLOCK is shared by all who hold the socket. A candidate that sets it is named, and it is put back as
/// soon as nobody holds the socket.
#[test]
fn nonblock_flip() {
    let mut z = Zdsup::serving(&["serve", "--blocking"]);
    assert_eq!(z.get("/").generation(), 1);
    z.release(&["nonblock-flip", "--ready"]);
    z.upgrade();
    let status = z.wait_for("it is said", |status| {
        let two = crate::support::supervisor::generation(status, 2);
        two.is_some_and(|two| two.instances.iter().any(|one| !one.notes.is_empty()))
    });
    let two = crate::support::supervisor::generation(&status, 2).expect("it is there");
    assert!(two.instances[0].notes[0].contains("O_NONBLOCK") && two.instances[0].notes[0].contains("http"), "{two:?}");
    // It lives on, so the flag stays: one that expects to block cannot take over, and is told apart by its reason.
    z.configure(|setup| {
        setup.hazard(&["serve", "--blocking"]);
        setup.upgrade = vec!["soak = \"20s\"".into()];
    });
    let reload = z.reload(&[]).because("exit status 3").last_lines_say("EAGAIN").still_serving(2);
    assert_eq!(reload.code, 4, "{reload:?}");
    z.end();

    // The flag is set by a candidate that fails. Whoever expects to block fails on it; the next finds it put back.
    let mut z = Zdsup::serving_with(&["serve", "--blocking"], |setup, _| {
        setup.restart = vec!["backoff = \"50ms..100ms\"".into()];
    });
    z.release(&["nonblock-flip"]);
    z.reload(&[]).is(Verdict::Failed);
    let answer = |z: &Zdsup| z.target().connect().ok()?.get("/").ok()?;
    eventually("it has failed and serves again", || {
        let _ = answer(&z);
        let status = z.status();
        let one = crate::support::supervisor::generation(&status, 1)?;
        (status.services[0].serving == Some(1) && one.instances.iter().all(|i| i.instance != "1.1")).then_some(())
    });
    for _ in 0..20 {
        assert_eq!(z.get("/").generation(), 1);
    }
    z.end();
}

/// Row 6: the old process unlinks the path of the socket as it ends. It is linked again.
#[test]
fn unix_path_unlinked() {
    let z = Zdsup::serving_with(&["unlinks-path"], |setup, place| {
        setup.listen[0].1 = format!("unix:{}", place.join("web.sock").display());
    });
    let load = Load::with(&z.target(), &[Manner::Fresh, Manner::Fresh, Manner::KeepAlive]);
    for generation in 2..5 {
        z.upgrade();
        z.settled(generation);
        eventually("the path is back", || z.target().connect().ok());
        load.more(20);
    }
    z.supervisor.wait_for_log("it is linked again");
    // Nothing but the moment without a path may show.
    let tally = load.finish();
    let other: Vec<_> = tally.failed.keys().filter(|class| *class != "connect: NotFound").collect();
    assert!(other.is_empty(), "{tally:?}");
    z.end();
}

/// The inode of the socket that listens at this IPv4 address.
fn listening_inode(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else { panic!("{address} is IPv6") };
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").expect("there is IPv4");
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    { rows }.find(|row| row.get(1) == Some(&&*local) && row.get(3) == Some(&"0A")).map(|row| row[9].to_owned())
}

/// Whether a process has this socket open.
fn holds(pid: u32, inode: &str) -> bool {
    let wanted = format!("socket:[{inode}]");
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    { open }.any(|fd| std::fs::read_link(fd.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str()))
}

/// Row 29: a reload adds, removes and changes listeners.
#[test]
fn listener_set_changes() {
    let mut z = Zdsup::serving(&["serve"]);
    let second: SocketAddr = format!("{}:8081", z.place.address()).parse().expect("an address");
    let load = Load::start(&z.target());
    let names = |z: &Zdsup| -> Vec<String> {
        z.status().services[0].listeners.iter().map(|listener| listener.name.clone()).collect()
    };

    z.configure(|setup| setup.listen.push(("second".into(), second.to_string())));
    z.upgrade();
    z.settled(2);
    assert_eq!(names(&z), ["http", "second"]);
    assert_eq!(
        Connection::tcp(second).expect("it is bound").get("/").expect("it answers").expect("it answers").generation(),
        2
    );

    // Another name for the same socket: it is kept.
    z.configure(|setup| setup.listen[1].0 = "renamed".into());
    let other = Load::start(&Target::Tcp(second));
    z.upgrade();
    z.settled(3);
    assert_eq!(names(&z), ["http", "renamed"]);
    other.unharmed();

    // Dropped, and closed only once the old generation is gone: until then by nobody but the supervisor is it held.
    let old = process::instances_of(&z.supervisor.runtime);
    let inode = listening_inode(second).expect("it listens");
    let mut held = Connection::tcp(second).expect("it is bound");
    held.send("GET", "/slow/5000", None).expect("it can be sent");
    z.configure(|setup| drop(setup.listen.remove(1)));
    z.upgrade();
    assert_eq!(names(&z), ["http"]);
    eventually("the old process has closed its own", || old.iter().all(|pid| !holds(*pid, &inode)).then_some(()));
    let still = listening_inode(second);
    assert!(old.iter().all(|pid| is_alive(*pid)), "it did not last as long as what it answers");
    assert_eq!(still, Some(inode), "it was closed while the old generation drained");
    z.settled(4);
    eventually("it is closed", || {
        Connection::tcp(second).err().filter(|error| error.kind() == ErrorKind::ConnectionRefused)
    });

    // Two change places: each keeps its socket.
    z.configure(|setup| setup.listen.insert(0, ("second".into(), second.to_string())));
    z.upgrade();
    z.settled(5);
    assert_eq!(names(&z), ["second", "http"]);
    load.unharmed();
    z.end();
}

#[test]
fn options_that_cannot_change_on_a_live_socket_are_said() {
    if std::fs::read_to_string("/proc/net/if_inet6").map_or(true, |text| text.is_empty()) {
        return skip("this machine has no IPv6");
    }
    let mut z = Zdsup::serving_with(&["serve"], |setup, _| setup.listen[0].1 = "[::]:0".into());
    let bound = z.status().services[0].listeners[0].address.clone();
    z.configure(|setup| setup.listen_options = "only-v6 = true".into());
    z.upgrade();
    z.supervisor.wait_for_log("listener http: only-v6 cannot change on a live socket");
    assert_eq!(z.settled(2).services[0].listeners[0].address, bound);
    z.end();
}

/// Row 27: a process that was left behind holds the port after the stop.
#[test]
fn grandchild_holds_port() {
    let mut z =
        Zdsup::serving_with(&["grandchild-holds-port"], |setup, _| setup.drain = vec!["timeout = \"500ms\"".into()]);
    z.upgrade();
    z.settled(2);
    let address = z.address();
    let left = process::instances_of(&z.supervisor.runtime);
    assert_eq!(left.len(), 2, "one generation and its grandchild: {left:?}");
    assert_eq!(z.supervisor.end().code(), Some(0));
    z.supervisor.nothing_left();
    std::net::TcpListener::bind(address).expect("the port is free after the stop");
}

/// The same by one that nothing gives away: a session of its own, no environment, no parent that we know.
#[test]
fn hidden_grandchild_holds_port() {
    let mut z = Zdsup::serving_with(&["grandchild-holds-port", "--clean-environment"], |setup, _| {
        setup.drain = vec!["timeout = \"500ms\"".into()];
    });
    z.upgrade();
    z.settled(2);
    let address = z.address();
    assert_eq!(z.supervisor.end().code(), Some(0));
    std::net::TcpListener::bind(address).expect("the port is free after the stop");
}

#[test]
fn queued_callers_survive_a_service_that_dies() {
    let z = Zdsup::serving_with(&["serve"], |setup, _| setup.restart = vec!["backoff = \"200ms..1s\"".into()]);
    let pid: u32 = z.get("/").value("pid").and_then(|pid| pid.parse().ok()).expect("a number");
    process::freeze(pid);
    let mut waiting: Vec<Connection> = (0..50)
        .map(|_| {
            let mut connection = Connection::tcp(z.address()).expect("there is room in the queue");
            connection.send("GET", "/", None).expect("it can be sent");
            connection
        })
        .collect();
    process::kill(pid, Signal::SIGKILL);
    let lost = waiting.iter_mut().filter_map(|one| Answer::read(one).ok().flatten()).count();
    // The stopped process may have had one in its hands.
    assert!(lost >= 49, "{lost} of 50 were answered");
    eventually("it is gone", || (!is_alive(pid)).then_some(()));
    z.end();
}
