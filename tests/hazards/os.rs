//! What a service has from the system: inherited descriptors, the notify socket, signals.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};

/// The sockets that systemd's protocol hands over (sd_listen_fds(3)), with their names.
pub(crate) fn inherited() -> Vec<(String, OwnedFd)> {
    let variable = |name| std::env::var(name).ok();
    if variable("LISTEN_PID").is_some_and(|pid| pid != std::process::id().to_string()) {
        return vec![];
    }
    let count: i32 = variable("LISTEN_FDS").map_or(0, |count| count.parse().expect("LISTEN_FDS is a number"));
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<&str> = names.split(':').collect();
    let fd = |number: i32| {
        // SAFETY: the protocol hands these descriptors to this process, and this is called once.
        let fd = unsafe { OwnedFd::from_raw_fd(3 + number) };
        fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("an inherited descriptor is open");
        let name = usize::try_from(number).ok().and_then(|place| names.get(place));
        ((*name.unwrap_or(&"unknown")).to_owned(), fd)
    };
    (0..count).map(fd).collect()
}

/// A descriptor that is inherited by children again.
pub(crate) fn leak_to_children(fd: BorrowedFd<'_>) {
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).expect("the descriptor is open");
}

pub(crate) fn set_nonblocking(fd: impl AsFd, nonblocking: bool) {
    let flags = OFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GETFL).expect("the descriptor is open"));
    let flags = if nonblocking { flags | OFlag::O_NONBLOCK } else { flags - OFlag::O_NONBLOCK };
    fcntl(fd, FcntlArg::F_SETFL(flags)).expect("the descriptor is open");
}

/// Says something on the notify socket, if there is one (sd_notify(3)).
pub(crate) fn notify(text: &str) {
    if let Ok(path) = std::env::var("NOTIFY_SOCKET") {
        // A supervisor that has gone away is no reason to fail.
        let _ = notify_to(&path, text.as_bytes());
    }
}

pub(crate) fn notify_to(path: &str, bytes: &[u8]) -> io::Result<()> {
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(bytes, &address).map(drop)
}

/// SIGTERM, SIGINT and SIGQUIT wait until somebody asks for them. Before any thread is made.
pub(crate) fn hold_stop_signals() -> SigSet {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGUSR2].into_iter().collect();
    // A handler beside the mask, so that SigCgt says what is true: the signal is expected.
    for signal in signals.iter() {
        handle(signal, SigHandler::Handler(nothing));
    }
    signals.thread_block().expect("signals can be blocked");
    signals
}

extern "C" fn nothing(_: nix::libc::c_int) {}

pub(crate) fn ignore(signal: Signal) {
    handle(signal, SigHandler::SigIgn);
}

pub(crate) fn handle(signal: Signal, handler: SigHandler) {
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handlers are SIG_IGN, SIG_DFL and an empty function.
    unsafe { sigaction(signal, &action) }.expect("its disposition can be set");
}

/// Dies by a signal, without a core dump.
pub(crate) fn die_by(signal: Signal) -> ! {
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0);
    handle(signal, SigHandler::SigDfl);
    raise(signal).expect("a signal can be raised");
    unreachable!("{signal} kills");
}

/// This program again, in another part.
pub(crate) fn spawn(words: &[&str]) -> Child {
    let program = std::env::current_exe().expect("this program has a path");
    Command::new(program).args(words).stdin(Stdio::null()).spawn().expect("this program can be started")
}

/// Does nothing, for ever.
pub(crate) fn hang() -> ! {
    loop {
        std::thread::park();
    }
}

/// Ends without waiting for anything, as _exit(2) does.
pub(crate) fn exit_now() -> ! {
    // SAFETY: it does not return, and runs no code of this process.
    unsafe { nix::libc::_exit(0) }
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a process number"));
    // It may have ended by itself.
    let _ = nix::sys::signal::kill(pid, signal);
}
