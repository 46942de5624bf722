//! A way from one generation to the next, for connections and whatever else lives in a process.
//!
//! ```text
//!   old generation                      the store                     new generation
//!   makes a pair, keeps one end ──────► the other end ──────────────► finds it when it starts
//!   takes the channel  ◄───────────────── a channel of its own ────── sends one end over it, says READY=1
//!                                        (stores a new way for its own successor: kept once it serves)
//!   stop signal: the new one serves
//!   begin, parcel, parcel, ... ─────────── the channel ─────────────► receives
//!   exits                                                             sees the end
//! ```
//!
//! - Only whoever got a descriptor can use it: there is no address, and nobody to authenticate.
//! - Nothing is handed over before the stop signal, which comes when the new generation serves. So nothing happens
//!   if it fails before.
//! - A generation that is told to stop before the one that it follows has handed everything over passes its end of that
//!   channel on. So however fast one upgrade follows another, what is handed over reaches the last.
//! - Each new generation brings a channel of its own: of several that tried, the last is taken, and one that has died is
//!   noticed. What a failed one leaves behind is closed.
//!
//! On the wire all sockets are SOCK_SEQPACKET. Over the stored one goes [`HELLO`] with one descriptor; over the channel one
//! [`BEGIN`], then any number of [`FORWARD`] with the end of another channel, and of [`PARCEL`] with its bytes and
//! descriptors.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use super::Listeners;
use super::os;
use super::store::{remove, store};

/// What a new generation sends with its end of the channel.
const HELLO: &[u8] = b"h";
/// The first byte of the message with which the old generation begins.
const BEGIN: u8 = b'b';
/// The message with which it passes on the channel that it receives from itself.
const FORWARD: u8 = b'f';
/// The first byte of a parcel.
const PARCEL: u8 = b'p';
/// The most bytes of a parcel.
const PARCEL_MAX: usize = 64 << 10;

/// The way from the former generation to this one, and from this one to the next.
///
/// Its two uses: the process [receives](Handover::receive) from its start on, in a thread, what the former generation
/// hands over; and it [leaves](Handover::leave) when it is told to stop, which yields the [`Successor`] to hand over to, if
/// there is one. It needs room for one descriptor in the supervisor's store (`fd-store-max = 1`).
///
/// ```no_run
/// use std::net::TcpStream;
/// use std::os::fd::AsFd;
/// use std::sync::Arc;
/// use std::thread;
/// use zdsup::service::{self, Handover, Listeners, Shutdown};
///
/// # fn serve(stream: TcpStream, state: Vec<u8>) {}
/// # fn connections() -> Vec<(TcpStream, Vec<u8>)> { Vec::new() }
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     let shutdown = Shutdown::install()?;
///     let mut listeners = Listeners::take()?;
///     let listener = listeners.tcp("chat")?;
///     let handover = Arc::new(Handover::open(&mut listeners, "handover")?);
///     service::ready()?;
///
///     let way = Arc::clone(&handover);
///     let receiver = thread::spawn(move || {
///         while let Ok(Some(mut parcel)) = way.receive() {
///             if let Some(fd) = parcel.fds.pop() {
///                 serve(TcpStream::from(fd), parcel.bytes);
///             }
///         }
///     });
///     // ... accept and serve ...
///     shutdown.wait();
///
///     // The new generation serves: accept no more, and stop each connection where one request ends and the next begins.
///     drop(listener);
///     let successor = handover.leave();
///     for (stream, state) in connections() {
///         match successor.as_ref().map(|successor| successor.send(&state, &[stream.as_fd()])) {
///             Some(Ok(())) => {}
///             // Nobody takes it: it is still ours to finish.
///             _ => serve(stream, state),
///         }
///     }
///     // What still comes from the former generation is handed on in the same way.
///     receiver.join().map_err(|_| "the receiver panicked")?;
///     Ok(())
/// }
/// ```
///
/// `examples/counter.rs` is a whole server.
#[derive(Debug)]
pub struct Handover {
    incoming: Mutex<Incoming>,
    /// Readable once this process receives nothing more.
    over: PipeReader,
    door: Arc<Door>,
}

