//! What systemd hands to us, and journald takes from us.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{F_GETFD, F_GETFL, F_SETFD, F_SETFL, FdFlag, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, Shutdown, SockFlag, SockType, UnixAddr, connect, shutdown, socket};

use super::Pid;

/// The first descriptor that is passed (SD_LISTEN_FDS_START).
const FIRST: i32 = 3;

/// The name of a descriptor that was given none (sd_listen_fds_with_names(3)).
const UNNAMED: &str = "unknown";

static TAKEN: AtomicBool = AtomicBool::new(false);

/// The sockets that systemd activated us with, each with its name if it was given one, as sd_listen_fds(3) has it; none
/// if they are meant for another process. They are taken once: every later call finds none. The variables stay in the
/// environment (removing them is not safe once there are threads), and must not reach a service. To be called before anything
/// else is opened: what the variables say is believed of whatever is open at those numbers.
///
/// # Errors
/// `InvalidData` when the variables contradict each other or name descriptors that are not open.
pub fn inherited_sockets() -> io::Result<Vec<(Option<String>, OwnedFd)>> {
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    let Some((count, names)) = announced(|key| std::env::var_os(key))? else { return Ok(Vec::new()) };
    for number in FIRST..FIRST + count {
        // SAFETY: only looked at: whether it is open is the question.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        let flags =
            fcntl(fd, F_GETFD).map_err(|_| invalid(format!("LISTEN_FDS names fd {number}, which is closed")))?;
        fcntl(fd, F_SETFD(FdFlag::from_bits_retain(flags) | FdFlag::FD_CLOEXEC))?;
    }
    // SAFETY: each is open (just seen), was opened for us before we started and belongs to nobody else in this process:
    // that is what LISTEN_FDS with our own pid says. `TAKEN` makes sure that each is owned once.
    Ok((FIRST..).zip(names).map(|(number, name)| (name, unsafe { OwnedFd::from_raw_fd(number) })).collect())
}

/// Takes the descriptor with this number, which a predecessor in this process has handed over across execve(2).
///
/// # Errors
/// EBADF when it is not open.
pub fn handed(number: i32) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(invalid(format!("descriptor {number} cannot have been handed over")));
    }
    // SAFETY: only looked at: whether it is open is the question.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(fd, F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: it is open (just seen), was left open for us by the program that this process ran before, which wrote the
    // number down for whoever comes after it, and nobody else in this program knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A stream of our own to journald: every line written to it is an entry with this identifier (`web@3`). With a unit's
/// name, and as root, it is filed under that unit. The descriptor is in blocking mode, to be a program's stdout.
///
/// # Errors
/// `NotFound` where there is no journald; `WouldBlock` while it does not accept connections; never waits.
pub fn stream_to_journal(identifier: &str, unit: Option<&str>) -> io::Result<OwnedFd> {
    stream_to("/run/systemd/journal/stdout", identifier, unit)
}

/// Whether our stderr goes to journald, by JOURNAL_STREAM (systemd.exec(5)).
#[must_use]
pub fn stderr_is_journal() -> bool {
    let Some(stream) = std::env::var_os("JOURNAL_STREAM").and_then(|value| value.into_string().ok()) else {
        return false;
    };
    let Ok(copy) = io::stderr().as_fd().try_clone_to_owned() else { return false };
    let Ok(found) = std::fs::File::from(copy).metadata() else { return false };
    names_file(&stream, &found)
}

