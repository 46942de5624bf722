//! An HTTP server whose sessions survive upgrades and crashes: they live in a memfd that the supervisor keeps.
//!
//! ```text
//! cargo build --example sessions
//! zdsup run --fd-store-max 1 --listen http=127.0.0.1:8080 -- target/debug/examples/sessions
//! curl -c /tmp/jar -b /tmp/jar http://127.0.0.1:8080/     # as often as you like: it counts your visits
//! zdsup reload                                            # it goes on counting
//! ```
//!
//! The first process makes the memfd and stores it; every later one finds it. While two generations overlap, both serve
//! the same session: so each change is made under a lock, and one write of one number, which a crash cannot leave halfway.
//! What the records look like is a promise between releases, like the schema of a database.

use std::error::Error;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use zdsup::service::{self, Connection, LameDuck, Listeners, Shutdown};

const LAME_DUCK: Duration = Duration::from_secs(2);
const GRACE: Duration = Duration::from_secs(20);

fn main() -> Result<(), Box<dyn Error>> {
    let shutdown = Shutdown::install()?;
    let mut listeners = Listeners::take()?;
    let listener = listeners.tcp_or_bind("http", "127.0.0.1:8080")?;
    let sessions = Arc::new(match listeners.stored("sessions") {
        Some(fd) => Sessions::from(fd),
        None => {
            let sessions = Sessions::from(memfd_create("sessions", MFdFlags::MFD_CLOEXEC)?);
            service::store("sessions", &sessions.file)?;
            sessions
        }
    });
    let duck = LameDuck::new(&shutdown, LAME_DUCK);
    service::ready()?;

    while let Some((stream, _peer)) = duck.accept(&listener)? {
        let (connection, sessions) = (duck.connection(), Arc::clone(&sessions));
        thread::spawn(move || {
            if let Err(error) = converse(&stream, &connection, &sessions) {
                eprintln!("connection: {error}");
            }
        });
    }
    drop(listener);
    service::stopping()?;
    duck.wait_idle(LAME_DUCK + GRACE);
    Ok(())
}

fn converse(stream: &TcpStream, connection: &Connection, sessions: &Sessions) -> io::Result<()> {
    let name = service::instance().unwrap_or_else(|| "by hand".into());
    let mut reader = BufReader::new(stream);
    while !reader.buffer().is_empty() || connection.await_request(stream)? {
        let (mut line, mut cookie, mut first) = (String::new(), None, true);
        while reader.read_line(&mut line)? > 2 {
            if let Some((header, value)) = line.split_once(':')
                && header.eq_ignore_ascii_case("cookie")
            {
                cookie = value.split(';').find_map(|pair| pair.trim().strip_prefix("session=")).map(str::to_owned);
            }
            first = false;
            line.clear();
        }
        if first {
            // The client has closed.
            return Ok(());
        }
        let (cookie, visits) = sessions.visit(cookie.as_deref())?;
        let body = format!("visit {visits} by {name}\n");
        let close = connection.is_closing();
        let end = if close { "connection: close\r\n" } else { "" };
        let length = body.len();
        // One write: the client is not to wait for the rest of it.
        let answer =
            format!("HTTP/1.1 200 OK\r\nset-cookie: session={cookie}\r\n{end}content-length: {length}\r\n\r\n{body}");
        (&mut &*stream).write_all(answer.as_bytes())?;
        if close {
            return Ok(());
        }
    }
    Ok(())
}

/// How many sessions there can be. The oldest makes room for a new one.
const SESSIONS: u64 = 1 << 16;

/// Bytes of a record: two numbers. In the first record they are the count of sessions so far and nothing, in each other one
/// a session's secret and its visits.
const RECORD: u64 = 16;

/// All sessions, of this process and of every other one that has the file.
struct Sessions {
    file: File,
    /// The lock on the file is the process's, not the thread's (fcntl(2), F_SETLKW).
    ours: Mutex<()>,
}

impl From<OwnedFd> for Sessions {
    fn from(fd: OwnedFd) -> Self {
        Self { file: File::from(fd), ours: Mutex::new(()) }
    }
}

impl Sessions {
    /// Counts a visit of the session that a cookie names; of a new one if it names none. Gives its cookie and its visits.
    fn visit(&self, cookie: Option<&str>) -> io::Result<(String, u64)> {
        let _ours = self.ours.lock().unwrap_or_else(PoisonError::into_inner);
        self.lock(libc::F_WRLCK)?;
        let visit = self.visit_locked(cookie);
        self.lock(libc::F_UNLCK)?;
        visit
    }

    fn visit_locked(&self, cookie: Option<&str>) -> io::Result<(String, u64)> {
        if let Some((place, secret)) = cookie.and_then(parse)
            && self.number(place * RECORD)? == secret
        {
            let visits = self.number(place * RECORD + 8)? + 1;
            self.set_number(place * RECORD + 8, visits)?;
            return Ok((format!("{place}-{secret:016x}"), visits));
        }
        let mut random = [0; 8];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        // 0 is what a record has that nobody uses.
        let secret = u64::from_le_bytes(random) | 1;
        let made = self.number(0)?;
        let place = made % SESSIONS + 1;
        // In this order, each complete: a crash in between costs nobody a session.
        self.set_number(0, made + 1)?;
        self.set_number(place * RECORD + 8, 1)?;
        self.set_number(place * RECORD, secret)?;
        Ok((format!("{place}-{secret:016x}"), 1))
    }

    /// A number of the file; 0 beyond its end.
    fn number(&self, offset: u64) -> io::Result<u64> {
        let mut bytes = [0; 8];
        match self.file.read_exact_at(&mut bytes, offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            other => other.map(|()| u64::from_le_bytes(bytes)),
        }
    }

    fn set_number(&self, offset: u64, number: u64) -> io::Result<()> {
        self.file.write_all_at(&number.to_le_bytes(), offset)
    }

    /// Locks the whole file against other processes, or unlocks it. The kernel unlocks it when its holder dies.
    fn lock(&self, kind: libc::c_int) -> io::Result<()> {
        // Not flock(2): its lock would belong to the open file, which the generations share.
        let lock = libc::flock { l_type: kind as _, l_whence: libc::SEEK_SET as _, l_start: 0, l_len: 0, l_pid: 0 };
        fcntl(&self.file, FcntlArg::F_SETLKW(&lock))?;
        Ok(())
    }
}

fn parse(cookie: &str) -> Option<(u64, u64)> {
    let (place, secret) = cookie.split_once('-')?;
    let place = place.parse().ok().filter(|place| (1..=SESSIONS).contains(place))?;
    Some((place, u64::from_str_radix(secret, 16).ok().filter(|secret| *secret != 0)?))
}
