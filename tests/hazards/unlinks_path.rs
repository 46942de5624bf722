//! A good service that tidies up at its end: it unlinks the paths of its unix sockets, which are everybody's.

use std::os::fd::AsRawFd;

use nix::sys::socket::{UnixAddr, getsockname};

use crate::http::{Manner, Server};
use crate::{Options, os};

pub(crate) fn main(options: &Options) {
    let signals = os::hold_stop_signals();
    let listeners = os::inherited().into_iter().map(|(_, fd)| fd).collect();
    let mut server = Server::start(listeners, Manner::of(options));
    os::notify("READY=1");
    signals.wait().expect("signals can be waited for");
    for listener in server.stop() {
        let address: UnixAddr = getsockname(listener.as_raw_fd()).expect("it is a unix socket");
        if let Some(path) = address.path() {
            // The generation that came after may have been told of it already.
            let _ = std::fs::remove_file(path);
        }
    }
    server.drain();
}
