//! The keeper: with a stand-in for the supervisor (tests/process/keeper/kept.rs), and with the real one.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::Signal;
use zdsup::control::types::{Status, SupervisorStatus};

use crate::support::supervisor::{command, wrapped};
use crate::support::{Load, Place, SOON, Zdsup, eventually, hazard, is_root, process, skip, zdsup};

/// A keeper; it and all that it started end with it.
struct Keeper {
    child: Child,
    listener: UnixListener,
    place: Place,
}

/// Its supervisor for the time being.
struct StandIn {
    stream: BufReader<UnixStream>,
    born: Vec<String>,
}

impl Keeper {
    fn start() -> Self {
        Self::start_with(|_| ())
    }

    fn start_with(adjust: impl FnOnce(&mut Command)) -> Self {
        Self::start_by(&mut Command::new(kept()), adjust)
    }

    fn start_by(command: &mut Command, adjust: impl FnOnce(&mut Command)) -> Self {
        let place = Place::new();
        let listener = UnixListener::bind(place.join("kept")).expect("a path is free");
        listener.set_nonblocking(true).expect("it is a socket");
        let log = File::create(place.join("log")).expect("a log can be made");
        command.args(["__keeper", "run", "--name", "web", "--keeper", "--", "prog", "--keeper"]);
        for name in ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_PID"] {
            command.env_remove(name);
        }
        command.env("KEPT", place.join("kept")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        adjust(command);
        let child = command.spawn().expect("the keeper can be started; `cargo build --examples` builds it");
        Self { child, listener, place }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn signal(&self, signal: Signal) {
        process::kill(self.pid(), signal);
    }

    /// The next supervisor that starts.
    #[track_caller]
    fn next(&self) -> StandIn {
        let (stream, _) = eventually("a supervisor starts", || {
            assert!(process::is_alive(self.pid()), "the keeper has ended");
            self.listener.accept().ok()
        });
        stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(SOON))).expect("it is a socket");
        let mut stream = BufReader::new(stream);
        let lines = std::iter::from_fn(|| {
            let mut line = String::new();
            stream.read_line(&mut line).expect("it says what it was born with");
            Some(line.trim_end().to_owned()).filter(|line| !line.is_empty())
        });
        let born = lines.collect();
        StandIn { stream, born }
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.place.join("log")).unwrap_or_default()).into_owned()
    }

    #[track_caller]
    fn wait_for_log(&self, text: &str) {
        eventually(&format!("the log says {text:?}"), || self.log().contains(text).then_some(()));
    }

    #[track_caller]
    fn wait(&mut self) -> ExitStatus {
        eventually("the keeper ends", || self.child.try_wait().expect("it is our child"))
    }

    /// Ends it by the end of its supervisor.
    #[track_caller]
    fn end(mut self, mut by: StandIn) {
        by.order("exit 0");
        assert_eq!(self.wait().code(), Some(0), "{}", self.log());
    }

    /// Descriptors that it has open.
    fn open(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("it lives").count()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Stopped, it starts no other.
        self.signal(Signal::SIGSTOP);
        let children = process::children(self.pid());
        let _ = self.child.kill();
        let _ = self.child.wait();
        for child in children {
            process::kill(child, Signal::SIGKILL);
        }
        if std::thread::panicking() {
            eprintln!("---- what it printed ----\n{}----", self.log());
        }
    }
}

impl StandIn {
    /// Without waiting for an answer.
    fn order(&mut self, line: &str) {
        writeln!(self.stream.get_mut(), "{line}").expect("it listens");
    }

    #[track_caller]
    fn does(&mut self, line: &str) -> String {
        self.order(line);
        let mut answer = String::new();
        let count = self.stream.read_line(&mut answer).expect("it answers");
        assert!(count > 0, "it ended instead of {line:?}");
        answer.trim_end().to_owned()
    }

    /// What it was born with by this name.
    fn born(&self, key: &str) -> &str {
        let value = |line: &'_ String| line.strip_prefix(key).is_some_and(|rest| rest.starts_with([' ', '=']));
        self.born.iter().find(|line| value(line)).map_or("", |line| &line[key.len() + 1..])
    }

    fn pid(&self) -> u32 {
        self.born("pid").parse().expect("a number")
    }

