//! Checks over a connection: whether it is accepted, and how a request over it is answered.
//!
//! They are asynchronous, bounded in time and in what they read, and share nothing with the loop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout_at};

use super::Outcome;
use crate::config::health::{BODY_MAX, Statuses};
use crate::core::spoken;
use crate::supervisor::http::{self, Answer, HEAD_MAX};
use crate::sys::describe;
use crate::sys::socket::Bound;

/// The pause between two looks at a listener's queue: at first, and at most.
const LOOK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));
/// A check that ends so long after its time has not been slow itself: we were.
const LATE: Duration = Duration::from_millis(500);
/// How long the rest of an answer that has said enough is read, so that its sender sees no reset.
const POLITE: Duration = Duration::from_millis(100);

/// The way to one instance.
#[derive(Debug)]
pub(super) struct Door {
    /// Where to connect.
    pub(super) address: SocketAddr,
    /// Bound already, where that is how the connection is told from those of clients.
    pub(super) from: Option<TcpSocket>,
    /// The listener behind it, where it is at hand: whether anybody accepts is seen at its queue.
    pub(super) listener: Option<Arc<Bound>>,
}

/// A request, and what a good answer is.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// What it is called where it is told of.
    pub(super) name: String,
    pub(super) path: String,
    pub(super) host: String,
    pub(super) statuses: Statuses,
    pub(super) body: Option<String>,
}

/// Whether a connection is accepted.
pub(super) async fn connect(door: Door, span: Duration) -> Outcome {
    let began = Instant::now();
    let listener = door.listener.clone();
    match timeout_at(began + span, door.connect()).await {
        Ok(Ok(_connection)) => match listener {
            // The kernel connects whether or not anybody accepts.
            Some(listener) if timeout_at(began + span, emptied(&listener)).await.is_err() => {
                overdue(began, span, "nobody accepted the connection")
            }
            Some(_) | None => Outcome::Passed,
        },
        Ok(Err(error)) => Outcome::Failed(error),
        Err(_) => overdue(began, span, "no connection"),
    }
}

/// Whether a request is answered well.
pub(super) async fn get(door: Door, question: &Question, span: Duration) -> Outcome {
    match asked(door, question, span).await {
        Outcome::Failed(why) => Outcome::Failed(format!("{}: {why}", question.name)),
        other => other,
    }
}

async fn asked(door: Door, question: &Question, span: Duration) -> Outcome {
    let began = Instant::now();
    let until = began + span;
    let answer = match timeout_at(until, head(door, question)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return Outcome::Failed(error),
        Err(_) => return overdue(began, span, "no answer"),
    };
    let status = answer.status();
    if !question.statuses.contain(status.as_u16()) {
        return Outcome::Failed(status.to_string());
    }
    let Some(wanted) = &question.body else {
        // Whatever comes of it, the head has said enough.
        let _ = timeout_at(until.min(Instant::now() + POLITE), body(answer)).await;
        return Outcome::Passed;
    };
    match timeout_at(until, body(answer)).await {
        Ok(Ok(body)) if contains(&body, wanted.as_bytes()) => Outcome::Passed,
        Ok(Ok(_)) => Outcome::Failed(format!("{status}, without {wanted:?} in its body")),
        Ok(Err(error)) => Outcome::Failed(error),
        Err(_) => overdue(began, span, "no whole answer"),
    }
}

fn overdue(began: Instant, span: Duration, what: &str) -> Outcome {
    if began.elapsed() >= span + LATE {
        return Outcome::Late;
    }
    Outcome::Failed(format!("{what} in {}", spoken(span)))
}

