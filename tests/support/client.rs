//! HTTP over a socket, by hand: what a client that shares no code with the product sends and reads.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::sockopt::IpBindAddressNoPort;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket};

/// How long a single answer may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A connection over any stream socket.
pub(crate) enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Connection {
    pub(crate) fn tcp(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self::Tcp(stream))
    }

    /// From this address of ours.
    pub(crate) fn tcp_from(source: Ipv4Addr, address: SocketAddrV4) -> io::Result<Self> {
        let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        // The port is chosen at the connect: so there are as many as there are for each target.
        setsockopt(&fd, IpBindAddressNoPort, &true)?;
        bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(source, 0)))?;
        connect(fd.as_raw_fd(), &SockaddrIn::from(address))?;
        let stream = TcpStream::from(fd);
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self::Tcp(stream))
    }

    /// A path, or an abstract name after `@`.
    pub(crate) fn unix(path: &str) -> io::Result<Self> {
        let stream = match path.strip_prefix('@') {
            Some(name) => UnixStream::connect_addr(&std::os::unix::net::SocketAddr::from_abstract_name(name)?)?,
            None => UnixStream::connect(path)?,
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self::Unix(stream))
    }

    /// Sends a request and reads the answer. `Ok(None)`: the server closed without a byte.
    pub(crate) fn get(&mut self, path: &str) -> io::Result<Option<Answer>> {
        self.send("GET", path, None)?;
        Answer::read(self)
    }

    pub(crate) fn send(&mut self, method: &str, path: &str, body: Option<&str>) -> io::Result<()> {
        let body = body.unwrap_or_default();
        let length = body.len();
        let text = format!("{method} {path} HTTP/1.1\r\nhost: zdsup\r\ncontent-length: {length}\r\n\r\n{body}");
        self.write_all(text.as_bytes())
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buffer),
            Self::Unix(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An answer with a content-length.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut bytes = Vec::new();
        let mut buffer = [0; 16 * 1024];
        let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, "the answer was cut off");
        let split = loop {
            if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            match from.read(&mut buffer)? {
                0 if bytes.is_empty() => return Ok(None),
                0 => return Err(cut()),
                count => bytes.extend_from_slice(&buffer[..count]),
            }
        };
        let head = String::from_utf8_lossy(&bytes[..split]).to_ascii_lowercase();
        let garbage = || io::Error::new(io::ErrorKind::InvalidData, "not HTTP");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(garbage)?;
        let mut answer = Self { status, head, body: String::new() };
        let length: usize = answer.header("content-length").and_then(|text| text.parse().ok()).ok_or_else(garbage)?;
        while bytes.len() < split + length {
            match from.read(&mut buffer)? {
                0 => return Err(cut()),
                count => bytes.extend_from_slice(&buffer[..count]),
            }
        }
        answer.body = String::from_utf8_lossy(&bytes[split..split + length]).into_owned();
        Ok(Some(answer))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    }

    /// The generation that answered, as the programs in tests/hazards say it.
    pub(crate) fn generation(&self) -> u64 {
        self.header("x-generation").and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// A `key=value` line of the body.
    pub(crate) fn value(&self, key: &str) -> Option<&str> {
        self.body.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    }

    pub(crate) fn closes(&self) -> bool {
        self.header("connection") == Some("close")
    }
}

/// One question to the control socket, as curl would ask it.
pub(crate) fn control(socket: &Path, method: &str, path: &str, body: Option<&str>) -> io::Result<Answer> {
    let mut connection = Connection::unix(&socket.display().to_string())?;
    connection.send(method, path, body)?;
    Answer::read(&mut connection)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}