    /// `NAME INODE` of each descriptor.
    fn fds(&self) -> Vec<&str> {
        self.born.iter().filter_map(|line| line.strip_prefix("fd ")).collect()
    }

    fn kill(&self) {
        process::kill(self.pid(), Signal::SIGKILL);
    }
}

fn kept() -> std::path::PathBuf {
    hazard().with_file_name("kept")
}

// ---- what it holds --------------------------------------------------------------------------------------------------

#[test]
fn descriptors_come_back_by_name() {
    let keeper = Keeper::start();
    let mut first = keeper.next();
    assert_eq!(first.fds(), [""; 0]);
    let one = first.does("store zdsup.a 1");
    let two = first.does("store zdsup.b 1");
    let three = first.does("store zdsup.a 1");
    let again = first.does("store-again zdsup.c 3");
    assert_eq!(first.does("barrier"), "done");
    first.kill();
    let expected = [("a", &one), ("b", &two), ("a", &three), ("c", &again)];
    let expected = expected.map(|(name, inode)| format!("zdsup.{name} {inode}"));
    let mut second = keeper.next();
    assert_eq!(second.fds(), expected);
    assert_ne!(second.pid(), first.pid());
    // What was passed on is still held.
    second.does("remove zdsup.a");
    second.kill();
    let third = keeper.next();
    assert_eq!(third.fds(), [&expected[1..2], &expected[3..]].concat());
    let pid = second.pid();
    keeper.wait_for_log(&format!("process {pid}, ended: killed by SIGKILL; starting it again"));
    keeper.end(third);
}

#[test]
fn supervisor_is_born_as_typed() {
    let keeper = Keeper::start_with(|command| {
        command.env("WATCHDOG_PID", "1").env("WATCHDOG_USEC", "1000000").arg0("./zdsup");
    });
    let first = keeper.next();
    let words = fs::read(format!("/proc/{}/cmdline", keeper.pid())).expect("it lives");
    assert_eq!(words.split(|byte| *byte == 0).nth(1), Some(&b"__keeper"[..]));
    let comm = fs::read_to_string(format!("/proc/{}/comm", keeper.pid())).expect("it lives");
    assert_eq!(comm, "zdsup-keeper\n");
    first.kill();
    for supervisor in [first, keeper.next()] {
        assert_eq!(supervisor.born("words"), "./zdsup run --name web -- prog --keeper");
        assert_eq!(supervisor.born("comm"), "kept");
        assert_eq!(supervisor.born("session").parse(), Ok(supervisor.pid()));
        let (soft, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).expect("it has one");
        assert_eq!(supervisor.born("nofile").parse(), Ok(soft));
        // SIGTERM is held back until there are handlers, and none is ignored.
        let blocked = u64::from_str_radix(supervisor.born("blocked"), 16).expect("a mask");
        assert_ne!(blocked & (1 << (Signal::SIGTERM as i32 - 1)), 0);
        assert_eq!(blocked & (1 << (Signal::SIGSEGV as i32 - 1)), 0);
        // (Rust's runtime ignores this one in the stand-in itself.)
        let ignored = u64::from_str_radix(supervisor.born("ignored"), 16).expect("a mask");
        assert_eq!(ignored & !(1 << (Signal::SIGPIPE as i32 - 1)), 0);
        assert_eq!(supervisor.born("env WATCHDOG_USEC"), "1000000");
        assert_eq!(supervisor.born("env WATCHDOG_PID"), "");
        assert!(supervisor.born("env FDSTORE").parse::<usize>().expect("a number") > 0);
    }
}

#[test]
fn garbage_is_survived() {
    let keeper = Keeper::start();
    let mut supervisor = keeper.next();
    let inode = supervisor.does("store zdsup.a 1");
    supervisor.does("barrier");
    let before = (keeper.open(), process::anonymous_memory(keeper.pid()));
    supervisor.does("flood 100000");
    supervisor.does("barrier");
    assert_eq!((keeper.open(), process::anonymous_memory(keeper.pid())), before);
    supervisor.kill();
    let supervisor = keeper.next();
    assert_eq!(supervisor.fds(), [format!("zdsup.a {inode}")]);
    keeper.end(supervisor);
}

