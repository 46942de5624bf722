//! The keeper: the small parent of a supervisor that runs without systemd (`zdsup run --keeper`).
//!
//! ```text
//!   container manager ◄── READY=1, STATUS= ── keeper ◄── FDSTORE=1 and descriptors, READY=1 ... ── supervisor
//!   terminal, manager ──────── signals ─────►   │   ─── signals ──────────────────────────────────►   │
//!                                               └── LISTEN_FDS: all that it holds ──► the next one, after a death
//! ```
//!
//! * It holds the descriptors that its supervisor stores with it, by systemd's protocol (sd_pid_notify_with_fds(3)),
//!   and passes them to the next one by sd_listen_fds(3). What is stored stays until it is removed, as with FDPOLL=0.
//! * It is one thread that waits for two descriptors: its socket and its signals. After the start it does not allocate
//!   and never waits for anybody else: what it holds, reads and says at once is bounded.
//! * It counts only what the supervisor itself says, by the credentials that the kernel attaches. The socket's name is
//!   one that the kernel chose in the abstract namespace: there is no file that could be left behind or be in the way.
//! * It ends with the supervisor's exit code where that is 0, 2, 4 or 6: another start would not mend it. Nor would it
//!   mend 5, a refusal, where nothing is held that somebody should go on with. After any other end it starts it again
//!   in 100 ms; after 60 starts in 10 s it gives up, exit code 1. What the supervisor ran is then left alone, as systemd
//!   leaves it for a unit that failed; the end of a container's first process ends it.
//! * Signals to it are for the supervisor; one that comes while there is none waits for the next. A supervisor is born
//!   with them blocked and takes them once it has handlers. SIGTERM and SIGINT, once given, are given to each later one
//!   too: stopping goes on where the death of a supervisor interrupted it.
//! * SIGUSR1 makes a supervisor leave: exit 0 with everything left running. The keeper then starts the next at once.
//! * It reaps the orphans of dead supervisors, as pid 1 or as a subreaper. Their exit status is lost to nobody: a pidfd
//!   tells it after reaping (PIDFD_GET_INFO).
//! * PR_SET_PDEATHSIG is deliberately absent: if the keeper is killed, the supervisor goes on.

use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::Path;

use nix::libc::{SIGCHLD, SIGINT, SIGTERM, SIGUSR1};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, bind, getsockname, sendto, setsockopt, socket, sockopt,
};

use crate::exit::Exit;
use crate::notify;
use crate::sys::message::{self, FDS_PER_MESSAGE};
use crate::sys::pidfd::{self, ExitInfo, PidFd};
use crate::sys::respawn::Respawn;
use crate::sys::{Pid, clock, limits, proc, systemd};
use console::Console;
use store::{Name, Request, Store};

mod console;
mod store;

/// The first argument of the process that is the keeper, and the flag that asks for one.
const ARGUMENT: &str = "__keeper";
const FLAG: &str = "--keeper";

/// Datagrams that are read in a row; and once the supervisor is dead, more than can wait in a socket
/// (net.unix.max_dgram_qlen), so that its last words are among them.
const BATCH: usize = 64;
const LAST_WORDS: usize = 4096;
/// The pause before another start, and when a start was not possible; how many starts there may be in how long.
/// Nanoseconds.
const PAUSE: u64 = 100_000_000;
const LONG_PAUSE: u64 = 1_000_000_000;
const STARTS: usize = 60;
const STARTS_WITHIN: u64 = 10_000_000_000;

/// Makes this process the keeper of a supervisor with its own command line. A new image, so that nothing that clap
/// needed stays in memory. Returns only to say why not.
#[must_use]
pub fn become_keeper() -> io::Error {
    let become_it = |path: &Path| {
        let mut words = std::env::args_os();
        let name = words.next().unwrap_or_else(|| "zdsup".into());
        std::process::Command::new(path).arg0(name).arg(ARGUMENT).args(words).exec()
    };
    // By its own path, so that it knows that, too.
    proc::own_path().map_or_else(|error| error, |path| become_it(&path));
    become_it(Path::new("/proc/self/exe"))
}