/// Where former generations hand over to this one.
#[derive(Debug)]
struct Incoming {
    channels: Vec<Channel>,
    /// Dropped when this process receives nothing more.
    open: Option<PipeWriter>,
}

/// Our end of the channel from one of them.
#[derive(Debug)]
struct Channel {
    fd: Arc<OwnedFd>,
    /// It has begun to hand over.
    begun: bool,
}

/// What was handed over in one piece.
#[derive(Debug)]
pub struct Parcel {
    /// What [`Successor::send`] was given.
    pub bytes: Vec<u8>,
    /// And its descriptors, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// The generation that takes over from this one.
#[derive(Debug)]
pub struct Successor(OwnedFd);

/// Where successors announce themselves.
#[derive(Debug)]
struct Door {
    socket: OwnedFd,
    /// The channel of the last one.
    newest: Mutex<Option<OwnedFd>>,
}

impl Handover {
    /// Opens the way from the former generation, if it left one under this name in the supervisor's store, and the way to
    /// the next. Call it before [`ready`](super::ready).
    ///
    /// Without a supervisor there is nobody on either side.
    ///
    /// # Errors
    /// As [`store()`](super::store()); no descriptors or threads are left.
    pub fn open(listeners: &mut Listeners, name: &str) -> io::Result<Self> {
        let former = listeners.stored(name);
        let (this, way) = Self::after(former.as_ref().map(AsFd::as_fd))?;
        let looking = Arc::clone(&this.door);
        // So that what failed candidates leave behind does not wait here until the end.
        thread::Builder::new().name("handover".into()).spawn(move || {
            while os::wait_readable([looking.socket.as_fd()], None).is_ok() && looking.look().is_ok() {}
        })?;
        // In its place: both happen together, when this process serves.
        remove(name)?;
        store(name, &way)?;
        Ok(this)
    }

    /// One end of it, and the end that is to be stored. `former`: the end that the former generation stored.
    fn after(former: Option<BorrowedFd<'_>>) -> io::Result<(Self, OwnedFd)> {
        let channels = match former {
            Some(way) => announce(way)?.into_iter().collect(),
            None => Vec::new(),
        };
        let (over, open) = io::pipe()?;
        let (socket, way) = os::packet_pair()?;
        let door = Arc::new(Door { socket, newest: Mutex::new(None) });
        Ok((Self { incoming: Mutex::new(Incoming { channels, open: Some(open) }), over, door }, way))
    }

    /// Waits for the next parcel from a former generation; `None` once there will be none any more.
    ///
    /// It may take until that generation, or this one, is told to stop; so call it in a thread of its own.
    ///
    /// # Errors
    /// Those of poll(2) and recvmsg(2), such as when no descriptors are left: then a parcel may be lost.
    pub fn receive(&self) -> io::Result<Option<Parcel>> {
        let mut buffer = vec![0; PARCEL_MAX + 1];
        loop {
            let channels: Vec<Arc<OwnedFd>> = self.incoming().channels.iter().map(|one| Arc::clone(&one.fd)).collect();
            if channels.is_empty() {
                return Ok(None);
            }
            let fds = channels.iter().map(|channel| channel.as_fd()).chain([self.over.as_fd()]);
            let ready = os::wait_any_readable(&fds.collect::<Vec<_>>())?;
            for (channel, _) in channels.iter().zip(ready).filter(|(_, ready)| *ready) {
                if let Some(parcel) = self.incoming().receive(channel, &mut buffer)? {
                    return Ok(Some(parcel));
                }
            }
        }
    }

    /// Whom to hand over to: to be called once this process is told to stop. `None` when nobody is there (the service is
    /// stopped, or the new release does not do this): then connections are to be finished as without all this.
    ///
    /// From here on [`Handover::receive`] yields what has arrived or is on its way to this process, and then `None`: what a
    /// former generation has not yet handed over goes to the successor directly. Where there is none, a former generation
    /// that has begun goes on, and one that has not will not begin.
    #[must_use]
    pub fn leave(&self) -> Option<Successor> {
        // The last announcement may not have been looked at yet.
        let _ = self.door.look();
        // Whether somebody is there is proved by sending.
        let successor = self.door.newest().take().filter(|channel| os::send(channel.as_fd(), &[BEGIN], &[], 0).is_ok());
        let mut incoming = self.incoming();
        match &successor {
            Some(successor) => {
                let passed_on = |one: &Channel| os::send(successor.as_fd(), &[FORWARD], &[one.fd.as_fd()], 0).is_ok();
                // One that cannot be passed on is received from here.
                incoming.channels.retain(|one| !passed_on(one));
            }
            None => {
                for one in &incoming.channels {
                    let waiting = os::wait_readable([one.fd.as_fd()], Some(Instant::now()));
                    if !one.begun && !matches!(waiting, Ok([true])) {
                        os::refuse_more(one.fd.as_fd());
                    }
                }
            }
        }
        if incoming.channels.is_empty() {
            incoming.open = None;
        }
        successor.map(Successor)
    }

