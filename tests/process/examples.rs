//! The examples, with their own configs: each is upgraded under load, and no client notices.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use zdsup::control::types::{ServiceState, Status, Verdict};
use zdsup::load::{self, Plan};

use crate::support::process::settled_holdings;
use crate::support::{self, Place, SOON, Supervisor, eventually, skip};

/// Upgrades of each.
const UPGRADES: usize = 3;

#[test]
fn rust() {
    let example = Example::start("hyper.toml", &[]);
    example.upgraded_under_load();
}

#[test]
fn python() {
    if found("python3") {
        Example::start("python/server.toml", &[]).upgraded_under_load();
    }
}

#[test]
fn node() {
    if found("node") {
        Example::start("node/server.toml", &[]).upgraded_under_load();
    }
}

#[test]
fn go() {
    go_server(|_| {});
}

/// Three processes of it, each in slots of its own.
#[test]
fn go_in_slots() {
    go_server(|changes| changes.push(("[service.web]", "[service.web]\ntraffic = \"steered\"\ninstances = 3")));
}

fn go_server(change: impl FnOnce(&mut Vec<(&str, &str)>)) {
    if !found("go") {
        return;
    }
    let place = Place::new();
    let server = place.join("server").display().to_string();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/go/main.go");
    let mut build = Command::new("go");
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("go");
    build.args(["build", "-o", &server]).arg(source).env("GOCACHE", cache);
    assert!(build.status().expect("it can be run").success());
    let mut changes = vec![("/tmp/server", server.as_str())];
    change(&mut changes);
    Example::start_in(place, "go/server.toml", &changes).upgraded_under_load();
}

#[test]
fn shell() {
    let place = Place::new();
    let inbox = place.join("inbox");
    let mut example = Example::start_in(place, "shell/serve.toml", &[("/tmp/inbox", &inbox.display().to_string())]);
    let address = example.place.address();
    let socket = UdpSocket::bind((address.as_str(), 0)).expect("a socket can be bound");
    let mut sent = 0;
    for _ in 0..UPGRADES {
        for _ in 0..20 {
            sent += 1;
            socket.send_to(format!("letter {sent}\n").as_bytes(), (address.as_str(), 5140)).expect("it can be sent");
        }
        example.supervisor.upgrade("reload", &[]).is(Verdict::Upgraded);
    }
    // Each once, whoever read it.
    eventually("every letter is there", || {
        let mut letters: Vec<String> = read_all(&inbox).lines().map(str::to_owned).collect();
        letters.sort();
        letters.dedup();
        (letters.len() == sent).then_some(())
    });
    assert_eq!(read_all(&inbox).lines().count(), sent, "a letter came twice");
    example.end();
}

/// Established connections live through a hundred upgrades: every line is answered once, in order, with the next number,
/// however it is cut into packets. The supervisor holds nothing more than before.
#[test]
fn counter() {
    const UPGRADES: u64 = 100;
    const CLIENTS: usize = 8;
    let mut example = Example::start("counter.toml", &[]);
    let address = example.target();
    let idle = Line::new(address);
    let (over, lines) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        // Whatever goes wrong, the clients end.
        let raise = Raise(&over);
        let (over, lines) = (&over, &lines);
        let client = |number| scope.spawn(move || Line::new(address).converse(number, over, lines));
        let clients: Vec<_> = (0..CLIENTS).map(client).collect();
        let mut held = None;
        for number in 1..=UPGRADES {
            // Everybody has spoken with this generation before the next one comes.
            let target = lines.load(Ordering::Relaxed) + 20;
            eventually("lines are answered", || (lines.load(Ordering::Relaxed) >= target).then_some(()));
            example.supervisor.upgrade("reload", &[]).is(Verdict::Upgraded);
            if number == 10 {
                example.settled(number + 1);
                held = Some(settled_holdings(example.supervisor.pid(), &example.supervisor.runtime, None));
            }
        }
        let status = example.settled(UPGRADES + 1);
        assert_eq!((status.services[0].fd_store, status.services[0].fd_store_max), (1, 1));
        // What is on its way from process to process is nobody's for a moment.
        example.supervisor.wait_for("every connection has arrived", |status| {
            status.services[0].generations[0].connections == Some(CLIENTS as u64 + 1)
        });
        let held = held.expect("it came by");
        let now = settled_holdings(example.supervisor.pid(), &example.supervisor.runtime, Some(&held));
        assert!(now.is_within(&held), "{now:?} after {UPGRADES} upgrades, {held:?} after 10");
        drop(raise);
        for client in clients {
            let generations = client.join().expect("its connection lived");
            assert!(generations as u64 > UPGRADES / 2, "only {generations} generations answered it");
        }
    });
    // One that said nothing all the time.
    let mut idle = idle;
    idle.write("at last\n");
    assert_eq!(idle.read(), (1, UPGRADES + 1, "at last".into()));
    example.end();
}