#[test]
fn more_than_it_can_hold() {
    let keeper = Keeper::start();
    let mut supervisor = keeper.next();
    let capacity: usize = supervisor.born("env FDSTORE").parse().expect("a number");
    assert!(capacity <= 4096);
    let stored = supervisor.does(&format!("store a {}", capacity + 300));
    let first: Vec<String> = stored.split(' ').take(capacity).map(|inode| format!("a {inode}")).collect();
    supervisor.does("barrier");
    keeper.wait_for_log(&format!("descriptors are refused: {capacity} are held, {capacity} at most"));
    supervisor.kill();
    let mut supervisor = keeper.next();
    assert_eq!(supervisor.fds(), first);
    // There is room again.
    supervisor.does("remove a");
    let inode = supervisor.does("store b 1");
    supervisor.does("barrier");
    supervisor.kill();
    let supervisor = keeper.next();
    assert_eq!(supervisor.fds(), [format!("b {inode}")]);
    assert_eq!(keeper.log().matches("refused").count(), 1, "{}", keeper.log());
    keeper.end(supervisor);
}

/// The kernel executes nothing with a variable of more than 128 KiB.
#[test]
fn longer_names_than_an_environment_takes() {
    let keeper = Keeper::start();
    let mut supervisor = keeper.next();
    let capacity: usize = supervisor.born("env FDSTORE").parse().expect("a number");
    let name = "n".repeat(64);
    supervisor.does(&format!("store {name} {capacity}"));
    supervisor.does(&format!("store {name}n 1"));
    supervisor.does("barrier");
    supervisor.kill();
    let supervisor = keeper.next();
    let fitting = (128 * 1024 - "LISTEN_FDNAMES=".len()) / 65;
    assert_eq!(supervisor.fds().len(), fitting.min(capacity));
    keeper.end(supervisor);
}

#[test]
fn sockets_passed_to_the_keeper_are_passed_on() {
    let script = r#"LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=web:unknown exec "$0" "$@" 3</dev/null 4</dev/zero"#;
    let mut shell = Command::new("sh");
    shell.args(["-c", script]).arg(kept());
    let keeper = Keeper::start_by(&mut shell, |_| ());
    for _ in 0..2 {
        let supervisor = keeper.next();
        let names: Vec<_> = supervisor.fds().iter().filter_map(|fd| fd.split(' ').next()).collect();
        assert_eq!(names, ["web", "unknown"]);
        supervisor.kill();
    }
}

// ---- what is said ---------------------------------------------------------------------------------------------------

#[test]
fn messages_reach_the_manager() {
    let place = Place::new();
    let manager = UnixDatagram::bind(place.join("manager")).expect("a path is free");
    manager.set_read_timeout(Some(SOON)).expect("it is a socket");
    let keeper = Keeper::start_with(|command| _ = command.env("NOTIFY_SOCKET", place.join("manager")));
    let mut supervisor = keeper.next();
    supervisor.does("store zdsup.a 1");
    let messages =
        ["READY=1\\nSTATUS=serving", "RELOADING=1\\nMONOTONIC_USEC=7", "EXTEND_TIMEOUT_USEC=5", "WATCHDOG=1"];
    for message in messages {
        supervisor.does(&format!("say {message}"));
        let mut buffer = [0; 256];
        let length = manager.recv(&mut buffer).expect("it is passed on");
        assert_eq!(String::from_utf8_lossy(&buffer[..length]), message.replace("\\n", "\n"));
    }
    // A manager that does not read keeps nobody waiting.
    for _ in 0..2000 {
        supervisor.does("say STATUS=busy");
    }
    assert_eq!(supervisor.does("barrier"), "done");
    keeper.end(supervisor);
}

