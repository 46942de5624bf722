//! A good service with one bad habit: at its end it calls shutdown() on its listeners, which are everybody's.

use std::os::fd::AsRawFd;

use nix::sys::socket::{Shutdown, shutdown};

use crate::http::{Manner, Server};
use crate::{Options, os};

pub(crate) fn main(options: &Options) {
    let signals = os::hold_stop_signals();
    let listeners = os::inherited().into_iter().map(|(_, fd)| fd).collect();
    let mut server = Server::start(listeners, Manner::of(options));
    os::notify("READY=1");
    signals.wait().expect("signals can be waited for");
    for listener in server.stop() {
        shutdown(listener.as_raw_fd(), Shutdown::Both).expect("a socket can be shut down");
    }
    server.drain();
}
