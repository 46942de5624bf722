//! recvmsg(2) and sendmsg(2) with what may ride along: descriptors, credentials, a pidfd.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::answer;

/// How many descriptors one message can carry (SCM_MAX_FD, unix(7)).
pub(crate) const FDS_PER_MESSAGE: usize = 253;

/// Asks the kernel for SCM_PIDFD with every message. Linux 6.5; the libc crate has neither number everywhere.
pub(super) const SO_PASSPIDFD: libc::c_int = 76;
const SCM_PIDFD: libc::c_int = 0x04;

/// What was received beside the bytes.
#[derive(Debug, Default)]
pub(crate) struct Received {
    /// Bytes written to the buffer.
    pub(crate) len: usize,
    /// The message was longer than the buffer, and the rest is lost (MSG_TRUNC).
    pub(crate) truncated: bool,
    /// Something of what rode along did not fit and is lost (MSG_CTRUNC).
    pub(crate) control_truncated: bool,
    /// SCM_RIGHTS, close-on-exec.
    pub(crate) fds: Vec<OwnedFd>,
    /// SCM_CREDENTIALS: pid, uid, gid.
    pub(crate) credentials: Option<(i32, u32, u32)>,
    /// SCM_PIDFD, close-on-exec.
    pub(crate) pidfd: Option<OwnedFd>,
}

// SAFETY: CMSG_SPACE only computes, for lengths that fit.
const CONTROL_LEN: usize = unsafe {
    libc::CMSG_SPACE((FDS_PER_MESSAGE * size_of::<libc::c_int>()) as u32)
        + libc::CMSG_SPACE(size_of::<libc::ucred>() as u32)
        + libc::CMSG_SPACE(size_of::<libc::c_int>() as u32)
        // SO_PASSSEC, should somebody turn it on: it must not push out the descriptors.
        + libc::CMSG_SPACE(256)
} as usize;

/// Room for control data, aligned as cmsghdr must be.
#[repr(C)]
union Control {
    bytes: [MaybeUninit<u8>; CONTROL_LEN],
    _align: libc::cmsghdr,
}

/// Receives one message with `flags` beside MSG_CMSG_CLOEXEC.
pub(super) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], flags: libc::c_int) -> io::Result<Received> {
    let mut fds = Vec::new();
    let received = receive_each(socket, buffer, flags, |fd| fds.push(fd))?;
    Ok(Received { fds, ..received })
}

/// The same, giving each descriptor to `take` instead of keeping them in a list: nothing is allocated.
pub(crate) fn receive_each(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: libc::c_int,
    mut take: impl FnMut(OwnedFd),
) -> io::Result<Received> {
    let mut control = Control { bytes: [MaybeUninit::uninit(); CONTROL_LEN] };
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: msghdr is plain integers and pointers; zero is a value of it.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control).cast();
    header.msg_controllen = CONTROL_LEN as _;
    let len = loop {
        // SAFETY: the header points at `part` and `control`, which live through the call and are as long as it says.
        match answer(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags | libc::MSG_CMSG_CLOEXEC) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(len) => break len.cast_unsigned(),
        }
    };
    let mut received = Received {
        len: len.min(buffer.len()),
        truncated: header.msg_flags & libc::MSG_TRUNC != 0,
        control_truncated: header.msg_flags & libc::MSG_CTRUNC != 0,
        ..Received::default()
    };
    // SAFETY: recvmsg filled the header and the control buffer in; CMSG_FIRSTHDR and CMSG_NXTHDR stay within
    // msg_controllen, and each cmsg_len covers its data. The data is read unaligned. Each descriptor is new, known to
    // nobody else and owned once.
    unsafe {
        let mut entry = libc::CMSG_FIRSTHDR(&raw const header);
        while let Some(head) = entry.as_ref() {
            let data = libc::CMSG_DATA(entry);
            // The type of the length differs between C libraries.
            let length: usize = head.cmsg_len as _;
            let length = length.saturating_sub(libc::CMSG_LEN(0) as usize);
            if head.cmsg_level == libc::SOL_SOCKET {
                match head.cmsg_type {
                    libc::SCM_RIGHTS => {
                        for index in 0..length / size_of::<libc::c_int>() {
                            let fd = data.cast::<libc::c_int>().add(index).read_unaligned();
                            take(OwnedFd::from_raw_fd(fd));
                        }
                    }
                    libc::SCM_CREDENTIALS if length >= size_of::<libc::ucred>() => {
                        let who = data.cast::<libc::ucred>().read_unaligned();
                        received.credentials = Some((who.pid, who.uid, who.gid));
                    }
                    SCM_PIDFD if length >= size_of::<libc::c_int>() => {
                        // Negative when the sender is gone already (the kernel puts an errno there).
                        let fd = data.cast::<libc::c_int>().read_unaligned();
                        received.pidfd = (fd >= 0).then(|| OwnedFd::from_raw_fd(fd));
                    }
                    _ => {}
                }
            }
            entry = libc::CMSG_NXTHDR(&raw const header, entry);
        }
    }
    Ok(received)
}

