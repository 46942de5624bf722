//! A small HTTP/1.1 server over inherited sockets, with a graceful end: after the stop signal it accepts no more,
//! answers what comes over open connections with `Connection: close`, and waits for them for a lame-duck time.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{SockFlag, accept4};

use crate::os;

pub(crate) struct Server {
    shared: Arc<Shared>,
    stop: std::io::PipeWriter,
    acceptors: Vec<JoinHandle<OwnedFd>>,
}

struct Shared {
    /// At its end when the server is to stop.
    stopped: std::io::PipeReader,
    lame_duck: Duration,
    health: Option<&'static Path>,
    everywhere: bool,
    open: Mutex<usize>,
    closed: Condvar,
    served: AtomicUsize,
}

#[derive(Clone, Copy)]
pub(crate) struct Manner {
    /// Expects blocking listeners, as a program that knows nothing of sharing does.
    pub(crate) blocking: bool,
    /// How long an idle connection is kept after the stop signal.
    pub(crate) lame_duck: Duration,
    /// The file that says how it is, to whoever asks for `/healthz`: nothing or no file means well, a number is the
    /// status of the answer, `hangs` means that none comes, `slow MS` that it takes so long.
    pub(crate) health: Option<&'static Path>,
    /// What the file says is so for every request.
    pub(crate) everywhere: bool,
}

impl Manner {
    pub(crate) fn of(options: &crate::Options) -> Self {
        let lame_duck = options.span("--lame-duck").unwrap_or(Duration::from_secs(2));
        let health = options.text("--health").map(|file| &*Box::leak(PathBuf::from(file).into_boxed_path()));
        Self { blocking: options.has("--blocking"), lame_duck, health, everywhere: options.has("--everywhere") }
    }
}

impl Server {
    pub(crate) fn start(listeners: Vec<OwnedFd>, manner: Manner) -> Self {
        let (stopped, stop) = std::io::pipe().expect("a pipe can be made");
        let shared = Arc::new(Shared {
            stopped,
            lame_duck: manner.lame_duck,
            health: manner.health,
            everywhere: manner.everywhere,
            open: Mutex::new(0),
            closed: Condvar::new(),
            served: AtomicUsize::new(0),
        });
        let mut acceptors = vec![];
        for listener in listeners {
            if !manner.blocking {
                os::set_nonblocking(&listener, true);
            }
            let shared = Arc::clone(&shared);
            let acceptor = std::thread::spawn(move || {
                accept(&listener, &shared, manner.blocking);
                listener
            });
            // One that waits in accept() does not hear that it is to stop; it ends with the process.
            if !manner.blocking {
                acceptors.push(acceptor);
            }
        }
        Self { shared, stop, acceptors }
    }

    /// Accepts no more, and gives the listeners back.
    pub(crate) fn stop(&mut self) -> Vec<OwnedFd> {
        // The other end of a pipe that nobody can write to is readable, for everybody at once.
        self.stop = std::io::pipe().expect("a pipe can be made").1;
        self.acceptors.drain(..).map(|acceptor| acceptor.join().expect("an acceptor does not panic")).collect()
    }

    /// Waits until no connection is open.
    pub(crate) fn drain(&self) {
        let open = self.shared.open.lock().expect("nobody panics with it");
        drop(self.shared.closed.wait_while(open, |open| *open > 0));
    }
}

