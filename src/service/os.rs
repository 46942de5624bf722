//! The library's system calls that std does not have.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

/// The first descriptor that a starter passes (SD_LISTEN_FDS_START).
pub(super) const FIRST_FD: RawFd = 3;

/// Takes ownership of a descriptor that this process was started with, and makes it close-on-exec.
///
/// # Errors
/// There is no such descriptor.
pub(super) fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD takes no pointer and harms no descriptor, whichever it is.
    let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFD) })?;
    // SAFETY: F_SETFD takes no pointer; the descriptor is open, as seen above.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, flags | libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, and it is ours: the starter's environment says that it was passed for this process, and the
    // only caller takes each descriptor once.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What a descriptor is, as a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SocketKind {
    /// `AF_INET`, ...
    pub(super) domain: libc::c_int,
    /// `SOCK_STREAM`, ...
    pub(super) r#type: libc::c_int,
    /// Whether it listens.
    pub(super) listening: bool,
}

/// Looks at a socket.
///
/// # Errors
/// It is none.
pub(super) fn socket_kind(fd: BorrowedFd<'_>) -> io::Result<SocketKind> {
    Ok(SocketKind {
        domain: socket_option(fd, libc::SO_DOMAIN)?,
        r#type: socket_option(fd, libc::SO_TYPE)?,
        listening: socket_option(fd, libc::SO_ACCEPTCONN)? != 0,
    })
}

fn socket_option(fd: BorrowedFd<'_>, option: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = libc::socklen_t::try_from(mem::size_of_val(&value)).expect("the size of an int");
    // SAFETY: `value` and `length` live through the call, and `length` is the size of `value`.
    check(unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, option, (&raw mut value).cast(), &raw mut length)
    })?;
    Ok(value)
}

/// Whether reading (or accepting) would not block, for each of `fds`, as soon as that is so for one of them; for none
/// of them at `deadline`. A hangup or an error counts as readable: the read will tell.
///
/// # Errors
/// Those of poll(2) other than EINTR.
pub(super) fn wait_readable<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    deadline: Option<Instant>,
) -> io::Result<[bool; N]> {
    let mut polled = fds.map(wish_to_read);
    wait_for(&mut polled, deadline)?;
    Ok(polled.map(|one| one.revents != 0))
}

/// The same for any number of them.
///
/// # Errors
/// As [`wait_readable`].
pub(super) fn wait_any_readable(fds: &[BorrowedFd<'_>]) -> io::Result<Vec<bool>> {
    let mut polled: Vec<libc::pollfd> = fds.iter().copied().map(wish_to_read).collect();
    wait_for(&mut polled, None)?;
    Ok(polled.into_iter().map(|one| one.revents != 0).collect())
}

fn wish_to_read(fd: BorrowedFd<'_>) -> libc::pollfd {
    libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 }
}

/// The descriptors are open for the time of the call.
fn wait_for(polled: &mut [libc::pollfd], deadline: Option<Instant>) -> io::Result<()> {
    let count = libc::nfds_t::try_from(polled.len()).expect("a handful of descriptors");
    loop {
        let timeout = deadline.map_or(-1, |at| milliseconds(at.saturating_duration_since(Instant::now())));
        // SAFETY: `polled` has `count` elements and lives through the call.
        match check(unsafe { libc::poll(polled.as_mut_ptr(), count, timeout) }) {
            Ok(0) if deadline.is_none_or(|at| Instant::now() < at) => {}
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Rounded up, so that a wait never ends early and then spins.
fn milliseconds(span: Duration) -> libc::c_int {
    libc::c_int::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(libc::c_int::MAX)
}

/// How many descriptors one message can carry (SCM_MAX_FD, unix(7)).
pub(super) const FDS_PER_MESSAGE: usize = 253;

/// Room for the control data of a message, aligned as cmsghdr must be.
#[repr(C)]
union Control {
    bytes: [u8; CONTROL_LEN],
    _align: libc::cmsghdr,
}

// SAFETY: CMSG_SPACE only computes, for a length that fits.
const CONTROL_LEN: usize = unsafe { libc::CMSG_SPACE((FDS_PER_MESSAGE * size_of::<libc::c_int>()) as u32) } as usize;

/// Two connected sockets that keep messages apart, in order, and tell when the other is gone.
///
/// # Errors
/// No descriptors are left.
pub(super) fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds: [RawFd; 2] = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: `fds` has room for the two numbers and lives through the call.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) })?;
    // SAFETY: both have just been made, and nobody else knows of them.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// Sends one message whole, with at most [`FDS_PER_MESSAGE`] descriptors; never raises SIGPIPE.