/// A connection to the counter.
struct Line {
    reader: BufReader<TcpStream>,
}

impl Line {
    fn new(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the listener is bound");
        stream.set_read_timeout(Some(SOON)).expect("a timeout can be set");
        stream.set_nodelay(true).expect("an option can be set");
        Self { reader: BufReader::new(stream) }
    }

    fn write(&mut self, text: &str) {
        self.reader.get_mut().write_all(text.as_bytes()).expect("the connection lives");
    }

    /// The number, the generation that answered, and the line.
    fn read(&mut self) -> (u64, u64, String) {
        let mut answer = String::new();
        self.reader.read_line(&mut answer).expect("the connection lives");
        let answer = answer.strip_suffix('\n').unwrap_or_else(|| panic!("cut off after {answer:?}"));
        let mut words = answer.splitn(3, ' ');
        let mut word = || words.next().unwrap_or_else(|| panic!("no answer of the counter: {answer:?}"));
        let number = word().parse().expect("a number");
        let generation = word().strip_prefix("counter@").and_then(|name| name.split('.').next());
        (number, generation.and_then(|text| text.parse().ok()).expect("a name"), word().to_owned())
    }

    /// Speaks until it is over, in pieces of all lengths, several lines ahead of the answers. Counts who answered.
    fn converse(mut self, client: usize, over: &AtomicBool, lines: &AtomicU64) -> usize {
        let mut generations = BTreeSet::new();
        let (mut sent, mut answered, mut text) = (0, 0, String::new());
        let mut piece = client;
        while !over.load(Ordering::Relaxed) {
            while sent < answered + 5 {
                sent += 1;
                text.push_str(&format!("line {sent} of client {client}{}\n", "!".repeat(sent as usize * 7 % 50)));
            }
            // It ends anywhere in a line: the rest of it may go to another process.
            piece = (piece * 31 + 17) % 97;
            let part: String = text.drain(..piece.min(text.len())).collect();
            self.write(&part);
            // What is complete is answered.
            let complete = sent - text.matches('\n').count() as u64;
            while answered < complete {
                answered += 1;
                let (number, generation, line) = self.read();
                assert_eq!(number, answered, "client {client}");
                let expected = format!("line {answered} of client {client}{}", "!".repeat(answered as usize * 7 % 50));
                assert_eq!(line, expected);
                generations.insert(generation);
                lines.fetch_add(1, Ordering::Relaxed);
            }
        }
        generations.len()
    }
}

