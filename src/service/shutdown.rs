//! The wish that this process end, from a signal or from itself.

use std::fmt;
use std::io::{self, PipeReader, PipeWriter, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use super::os::{self, Repeat};

/// The wish that this process end. Clones are the same wish.
///
/// It is made at most once and never taken back; any number of threads and tasks can wait for it.
///
/// ```no_run
/// # fn main() -> std::io::Result<()> {
/// let shutdown = zdsup::service::Shutdown::install()?;
/// // ... start serving in other threads ...
/// shutdown.wait();
/// # Ok(())
/// # }
/// ```
///
/// Event loops of other kinds wait for its descriptor ([`AsFd`]) to become readable, and read nothing from it.
#[derive(Clone)]
pub struct Shutdown(Arc<Wish>);

struct Wish {
    born: Instant,
    /// Nanoseconds from `born` to the wish, plus one; 0 until then.
    made: AtomicU64,
    /// Readable once the wish is made, for ever: the byte in it is never read.
    reader: PipeReader,
    writer: PipeWriter,
}

/// What the signal handlers act on.
static PROCESS: OnceLock<Shutdown> = OnceLock::new();

/// How often to look where waiting itself fails.
const FALLBACK: Duration = Duration::from_millis(100);

impl Shutdown {
    /// The wish that SIGTERM and SIGINT make. Installs their handlers, once for the process.
    ///
    /// Call it first of all: until then SIGTERM kills. A second SIGINT kills too, so that whoever sits at a terminal
    /// is not kept waiting; a second SIGTERM changes nothing. A SIGINT that is ignored (background jobs) stays ignored.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn install() -> io::Result<Self> {
        let own = Self::new()?;
        let shutdown = PROCESS.get_or_init(|| own);
        for (signal, repeat) in [(libc::SIGTERM, Repeat::Always), (libc::SIGINT, Repeat::Once)] {
            install_handler(signal, repeat)?;
        }
        Ok(shutdown.clone())
    }

    /// A wish that only [`Shutdown::request`] makes: for tests, or where something else handles the signals.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        Ok(Self(Arc::new(Wish { born: Instant::now(), made: AtomicU64::new(0), reader, writer })))
    }

    /// Makes the wish, as the signal does.
    pub fn request(&self) {
        // Runs in a signal handler: atomics, the clock and write(2), nothing else.
        let wish = &*self.0;
        let now = u64::try_from(wish.born.elapsed().as_nanos()).unwrap_or(u64::MAX).saturating_add(1);
        if wish.made.compare_exchange(0, now, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            // The pipe is empty and its reader open, so one byte always fits.
            let _ = (&wish.writer).write(&[1]);
        }
    }

    /// Whether it has been made.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.at().is_some()
    }

    /// How long ago it was made.
    #[must_use]
    pub fn elapsed(&self) -> Option<Duration> {
        self.at().map(|at| at.elapsed())
    }

    /// Blocks until it is made.
    pub fn wait(&self) {
        self.wait_until(None);
    }

    /// Blocks until it is made, at most so long. Returns whether it is.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        // A time beyond the clock's end is no limit.
        self.wait_until(Instant::now().checked_add(timeout))
    }

    /// Resolves when it is made.
    #[cfg(feature = "tokio")]
    pub async fn requested(&self) {
        use tokio::net::unix::pipe::Receiver;

        // A descriptor of its own for each waiter: epoll takes one only once.
        let watched = self.0.reader.try_clone().ok();
        let watched = watched.and_then(|fd| Receiver::from_owned_fd(fd.into()).ok());
        while !self.is_requested() {
            match &watched {
                Some(fd) if fd.readable().await.is_ok() => return,
                Some(_) | None => tokio::time::sleep(FALLBACK).await,
            }
        }
    }

    pub(super) fn at(&self) -> Option<Instant> {
        let made = self.0.made.load(Ordering::Acquire).checked_sub(1)?;
        self.0.born.checked_add(Duration::from_nanos(made))
    }

    fn wait_until(&self, deadline: Option<Instant>) -> bool {
        while !self.is_requested() {
            if deadline.is_some_and(|at| Instant::now() >= at) {
                return false;
            }
            if os::wait_readable([self.as_fd()], deadline).is_err() {
                thread::sleep(FALLBACK);
            }
        }
        true
    }
}

impl AsFd for Shutdown {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.reader.as_fd()
    }
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shutdown").field("elapsed", &self.elapsed()).finish()
    }
}

#[expect(unsafe_code, reason = "the promise that on_signal asks for can only be made where the action is written")]
fn install_handler(signal: libc::c_int, repeat: Repeat) -> io::Result<()> {
    // SAFETY: the action reads an initialised OnceLock and the clock, swaps an atomic and writes to a pipe: all of it
    // async-signal-safe. It allocates nothing and takes no lock.
    unsafe {
        os::on_signal(signal, repeat, || {
            if let Some(shutdown) = PROCESS.get() {
                shutdown.request();
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn every_waiter_wakes_and_it_stays_made() {
        let shutdown = Shutdown::new().expect("a pipe");
        assert!(!shutdown.is_requested());
        assert!(!shutdown.wait_timeout(Duration::ZERO));
        let waiters: Vec<_> = (0..4)
            .map(|_| {
                let shutdown = shutdown.clone();
                thread::spawn(move || shutdown.wait_timeout(LONG))
            })
            .collect();
        shutdown.request();
        shutdown.request();
        for waiter in waiters {
            assert!(waiter.join().expect("no panic"));
        }
        shutdown.wait();
        assert!(shutdown.elapsed().expect("made") < LONG);
    }

    #[test]
    fn a_timeout_without_end_is_no_limit() {
        let shutdown = Shutdown::new().expect("a pipe");
        shutdown.request();
        assert!(shutdown.wait_timeout(Duration::MAX));
    }

    #[test]
    fn a_signal_makes_the_wish_and_a_second_one_does_no_harm() {
        let shutdown = Shutdown::install().expect("handlers");
        let again = Shutdown::install().expect("handlers once more");
        for _ in 0..2 {
            let kill = std::process::Command::new("kill").args(["-TERM", &std::process::id().to_string()]).status();
            assert!(kill.expect("kill(1)").success());
            assert!(shutdown.wait_timeout(LONG));
        }
        assert!(again.is_requested());
        assert!(!Shutdown::new().expect("a pipe").is_requested());
    }

    #[cfg(feature = "tokio")]
    #[test]
    fn every_task_wakes() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let shutdown = Shutdown::new().expect("a pipe");
        runtime.block_on(async {
            let tasks: Vec<_> = (0..3)
                .map(|_| {
                    let shutdown = shutdown.clone();
                    tokio::spawn(async move { shutdown.requested().await })
                })
                .collect();
            tokio::task::yield_now().await;
            shutdown.request();
            for task in tasks {
                tokio::time::timeout(LONG, task).await.expect("in time").expect("no panic");
            }
            shutdown.requested().await;
        });
    }
}
