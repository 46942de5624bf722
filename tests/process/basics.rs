//! One service on sockets of every kind: run, reload, status, stop, and what the service is given.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use zdsup::control::types::{GenerationState, InstanceState, ServiceState, Verdict};

use crate::support::client::{self, Connection};
use crate::support::supervisor::{Supervisor, command, wrapped};
use crate::support::{Load, Place, SOON, Setup, Target, Zdsup, eventually, hazard, is_root, process, skip, zdsup};

#[test]
fn an_upgrade_under_load() {
    let z = Zdsup::serving(&["serve"]);
    let load = Load::start(&z.target());
    load.more(50);
    let reload = z.upgrade();
    let names: Vec<&str> = reload.events.iter().map(|event| event.event.as_str()).collect();
    for step in ["pinning", "starting", "spawned", "ready", "serving", "draining", "verdict"] {
        assert!(names.contains(&step), "{step} is not in {names:?}");
    }
    let numbers: Vec<u64> = reload.events.iter().map(|event| event.seq).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    z.settled(2);
    load.more(50);
    let tally = load.unharmed();
    assert_eq!(tally.by.keys().copied().collect::<Vec<_>>(), [1, 2]);
    z.end();
}

#[test]
fn a_reload_may_wait_for_the_drain_or_for_nothing() {
    let z = Zdsup::serving(&["serve", "--lame-duck", "600000"]);
    let mut held = z.target().connect().expect("it is bound");
    held.get("/").expect("it answers");
    let reload = z.reload(&["--no-wait"]);
    assert_eq!(reload.code, 0);
    let upgrade: serde_json::Value = serde_json::from_str(&reload.stdout).expect("one line of JSON");
    assert_eq!(upgrade["admission"], "begun");
    assert_eq!(z.supervisor.verdict_of(upgrade["id"].as_u64().expect("a number")).verdict, Verdict::Upgraded);

    // The verdict does not wait for the connection; --wait drained does.
    let status = z.wait_for("both are there", |status| status.services[0].generations.len() == 2);
    assert_eq!(status.services[0].generations[1].state, GenerationState::Draining);
    let waiting = z.reload(&["--wait", "drained", "--timeout", "60s"]);
    assert_eq!(waiting.code, 0, "web@2 had no connection to wait for: {waiting:?}");
    let mut second = z.target().connect().expect("it is bound");
    assert_eq!(second.get("/").expect("it answers").expect("it answers").generation(), 3);
    let waiting = z.reload(&["--wait", "drained", "--timeout", "2s"]);
    assert_eq!(waiting.code, 7, "{waiting:?}");
    assert!(waiting.verdict().is_some(), "{waiting:?}");
    drop((held, second));
    z.settled(4);
    z.end();
}

#[test]
fn signals_reload_and_stop() {
    let mut z = Zdsup::serving(&["serve"]);
    z.supervisor.signal(Signal::SIGHUP);
    z.settled(2);
    z.supervisor.signal(Signal::SIGINT);
    assert_eq!(z.supervisor.wait(SOON).code(), Some(0));
    z.supervisor.nothing_left();
}

#[test]
fn stop_drains_and_a_second_one_ends_at_once() {
    let mut z = Zdsup::serving(&["serve", "--lame-duck", "600000"]);
    let mut held = z.target().connect().expect("it is bound");
    held.get("/").expect("it answers");
    z.supervisor.signal(Signal::SIGTERM);
    let status = z.wait_for("it is stopping", |status| status.services[0].state == ServiceState::Stopping);
    assert!(status.supervisor.stopping);
    z.wait_for("the service knows it", |status| {
        status.services[0].generations[0].instances[0].status.as_deref() == Some("draining")
    });
    // What is asked over an open connection is still answered.
    let answer = held.get("/").expect("it answers").expect("it answers");
    assert!(answer.closes());
    let again = z.reload(&[]);
    assert_eq!(again.code, 5, "{again:?}");
    let mut held = z.target().connect();
    drop(held.as_mut().map(|held| held.send("GET", "/", None)));
    z.supervisor.signal(Signal::SIGTERM);
    assert_eq!(z.supervisor.wait(SOON).code(), Some(0));
    z.supervisor.nothing_left();
}