/// Is the keeper and never returns, if that is what this process was started as. To be called first of all in `main`.
pub fn main_if_keeper() {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    if words.get(1).is_none_or(|word| word != ARGUMENT) {
        return;
    }
    words.remove(1);
    // After `--` it is the service's.
    if let Some(place) = words.iter().take_while(|word| *word != "--").position(|word| word == FLAG) {
        words.remove(place);
    }
    let code = match Keeper::new(words) {
        Ok(mut keeper) => keeper.run(),
        Err(error) => {
            eprintln!("zdsup keeper: cannot start: {error}");
            Exit::Internal.code()
        }
    };
    std::process::exit(code.into())
}

struct Keeper {
    socket: OwnedFd,
    signals: SignalFd,
    console: Console,
    /// Who hears what is not for us: the NOTIFY_SOCKET that we were started with.
    manager: Option<UnixAddr>,
    store: Store,
    /// Something was refused, and that has been said.
    refused: bool,
    respawn: Respawn,
    limit: StartLimit,
    supervisor: Option<(Pid, PidFd)>,
    /// When the next one is due, where there is none: nanoseconds of CLOCK_MONOTONIC.
    due: u64,
    /// Signals for the next one: bit 0 is signal 1.
    waiting: u64,
    /// The signal to stop, once it was given.
    stop: Option<i32>,
    /// The supervisor was told to leave.
    leaves: bool,
}

impl Keeper {
    /// Everything that needs memory.
    fn new(argv: Vec<OsString>) -> io::Result<Self> {
        // Before anything else takes a descriptor.
        let inherited = systemd::inherited_sockets()?;
        let nofile = limits::raise_nofile()?;
        pidfd::become_subreaper()?;
        let _ = nix::sys::prctl::set_name(c"zdsup-keeper");

        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
        setsockopt(&socket, sockopt::PassCred, &true)?;
        // Without a name, the kernel chooses one (unix(7), autobind).
        bind(socket.as_raw_fd(), &UnixAddr::new_unnamed())?;
        let address = getsockname::<UnixAddr>(socket.as_raw_fd())?;
        let mut signals = SigSet::all();
        // Those that a thread brings upon itself.
        for own in [Signal::SIGABRT, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGPIPE] {
            signals.remove(own);
        }
        for own in [Signal::SIGSEGV, Signal::SIGSYS, Signal::SIGTRAP] {
            signals.remove(own);
        }
        signals.thread_set_mask()?;
        let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;

        let mut store = Store::new(nofile.hard);
        if store.capacity < store::FEWEST {
            let error = format!("the limit on open files is {}, which leaves no room for a store", nofile.hard);
            return Err(io::Error::other(error));
        }
        for (name, fd) in inherited {
            // As sd_listen_fds_with_names(3) calls those that have none.
            let name = Name::new(name.as_deref().unwrap_or("unknown").as_bytes());
            if !name.is_some_and(|name| store.add(name, &fd)) {
                return Err(io::Error::other("the sockets passed by systemd are too many, or their names too long"));
            }
        }
        let manager = std::env::var_os("NOTIFY_SOCKET").and_then(|text| address_of(&text));
        let mut own = OsString::from("NOTIFY_SOCKET=@");
        own.push(OsStr::from_bytes(address.as_abstract().unwrap_or_default()));
        let mut env: Vec<OsString> = std::env::vars_os()
            .filter(|(key, _)| !is_ours(key))
            .map(|(key, value)| [key.as_bytes(), b"=", value.as_bytes()].concat())
            .map(OsString::from_vec)
            .collect();
        env.extend([own, format!("FDSTORE={}", store.capacity).into()]);
        Ok(Self {
            socket,
            signals,
            console: Console::new()?,
            manager,
            store,
            refused: false,
            respawn: Respawn::new(proc::own_path()?.into(), argv, env, nofile)?,
            limit: StartLimit::default(),
            supervisor: None,
            due: 0,
            waiting: 0,
            stop: None,
            leaves: false,
        })
    }

    /// Returns the exit code.
    fn run(&mut self) -> u8 {
        loop {
            if let ControlFlow::Break(code) = self.turn() {
                return code;
            }
        }
    }

    fn turn(&mut self) -> ControlFlow<u8> {
        if self.supervisor.is_none() && clock::monotonic() >= self.due {
            self.start()?;
        }
        self.wait();
        self.receive(BATCH);
        self.pass_signals();
        self.reap()
    }

