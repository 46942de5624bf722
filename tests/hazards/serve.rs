//! A good HTTP service: inherited sockets, READY=1, a graceful end.
//!
//! `--ready-delay MS`, `--gate FILE` (gets ready once that is there), `--status TEXT`, `--ready-fd N`, `--no-ready`, `--extend MS` (asked for at once),
//! `--stopping-after MS` (says STOPPING=1, and goes on), `--health FILE` (what it answers at `/healthz`; `--everywhere`: to all), `--own ADDRESS:BASE`
//! (it listens there too, at the port that is its slot more), `--extend-drain MS`, `--lame-duck MS`, `--blocking`.

use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd};

use crate::http::{Manner, Server};
use crate::{Options, os};

pub(crate) fn main(options: &Options) {
    let signals = os::hold_stop_signals();
    let mut listeners: Vec<OwnedFd> = os::inherited().into_iter().map(|(_, fd)| fd).collect();
    if let Some(text) = options.text("--status") {
        os::notify(&format!("STATUS={text}"));
    }
    if let Some(millis) = options.number("--extend") {
        os::notify(&format!("EXTEND_TIMEOUT_USEC={}", millis * 1000));
    }
    if let Some(span) = options.span("--ready-delay") {
        // The time that it takes to get ready.
        std::thread::sleep(span);
    }
    if let Some(file) = options.text("--gate") {
        while !std::path::Path::new(file).exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
    let own = options.text("--own").map(|place| {
        let (address, base) = place.split_once(':').expect("an address and a port");
        let slot: u16 = std::env::var("ZDSUP_SLOT").expect("a slot").parse().expect("a number");
        let port = base.parse::<u16>().expect("a port") + slot;
        OwnedFd::from(std::net::TcpListener::bind((address, port)).expect("nobody else is there"))
    });
    listeners.extend(own);
    let mut server = Server::start(listeners, Manner::of(options));
    if let Some(number) = options.number("--ready-fd") {
        let number = i32::try_from(number).expect("a descriptor's number is small");
        // SAFETY: whoever passes the option passes the descriptor, for this purpose.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        std::fs::File::from(fd).write_all(b"ready\n").expect("somebody listens");
    }
    if !options.has("--no-ready") {
        os::notify("READY=1");
    }
    if let Some(span) = options.span("--stopping-after") {
        std::thread::sleep(span);
        os::notify("STOPPING=1");
    }
    signals.wait().expect("signals can be waited for");
    os::notify("STOPPING=1\nSTATUS=draining");
    if let Some(millis) = options.number("--extend-drain") {
        os::notify(&format!("EXTEND_TIMEOUT_USEC={}", millis * 1000));
    }
    drop(server.stop());
    server.drain();
}
