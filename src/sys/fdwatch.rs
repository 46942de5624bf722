//! Watching what services can do to the sockets that they share with us: shut them down, or unlink their files.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// Tells when a listener is shut down, by whomever; never wakes for a connection, unless that is asked for.
///
/// Its own epoll, whose entries ask for no events: then only EPOLLHUP and EPOLLERR come, which cannot be declined
/// (epoll_ctl(2)). It is level-triggered: a listener stays ready until it is healed by listen() or removed. The
/// descriptor is readable while anything is ready.
#[derive(Debug)]
pub struct HangupWatch(Epoll);

impl HangupWatch {
    /// An empty one.
    ///
    /// # Errors
    /// EMFILE, ENFILE.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?))
    }

    /// Watches a socket, which must be removed before its last descriptor here is closed: others may hold the same
    /// one, and an entry lives as long as any of them.
    ///
    /// # Errors
    /// EEXIST when it is watched; ENOSPC beyond the user's limit on watches.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        Ok(self.0.add(fd, EpollEvent::new(EpollFlags::empty(), token))?)
    }

    /// Stops watching a socket.
    ///
    /// # Errors
    /// ENOENT when it is not watched.
    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(self.0.delete(fd)?)
    }

    /// Whether to tell as well that connections wait in it: as long as some do, where nobody takes them.
    ///
    /// # Errors
    /// ENOENT when it is not watched.
    pub fn tell_of_callers(&self, fd: BorrowedFd<'_>, token: u64, tell: bool) -> io::Result<()> {
        let flags = if tell { EpollFlags::EPOLLIN } else { EpollFlags::empty() };
        Ok(self.0.modify(fd, &mut EpollEvent::new(flags, token))?)
    }

    /// The tokens of those that something is to be told of now; does not wait.
    ///
    /// # Errors
    /// None is known.
    pub fn ready(&self) -> io::Result<Vec<(u64, Told)>> {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            match self.0.wait(&mut events, EpollTimeout::ZERO) {
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
                Ok(count) => {
                    return Ok(events[..count].iter().map(|one| (one.data(), Told::of(one.events()))).collect());
                }
            }
        }
    }
}

/// What is told of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is shut down.
    Hangup,
    /// Connections wait in it.
    Callers,
}

impl Told {
    fn of(flags: EpollFlags) -> Self {
        if flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) { Self::Hangup } else { Self::Callers }
    }
}

impl AsFd for HangupWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}

/// Tells when the file of a unix socket may have been removed, renamed or given another mode or owner (inotify(7) on
/// the file itself, so that nothing else in its directory wakes us), and when something of a directory was removed.
#[derive(Debug)]
pub struct PathWatch {
    inotify: Inotify,
    tokens: Mutex<HashMap<WatchDescriptor, u64>>,
}

