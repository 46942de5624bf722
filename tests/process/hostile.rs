//! Services and peers that mean harm, or might as well.

use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use zdsup::control::types::Verdict;

use crate::support::process::{self, settled_holdings};
use crate::support::supervisor::{Supervisor, command, generation};
use crate::support::{Load, Place, Setup, Target, Zdsup, client, eventually};

/// Row 32: a service says more than anybody can read. The loop goes on, and so does the service.
#[test]
fn notify_back_pressure() {
    let z = Zdsup::serving(&["floods-notify"]);
    let load = Load::start(&z.target());
    for _ in 0..3 {
        let began = Instant::now();
        z.upgrade();
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
    assert_eq!(z.supervisor.run(&["status"]).status.code(), Some(0));
    load.unharmed();
    z.end();
}

/// Row 39: nobody reads what the supervisor and its service print. The loop never waits for it, and lines are counted.
#[test]
fn blocked_output() {
    for words in [&["chatty"][..], &["chatty", "--binary"]] {
        let place = Place::new();
        let setup = Setup::new(&place, words);
        std::fs::write(place.join("web.toml"), setup.toml()).expect("a config can be written");
        let mut started = command(&place.join("run"));
        started.args(["run", "-c"]).arg(place.join("web.toml")).stdin(Stdio::null());
        let mut child = started.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("zdsup can be started");
        // Held open, never read.
        let _unread = (child.stdout.take(), child.stderr.take());
        let mut supervisor = Supervisor::adopt(child, &place);
        supervisor.wait_for("it serves", |status| status.services[0].serving == Some(1));
        supervisor.wait_for("lines are dropped", |status| status.supervisor.lines_dropped > 0);
        let load = Load::start(&Target::Tcp(setup.listen[0].1.parse().expect("an address")));
        load.more(50);
        // However much there is to read, operators have their turn.
        supervisor.upgrade("reload", &["--timeout", "10s"]).is(Verdict::Upgraded);
        load.more(50);
        load.unharmed();
        assert!(process::anonymous_memory(supervisor.pid()) < 64 * 1024, "what nobody reads is not kept");
        assert_eq!(supervisor.end().code(), Some(0));
        supervisor.nothing_left();
    }
}

/// Row 39, the manager's side: systemd's notify socket is full and stays so.
#[test]
fn manager_that_does_not_read() {
    let place = Place::new();
    let manager = UnixDatagram::bind(place.join("manager")).expect("a path is free");
    let mut setup = Setup::new(&place, &["serve"]);
    setup.environment.insert("NOTIFY_SOCKET".into(), place.join("manager").display().to_string());
    std::fs::write(place.join("web.toml"), setup.toml()).expect("a config can be written");
    let arguments = ["-c".to_owned(), place.join("web.toml").display().to_string()];
    // Nothing more fits in.
    let filler = UnixDatagram::unbound().expect("a socket");
    filler.set_nonblocking(true).expect("it is a socket");
    while filler.send_to(b"X=1", place.join("manager")).is_ok() {}
    let mut supervisor = Supervisor::start(&place, &arguments, &setup.environment);
    supervisor.wait_for("it serves", |status| status.services[0].serving == Some(1));
    let load = Load::start(&Target::Tcp(setup.listen[0].1.parse().expect("an address")));
    for _ in 0..3 {
        supervisor.upgrade("reload", &[]).is(Verdict::Upgraded);
    }
    load.unharmed();
    assert_eq!(supervisor.end().code(), Some(0));
    supervisor.nothing_left();
    drop(manager);
}

/// Row 39, the other side: clients of the control socket that ask and do not read, or do not ask at all.
#[test]
fn slow_control_clients() {
    let z = Zdsup::serving(&["serve"]);
    let connect = || UnixStream::connect(z.supervisor.control_socket()).expect("there is room");
    let mut silent: Vec<UnixStream> = (0..40).map(|_| connect()).collect();
    let mut halves: Vec<UnixStream> = (0..40).map(|_| connect()).collect();
    for half in &mut halves {
        half.write_all(b"POST /v1/upgrades HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
            .expect("it can be sent");
    }
    let mut deaf: Vec<UnixStream> = (0..10).map(|_| connect()).collect();
    for one in &mut deaf {
        for _ in 0..100 {
            one.set_nonblocking(true).expect("it is a socket");
            let _ = one.write(b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n");
        }
    }
    let load = Load::start(&z.target());
    let began = Instant::now();
    z.upgrade();
    assert_eq!(z.supervisor.run(&["status"]).status.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    load.unharmed();
    silent.clear();
    z.end();
}

/// One that may ask holds connections and asks nothing, more than there are places: others are answered all the same.
#[test]
fn half_sent_requests_keep_nobody_out() {
    let z = Zdsup::serving(&["serve"]);
    let halves = [&b""[..], b"GET /v1/sta", b"POST /v1/stop HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{"];
    let connections = halves.iter().cycle().take(400).map(|half| {
        let mut stream = UnixStream::connect(z.supervisor.control_socket()).expect("there is room");
        stream.write_all(half).expect("it can be sent");
        stream
    });
    let held: Vec<UnixStream> = connections.collect();
    let began = Instant::now();
    assert_eq!(z.supervisor.run(&["status"]).status.code(), Some(0));
    z.upgrade();
    // Less than it takes until the first of them are given up for being slow.
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    drop(held);
    z.end();
}

/// Row 16: what is no HTTP, too long or cut off gets its answer or its end, and harms nothing.
#[test]
fn hostile_peer() {
    let z = Zdsup::serving(&["serve"]);
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(200_000));
    let headers = format!("GET /v1/status HTTP/1.1\r\nhost: x\r\n{}\r\n", "x: y\r\n".repeat(20_000));
    let body = format!("POST /v1/upgrades HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", 1_u64 << 62);
    let large =
        format!("POST /v1/upgrades HTTP/1.1\r\nhost: x\r\ncontent-length: 3000000\r\n\r\n{}", "[".repeat(3_000_000));
    let deep = format!(
        "POST /v1/upgrades HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 4000\r\n\r\n{}",
        "[".repeat(4000)
    );
    let cases: [(&[u8], Option<u16>); 9] = [
        (b"\0\xff\xfe garbage \r\n\r\n", Some(400)),
        (b"GET\r\n\r\n", Some(400)),
        (b"GET /v1/status HTTP/9.9\r\n\r\n", Some(400)),
        // Whoever speaks this would not understand an answer.
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", None),
        (long.as_bytes(), Some(431)),
        (headers.as_bytes(), Some(431)),
        (body.as_bytes(), Some(413)),
        (large.as_bytes(), Some(413)),
        (deep.as_bytes(), Some(400)),
    ];
    for (bytes, expected) in cases {
        let mut stream = UnixStream::connect(z.supervisor.control_socket()).expect("there is room");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("it is a socket");
        // It may have had enough before all of it is sent.
        let _ = stream.write_all(bytes);
        let mut answer = vec![];
        // A reset takes the place of the end where not all was taken.
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let sent = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        assert_eq!(status, expected, "{sent:?}: {answer:?}");
        assert_eq!(answer.is_empty(), expected.is_none(), "{sent:?}: {answer:?}");
    }
    // The same on the notify socket.
    let socket = UnixDatagram::unbound().expect("a socket");
    for bytes in
        [&b""[..], b"\n\n\n", b"=", b"READY", b"\0READY=1", &[b'x'; 100_000], b"FDSTORE=1\nFDNAME=a:b", b"MAINPID=-1"]
    {
        let _ = socket.send_to(bytes, z.supervisor.runtime.join("n/1.1"));
    }
    z.upgrade();
    z.settled(2);
    z.end();
}

#[test]
fn nonsense_does_not_fill_the_log() {
    const SENT: usize = 2000;
    let z = Zdsup::serving(&["serve"]);
    let socket = UnixDatagram::unbound().expect("a socket");
    for _ in 0..SENT {
        socket.send_to(b"\0", z.supervisor.runtime.join("n/1.1")).expect("it is read");
    }
    z.upgrade();
    z.settled(2);
    let log = z.supervisor.log();
    let said = log.matches("a notify message was ignored").count();
    let more: usize = log
        .split(" more of its notify messages were ignored")
        .filter_map(|before| before.rsplit(' ').next()?.parse::<usize>().ok())
        .sum();
    assert_eq!(said + more, SENT, "{log}");
    assert!(said < SENT / 10, "{said} lines");
    z.end();
}

/// A tidy person, or tmpfiles.d, removes what nobody should: the supervisor stays reachable, and hears its services.
#[test]
fn removed_runtime_files_are_made_anew() {
    let z = Zdsup::serving(&["serve"]);
    let run = &z.supervisor.runtime;
    for (upgrade, removed) in (2..).zip(["control.sock", "n", "lock", "."]) {
        let path = run.join(removed);
        let said = z.supervisor.log().matches("made anew").count() + z.supervisor.log().matches("bound anew").count();
        match removed {
            "." => std::fs::remove_dir_all(run).expect("it is there"),
            "n" => std::fs::remove_dir_all(path).expect("it is there"),
            _ => std::fs::remove_file(path).expect("it is there"),
        }
        eventually("it is noticed", || {
            let log = z.supervisor.log();
            (log.matches("made anew").count() + log.matches("bound anew").count() > said).then_some(())
        });
        eventually("it is all there", || {
            let notify = run.join(format!("n/{}.1", upgrade - 1));
            [run.join("control.sock"), run.join("lock"), notify].iter().all(|path| path.exists()).then_some(())
        });
        let other = z.supervisor.run(&["run", "--listen", "127.0.0.1:0", "--", "/bin/true"]);
        assert_eq!(other.status.code(), Some(5), "it is locked: {other:?}");
        z.upgrade();
        // The old one's words are heard, over a socket that was bound anew.
        let heard = format!("web@{}: process", upgrade - 1);
        eventually("it says that it is stopping", || {
            let log = z.supervisor.log();
            log.lines().any(|line| line.contains(&heard) && line.contains("says that it is stopping")).then_some(())
        });
        z.settled(upgrade);
    }
    z.end();
}

/// Row 17: the service names other processes as its main one. The supervisor stays what it is; what is not its own is
/// refused, what is its own is followed.
#[test]
fn main_pid_moves() {
    // Alive, and visible to the supervisor, but nothing of the service's.
    let mut foreign = Command::new("sleep").arg("100").spawn().expect("there is a sleep");
    let mut z = Zdsup::serving(&["main-pid", "--foreign", &foreign.id().to_string()]);
    let pid = z.status().services[0].generations[0].instances[0].pid;
    assert_eq!(pid, z.get("/").value("pid").and_then(|pid| pid.parse().ok()), "a foreign one was followed");
    z.supervisor.wait_for_log("MAINPID= was ignored: not a living process of this instance");
    foreign.kill().and_then(|()| foreign.wait()).expect("it is ours, and nobody else has ended it");
    z.release(&["main-pid", "--child"]);
    let load = Load::start(&z.target());
    z.upgrade();
    let status = z.settled(2);
    let main = status.services[0].generations[0].instances[0].pid.expect("it runs");
    let serves: u32 = z.get("/").value("pid").and_then(|pid| pid.parse().ok()).expect("a number");
    assert!(process::children(serves).contains(&main), "{main} is no child of {serves}");
    // The one that is told to stop is the main one; the rest follows.
    z.release(&["serve"]);
    z.upgrade();
    z.settled(3);
    assert!(!process::is_alive(serves) && !process::is_alive(main));
    load.unharmed();
    assert!(process::is_alive(z.supervisor.pid()));
    z.end();
}

#[test]
fn descriptors_that_are_sent_along_are_not_kept() {
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};

    let z = Zdsup::serving(&["serve"]);
    let holds = |expected| settled_holdings(z.supervisor.pid(), &z.supervisor.runtime, expected);
    let before = holds(None);
    let socket = UnixDatagram::unbound().expect("a socket");
    let address = UnixAddr::new(&z.supervisor.runtime.join("n/1.1")).expect("a short path");
    let file = std::fs::File::open("/dev/zero").expect("there is one");
    let fds = [file.as_raw_fd(); 64];
    for text in [&b"FDSTORE=1"[..], b"WATCHDOG=1", b"BARRIER=1", b"\0"] {
        let parts = [std::io::IoSlice::new(text)];
        sendmsg(socket.as_raw_fd(), &parts, &[ControlMessage::ScmRights(&fds)], MsgFlags::empty(), Some(&address))
            .expect("it can be sent");
    }
    z.upgrade();
    z.settled(2);
    assert_eq!(holds(Some(&before)), before);
    z.end();
}

#[test]
fn a_supervisor_that_is_slow_to_look_loses_nothing() {
    let z = Zdsup::serving(&["serve"]);
    let load = Load::start(&z.target());
    // Everything happens while it cannot look: a death, a request, a signal.
    let pid = z.status().services[0].generations[0].instances[0].pid.expect("it runs");
    z.supervisor.signal(Signal::SIGSTOP);
    load.more(20);
    z.supervisor.signal(Signal::SIGHUP);
    z.supervisor.signal(Signal::SIGCONT);
    z.settled(2);
    assert!(!process::is_alive(pid));
    assert!(generation(&z.status(), 1).is_none());
    load.unharmed();
    assert_eq!(
        client::control(&z.supervisor.control_socket(), "GET", "/v1/status", None).expect("it answers").status,
        200
    );
    z.end();
}
