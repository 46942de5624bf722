//! One request, as a client sends it: over a connection of its own.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::linux::net::SocketAddrExt;
use std::time::Duration;

use nix::libc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, UnixStream};
use tokio::time::{sleep, timeout};

use super::account::{Answer, Bad};
use crate::supervisor::http;
use crate::sys::socket::{Bound, Endpoint, UnixKind, UnixName};

/// How long a request may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// Of the body of an answer no more than this is read, bytes.
const BODY_MAX: usize = 1 << 20;
/// The pause until a unix socket whose backlog is full is tried again; a client that may block would wait.
const AGAIN: Duration = Duration::from_millis(5);

/// Where to ask, and for what.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) place: Place,
    /// Path and query.
    pub(super) path: String,
    pub(super) host: String,
}

/// How a listener is reached.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Tcp {
        address: SocketAddr,
        /// Each request comes from another address, as from another client.
        many: bool,
    },
    Unix(UnixName),
}

impl Place {
    /// The way to a listener; `None` where it takes no stream connections. `many`: as many clients, as far as they can
    /// be told apart, which they can over IPv4: of IPv6 there is one loopback address.
    pub(super) fn of(listener: &Bound, many: bool) -> Option<Self> {
        match &listener.endpoint {
            Endpoint::Tcp(bound) if listener.is_dual_stack() => {
                Some(Self::Tcp { address: (Ipv4Addr::LOCALHOST, bound.port()).into(), many })
            }
            Endpoint::Tcp(bound) => Some(Self::Tcp { address: super::super::health::reachable(*bound), many }),
            Endpoint::Unix { name, kind: UnixKind::Stream } => Some(Self::Unix(name.clone())),
            Endpoint::Unix { .. } | Endpoint::Udp(_) | Endpoint::Vsock { .. } => None,
        }
    }
}

impl Question {
    /// `host`: the Host header; without one that of the place.
    pub(super) fn new(place: Place, path: String, host: Option<String>) -> Self {
        let host = host.unwrap_or_else(|| match &place {
            Place::Tcp { address, .. } => address.to_string(),
            Place::Unix(_) => "localhost".to_owned(),
        });
        Self { place, path, host }
    }

    /// Asks. `number`: which request it is.
    pub(super) async fn ask(&self, number: u64) -> Answer {
        let asked = async {
            match &self.place {
                Place::Tcp { address, many } => self.talk(connect(*address, many.then_some(number)).await?).await,
                Place::Unix(name) => self.talk(connect_unix(name).await?).await,
            }
        };
        match timeout(PATIENCE, asked).await {
            Ok(Ok(status)) if status < 400 => Answer::Good,
            Ok(Ok(status)) => Answer::Bad(Bad::Status(status)),
            Ok(Err(answer)) => answer,
            Err(_) => Answer::Bad(Bad::TimedOut),
        }
    }

    /// The status of the answer, once all of it has come.
    async fn talk(&self, stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<u16, Answer> {
        let request = http::get(&self.path, &self.host, concat!("zdsup/", env!("CARGO_PKG_VERSION"), " (probe)"));
        let answer = http::ask(stream, request.map_err(|_| Answer::Ours)?).await.map_err(|error| failed(&error))?;
        let status = answer.status().as_u16();
        // Nothing of it is kept, and all of it belongs to the answer; but one without an end is not to be read forever.
        let mut read = 0;
        let count = |data: &[u8]| {
            read += data.len();
            read <= BODY_MAX
        };
        answer.read(count).await.map_err(|error| failed(&error))?;
        Ok(status)
    }
}

async fn connect(address: SocketAddr, client: Option<u64>) -> Result<impl AsyncRead + AsyncWrite + Unpin, Answer> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let socket = socket.map_err(|error| unconnected(&error))?;
    if let (Some(number), IpAddr::V4(_)) = (client, address.ip()) {
        // A port is chosen when it connects, so that as many are free as there are for each address.
        let _ = nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::IpBindAddressNoPort, &true);
        socket.bind(SocketAddr::new(one_of_many(number).into(), 0)).map_err(|error| unconnected(&error))?;
    }
    let stream = socket.connect(address).await.map_err(|error| unconnected(&error))?;
    // Small as it is, it is not to wait for anything.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

