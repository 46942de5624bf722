//! Both ends of NOTIFY_SOCKET (sd_notify(3)): one datagram socket for each instance, and ours to whoever started us.
//!
//! What a datagram says is parsed elsewhere; this says who sent it, and takes what came with it.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, setsockopt, socket, sockopt};

use super::Pid;
use super::answer;
use super::message::{self, SO_PASSPIDFD};
use super::pidfd::PidFd;

/// A bound socket; its path goes with it.
#[derive(Debug)]
pub struct NotifySocket {
    fd: OwnedFd,
    path: PathBuf,
}

/// One datagram. Descriptors that nobody takes out of it are closed with it.
#[derive(Debug)]
pub struct Datagram {
    /// How many bytes of the buffer it fills.
    pub len: usize,
    /// It was longer than the buffer: it breaks the protocol's limit, if the buffer is longer than that.
    pub truncated: bool,
    /// Who sent it; `None` when the kernel did not say, and then it does not count.
    pub sender: Option<Sender>,
    /// What came with it, close-on-exec.
    pub fds: Vec<OwnedFd>,
    /// Descriptors were lost on the way (too many for our limit): it does not count either.
    pub control_truncated: bool,
}

/// Who sent a datagram, as the kernel knows it, at the time of sending.
#[derive(Debug)]
pub struct Sender {
    /// Its number; `None` when it is not visible in this pid namespace. It may be gone, and the number another's.
    pub pid: Option<Pid>,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// The process itself, whatever becomes of the number. Linux 6.5 and later, and then not always.
    pub pidfd: Option<PidFd>,
}

/// The sending end, which never waits.
#[derive(Debug)]
pub struct NotifyClient(UnixDatagram);

impl NotifyClient {
    /// To a NOTIFY_SOCKET: a path, or an abstract name after `@`.
    ///
    /// # Errors
    /// Those of connect(2): nobody is there.
    pub fn connect(address: &OsStr) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        match address.as_bytes().strip_prefix(b"@") {
            Some(name) => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
            None => socket.connect(address)?,
        }
        Ok(Self(socket))
    }

    /// Sends one message with descriptors.
    ///
    /// # Errors
    /// `WouldBlock` while whoever reads it is behind; `ConnectionRefused` when nobody is there any more.
    pub fn send(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        message::send(self.0.as_fd(), message, fds, libc::MSG_DONTWAIT)
    }
}

impl From<NotifyClient> for UnixDatagram {
    fn from(client: NotifyClient) -> Self {
        client.0
    }
}