impl PathWatch {
    /// An empty one.
    ///
    /// # Errors
    /// EMFILE, also for too many inotify instances of this user.
    pub fn new() -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        Ok(Self { inotify, tokens: Mutex::default() })
    }

    /// Watches the file that is at this path now. It is watched for as long as any link to it is left, wherever; the
    /// same file watched again takes the new token.
    ///
    /// # Errors
    /// ENOENT; EACCES without permission to read it; ENOSPC beyond the user's limit on watches.
    pub fn add(&self, path: &Path, token: u64) -> io::Result<()> {
        let mask = AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_DONT_FOLLOW;
        self.watch(path, mask, token)
    }

    /// Watches the directory that is at this path now, for what is removed from it or renamed, and for its own end. That
    /// of a directory in it is told by this one alone while something holds what was in that: a bound socket does.
    ///
    /// # Errors
    /// As [`add`](Self::add); ENOTDIR.
    pub fn add_directory(&self, path: &Path, token: u64) -> io::Result<()> {
        let mask = AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        self.watch(path, mask, token)
    }

    fn watch(&self, path: &Path, mask: AddWatchFlags, token: u64) -> io::Result<()> {
        let watch = self.inotify.add_watch(path, mask)?;
        self.tokens().insert(watch, token);
        Ok(())
    }

    /// Stops watching every file of this token.
    pub fn remove(&self, token: u64) {
        self.tokens().retain(|watch, known| {
            if *known != token {
                return true;
            }
            // EINVAL when the file is gone, and its watch with it.
            let _ = self.inotify.rm_watch(*watch);
            false
        });
    }

    /// The tokens of those that something happened to, each once; does not wait.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn ready(&self) -> io::Result<Vec<u64>> {
        let mut found = Vec::new();
        loop {
            let events = match self.inotify.read_events() {
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            let mut tokens = self.tokens();
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    // Some were lost, nobody knows which.
                    found.extend(tokens.values());
                } else if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    tokens.remove(&event.wd);
                } else {
                    found.extend(tokens.get(&event.wd));
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    fn tokens(&self) -> std::sync::MutexGuard<'_, HashMap<WatchDescriptor, u64>> {
        // Nothing is left half-done by a panic.
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for PathWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::unix::net::UnixListener;

    use nix::poll::{PollFd, PollFlags, poll};

    use super::*;
    use crate::sys::tests::directory;

    fn readable(fd: impl AsFd, within: u16) -> bool {
        poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], within) == Ok(1)
    }

    #[test]
    fn a_shutdown_wakes_and_connections_do_not() {
        let watch = HangupWatch::new().unwrap();
        let quiet = TcpListener::bind("127.0.0.1:0").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        watch.add(quiet.as_fd(), 1).unwrap();
        watch.add(listener.as_fd(), 2).unwrap();
        let _clients: Vec<_> = (0..5).map(|_| TcpStream::connect(listener.local_addr().unwrap()).unwrap()).collect();
        assert!(!readable(&watch, 0));
        assert_eq!(watch.ready().unwrap(), []);
        watch.tell_of_callers(listener.as_fd(), 2, true).unwrap();
        assert_eq!(watch.ready().unwrap(), [(2, Told::Callers)]);
        watch.tell_of_callers(listener.as_fd(), 2, false).unwrap();
        assert!(!readable(&watch, 0));
        TcpStream::from(listener.as_fd().try_clone_to_owned().unwrap()).shutdown(Shutdown::Both).unwrap();
        assert!(readable(&watch, 10_000));
        assert_eq!(watch.ready().unwrap(), [(2, Told::Hangup)]);
        watch.remove(listener.as_fd()).unwrap();
        assert!(!readable(&watch, 0));
        assert_eq!(watch.ready().unwrap(), []);
        assert!(watch.remove(listener.as_fd()).is_err());
    }

    #[test]
    fn what_happens_to_a_file_is_told_once() {
        let home = directory("watch");
        let (first, second) = (home.path().join("a"), home.path().join("b"));
        let _listeners = [UnixListener::bind(&first).unwrap(), UnixListener::bind(&second).unwrap()];
        // A hidden link, so that the file outlives its name.
        std::fs::hard_link(&first, home.path().join("hidden")).unwrap();
        let watch = PathWatch::new().unwrap();
        watch.add(&first, 1).unwrap();
        watch.add(&second, 2).unwrap();
        let _client = std::os::unix::net::UnixStream::connect(&first).unwrap();
        assert!(!readable(&watch, 0), "connections do not wake");
        std::fs::remove_file(&first).unwrap();
        assert!(readable(&watch, 10_000));
        assert_eq!(watch.ready().unwrap(), [1]);
        assert_eq!(watch.ready().unwrap(), [0u64; 0]);
        // Linked back, it is the same file, and still watched.
        std::fs::hard_link(home.path().join("hidden"), &first).unwrap();
        watch.ready().unwrap();
        std::fs::rename(&first, home.path().join("moved")).unwrap();
        std::fs::remove_file(&second).unwrap();
        assert_eq!(watch.ready().unwrap(), [1, 2]);
        watch.remove(1);
        std::fs::remove_file(home.path().join("moved")).unwrap();
        assert_eq!(watch.ready().unwrap(), [0u64; 0]);
        assert!(watch.add(&first, 1).is_err());
    }

    #[test]
    fn what_is_removed_from_a_directory_is_told_whoever_holds_it() {
        let home = directory("watch");
        let inner = home.path().join("n");
        std::fs::create_dir(&inner).unwrap();
        let watch = PathWatch::new().unwrap();
        watch.add_directory(home.path(), 1).unwrap();
        let _bound = UnixListener::bind(inner.join("socket")).unwrap();
        assert_eq!(watch.ready().unwrap(), [0u64; 0], "what comes is nothing");
        std::fs::remove_dir_all(&inner).unwrap();
        assert_eq!(watch.ready().unwrap(), [1]);
        std::fs::write(&inner, "").unwrap();
        assert!(watch.add_directory(&inner, 2).is_err());
        std::fs::rename(&inner, home.path().join("moved")).unwrap();
        assert_eq!(watch.ready().unwrap(), [1]);
    }
}