#[test]
fn a_second_stop_command_ends_at_once_and_says_so() {
    let mut z = Zdsup::serving(&["hangs-drain"]);
    let first = z.supervisor.run(&["stop", "--no-wait"]);
    assert!(String::from_utf8_lossy(&first.stderr).contains("draining takes 30 s at most"), "{first:?}");
    let second = z.supervisor.run(&["stop"]);
    assert!(String::from_utf8_lossy(&second.stderr).contains("everything ends at once"), "{second:?}");
    assert_eq!((second.status.code(), z.supervisor.wait(SOON).code()), (Some(0), Some(0)));
    z.supervisor.nothing_left();
}

#[test]
fn the_stop_command_waits_until_it_is_gone() {
    let mut z = Zdsup::serving(&["serve"]);
    let output = z.supervisor.run(&["stop"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(!z.supervisor.control_socket().exists());
    assert_eq!(z.supervisor.wait(SOON).code(), Some(0));
    z.supervisor.nothing_left();
    let output = z.supervisor.run(&["status"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}

#[test]
fn status_shows_what_there_is() {
    let z = Zdsup::serving(&["serve", "--status", "warming up"]);
    let mut held = z.target().connect().expect("it is bound");
    let pid: u32 =
        held.get("/").expect("it answers").expect("it answers").value("pid").expect("a pid").parse().expect("a number");
    let output = z.supervisor.run(&["status", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    let status: zdsup::control::types::Status = serde_json::from_slice(&output.stdout).expect("a status");
    assert_eq!((status.supervisor.name.as_str(), status.supervisor.pid), ("web", z.supervisor.pid()));
    let service = &status.services[0];
    assert_eq!((service.name.as_str(), service.state, service.serving), ("web", ServiceState::Serving, Some(1)));
    let generation = &service.generations[0];
    assert_eq!(generation.executable, hazard().canonicalize().expect("it is there").display().to_string());
    let instance = &generation.instances[0];
    assert_eq!((instance.instance.as_str(), instance.state, instance.pid), ("1.1", InstanceState::Ready, Some(pid)));
    assert_eq!(instance.status.as_deref(), Some("warming up"));
    assert_eq!(instance.connections, Some(1));
    assert!(instance.memory.is_some_and(|memory| memory > 100_000) && instance.cpu.is_some());
    let listener = &service.listeners[0];
    assert_eq!((listener.name.as_str(), listener.origin.as_str()), ("http", "bound"));
    assert_eq!(listener.address, z.address().to_string());
    assert_eq!((listener.queue, listener.backlog.is_some_and(|backlog| backlog >= 128)), (Some(0), true));
    assert_eq!(
        service.last_upgrade.as_ref().and_then(|up| up.verdict.as_ref()).map(|v| v.verdict),
        Some(Verdict::Upgraded)
    );

    let table = String::from_utf8(z.supervisor.run(&["status"]).stdout).expect("text");
    for word in ["web", "serving", "1.1", &pid.to_string(), "warming up", &z.address().to_string()] {
        assert!(table.contains(word), "{word:?} is not in\n{table}");
    }
    drop(held);
    z.end();
}

#[test]
fn a_restart_reads_nothing_again() {
    let mut z = Zdsup::serving(&["serve"]);
    fs::write(z.place.join("web.toml"), "this is no config").expect("it can be written");
    z.supervisor.upgrade("restart", &[]).is(Verdict::Upgraded);
    z.settled(2);
    assert_eq!(z.get("/").generation(), 2);
    z.release(&["serve"]);
    z.upgrade();
    z.end();
}

#[test]
fn abort_gives_the_candidate_up() {
    let mut z = Zdsup::serving(&["serve"]);
    let nothing = z.supervisor.run(&["abort"]);
    assert_eq!(nothing.status.code(), Some(5), "{nothing:?}");
    z.release(&["never-ready"]);
    let load = Load::start(&z.target());
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| z.reload(&[]));
        z.wait_for("the candidate runs", |status| {
            let newest = &status.services[0].generations[0];
            newest.generation == 2 && newest.instances.iter().any(|one| one.state == InstanceState::Starting)
        });
        assert_eq!(z.supervisor.run(&["abort"]).status.code(), Some(0));
        waiting.join().expect("it does not panic")
    });
    waiting.is(Verdict::Aborted).because("aborted by an operator").still_serving(1);
    z.settled(1);
    load.unharmed();
    z.release(&["serve"]);
    z.upgrade();
    z.settled(3);
    z.end();
}

#[test]
fn without_a_config_file() {
    let place = Place::new();
    let address = format!("{}:8080", place.address());
    let arguments = ["--listen", &address, "--", &hazard().display().to_string(), "serve"].map(str::to_owned);
    let mut supervisor = Supervisor::start(&place, &arguments, &BTreeMap::new());
    let status = supervisor.wait_for("it serves", |status| status.services[0].serving == Some(1));
    assert_eq!((status.supervisor.name.as_str(), status.services[0].name.as_str()), ("hazard", "hazard"));
    // An unnamed listener is called after its service.
    assert_eq!(status.services[0].listeners[0].name, "hazard");
    supervisor.upgrade("reload", &[]).is(Verdict::Upgraded);
    assert_eq!(supervisor.end().code(), Some(0));
    supervisor.nothing_left();
}

// ---- every kind of socket -----------------------------------------------------------------------------------------

#[test]
fn tcp_over_ipv6() {
    if fs::read_to_string("/proc/net/if_inet6").map_or(true, |text| text.is_empty()) {
        return skip("this machine has no IPv6");
    }
    // There is one loopback address only, so the kernel chooses the port.
    let z = Zdsup::serving_with(&["serve"], |setup, _| setup.listen[0].1 = "[::1]:0".into());
    let bound = z.status().services[0].listeners[0].address.clone();
    let target = Target::Tcp(bound.parse().expect("an address"));
    let load = Load::start(&target);
    load.more(20);
    z.upgrade();
    z.settled(2);
    load.more(20);
    load.unharmed();
    // The port is kept, although the config leaves it to the kernel.
    assert_eq!(z.status().services[0].listeners[0].address, bound);
    z.end();
}

#[test]
fn unix_stream() {
    let z = Zdsup::serving_with(&["serve"], |setup, place| {
        setup.listen[0].1 = format!("unix:{}", place.join("web.sock").display());
    });
    let load = Load::start(&z.target());
    load.more(20);
    z.upgrade();
    z.settled(2);
    load.more(20);
    load.unharmed();
    let path = z.place.join("web.sock");
    assert!(path.exists());
    z.end_and(|| assert!(!path.exists(), "its path is left"));
}

#[test]
fn abstract_stream() {
    let name = format!("zdsup-test-{}", std::process::id());
    let z = Zdsup::serving_with(&["serve"], |setup, _| setup.listen[0].1 = format!("unix:@{name}"));
    let load = Load::start(&Target::Unix(format!("@{name}")));
    load.more(20);
    z.upgrade();
    z.settled(2);
    load.more(20);
    load.unharmed();
    z.end();
}

#[test]
fn udp() {
    let z =
        Zdsup::serving_with(&["sockets"], |setup, place| setup.listen[0].1 = format!("udp:{}:8080", place.address()));
    let client = UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    client.set_read_timeout(Some(SOON)).expect("a socket has a timeout");
    let ask = |text: &str| {
        let (_, address) = &z.setup.listen[0];
        client.send_to(text.as_bytes(), &address[4..]).expect("it can be sent");
        let mut buffer = [0; 100];
        let count = client.recv(&mut buffer).expect("it answers");
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    };
    assert_eq!(ask("one"), "1 one");
    z.upgrade();
    z.settled(2);
    assert_eq!(ask("two"), "2 two");
    z.end();
}

#[test]
fn unix_datagram() {
    let z = Zdsup::serving_with(&["sockets"], |setup, place| {
        setup.listen[0].1 = format!("unix-dgram:{}", place.join("dgram").display());
    });
    let client = UnixDatagram::bind(z.place.join("client")).expect("a path is free");
    client.set_read_timeout(Some(SOON)).expect("a socket has a timeout");
    let ask = |text: &str| {
        client.send_to(text.as_bytes(), z.place.join("dgram")).expect("it can be sent");
        let mut buffer = [0; 100];
        let count = client.recv(&mut buffer).expect("it answers");
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    };
    assert_eq!(ask("one"), "1 one");
    z.upgrade();
    z.settled(2);
    assert_eq!(ask("two"), "2 two");
    z.end();
}

#[test]
fn unix_seqpacket() {
    use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, send, socket};
    let z = Zdsup::serving_with(&["sockets"], |setup, place| {
        setup.listen[0].1 = format!("unix-seqpacket:{}", place.join("packets").display());
    });
    let dial = || -> OwnedFd {
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
        let address = UnixAddr::new(&z.place.join("packets")).expect("a short path");
        connect(fd.as_raw_fd(), &address).expect("it is bound");
        fd
    };
    let ask = |fd: &OwnedFd, text: &str| {
        send(fd.as_raw_fd(), text.as_bytes(), MsgFlags::empty()).expect("it can be sent");
        let mut buffer = [0; 100];
        let count = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()).expect("it answers");
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    };
    assert_eq!(ask(&dial(), "one"), "1 one");
    z.upgrade();
    z.settled(2);
    assert_eq!(ask(&dial(), "two"), "2 two");
    z.end();
}

#[test]
fn sockets_that_systemd_passes_are_used() {
    let place = Place::new();
    let setup = Setup::new(&place, &["serve"]);
    let mut supervisor = serving_on_a_socket_called("http", &setup, &place);
    let load = Load::start(&Target::Tcp(setup.listen[0].1.parse().expect("an address")));
    load.more(20);
    supervisor.upgrade("reload", &[]).is(Verdict::Upgraded);
    load.more(20);
    load.unharmed();
    assert_eq!(supervisor.end().code(), Some(0));
    supervisor.nothing_left();
}

/// Row 15: whatever became of the state, what listens has gone on listening.
#[test]
fn a_listener_that_comes_without_a_state_is_used_again() {
    let place = Place::new();
    let setup = Setup::new(&place, &["serve"]);
    let mut supervisor = serving_on_a_socket_called("zdsup.socket.7", &setup, &place);
    let load = Load::start(&Target::Tcp(setup.listen[0].1.parse().expect("an address")));
    load.more(20);
    load.unharmed();
    assert_eq!(supervisor.end().code(), Some(0));
    // No listener of the config has this address any more: it is closed, and no error.
    let elsewhere = Place::new();
    let setup = Setup::new(&elsewhere, &["serve"]);
    let mut supervisor = start_with_a_socket_called("zdsup.socket.7", &setup, &place);
    let status = supervisor.wait_for("it serves", |status| status.services[0].serving.is_some());
    assert_eq!(status.services[0].listeners[0].origin, "bound");
    eventually("what is of no use is closed", || TcpListener::bind((place.address(), 8080)).ok());
    assert_eq!(supervisor.end().code(), Some(0));
}

/// Serves on a socket that this process has bound, and passes on.
#[track_caller]
fn serving_on_a_socket_called(name: &str, setup: &Setup, place: &Place) -> Supervisor {
    let supervisor = start_with_a_socket_called(name, setup, place);
    let status = supervisor.wait_for("it serves", |status| status.services[0].serving == Some(1));
    assert_eq!(status.services[0].listeners[0].origin, "inherited");
    supervisor
}

fn start_with_a_socket_called(name: &str, setup: &Setup, place: &Place) -> Supervisor {
    let listener = TcpListener::bind((place.address(), 8080)).expect("the address is free");
    fs::write(place.join("web.toml"), setup.toml()).expect("a config can be written");
    // The shell puts the socket where the protocol wants it, and its own number is zdsup's after the exec.
    let script = format!("exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES={name} exec \"$@\"");
    let plain = command(&place.join("run"));
    let mut started = Command::new("sh");
    started.args(["-c", &script, "sh"]);
    let mut started = wrapped(started, &plain);
    started.args(["run", "-c"]).arg(place.join("web.toml"));
    started.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(Stdio::null());
    Supervisor::adopt(started.spawn().expect("there is a shell"), place)
}

// ---- what a service is given --------------------------------------------------------------------------------------

/// What the `report` program wrote.
struct Found(String);

impl Found {
    fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.lines().filter_map(move |line| line.strip_prefix(key)?.strip_prefix(' '))
    }

    fn one<'a>(&'a self, key: &'a str) -> &'a str {
        self.all(key).next().unwrap_or_else(|| panic!("no {key} in\n{}", self.0))
    }

    fn environment(&self) -> BTreeMap<&str, &str> {
        self.all("env").filter_map(|entry| entry.split_once('=')).collect()
    }
}

