//! Processes as descriptors, and the reaping of children.
//!
//! A process is signalled and reaped through its [`PidFd`] only, which cannot come to mean another process. Numbers
//! remain in two places: [`kill_group`], for which the leader must be unreaped, and [`reap_pid`], for a zombie that
//! [`peek_any_child`] has just shown.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Pid, answer};

/// A process, alive or dead.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitInfo {
    /// It exited with this status.
    Code(i32),
    /// It was killed.
    Signal {
        /// By this signal.
        signal: i32,
        /// Whether a core dump was written.
        core: bool,
    },
}

/// `struct pidfd_info` as Linux 6.13 began with it; 64 bytes.
#[repr(C)]
struct PidfdInfo {
    mask: u64,
    rest: [u32; 13],
    exit_code: i32,
}

/// `_IOWR(0xff, 11, struct pidfd_info)` (linux/pidfd.h).
const PIDFD_GET_INFO: u32 = 0xc040_ff0b;
const PIDFD_INFO_EXIT: u64 = 1 << 3;

impl ExitInfo {
    /// What wait(2) calls the status.
    fn from_wait_status(status: i32) -> Self {
        if libc::WIFEXITED(status) {
            Self::Code(libc::WEXITSTATUS(status))
        } else {
            Self::Signal { signal: libc::WTERMSIG(status), core: libc::WCOREDUMP(status) }
        }
    }
}

impl fmt::Display for ExitInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal { signal, core } => {
                write!(f, "killed by {}", super::signal::Name(signal))?;
                if core { f.write_str(" (core dumped)") } else { Ok(()) }
            }
        }
    }
}

