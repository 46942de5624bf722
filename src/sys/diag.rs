//! The kernel's own tables of sockets (sock_diag(7)). Each question dumps a table and may take long on a busy host: run
//! it off the loop. Where the diag modules are missing, the answer is an error.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags};
use netlink_packet_sock_diag::unix::nlas::{Nla, UnixDiagName};
use netlink_packet_sock_diag::unix::{self, UnixRequest, UnixResponse};
use netlink_packet_sock_diag::{SockDiagMessage, constants};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use super::socket::{Endpoint, UnixKind, UnixName};

/// How long the kernel may take for the next part of an answer, seconds.
const TIMEOUT: i64 = 5;

/// Larger than any part of a dump (NLMSG_GOODSIZE is at most 32 KiB).
const BUFFER_LEN: usize = 64 << 10;

/// The inodes of the TCP sockets, IPv4 and IPv6, that are connections to one of these local ports and held by some
/// process: neither listening, nor half-open, nor waiting to be accepted, nor closed by their owner.
///
/// # Errors
/// Those of netlink(7); EAGAIN when the kernel does not answer.
pub fn established(ports: &HashSet<u16>) -> io::Result<Vec<u64>> {
    let states = StateFlags::ESTABLISHED
        | StateFlags::FIN_WAIT1
        | StateFlags::FIN_WAIT2
        | StateFlags::CLOSE_WAIT
        | StateFlags::LAST_ACK
        | StateFlags::CLOSING;
    inet(IPPROTO_TCP, &states, |found| ports.contains(&found.socket_id.source_port))
}

/// A TCP handshake that a listener has answered and the client has not completed: SYN_RECV. IPv4 at a dual-stack
/// listener is IPv4 here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handshake {
    /// The client.
    pub client: SocketAddr,
    /// The address and port that it connects to.
    pub local: SocketAddr,
}

/// The handshakes that are open at this local port. They have no inode, and which listener they belong to is not told
/// (`inet_req_diag_fill` in net/ipv4/inet_diag.c).
///
/// # Errors
/// As [`established`].
pub fn handshakes(port: u16) -> io::Result<HashSet<Handshake>> {
    let mut open = HashSet::new();
    dump(IPPROTO_TCP, &StateFlags::SYN_RECV, port, |found| {
        let id = &found.socket_id;
        let at = |address: IpAddr, port| SocketAddr::new(address.to_canonical(), port);
        open.insert(Handshake {
            client: at(id.destination_address, id.destination_port),
            local: at(id.source_address, id.source_port),
        });
    })?;
    Ok(open)
}

/// The inodes of the unix sockets that are accepted connections to one of these names.
///
/// # Errors
/// As [`established`].
pub fn unix_established(names: &HashSet<UnixName>) -> io::Result<Vec<u64>> {
    unix_named(unix::StateFlags::ESTABLISHED, |_, name| names.iter().any(|wanted| is_called(name, wanted)))
}

/// For a listening unix socket: connections that wait to be accepted, and how many may wait.
///
/// # Errors
/// As [`established`]; `NotFound` when there is no such socket or it does not listen.
pub fn unix_queue(inode: u64) -> io::Result<(u32, u32)> {
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    let request = UnixRequest {
        state_flags: unix::StateFlags::all(),
        inode: u32::try_from(inode).map_err(|_| missing())?,
        show_flags: unix::ShowFlags::RQLEN,
        cookie: [0xff; 8],
    };
    let mut queue = None;
    ask(SockDiagMessage::UnixRequest(request), Extent::One, |answer| {
        if let SockDiagMessage::UnixResponse(found) = answer
            && found.header.state == constants::TCP_LISTEN
        {
            queue = found.nlas.iter().find_map(|nla| match nla {
                Nla::ReceiveQueueLength(waiting, limit) => Some((*waiting, *limit)),
                _ => None,
            });
        }
    })?;
    queue.ok_or_else(missing)
}

/// The inodes of the sockets that stand in the way of binding this one: those that listen or receive on its port, at its
/// address or where one of the two addresses is a wildcard, or have its name. None for vsock.
///
/// # Errors
/// As [`established`].
pub fn listener_inodes(endpoint: &Endpoint) -> io::Result<Vec<u64>> {
    match endpoint {
        Endpoint::Tcp(address) => inet(IPPROTO_TCP, &StateFlags::LISTEN, |found| is_in_the_way(found, *address)),
        Endpoint::Udp(address) => {
            let states = StateFlags::CLOSE | StateFlags::ESTABLISHED;
            inet(IPPROTO_UDP, &states, |found| is_in_the_way(found, *address))
        }
        Endpoint::Unix { kind, name } => {
            let wanted = match kind {
                UnixKind::Stream => libc::SOCK_STREAM,
                UnixKind::Datagram => libc::SOCK_DGRAM,
                UnixKind::Seqpacket => libc::SOCK_SEQPACKET,
            };
            // Accepted connections have the name too. A datagram socket has no state of its own (TCP_CLOSE).
            let all = unix::StateFlags::from_bits_retain(u32::MAX);
            let mut inodes = unix_named(all, |found, bound| {
                let state = found.header.state;
                let holds = state == constants::TCP_LISTEN || i32::from(found.header.kind) == libc::SOCK_DGRAM;
                holds && i32::from(found.header.kind) == wanted && is_called(bound, name)
            })?;
            inodes.dedup();
            Ok(inodes)
        }
        Endpoint::Vsock { .. } => Ok(Vec::new()),
    }
}