#[test]
fn a_service_is_given_exactly_what_the_protocol_says() {
    let place = Place::new();
    let address = place.address();
    let listen =
        [format!("a={address}:8001"), format!("udp:{address}:8002"), format!("c-c=unix:{}", place.join("c").display())];
    let report = place.join("report");
    // Stale ones, as from an outer systemd: none of them may come through.
    let state = place.join("state").display().to_string();
    let stale = [
        ("LISTEN_FDS", "7"),
        ("LISTEN_PID", "1"),
        ("LISTEN_FDNAMES", "x:y"),
        ("LISTEN_PIDFDID", "12"),
        ("NOTIFY_SOCKET", ""),
        ("WATCHDOG_PID", "1"),
        ("FDSTORE", "8"),
        ("ZDSUP_GENERATION", "99"),
        ("STATE_DIRECTORY", &state),
        ("KEPT", "yes"),
    ];
    let environment = stale.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let mut arguments: Vec<String> = listen.iter().flat_map(|listen| ["--listen".into(), listen.clone()]).collect();
    let command = [hazard().display().to_string(), "report".into(), "--to".into(), report.display().to_string()];
    arguments.push("--".into());
    arguments.extend(command.clone());
    let mut supervisor = Supervisor::start(&place, &arguments, &environment);
    supervisor.wait_for("it serves", |status| status.services[0].serving == Some(1));

    let found = Found(fs::read_to_string(&report).expect("it reported"));
    let env = found.environment();
    assert_eq!(env.get("LISTEN_FDS"), Some(&"3"));
    assert_eq!(env.get("LISTEN_PID"), Some(&found.one("pid")));
    assert_eq!(env.get("LISTEN_FDNAMES"), Some(&"a:hazard:c-c"));
    let notify = place.join("run/n/1.1").display().to_string();
    assert_eq!(env.get("NOTIFY_SOCKET"), Some(&notify.as_str()));
    assert_eq!(env.get("ZDSUP_SERVICE"), Some(&"hazard"));
    assert_eq!(env.get("ZDSUP_GENERATION"), Some(&"1"));
    assert!(env.contains_key("ZDSUP_INSTANCE"));
    assert_eq!(env.get("KEPT"), Some(&"yes"));
    for gone in ["LISTEN_PIDFDID", "WATCHDOG_PID", "WATCHDOG_USEC", "FDSTORE", "STATE_DIRECTORY", "RUNTIME_DIRECTORY"] {
        assert_eq!(env.get(gone), None, "{gone}");
    }
    assert_eq!(found.all("arg").collect::<Vec<_>>(), command);
    assert_eq!(found.one("directory"), place.path().display().to_string());

    // Standard input, output and error, the three sockets, and nothing else; blocking, and not close-on-exec.
    let fds: BTreeMap<u32, (u32, &str)> = found
        .all("fd")
        .map(|line| {
            let mut words = line.splitn(3, ' ');
            let mut next = || words.next().expect("three words");
            let number = next().parse().expect("a number");
            (number, (u32::from_str_radix(next(), 8).expect("octal flags"), next()))
        })
        .collect();
    assert_eq!(fds.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5], "{fds:?}");
    let flag = |flag: i32| u32::try_from(flag).expect("a flag is positive");
    for (number, (flags, target)) in fds.iter().filter(|(number, _)| **number >= 3) {
        assert!(target.starts_with("socket:"), "{number} is {target}");
        assert_eq!(flags & flag(nix::libc::O_NONBLOCK), 0, "{number} is non-blocking");
        assert_eq!(flags & flag(nix::libc::O_CLOEXEC), 0, "{number} is close-on-exec");
    }
    assert_eq!(fds[&0].1, "/dev/null");

    // Nothing is blocked or ignored, SIGPIPE least of all, and it leads a session of its own.
    assert_eq!(u64::from_str_radix(found.one("SigBlk"), 16), Ok(0));
    assert_eq!(u64::from_str_radix(found.one("SigIgn"), 16).expect("a mask") & !(1 << (nix::libc::SIGPIPE - 1)), 0);
    assert_eq!((found.one("group"), found.one("session")), (found.one("pid"), found.one("pid")));
    let own = fs::read_to_string("/proc/self/limits").expect("there is a /proc");
    let own = own.lines().find(|line| line.starts_with("Max open files")).expect("there is a limit");
    assert_eq!(found.one("limit"), own.split_whitespace().collect::<Vec<_>>().join(" "));
    assert_eq!(supervisor.end().code(), Some(0));
}