    fn start(&mut self) -> ControlFlow<u8> {
        let now = clock::monotonic();
        if !self.limit.allows(now) {
            self.console.say(format_args!("the supervisor was started {STARTS} times in 10 s: giving up"));
            return ControlFlow::Break(Exit::Internal.code());
        }
        match self.respawn.start(self.store.iter()) {
            Ok(supervisor) => {
                // What the start touched is hardly needed for waiting.
                limits::let_go_of_code();
                self.limit.count(now);
                self.supervisor = Some(supervisor);
                self.leaves = false;
                let waiting = std::mem::take(&mut self.waiting) | self.stop.map_or(0, bit);
                (1..=64).filter(|signal| waiting & bit(*signal) != 0).for_each(|signal| self.tell(signal));
            }
            Err(error) => {
                // Too many processes, or no memory: that may pass, and there is nothing else to be done.
                self.due = now + LONG_PAUSE;
                let number = error.raw_os_error().unwrap_or_default();
                self.console.say(format_args!("cannot start the supervisor (errno {number}): trying again"));
            }
        }
        ControlFlow::Continue(())
    }

    /// Until there is something to do.
    fn wait(&self) {
        let timeout = match self.supervisor {
            Some(_) => PollTimeout::NONE,
            None => {
                let left = self.due.saturating_sub(clock::monotonic()).div_ceil(1_000_000);
                PollTimeout::from(u16::try_from(left).unwrap_or(u16::MAX))
            }
        };
        let mut fds = [self.socket.as_fd(), self.signals.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        // Should it fail, looking at everything once too often does no harm.
        let _ = poll(&mut fds, timeout);
    }

    // ---- what the supervisor says ---------------------------------------------------------------------------------

    fn receive(&mut self, most: usize) {
        // One byte more than may be, so that more shows.
        let mut buffer = [0; notify::MAX_DATAGRAM + 1];
        for _ in 0..most {
            let mut fds = [const { None }; FDS_PER_MESSAGE];
            let mut room = fds.iter_mut();
            let keep = |fd| _ = room.next().map(|place| *place = Some(fd));
            let Ok(received) = message::receive_each(self.socket.as_fd(), &mut buffer, 0, keep) else { return };
            let sender = received.credentials.and_then(|(pid, ..)| Pid::from_raw(pid));
            let supervisor = self.supervisor.as_ref().map(|(pid, _)| *pid);
            if sender.is_some() && sender == supervisor && !received.truncated {
                let fds = fds.iter().flatten();
                self.on_datagram(&buffer[..received.len], fds, received.control_truncated);
            }
            // All descriptors that were not copied are closed here; for the sender of a BARRIER=1 that is the answer.
        }
    }

    fn on_datagram<'a>(&mut self, bytes: &[u8], fds: impl Iterator<Item = &'a OwnedFd>, incomplete: bool) {
        match Request::read(bytes) {
            Request::Nothing => {}
            Request::Remove(name) => {
                self.store.remove(name);
                self.refused = false;
            }
            Request::Store(name) => {
                let name = Name::new(name);
                let mut all = !incomplete;
                for fd in fds {
                    all &= name.is_some_and(|name| self.store.add(name, fd));
                }
                if !all && !self.refused {
                    self.refused = true;
                    let (held, most) = (self.store.entries.len(), self.store.capacity);
                    self.console.say(format_args!("descriptors are refused: {held} are held, {most} at most"));
                }
            }
            Request::Foreign => {
                if let Some(manager) = &self.manager {
                    // A manager that does not read has missed it.
                    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                    let _ = sendto(self.socket.as_raw_fd(), bytes, manager, flags);
                }
            }
        }
    }

    // ---- signals --------------------------------------------------------------------------------------------------

