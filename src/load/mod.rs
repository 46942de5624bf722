//! A load client that accounts for every request.
//!
//! Each request that is begun ends exactly once: well, or in one [`Class`] of failure. Nothing is retried and nothing
//! is forgiven: a keep-alive connection that the server closed just before the next request was written is a failed
//! request too (only an announced `Connection: close` is not). So `failed() == 0` means that no client saw anything.
//!
//! Threads and blocking sockets, so that it is simple and exact; the demo, the tests and the benchmarks share it.
//! `client` is one connection and the little of HTTP/1.1 it needs, `report` what is known afterwards.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

mod client;
mod report;
#[cfg(test)]
mod tests;

use client::Connection;
pub use client::{Class, Failure};
pub use report::{Example, Latency, Mode, Report, Sample};

/// Where requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A unix socket; a path that begins with `@` is an abstract name.
    Unix(PathBuf),
}

/// How much load, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Threads that make a new connection for each request.
    pub threads_new: usize,
    /// Threads that keep one connection for as long as the server does.
    pub threads_keep_alive: usize,
    /// Each thread's pause after a request.
    pub pause_between: Duration,
    /// How long a request may take in all, connecting included.
    pub timeout: Duration,
    /// The path asked for.
    pub path: String,
    /// It ends by itself after so many requests of all threads together.
    pub max_requests: u64,
    /// It ends by itself after this time; at most an hour.
    pub max_duration: Duration,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            threads_new: 2,
            threads_keep_alive: 2,
            pause_between: Duration::from_millis(1),
            timeout: Duration::from_secs(5),
            path: "/".to_owned(),
            max_requests: 5_000_000,
            max_duration: Duration::from_secs(600),
        }
    }
}

/// The longest that load may run: offsets of samples are 32 bits of microseconds.
const LONGEST: Duration = Duration::from_secs(3600);

/// The stack of a load thread.
const STACK: usize = 256 * 1024;

/// The entry point: see [`Load::start`].
#[derive(Clone, Copy, Debug)]
pub struct Load;

impl Load {
    /// Starts the threads.
    ///
    /// # Errors
    /// When a thread cannot be made; those made before it are ended.
    pub fn start(target: Target, plan: Plan) -> io::Result<Running> {
        let shared = Arc::new(Shared {
            target,
            started: Instant::now(),
            stop: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            plan,
        });
        let mut running = Running { threads: Vec::new(), shared };
        let (new, keep_alive) = (running.shared.plan.threads_new, running.shared.plan.threads_keep_alive);
        for n in 0..new + keep_alive {
            let shared = Arc::clone(&running.shared);
            let keeps = n >= new;
            let thread = thread::Builder::new().name(format!("load-{n}")).stack_size(STACK);
            running.threads.push(thread.spawn(move || shared.work(keeps))?);
        }
        Ok(running)
    }
}

/// Load in progress. Dropping it ends it.
#[derive(Debug)]
pub struct Running {
    threads: Vec<JoinHandle<Report>>,
    shared: Arc<Shared>,
}

impl Running {
    /// Requests that ended so far.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.shared.ended.load(Ordering::Relaxed)
    }

    /// Requests that failed so far.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.shared.failed.load(Ordering::Relaxed)
    }

    /// Whether every thread came to the end of its plan.
    #[must_use]
    pub fn finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Lets the requests in flight end (they count, and take at most `Plan::timeout`) and reports.
    #[must_use]
    pub fn stop(mut self) -> Report {
        self.tell();
        self.collect()
    }

    /// Waits until the plan is done, and reports.
    #[must_use]
    pub fn wait(mut self) -> Report {
        self.collect()
    }

    fn tell(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in &self.threads {
            thread.thread().unpark();
        }
    }

    fn collect(&mut self) -> Report {
        let mut report = Report::new(self.shared.started);
        for thread in self.threads.drain(..) {
            match thread.join() {
                Ok(part) => report.merge(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        report
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tell();
        for thread in self.threads.drain(..) {
            // A panic of a load thread was printed; here it must not become a panic within a drop.
            let _ = thread.join();
        }
    }
}

#[derive(Debug)]
struct Shared {
    target: Target,
    plan: Plan,
    started: Instant,
    stop: AtomicBool,
    begun: AtomicU64,
    ended: AtomicU64,
    failed: AtomicU64,
}

impl Shared {
    /// One thread's work, to the end of the plan.
    fn work(&self, keeps: bool) -> Report {
        let mut report = Report::new(self.started);
        let mut kept = None;
        while self.may_begin() {
            let mode = match (keeps, &kept) {
                (false, _) => Mode::New,
                (true, None) => Mode::First,
                (true, Some(_)) => Mode::Reused,
            };
            let began = Instant::now();
            let outcome = self.request(&mut kept, keeps, began + self.plan.timeout);
            let latency = began.elapsed();
            self.ended.fetch_add(1, Ordering::Relaxed);
            if outcome.is_err() {
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
            report.record(began, latency, mode, outcome);
            self.pause();
        }
        report
    }

    /// One request: the answer's first word, or how it failed. A connection that may be used again is left in `kept`.
    fn request(&self, kept: &mut Option<Connection>, keeps: bool, deadline: Instant) -> Result<String, Failure> {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => Connection::open(&self.target, deadline)?,
        };
        let answer = connection.exchange(&self.plan.path, keeps, deadline)?;
        if keeps && !answer.closes {
            *kept = Some(connection);
        }
        Ok(answer.word)
    }

    fn may_begin(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
            && self.started.elapsed() < self.plan.max_duration.min(LONGEST)
            && self.begun.fetch_add(1, Ordering::Relaxed) < self.plan.max_requests
    }

    fn pause(&self) {
        let until = Instant::now() + self.plan.pause_between;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stop.load(Ordering::Relaxed) {
                return;
            }
            thread::park_timeout(left);
        }
    }
}