async fn connect_unix(name: &UnixName) -> Result<UnixStream, Answer> {
    let address = match name {
        UnixName::Path(path) => std::os::unix::net::SocketAddr::from_pathname(path),
        UnixName::Abstract(name) => std::os::unix::net::SocketAddr::from_abstract_name(name),
    };
    let address = address.map_err(|_| Answer::Ours)?.into();
    loop {
        match UnixStream::connect_addr(&address).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(AGAIN).await,
            connected => return connected.map_err(|error| unconnected(&error)),
        }
    }
}

/// An address of this host, another one for each number: clients are told apart by their addresses.
fn one_of_many(number: u64) -> Ipv4Addr {
    // Far apart, and all different (Knuth's multiplicative hash); the first and the last of 127/8 are no hosts.
    let spread = (number as u32).wrapping_mul(2_654_435_761) >> 8;
    Ipv4Addr::from((127 << 24) | spread.clamp(1, (1 << 24) - 2))
}

fn unconnected(error: &io::Error) -> Answer {
    let ours = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EADDRNOTAVAIL];
    if error.raw_os_error().is_some_and(|errno| ours.contains(&errno)) {
        return Answer::Ours;
    }
    match error.kind() {
        // A unix socket whose path is gone is refused to a client, too.
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Answer::Bad(Bad::Refused),
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => Answer::Bad(Bad::Reset),
        io::ErrorKind::TimedOut => Answer::Bad(Bad::TimedOut),
        _ => Answer::Bad(Bad::Unreachable),
    }
}

