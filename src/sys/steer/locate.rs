//! Finding out which index the kernel has each socket at, where it cannot be told from what is known: after several slots
//! were shut down at once, for their order decides what was moved where.
//!
//! One probe for each index: a program steers a client of ours there whose packets have a time to live of 1, and all the
//! sockets refuse anything below 2 (IP_MINTTL, ip(7), and IPV6_MINHOPCOUNT; a connection from another host that is
//! refused by this has crossed 254 routers or was sent to fail). The kernel drops it at the socket that it was steered
//! to (`tcp_v4_rcv`), before the service could see anything of it, and counts the drop there (SO_MEMINFO). None of this
//! needs a privilege; a socket filter would.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use super::{Division, Family, Order, Prober, Program, SlotIndex, attach};
use crate::sys::socket::{Bound, get_int, set_int};

/// Segments of others that are dropped meanwhile can make a probe unclear.
const ATTEMPTS: usize = 8;

/// Loopback delivers within the call; this is for a processor that is busy.
const PATIENCE: Duration = Duration::from_millis(200);

/// What a probe's packets may cross: nothing.
const PROBE_TTL: u32 = 1;

/// Where to look.
pub(super) struct Search<'a> {
    pub(super) address: SocketAddr,
    pub(super) family: Family,
    /// What listens, in the order that is presumed.
    pub(super) sockets: Vec<&'a Bound>,
    pub(super) presumed: &'a Order,
    /// What everybody else goes by meanwhile, in that order.
    pub(super) division: Division,
}

impl Search<'_> {
    /// The kernel's order. It may take as long as a second: run it off the loop.
    ///
    /// # Errors
    /// Those of attaching and connecting; `TimedOut` where probes do not arrive, such as with bind-to-device.
    pub(super) fn run(&self) -> io::Result<Order> {
        let _floors = Floors::raise(&self.sockets, self.address)?;
        for _ in 0..ATTEMPTS {
            if let Some(order) = self.attempt()? {
                return Ok(order);
            }
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "probes of the slots do not arrive"))
    }

    fn attempt(&self) -> io::Result<Option<Order>> {
        let mut order = Vec::new();
        for at in self.presumed.slots() {
            match self.probe(*at)? {
                Some(slot) if !order.contains(&slot) => order.push(slot),
                _ => return Ok(None),
            }
        }
        Ok(Some(Order::from_slots(order)))
    }

    /// Which socket is where this one is presumed.
    fn probe(&self, at: SlotIndex) -> io::Result<Option<SlotIndex>> {
        let prober = Prober::bind(self.address)?;
        prober.set_ttl(PROBE_TTL)?;
        let division = Division { clients: vec![(prober.client(), at)], ..self.division.clone() };
        let program = Program::new(&division, self.family, self.presumed)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let through = self.sockets.first().ok_or(io::ErrorKind::NotFound)?;
        attach(through.as_fd(), &program)?;
        let drops = || self.sockets.iter().map(|socket| socket.drops()).collect::<io::Result<Vec<_>>>();
        let before = drops()?;
        let _stream = prober.connect()?;
        let until = Instant::now() + PATIENCE;
        loop {
            let now = drops()?;
            let mut hit = (0..now.len()).filter(|place| now[*place] != before[*place]);
            match (hit.next(), hit.next()) {
                (Some(one), None) => return Ok(Some(self.presumed.slots()[one])),
                (None, _) if Instant::now() < until => thread::sleep(Duration::from_millis(1)),
                _ => return Ok(None),
            }
        }
    }
}

/// The least time to live that sockets accept, raised above a probe's; they get back what they had.
struct Floors<'a> {
    before: Vec<(&'a Bound, libc::c_int, libc::c_int, u32)>,
}

impl<'a> Floors<'a> {
    fn raise(sockets: &[&'a Bound], address: SocketAddr) -> io::Result<Self> {
        let mut floors = Self { before: Vec::new() };
        for socket in sockets {
            // IPv4 has its own at a dual-stack socket.
            let both = [(libc::SOL_IP, libc::IP_MINTTL), (libc::SOL_IPV6, libc::IPV6_MINHOPCOUNT)];
            for (level, option) in both.into_iter().take(if address.is_ipv4() { 1 } else { 2 }) {
                let before = get_int(socket.as_fd(), level, option)?;
                if before <= PROBE_TTL {
                    set_int(socket.as_fd(), level, option, PROBE_TTL + 1)?;
                    floors.before.push((socket, level, option, before));
                }
            }
        }
        Ok(floors)
    }
}

impl Drop for Floors<'_> {
    fn drop(&mut self) {
        for (socket, level, option, before) in &self.before {
            let _ = set_int(socket.as_fd(), *level, *option, *before);
        }
    }
}
