//! System calls: the only place with unsafe code, and the only one that knows pids and descriptors as the kernel does.
//!
//! Everything here is synchronous. What can block says so, and is run off the loop by its caller; what the loop waits
//! for is a descriptor that it can poll ([`pidfd::PidFd`], [`notify::NotifySocket`], [`fdwatch::HangupWatch`],
//! [`fdwatch::PathWatch`], [`shim::Shim`]). Two invariants hold throughout: every descriptor is close-on-exec from its
//! birth, and every owned descriptor is an `OwnedFd` (or a type around one), so that nothing leaks on any path.

use std::fmt;
use std::io;
use std::num::NonZeroI32;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

use nix::unistd::{SysconfVar, sysconf};
use serde::{Deserialize, Serialize};

pub mod cgroup;
pub mod clock;
pub mod diag;
pub mod fd;
pub mod fdwatch;
pub mod limits;
pub(crate) mod message;
pub mod netstat;
pub mod notify;
pub mod peer;
pub mod pidfd;
pub mod proc;
pub mod respawn;
pub mod shim;
pub mod signal;
pub mod socket;
pub mod steer;
pub mod systemd;
pub mod written;

/// The number of a process: positive, as the kernel gives them out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i32", into = "i32")]
pub struct Pid(NonZeroI32);

impl Pid {
    /// `None` unless the number is positive: 0 and the negative ones mean groups to the kernel, never a process.
    #[must_use]
    pub fn from_raw(pid: i32) -> Option<Self> {
        if pid > 0 { NonZeroI32::new(pid).map(Self) } else { None }
    }

    /// The number.
    #[must_use]
    pub fn as_raw(self) -> i32 {
        self.0.get()
    }

    /// This process.
    #[must_use]
    pub fn own() -> Self {
        Self::try_from(std::process::id()).expect("the kernel numbers processes from 1 to 2^22")
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number is no process's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not the number of a process")]
pub struct NotAPid(i64);

impl TryFrom<i32> for Pid {
    type Error = NotAPid;

    fn try_from(pid: i32) -> Result<Self, NotAPid> {
        Self::from_raw(pid).ok_or(NotAPid(pid.into()))
    }
}

impl TryFrom<u32> for Pid {
    type Error = NotAPid;

    fn try_from(pid: u32) -> Result<Self, NotAPid> {
        i32::try_from(pid).ok().and_then(Self::from_raw).ok_or(NotAPid(pid.into()))
    }
}

impl From<Pid> for i32 {
    fn from(pid: Pid) -> Self {
        pid.as_raw()
    }
}

/// What went wrong, in words that fit after a colon: `no such file or directory`, without a capital or the number.
#[must_use]
pub fn describe(error: &io::Error) -> String {
    let text = match error.raw_os_error() {
        Some(number) => nix::errno::Errno::from_raw(number).desc().to_owned(),
        None => error.to_string(),
    };
    let mut letters = text.chars();
    match (letters.next(), letters.next()) {
        // A word in capitals (an acronym) stays as it is.
        (Some(first), Some(second)) if second.is_lowercase() || !second.is_alphabetic() => {
            first.to_lowercase().chain(std::iter::once(second)).chain(letters).collect()
        }
        _ => text,
    }
}

/// The path that leads to what is open, whatever it is called now.
fn fd_link(fd: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// A copy of a descriptor at this number or above, close-on-exec.
pub(crate) fn lift(fd: BorrowedFd<'_>, floor: u32) -> io::Result<OwnedFd> {
    let floor = i32::try_from(floor).map_err(|_| io::ErrorKind::InvalidInput)?;
    let number = nix::fcntl::fcntl(fd, nix::fcntl::F_DUPFD_CLOEXEC(floor))?;
    // SAFETY: fcntl has just made it, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Whether both are the same open file description: copies of one descriptor (kcmp(2)). Where the kernel does not tell,
/// they are not.
pub(crate) fn is_same_description(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    const KCMP_FILE: libc::c_int = 0;
    let own = Pid::own().as_raw();
    // SAFETY: kcmp takes integers only.
    unsafe { libc::syscall(libc::SYS_kcmp, own, own, KCMP_FILE, one.as_raw_fd(), other.as_raw_fd()) == 0 }
}

/// A constant of the system (sysconf(3)), or what it is nearly everywhere.
fn constant(which: SysconfVar, otherwise: u64) -> u64 {
    sysconf(which).ok().flatten().and_then(|value| u64::try_from(value).ok()).filter(|v| *v > 0).unwrap_or(otherwise)
}

/// The answer of a libc function that returns -1 and sets errno.
fn answer<T: PartialOrd + From<i8>>(returned: T) -> io::Result<T> {
    if returned < T::from(0) { Err(io::Error::last_os_error()) } else { Ok(returned) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A private directory that goes with its owner.
    pub(super) struct Directory(PathBuf);

    impl Directory {
        pub(super) fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    pub(super) fn directory(what: &str) -> Directory {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("zdsup-{what}-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Directory(path)
    }

    #[test]
    fn pids_are_positive() {
        assert_eq!(Pid::from_raw(0), None);
        assert_eq!(Pid::from_raw(-1), None);
        assert_eq!(Pid::from_raw(7).map(Pid::as_raw), Some(7));
        assert_eq!(Pid::own().as_raw().cast_unsigned(), std::process::id());
        assert!(serde_json::from_str::<Pid>("-3").is_err());
        assert_eq!(serde_json::from_str::<Pid>("3").ok(), Pid::from_raw(3));
    }

    #[test]
    fn copies_share_a_description() {
        use std::os::fd::AsFd;
        let file = std::fs::File::open("/dev/null").unwrap();
        let copy = lift(file.as_fd(), 200).unwrap();
        assert!(copy.as_raw_fd() >= 200);
        let other = std::fs::File::open("/dev/null").unwrap();
        assert!(!is_same_description(file.as_fd(), other.as_fd()));
        let last = std::io::Error::last_os_error();
        if is_same_description(file.as_fd(), file.as_fd()) {
            assert!(is_same_description(file.as_fd(), copy.as_fd()));
        } else {
            eprintln!("skipped: kcmp is not permitted: {last}");
        }
    }

    #[test]
    fn errors_read_as_fragments() {
        assert_eq!(describe(&io::Error::from_raw_os_error(libc::ENOENT)), "no such file or directory");
        assert_eq!(describe(&io::Error::other("Boom")), "boom");
        assert_eq!(describe(&io::Error::other("TLS broke")), "TLS broke");
    }
}