#[test]
fn only_the_supervisor_counts() {
    use std::os::linux::net::SocketAddrExt;
    let place = Place::new();
    let manager = UnixDatagram::bind(place.join("manager")).expect("a path is free");
    manager.set_read_timeout(Some(SOON)).expect("it is a socket");
    let keeper = Keeper::start_with(|command| _ = command.env("NOTIFY_SOCKET", place.join("manager")));
    let mut supervisor = keeper.next();
    let inode = supervisor.does("store zdsup.a 1");
    let name = supervisor.born("env NOTIFY_SOCKET").trim_start_matches('@').to_owned();
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name).expect("an abstract name");
    let stranger = UnixDatagram::unbound().expect("a socket can be made");
    for text in ["FDSTOREREMOVE=1\nFDNAME=zdsup.a", "READY=1"] {
        stranger.send_to_addr(text.as_bytes(), &address).expect("anybody can send");
    }
    supervisor.does("say STATUS=mine");
    let mut buffer = [0; 64];
    let length = manager.recv(&mut buffer).expect("it is passed on");
    assert_eq!(&buffer[..length], b"STATUS=mine");
    supervisor.kill();
    let supervisor = keeper.next();
    assert_eq!(supervisor.fds(), [format!("zdsup.a {inode}")]);
    keeper.end(supervisor);
}

// ---- when it starts another, and when not ---------------------------------------------------------------------------

#[test]
fn exit_codes() {
    for (code, why) in [
        (2, "another start would not mend that"),
        (4, "another start would not mend that"),
        (6, "another start would not mend that"),
        (5, "there is nothing to hold"),
    ] {
        let mut keeper = Keeper::start();
        keeper.next().order(&format!("exit {code}"));
        assert_eq!(keeper.wait().code(), Some(code));
        assert!(keeper.log().contains(why), "{}", keeper.log());
    }
    let keeper = Keeper::start();
    let mut first = keeper.next();
    first.does("store zdsup.a 1");
    first.order("exit 1");
    for code in [3, 5, 7, 9, 130] {
        keeper.next().order(&format!("exit {code}"));
        keeper.wait_for_log(&format!("exit status {code}; starting it again"));
    }
    let last = keeper.next();
    keeper.end(last);
}

#[test]
fn too_many_starts() {
    let mut keeper = Keeper::start_with(|command| _ = command.env("KEPT_FAILS", "1"));
    assert_eq!(keeper.wait().code(), Some(1));
    let log = keeper.log();
    assert_eq!(log.matches("starting it again").count(), 60, "{log}");
    assert!(log.contains("the supervisor was started 60 times in 10 s: giving up"), "{log}");
}

#[test]
fn signals_are_passed_on() {
    let keeper = Keeper::start();
    let mut supervisor = keeper.next();
    for signal in [
        Signal::SIGHUP,
        Signal::SIGUSR2,
        Signal::SIGWINCH,
        Signal::SIGQUIT,
        Signal::SIGTSTP,
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGUSR1,
    ] {
        supervisor.order("signal");
        keeper.signal(signal);
        let mut answer = String::new();
        supervisor.stream.read_line(&mut answer).expect("it answers");
        assert_eq!(answer.trim().parse(), Ok(signal as i32));
    }
}

/// Ctrl-C in a terminal is for the whole group: the supervisor hears it once.
#[test]
fn group_signal_arrives_once() {
    let keeper = Keeper::start();
    let mut supervisor = keeper.next();
    let group = nix::unistd::Pid::from_raw(i32::try_from(keeper.pid()).expect("a process number"));
    nix::sys::signal::killpg(group, Signal::SIGINT).expect("it leads a group");
    assert_eq!(supervisor.does("signal"), (Signal::SIGINT as i32).to_string());
    keeper.signal(Signal::SIGHUP);
    assert_eq!(supervisor.does("signal"), (Signal::SIGHUP as i32).to_string());
}

#[test]
fn stop_between_two_supervisors() {
    let keeper = Keeper::start();
    keeper.next().kill();
    keeper.wait_for_log("starting it again");
    keeper.signal(Signal::SIGTERM);
    let mut next = keeper.next();
    assert_eq!(next.does("signal"), (Signal::SIGTERM as i32).to_string());
    // Once told to stop, each is told.
    next.kill();
    let mut next = keeper.next();
    assert_eq!(next.does("signal"), (Signal::SIGTERM as i32).to_string());
    keeper.end(next);
}

#[test]
fn leaving_is_followed_by_the_next() {
    let keeper = Keeper::start();
    let mut supervisor = keeper.next();
    let inode = supervisor.does("store zdsup.a 1");
    keeper.signal(Signal::SIGUSR1);
    assert_eq!(supervisor.does("signal"), (Signal::SIGUSR1 as i32).to_string());
    supervisor.order("exit 0");
    let supervisor = keeper.next();
    assert_eq!(supervisor.fds(), [format!("zdsup.a {inode}")]);
    assert!(keeper.log().contains("has left: starting the next"), "{}", keeper.log());
    keeper.end(supervisor);
}