#[test]
fn listen_pid_can_be_left_out() {
    let z = Zdsup::serving_with(&["report", "--to", "report"], |setup, place| {
        setup.command[3] = place.join("report").display().to_string();
        setup.service = vec!["listen-pid = false".into()];
    });
    let found = Found(fs::read_to_string(z.place.join("report")).expect("it reported"));
    assert_eq!(found.environment().get("LISTEN_FDS"), Some(&"1"));
    assert_eq!(found.environment().get("LISTEN_PID"), None);
    z.end();
}

/// Row 5: blocking, as from systemd, unless the service counts on the contrary.
#[test]
fn listeners_are_non_blocking_where_that_is_asked_for() {
    for asked in [false, true] {
        let z = Zdsup::serving_with(&["report", "--to", "report"], |setup, place| {
            setup.command[3] = place.join("report").display().to_string();
            setup.service = vec![format!("non-blocking = {asked}")];
        });
        let found = Found(fs::read_to_string(z.place.join("report")).expect("it reported"));
        let listener = found.all("fd").find_map(|fd| fd.strip_prefix("3 ")).expect("it has its listener");
        let flags = listener.split(' ').next().and_then(|flags| i32::from_str_radix(flags, 8).ok()).expect("flags");
        assert_eq!(flags & nix::libc::O_NONBLOCK != 0, asked, "{listener}");
        z.end();
    }
}

