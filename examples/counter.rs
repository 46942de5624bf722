//! A server over plain TCP whose connections survive upgrades: each line comes back with its number in the connection and
//! the name of the process that answered, and a client can stay connected for ever.
//!
//! ```text
//! cargo build --example counter
//! zdsup run --fd-store-max 1 --listen lines=127.0.0.1:7000 -- target/debug/examples/counter
//! nc 127.0.0.1 7000                      # in another terminal: type lines
//! zdsup reload                           # as often as you like: the numbers go on, from another process
//! ```
//!
//! On its stop signal the old process stops reading, wherever in a line that is, and hands each connection over with all
//! that belongs to it: the count, what it has read and not answered, what it has answered and not written. So no byte is
//! lost or doubled, and what the kernel has not given out yet waits in the socket for whoever reads it next.

use std::error::Error;
use std::io;
use std::net;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use zdsup::service::{self, Handover, Listeners, Parcel, Shutdown, Successor};

/// How much is read at once, and how long a line may be, bytes. What is unanswered and unwritten fits into one parcel.
const READ: usize = 1024;
const LINE: usize = 4096;

/// What becomes of the connections once this process is told to stop: they go to the next one, if there is one.
type Way = Option<Arc<Successor>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let shutdown = Shutdown::install()?;
    let mut listeners = Listeners::take()?;
    let listener = listeners.tokio_tcp_or_bind("lines", "127.0.0.1:7000")?;
    let handover = Arc::new(Handover::open(&mut listeners, "handover")?);
    let (arrived, mut arriving) = mpsc::unbounded_channel();
    let from_former = Arc::clone(&handover);
    thread::spawn(move || {
        while let Ok(Some(parcel)) = from_former.receive() {
            if arrived.send(parcel).is_err() {
                break;
            }
        }
    });
    service::ready()?;

    let name: Arc<str> = service::instance().unwrap_or_else(|| "by hand".into()).into();
    let (stop, stopped) = watch::channel(None::<Way>);
    let mut sessions = JoinSet::new();
    loop {
        let session = tokio::select! {
            () = shutdown.requested() => break,
            Some(parcel) = arriving.recv() => Session::resume(parcel),
            accepted = listener.accept() => accepted.map(|(stream, _peer)| Session::new(stream)),
        };
        match session {
            Ok(session) => drop(sessions.spawn(session.serve(Arc::clone(&name), stopped.clone()))),
            // Out of descriptors or memory, or a connection that is gone already.
            Err(error) => {
                eprintln!("a new connection: {error}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        // Those that have ended.
        while sessions.try_join_next().is_some() {}
    }

    // What waits in its queue is for the next generation to accept.
    drop(listener);
    service::stopping()?;
    stop.send_replace(Some(handover.leave().map(Arc::new)));
    // The former generation may not be done yet: what comes from there goes on as well.
    while let Some(parcel) = arriving.recv().await {
        sessions.spawn(Session::resume(parcel)?.serve(Arc::clone(&name), stopped.clone()));
    }
    while sessions.join_next().await.is_some() {}
    Ok(())
}

/// A connection and its state.
struct Session {
    stream: TcpStream,
    /// How many lines have been answered.
    count: u64,
    /// Read, and not answered: less than a line.
    input: Vec<u8>,
    /// Answered, and not written.
    output: Vec<u8>,
}

impl Session {
    fn new(stream: TcpStream) -> Self {
        Self { stream, count: 0, input: Vec::new(), output: Vec::new() }
    }

    async fn serve(mut self, name: Arc<str>, mut stop: watch::Receiver<Option<Way>>) {
        loop {
            // Whoever does not read its answers is not read from either.
            let interest = if self.output.is_empty() { Interest::READABLE } else { Interest::WRITABLE };
            tokio::select! {
                biased;
                way = stop.wait_for(Option::is_some) => {
                    let way = way.ok().and_then(|way| way.clone()).flatten();
                    return self.leave(way.as_deref());
                }
                ready = self.stream.ready(interest) => {
                    let more = ready.and_then(|_| if self.output.is_empty() { self.read(&name) } else { self.write() });
                    match more {
                        Ok(true) => {}
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        // The client has left, in whichever way.
                        Ok(false) | Err(_) => return,
                    }
                }
            }
        }
    }

    /// Reads and answers. `false` at the end.
    fn read(&mut self, name: &str) -> io::Result<bool> {
        let mut buffer = [0; READ];
        let length = self.stream.try_read(&mut buffer)?;
        self.input.extend_from_slice(&buffer[..length]);
        while let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
            self.count += 1;
            self.output.extend_from_slice(format!("{} {name} ", self.count).as_bytes());
            self.output.extend(self.input.drain(..=end));
        }
        Ok(length > 0 && self.input.len() <= LINE)
    }

    fn write(&mut self) -> io::Result<bool> {
        let length = self.stream.try_write(&self.output)?;
        self.output.drain(..length);
        Ok(true)
    }

    /// Passes it on. Where nobody takes it, it ends here: the service is being stopped.
    fn leave(self, way: Option<&Successor>) {
        let unanswered = self.input.len().to_le_bytes();
        let state = [&self.count.to_le_bytes()[..], &unanswered, &self.input, &self.output].concat();
        if let Some(Err(error)) = way.map(|way| way.send(&state, &[self.stream.as_fd()])) {
            eprintln!("a connection could not be handed over: {error}");
        }
    }

    /// Takes it over.
    fn resume(mut parcel: Parcel) -> io::Result<Self> {
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, "what was handed over is no session");
        let (count, rest) = parcel.bytes.split_first_chunk().ok_or_else(malformed)?;
        let (unanswered, rest) = rest.split_first_chunk().ok_or_else(malformed)?;
        let (input, output) = rest.split_at_checked(usize::from_le_bytes(*unanswered)).ok_or_else(malformed)?;
        let stream = net::TcpStream::from(parcel.fds.pop().ok_or_else(malformed)?);
        stream.set_nonblocking(true)?;
        let stream = TcpStream::from_std(stream)?;
        Ok(Self { stream, count: u64::from_le_bytes(*count), input: input.to_vec(), output: output.to_vec() })
    }
}