/// A newer program is run from the next start on; where there is none any more, the keeper's own.
#[test]
fn program_is_replaced() {
    let place = Place::new();
    let (path, newer) = (place.join("prog"), place.join("newer"));
    // By a child: a descriptor for writing that another test's child has would make it ETXTBSY.
    for copy in [&path, &newer] {
        assert!(Command::new("cp").arg(kept()).arg(copy).status().expect("there is cp").success());
    }
    let inode = |path: &Path| fs::metadata(path).expect("it is there").ino();
    let runs = |supervisor: &StandIn| inode(Path::new(&format!("/proc/{}/exe", supervisor.pid())));
    let (old, new) = (inode(&path), inode(&newer));
    let keeper = Keeper::start_by(&mut Command::new(&path), |_| ());
    let first = keeper.next();
    assert_eq!(runs(&first), old);
    fs::rename(&newer, &path).expect("it can be replaced");
    first.kill();
    let second = keeper.next();
    assert_eq!(runs(&second), new);
    fs::remove_file(&path).expect("it can be removed");
    second.kill();
    let third = keeper.next();
    assert_eq!(runs(&third), old);
    keeper.end(third);
}

// ---- the process ----------------------------------------------------------------------------------------------------

#[test]
fn orphans_are_reaped() {
    let keeper = Keeper::start();
    let mut supervisor = keeper.next();
    let orphans: Vec<u32> = (0..3).map(|_| supervisor.does("orphan").parse().expect("a number")).collect();
    supervisor.kill();
    let supervisor = keeper.next();
    let mut children = process::children(keeper.pid());
    children.retain(|child| *child != supervisor.pid());
    assert_eq!(children.len(), 3);
    for orphan in &orphans {
        process::kill(*orphan, Signal::SIGKILL);
    }
    eventually("no zombie is left", || orphans.iter().all(|pid| process::state(*pid).is_none()).then_some(()));
    keeper.end(supervisor);
}

#[test]
fn nothing_is_allocated_after_the_start() {
    let keeper = Keeper::start_with(|command| _ = command.env("KEPT_TELLS", "1"));
    let mut supervisor = keeper.next();
    let (allocated, before) = (keeper.log().matches("ALLOCATED").count(), memory(keeper.pid()));
    assert!(allocated > 0, "the allocator tells");
    for round in 0..4 {
        supervisor.does("store zdsup.a 2");
        supervisor.does("flood 2500");
        keeper.signal(Signal::SIGHUP);
        supervisor.does("orphan");
        supervisor.does("barrier");
        if round % 2 == 0 {
            supervisor.kill();
        } else {
            supervisor.order("exit 1");
        }
        supervisor = keeper.next();
    }
    assert_eq!(keeper.log().matches("ALLOCATED").count(), allocated, "{}", keeper.log());
    assert_eq!(memory(keeper.pid()), before);
    for child in process::children(keeper.pid()).into_iter().filter(|child| *child != supervisor.pid()) {
        process::kill(child, Signal::SIGKILL);
    }
    keeper.end(supervisor);
}

/// All that it could write to, as /proc/PID/status has it: what a C library might take beside Rust's allocator.
fn memory(pid: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    status.lines().find(|line| line.starts_with("VmData:")).expect("a process has memory").to_owned()
}

#[test]
fn supervisor_outlives_the_keeper() {
    let mut keeper = Keeper::start();
    let mut supervisor = keeper.next();
    let _ = keeper.child.kill();
    keeper.wait();
    let orphan: u32 = supervisor.does("orphan").parse().expect("a number");
    process::kill(orphan, Signal::SIGKILL);
    supervisor.order("exit 0");
}

