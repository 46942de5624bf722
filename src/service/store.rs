//! Descriptors that are kept for later processes of a service, as in sd_notify(3), FDSTORE=1.

use std::env;
use std::io;
use std::os::fd::AsFd;

use super::notify::{notify, notify_with};

/// The longest name (`FDNAME_MAX` of systemd).
const NAME_MAX: usize = 255;

/// Keeps a copy of a descriptor with the supervisor, for each process of this service that is started later: the next
/// generation, and the next process after a crash. They find it with [`Listeners::stored`](super::Listeners::stored).
///
/// Good for what exists once and is shared, or outlives its maker: a memfd with sessions, an open file, a socket. It is
/// kept until it is [removed](remove), or hangs up (the other end of a pipe or socket closes), or the service is stopped.
/// What is there under this name already is not stored again; another descriptor of the name stands beside it.
///
/// What a process stores or removes before it serves counts from then on, and not at all if it fails before. From its stop
/// signal on it can do neither. Without a supervisor it does nothing.
///
/// # Errors
/// The name is not 1 to 255 printable ASCII characters without a colon; the config keeps no descriptors
/// (`fd-store-max`); as [`ready`](super::ready). That the store is full is not an error here: the supervisor's log says
/// so.
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// use std::net::UdpSocket;
/// use zdsup::service;
///
/// let socket = UdpSocket::bind("127.0.0.1:0")?;
/// service::store("upstream", &socket)?;
/// # Ok(())
/// # }
/// ```
pub fn store(name: &str, fd: impl AsFd) -> io::Result<()> {
    check(name)?;
    // The supervisor says how many it keeps; systemd does so from version 254 on.
    if env::var_os("ZDSUP_INSTANCE").is_some() && env::var_os("FDSTORE").is_none() {
        let text = format!("store the descriptor {name:?}: zdsup keeps none for this service: set fd-store-max");
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    notify_with(&format!("FDSTORE=1\nFDNAME={name}"), &[fd.as_fd()])
}

/// Removes every descriptor of this name from what the supervisor keeps for later processes.
///
/// # Errors
/// As [`store()`].
///
/// ```
/// # fn main() -> std::io::Result<()> {
/// zdsup::service::remove("upstream")?;
/// # Ok(())
/// # }
/// ```
pub fn remove(name: &str) -> io::Result<()> {
    check(name)?;
    notify(&format!("FDSTOREREMOVE=1\nFDNAME={name}"))
}

/// A bad name would be taken for none at all.
fn check(name: &str) -> io::Result<()> {
    let valid = |byte: u8| matches!(byte, b' '..=b'~') && byte != b':';
    if (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(valid) {
        return Ok(());
    }
    let text = format!("name a descriptor {name:?}: use 1 to {NAME_MAX} printable ASCII characters without a colon");
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_here() {
        for good in ["a", "a b", "~", &"x".repeat(NAME_MAX)] {
            check(good).expect(good);
        }
        for bad in ["", "a:b", "a\nFDPOLL=0", "\u{e9}", "\u{7f}", &"x".repeat(NAME_MAX + 1)] {
            assert_eq!(remove(bad).expect_err(bad).kind(), io::ErrorKind::InvalidInput);
        }
    }
}
