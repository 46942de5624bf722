//! Against the kernel itself, on loopback. None of it needs a privilege, but where it says so.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};

use super::*;
use crate::sys::socket::{Bound, Endpoint, Options, bind_to, connect_to, has_ipv6};

mod healing;
mod holding;
mod retiring;
mod rows;
mod shares;

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Whether a count is within the interval that a binomial one is in with a probability of 99.9 %.
pub(super) fn within_binomial(count: usize, of: usize, percent: u32) -> bool {
    let (of, share) = (of as f64, f64::from(percent) / 100.0);
    let deviation = (of * share * (1.0 - share)).sqrt();
    (count as f64 - of * share).abs() <= 3.2905 * deviation + 0.5
}

fn slots(numbers: &[usize]) -> Vec<SlotIndex> {
    numbers.iter().copied().map(SlotIndex).collect()
}

/// Two groups of one slot each, the second with this share.
fn between(first: usize, second: usize, percent: u32) -> Division {
    let group = |percent, slot| Group { percent, slots: slots(&[slot]) };
    Division { groups: vec![group(100 - percent, first), group(percent, second)], ..Division::default() }
}

/// A row of so many slots, everything to the first, whose accept() does not wait.
fn row_at(address: &str, count: usize, options: &Options) -> Row {
    let mut row = Row::bind(&Endpoint::Tcp(address.parse().unwrap()), options).unwrap();
    while row.slots().len() < count {
        row.append().unwrap();
    }
    for slot in row.slots() {
        slot.set_nonblocking(true).unwrap();
    }
    row
}

fn row(count: usize) -> Row {
    row_at("127.0.0.1:0", count, &Options::default())
}

fn listener(slot: &Bound) -> TcpListener {
    slot.fd.try_clone().unwrap().into()
}

/// Everything that waits at a slot.
fn accept_all(slot: &Bound) -> Vec<(TcpStream, SocketAddr)> {
    let listener = listener(slot);
    std::iter::from_fn(|| match listener.accept() {
        Ok(accepted) => Some(accepted),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("{error}"),
    })
    .collect()
}

fn waiting(row: &Row) -> Vec<u32> {
    row.slots().iter().map(|slot| slot.queue().unwrap().0).collect()
}

/// A client's socket at this address, with a port of its own.
fn client_at(source: IpAddr) -> OwnedFd {
    let family = if source.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind_to(&fd, &*Endpoint::Tcp((source, 0).into()).address().unwrap()).unwrap();
    fd
}

fn address_of(fd: &OwnedFd) -> SocketAddr {
    match Endpoint::of(fd.as_fd()).unwrap() {
        Endpoint::Tcp(address) => address,
        other => panic!("{other}"),
    }
}

fn connect(fd: OwnedFd, target: SocketAddr) -> TcpStream {
    connect_to(&fd, &*Endpoint::Tcp(target).address().unwrap()).unwrap();
    fd.into()
}

/// Its end is a reset, which leaves no port in TIME_WAIT.
fn reset_at_end(stream: &TcpStream) {
    setsockopt(stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
}

/// Waits for a prober's connection.
fn connected(stream: &TcpStream) {
    wait_for("a probe", || stream.take_error().unwrap().is_none() && stream.peer_addr().is_ok());
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < until, "{what}");
        std::thread::yield_now();
    }
}

/// Checks by a probe to each slot that it is where the row thinks. Everybody else goes to the first of them.
fn each_slot_is_reached(row: &mut Row) {
    for slot in (0..row.slots().len()).map(SlotIndex) {
        let prober = Prober::bind(row.address()).unwrap();
        let client = prober.client();
        let division = Division { clients: vec![(client, slot)], ..row.division().clone() };
        row.divide(division).unwrap();
        let stream = prober.connect().unwrap();
        connected(&stream);
        let place = row.slots().iter().position(|slot| slot.queue().unwrap().0 > 0);
        assert_eq!(place, Some(slot.0), "{:?}", row.order());
        let accepted = accept_all(&row.slots()[slot.0]);
        let seen = SocketAddr::new(accepted[0].1.ip().to_canonical(), accepted[0].1.port());
        assert_eq!(seen, client);
        assert_eq!(accepted.len(), 1);
    }
}

/// What would be kept of a row.
fn kept(row: &Row) -> Kept {
    Kept {
        slots: row.slots().to_vec(),
        dam: row.dam().cloned(),
        order: row.order().clone(),
        held: row.is_held(),
        division: row.division().clone(),
    }
}

/// Whether a client's first segment is dropped at the dam.
fn waits_outside(row: &Row) -> bool {
    let drops = || row.dam().unwrap().drops().unwrap();
    let before = drops();
    let stream = Prober::bind(row.address()).unwrap().connect().unwrap();
    wait_for("the first segment", || drops() != before || stream.peer_addr().is_ok());
    stream.peer_addr().is_err()
}

/// A client that says a byte and hears it back.
fn speak(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])
}

/// There is IPv6 here, or it is said that there is none.
fn ipv6() -> bool {
    let there = has_ipv6() && TcpListener::bind("[::1]:0").is_ok();
    if !there {
        eprintln!("skipped: there is no IPv6 here");
    }
    there
}
