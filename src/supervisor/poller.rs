//! Everything the loop waits for by descriptor, behind one descriptor: a level-triggered epoll inside tokio's.
//!
//! Level-triggered, so that work can be done in bounded batches: what is left over is reported again. Nothing is
//! queued between the kernel and the loop, so the order in which sources are served is ours to decide.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::core::{InstanceId, ServiceId};

/// What became ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// The pidfd of an instance's main process.
    Exit(InstanceId),
    /// The pidfd of an instance's group leader, where that is no longer its main process.
    LeaderExit(InstanceId),
    /// An instance's notify socket.
    Notify(InstanceId),
    /// The shim that is to become an instance.
    Shim(InstanceId),
    /// An instance's standard output.
    Stdout(InstanceId),
    /// An instance's standard error.
    Stderr(InstanceId),
    /// The descriptor on which an instance writes a newline when it is ready.
    ReadyFd(InstanceId),
    /// The shim of the command that tests an instance's readiness.
    ProbeShim(InstanceId),
    /// That command's pidfd.
    ProbeExit(InstanceId),
    /// The shim of the command that checks an instance's health.
    CheckShim(InstanceId),
    /// That command's pidfd.
    CheckExit(InstanceId),
    /// An instance's cgroup.events.
    Cgroup(InstanceId),
    /// The shim of a service's hook.
    HookShim(ServiceId),
    /// That hook's pidfd.
    HookExit(ServiceId),
    /// What it prints.
    HookOutput(ServiceId),
    /// The shim of the trial of a binary that is to replace us.
    TrialShim,
    /// That trial's pidfd.
    TrialExit,
    /// A descriptor that a service stored, by its id: it hung up.
    Stored(ServiceId, u64),
    /// A listener was shut down.
    Hangup,
    /// A listener's path changed.
    Path,
}

/// A ticket for one registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Token(u64);

/// The epoll, and what its tokens stand for.
#[derive(Debug)]
pub(super) struct Poller {
    epoll: AsyncFd<Watched>,
    sources: HashMap<u64, Source>,
    next: u64,
}

#[derive(Debug)]
struct Watched(Epoll);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for types whose descriptor changes; this one's does not"
        )]
        let epoll = AsyncFd::with_interest(Watched(epoll), Interest::READABLE)?;
        Ok(Self { epoll, sources: HashMap::new(), next: 0 })
    }

    /// Reports `source` whenever `fd` is readable or hung up.
    pub(super) fn add(&mut self, fd: impl AsFd, source: Source) -> io::Result<Token> {
        self.add_flags(fd, source, EpollFlags::EPOLLIN)
    }

    /// Reports `source` when `fd` has an exceptional condition: how cgroup.events tells of a change.
    pub(super) fn add_priority(&mut self, fd: impl AsFd, source: Source) -> io::Result<Token> {
        self.add_flags(fd, source, EpollFlags::EPOLLPRI)
    }

    /// Reports `source` when `fd` is hung up or has failed, and never for what can be read from it.
    pub(super) fn add_hangup(&mut self, fd: impl AsFd, source: Source) -> io::Result<Token> {
        self.add_flags(fd, source, EpollFlags::empty())
    }

    fn add_flags(&mut self, fd: impl AsFd, source: Source, flags: EpollFlags) -> io::Result<Token> {
        let token = self.next;
        self.epoll.get_ref().0.add(fd, EpollEvent::new(flags, token))?;
        self.next += 1;
        self.sources.insert(token, source);
        Ok(Token(token))
    }

    /// Ends a registration. The descriptor must still be open: another process may hold what it refers to, and then
    /// the kernel would go on reporting it.
    pub(super) fn remove(&mut self, fd: impl AsFd, token: Token) {
        self.sources.remove(&token.0);
        // It may have been removed with its last holder.
        let _ = self.epoll.get_ref().0.delete(fd);
    }

    /// Waits until something is ready, and says what; at most 64 at a time.
    pub(super) async fn ready(&self) -> io::Result<Vec<(Token, Source)>> {
        loop {
            let mut guard = self.epoll.readable().await?;
            let found = self.poll()?;
            if found.is_empty() {
                guard.clear_ready();
            } else {
                return Ok(found);
            }
        }
    }

    fn poll(&self) -> io::Result<Vec<(Token, Source)>> {
        let mut events = [EpollEvent::empty(); 64];
        let count = match self.epoll.get_ref().0.wait(&mut events, EpollTimeout::ZERO) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let known = events[..count].iter().filter_map(|event| {
            let token = event.data();
            self.sources.get(&token).map(|source| (Token(token), *source))
        });
        Ok(known.collect())
    }

    /// Whether a registration still stands: an event may have been reported together with what ended it.
    pub(super) fn is_current(&self, token: Token) -> bool {
        self.sources.contains_key(&token.0)
    }
}
