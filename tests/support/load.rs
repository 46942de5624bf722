//! Clients that ask all the time and account for every request: it ends well, or as exactly one class of error.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::client::Connection;

/// Where requests go.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Tcp(SocketAddr),
    Unix(String),
}

impl Target {
    pub(crate) fn connect(&self) -> io::Result<Connection> {
        match self {
            Self::Tcp(address) => Connection::tcp(*address),
            Self::Unix(path) => Connection::unix(path),
        }
    }
}

/// How a client behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// A connection for each request.
    Fresh,
    /// One connection for as long as the server keeps it.
    KeepAlive,
}

/// What became of the requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) asked: u64,
    pub(crate) ok: u64,
    /// By class.
    pub(crate) failed: BTreeMap<String, u64>,
    /// The first error of all, with the time since the load began.
    pub(crate) first: Option<String>,
    pub(crate) slowest: Duration,
    /// Answers by generation.
    pub(crate) by: BTreeMap<u64, u64>,
}

/// Running clients. They end with it.
pub(crate) struct Load {
    end: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    tally: Arc<Mutex<Tally>>,
    clients: Vec<JoinHandle<()>>,
}

/// A pause between two requests of one client: the machine has other things to do as well.
const PACE: Duration = Duration::from_millis(2);

impl Load {
    /// Two clients of each manner.
    pub(crate) fn start(target: &Target) -> Self {
        Self::with(target, &[Manner::Fresh, Manner::KeepAlive, Manner::Fresh, Manner::KeepAlive])
    }

    pub(crate) fn with(target: &Target, clients: &[Manner]) -> Self {
        let (end, answered, tally) = <(Arc<AtomicBool>, Arc<AtomicU64>, Arc<Mutex<Tally>>)>::default();
        let start = Instant::now();
        let client = |&manner: &Manner| {
            let (end, answered, tally) = (Arc::clone(&end), Arc::clone(&answered), Arc::clone(&tally));
            let target = target.clone();
            std::thread::spawn(move || ask(&target, manner, start, &end, &answered, &tally))
        };
        let clients = clients.iter().map(client).collect();
        Self { end, answered, tally, clients }
    }

    /// Waits until so many more requests were answered.
    #[track_caller]
    pub(crate) fn more(&self, count: u64) {
        let goal = self.answered.load(Ordering::Relaxed) + count;
        super::eventually("more answers", || (self.answered.load(Ordering::Relaxed) >= goal).then_some(()));
    }

    /// Ends the clients, each after the answer that it waits for.
    pub(crate) fn finish(mut self) -> Tally {
        self.end.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            client.join().expect("a client does not panic");
        }
        let tally = self.tally.lock().expect("no client panicked").clone();
        let failed: u64 = tally.failed.values().sum();
        assert_eq!(tally.asked, tally.ok + failed, "a request is not accounted for");
        tally
    }

    /// The same, where no client may have noticed anything.
    #[track_caller]
    pub(crate) fn unharmed(self) -> Tally {
        let tally = self.finish();
        assert!(tally.failed.is_empty(), "{tally:?}");
        assert!(tally.ok > 0, "nobody asked");
        tally
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
    }
}

fn ask(target: &Target, manner: Manner, start: Instant, end: &AtomicBool, answered: &AtomicU64, tally: &Mutex<Tally>) {
    let mut kept: Option<Connection> = None;
    while !end.load(Ordering::Relaxed) {
        let began = Instant::now();
        let reused = kept.is_some();
        let outcome = request(target, manner, &mut kept);
        let took = began.elapsed();
        let mut tally = tally.lock().expect("no client panicked");
        tally.asked += 1;
        tally.slowest = tally.slowest.max(took);
        match outcome {
            Ok(generation) => {
                tally.ok += 1;
                *tally.by.entry(generation).or_default() += 1;
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Err((stage, error)) => {
                let class = format!("{stage}{}: {:?}", if reused { " (kept)" } else { "" }, error.kind());
                let at = start.elapsed();
                tally.first.get_or_insert_with(|| format!("{class} after {took:?} at {at:?}: {error}"));
                *tally.failed.entry(class).or_default() += 1;
            }
        }
        drop(tally);
        std::thread::sleep(PACE);
    }
}

fn request(target: &Target, manner: Manner, kept: &mut Option<Connection>) -> Result<u64, (&'static str, io::Error)> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => target.connect().map_err(|error| ("connect", error))?,
    };
    let closed = || io::Error::new(io::ErrorKind::UnexpectedEof, "closed without an answer");
    let answer = connection.get("/").and_then(|answer| answer.ok_or_else(closed)).map_err(|error| ("answer", error))?;
    if answer.status != 200 {
        return Err(("status", io::Error::other(answer.status.to_string())));
    }
    if manner == Manner::KeepAlive && !answer.closes() {
        *kept = Some(connection);
    }
    Ok(answer.generation())
}