#[test]
fn a_reload_takes_the_fresh_environment_and_directory() {
    let mut z = Zdsup::serving_with(&["report", "--to", "report"], |setup, place| {
        for name in ["one", "two"] {
            fs::create_dir(place.join(name)).expect("a directory can be made");
        }
        std::os::unix::fs::symlink(place.join("one"), place.join("current")).expect("a link can be made");
        fs::write(place.join("env"), "FRESH=one\n# a comment\n\nQUOTED=a b\n").expect("a file can be written");
        setup.command[3] = place.join("report").display().to_string();
        setup.service = vec![
            format!("environment-file = {:?}", place.join("env")),
            format!("working-directory = {:?}", place.join("current")),
            "environment = { FIXED = \"1\" }".into(),
            "clear-environment = true".into(),
            "umask = \"0027\"".into(),
            "limits = { nofile = 777 }".into(),
        ];
    });
    let look = |z: &Zdsup| Found(fs::read_to_string(z.place.join("report")).expect("it reported"));
    let found = look(&z);
    assert_eq!(found.environment().get("FRESH"), Some(&"one"));
    assert_eq!(found.environment().get("FIXED"), Some(&"1"));
    assert_eq!(found.environment().get("PATH"), None, "the environment was to be cleared");
    assert_eq!(found.one("directory"), z.place.join("one").display().to_string());
    assert_eq!(found.one("Umask"), "0027");
    assert!(found.one("limit").contains("777 777"), "{}", found.one("limit"));

    fs::write(z.place.join("env"), "FRESH=two\n").expect("a file can be written");
    fs::remove_file(z.place.join("current")).expect("it is there");
    std::os::unix::fs::symlink(z.place.join("two"), z.place.join("current")).expect("a link can be made");
    z.configure(|setup| setup.service[2] = "environment = { FIXED = \"2\" }".into());
    z.upgrade();
    let found = look(&z);
    assert_eq!(found.environment().get("FRESH"), Some(&"two"));
    assert_eq!(found.environment().get("FIXED"), Some(&"2"));
    assert_eq!(found.one("directory"), z.place.join("two").display().to_string());
    z.end();
}