/// How many descriptors are announced to us, and their names, from the environment.
fn announced(variable: impl Fn(&str) -> Option<OsString>) -> io::Result<Option<(i32, Vec<Option<String>>)>> {
    let number = |key: &str| -> io::Result<Option<u64>> {
        let Some(value) = variable(key) else { return Ok(None) };
        let parsed = value.to_str().and_then(|text| text.parse().ok());
        parsed.map(Some).ok_or_else(|| invalid(format!("{key} is not a number: {value:?}")))
    };
    if number("LISTEN_PID")? != Some(u64::from(std::process::id())) {
        return Ok(None);
    }
    if let (Some(wanted), Some(own)) = (number("LISTEN_PIDFDID")?, own_pidfd_id())
        && wanted != own
    {
        return Ok(None);
    }
    let Some(count) = number("LISTEN_FDS")? else { return Ok(None) };
    let count = i32::try_from(count)
        .ok()
        .filter(|count| count.checked_add(FIRST).is_some())
        .ok_or_else(|| invalid(format!("LISTEN_FDS is too large: {count}")))?;
    let names = match variable("LISTEN_FDNAMES") {
        None => vec![None; usize::try_from(count).unwrap_or_default()],
        Some(names) if names.is_empty() && count == 0 => Vec::new(),
        Some(names) => names
            .as_bytes()
            .split(|byte| *byte == b':')
            .map(|name| OsString::from_vec(name.to_owned()).into_string().ok())
            .map(|name| name.filter(|name| !name.is_empty() && name != UNNAMED))
            .collect(),
    };
    if usize::try_from(count) != Ok(names.len()) {
        return Err(invalid(format!("LISTEN_FDS is {count}, but LISTEN_FDNAMES has {} names", names.len())));
    }
    Ok(Some((count, names)))
}

/// The inode of a pidfd of ours, which is unique to this process where pidfds have a file system of their own (6.9).
fn own_pidfd_id() -> Option<u64> {
    const PIDFS_MAGIC: u64 = 0x5049_4446;
    let pidfd = super::pidfd::PidFd::open(Pid::own()).ok()?;
    let kind = nix::sys::statfs::fstatfs(&pidfd).ok()?.filesystem_type().0;
    let inode = std::fs::File::from(OwnedFd::from(pidfd)).metadata().ok()?.ino();
    (kind as u64 == PIDFS_MAGIC).then_some(inode)
}

fn stream_to(path: &str, identifier: &str, unit: Option<&str>) -> io::Result<OwnedFd> {
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?).map_err(|errno| {
        let error = io::Error::from(errno);
        io::Error::new(error.kind(), format!("journald cannot be reached at {path}: {}", super::describe(&error)))
    })?;
    shutdown(fd.as_raw_fd(), Shutdown::Read)?;
    // As sd_journal_stream_fd(3) does, so that a burst does not block the program.
    let _ = nix::sys::socket::setsockopt(&fd, nix::sys::socket::sockopt::SndBuf, &(8 << 20));
    // Identifier, unit, priority (6: info), whether `<N>` prefixes count, and forwarding to syslog, kmsg and console:
    // the protocol of systemd's journald-stream.c, as sd_journal_stream_fd(3) speaks it.
    let one_line = |text: &str| text.replace('\n', " ");
    let header = format!("{}\n{}\n6\n1\n0\n0\n0\n", one_line(identifier), one_line(unit.unwrap_or_default()));
    super::message::send(fd.as_fd(), header.as_bytes(), &[], 0)?;
    let flags = OFlag::from_bits_retain(fcntl(&fd, F_GETFL)?);
    fcntl(&fd, F_SETFL(flags - OFlag::O_NONBLOCK))?;
    Ok(fd)
}

