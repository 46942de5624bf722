//! The way to the very instance that a check means.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpSocket;

use super::network::{Door, Question};
use crate::config::health::{HttpCheck, HttpTarget, Place};
use crate::core::InstanceId;
use crate::supervisor::Supervisor;
use crate::supervisor::listeners::Listener;
use crate::sys::describe;
use crate::sys::socket::{Bound, Endpoint};

impl Supervisor {
    /// The way to an instance over a listener.
    pub(super) fn door(&mut self, id: InstanceId, place: &Place) -> Result<Door, String> {
        let process = self.processes.get(&id).ok_or("its process is gone")?;
        match place {
            Place::Private(_) => {
                let listener = process.private.as_ref().map(Arc::clone).ok_or("its private listener was lost")?;
                let Endpoint::Tcp(address) = listener.endpoint else { return Err("it is not for TCP".into()) };
                Ok(Door { address, from: None, listener: Some(listener) })
            }
            Place::Listener(name) => {
                let listener = process.release.listeners.iter().find(|listener| listener.name == *name).cloned();
                let listener = listener.ok_or("its listener is gone")?;
                self.steered(id, &listener).map_err(|error| format!("listener {name}: {}", describe(&error)))
            }
        }
    }

    /// What an instance is asked, and the way to it.
    pub(super) fn question(&mut self, id: InstanceId, check: &HttpCheck) -> Result<(Door, Question), String> {
        let (door, path, place, name) = match &check.target {
            HttpTarget::Path { path, place } => {
                let door = self.door(id, place)?;
                let place = door.address.to_string();
                (door, path.clone(), place, format!("GET {path}"))
            }
            HttpTarget::Url(pattern) => {
                let slot = self.slot_of(id).0;
                let pid = self.processes.get(&id).map(|process| process.pid).ok_or("its process is gone")?;
                let url = pattern.of(slot, pid.as_raw().unsigned_abs());
                let url = url.map_err(|error| format!("{pattern}, for slot {slot}, {}", error.message))?;
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
    fn steered(&mut self, id: InstanceId, listener: &Listener) -> io::Result<Door> {
        let Endpoint::Tcp(bound) = listener.socket.bound.endpoint else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        let address = reachable(bound);
        let from = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        let mut source = address;
        source.set_port(0);
        from.bind(source)?;
        let listener = self.route(id, listener, from.local_addr()?)?;
        Ok(Door { address, from: Some(from), listener: Some(listener) })
    }

    /// From now on what comes from `source` to this listener reaches this instance and no other process, until
    /// [`Self::unroute`]. Returns the socket that it reaches.
    ///
    /// # Errors
    /// Always, for now: traffic is not steered, and no config that needs it is taken.
    fn route(&mut self, _instance: InstanceId, _listener: &Listener, _source: SocketAddr) -> io::Result<Arc<Bound>> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "its traffic is not steered"))
    }

    /// Nothing that comes from anywhere is for this instance alone any more.
    pub(super) fn unroute(&mut self, _instance: InstanceId) {}
}

/// An address at which a listener is reached from this machine.
fn reachable(bound: SocketAddr) -> SocketAddr {
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