impl PidFd {
    /// The process that has this number now (pidfd_open(2)). Certain to be the one that was meant only if it is a child
    /// that has not been reaped.
    ///
    /// # Errors
    /// ESRCH when there is none; EMFILE, ENFILE.
    pub fn open(pid: Pid) -> io::Result<Self> {
        // SAFETY: pidfd_open takes two integers and touches no memory of ours.
        let fd = answer(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
        // SAFETY: the kernel has just made this descriptor (close-on-exec), and nobody else knows of it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
    }

    /// Sends a signal (pidfd_send_signal(2)); 0 only asks whether it could be sent.
    ///
    /// # Errors
    /// ESRCH when the process has been reaped; EPERM when it belongs to somebody else; EINVAL for no signal's number.
    /// A zombie takes any signal without an error.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: with a null siginfo the kernel fills one in itself, as kill(2) does; nothing of ours is touched.
        answer(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal, info, 0) }).map(drop)
    }

    /// Whether the main thread has ended and no other is left, reaped or not: what readability of the descriptor means.
    #[must_use]
    pub fn has_exited(&self) -> bool {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, PollTimeout::ZERO) {
                Err(Errno::EINTR) => {}
                Ok(ready) => return ready > 0,
                Err(_) => return false,
            }
        }
    }

    /// How this child ended, leaving it unreaped; `None` while it lives.
    ///
    /// # Errors
    /// ECHILD when it is no child of ours, or has been reaped.
    pub fn peek_exit(&self) -> io::Result<Option<ExitInfo>> {
        Ok(wait(libc::P_PIDFD, self.id(), libc::WEXITED | libc::WNOHANG | libc::WNOWAIT)?.map(|(_, exit)| exit))
    }

    /// How a process ended that is no child of ours, or has been reaped (PIDFD_GET_INFO with PIDFD_INFO_EXIT, Linux
    /// 6.15). The kernel knows it once its parent has reaped it.
    ///
    /// # Errors
    /// ENOTTY, EINVAL where the kernel does not know it.
    pub fn exit_info(&self) -> io::Result<Option<ExitInfo>> {
        let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, rest: [0; 13], exit_code: 0 };
        // SAFETY: the request carries the size of the structure, which the kernel fills in up to that.
        answer(unsafe { libc::ioctl(self.0.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) })?;
        Ok((info.mask & PIDFD_INFO_EXIT != 0).then(|| ExitInfo::from_wait_status(info.exit_code)))
    }

    /// Waits until the process has been reaped, at most `patience`; for a thread that may wait. Kernels before 6.9 do
    /// not tell (POLLHUP).
    pub fn wait_reaped(&self, patience: Duration) {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::empty())];
        let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        while poll(&mut fds, patience) == Err(Errno::EINTR) {}
    }

    /// Signals the process group that this process leads or led, whatever became of its number
    /// (PIDFD_SIGNAL_PROCESS_GROUP, Linux 6.9).
    ///
    /// # Errors
    /// ESRCH when the group has no member; EINVAL where the kernel does not know it.
    pub fn signal_group(&self, signal: i32) -> io::Result<()> {
        const PIDFD_SIGNAL_PROCESS_GROUP: libc::c_uint = 1 << 2;
        let (info, flags) = (std::ptr::null::<libc::siginfo_t>(), PIDFD_SIGNAL_PROCESS_GROUP);
        // SAFETY: as in `signal`.
        answer(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal, info, flags) }).map(drop)
    }

    /// Reaps this child and says how it ended; `None` while it lives.
    ///
    /// # Errors
    /// ECHILD when it is no child of ours, or has been reaped.
    pub fn reap(&self) -> io::Result<Option<ExitInfo>> {
        Ok(wait(libc::P_PIDFD, self.id(), libc::WEXITED | libc::WNOHANG)?.map(|(_, exit)| exit))
    }

    /// The number of the process, from /proc/self/fdinfo; `None` once it has been reaped, or when it is not visible in
    /// this pid namespace.
    ///
    /// # Errors
    /// Those of reading /proc.
    pub fn pid(&self) -> io::Result<Option<Pid>> {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", self.0.as_raw_fd()))?;
        let number = info.lines().find_map(|line| line.strip_prefix("Pid:")).map(str::trim);
        Ok(number.and_then(|number| number.parse().ok()).and_then(Pid::from_raw))
    }

    fn id(&self) -> libc::id_t {
        self.0.as_raw_fd().cast_unsigned()
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for PidFd {
    /// Takes a descriptor that is known to be a pidfd (SCM_PIDFD, a predecessor's).
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<PidFd> for OwnedFd {
    fn from(fd: PidFd) -> Self {
        fd.0
    }
}

/// Signals the process group that this process leads. Only while the leader is unreaped: after that the number may
/// come to name another group.
///
/// # Errors
/// ESRCH when the group has no member; EPERM when none of them may be signalled.
pub fn kill_group(leader: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes two integers; the number is positive, so its negative means that group and never "everyone".
    answer(unsafe { libc::kill(-leader.as_raw(), signal) }).map(drop)
}

/// A child that has ended and is unreaped, if there is one. It stays as it is.
///
/// # Errors
/// Other than having no children, which is `None`, none is known.
pub fn peek_any_child() -> io::Result<Option<Pid>> {
    match wait(libc::P_ALL, 0, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) {
        Ok(found) => Ok(found.map(|(pid, _)| pid)),
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reaps a zombie that [`peek_any_child`] has shown.
///
/// # Errors
/// ECHILD when it is no child of ours.
pub fn reap_pid(pid: Pid) -> io::Result<()> {
    wait(libc::P_PID, pid.as_raw().cast_unsigned(), libc::WEXITED | libc::WNOHANG).map(drop)
}

/// From now on, orphans among our descendants become our children (PR_SET_CHILD_SUBREAPER).
///
/// # Errors
/// None is known on the kernels that we support.
pub fn become_subreaper() -> io::Result<()> {
    nix::sys::prctl::set_child_subreaper(true).map_err(io::Error::from)
}

/// waitid(2) with WNOHANG among the options.
fn wait(kind: libc::idtype_t, id: libc::id_t, options: libc::c_int) -> io::Result<Option<(Pid, ExitInfo)>> {
    // SAFETY: siginfo_t is plain integers; zero is a value of it, and means "no child" if it stays so (waitid(2)).
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: `info` is a live siginfo_t that waitid may write to.
        match answer(unsafe { libc::waitid(kind, id, &raw mut info, options) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(_) => break,
        }
    }
    // SAFETY: waitid succeeded, so the fields of SIGCHLD are those that are set, or all is zero.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok(Pid::from_raw(pid).map(|pid| {
        let exit = match info.si_code {
            libc::CLD_EXITED => ExitInfo::Code(status),
            code => ExitInfo::Signal { signal: status, core: code == libc::CLD_DUMPED },
        };
        (pid, exit)
    }))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn child(script: &str) -> (std::process::Child, PidFd) {
        let child = Command::new("/bin/sh").args(["-c", script]).stdin(Stdio::piped()).spawn().unwrap();
        let pidfd = PidFd::open(Pid::try_from(child.id()).unwrap()).unwrap();
        (child, pidfd)
    }

    fn wait_readable(pidfd: &PidFd) {
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, 10_000u16), Ok(1), "the child did not end in time");
    }

    #[test]
    fn an_exit_is_seen_peeked_at_and_reaped_once() {
        let (mut child, pidfd) = child("read x; exit 7");
        assert!(!pidfd.has_exited());
        assert_eq!(pidfd.peek_exit().unwrap(), None);
        assert_eq!(pidfd.reap().unwrap(), None);
        assert_eq!(pidfd.pid().unwrap().unwrap().as_raw().cast_unsigned(), child.id());
        drop(child.stdin.take());
        wait_readable(&pidfd);
        assert!(pidfd.has_exited());
        assert_eq!(pidfd.peek_exit().unwrap(), Some(ExitInfo::Code(7)));
        pidfd.signal(libc::SIGTERM).unwrap();
        assert_eq!(pidfd.reap().unwrap(), Some(ExitInfo::Code(7)));
        assert_eq!(pidfd.reap().unwrap_err().raw_os_error(), Some(libc::ECHILD));
        assert_eq!(pidfd.signal(libc::SIGTERM).unwrap_err().raw_os_error(), Some(libc::ESRCH));
        assert_eq!(pidfd.pid().unwrap(), None);
    }

    #[test]
    fn a_killed_child_names_its_signal() {
        let (_child, pidfd) = child("read x");
        pidfd.signal(libc::SIGKILL).unwrap();
        wait_readable(&pidfd);
        let exit = pidfd.reap().unwrap().unwrap();
        assert_eq!(exit, ExitInfo::Signal { signal: libc::SIGKILL, core: false });
        assert_eq!(exit.to_string(), "killed by SIGKILL");
    }

    #[test]
    fn a_zombie_is_shown_before_it_is_reaped_by_number() {
        let (child, pidfd) = child("exit 0");
        wait_readable(&pidfd);
        // Other tests of this process have children too, so any of them may be shown.
        assert!(peek_any_child().unwrap().is_some());
        reap_pid(Pid::try_from(child.id()).unwrap()).unwrap();
        assert_eq!(pidfd.reap().unwrap_err().raw_os_error(), Some(libc::ECHILD));
    }

    #[test]
    fn a_group_is_signalled_by_its_leader() {
        use std::os::unix::process::CommandExt;
        let mut child = Command::new("/bin/sleep").arg("60").process_group(0).spawn().unwrap();
        let pid = Pid::try_from(child.id()).unwrap();
        let pidfd = PidFd::open(pid).unwrap();
        kill_group(pid, libc::SIGKILL).unwrap();
        wait_readable(&pidfd);
        assert!(matches!(pidfd.peek_exit().unwrap(), Some(ExitInfo::Signal { signal: libc::SIGKILL, .. })));
        assert!(kill_group(pid, 0).is_ok(), "its leader is unreaped");
        child.wait().unwrap();
        assert_eq!(kill_group(pid, 0).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    /// Not by eprintln!, which the test harness swallows when a test passes.
    fn skipped(why: &str) {
        use std::io::Write;
        let _ = writeln!(io::stderr(), "SKIPPED {}: {why}", std::thread::current().name().unwrap_or("a test"));
    }

    #[test]
    fn the_kernel_remembers_how_a_process_ended() {
        let (_child, pidfd) = child("exit 7");
        wait_readable(&pidfd);
        match pidfd.exit_info() {
            Err(error) => return skipped(&format!("this kernel has no PIDFD_INFO_EXIT: {error}")),
            Ok(early) => assert_eq!(early, None, "nobody has reaped it"),
        }
        assert_eq!(pidfd.reap().unwrap(), Some(ExitInfo::Code(7)));
        pidfd.wait_reaped(Duration::from_secs(10));
        assert_eq!(pidfd.exit_info().unwrap(), Some(ExitInfo::Code(7)));
        let (_child, pidfd) = child("kill -KILL $$");
        wait_readable(&pidfd);
        pidfd.reap().unwrap();
        assert_eq!(pidfd.exit_info().unwrap(), Some(ExitInfo::Signal { signal: libc::SIGKILL, core: false }));
    }

    #[test]
    fn a_group_is_signalled_after_its_leader_was_reaped() {
        use std::os::unix::process::CommandExt;
        let mut leader = Command::new("/bin/sh");
        leader.args(["-c", "sleep 60 & echo $!; exit 0"]).stdout(Stdio::piped()).process_group(0);
        let mut leader = leader.spawn().unwrap();
        let pidfd = PidFd::open(Pid::try_from(leader.id()).unwrap()).unwrap();
        wait_readable(&pidfd);
        let mut line = String::new();
        let said = leader.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(said), &mut line).unwrap();
        let member = PidFd::open(line.trim().parse().map(Pid::from_raw).unwrap().unwrap()).unwrap();
        leader.wait().unwrap();
        match pidfd.signal_group(libc::SIGKILL) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                member.signal(libc::SIGKILL).unwrap();
                return skipped("this kernel has no PIDFD_SIGNAL_PROCESS_GROUP");
            }
            other => other.unwrap(),
        }
        wait_readable(&member);
    }

    #[test]
    fn a_number_that_nobody_has_cannot_be_opened() {
        let nobody = Pid::from_raw(i32::MAX).unwrap();
        assert!(PidFd::open(nobody).is_err());
    }
}
