//! Socket options of a listener.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use serde::{Deserialize, Serialize};

use super::Endpoint;
use crate::sys::answer;

/// What is set on a listener beside its address. `None` and `false` leave the kernel's default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// The length of the accept queue, as listen(2) takes it; the kernel caps it at net.core.somaxconn.
    pub backlog: u32,
    /// SO_REUSEPORT.
    pub reuse_port: bool,
    /// IPV6_V6ONLY; dual-stack when `None`.
    pub only_v6: Option<bool>,
    /// IP_FREEBIND.
    pub free_bind: bool,
    /// IP_TRANSPARENT.
    pub transparent: bool,
    /// TCP_NODELAY, inherited by accepted connections.
    pub no_delay: bool,
    /// SO_KEEPALIVE, inherited by accepted connections.
    pub keep_alive: bool,
    /// TCP_DEFER_ACCEPT, seconds.
    pub defer_accept: Option<u32>,
    /// TCP_FASTOPEN, length of its queue.
    pub fast_open: Option<u32>,
    /// SO_RCVBUF, bytes.
    pub receive_buffer: Option<u32>,
    /// SO_SNDBUF, bytes.
    pub send_buffer: Option<u32>,
    /// SO_BINDTODEVICE.
    pub bind_to_device: Option<String>,
    /// Mode of a unix socket's file.
    pub mode: Option<u32>,
    /// Owner of a unix socket's file.
    pub uid: Option<u32>,
    /// Group of a unix socket's file.
    pub gid: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            backlog: 4096,
            reuse_port: false,
            only_v6: None,
            free_bind: false,
            transparent: false,
            no_delay: false,
            keep_alive: false,
            defer_accept: None,
            fast_open: None,
            receive_buffer: None,
            send_buffer: None,
            bind_to_device: None,
            mode: None,
            uid: None,
            gid: None,
        }
    }
}

/// An option whose value is an int: its name in a config, where the kernel has it, and what it should be. `None` leaves
/// it alone.
struct Flag {
    name: &'static str,
    level: libc::c_int,
    option: libc::c_int,
    value: Option<u32>,
}

impl Options {
    /// Sets everything on a socket that is not yet bound.
    ///
    /// # Errors
    /// With the name of the option.
    pub(super) fn set(&self, fd: BorrowedFd<'_>, endpoint: &Endpoint) -> Result<(), (&'static str, io::Error)> {
        for flag in self.flags(endpoint) {
            // What is 0 at birth need not be set, and may need a privilege to be. The two with another default in some
            // kernels are always set.
            if let Some(value) = flag.value
                && (value != 0 || flag.option == libc::IPV6_V6ONLY)
            {
                set(fd, &flag, value).map_err(|error| (flag.name, error))?;
            }
        }
        if let Some(device) = &self.bind_to_device {
            set_device(fd, device).map_err(|error| ("bind-to-device", error))?;
        }
        Ok(())
    }

    /// Sets what can be set on a socket that is bound. Returns the names of those that differ and cannot be.
    pub(super) fn change(&self, fd: BorrowedFd<'_>, endpoint: &Endpoint) -> Vec<&'static str> {
        let mut refused = Vec::new();
        for flag in self.flags(endpoint) {
            if let Some(value) = flag.value
                && get(fd, &flag).ok() != Some(value)
                && set(fd, &flag, value).is_err()
            {
                refused.push(flag.name);
            }
        }
        let device = self.bind_to_device.as_deref().unwrap_or_default();
        if has_device(endpoint) && device_of(fd).is_ok_and(|now| now != device) && set_device(fd, device).is_err() {
            refused.push("bind-to-device");
        }
        refused
    }

    fn flags(&self, endpoint: &Endpoint) -> Vec<Flag> {
        let flag = |name, level, option, value| Flag { name, level, option, value };
        let on = |on: bool| Some(u32::from(on));
        let mut flags = vec![
            flag("receive-buffer", libc::SOL_SOCKET, libc::SO_RCVBUF, self.receive_buffer),
            flag("send-buffer", libc::SOL_SOCKET, libc::SO_SNDBUF, self.send_buffer),
        ];
        let (Endpoint::Tcp(address) | Endpoint::Udp(address)) = endpoint else { return flags };
        flags.push(flag("reuse-port", libc::SOL_SOCKET, libc::SO_REUSEPORT, on(self.reuse_port)));
        // Both are one bit of the socket, whatever its family.
        flags.push(flag("free-bind", libc::SOL_IP, libc::IP_FREEBIND, on(self.free_bind)));
        flags.push(flag("transparent", libc::SOL_IP, libc::IP_TRANSPARENT, on(self.transparent)));
        // With any other address the kernel sets it itself.
        if address.is_ipv6() && address.ip().is_unspecified() {
            let only = on(self.only_v6.unwrap_or(false));
            flags.push(flag("only-v6", libc::SOL_IPV6, libc::IPV6_V6ONLY, only));
        }
        if let Endpoint::Tcp(_) = endpoint {
            flags.push(flag("keep-alive", libc::SOL_SOCKET, libc::SO_KEEPALIVE, on(self.keep_alive)));
            flags.push(flag("no-delay", libc::SOL_TCP, libc::TCP_NODELAY, on(self.no_delay)));
            let defer = Some(self.defer_accept.unwrap_or(0));
            flags.push(flag("defer-accept", libc::SOL_TCP, libc::TCP_DEFER_ACCEPT, defer));
            let fast = Some(self.fast_open.unwrap_or(0));
            flags.push(flag("fast-open", libc::SOL_TCP, libc::TCP_FASTOPEN, fast));
        }
        flags
    }
}

/// Sets an option whose value is an int.
pub(in crate::sys) fn set_int(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: u32,
) -> io::Result<()> {
    let value = libc::c_int::try_from(value).unwrap_or(libc::c_int::MAX);
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the value is a live int of the length given, which the kernel only reads.
    answer(unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast(), length) }).map(drop)
}

