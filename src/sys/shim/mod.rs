//! Starting a program: a process of ours that prepares itself, waits for `go`, and becomes it.
//!
//! ```text
//!   supervisor                               shim (this program again, as `zdsup __shim`)
//!   Blank::start                             is loaded, and waits for a plan
//!   Blank::send ── plan, descriptors ──────> receives them
//!                                            setsid, cgroup, descriptors, limits, user, directory, signals
//!   Report::Prepared <────────────────────── reports
//!   records it, keeps its pidfd
//!   Shim::go ──────────────────────────────> executes the program
//!   Report::Closed <───────── (close-on-exec)
//!   Report::Failed <──────── at any point before that: the step, the error, a hint
//! ```
//!
//! * No code of ours runs between fork and exec: the shim is made by std's `Command` (posix_spawn) and is an ordinary
//!   process, so that setup may allocate, open files and report errors.
//! * Nothing is executed before the supervisor has recorded it. When the supervisor dies before `go`, the shim sees the
//!   end of the stream and exits: no process is left that nobody knows.
//! * The socket is close-on-exec on both sides: its end after `go`, with a pidfd that lives, is the proof of execution.
//! * PR_SET_PDEATHSIG is deliberately absent: a service outlives its supervisor.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::fcntl::{F_SETFL, OFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::{Deserialize, Serialize};

use super::limits::{Nofile, Resource};
use super::pidfd::PidFd;
use super::{Pid, message};
use wire::Orders;

mod child;
mod exec;
mod program;
mod wire;

pub use program::{FileIdentity, Program, ResolveError, Stands};

/// The first descriptor that is passed on (SD_LISTEN_FDS_START).
const FIRST_FD: u32 = 3;

/// How a shim exits that was never told to go: a successor of its supervisor knows by this that nothing was executed,
/// where it did not see the conversation. A program that exits so of its own accord would be started again, once.
pub const NEVER_WENT: i32 = 213;

/// Everything about a process that is to be started.
#[derive(Debug)]
pub struct Plan<'a> {
    /// What it runs.
    pub program: &'a Program,
    /// Its arguments, `argv[0]` first.
    pub argv: Vec<OsString>,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Where it runs.
    pub directory: PathBuf,
    /// Its standard output. Its standard input is /dev/null.
    pub stdout: BorrowedFd<'a>,
    /// Its standard error.
    pub stderr: BorrowedFd<'a>,
    /// Its descriptors from 3 on.
    pub fds: Vec<BorrowedFd<'a>>,
    /// One more, at a number of the service's choosing: beyond those of `fds`, or 1 or 2 in place of those.
    pub extra: Option<(u32, BorrowedFd<'a>)>,
    /// Set LISTEN_PID to its own number, if it gets any `fds`. (LISTEN_FDS and LISTEN_FDNAMES belong into `env`.)
    pub listen_pid: bool,
    /// Set WATCHDOG_PID to its own number. (WATCHDOG_USEC belongs into `env`.)
    pub watchdog_pid: bool,
    /// Who it runs as; ourselves when `None`.
    pub identity: Option<Identity>,
    /// Its file mode creation mask; ours when `None`.
    pub umask: Option<u32>,
    /// Limits, soft and hard; `u64::MAX` is "unlimited".
    pub limits: Vec<(Resource, u64, u64)>,
    /// The limits on open files that it gets unless `limits` says otherwise: those before we raised ours.
    pub nofile: Nofile,
    /// Its niceness, -20 to 19; ours when `None`.
    pub nice: Option<i32>,
    /// -1000 to 1000; ours when `None`.
    pub oom_score_adjust: Option<i32>,
    /// Set PR_SET_NO_NEW_PRIVS.
    pub no_new_privileges: bool,
    /// The directory of the cgroup that it joins.
    pub cgroup: Option<PathBuf>,
}

/// Who a process runs as.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
}

/// A shim that has no plan yet: it is loaded while whoever will send it one makes up its mind. Dropping it makes it exit;
/// the reaping is its owner's.
#[derive(Debug)]
pub struct Blank {
    /// Its number, which stays that of the program.
    pub pid: Pid,
    pidfd: PidFd,
    socket: OwnedFd,
}

/// A process on its way to running a program, or running it. Dropping it before [`Shim::go`] makes it exit; the reaping
/// is its owner's.
#[derive(Debug)]
pub struct Shim {
    /// Its number, which stays that of the program.
    pub pid: Pid,
    /// The process.
    pub pidfd: PidFd,
    socket: OwnedFd,
}

/// What a shim has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// It waits for `go`.
    Prepared,
    /// It gave up, and exits.
    Failed {
        /// What it was about: `execute /srv/web/bin/web`, `change to the directory /srv`. Fits after "failed to".
        step: String,
        /// What went wrong: `permission denied`.
        error: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// The end: the program was executed if `go` was said and the pidfd lives, otherwise the shim died.
    Closed,
}

