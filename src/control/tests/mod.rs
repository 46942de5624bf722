//! The server and the client, with a loop that is not the supervisor's.

mod clients;
mod hostile;
mod limits;
mod loop_;
mod requests;
mod streams;

use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::client::Client;
use super::server::{self, Access, Command, Identify};
use crate::sys::peer::Credentials;
use loop_::Loop;

/// Nothing takes longer, unless time is paused.
const DEADLINE: Duration = Duration::from_secs(60);

/// A directory of a test's own.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("zdsup-control-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A server with its loop.
struct Server {
    fake: Loop,
    socket: PathBuf,
    access: watch::Sender<Access>,
    tasks: Vec<JoinHandle<()>>,
    _directory: Directory,
}

impl Server {
    /// Answered by a loop that behaves.
    fn start() -> Self {
        Self::with(everybody)
    }

    /// With peers that are somebody else.
    fn with(identify: Identify) -> Self {
        let (commands, received) = mpsc::channel(16);
        let mut this = Self::answered_by(identify, commands);
        this.tasks.push(tokio::spawn(this.fake.clone().run(received)));
        this
    }

    /// Whose commands go there.
    fn answered_by(identify: Identify, commands: mpsc::Sender<Command>) -> Self {
        let directory = Directory::new();
        let socket = directory.0.join("control.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        // As the supervisor does: a storm finds a place in the backlog.
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(4096).unwrap()).unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = UnixListener::from_std(listener).unwrap();
        let (access, seen) = watch::channel(Access { uid: 1000, operators: vec![50], viewers: vec![60] });
        let tasks = vec![tokio::spawn(server::serve_identified(listener, seen, commands, identify))];
        Self { fake: Loop::default(), socket, access, tasks, _directory: directory }
    }

    fn client(&self) -> Client {
        Client::new(self.socket.clone())
    }

    async fn connect(&self) -> UnixStream {
        connect(&self.socket).await
    }

    /// Sends bytes and nothing more, and reads to the end.
    async fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        // It may answer, and close, before everything is written.
        let _ = stream.write_all(bytes).await;
        read_to_end(&mut stream).await
    }

    /// One request on a connection of its own.
    async fn request(&self, method: &str, path: &str, body: &str) -> String {
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: zdsup\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
        self.exchange(format!("{head}{body}").as_bytes()).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn connect(socket: &Path) -> UnixStream {
    UnixStream::connect(socket).await.unwrap()
}

/// Whatever comes until the end, or the reset that takes its place when we had more to say.
async fn read_to_end(stream: &mut UnixStream) -> String {
    let mut answer = Vec::new();
    tokio::time::timeout(DEADLINE, async {
        loop {
            match stream.read_buf(&mut answer).await {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return,
                Err(error) => panic!("{error}"),
            }
        }
    })
    .await
    .expect("the server closes the connection");
    String::from_utf8(answer).unwrap()
}

fn status_of(answer: &str) -> u16 {
    let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|status| status.parse().ok());
    status.unwrap_or_else(|| panic!("no HTTP: {answer:?}"))
}

fn body_of(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").expect("a head").1
}

fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split_once("\r\n\r\n").expect("a head").0;
    head.lines().skip(1).filter_map(|line| line.split_once(": ")).find(|(key, _)| *key == name).map(|(_, value)| value)
}

fn somebody(uid: u32, gid: u32) -> io::Result<Credentials> {
    Ok(Credentials { pid: None, uid, gid, groups: vec![] })
}

fn everybody(_: BorrowedFd<'_>) -> io::Result<Credentials> {
    somebody(1000, 1000)
}