#[test]
fn a_service_runs_as_another_user() {
    if !is_root() {
        return skip("only root can run a service as another user");
    }
    let z = Zdsup::serving_with(&["report", "--to", "report"], |setup, place| {
        fs::create_dir(place.join("out")).expect("a directory can be made");
        nix::unistd::chown(&place.join("out"), Some(65534.into()), Some(65534.into())).expect("root may");
        setup.command[3] = place.join("out/report").display().to_string();
        setup.service = vec![
            "user = \"65534\"".into(),
            "group = \"65534\"".into(),
            "supplementary-groups = []".into(),
            "no-new-privileges = true".into(),
        ];
    });
    let found = Found(fs::read_to_string(z.place.join("out/report")).expect("it reported"));
    assert_eq!((found.one("Uid"), found.one("Gid")), ("65534 65534 65534 65534", "65534 65534 65534 65534"));
    assert_eq!(found.all("Groups").next().unwrap_or_default(), "");
    assert_eq!(found.one("NoNewPrivs"), "1");
    z.end();
}

#[test]
fn the_control_socket_speaks_plain_http() {
    let z = Zdsup::serving(&["serve"]);
    let socket = z.supervisor.control_socket();
    let ask = |method: &str, path: &str, body: Option<&str>| {
        client::control(&socket, method, path, body).expect("it answers")
    };
    let accepted = ask("POST", "/v1/upgrades", Some(r#"{"kind":"reload"}"#));
    assert_eq!(accepted.status, 202, "{}", accepted.body);
    let id = serde_json::from_str::<serde_json::Value>(&accepted.body).expect("JSON")["id"].as_u64().expect("a number");
    assert_eq!(z.supervisor.verdict_of(id).verdict, Verdict::Upgraded);
    assert_eq!(ask("GET", "/v1/upgrades/999", None).status, 404);
    assert_eq!(ask("GET", "/v1/nothing", None).status, 404);
    assert_eq!(ask("DELETE", "/v1/status", None).status, 405);
    for body in
        ["", "{", "{}", r#"{"kind":"start"}"#, r#"{"kind":"reload","x":1}"#, r#"{"kind":"reload","service":"x"}"#]
    {
        let answer = ask("POST", "/v1/upgrades", Some(body));
        assert!((400..500).contains(&answer.status), "{body:?}: {} {}", answer.status, answer.body);
    }
    // Nothing of this was an upgrade.
    z.settled(2);
    z.end();
}

#[test]
fn a_client_that_is_cut_off_changes_nothing() {
    let mut z = Zdsup::serving(&["serve"]);
    let gate = z.place.join("gate");
    z.release(&["serve", "--gate", &gate.display().to_string()]);
    let mut waiting = command(&z.supervisor.runtime)
        .arg("reload")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("zdsup can be started");
    z.wait_for("it begins", |status| status.services[0].upgrade.is_some());
    waiting.kill().expect("it is our child");
    waiting.wait().expect("it is our child");
    fs::write(gate, "").expect("it can be written");
    z.settled(2);
    assert_eq!(z.supervisor.verdict_of(2).verdict, Verdict::Upgraded);
    z.end();
}

#[test]
fn an_interrupted_reload_goes_on() {
    let mut z = Zdsup::serving(&["serve"]);
    let gate = z.place.join("gate");
    z.release(&["serve", "--gate", &gate.display().to_string()]);
    let mut waiting = command(&z.supervisor.runtime)
        .arg("reload")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("zdsup can be started");
    // Before that it may not know yet that the supervisor has heard it.
    let mut progress = BufReader::new(waiting.stderr.take().expect("it is piped"));
    let mut text = String::new();
    progress.read_line(&mut text).expect("it says how far it is");
    z.wait_for("the candidate runs", |status| status.services[0].generations.len() == 2);
    process::kill(waiting.id(), Signal::SIGINT);
    progress.read_to_string(&mut text).expect("it says what becomes of it");
    assert_eq!(waiting.wait().expect("it is our child").code(), Some(130), "{text}");
    assert!(text.contains("goes on") && text.contains("zdsup abort"), "{text}");
    fs::write(gate, "").expect("it can be written");
    z.settled(2);
    z.end();
}

#[test]
fn a_reload_that_cannot_say_what_happens_says_that_it_goes_on() {
    let mut z = Zdsup::serving(&["serve"]);
    let gate = z.place.join("gate");
    z.release(&["serve", "--gate", &gate.display().to_string()]);
    for more in [&[][..], &["--no-wait"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("there is one");
        let mut reload = command(&z.supervisor.runtime);
        let output = reload.args(["reload", "--json"]).args(more).stdout(full).output().expect("zdsup can be started");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("cannot write to stdout") && text.contains("web goes on"), "{text}");
    }
    fs::write(gate, "").expect("it can be written");
    z.settled(3);
    z.end();
}

#[test]
fn supervisors_are_found_by_name() {
    let place = Place::new();
    let base = place.join("x");
    let mut supervisors = vec![];
    let environment = BTreeMap::from([("XDG_RUNTIME_DIR".to_owned(), base.display().to_string())]);
    let run = |words: &[&str]| {
        let mut command = Command::new(zdsup());
        command.args(words).env_remove("ZDSUP_NAME").envs(&environment).output().expect("zdsup can be started")
    };
    for name in ["one", "two"] {
        let place = Place::new();
        let mut arguments = vec!["--name".into(), name.into(), "--listen".into(), format!("{}:8080", place.address())];
        arguments.extend(["--", &hazard().display().to_string(), "serve"].map(str::to_owned));
        let runtime = base.join("zdsup").join(name);
        let state = BTreeMap::from([("STATE_DIRECTORY".to_owned(), place.join("state").display().to_string())]);
        supervisors.push((Supervisor::start_in(&place, runtime, &arguments, &state), place));
    }
    for (supervisor, _) in &supervisors {
        supervisor.wait_for("it serves", |status| status.services[0].serving == Some(1));
    }
    let one = run(&["status", "--json", "--name", "one"]);
    assert_eq!(one.status.code(), Some(0), "{one:?}");
    assert!(String::from_utf8_lossy(&one.stdout).contains("\"one\""));
    let both = run(&["status"]);
    let text = String::from_utf8_lossy(&both.stderr).into_owned();
    assert_eq!(both.status.code(), Some(3), "{both:?}");
    assert!(text.contains("one") && text.contains("two"), "{text}");
    let none = run(&["status", "--name", "three"]);
    assert_eq!(none.status.code(), Some(3), "{none:?}");
    for (supervisor, _) in &mut supervisors {
        assert_eq!(supervisor.end().code(), Some(0));
    }
}

#[test]
fn two_supervisors_do_not_share_a_runtime_directory() {
    let z = Zdsup::serving(&["serve"]);
    let second = command(&z.supervisor.runtime).args(["run", "--", "true"]).output().expect("zdsup can be started");
    assert_eq!(second.status.code(), Some(5), "{second:?}");
    assert!(String::from_utf8_lossy(&second.stderr).contains("already runs"), "{second:?}");
    assert_eq!(z.get("/").generation(), 1);
    eventually("the first is unharmed", || Connection::tcp(z.address()).ok());
    z.end();
}

#[test]
fn log_lines_carry_the_service_and_the_generation() {
    let z = Zdsup::serving_with(&["serve"], |setup, _| {
        setup.arguments = ["--log-format", "json"].map(str::to_owned).into()
    });
    z.upgrade();
    z.settled(2);
    let log = z.supervisor.log();
    let lines =
        log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|_| panic!("{line}")));
    let about_two = lines.filter(|line| line["service"] == "web" && line["generation"] == 2).count();
    assert!(about_two >= 4, "starting, spawned, ready and serving, each with its names:\n{log}");
    z.end();
}