    fn incoming(&self) -> MutexGuard<'_, Incoming> {
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Incoming {
    /// Takes the next message of a channel, which may have been passed on in the meantime.
    fn receive(&mut self, channel: &Arc<OwnedFd>, buffer: &mut [u8]) -> io::Result<Option<Parcel>> {
        let Some(place) = self.channels.iter().position(|one| Arc::ptr_eq(&one.fd, channel)) else { return Ok(None) };
        let (length, mut fds) = match os::receive(channel.as_fd(), buffer, libc::MSG_DONTWAIT) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            // It died without having read what we sent, which is nothing.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => (0, Vec::new()),
            other => other?,
        };
        match buffer[..length].split_first() {
            None => drop(self.channels.remove(place)),
            Some((&PARCEL, bytes)) => return Ok(Some(Parcel { bytes: bytes.to_vec(), fds })),
            Some((&FORWARD, _)) => {
                let fd = fds.pop().map(Arc::new);
                self.channels.extend(fd.map(|fd| Channel { fd, begun: false }));
            }
            // BEGIN, or what a later version may say.
            Some(_) => self.channels[place].begun = true,
        }
        Ok(None)
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        // Ends the thread. The end that is in the store hangs up by it.
        os::refuse_more(self.door.socket.as_fd());
    }
}

impl Successor {
    /// Hands over: at most 64 KiB (more goes into a memfd that is handed over itself) and at most 253 descriptors, which
    /// it gets copies of. Blocks while it has much to take already.
    ///
    /// Once this has succeeded, read nothing more from a connection and write nothing to it: close it.
    ///
    /// # Errors
    /// `BrokenPipe` when it is gone: what was to be handed over is still the caller's. `InvalidInput` for too much.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if bytes.len() > PARCEL_MAX {
            let text = format!("hand over {} bytes: a parcel has at most {PARCEL_MAX}", bytes.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        os::send(self.0.as_fd(), &[&[PARCEL], bytes].concat(), fds, 0)
    }
}

impl Door {
    /// Takes the announcements that wait.
    fn look(&self) -> io::Result<()> {
        // Held while receiving, so that nobody sees the door empty while an announcement is being taken in.
        let mut newest = self.newest();
        loop {
            match os::receive(self.socket.as_fd(), &mut [0; 16], libc::MSG_DONTWAIT) {
                Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok((_, mut fds)) => *newest = fds.pop().or(newest.take()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn newest(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends the former generation one end of a new channel, and gives back the other; `None` when it is gone.
fn announce(way: BorrowedFd<'_>) -> io::Result<Option<Channel>> {
    let (ours, theirs) = os::packet_pair()?;
    // It takes announcements at once, unless it is frozen or gone.
    let announced = os::send(way, HELLO, &[theirs.as_fd()], libc::MSG_DONTWAIT).is_ok();
    Ok(announced.then(|| Channel { fd: Arc::new(ours), begun: false }))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// A generation, and the end of its way that would be in the store.
    fn generation(way: Option<&OwnedFd>) -> (Handover, OwnedFd) {
        Handover::after(way.map(AsFd::as_fd)).expect("descriptors are left")
    }

    fn parcel(handover: &Handover) -> Option<(Vec<u8>, usize)> {
        handover.receive().expect("it is received").map(|parcel| (parcel.bytes, parcel.fds.len()))
    }

    #[test]
    fn parcels_reach_the_successor_and_end_with_the_predecessor() {
        let (old, way) = generation(None);
        assert!(parcel(&old).is_none());
        let (new, _) = generation(Some(&way));
        let successor = old.leave().expect("it announced itself");
        let (left, mut right) = UnixStream::pair().expect("a pair");
        successor.send(b"state", &[left.as_fd()]).expect("it is there");
        successor.send(b"", &[]).expect("it is there");
        drop((left, successor, old));
        let received = new.receive().expect("it is received").expect("a parcel");
        assert_eq!(received.bytes, b"state");
        // The connection lives on in it alone.
        drop(received);
        assert_eq!(right.read(&mut [0]).expect("closed"), 0);
        assert_eq!(parcel(&new), Some((Vec::new(), 0)));
        assert_eq!(parcel(&new), None);
    }

    #[test]
    fn of_several_the_last_that_announced_itself_is_taken_and_nobody_who_is_gone() {
        let (old, way) = generation(None);
        let (failed, _) = generation(Some(&way));
        let (hung, _) = generation(Some(&way));
        drop(failed);
        let (new, _) = generation(Some(&way));
        let successor = old.leave().expect("it announced itself");
        successor.send(b"x", &[]).expect("it is there");
        assert_eq!(parcel(&new), Some((b"x".to_vec(), 0)));
        drop((successor, old));
        // Its channel was closed when a later one came.
        assert_eq!(parcel(&hung), None);

        let (old, way) = generation(None);
        drop(generation(Some(&way)));
        assert!(old.leave().is_none());
    }

    #[test]
    fn a_predecessor_that_is_gone_is_none() {
        let (old, way) = generation(None);
        drop(old);
        let (new, _) = generation(Some(&way));
        assert_eq!(parcel(&new), None);
    }

    #[test]
    fn what_comes_late_reaches_the_last_however_many_have_left_since() {
        let (first, way) = generation(None);
        let (second, way_on) = generation(Some(&way));
        let (third, way_further) = generation(Some(&way_on));
        let (last, _) = generation(Some(&way_further));
        // Told to stop in this order, while somebody waits for parcels: the first has been slow.
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| parcel(&second));
            let successor = second.leave().expect("it announced itself");
            assert_eq!(waiting.join().expect("it does not panic"), None);
            successor.send(b"second", &[]).expect("it is there");
        });
        assert_eq!(parcel(&third), Some((b"second".to_vec(), 0)));
        let successor = first.leave().expect("it announced itself");
        successor.send(b"early", &[]).expect("it is there");
        assert_eq!(parcel(&third), Some((b"early".to_vec(), 0)));
        drop(second);
        drop(third.leave().expect("it announced itself"));
        assert_eq!(parcel(&third), None);
        successor.send(b"late", &[]).expect("it is there");
        drop((first, successor, third));
        assert_eq!(parcel(&last), Some((b"late".to_vec(), 0)));
        assert_eq!(parcel(&last), None);
    }

    #[test]
    fn whoever_leaves_without_a_successor_finishes_what_has_begun_and_nothing_else() {
        // Not begun: the former generation keeps what it has.
        let (old, way) = generation(None);
        let (failed, _) = generation(Some(&way));
        assert!(failed.leave().is_none());
        assert!(old.leave().is_none());
        assert_eq!(parcel(&failed), None);
        // Begun, seen or not.
        for seen in [false, true] {
            let (old, way) = generation(None);
            let (middle, _) = generation(Some(&way));
            let successor = old.leave().expect("it announced itself");
            if seen {
                successor.send(b"first", &[]).expect("it is there");
                assert_eq!(parcel(&middle), Some((b"first".to_vec(), 0)));
            }
            assert!(middle.leave().is_none());
            successor.send(b"late", &[]).expect("it goes on");
            drop((successor, old));
            assert_eq!(parcel(&middle), Some((b"late".to_vec(), 0)));
            assert_eq!(parcel(&middle), None);
        }
    }

    #[test]
    fn too_much_is_refused() {
        let (old, way) = generation(None);
        let (_new, _) = generation(Some(&way));
        let successor = old.leave().expect("it announced itself");
        let error = successor.send(&vec![0; PARCEL_MAX + 1], &[]).expect_err("too long");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        successor.send(&vec![0; PARCEL_MAX], &[]).expect("just short enough");
    }
}
