//! Who is at the other end of a unix stream.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::socket::{getsockopt, sockopt};

use super::{Pid, answer};

/// Whoever connected, as it was at connect(2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Its number; `None` when it is not visible in this pid namespace.
    pub pid: Option<Pid>,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its further groups.
    pub groups: Vec<u32>,
}

/// SO_PEERCRED and SO_PEERGROUPS (unix(7); the latter since Linux 4.13).
///
/// # Errors
/// ENOTCONN, ENOTSOCK and their like, for what is no connected unix socket.
pub fn credentials(fd: BorrowedFd<'_>) -> io::Result<Credentials> {
    let peer = getsockopt(&fd, sockopt::PeerCredentials)?;
    Ok(Credentials { pid: Pid::from_raw(peer.pid()), uid: peer.uid(), gid: peer.gid(), groups: groups(fd)? })
}

fn groups(fd: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0u32; 64];
    loop {
        let mut length = size_of_val(groups.as_slice()) as libc::socklen_t;
        // SAFETY: the buffer is live and as long as `length` says; the kernel writes at most that, or says ERANGE and
        // writes the length that it needs to `length`.
        let got = answer(unsafe {
            libc::getsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        });
        let count = length as usize / size_of::<u32>();
        match got {
            Ok(_) => {
                groups.truncate(count);
                return Ok(groups);
            }
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) && count > groups.len() => groups.resize(count, 0),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;

    #[test]
    fn our_own_credentials() {
        let (left, _right) = UnixStream::pair().unwrap();
        let peer = credentials(left.as_fd()).unwrap();
        assert_eq!(peer.pid, Some(Pid::own()));
        assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
        assert_eq!(peer.gid, nix::unistd::getegid().as_raw());
        let mut own: Vec<_> = nix::unistd::getgroups().unwrap().into_iter().map(|group| group.as_raw()).collect();
        let mut seen = peer.groups;
        own.sort_unstable();
        seen.sort_unstable();
        assert_eq!(seen, own);
    }

    #[test]
    fn what_is_not_connected_is_an_error() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(credentials(null.as_fd()).is_err());
        assert!(credentials(UnixDatagram::unbound().unwrap().as_fd()).is_err());
    }
}