impl NotifySocket {
    /// Binds a socket that anyone may send to (who counts is decided by the sender's credentials). A file that stands
    /// in the way is a predecessor's and is replaced.
    ///
    /// # Errors
    /// ENAMETOOLONG for a path longer than 107 bytes; those of bind(2); EMFILE.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let bound = Self { fd: Self::open(path)?, path: path.to_owned() };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
        Ok(bound)
    }

    /// Another socket at the same path, in place of this one, whose file is gone.
    ///
    /// # Errors
    /// As [`Self::bind`]; then it is as it was.
    pub fn bind_again(&mut self) -> io::Result<()> {
        let fd = Self::open(&self.path)?;
        std::fs::set_permissions(&self.path, std::fs::Permissions::from_mode(0o666))?;
        self.fd = fd;
        Ok(())
    }

    fn open(path: &Path) -> io::Result<OwnedFd> {
        let address = UnixAddr::new(path)?;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
        setsockopt(&fd, sockopt::PassCred, &true)?;
        // Older kernels do not know it (ENOPROTOOPT); then the number and the credentials must do.
        let _ = pass_pidfd(fd.as_fd());
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        bind(std::os::fd::AsRawFd::as_raw_fd(&fd), &address)?;
        Ok(fd)
    }

    /// Takes over a socket that a predecessor bound at this path.
    ///
    /// # Errors
    /// Those of setsockopt(2): it is no socket.
    pub fn adopt(fd: OwnedFd, path: PathBuf) -> io::Result<Self> {
        setsockopt(&fd, sockopt::PassCred, &true)?;
        let _ = pass_pidfd(fd.as_fd());
        Ok(Self { fd, path })
    }

    /// Where it is bound.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next datagram, which stays the next until it is [taken](Self::take): should its reader die before it has made
    /// something of it, another one finds it. `None` when there is none now.
    ///
    /// # Errors
    /// Those of recvmsg(2).
    pub fn peek(&self, buffer: &mut [u8]) -> io::Result<Option<Datagram>> {
        self.receive(buffer, libc::MSG_PEEK)
    }

    /// Takes the datagram that [`Self::peek`] has shown out of the queue, with what came with it.
    ///
    /// # Errors
    /// Those of recvmsg(2).
    pub fn take(&self) -> io::Result<()> {
        self.receive(&mut [], 0).map(drop)
    }

    fn receive(&self, buffer: &mut [u8], flags: libc::c_int) -> io::Result<Option<Datagram>> {
        let received = match message::receive(self.fd.as_fd(), buffer, libc::MSG_DONTWAIT | flags) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            other => other?,
        };
        let pidfd = received.pidfd.map(PidFd::from);
        Ok(Some(Datagram {
            len: received.len,
            truncated: received.truncated,
            sender: received.credentials.map(|(pid, uid, gid)| Sender { pid: Pid::from_raw(pid), uid, gid, pidfd }),
            fds: received.fds,
            control_truncated: received.control_truncated,
        }))
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        // It may be gone, and its directory too.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn pass_pidfd(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the option's value is a live int of the length given.
    answer(unsafe {
        libc::setsockopt(
            std::os::fd::AsRawFd::as_raw_fd(&socket),
            libc::SOL_SOCKET,
            SO_PASSPIDFD,
            (&raw const on).cast(),
            length,
        )
    })
    .map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;

    use super::*;
    use crate::sys::tests::directory;

    fn connected(socket: &NotifySocket) -> UnixDatagram {
        let sender = UnixDatagram::unbound().unwrap();
        sender.connect(socket.path()).unwrap();
        sender
    }

    fn receive(socket: &NotifySocket, buffer: &mut [u8]) -> io::Result<Option<Datagram>> {
        let shown = socket.peek(buffer)?;
        if shown.is_some() {
            socket.take()?;
        }
        Ok(shown)
    }

    #[test]
    fn a_datagram_stays_until_it_is_taken() {
        let home = directory("notify");
        let socket = NotifySocket::bind(&home.path().join("n")).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        message::send(connected(&socket).as_fd(), b"READY=1", &[null.as_fd()], 0).unwrap();
        for _ in 0..2 {
            let shown = socket.peek(&mut [0; 64]).unwrap().unwrap();
            assert_eq!((shown.len, shown.fds.len()), (7, 1));
        }
        socket.take().unwrap();
        assert!(socket.peek(&mut [0; 64]).unwrap().is_none());
    }

    #[test]
    fn datagrams_come_with_their_sender() {
        let home = directory("notify");
        let socket = NotifySocket::bind(&home.path().join("3.1")).unwrap();
        let mut buffer = [0; 64];
        assert!(receive(&socket, &mut buffer).unwrap().is_none());
        connected(&socket).send(b"READY=1").unwrap();
        let datagram = receive(&socket, &mut buffer).unwrap().unwrap();
        assert_eq!(&buffer[..datagram.len], b"READY=1");
        assert!(!datagram.truncated && !datagram.control_truncated);
        let sender = datagram.sender.unwrap();
        assert_eq!(sender.pid, Some(Pid::own()));
        assert_eq!(sender.uid, nix::unistd::geteuid().as_raw());
        assert_eq!(sender.gid, nix::unistd::getegid().as_raw());
        if let Some(pidfd) = sender.pidfd {
            assert_eq!(pidfd.pid().unwrap(), Some(Pid::own()));
        }
        assert!(receive(&socket, &mut buffer).unwrap().is_none());
    }

    #[test]
    fn anyone_may_send_and_the_path_goes_with_the_socket() {
        let home = directory("notify");
        let path = home.path().join("3.1");
        std::fs::write(&path, "a predecessor's").unwrap();
        let socket = NotifySocket::bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
        let adopted = NotifySocket::adopt(socket.as_fd().try_clone_to_owned().unwrap(), path.clone()).unwrap();
        drop(adopted);
        assert!(!path.exists());
        drop(socket);
        let long = home.path().join("x".repeat(108));
        assert_eq!(NotifySocket::bind(&long).unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
    }

    #[test]
    fn a_long_datagram_is_said_to_be_cut() {
        let home = directory("notify");
        let socket = NotifySocket::bind(&home.path().join("n")).unwrap();
        connected(&socket).send(&[b'x'; 100]).unwrap();
        let datagram = receive(&socket, &mut [0; 64]).unwrap().unwrap();
        assert_eq!(datagram.len, 64);
        assert!(datagram.truncated);
        connected(&socket).send(b"").unwrap();
        assert_eq!(receive(&socket, &mut [0; 64]).unwrap().unwrap().len, 0);
    }

    #[test]
    fn descriptors_come_along() {
        let home = directory("notify");
        let socket = NotifySocket::bind(&home.path().join("n")).unwrap();
        let sender = connected(&socket);
        let null = std::fs::File::open("/dev/null").unwrap();
        let fds = vec![null.as_fd(); message::FDS_PER_MESSAGE];
        message::send(sender.as_fd(), b"FDSTORE=1", &fds, 0).unwrap();
        let datagram = receive(&socket, &mut [0; 64]).unwrap().unwrap();
        assert_eq!(datagram.fds.len(), fds.len());
        assert!(!datagram.control_truncated);
        assert!(datagram.sender.is_some());
    }

    #[test]
    fn a_sender_that_is_gone_is_still_named() {
        let home = directory("notify");
        let socket = NotifySocket::bind(&home.path().join("n")).unwrap();
        let script = "import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); \
                      s.connect(sys.argv[1]); s.send(b'READY=1')";
        let mut child = match Command::new("python3").args(["-c", script]).arg(socket.path()).spawn() {
            Ok(child) => child,
            Err(error) => {
                eprintln!("skipped: python3 cannot be run: {error}");
                return;
            }
        };
        let pid = Pid::try_from(child.id()).unwrap();
        assert!(child.wait().unwrap().success());
        let sender = receive(&socket, &mut [0; 64]).unwrap().unwrap().sender.unwrap();
        assert_eq!(sender.pid, Some(pid));
        assert!(sender.pidfd.is_none_or(|pidfd| pidfd.has_exited()));
    }
}