/// The first process of a pid namespace, as in a container.
#[test]
fn first_process() {
    if !is_root() {
        return skip("a pid namespace takes root");
    }
    let mut unshare = Command::new("unshare");
    unshare.args(["--pid", "--fork", "--mount-proc", "--kill-child"]).arg(kept());
    let mut keeper = Keeper::start_by(&mut unshare, |_| ());
    let mut supervisor = keeper.next();
    let inside = process::children(keeper.pid())[0];
    let orphan = supervisor.does("orphan");
    let inode = supervisor.does("store zdsup.a 1");
    supervisor.does("barrier");
    let children = process::children(inside);
    assert_eq!(children.len(), 2, "the supervisor and the orphan {orphan}");
    for child in children {
        process::kill(child, Signal::SIGKILL);
    }
    let mut supervisor = keeper.next();
    assert_eq!(supervisor.fds(), [format!("zdsup.a {inode}")]);
    eventually("no zombie is left", || (process::children(inside).len() == 1).then_some(()));
    process::kill(inside, Signal::SIGTERM);
    assert_eq!(supervisor.does("signal"), (Signal::SIGTERM as i32).to_string());
    supervisor.order("exit 0");
    assert_eq!(keeper.wait().code(), Some(0), "{}", keeper.log());
}

// ---- the real one ---------------------------------------------------------------------------------------------------

#[test]
fn keeper_of_a_real_supervisor() {
    let z = Zdsup::serving_with(&["serve"], |setup, _| setup.arguments.push("--keeper".into()));
    let keeper = z.supervisor.pid();
    let supervisor = z.status().supervisor.pid;
    assert_eq!(process::children(keeper), [supervisor]);
    let words = |pid: u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).expect("it lives");
        String::from_utf8_lossy(&line).replace('\0', " ")
    };
    assert!(words(keeper).contains(" __keeper "), "{}", words(keeper));
    assert_eq!(words(supervisor), words(keeper).replace(" __keeper", "").replace(" --keeper", ""));
    let load = Load::start(&z.target());
    z.upgrade();
    z.supervisor.signal(Signal::SIGHUP);
    z.settled(3);
    load.unharmed();
    let memory = process::anonymous_memory(keeper);
    assert!(memory < 1024, "the keeper has {memory} KiB of its own");
    z.end();
}

/// Whoever dies, and however: no client notices, and what can be done stays the same.
#[test]
fn supervisor_dies() {
    let z = Zdsup::serving_with(&["serve"], |setup, _| setup.arguments.push("--keeper".into()));
    let instance = z.status().services[0].generations[0].instances[0].pid;
    let held = held_by(&z);
    let load = Load::start(&z.target());
    for signal in [Signal::SIGKILL, Signal::SIGABRT, Signal::SIGKILL] {
        let before = z.status().supervisor.pid;
        process::kill(before, signal);
        let next = successor(&z, before);
        assert_eq!(next.services[0].serving, Some(1));
        assert_eq!(next.services[0].generations[0].instances[0].pid, instance);
        load.more(50);
    }
    let before = z.status().supervisor.pid;
    z.supervisor.signal(Signal::SIGUSR1);
    successor(&z, before);
    z.upgrade();
    z.settled(2);
    eventually("as much is held as before", || (held_by(&z) == held).then_some(()));
    load.unharmed();
    z.end();
}

/// A process that nobody else would end.
struct Orphan(u32);

impl Drop for Orphan {
    fn drop(&mut self) {
        process::kill(self.0, Signal::SIGKILL);
    }
}

/// The keeper is killed: nobody would start a successor, so no process is held back for its sake.
#[test]
fn nobody_waits_for_a_keeper_that_is_gone() {
    let mut z = Zdsup::serving_with(&["serve"], |setup, _| setup.arguments.push("--keeper".into()));
    let orphan = Orphan(z.status().supervisor.pid);
    z.supervisor.signal(Signal::SIGKILL);
    z.supervisor.wait(SOON);
    z.upgrade();
    z.settled(2);
    let log = z.supervisor.log();
    assert!(log.contains("the fd store cannot be reached"), "{log}");
    assert!(!log.contains("the fd store does not listen"), "it was held back: {log}");
    let stop = z.supervisor.run(&["stop"]);
    assert!(stop.status.success(), "{stop:?}");
    drop(orphan);
    z.supervisor.nothing_left();
}

