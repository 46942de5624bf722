//! The service of the demo: a small server with threads, made with the library for services.
//!
//! Told to stop it goes on accepting for a while, and ends each connection with its next answer. It closes no idle
//! connection by itself, since a request may be on its way in it: the demo's clients all ask again soon.

use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use crate::service::{self, LameDuck, Listeners, Shutdown};

/// The hidden first argument.
pub(super) const ARGUMENT: &str = "__demo-service";

/// The environment variable with what it answers.
pub(super) const RELEASE: &str = "DEMO_RELEASE";

/// The environment variable with what is wrong with it.
pub(super) const FAULT: &str = "DEMO_FAULT";

/// [`FAULT`]: it starts, and never says that it is ready.
pub(super) const NEVER_READY: &str = "never-ready";

/// [`FAULT`]: it ends as it starts.
pub(super) const CRASH: &str = "crash";

/// What a real service does before it is ready.
const WARM_UP: Duration = Duration::from_millis(200);

/// How long it goes on accepting once it was told to stop.
const LAME_DUCK: Duration = Duration::from_millis(200);

/// How long it waits for the last clients.
const LAST_CLIENTS: Duration = Duration::from_secs(3);

/// The longest line of a request that is read.
const LINE: u64 = 8 * 1024;

/// The stack of a connection's thread.
const STACK: usize = 128 * 1024;

/// Runs the service until it is told to stop.
pub fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to be told that stderr cannot be written.
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), Box<dyn std::error::Error>> {
    let shutdown = Shutdown::install()?;
    let listener = Listeners::take()?.tcp("demo")?;
    let duck = LameDuck::new(&shutdown, LAME_DUCK);
    let release = std::env::var(RELEASE)?;

    service::status("warming up")?;
    if shutdown.wait_timeout(WARM_UP) {
        return Ok(());
    }
    match std::env::var(FAULT).as_deref() {
        Ok(CRASH) => return Err("cannot reach the database".into()),
        Ok(NEVER_READY) => {
            service::status("waiting for the cache")?;
            shutdown.wait();
            return Ok(());
        }
        _ => {}
    }
    service::status(&format!("serving {release}"))?;
    service::ready()?;

    while let Some((stream, _peer)) = duck.accept(&listener)? {
        let connection = duck.connection();
        let release = release.clone();
        let thread = thread::Builder::new().name("connection".to_owned()).stack_size(STACK);
        thread.spawn(move || {
            // A client that went away is its own business.
            let _ = answer(&stream, &release, || connection.is_closing());
        })?;
    }
    service::stopping()?;
    duck.wait_idle(LAST_CLIENTS);
    Ok(())
}

/// Answers what comes over one connection, until it closes or we do.
fn answer(stream: &TcpStream, release: &str, is_closing: impl Fn() -> bool) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader)? {
        let closes = request.closes || is_closing();
        let persistence = if closes { "connection: close\r\n" } else { "" };
        let body = format!("{release} says hello\n");
        let length = body.len();
        let answer = format!("HTTP/1.1 200 OK\r\n{persistence}content-length: {length}\r\n\r\n{body}");
        (&mut &*stream).write_all(answer.as_bytes())?;
        if closes {
            break;
        }
    }
    Ok(())
}

struct Request {
    closes: bool,
}

/// Reads the head of one request; `None` at the end of the connection.
fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut request = None;
    let mut line = String::new();
    loop {
        line.clear();
        io::Read::take(&mut *reader, LINE).read_line(&mut line)?;
        match (line.trim_end(), &mut request) {
            ("", None) if line.is_empty() => return Ok(None),
            ("", None) => {}
            ("", Some(_)) if line.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            ("", Some(_)) => return Ok(request),
            (_, None) => request = Some(Request { closes: false }),
            (header, Some(request)) => request.closes |= header.eq_ignore_ascii_case("connection: close"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_one_by_one() {
        let mut bytes: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nConnection: close\r\n\r\n";
        assert!(!read_request(&mut bytes).unwrap().unwrap().closes);
        assert!(read_request(&mut bytes).unwrap().unwrap().closes);
        assert!(read_request(&mut bytes).unwrap().is_none());
        assert!(read_request(&mut &b"GET / HTTP/1.1\r\nHost"[..]).is_err());
    }
}