/// Raises a flag when it is dropped.
struct Raise<'a>(&'a AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Every visit is counted once, whichever generation it came to, and no request fails; also after a crash.
#[test]
fn sessions() {
    const CLIENTS: usize = 8;
    let mut example = Example::start("sessions.toml", &[]);
    let address = example.target();
    let (over, visits) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut clients: Vec<Visitor> = std::thread::scope(|scope| {
        let raise = Raise(&over);
        let client = || {
            let mut visitor = Visitor::default();
            while !over.load(Ordering::Relaxed) {
                visitor.visit(address);
                visits.fetch_add(1, Ordering::Relaxed);
            }
            visitor
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        for _ in 0..UPGRADES {
            let target = visits.load(Ordering::Relaxed) + 100;
            eventually("visits are counted", || (visits.load(Ordering::Relaxed) >= target).then_some(()));
            example.supervisor.upgrade("reload", &[]).is(Verdict::Upgraded);
        }
        let status = example.settled(UPGRADES as u64 + 1);
        assert_eq!((status.services[0].fd_store, status.services[0].fd_store_max), (1, 1));
        drop(raise);
        clients.into_iter().map(|client| client.join().expect("no request failed")).collect()
    });
    assert!(clients.iter().any(|client| client.generations.len() > UPGRADES), "each generation answered somebody");

    // A crash takes connections with it, and no session.
    let status = example.supervisor.status();
    let pid = status.services[0].generations[0].instances[0].pid.expect("it runs");
    support::process::kill(pid, nix::sys::signal::Signal::SIGKILL);
    example.supervisor.wait_for("it runs again", |status| {
        let again = status.services[0].generations[0].instances.first().and_then(|instance| instance.pid);
        status.services[0].state == ServiceState::Serving && again != Some(pid)
    });
    for client in &mut clients {
        client.connection = None;
        client.visit(address);
    }
    // Somebody without a session, or with one of his own making, gets a new one.
    let mut forger = Visitor { cookie: Some("1-0000000000000001".into()), ..Visitor::default() };
    forger.visit(address);
    example.end();
}

/// A client with a session.
#[derive(Default)]
struct Visitor {
    connection: Option<BufReader<TcpStream>>,
    cookie: Option<String>,
    visits: u64,
    generations: BTreeSet<String>,
}

impl Visitor {
    /// Makes a visit, which must be the next one of its session.
    fn visit(&mut self, address: SocketAddr) {
        let mut connection = self.connection.take().unwrap_or_else(|| {
            let stream = TcpStream::connect(address).expect("the listener is bound");
            stream.set_read_timeout(Some(SOON)).expect("a timeout can be set");
            BufReader::new(stream)
        });
        let cookie = self.cookie.as_ref().map(|cookie| format!("cookie: session={cookie}\r\n")).unwrap_or_default();
        let request = format!("GET / HTTP/1.1\r\nhost: localhost\r\n{cookie}\r\n");
        connection.get_mut().write_all(request.as_bytes()).expect("the connection lives");
        let (mut length, mut close) = (0, false);
        loop {
            let mut line = String::new();
            assert_ne!(connection.read_line(&mut line).expect("it answers"), 0, "the connection was closed");
            if let Some(cookie) = line.strip_prefix("set-cookie: session=") {
                self.cookie = Some(cookie.trim().to_owned());
            } else if let Some(text) = line.strip_prefix("content-length: ") {
                length = text.trim().parse().expect("a number");
            }
            close |= line.starts_with("connection: close");
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        connection.read_exact(&mut body).expect("it answers");
        let body = String::from_utf8(body).expect("text");
        self.visits += 1;
        let by = body.strip_prefix(&format!("visit {} by ", self.visits));
        self.generations.insert(by.unwrap_or_else(|| panic!("not visit {}: {body}", self.visits)).to_owned());
        self.connection = (!close).then_some(connection);
    }
}

/// A schema is expanded and contracted under load, both releases right throughout. One that would lock requests out for
/// long is interrupted, and so is one that cannot get the lock: the upgrade fails, and nobody notices.
#[test]
fn migration() {
    const ROWS: u64 = 20_000;
    if !found("python3") {
        return;
    }
    let place = Place::new();
    let app = place.join("app");
    for directory in ["migration", "python"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(directory);
        copy(&from, &app.join(directory));
    }
    let switch = |release: u64| {
        let (new, current) = (app.join("new"), app.join("migration/current"));
        std::os::unix::fs::symlink(format!("releases/{release}"), &new).expect("a link can be made");
        fs::rename(new, current).expect("it can be replaced");
    };
    let database = app.join("visits.db");
    let sql = |statement: &str| {
        let script = "import sqlite3, sys; print(*[row[0] for row in sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None).execute(sys.argv[2])])";
        let ran = Command::new("python3").args(["-c", script]).arg(&database).arg(statement).output();
        let ran = ran.expect("there is python3");
        assert!(ran.status.success(), "{statement}: {ran:?}");
        String::from_utf8(ran.stdout).expect("text").trim().to_owned()
    };
    let version: u64 =
        sql("SELECT substr(sqlite_version(), 3, instr(substr(sqlite_version(), 3), '.') - 1)").parse().unwrap_or(0);
    if version < 35 {
        return skip("dropping a column takes SQLite 3.35");
    }
    switch(1);
    let changes = [("/srv/app", app.to_str().expect("text"))];
    let mut example = Example::start_in(place, "migration/migration.toml", &changes);
    sql(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS}) INSERT INTO visits (who) SELECT 'guest ' || i FROM n"
    ));
    let load = example.load();

    // Somebody else holds the lock for longer than the migration waits, and for less than requests do.
    switch(2);
    let script = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None); db.execute('BEGIN IMMEDIATE'); print(flush=True); sys.stdin.read()";
    let mut holder = Command::new("python3");
    holder.args(["-c", script]).arg(&database).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut holder = holder.spawn().expect("there is python3");
    holder.stdout.take().expect("a pipe").read_exact(&mut [0]).expect("it has the lock");
    let reload = example.supervisor.upgrade("reload", &[]).is(Verdict::Failed).still_serving(1);
    drop(holder.stdin.take());
    assert!(holder.wait().expect("it is our child").success());
    reload.because("the before-start hook failed").last_lines_say("add the column visitor: database is locked");

    example.supervisor.upgrade("reload", &[]).is(Verdict::Upgraded);
    example.supervisor.wait_for_log("web hook after-drain | contract: drop the column who\n");
    let columns = "SELECT group_concat(name) FROM pragma_table_info('visits')";
    eventually("it is contracted", || (sql(columns) == "id,visitor").then_some(()));
    example.supervisor.upgrade("restart", &[]).is(Verdict::Upgraded);

    // By far longer than requests wait for the lock.
    switch(3);
    let reload = example.supervisor.upgrade("reload", &[]).is(Verdict::Failed).still_serving(4);
    reload.last_lines_say("it would block requests for more than 0.2 s");
    assert_eq!(sql(columns), "id,visitor");

    let report = load.stop();
    assert_eq!(report.failed(), 0, "{:?} {:?}", report.errors, report.examples);
    let answers: u64 = report.answers().values().sum();
    assert_eq!(report.answers().len(), 3, "{:?}", report.answers());
    assert_eq!(sql("SELECT count(*) FROM visits WHERE visitor LIKE 'guest %'").parse(), Ok(ROWS + answers));
    assert_eq!(sql("SELECT count(*) FROM visits").parse(), Ok(ROWS + answers));
    example.end();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory can be made");
    for entry in fs::read_dir(from).expect("it is there").flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(path, to).expect("it can be copied");
        }
    }
}

