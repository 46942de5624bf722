//! Answers on sockets of every kind: stream listeners speak HTTP, datagram sockets and seqpacket connections give each
//! message back with the generation in front.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::{AcceptConn, SockType as TypeOf};
use nix::sys::socket::{
    MsgFlags, SockFlag, SockType, SockaddrStorage, accept4, getsockopt, recv, recvfrom, send, sendmsg,
};

use crate::http::{Manner, Server};
use crate::{Options, os};

pub(crate) fn main(options: &Options) {
    let signals = os::hold_stop_signals();
    let mut streams = vec![];
    let (stopped, stop) = std::io::pipe().expect("a pipe can be made");
    let stopped = std::sync::Arc::new(stopped);
    let mut threads = vec![];
    for (name, fd) in os::inherited() {
        let kind = getsockopt(&fd, TypeOf).expect("it is a socket");
        let listens = getsockopt(&fd, AcceptConn).expect("it is a socket");
        println!("{name} {kind:?} {listens}");
        os::set_nonblocking(&fd, true);
        let stopped = std::sync::Arc::clone(&stopped);
        match kind {
            SockType::Stream => streams.push(fd),
            SockType::SeqPacket => threads.push(std::thread::spawn(move || each(&fd, &*stopped, packets))),
            _ => threads.push(std::thread::spawn(move || each(&fd, &*stopped, datagram))),
        }
    }
    let mut server = Server::start(streams, Manner::of(options));
    os::notify("READY=1");
    signals.wait().expect("signals can be waited for");
    drop(stop);
    drop(server.stop());
    server.drain();
    for thread in threads {
        thread.join().expect("it does not panic");
    }
}

fn each(fd: &OwnedFd, stopped: &impl AsFd, work: impl Fn(&OwnedFd)) {
    loop {
        let mut polled = [PollFd::new(stopped.as_fd(), PollFlags::POLLIN), PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        if poll(&mut polled, PollTimeout::NONE).is_err() {
            continue;
        }
        if polled[0].any() == Some(true) {
            return;
        }
        work(fd);
    }
}

fn reply(message: &[u8]) -> Vec<u8> {
    let generation = std::env::var("ZDSUP_GENERATION").unwrap_or_default();
    [generation.as_bytes(), b" ", message].concat()
}

fn datagram(fd: &OwnedFd) {
    let mut buffer = [0; 2048];
    if let Ok((count, Some(from))) = recvfrom::<SockaddrStorage>(fd.as_raw_fd(), &mut buffer) {
        let text = reply(&buffer[..count]);
        // Whoever has left does not hear.
        let _ = sendmsg(fd.as_raw_fd(), &[IoSlice::new(&text)], &[], MsgFlags::empty(), Some(&from));
    }
}

fn packets(fd: &OwnedFd) {
    let Ok(connection) = accept4(fd.as_raw_fd(), SockFlag::SOCK_CLOEXEC) else { return };
    // SAFETY: accept4 just made it, and nobody else knows it.
    let connection = unsafe { OwnedFd::from_raw_fd(connection) };
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok(count @ 1..) = recv(connection.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            let _ = send(connection.as_raw_fd(), &reply(&buffer[..count]), MsgFlags::MSG_NOSIGNAL);
        }
    });
}