/// The inodes of the TCP sockets that listen at this very address and port.
///
/// # Errors
/// As [`established`].
pub fn listening_at(address: SocketAddr) -> io::Result<Vec<u64>> {
    let same = |found: &InetResponseHeader| {
        SocketAddr::new(found.socket_id.source_address, found.socket_id.source_port) == address
    };
    inet(IPPROTO_TCP, &StateFlags::LISTEN, same)
}

fn is_in_the_way(found: &InetResponseHeader, asked: SocketAddr) -> bool {
    let (there, here) = (found.socket_id.source_address, asked.ip());
    // The wildcard of IPv6 covers IPv4 too, unless the socket says otherwise.
    let covers = |wide: IpAddr, narrow: IpAddr| wide.is_unspecified() && (wide.is_ipv6() || narrow.is_ipv4());
    found.socket_id.source_port == asked.port() && (there == here || covers(there, here) || covers(here, there))
}

fn inet(
    protocol: u8,
    states: &StateFlags,
    mut wanted: impl FnMut(&InetResponseHeader) -> bool,
) -> io::Result<Vec<u64>> {
    let mut inodes = Vec::new();
    dump(protocol, states, ANY_PORT, |found| {
        // 0 is a socket that no process holds.
        if found.inode != 0 && wanted(found) {
            inodes.push(found.inode.into());
        }
    })?;
    Ok(inodes)
}

/// What the kernel takes for no choice of a port.
const ANY_PORT: u16 = 0;

/// Shows the sockets in one of these states at a local port, IPv4 and IPv6.
fn dump(protocol: u8, states: &StateFlags, port: u16, mut visit: impl FnMut(&InetResponseHeader)) -> io::Result<()> {
    for (family, mut socket_id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        socket_id.source_port = port;
        let (extensions, states) = (ExtensionFlags::empty(), states.clone());
        let request = InetRequest { family, protocol, extensions, states, socket_id };
        ask(SockDiagMessage::InetRequest(request), Extent::All, |answer| {
            if let SockDiagMessage::InetResponse(found) = answer {
                visit(&found.header);
            }
        })?;
    }
    Ok(())
}

fn unix_named(
    state_flags: unix::StateFlags,
    mut wanted: impl FnMut(&UnixResponse, &UnixDiagName) -> bool,
) -> io::Result<Vec<u64>> {
    let request = UnixRequest { state_flags, inode: 0, show_flags: unix::ShowFlags::NAME, cookie: [0; 8] };
    let mut inodes = Vec::new();
    ask(SockDiagMessage::UnixRequest(request), Extent::All, |answer| {
        if let SockDiagMessage::UnixResponse(found) = answer
            && found.header.inode != 0
            && found.name().is_some_and(|name| wanted(&found, name))
        {
            inodes.push(found.header.inode.into());
        }
    })?;
    Ok(inodes)
}

fn is_called(bound: &UnixDiagName, wanted: &UnixName) -> bool {
    match (bound, wanted) {
        (UnixDiagName::Pathname(bound), UnixName::Path(wanted)) => bound == wanted.as_os_str(),
        (UnixDiagName::Abstract(bound), UnixName::Abstract(wanted)) => bound == wanted,
        _ => false,
    }
}

/// How much is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    One,
    All,
}

/// Asks, and shows each answer.
fn ask(request: SockDiagMessage, extent: Extent, mut visit: impl FnMut(SockDiagMessage)) -> io::Result<()> {
    let netlink = open()?;
    let mut header = NetlinkHeader::default();
    header.flags = if extent == Extent::All { NLM_F_REQUEST | NLM_F_DUMP } else { NLM_F_REQUEST };
    let mut question = NetlinkMessage::new(header, NetlinkPayload::from(request));
    question.finalize();
    let mut bytes = vec![0; question.buffer_len()];
    question.serialize(&mut bytes);
    send(netlink.as_raw_fd(), &bytes, MsgFlags::empty())?;

    let mut buffer = vec![0; BUFFER_LEN];
    loop {
        // With MSG_TRUNC the length is that of the message, however much of it fits.
        let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC)?;
        let mut rest = buffer.get(..length).ok_or_else(malformed)?;
        while let Some(head) = rest.first_chunk() {
            // The length of a message, with its header (netlink(7)).
            let length = u32::from_ne_bytes(*head) as usize;
            let message = rest.get(..length).filter(|message| message.len() >= 16).ok_or_else(malformed)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            // An attribute that the parser does not understand costs this one socket, not the answer.
            let Ok(parsed) = NetlinkMessage::<SockDiagMessage>::deserialize(message) else { continue };
            match parsed.payload {
                NetlinkPayload::InnerMessage(answer) => {
                    visit(answer);
                    if extent == Extent::One {
                        return Ok(());
                    }
                }
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
        }
    }
}

