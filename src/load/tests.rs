//! Each class of failure, against a server that misbehaves in just that way.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixListener;
use std::sync::mpsc;

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockname, listen, socket};

use super::client::connect_class;
use super::*;

const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nv1 hi";
const GOOD_CLOSE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nv1 hi";

/// A server that treats each connection with a closure; ends with the value.
struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn new(treat: impl Fn(TcpStream) -> io::Result<()> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if told.load(Ordering::SeqCst) {
                    return;
                }
                // A client that gives up makes errors here; they are its business.
                let _ = stream.and_then(&treat);
            }
        });
        Self { address, stop, thread: Some(thread) }
    }

    fn target(&self) -> Target {
        Target::Tcp(self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().unwrap().join();
    }
}

/// Reads one request; false at the end of the connection.
fn take_request(stream: &mut impl Read) -> io::Result<bool> {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(false);
        }
        seen.push(byte[0]);
    }
    Ok(true)
}

/// Waits for the first byte of a request without taking it, so that closing sends a reset.
fn leave_request(stream: &TcpStream) -> io::Result<()> {
    stream.peek(&mut [0]).map(drop)
}

fn one_request(keeps: bool) -> Plan {
    Plan {
        threads_new: usize::from(!keeps),
        threads_keep_alive: usize::from(keeps),
        max_requests: 1,
        timeout: Duration::from_secs(20),
        ..Plan::default()
    }
}

fn fails_as(target: Target, plan: Plan, class: Class) {
    let requests = plan.max_requests;
    let report = Load::start(target, plan).unwrap().wait();
    assert_eq!(report.errors, BTreeMap::from([(class, requests)]), "{:?}", report.examples);
    assert_eq!((report.total, report.ok, report.failed()), (requests, 0, requests));
    assert_eq!(report.examples.len() as u64, requests);
    assert_eq!(report.percentiles(), Latency::default());
}

fn answered_with(bytes: &'static [u8], class: Class) {
    let server = Server::new(move |mut stream| {
        take_request(&mut stream)?;
        stream.write_all(bytes)
    });
    fails_as(server.target(), one_request(false), class);
}

#[test]
fn nobody_listens() {
    // Bound and not listening: nobody else can come to listen at that port meanwhile.
    let bound = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(bound.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    let port = getsockname::<SockaddrIn>(bound.as_raw_fd()).unwrap().port();
    fails_as(Target::Tcp(SocketAddr::from(([127, 0, 0, 1], port))), one_request(false), Class::ConnectRefused);
    fails_as(Target::Unix("/nonexistent/socket".into()), one_request(false), Class::ConnectRefused);
}

#[test]
fn failures_to_connect_by_kind() {
    assert_eq!(connect_class(ErrorKind::ConnectionReset), Class::ConnectReset);
    assert_eq!(connect_class(ErrorKind::AddrNotAvailable), Class::ConnectOther);
}

#[test]
fn full_backlog_of_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        waiting.push(stream);
        assert!(waiting.len() < 10, "a backlog of 0 took {} connections", waiting.len());
    }
    let plan = Plan { timeout: Duration::from_millis(100), ..one_request(false) };
    fails_as(Target::Tcp(address), plan, Class::ConnectTimeout);
}