    fn pass_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            match info.ssi_signo.cast_signed() {
                SIGCHLD => {}
                signal => self.tell(signal),
            }
        }
    }

    fn tell(&mut self, signal: i32) {
        if matches!(signal, SIGTERM | SIGINT) {
            self.stop = Some(signal);
        }
        match &self.supervisor {
            Some((_, process)) => {
                self.leaves |= signal == SIGUSR1;
                // Should it be dead, that is what we hear next.
                let _ = process.signal(signal);
            }
            // The next one is about to start anyway.
            None if signal == SIGUSR1 => {}
            None => self.waiting |= bit(signal),
        }
    }

    // ---- what ends ------------------------------------------------------------------------------------------------

    fn reap(&mut self) -> ControlFlow<u8> {
        while let Ok(Some(pid)) = pidfd::peek_any_child() {
            if self.supervisor.as_ref().is_none_or(|(supervisor, _)| *supervisor != pid) {
                let _ = pidfd::reap_pid(pid);
                continue;
            }
            // Its last words, while they count.
            self.receive(LAST_WORDS);
            if let Some((_, process)) = self.supervisor.take()
                && let Ok(Some(exit)) = process.reap()
            {
                self.on_exit(pid, exit)?;
            }
        }
        ControlFlow::Continue(())
    }

    fn on_exit(&mut self, pid: Pid, exit: ExitInfo) -> ControlFlow<u8> {
        self.due = clock::monotonic();
        let known = match exit {
            ExitInfo::Code(code) => u8::try_from(code).ok().and_then(Exit::from_code),
            ExitInfo::Signal { .. } => None,
        };
        match known {
            Some(Exit::Done) if self.leaves => {
                self.console.say(format_args!("the supervisor, process {pid}, has left: starting the next"));
            }
            Some(Exit::Done) => return ControlFlow::Break(Exit::Done.code()),
            // As in RestartPreventExitStatus= of the unit.
            Some(last @ (Exit::Usage | Exit::Failed | Exit::NotPermitted)) => {
                let why = "another start would not mend that";
                self.console.say(format_args!("the supervisor, process {pid}, ended: {exit}; {why}"));
                return ControlFlow::Break(last.code());
            }
            // Another supervisor has its place. With what this one holds, the next one goes on, once the other has gone.
            Some(refused @ Exit::Refused) if self.store.entries.is_empty() => {
                self.console
                    .say(format_args!("the supervisor, process {pid}, ended: {exit}; there is nothing to hold"));
                return ControlFlow::Break(refused.code());
            }
            _ => {
                self.due += PAUSE;
                self.console.say(format_args!("the supervisor, process {pid}, ended: {exit}; starting it again"));
            }
        }
        ControlFlow::Continue(())
    }
}

/// Variables that are about us and not about the supervisor. Without WATCHDOG_PID it takes a watchdog for its own.
fn is_ours(key: &OsStr) -> bool {
    let ours =
        ["NOTIFY_SOCKET", "FDSTORE", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID", "WATCHDOG_PID"];
    ours.iter().any(|known| key == *known)
}

fn address_of(text: &OsStr) -> Option<UnixAddr> {
    match text.as_bytes().strip_prefix(b"@") {
        Some(name) => UnixAddr::new_abstract(name).ok(),
        None => UnixAddr::new(text).ok(),
    }
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// The times of the last starts, the oldest at `next`; 0 where there was none.
struct StartLimit {
    times: [u64; STARTS],
    next: usize,
}

impl Default for StartLimit {
    fn default() -> Self {
        Self { times: [0; STARTS], next: 0 }
    }
}

impl StartLimit {
    /// Whether there may be one now.
    fn allows(&self, now: u64) -> bool {
        let oldest = self.times[self.next];
        oldest == 0 || now - oldest >= STARTS_WITHIN
    }

    fn count(&mut self, now: u64) {
        self.times[self.next] = now;
        self.next = (self.next + 1) % STARTS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixty_starts_in_ten_seconds() {
        let mut limit = StartLimit::default();
        let second = 1_000_000_000;
        for start in 0..60 {
            assert!(limit.allows(second + start));
            limit.count(second + start);
        }
        assert!(!limit.allows(11 * second - 1));
        assert!(limit.allows(11 * second));
        limit.count(11 * second);
        assert!(!limit.allows(11 * second));
        assert!(limit.allows(11 * second + 1));
        // One a second is never too many.
        let mut limit = StartLimit::default();
        for start in 1..1000 {
            assert!(limit.allows(start * second));
            limit.count(start * second);
        }
    }

    #[test]
    fn addresses_of_a_manager() {
        assert_eq!(address_of(OsStr::new("/run/notify")).unwrap().path(), Some(std::path::Path::new("/run/notify")));
        assert_eq!(address_of(OsStr::new("@name")).unwrap().as_abstract(), Some(&b"name"[..]));
        assert!(address_of(OsStr::from_bytes(&[b'x'; 200])).is_none());
    }
}