/// Whether `DEVICE:INODE` is this file.
fn names_file(stream: &str, file: &std::fs::Metadata) -> bool {
    let Some((device, inode)) = stream.split_once(':') else { return false };
    device.parse() == Ok(file.dev()) && inode.parse() == Ok(file.ino())
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn with(pairs: &[(&str, &str)]) -> io::Result<Option<(i32, Vec<Option<String>>)>> {
        announced(|key| pairs.iter().find(|(known, _)| *known == key).map(|(_, value)| OsString::from(value)))
    }

    #[test]
    fn sockets_for_others_are_left_alone() {
        let own = std::process::id().to_string();
        assert!(with(&[]).unwrap().is_none());
        assert!(with(&[("LISTEN_FDS", "2")]).unwrap().is_none());
        assert!(with(&[("LISTEN_FDS", "2"), ("LISTEN_PID", "1")]).unwrap().is_none());
        assert!(with(&[("LISTEN_PID", &own)]).unwrap().is_none());
    }

    #[test]
    fn names_are_optional_but_must_match() {
        let own = std::process::id().to_string();
        let (count, names) = with(&[("LISTEN_FDS", "2"), ("LISTEN_PID", &own)]).unwrap().unwrap();
        assert_eq!((count, names), (2, vec![None, None]));
        let named = [("LISTEN_FDS", "3"), ("LISTEN_PID", &own), ("LISTEN_FDNAMES", "http:unknown:")];
        assert_eq!(with(&named).unwrap().unwrap().1, [Some("http".to_owned()), None, None]);
        let none = [("LISTEN_FDS", "0"), ("LISTEN_PID", own.as_str()), ("LISTEN_FDNAMES", "")];
        assert_eq!(with(&none).unwrap().unwrap().0, 0);
        let wrong = [("LISTEN_FDS", "1"), ("LISTEN_PID", &own), ("LISTEN_FDNAMES", "a:b")];
        assert!(with(&wrong).unwrap_err().to_string().contains("2 names"));
    }

    #[test]
    fn nonsense_is_an_error() {
        let own = std::process::id().to_string();
        assert!(with(&[("LISTEN_PID", "x")]).is_err());
        assert!(with(&[("LISTEN_PID", &own), ("LISTEN_FDS", "-1")]).is_err());
        assert!(with(&[("LISTEN_PID", &own), ("LISTEN_FDS", "2147483647")]).is_err());
    }

    #[test]
    fn a_stale_pidfd_id_means_no_sockets() {
        let own = std::process::id().to_string();
        let Some(id) = own_pidfd_id() else {
            eprintln!("skipped: this kernel has no pidfs");
            return;
        };
        let fds = [("LISTEN_PID", own.as_str()), ("LISTEN_FDS", "1")];
        let stale = (id + 1).to_string();
        let fresh = id.to_string();
        assert!(with(&[fds[0], fds[1], ("LISTEN_PIDFDID", &stale)]).unwrap().is_none());
        assert!(with(&[fds[0], fds[1], ("LISTEN_PIDFDID", &fresh)]).unwrap().is_some());
    }

    #[test]
    fn the_journal_gets_its_header() {
        let directory = super::super::tests::directory("journal");
        let path = directory.path().join("stdout");
        let listener = UnixListener::bind(&path).unwrap();
        let fd = stream_to(path.to_str().unwrap(), "web@3", Some("web.service")).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        let flags = OFlag::from_bits_retain(fcntl(&fd, F_GETFL).unwrap());
        assert!(!flags.contains(OFlag::O_NONBLOCK));
        drop(fd);
        let mut text = String::new();
        peer.read_to_string(&mut text).unwrap();
        assert_eq!(text, "web@3\nweb.service\n6\n1\n0\n0\n0\n");
        std::fs::remove_file(&path).unwrap();
        let error = stream_to(path.to_str().unwrap(), "web@3", None).unwrap_err();
        let expected = format!("journald cannot be reached at {}: no such file or directory", path.display());
        assert_eq!((error.kind(), error.to_string()), (io::ErrorKind::NotFound, expected));
    }

    #[test]
    fn the_journal_stream_is_a_file() {
        let file = std::fs::metadata("/").unwrap();
        assert!(names_file(&format!("{}:{}", file.dev(), file.ino()), &file));
        assert!(!names_file(&format!("{}:{}", file.dev(), file.ino() + 1), &file));
        assert!(!names_file("", &file));
        assert!(!names_file("x:y", &file));
    }
}