fn failed(error: &hyper::Error) -> Answer {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>());
    let errno = cause.and_then(io::Error::raw_os_error);
    Answer::Bad(match errno {
        Some(libc::ECONNRESET | libc::EPIPE | libc::ECONNABORTED) => Bad::Reset,
        _ if error.is_parse() => Bad::Malformed,
        _ => Bad::Cut,
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::thread;

    use nix::sys::socket::{setsockopt, sockopt};

    use super::*;
    use crate::sys::socket::{Options, bind};

    fn ask(question: &Question, number: u64) -> Answer {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(question.ask(number))
    }

    fn tcp(address: SocketAddr, many: bool) -> Question {
        Question::new(Place::Tcp { address, many }, "/".into(), None)
    }

    /// What a client says to a server that does this with its connection once it has read the request.
    fn asked(server: impl FnOnce(TcpStream) + Send + 'static) -> Answer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let serving = thread::spawn(move || {
            let (mut connection, _) = listener.accept().expect("a client comes");
            let mut buffer = [0; 4096];
            let _ = connection.read(&mut buffer);
            server(connection);
        });
        let answer = ask(&tcp(address, false), 0);
        serving.join().expect("it does not panic");
        answer
    }

    fn saying(text: &'static str) -> Answer {
        asked(move |mut connection| drop(connection.write_all(text.as_bytes())))
    }

    #[test]
    fn answers_by_class() {
        assert_eq!(saying("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"), Answer::Good);
        assert_eq!(saying("HTTP/1.0 302 Found\r\n\r\nover there"), Answer::Good);
        assert_eq!(saying("HTTP/1.1 204 No Content\r\n\r\n"), Answer::Good);
        assert_eq!(saying("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"), Answer::Bad(Bad::Status(503)));
        assert_eq!(saying("HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\nok"), Answer::Bad(Bad::Cut));
        assert_eq!(saying(""), Answer::Bad(Bad::Cut));
        assert_eq!(saying("220 mail.example.org ESMTP\r\n"), Answer::Bad(Bad::Malformed));
        let reset = asked(|connection| {
            let linger = libc::linger { l_onoff: 1, l_linger: 0 };
            setsockopt(&connection.as_fd(), sockopt::Linger, &linger).expect("it is a socket");
        });
        assert_eq!(reset, Answer::Bad(Bad::Reset));
    }

    /// One that goes on forever is good once enough of it has come, long before it would take too long.
    #[test]
    fn an_endless_answer() {
        let began = std::time::Instant::now();
        let answer = asked(|mut connection| {
            let _ = connection.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            while connection.write_all(&[b'x'; 4096]).is_ok() {}
        });
        assert_eq!(answer, Answer::Good);
        assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    }

    #[test]
    fn only_what_we_lack_is_our_own_fault() {
        let answer = |errno| unconnected(&io::Error::from_raw_os_error(errno));
        for errno in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EADDRNOTAVAIL] {
            assert_eq!(answer(errno), Answer::Ours, "{errno}");
        }
        for errno in [libc::EACCES, libc::EPERM, libc::EHOSTUNREACH, libc::ENETUNREACH] {
            assert_eq!(answer(errno), Answer::Bad(Bad::Unreachable), "{errno}");
        }
        assert_eq!(answer(libc::ENOENT), Answer::Bad(Bad::Refused));
        assert_eq!(answer(libc::ETIMEDOUT), Answer::Bad(Bad::TimedOut));
    }

    #[test]
    fn nobody_there() {
        let gone = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
        assert_eq!(ask(&tcp(gone, false), 0), Answer::Bad(Bad::Refused));
        let name = UnixName::Abstract(format!("zdsup-{}-nobody", std::process::id()).into_bytes());
        let question = Question::new(Place::Unix(name), "/".into(), None);
        assert_eq!(ask(&question, 0), Answer::Bad(Bad::Refused));
    }

    #[test]
    fn every_address_is_reached_over_ipv4_if_it_can_be() {
        let place = |address: &str, only_v6: Option<bool>| {
            let options = Options { only_v6, ..Options::default() };
            let bound = bind(&Endpoint::Tcp(address.parse().expect("an address")), &options).ok()?;
            Some(match Place::of(&bound, true).expect("it is TCP") {
                Place::Tcp { address, many } => (address.ip().to_string(), many),
                Place::Unix(name) => panic!("{name:?}"),
            })
        };
        assert_eq!(place("0.0.0.0:0", None), Some(("127.0.0.1".into(), true)));
        assert_eq!(place("127.1.2.3:0", None), Some(("127.1.2.3".into(), true)));
        // Not every host has IPv6.
        for (only_v6, expected) in [(Some(false), "127.0.0.1"), (Some(true), "::1")] {
            let found = place("[::]:0", only_v6);
            assert!(found.as_ref().is_none_or(|(ip, _)| ip == expected), "{found:?}");
        }
        let datagrams = bind(&Endpoint::Udp("127.0.0.1:0".parse().expect("an address")), &Options::default());
        assert!(Place::of(&datagrams.expect("a port"), false).is_none());
    }

    #[test]
    fn the_host_that_is_asked_for() {
        let address: SocketAddr = "127.0.0.1:80".parse().expect("an address");
        assert_eq!(tcp(address, false).host, "127.0.0.1:80");
        let place = Place::Tcp { address, many: false };
        assert_eq!(Question::new(place, "/".into(), Some("example.org".into())).host, "example.org");
    }

    #[test]
    fn many_clients_have_many_addresses() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let question = tcp(address, true);
        let seen = thread::spawn(move || {
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..20 {
                let (mut connection, from) = listener.accept().expect("a client comes");
                let _ = connection.read(&mut [0; 4096]);
                let _ = connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
                seen.insert(from.ip());
            }
            seen
        });
        for number in 0..20 {
            assert_eq!(ask(&question, number), Answer::Good);
        }
        assert_eq!(seen.join().expect("it does not panic").len(), 20);
        for number in [0, 1, u64::from(u32::MAX), u64::MAX] {
            let [first, ..] = one_of_many(number).octets();
            assert!(
                first == 127
                    && ![Ipv4Addr::new(127, 0, 0, 0), Ipv4Addr::new(127, 255, 255, 255)].contains(&one_of_many(number))
            );
        }
    }
}