impl Blank {
    /// Makes the process; does not wait for it. Call it on the thread that reaps children, so that the number cannot be
    /// reused meanwhile.
    ///
    /// # Errors
    /// EAGAIN for too many processes, EMFILE, ENFILE, ENOMEM.
    pub fn start() -> io::Result<Self> {
        Self::start_from(Path::new("/proc/self/exe"))
    }

    /// [`Self::start`] with another executable as the shim. It must call [`main_if_shim`] first of all. For tests,
    /// whose own executable does not.
    ///
    /// # Errors
    /// As [`Self::start`]; those of executing it.
    pub fn start_from(executable: &Path) -> io::Result<Self> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        // Theirs stays blocking: a file status flag belongs to one end.
        fcntl(&ours, F_SETFL(OFlag::O_NONBLOCK))?;
        let mut command = Command::new(executable);
        command.arg0("zdsup").arg(wire::ARGUMENT).env_clear();
        command.stdin(theirs).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn()?;
        // It holds our copy of their end: until that is closed, the shim would not see ours close, nor we theirs.
        drop(command);
        let pid = Pid::try_from(child.id()).map_err(io::Error::other)?;
        Ok(Self { pid, pidfd: PidFd::open(pid)?, socket: ours })
    }

    /// Sends it the plan; does not wait for it. The descriptors of the plan are copied and may be closed afterwards.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM; EPIPE when it is gone; `InvalidInput` when the plan contradicts itself.
    pub fn send(self, plan: &Plan<'_>) -> io::Result<Shim> {
        check_extra(plan)?;
        let mut file = File::from(memfd_create(c"zdsup-plan", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(&Orders::encode(plan))?;
        let mut fds = vec![file.as_fd(), plan.program.held.as_fd(), plan.stdout, plan.stderr];
        fds.extend(&plan.fds);
        fds.extend(plan.extra.map(|(_, fd)| fd));
        let count = (fds.len() as u64).to_le_bytes();
        for part in fds.chunks(message::FDS_PER_MESSAGE) {
            message::send(self.socket.as_fd(), &count, part, 0)?;
        }
        Ok(Shim { pid: self.pid, pidfd: self.pidfd, socket: self.socket })
    }
}

impl Shim {
    /// What it has to say next; `None` when there is nothing yet. After [`Report::Closed`] it goes on saying that.
    ///
    /// # Errors
    /// Those of recvmsg(2); `InvalidData` for what no shim says.
    pub fn receive(&self) -> io::Result<Option<Report>> {
        let mut buffer = vec![0; wire::REPORT_LEN];
        match message::receive(self.socket.as_fd(), &mut buffer, libc::MSG_DONTWAIT) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            // It died without having read all that it was sent.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(Some(Report::Closed)),
            Err(error) => Err(error),
            Ok(received) if received.len == 0 => Ok(Some(Report::Closed)),
            Ok(received) => Report::decode(&buffer[..received.len]).map(Some),
        }
    }

    /// Takes over one that a predecessor made.
    #[must_use]
    pub fn adopt(pid: Pid, pidfd: PidFd, socket: OwnedFd) -> Self {
        Self { pid, pidfd, socket }
    }

    /// Lets it execute the program.
    ///
    /// # Errors
    /// EPIPE when it is gone.
    pub fn go(&self) -> io::Result<()> {
        message::send(self.socket.as_fd(), wire::GO, &[], 0)
    }
}

impl AsFd for Shim {
    /// The socket that [`Shim::receive`] reads.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether a process still is a shim: it shows its own arguments until it has executed the program.
///
/// # Errors
/// Those of reading /proc: it is gone, or on its way out.
pub fn is_shim(pid: Pid) -> io::Result<bool> {
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline"))?;
    if arguments.is_empty() {
        // As it exits it loses its memory first, and with it its arguments and the link to what it executes.
        std::fs::read_link(format!("/proc/{pid}/exe"))?;
    }
    Ok(are_a_shims(&arguments))
}

/// Whether a process is a shim, or may be one that is just coming into being or on its way out: those show no arguments.
#[must_use]
pub fn may_be_shim(pid: Pid) -> bool {
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline"));
    arguments.is_ok_and(|arguments| arguments.is_empty() || are_a_shims(&arguments))
}

fn are_a_shims(arguments: &[u8]) -> bool {
    arguments.split(|byte| *byte == 0).nth(1) == Some(wire::ARGUMENT.as_bytes())
}

/// Becomes the shim and never returns, if that is what this process was started as. To be called first of all in
/// `main`.
pub fn main_if_shim() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == wire::ARGUMENT) {
        child::main();
    }
}

/// The extra descriptor may replace standard output or error, or stand beyond the others.
fn check_extra(plan: &Plan<'_>) -> io::Result<()> {
    let free = |target: u32| target == 1 || target == 2 || target as usize >= FIRST_FD as usize + plan.fds.len();
    match plan.extra {
        Some((target, _)) if !free(target) => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("descriptor {target} is taken by standard input or a listener"),
        )),
        _ => Ok(()),
    }
}