/// Between two supervisors the place is taken, too: what runs there is no leftover, but will be gone on with.
#[test]
fn another_of_the_name_is_refused_between_two_supervisors() {
    let z = Zdsup::serving_with(&["serve"], |setup, _| setup.arguments.push("--keeper".into()));
    let before = z.status();
    let load = Load::start(&z.target());
    process::freeze(z.supervisor.pid());
    process::kill(before.supervisor.pid, Signal::SIGKILL);
    eventually("it is dead", || (!process::is_alive(before.supervisor.pid)).then_some(()));
    // Where it is not refused it runs until somebody ends it.
    let mut limited = Command::new("timeout");
    limited.args(["--kill-after=5", "20"]);
    let mut other = command(&z.supervisor.runtime);
    other.arg("run").arg("-c").arg(z.place.join("web.toml")).stdin(Stdio::null());
    let other = wrapped(limited, &other).output().expect("there is timeout");
    let said = String::from_utf8_lossy(&other.stderr);
    assert!(other.status.code() == Some(5) && said.contains("about to be started there again"), "{other:?}");
    z.supervisor.signal(Signal::SIGCONT);
    let after = successor(&z, before.supervisor.pid);
    let pid = |status: &Status| status.services[0].generations[0].instances[0].pid;
    assert_eq!(pid(&after), pid(&before));
    z.upgrade();
    z.settled(2);
    load.unharmed();
    z.end();
}

/// Leaving is no death, however soon it comes.
#[test]
fn supervisor_leaves_again_and_again() {
    let z = Zdsup::serving_with(&["serve"], |setup, _| setup.arguments.push("--keeper".into()));
    for _ in 0..6 {
        let before = z.status().supervisor.pid;
        z.supervisor.signal(Signal::SIGUSR1);
        assert_eq!(successor(&z, before).supervisor.holding, None);
    }
    z.upgrade();
    z.settled(2);
    z.end();
}

/// A stop is neither forgotten nor hurried by the death of the supervisor.
#[test]
fn supervisor_dies_stopping() {
    let mut z = Zdsup::serving_with(&["hangs-drain"], |setup, _| {
        setup.arguments.push("--keeper".into());
        setup.drain = vec!["timeout = \"3s\"".into()];
    });
    let before = z.status().supervisor.pid;
    z.supervisor.signal(Signal::SIGTERM);
    z.supervisor.wait_for_log("draining, 3 s at most");
    process::kill(before, Signal::SIGKILL);
    assert_eq!(z.supervisor.wait(SOON).code(), Some(0));
    let log = z.supervisor.log();
    assert!(log.contains("starting it again") && !log.contains("asked to stop again"), "{log}");
    z.supervisor.nothing_left();
}