/// Reads an option into what is there, which must be plain data of any content; as much as the kernel has of it.
fn read<T: Copy>(fd: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int, value: &mut [T]) -> io::Result<usize> {
    let mut length = size_of_val(value) as libc::socklen_t;
    // SAFETY: the buffer is live and as long as `length` says; the kernel writes at most that. Callers ask for integers
    // only (below), for which every content is valid.
    answer(unsafe { libc::getsockopt(fd.as_raw_fd(), level, option, value.as_mut_ptr().cast(), &raw mut length) })?;
    Ok(length as usize)
}

/// Connections waiting to be accepted, and how many may wait: of a TCP socket that listens, tcp_info says it in the
/// fields for unacknowledged and selectively acknowledged segments (tcp_get_info in net/ipv4/tcp.c).
pub(super) fn tcp_queue(fd: BorrowedFd<'_>) -> io::Result<(u32, u32)> {
    // Eight bytes, then 32-bit fields: rto, ato, snd_mss, rcv_mss, unacked, sacked.
    let mut info = [0u32; 8];
    read(fd, libc::SOL_TCP, libc::TCP_INFO, &mut info)?;
    Ok((info[6], info[7]))
}

/// Segments dropped at a socket: sk_drops, as SO_MEMINFO has it (linux/sock_diag.h).
pub(super) fn drops(fd: BorrowedFd<'_>) -> io::Result<u32> {
    // Of asm-generic/socket.h; libc does not have it.
    const SO_MEMINFO: libc::c_int = 55;
    const DROPS: usize = libc::SK_MEMINFO_DROPS as usize;
    let mut info = [0u32; DROPS + 1];
    read(fd, libc::SOL_SOCKET, SO_MEMINFO, &mut info)?;
    Ok(info[DROPS])
}

/// Reads an option whose value is an int.
pub(in crate::sys) fn get_int(fd: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int) -> io::Result<u32> {
    let mut value = [0u32];
    read(fd, level, option, &mut value)?;
    Ok(value[0])
}

fn set(fd: BorrowedFd<'_>, flag: &Flag, value: u32) -> io::Result<()> {
    set_int(fd, flag.level, flag.option, value)
}

fn get(fd: BorrowedFd<'_>, flag: &Flag) -> io::Result<u32> {
    get_int(fd, flag.level, flag.option)
}

fn has_device(endpoint: &Endpoint) -> bool {
    matches!(endpoint, Endpoint::Tcp(_) | Endpoint::Udp(_))
}

fn set_device(fd: BorrowedFd<'_>, device: &str) -> io::Result<()> {
    let length = device.len() as libc::socklen_t;
    let (level, option) = (libc::SOL_SOCKET, libc::SO_BINDTODEVICE);
    // SAFETY: the kernel reads at most as many bytes as the length says; it needs no NUL at the end (socket(7)).
    answer(unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, device.as_ptr().cast(), length) }).map(drop)
}

fn device_of(fd: BorrowedFd<'_>) -> io::Result<String> {
    let mut name = [0u8; libc::IFNAMSIZ];
    let length = read(fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, &mut name)?;
    let name = &name[..length.min(libc::IFNAMSIZ)];
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    Ok(String::from_utf8_lossy(&name[..end]).into_owned())
}