fn open() -> io::Result<OwnedFd> {
    let protocol = SockProtocol::NetlinkSockDiag;
    let netlink = socket(AddressFamily::Netlink, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?;
    setsockopt(&netlink, sockopt::ReceiveTimeout, &TimeVal::new(TIMEOUT, 0))?;
    Ok(netlink)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "malformed answer from sock_diag")
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;
    use crate::sys::tests::directory;

    const NONE: [u64; 0] = [];

    fn inode(socket: impl AsFd) -> u64 {
        nix::sys::stat::fstat(socket.as_fd()).unwrap().st_ino
    }

    /// Whether this kernel has the module; says so when not.
    fn available(answer: io::Result<Vec<u64>>) -> bool {
        match answer {
            Ok(_) => true,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                eprintln!("skipped: this kernel has no such diag module");
                false
            }
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn accepted_connections_are_found_and_others_are_not() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        if !available(established(&HashSet::from([port]))) {
            return;
        }
        assert_eq!(established(&HashSet::from([port])).unwrap(), NONE);
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(
            established(&HashSet::from([port])).unwrap(),
            NONE,
            "one that waits in the queue belongs to nobody yet"
        );
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(established(&HashSet::from([port])).unwrap(), [inode(&accepted)]);
        let other = client.local_addr().unwrap().port();
        assert!(established(&HashSet::from([other])).unwrap().contains(&inode(&client)));
        client.shutdown(std::net::Shutdown::Both).unwrap();
        assert_eq!(
            established(&HashSet::from([port])).unwrap(),
            [inode(&accepted)],
            "half-closed is still a connection"
        );
        drop(accepted);
        assert_eq!(established(&HashSet::from([port])).unwrap(), NONE);
    }

    #[test]
    fn ipv6_connections_are_found() {
        let Ok(listener) = TcpListener::bind("[::1]:0") else {
            eprintln!("skipped: there is no IPv6 here");
            return;
        };
        let port = listener.local_addr().unwrap().port();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        if available(established(&HashSet::from([port]))) {
            assert_eq!(established(&HashSet::from([1, port])).unwrap(), [inode(&accepted)]);
        }
    }

    #[test]
    fn a_long_dump_comes_in_parts() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let pairs: Vec<_> =
            (0..400).map(|_| (TcpStream::connect(address).unwrap(), listener.accept().unwrap().0)).collect();
        if available(established(&HashSet::from([address.port()]))) {
            let mut expected: Vec<u64> = pairs.iter().map(|(_, accepted)| inode(accepted)).collect();
            let mut found = established(&HashSet::from([address.port()])).unwrap();
            expected.sort_unstable();
            found.sort_unstable();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn unix_connections_and_queues() {
        let home = directory("diag");
        let path = home.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let name = UnixName::Path(path.clone());
        if !available(unix_established(&HashSet::from([name.clone()]))) {
            return;
        }
        let (waiting, limit) = unix_queue(inode(&listener)).unwrap();
        assert_eq!(waiting, 0);
        let first = UnixStream::connect(&path).unwrap();
        let _second = UnixStream::connect(&path).unwrap();
        assert_eq!(unix_queue(inode(&listener)).unwrap(), (2, limit));
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(unix_queue(inode(&listener)).unwrap(), (1, limit));
        assert_eq!(unix_established(&HashSet::from([name.clone()])).unwrap(), [inode(&accepted)]);
        assert_eq!(unix_established(&HashSet::from([UnixName::Abstract(b"zdsup-nobody".to_vec())])).unwrap(), NONE);
        assert_eq!(unix_queue(inode(&first)).unwrap_err().kind(), io::ErrorKind::NotFound);
        let endpoint = Endpoint::Unix { kind: UnixKind::Stream, name };
        assert_eq!(listener_inodes(&endpoint).unwrap(), [inode(&listener)]);
        drop(listener);
        assert_eq!(listener_inodes(&endpoint).unwrap(), NONE);
    }

    #[test]
    fn who_stands_in_the_way_is_found() {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        if !available(listener_inodes(&Endpoint::Tcp(tcp.local_addr().unwrap()))) {
            return;
        }
        assert_eq!(listener_inodes(&Endpoint::Tcp(tcp.local_addr().unwrap())).unwrap(), [inode(&tcp)]);
        let beside = |address: &str| {
            let address = SocketAddr::new(address.parse().unwrap(), tcp.local_addr().unwrap().port());
            listener_inodes(&Endpoint::Tcp(address)).unwrap().contains(&inode(&tcp))
        };
        assert_eq!(["0.0.0.0", "::", "127.0.0.2", "::1"].map(beside), [true, true, false, false]);
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let endpoint = Endpoint::Udp(udp.local_addr().unwrap());
        if available(listener_inodes(&endpoint)) {
            assert!(listener_inodes(&endpoint).unwrap().contains(&inode(&udp)));
        }
    }
}