/// The state is of a newer zdsup: what runs serves on, who asks is told, and once it can be read all goes on.
#[test]
fn state_skew() {
    let z = Zdsup::serving_with(&["serve"], |setup, _| setup.arguments.push("--keeper".into()));
    let instance = z.status().services[0].generations[0].instances[0].pid;
    let load = Load::start(&z.target());
    let (state, (number, text), holding) = held(&z);
    assert!(holding.holding.as_ref().is_some_and(|reason| reason.contains("of version 4000")), "{holding:?}");
    load.more(50);
    let refused = z.supervisor.run(&["reload"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(5) && said.contains("only holds what runs"), "{refused:?}");
    // Nothing about it has changed, and whoever asks is told.
    let refused = z.supervisor.run(&["reexec"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(5) && said.contains("of version 4000"), "{refused:?}");
    let holding = successor(&z, holding.pid).supervisor;
    state.write(number + 2, &text);
    assert!(z.supervisor.run(&["reexec"]).status.success());
    let after = successor(&z, holding.pid);
    assert_eq!((after.supervisor.holding, after.services[0].serving), (None, Some(1)));
    assert_eq!(after.services[0].generations[0].instances[0].pid, instance);
    z.upgrade();
    z.settled(2);
    load.unharmed();
    z.end();
}

/// Children in sessions of their own, which only their environment tells, are no less a part of what is held.
#[test]
fn what_is_held_ends_whole() {
    let z = Zdsup::serving_with(&["serve"], |setup, _| {
        setup.arguments.push("--keeper".into());
        let script = format!("setsid sleep 3600 & exec {}", setup.command.join(" "));
        setup.command = vec!["/bin/sh".into(), "-c".into(), script];
    });
    eventually("both run", || (process::instances_of(&z.supervisor.runtime).len() == 2).then_some(()));
    held(&z);
    z.end();
}

/// The supervisor is followed by one that cannot read the state, and holds.
#[track_caller]
fn held(z: &Zdsup) -> (State, (u64, String), SupervisorStatus) {
    let before = z.status().supervisor.pid;
    process::freeze(before);
    let state = State::of(z.supervisor.pid());
    let (number, text) = state.newest();
    let newer = text.replacen("\"version\":", "\"version\":4000", 1);
    assert_ne!(newer, text);
    state.write(number + 1, &newer);
    process::kill(before, Signal::SIGKILL);
    let holding = successor(z, before).supervisor;
    (state, (number, text), holding)
}

/// What is kept for a successor, as src/supervisor/survival/memory.rs has it.
struct State(File);

impl State {
    const HALVES: [u64; 2] = [4096, 4096 + (16 << 20)];

    /// Of this process, which holds it.
    fn of(pid: u32) -> Self {
        let mut paths = fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives").flatten().map(|entry| entry.path());
        let is_state = |path: &std::path::PathBuf| {
            fs::read_link(path).is_ok_and(|target| target.to_string_lossy().starts_with("/memfd:zdsup-state"))
        };
        let path = paths.find(is_state).expect("it holds the state");
        Self(File::options().read(true).write(true).open(path).expect("it may be looked into"))
    }

    /// The number of the newest document, and what it says.
    fn newest(&self) -> (u64, String) {
        let half = |start| {
            let mut header = [0; 16];
            self.0.read_exact_at(&mut header, start).expect("a half has a header");
            let [number, length] = [0, 8].map(|at| u64::from_le_bytes(*header[at..].first_chunk().expect("a word")));
            let mut text = vec![0; usize::try_from(length).expect("it fits")];
            self.0.read_exact_at(&mut text, start + 24).expect("it is as long as it says");
            (number, String::from_utf8(text).expect("JSON"))
        };
        Self::HALVES.map(half).into_iter().max().expect("two halves")
    }

    fn write(&self, number: u64, text: &str) {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&number.to_le_bytes());
        hasher.update(text.as_bytes());
        let header = [number, text.len() as u64, u64::from(hasher.finalize())].map(u64::to_le_bytes);
        let half = [header.as_flattened(), text.as_bytes()].concat();
        let [even, odd] = Self::HALVES;
        self.0.write_all_at(&half, if number.is_multiple_of(2) { even } else { odd }).expect("there is room");
    }
}

/// The status of another supervisor than that one.
#[track_caller]
fn successor(z: &Zdsup, before: u32) -> Status {
    z.wait_for("another supervisor answers", |status| status.supervisor.pid != before)
}

/// Descriptors that the keeper has open.
fn held_by(z: &Zdsup) -> usize {
    fs::read_dir(format!("/proc/{}/fd", z.supervisor.pid())).expect("it lives").count()
}

#[test]
fn command_line() {
    let run = |words: &[&str], place: &Place| {
        Command::new(zdsup()).args(words).current_dir(place.path()).output().expect("zdsup can be started")
    };
    let place = Place::new();
    // What the supervisor says of its command line is how the keeper ends.
    let output = run(&["run", "--keeper"], &place);
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("there is nothing to run") && stderr.contains("zdsup keeper: "), "{stderr}");
    assert_eq!(run(&["run", "--keeper", "--nonsense"], &place).status.code(), Some(2));
    assert_eq!(run(&["reload", "--keeper"], &place).status.code(), Some(2));
    let output = run(&["run", "--runtime-dir", "r", "-c", "none.toml", "--", "--keeper"], &place);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("zdsup keeper"), "it is the command's");
    assert!(!Path::new(&place.join("r")).exists());
}

/// A pipe that is full and that nobody reads does not hold it up.
#[test]
fn blocked_stderr() {
    let (_reader, mut writer) = std::io::pipe().expect("a pipe can be made");
    nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096)).expect("it is a pipe");
    writer.write_all(&[b'x'; 4096]).expect("it fits");
    let keeper = Keeper::start_with(|command| _ = command.stderr(writer));
    keeper.next().order("exit 1");
    keeper.next().kill();
    let last = keeper.next();
    keeper.end(last);
}
