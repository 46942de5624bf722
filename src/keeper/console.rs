//! What the keeper says to people.

use std::fmt::{self, Write};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};

/// Standard error, without ever waiting for whoever reads it.
pub(super) struct Console(OwnedFd);

impl Console {
    pub(super) fn new() -> io::Result<Self> {
        let stderr = io::stderr();
        // A pipe or a terminal, opened anew, can be non-blocking for us alone. What cannot (a file, a socket) never
        // blocks, or is asked not to below.
        let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let kind = nix::sys::stat::fstat(&stderr)?.st_mode & nix::libc::S_IFMT;
        if matches!(kind, nix::libc::S_IFIFO | nix::libc::S_IFCHR)
            && let Ok(anew) = nix::fcntl::open("/proc/self/fd/2", flags, nix::sys::stat::Mode::empty())
        {
            return Ok(Self(anew));
        }
        stderr.as_fd().try_clone_to_owned().map(Self)
    }

    /// One line. What nobody reads is lost.
    pub(super) fn say(&self, words: fmt::Arguments<'_>) {
        let mut line = Line { bytes: [0; 256], len: 0 };
        if writeln!(line, "zdsup keeper: {words}").is_err() {
            return;
        }
        let bytes = &line.bytes[..line.len];
        let sent = send(self.0.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)];
        if sent == Err(nix::errno::Errno::ENOTSOCK) && poll(&mut fds, PollTimeout::ZERO) == Ok(1) {
            let _ = nix::unistd::write(&self.0, bytes);
        }
    }
}

/// Text that stays where it is; too much of it is an error.
struct Line {
    bytes: [u8; 256],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.bytes.get_mut(self.len..self.len + text.len()).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_long_a_line_is_none() {
        let mut line = Line { bytes: [0; 256], len: 0 };
        assert!(write!(line, "{:256}", "x").is_ok());
        assert!(write!(line, "x").is_err());
    }
}
