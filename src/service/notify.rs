//! What a service tells its supervisor: datagrams to `NOTIFY_SOCKET`, as in sd_notify(3).

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::time::Duration;

use super::os;

/// How long a message waits for room in the supervisor's queue before it is an error instead.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// Says that this process serves: all that takes time and all that can fail lies behind it.
///
/// The upgrade goes on from here: the old generation will be told to stop. So call it after the listeners are taken,
/// caches are warm, databases are connected and the [stop signal's handler](super::Shutdown::install) is installed;
/// not before. Without a supervisor it does nothing.
///
/// # Errors
/// `NOTIFY_SOCKET` names something that cannot be written to.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// zdsup::service::ready()?;
/// # Ok(())
/// # }
/// ```
pub fn ready() -> io::Result<()> {
    notify("READY=1")
}

/// Says what this process is doing, in a line that `zdsup status` and the progress of `zdsup reload` show.
///
/// Control characters, line breaks among them, become blanks.
///
/// # Errors
/// As [`ready`].
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// zdsup::service::status("loading the index: 40 %")?;
/// # Ok(())
/// # }
/// ```
pub fn status(text: &str) -> io::Result<()> {
    let line: String = text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect();
    notify(&format!("STATUS={line}"))
}

/// Says that this process is on its way out. A candidate that says so is given up.
///
/// # Errors
/// As [`ready`].
pub fn stopping() -> io::Result<()> {
    notify("STOPPING=1")
}

/// Asks that the deadline which runs now (to be ready, or to end) be at least this far ahead.
///
/// It can be asked for again and again, each time before the last one passes: so a long start shows that it lives.
///
/// # Errors
/// As [`ready`].
pub fn extend_timeout(by: Duration) -> io::Result<()> {
    notify(&format!("EXTEND_TIMEOUT_USEC={}", by.as_micros()))
}

/// The watchdog's time, if one is set for this process: it must [`ping`] within it, better twice.
///
/// ```no_run
/// # use std::thread;
/// # use zdsup::service;
/// if let Some(interval) = service::watchdog() {
///     thread::spawn(move || {
///         loop {
///             // Ping only if the service is well: ask it, do not just prove that this thread lives.
///             let _ = service::ping();
///             thread::sleep(interval / 2);
///         }
///     });
/// }
/// ```
#[must_use]
pub fn watchdog() -> Option<Duration> {
    let usec = env::var("WATCHDOG_USEC").ok();
    let pid = env::var("WATCHDOG_PID").ok();
    watchdog_from(usec.as_deref(), pid.as_deref(), process::id())
}

/// Tells the watchdog that this process lives.
///
/// # Errors
/// As [`ready`].
pub fn ping() -> io::Result<()> {
    notify("WATCHDOG=1")
}

/// Sends any message of sd_notify(3), `KEY=VALUE` lines; does nothing without a supervisor.
///
/// # Errors
/// As [`ready`].
pub fn notify(message: &str) -> io::Result<()> {
    notify_with(message, &[])
}

/// The same, with descriptors.
pub(super) fn notify_with(message: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    match env::var_os("NOTIFY_SOCKET") {
        Some(address) if !address.is_empty() => send(&address, message, fds),
        _ => Ok(()),
    }
}

fn send(address: &OsStr, message: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(address)?,
        _ => {
            let text = format!("NOTIFY_SOCKET is neither a path nor an abstract name: {}", address.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(SEND_TIMEOUT))?;
    socket.connect_addr(&address)?;
    os::send(socket.as_fd(), message.as_bytes(), fds, 0)
}

fn watchdog_from(usec: Option<&str>, pid: Option<&str>, own: u32) -> Option<Duration> {
    let usec: u64 = usec?.parse().ok().filter(|usec| *usec > 0)?;
    match pid {
        Some(pid) if pid.parse() != Ok(own) => None,
        _ => Some(Duration::from_micros(usec)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reaches_an_abstract_socket() {
        let name = format!("zdsup-notify-test-{}", process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a short name");
        let receiver = UnixDatagram::bind_addr(&address).expect("bind");
        receiver.set_read_timeout(Some(Duration::from_secs(10))).expect("timeout");
        send(OsStr::new(&format!("@{name}")), "READY=1", &[]).expect("send");
        let mut buffer = [0; 64];
        let length = receiver.recv(&mut buffer).expect("receive");
        assert_eq!(&buffer[..length], b"READY=1");
    }

    #[test]
    fn an_address_of_no_known_form_is_an_error() {
        let error = send(OsStr::new("vsock:2:1234"), "READY=1", &[]).expect_err("not a unix socket");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let error = send(OsStr::new("/nonexistent/n"), "READY=1", &[]).expect_err("gone");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_watchdog_is_for_the_process_it_names() {
        let second = Some(Duration::from_secs(1));
        assert_eq!(watchdog_from(Some("1000000"), None, 7), second);
        assert_eq!(watchdog_from(Some("1000000"), Some("7"), 7), second);
        assert_eq!(watchdog_from(Some("1000000"), Some("8"), 7), None);
        assert_eq!(watchdog_from(Some("1000000"), Some("x"), 7), None);
        assert_eq!(watchdog_from(Some("0"), None, 7), None);
        assert_eq!(watchdog_from(None, Some("7"), 7), None);
    }
}
