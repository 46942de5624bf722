//! The way to the very instance that a check means.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpSocket;

use super::Outcome;
use super::network::{Door, Question};
use crate::config::health::{HttpCheck, HttpTarget, Place, UrlError};
use crate::core::InstanceId;
use crate::supervisor::Supervisor;
use crate::supervisor::listeners::Listener;
use crate::sys::describe;
use crate::sys::socket::{Bound, Endpoint};

/// Checks of one service that are steered at a time: each is a few instructions of a program whose length is limited.
const PROBERS_MAX: usize = 32;

impl Supervisor {
    /// The way to an instance over a listener.
    pub(super) fn door(&mut self, id: InstanceId, place: &Place) -> Result<Door, Closed> {
        let process = self.processes.get(&id).ok_or_else(Closed::gone)?;
        match place {
            Place::Private(_) => {
                let lost = || Closed::For("its private listener was lost".into());
                let listener = process.private.as_ref().map(Arc::clone).ok_or_else(lost)?;
                let Endpoint::Tcp(address) = listener.endpoint else { return Err(lost()) };
                Ok(Door { address, from: None, listener: Some(listener) })
            }
            Place::Listener(name) => {
                let listener = process.release.listeners.iter().find(|listener| listener.name == *name).cloned();
                let listener = listener.ok_or_else(|| Closed::For("its listener is gone".into()))?;
                self.steered(id, &listener)
            }
        }
    }

    /// What an instance is asked, and the way to it.
    pub(super) fn question(&mut self, id: InstanceId, check: &HttpCheck) -> Result<(Door, Question), Closed> {
        let (door, path, place, name) = match &check.target {
            HttpTarget::Path { path, place } => {
                let door = self.door(id, place)?;
                let place = door.address.to_string();
                (door, path.clone(), place, format!("GET {path}"))
            }
            HttpTarget::Url(pattern) => {
                let slot = self.surroundings.name_of_slot(self.slot_of(id));
                let pid = self.processes.get(&id).map(|process| process.pid).ok_or_else(Closed::gone)?;
                let url = pattern.of(slot, pid.as_raw().unsigned_abs());
                let wrong = |error: UrlError| Closed::For(format!("{pattern}, for slot {slot}, {}", error.message));
                let url = url.map_err(wrong)?;
                let name = format!("GET http://{}{}", url.authority, url.path);
                (Door { address: url.address, from: None, listener: None }, url.path, url.authority, name)
            }
        };
        let host = check.host.clone().unwrap_or(place);
        let (statuses, body) = (check.statuses.clone(), check.body.clone());
        Ok((door, Question { name, path, host, statuses, body }))
    }

    /// The way over a listener that others have too: the connection is told from those of clients by where it comes
    /// from, an address and port that are bound before anything is sent from there.
    fn steered(&mut self, id: InstanceId, listener: &Listener) -> Result<Door, Closed> {
        let Endpoint::Tcp(bound) = listener.socket.bound.endpoint else { return Err(Closed::unsteered()) };
        let address = reachable(bound);
        let from = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        let mut source = address;
        source.set_port(0);
        from.bind(source)?;
        let slot = self.route(id, listener, from.local_addr()?)?;
        Ok(Door { address, from: Some(from), listener: Some(slot) })
    }

    /// From now on what comes from `source` to the listeners of the service reaches this instance and no other process,
    /// until [`Self::unroute`]. Returns the socket of this listener that it reaches.
    fn route(&mut self, id: InstanceId, listener: &Listener, source: SocketAddr) -> Result<Arc<Bound>, Closed> {
        let Some(process) = self.processes.get_mut(&id) else { return Err(Closed::gone()) };
        if listener.socket.slots.is_none() {
            return Err(Closed::unsteered());
        }
        let (slot, service) = (process.slot, self.services.get_mut(&id.service));
        let (Some(checkup), Some(service)) = (&mut process.checkup, service) else { return Err(Closed::gone()) };
        if service.probers.len() >= PROBERS_MAX {
            return Err(Closed::Busy);
        }
        service.probers.insert(source, slot);
        checkup.source = Some(source);
        if !self.divide(id.service) {
            self.unroute(id);
            return Err(Closed::Busy);
        }
        Ok(Arc::clone(&listener.socket.of(slot).bound))
    }

    /// Nothing is sent to this instance for the sake of where it comes from any more.
    pub(super) fn unroute(&mut self, id: InstanceId) {
        let checkup = self.processes.get_mut(&id).and_then(|process| process.checkup.as_mut());
        let Some(source) = checkup.and_then(|checkup| checkup.source.take()) else { return };
        if let Some(service) = self.services.get_mut(&id.service) {
            service.probers.remove(&source);
            self.steer_due = true;
        }
    }
}

/// Why there is no way to an instance.
#[derive(Debug)]
pub(super) enum Closed {
    /// There is none, and what a check came to by that.
    For(String),
    /// Others are on it: there will be one in a moment.
    Busy,
}

impl Closed {
    fn gone() -> Self {
        Self::For("its process is gone".into())
    }

    fn unsteered() -> Self {
        Self::For("the traffic of its listener is not steered".into())
    }
}

impl From<io::Error> for Closed {
    fn from(error: io::Error) -> Self {
        Self::For(format!("cannot connect: {}", describe(&error)))
    }
}

impl From<Closed> for Outcome {
    fn from(closed: Closed) -> Self {
        match closed {
            Closed::For(why) => Self::Failed(why),
            Closed::Busy => Self::Late,
        }
    }
}

/// An address at which a listener is reached from this machine.
pub(in crate::supervisor) fn reachable(bound: SocketAddr) -> SocketAddr {
    let mut address = bound;
    match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_of_the_machine_is_reached_over_one_of_it() {
        let reachable = |text: &str| self::reachable(text.parse().expect("an address")).to_string();
        assert_eq!(reachable("0.0.0.0:80"), "127.0.0.1:80");
        assert_eq!(reachable("[::]:80"), "[::1]:80");
        assert_eq!(reachable("127.1.2.3:80"), "127.1.2.3:80");
        assert_eq!(reachable("[fe80::1%2]:80"), "[fe80::1%2]:80");
    }
}