/// Sends one message with at most [`FDS_PER_MESSAGE`] descriptors; never raises SIGPIPE.
pub(super) fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>], flags: libc::c_int) -> io::Result<()> {
    if fds.len() > FDS_PER_MESSAGE {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut control = Control { bytes: [MaybeUninit::zeroed(); CONTROL_LEN] };
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: msghdr is plain integers and pointers; zero is a value of it.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    if !fds.is_empty() {
        let length = size_of_val(fds) as u32;
        header.msg_control = (&raw mut control).cast();
        // SAFETY: the control buffer has room for FDS_PER_MESSAGE descriptors, so the first header and its data lie
        // within it; BorrowedFd is a c_int in memory (repr(transparent)), and so is written one by one.
        unsafe {
            header.msg_controllen = libc::CMSG_SPACE(length) as _;
            let head = libc::CMSG_FIRSTHDR(&raw const header);
            (*head).cmsg_level = libc::SOL_SOCKET;
            (*head).cmsg_type = libc::SCM_RIGHTS;
            (*head).cmsg_len = libc::CMSG_LEN(length) as _;
            let data = libc::CMSG_DATA(head).cast::<libc::c_int>();
            for (index, fd) in fds.iter().enumerate() {
                data.add(index).write_unaligned(fd.as_raw_fd());
            }
        }
    }
    loop {
        // SAFETY: the header points at `part` and `control`, which live through the call; sendmsg only reads them.
        match answer(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, flags | libc::MSG_NOSIGNAL) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(sent) if sent.cast_unsigned() == bytes.len() => return Ok(()),
            Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn descriptors_travel_close_on_exec() {
        let (left, right) = UnixDatagram::pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let fds = vec![null.as_fd(); FDS_PER_MESSAGE];
        send(left.as_fd(), b"hello", &fds, 0).unwrap();
        let mut buffer = [0; 3];
        let received = receive(right.as_fd(), &mut buffer, 0).unwrap();
        assert_eq!(&buffer, b"hel");
        assert_eq!(received.len, 3);
        assert!(received.truncated);
        assert!(!received.control_truncated);
        assert_eq!(received.fds.len(), FDS_PER_MESSAGE);
        for fd in &received.fds {
            let flags = nix::fcntl::fcntl(fd, nix::fcntl::F_GETFD).unwrap();
            assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
        }
        assert_eq!(received.credentials, None);
    }

    #[test]
    fn too_many_descriptors_are_refused() {
        let (left, _right) = UnixDatagram::pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let fds = vec![null.as_fd(); FDS_PER_MESSAGE + 1];
        assert_eq!(send(left.as_fd(), b"x", &fds, 0).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn an_empty_queue_would_block() {
        let (_left, right) = UnixDatagram::pair().unwrap();
        let error = receive(right.as_fd(), &mut [0; 8], libc::MSG_DONTWAIT).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