/// Whatever lies below a path, as one text.
fn read_all(path: &Path) -> String {
    if path.is_file() {
        return fs::read_to_string(path).unwrap_or_default();
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| read_all(&entry.path())).collect()
}

fn found(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
    if !there {
        skip(&format!("{program} is not in PATH"));
    }
    there
}

struct Example {
    // First, so that it ends while its place is there.
    supervisor: Supervisor,
    place: Place,
}

impl Example {
    fn start(config: &str, changes: &[(&str, &str)]) -> Self {
        Self::start_in(Place::new(), config, changes)
    }

    /// The example's own config, with the paths of this checkout and an address of this test.
    fn start_in(place: Place, config: &str, changes: &[(&str, &str)]) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut text = fs::read_to_string(root.join("examples").join(config)).expect("the example has a config");
        let built = support::hazard().parent().map(PathBuf::from).expect("examples are built into a directory");
        text = text.replace("/srv/zdsup/target/debug/examples", &built.display().to_string());
        text = text
            .replace("/srv/zdsup", &root.display().to_string())
            .replace("127.0.0.1:", &format!("{}:", place.address()));
        for (from, to) in changes {
            text = text.replace(from, to);
        }
        let path = place.join("example.toml");
        fs::write(&path, text).expect("a config can be written");
        let arguments = ["-c".to_owned(), path.display().to_string()];
        let supervisor = Supervisor::start(&place, &arguments, &Default::default());
        supervisor.wait_for("it serves", |status| status.services[0].state == ServiceState::Serving);
        Self { supervisor, place }
    }

    fn target(&self) -> SocketAddr {
        self.supervisor.status().services[0].listeners[0].address.parse().expect("an address")
    }

    /// Waits until only this generation is left, and serves.
    fn settled(&self, generation: u64) -> Status {
        self.supervisor.wait_for("only the last is left", |status| {
            status.services[0].serving == Some(generation) && status.services[0].generations.len() == 1
        })
    }

    fn load(&self) -> load::Running {
        let plan = Plan {
            threads_new: 2,
            threads_keep_alive: 2,
            pause_between: Duration::from_millis(5),
            timeout: support::SOON,
            ..Plan::default()
        };
        load::Load::start(load::Target::Tcp(self.target()), plan).expect("load can be started")
    }

    fn upgraded_under_load(mut self) {
        let load = self.load();
        for _ in 0..UPGRADES {
            self.supervisor.upgrade("reload", &[]).is(Verdict::Upgraded);
        }
        self.settled(UPGRADES as u64 + 1);
        let report = load.stop();
        assert_eq!(report.failed(), 0, "{:?} {:?}", report.errors, report.examples);
        // Each generation answered somebody.
        let answers = report.answers();
        let generation = |instance: &&str| instance.split('.').next().map(str::to_owned);
        let generations: BTreeSet<String> = answers.keys().filter_map(generation).collect();
        assert_eq!(generations.len(), UPGRADES + 1, "{answers:?}");
        self.end();
    }

    fn end(&mut self) {
        assert_eq!(self.supervisor.end().code(), Some(0));
        self.supervisor.nothing_left();
    }
}