#[test]
fn full_backlog_of_unix() {
    let name = format!("zdsup-load-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let _waiting = std::os::unix::net::UnixStream::connect_addr(&address).unwrap();
    let plan = Plan { timeout: Duration::from_millis(50), ..one_request(false) };
    fails_as(Target::Unix(format!("@{name}").into()), plan, Class::ConnectTimeout);
}

#[test]
fn reset_before_the_answer() {
    let server = Server::new(|stream| leave_request(&stream));
    fails_as(server.target(), one_request(false), Class::ResetBefore);
}

#[test]
fn reset_within_the_answer() {
    let server = Server::new(|mut stream| {
        leave_request(&stream)?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nv1")
    });
    fails_as(server.target(), one_request(false), Class::ResetWithin);
}

#[test]
fn closed_before_and_within_the_answer() {
    answered_with(b"", Class::ClosedBefore);
    answered_with(b"HTTP/1.1 2", Class::ClosedWithin);
    answered_with(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nv1 hi", Class::ClosedWithin);
}

#[test]
fn answers_that_are_wrong() {
    answered_with(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno", Class::BadStatus);
    answered_with(b"HTTP/1.1 200 OK\r\n\r\nv1", Class::Malformed);
    answered_with(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nv1", Class::Malformed);
    answered_with(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", Class::Malformed);
    answered_with(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Class::BadBody);
    answered_with(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xfe", Class::BadBody);
    answered_with(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nv1 hi", Class::BadBody);
}

#[test]
fn answer_that_does_not_come() {
    let (ended, end) = mpsc::channel::<()>();
    let server = Server::new(move |mut stream| {
        take_request(&mut stream)?;
        stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
        let _ = end.recv();
        Ok(())
    });
    let plan = Plan { timeout: Duration::from_millis(50), ..one_request(false) };
    fails_as(server.target(), plan, Class::ResponseTimeout);
    drop(ended);
}

#[test]
fn request_that_cannot_be_written() {
    let name = format!("zdsup-load-write-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        take_request(&mut stream).unwrap();
        stream.write_all(GOOD.as_bytes()).unwrap();
    });
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut connection = Connection::open(&Target::Unix(format!("@{name}").into()), deadline).unwrap();
    assert!(!connection.exchange("/", true, deadline).unwrap().closes);
    server.join().unwrap();
    assert_eq!(connection.exchange("/", true, deadline).unwrap_err().class, Class::Write);
}

#[test]
fn kept_connection_that_is_closed_unannounced_is_a_failure() {
    // Each connection is answered once, then closed without a word: every second request hits a closed connection.
    let server = Server::new(|mut stream| {
        take_request(&mut stream)?;
        stream.write_all(GOOD.as_bytes())
    });
    let report = Load::start(server.target(), Plan { max_requests: 10, ..one_request(true) }).unwrap().wait();
    assert_eq!((report.total, report.ok, report.failed()), (10, 5, 5), "{:?}", report.errors);
    let within =
        report.errors.keys().find(|class| !matches!(class, Class::Write | Class::ResetBefore | Class::ClosedBefore));
    assert_eq!(within, None);
    assert!(report.samples.iter().all(|sample| sample.failure.is_some() == (sample.mode == Mode::Reused)));
}

#[test]
fn announced_close_is_no_failure() {
    let server = Server::new(|mut stream| {
        take_request(&mut stream)?;
        stream.write_all(GOOD.as_bytes())?;
        take_request(&mut stream)?;
        stream.write_all(GOOD_CLOSE.as_bytes())
    });
    let report = Load::start(server.target(), Plan { max_requests: 10, ..one_request(true) }).unwrap().wait();
    assert_eq!((report.total, report.ok), (10, 10), "{:?}", report.examples);
    assert_eq!(report.samples.iter().filter(|sample| sample.mode == Mode::First).count(), 5);
    assert_eq!(report.answers(), BTreeMap::from([("v1", 10)]));
    assert_eq!(report.percentiles().count, 10);
}

#[test]
fn stops_at_once_and_counts_what_was_in_flight() {
    let server = Server::new(|mut stream| {
        take_request(&mut stream)?;
        stream.write_all(GOOD.as_bytes())
    });
    let plan = Plan { pause_between: Duration::from_secs(600), max_requests: 100, ..one_request(false) };
    let running = Load::start(server.target(), plan).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while running.total() == 0 {
        assert!(Instant::now() < deadline, "no request ended");
        thread::yield_now();
    }
    assert!(!running.finished());
    let report = running.stop();
    assert_eq!((report.total, report.ok), (1, 1), "{:?}", report.examples);
}

#[test]
fn windows_take_what_was_in_flight() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let mut report = Report::new(start);
    for (begin, took, word) in [(0, 10, "v1"), (20, 10, "v1"), (40, 10, "v2"), (100, 10, "v2")] {
        report.record(at(begin), Duration::from_millis(took), Mode::New, Ok(word.to_owned()));
    }
    report.record(at(45), Duration::ZERO, Mode::Reused, Err(Failure { class: Class::Write, detail: String::new() }));
    let (inside, outside) = report.split(&[at(25)..at(45)]);
    assert_eq!((inside.total, inside.ok, inside.examples.len()), (3, 2, 1));
    assert_eq!((outside.total, outside.ok, outside.examples.len()), (2, 2, 0));
    assert_eq!(inside.answers(), BTreeMap::from([("v1", 1), ("v2", 1)]));
    assert_eq!(report.window(at(200), at(300)).total, 0);
}

#[test]
fn merging_keeps_times_and_words() {
    let start = Instant::now();
    let mut early = Report::new(start);
    early.record(start, Duration::from_millis(1), Mode::New, Ok("v1".to_owned()));
    let later = start + Duration::from_secs(1);
    let mut late = Report::new(later);
    late.record(later, Duration::from_millis(3), Mode::New, Ok("v2".to_owned()));
    late.merge(early);
    assert_eq!(late.started(), start);
    assert_eq!(late.answers(), BTreeMap::from([("v1", 1), ("v2", 1)]));
    assert_eq!(late.window(later, later).answers(), BTreeMap::from([("v2", 1)]));
}

#[test]
fn percentiles_are_nearest_ranks() {
    let start = Instant::now();
    let mut report = Report::new(start);
    for ms in 1..=200 {
        report.record(start, Duration::from_millis(ms), Mode::New, Ok("v1".to_owned()));
    }
    let latency = report.percentiles();
    let ms = Duration::from_millis;
    assert_eq!(latency, Latency { count: 200, p50: ms(100), p99: ms(198), p999: ms(200), max: ms(200) });
}

#[test]
fn a_sample_is_small() {
    assert_eq!(size_of::<Sample>(), 12);
}