impl Door {
    async fn connect(self) -> Result<TcpStream, String> {
        let connected = match self.from {
            Some(socket) => socket.connect(self.address).await,
            None => TcpStream::connect(self.address).await,
        };
        let stream = connected.map_err(|error| format!("connect: {}", describe(&error)))?;
        // Small as it is, it is not to wait for anything.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}

/// Waits until a listener's queue is empty: whoever was in it has been accepted.
async fn emptied(listener: &Bound) {
    let mut pause = LOOK.0;
    while listener.queue().is_some_and(|(waiting, _)| waiting > 0) {
        sleep(pause).await;
        pause = (pause * 2).min(LOOK.1);
    }
}

/// Asks, and waits for the head of the answer.
async fn head(door: Door, question: &Question) -> Result<Answer<TcpStream>, String> {
    let stream = door.connect().await?;
    let request = http::get(&question.path, &question.host, concat!("zdsup/", env!("CARGO_PKG_VERSION")));
    http::ask(stream, request.map_err(|error| error.to_string())?).await.map_err(|error| said(&error))
}

/// The begin of the body of an answer, as far as it is looked at.
async fn body(answer: Answer<TcpStream>) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let add = |data: &[u8]| {
        bytes.extend_from_slice(&data[..data.len().min(BODY_MAX - bytes.len())]);
        bytes.len() < BODY_MAX
    };
    answer.read(add).await.map_err(|error| said(&error))?;
    Ok(bytes)
}

fn said(error: &hyper::Error) -> String {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>());
    let cut = cause.is_some_and(|cause| cause.kind() == io::ErrorKind::UnexpectedEof);
    if cut || error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return "the connection was closed before the answer was whole".into();
    }
    if error.is_parse_too_large() {
        return format!("the head of the answer has more than {} KiB", HEAD_MAX >> 10);
    }
    if error.is_parse() {
        return "the answer is not HTTP".into();
    }
    cause.map_or_else(|| error.to_string(), describe)
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len().max(1)).any(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    /// Where somebody answers each connection with these bytes, and closes it.
    fn answering(bytes: impl AsRef<[u8]> + Send + 'static) -> Door {
        serving(move |mut connection| {
            let mut buffer = [0; 4096];
            let _ = connection.read(&mut buffer);
            // A client that has seen enough is gone.
            let _ = connection.write_all(bytes.as_ref());
            let _ = connection.shutdown(std::net::Shutdown::Write);
            while matches!(connection.read(&mut buffer), Ok(1..)) {}
        })
    }

    fn serving(mut converse: impl FnMut(std::net::TcpStream) + Send + 'static) -> Door {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it is bound");
        std::thread::spawn(move || {
            if let Ok((connection, _)) = listener.accept() {
                converse(connection);
            }
        });
        Door { address, from: None, listener: None }
    }

    fn question() -> Question {
        let (name, path) = ("GET /healthz".into(), "/healthz".into());
        Question { name, path, host: "zdsup".into(), statuses: Statuses::default(), body: None }
    }

    fn run(check: impl Future<Output = Outcome>) -> Outcome {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(check)
    }

    /// What comes of it where the machine is not so busy that this tells nothing.
    fn in_time<F: Future<Output = Outcome>>(check: impl Fn() -> F) -> Outcome {
        std::iter::repeat_with(|| run(check())).find(|outcome| *outcome != Outcome::Late).expect("it is tried again")
    }

    fn asked(door: Door, question: &Question) -> Outcome {
        run(get(door, question, SOON))
    }

    fn failed(why: &str) -> Outcome {
        Outcome::Failed(why.into())
    }

    fn badly_answered(why: &str) -> Outcome {
        Outcome::Failed(format!("GET /healthz: {why}"))
    }

    #[test]
    fn a_good_answer_passes() {
        for text in [
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.0 302 Found\r\nlocation: /\r\n\r\nuntil the end",
            // The head says enough.
            "HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\ncut",
        ] {
            assert_eq!(asked(answering(text), &question()), Outcome::Passed, "{text}");
        }
    }

    #[test]
    fn a_bad_answer_fails_and_says_why() {
        let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(4 * HEAD_MAX));
        for (text, why) in [
            ("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", "503 Service Unavailable"),
            ("HTTP/1.1 404 Gone Fishing\r\ncontent-length: 0\r\n\r\n", "404 Not Found"),
            ("", "the connection was closed before the answer was whole"),
            ("HTTP/1.1 200 O", "the connection was closed before the answer was whole"),
            ("SSH-2.0-OpenSSH_9.2\r\n", "the answer is not HTTP"),
            (&long, "the head of the answer has more than 64 KiB"),
        ] {
            assert_eq!(asked(answering(text.to_owned()), &question()), badly_answered(why), "{text:.40}");
        }
    }

    #[test]
    fn other_statuses_may_be_good() {
        let found = || answering("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
        let question = Question { statuses: Statuses(vec![(404, 404)]), ..question() };
        assert_eq!(asked(found(), &question), Outcome::Passed);
    }

    #[test]
    fn a_body_is_looked_at_as_far_as_it_is_said() {
        let question = Question { body: Some("all is well".into()), ..question() };
        let with = |body: String| answering(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
        assert_eq!(asked(with("{\"all is well\"}".into()), &question), Outcome::Passed);
        let why = badly_answered("200 OK, without \"all is well\" in its body");
        assert_eq!(asked(with("all is lost".into()), &question), why);
        assert_eq!(asked(with(String::new()), &question), why);
        assert_eq!(asked(with(format!("{}all is well", "x".repeat(BODY_MAX))), &question), why);
        let within = format!("{}all is well{}", "x".repeat(BODY_MAX - 11), "y".repeat(1 << 20));
        assert_eq!(asked(with(within), &question), Outcome::Passed);
        let cut = answering("HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nall is well");
        assert_eq!(asked(cut, &question), badly_answered("the connection was closed before the answer was whole"));
    }

    #[test]
    fn the_request_is_what_it_should_be() {
        let (send, receive) = std::sync::mpsc::channel();
        let door = serving(move |mut connection| {
            let mut buffer = [0; 4096];
            let length = connection.read(&mut buffer).expect("a request");
            send.send(String::from_utf8_lossy(&buffer[..length]).into_owned()).expect("somebody listens");
            connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").expect("it listens");
        });
        let question = Question { path: "/a?b=c".into(), host: "example.org".into(), ..question() };
        assert_eq!(asked(door, &question), Outcome::Passed);
        let request = receive.recv().expect("it came");
        assert!(request.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{request}");
        for line in ["host: example.org\r\n", "connection: close\r\n", "user-agent: zdsup/"] {
            assert!(request.contains(line), "{line} is not in {request}");
        }
    }

    #[test]
    fn silence_is_no_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let door = || Door { address: listener.local_addr().expect("it is bound"), from: None, listener: None };
        let span = Duration::from_millis(50);
        let question = question();
        assert_eq!(in_time(|| get(door(), &question, span)), badly_answered("no answer in 50 ms"));
        // A head, for which there is time, and then nothing.
        let stalls = || {
            serving(|mut connection| {
                // Whoever answers before he is asked is not understood.
                let _ = connection.read(&mut [0; 4096]).expect("a request");
                connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab").expect("it listens");
                let _ = connection.read_to_end(&mut Vec::new());
            })
        };
        let ample = Duration::from_secs(1);
        let question = Question { body: Some("abcde".into()), ..question };
        assert_eq!(in_time(|| get(stalls(), &question, ample)), badly_answered("no whole answer in 1 s"));
    }

    #[test]
    fn where_nobody_listens_it_is_refused() {
        let address = TcpListener::bind("127.0.0.1:0").and_then(|gone| gone.local_addr()).expect("a port");
        let door = || Door { address, from: None, listener: None };
        assert_eq!(asked(door(), &question()), badly_answered("connect: connection refused"));
        assert_eq!(run(connect(door(), SOON)), failed("connect: connection refused"));
    }

    #[test]
    fn a_connection_has_to_be_accepted() {
        let bound = || {
            let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
            let theirs = socket.try_clone().expect("a descriptor");
            let listener = Arc::new(Bound::adopt(socket.into(), true).expect("a listener"));
            (Door { address: theirs.local_addr().expect("it is bound"), from: None, listener: Some(listener) }, theirs)
        };
        let (door, theirs) = bound();
        let accepts = std::thread::spawn(move || theirs.accept().map(drop));
        assert_eq!(run(connect(door, SOON)), Outcome::Passed);
        accepts.join().expect("it does not panic").expect("it was asked");
        let (door, _hangs) = bound();
        let hangs = run(connect(door, Duration::from_millis(50)));
        assert_eq!(hangs, failed("nobody accepted the connection in 50 ms"));
    }

    #[test]
    fn a_source_that_was_chosen_is_where_it_comes_from() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let _inside = runtime.enter();
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.9:0".parse().expect("an address")).expect("all of 127/8 is ours");
        let source = socket.local_addr().expect("it is bound");
        let door = Door { address: listener.local_addr().expect("it is bound"), from: Some(socket), listener: None };
        assert_eq!(runtime.block_on(connect(door, SOON)), Outcome::Passed);
        assert_eq!(listener.accept().expect("it came").1, source);
    }

    /// What a check that took far longer than it might is worth: nothing was heard because nobody listened.
    #[test]
    fn one_that_was_held_up_by_ourselves_says_nothing() {
        let span = Duration::from_millis(50);
        assert_eq!(overdue(Instant::now(), span, "no answer"), failed("no answer in 50 ms"));
        let long_ago = Instant::now().checked_sub(span + LATE).expect("the machine has been up for a second");
        assert_eq!(overdue(long_ago, span, "no answer"), Outcome::Late);
    }
}
