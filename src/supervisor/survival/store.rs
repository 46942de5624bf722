//! The fd store of whoever would start us again: systemd (FileDescriptorStoreMax=), or the keeper, which speaks the same
//! protocol: datagrams to NOTIFY_SOCKET with `FDSTORE=1` or `FDSTOREREMOVE=1` (sd_notify(3)).
//!
//! `FDPOLL=0` always: a store that polls drops a listener that was shut down, and a pidfd whose process has ended.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::BorrowedFd;

use super::document::Name;
use crate::sys::notify::NotifyClient;

/// The store, as far as we know.
#[derive(Debug)]
pub(crate) struct FdStore {
    socket: NotifyClient,
    stored: BTreeSet<Name>,
    /// What is stored under these names is another's by now.
    outdated: Vec<Name>,
    limit: usize,
    /// Nobody is there, and that has been said.
    unreachable: bool,
}

impl FdStore {
    /// The one that the environment names, with what a predecessor has left in it. `None`: nobody would start us again,
    /// or nobody keeps anything for us. FDSTORE= says how much is kept: systemd sets it from version 254 on, the unit
    /// itself before that.
    pub(crate) fn from_environment(stored: BTreeSet<Name>) -> Option<Self> {
        let address = std::env::var_os("NOTIFY_SOCKET")?;
        let limit = std::env::var("FDSTORE").ok().and_then(|limit| limit.parse().ok()).filter(|limit| *limit > 0);
        let Some(limit) = limit else {
            tracing::warn!(
                "nobody keeps descriptors for a successor: give the unit FileDescriptorStoreMax= and FDSTORE="
            );
            return None;
        };
        match NotifyClient::connect(&address) {
            Ok(socket) => Some(Self { socket, stored, outdated: Vec::new(), limit, unreachable: false }),
            Err(error) => {
                tracing::warn!("cannot reach the fd store at NOTIFY_SOCKET={}: {error}", address.display());
                None
            }
        }
    }

    /// How many descriptors fit, and how many there are.
    pub(crate) fn room(&self) -> (usize, usize) {
        (self.limit, self.stored.len())
    }

    /// Another descriptor has this name now: what is stored under it goes, and the other is stored.
    pub(crate) fn outdate(&mut self, name: Name) {
        if self.stored.remove(&name) {
            self.outdated.push(name);
        }
    }

    /// Stores what is not stored yet. False: the store does not listen at the moment, and not everything is in it.
    pub(crate) fn put(&mut self, held: &[(Name, BorrowedFd<'_>)]) -> bool {
        while let Some(name) = self.outdated.last() {
            match self.remove(*name) {
                Ok(()) => drop(self.outdated.pop()),
                Err(error) => return self.refused(&error),
            }
        }
        for (name, fd) in held {
            if !name.is_stored() || self.stored.contains(name) {
                continue;
            }
            let message = format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}\n");
            match self.socket.send(message.as_bytes(), &[*fd]) {
                Ok(()) => {
                    self.stored.insert(*name);
                }
                Err(error) => return self.refused(&error),
            }
        }
        self.unreachable = false;
        true
    }

    /// Those of these names that something is stored under, as far as we know.
    pub(crate) fn of(&self, held: &BTreeSet<Name>) -> BTreeSet<Name> {
        self.stored.intersection(held).copied().collect()
    }

    /// Whether nobody is there at all, rather than somebody who is behind.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.unreachable
    }

    /// Removes what is not held any more. False as for [`Self::put`].
    pub(crate) fn drop_others(&mut self, held: &BTreeSet<Name>) -> bool {
        let gone: Vec<Name> = self.stored.difference(held).copied().collect();
        for name in gone {
            match self.remove(name) {
                Ok(()) => {
                    self.stored.remove(&name);
                }
                Err(error) => return self.refused(&error),
            }
        }
        true
    }

    fn remove(&self, name: Name) -> io::Result<()> {
        self.socket.send(format!("FDSTOREREMOVE=1\nFDNAME={name}\n").as_bytes(), &[])
    }

    fn refused(&mut self, error: &io::Error) -> bool {
        let unreachable = error.kind() != io::ErrorKind::WouldBlock;
        if unreachable && !self.unreachable {
            tracing::warn!("the fd store cannot be reached: {error}");
        }
        self.unreachable = unreachable;
        false
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    use super::*;

    #[test]
    fn what_took_a_name_over_is_stored_in_place_of_the_former() {
        let name = format!("zdsup-store-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a short name");
        let manager = UnixDatagram::bind_addr(&address).expect("the name is free");
        let socket = NotifyClient::connect(format!("@{name}").as_ref()).expect("it is there");
        let mut store = FdStore { socket, stored: BTreeSet::new(), outdated: Vec::new(), limit: 9, unreachable: false };
        let held = [(Name::Control, manager.as_fd())];
        let said = |store: &mut FdStore| {
            assert!(store.put(&held));
            manager.set_nonblocking(true).expect("it is a socket");
            let mut buffer = [0; 256];
            let mut words = Vec::new();
            while let Ok(length) = manager.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                words.push(text.split('=').next().unwrap_or_default().to_owned());
            }
            words
        };
        assert_eq!(said(&mut store), ["FDSTORE"]);
        assert_eq!(said(&mut store), [""; 0]);
        store.outdate(Name::Control);
        store.outdate(Name::Control);
        assert_eq!(said(&mut store), ["FDSTOREREMOVE", "FDSTORE"]);
        assert_eq!(said(&mut store), [""; 0]);
        assert!(!store.is_unreachable());
        let another = UnixDatagram::unbound().expect("a socket");
        drop(manager);
        assert!(!store.put(&[(Name::Socket(1), another.as_fd())]), "nobody is there");
        assert!(store.is_unreachable());
    }
}