fn accept(listener: &OwnedFd, shared: &Arc<Shared>, blocking: bool) {
    loop {
        let mut polled =
            [PollFd::new(shared.stopped.as_fd(), PollFlags::POLLIN), PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        // A program that knows nothing of sharing waits in accept() alone.
        if !blocking && poll(&mut polled, PollTimeout::NONE).is_err() {
            continue;
        }
        if polled[0].any() == Some(true) {
            return;
        }
        match accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            Ok(fd) => {
                // SAFETY: accept4 just made it, and nobody else knows it.
                let connection = TcpStream::from(unsafe { OwnedFd::from_raw_fd(fd) });
                *shared.open.lock().expect("nobody panics with it") += 1;
                let shared = Arc::clone(shared);
                std::thread::spawn(move || {
                    converse(connection, &shared);
                    *shared.open.lock().expect("nobody panics with it") -= 1;
                    shared.closed.notify_all();
                });
            }
            // Somebody else was faster, or the client has left.
            Err(nix::Error::EAGAIN | nix::Error::ECONNABORTED | nix::Error::EINTR) if !blocking => {}
            Err(nix::Error::ECONNABORTED | nix::Error::EINTR) => {}
            Err(nix::Error::EAGAIN) => {
                // What a program does that never expected it.
                eprintln!("accept: EAGAIN");
                std::process::exit(3);
            }
            Err(error) => {
                // As servers do that would rather wait than spin: EMFILE, or a listener that was shut down.
                eprintln!("accept: {error}");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

fn converse(mut connection: TcpStream, shared: &Shared) {
    let mut head = Vec::new();
    let mut stopping_since = None;
    loop {
        let mut buffer = [0; 4096];
        while !head.windows(4).any(|window| window == b"\r\n\r\n") {
            if !readable(&connection, shared, &mut stopping_since) {
                return;
            }
            match connection.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(count) => head.extend_from_slice(&buffer[..count]),
            }
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        let path = text.split(' ').nth(1).unwrap_or("/").to_owned();
        head.clear();
        let (status, body) =
            if shared.everywhere || path == "/healthz" { health(shared, &path) } else { (200, answer(&path, shared)) };
        let stopping = stopping_since.is_some() || is_readable(&shared.stopped, Some(Duration::ZERO));
        let close = stopping || text.to_ascii_lowercase().contains("connection: close");
        let manner = if close { "close" } else { "keep-alive" };
        let generation = std::env::var("ZDSUP_GENERATION").unwrap_or_default();
        let head = format!(
            "HTTP/1.1 {status} As-It-Is\r\ncontent-length: {}\r\nx-generation: {generation}\r\nconnection: {manner}\r\n\r\n",
            body.len()
        );
        if connection.write_all(&[head.as_bytes(), body.as_bytes()].concat()).is_err() {
            return;
        }
        shared.served.fetch_add(1, Ordering::Relaxed);
        if close {
            let _ = connection.shutdown(std::net::Shutdown::Write);
            // Until the client has closed as well, so that what it sends meanwhile is no reason for a reset.
            while is_readable(&connection, Some(Duration::from_secs(1))) {
                if !matches!(connection.read(&mut buffer), Ok(1..)) {
                    break;
                }
            }
            return;
        }
    }
}

fn health(shared: &Shared, path: &str) -> (u16, String) {
    let text = shared.health.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
    if let Some(millis) = text.trim().strip_prefix("slow ") {
        // The work that the request takes.
        std::thread::sleep(Duration::from_millis(millis.parse().expect("milliseconds")));
        return (200, "well\n".into());
    }
    match text.trim() {
        "" => (200, "well\n".into()),
        "hangs" => os::hang(),
        status => {
            println!("answered {path} with {status}");
            (status.parse().expect("a status"), "not well\n".into())
        }
    }
}

fn answer(path: &str, shared: &Shared) -> String {
    if path == "/env" {
        return std::env::vars().map(|(name, value)| format!("{name}={value}\n")).collect();
    }
    if let Some(millis) = path.strip_prefix("/slow/") {
        // The work that the request takes.
        std::thread::sleep(Duration::from_millis(millis.parse().unwrap_or(0)));
    }
    let exe = std::env::current_exe().map(|path| path.display().to_string()).unwrap_or_default();
    let token = std::env::var("TOKEN").unwrap_or_default();
    let served = shared.served.load(Ordering::Relaxed);
    format!("pid={}\nexe={exe}\ntoken={token}\nserved={served}\n", std::process::id())
}

/// Waits for the next request; `false` when the lame-duck time is over.
fn readable(connection: &TcpStream, shared: &Shared, stopping_since: &mut Option<Instant>) -> bool {
    if stopping_since.is_none() {
        let mut polled = [
            PollFd::new(connection.as_fd(), PollFlags::POLLIN),
            PollFd::new(shared.stopped.as_fd(), PollFlags::POLLIN),
        ];
        while poll(&mut polled, PollTimeout::NONE) == Err(nix::Error::EINTR) {}
        if polled[0].any() == Some(true) {
            return true;
        }
        *stopping_since = Some(Instant::now());
    }
    let since = stopping_since.unwrap_or_else(Instant::now);
    is_readable(connection, Some(shared.lame_duck.saturating_sub(since.elapsed())))
}

fn is_readable(fd: impl AsFd, patience: Option<Duration>) -> bool {
    let timeout = patience.map_or(PollTimeout::NONE, |span| {
        PollTimeout::try_from(span.min(Duration::from_secs(3600))).expect("an hour fits")
    });
    let mut polled = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut polled, timeout), Ok(1..))
}