///
/// # Errors
/// Those of sendmsg(2); `InvalidInput` for too many descriptors.
pub(super) fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>], flags: libc::c_int) -> io::Result<()> {
    if fds.len() > FDS_PER_MESSAGE {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut control = Control { bytes: [0; CONTROL_LEN] };
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: an all-zero msghdr is a valid value of that plain C struct.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    if !fds.is_empty() {
        let length = u32::try_from(size_of_val(fds)).expect("a few numbers");
        header.msg_control = (&raw mut control).cast();
        // SAFETY: the control buffer has room for FDS_PER_MESSAGE numbers, so the header and its data lie within it.
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
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, flags | libc::MSG_NOSIGNAL) };
        match usize::try_from(sent) {
            Ok(sent) if sent == bytes.len() => return Ok(()),
            Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}

/// Receives one message: how many bytes of the buffer it fills (0 at the end), and the descriptors that came with it,
/// close-on-exec.
///
/// # Errors
/// Those of recvmsg(2); `InvalidData` for a message that did not fit, which is lost.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    flags: libc::c_int,
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = Control { bytes: [0; CONTROL_LEN] };
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: an all-zero msghdr is a valid value of that plain C struct.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control).cast();
    header.msg_controllen = CONTROL_LEN as _;
    let length = loop {
        // SAFETY: the header points at `part` and `control`, which live through the call and are as long as it says.
        let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, flags | libc::MSG_CMSG_CLOEXEC) };
        match usize::try_from(length) {
            Ok(length) => break length,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    };
    let mut fds = Vec::new();
    // SAFETY: recvmsg filled the header and the control buffer in; CMSG_FIRSTHDR and CMSG_NXTHDR stay within
    // msg_controllen, and cmsg_len covers the data. Each descriptor is new, known to nobody else and owned once.
    unsafe {
        let mut entry = libc::CMSG_FIRSTHDR(&raw const header);
        while let Some(head) = entry.as_ref() {
            if head.cmsg_level == libc::SOL_SOCKET && head.cmsg_type == libc::SCM_RIGHTS {
                // The type of the length differs between C libraries.
                let bytes: usize = head.cmsg_len as _;
                let count = bytes.saturating_sub(libc::CMSG_LEN(0) as usize) / size_of::<libc::c_int>();
                let data = libc::CMSG_DATA(entry).cast::<libc::c_int>();
                fds.extend((0..count).map(|index| OwnedFd::from_raw_fd(data.add(index).read_unaligned())));
            }
            entry = libc::CMSG_NXTHDR(&raw const header, entry);
        }
    }
    if header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too large, or has too many descriptors"));
    }
    Ok((length, fds))
}

/// Lets nothing more be sent to a socket. What is on its way can still be received; then comes the end.
pub(super) fn refuse_more(socket: BorrowedFd<'_>) {
    // SAFETY: shutdown takes two integers. It fails only for a socket whose other end is gone, which is as good.
    unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_RD) };
}

/// Which end of a signal's life a handler stays installed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Each time it arrives.
    Always,
    /// Once: the next one has its default action. A signal that was ignored stays ignored.
    Once,
}

/// Runs `action` in a signal handler when `signal` arrives.
///
/// # Errors
/// There is no such signal, or it cannot be caught.
///
/// # Safety
/// `action` must be async-signal-safe (signal-safety(7)) but for errno, which is put back.
pub(super) unsafe fn on_signal(signal: libc::c_int, repeat: Repeat, action: ActionFn) -> io::Result<()> {
    if repeat == Repeat::Once {
        // SAFETY: an all-zero sigaction is a valid value of that plain C struct.
        let mut before: libc::sigaction = unsafe { mem::zeroed() };
        // SAFETY: `before` lives through the call; a null new action changes nothing.
        check(unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut before) })?;
        if before.sa_sigaction == libc::SIG_IGN {
            return Ok(());
        }
    }
    ACTION.get_or_init(|| action);
    // SAFETY: as above.
    let mut handler: libc::sigaction = unsafe { mem::zeroed() };
    handler.sa_sigaction = entry as extern "C" fn(libc::c_int) as libc::sighandler_t;
    handler.sa_flags = libc::SA_RESTART | if repeat == Repeat::Once { libc::SA_RESETHAND } else { 0 };
    // SAFETY: `handler` lives through the call, its mask is empty, and `entry` is async-signal-safe as `action` is.
    check(unsafe { libc::sigaction(signal, &raw const handler, std::ptr::null_mut()) })?;
    Ok(())
}

type ActionFn = fn();

/// The one action of the library. Set before the first handler is installed; reading it is one atomic load.
static ACTION: std::sync::OnceLock<ActionFn> = std::sync::OnceLock::new();

extern "C" fn entry(_signal: libc::c_int) {
    // SAFETY: errno's location is valid for the whole life of the thread.
    let errno = unsafe { *libc::__errno_location() };
    if let Some(action) = ACTION.get() {
        action();
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn sockets_are_told_apart() {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("bind");
        let udp = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let unix = UnixDatagram::unbound().expect("socket");
        let kind = |domain, r#type, listening| SocketKind { domain, r#type, listening };
        assert_eq!(socket_kind(tcp.as_fd()).expect("tcp"), kind(libc::AF_INET, libc::SOCK_STREAM, true));
        assert_eq!(socket_kind(udp.as_fd()).expect("udp"), kind(libc::AF_INET, libc::SOCK_DGRAM, false));
        assert_eq!(socket_kind(unix.as_fd()).expect("unix"), kind(libc::AF_UNIX, libc::SOCK_DGRAM, false));
        let (pipe, _) = std::io::pipe().expect("pipe");
        assert_eq!(socket_kind(pipe.as_fd()).expect_err("no socket").raw_os_error(), Some(libc::ENOTSOCK));
    }

    #[test]
    fn what_is_not_open_is_not_adopted() {
        assert_eq!(adopt(RawFd::MAX).expect_err("not open").raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn a_wait_ends_at_its_deadline_and_not_before() {
        let (reader, writer) = std::io::pipe().expect("pipe");
        let deadline = Instant::now() + Duration::from_millis(20);
        assert_eq!(wait_readable([reader.as_fd()], Some(deadline)).expect("poll"), [false]);
        assert!(Instant::now() >= deadline);
        drop(writer);
        assert_eq!(wait_readable([reader.as_fd()], None).expect("poll"), [true]);
    }
}
