//! A good service with one bad habit: at its end it calls shutdown() on its listeners, which are everybody's. At SIGUSR2 it
//! does so as well, and goes on.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::signal::Signal;
use nix::sys::socket::{Shutdown, shutdown};

use crate::http::{Manner, Server};
use crate::{Options, os};

pub(crate) fn main(options: &Options) {
    let signals = os::hold_stop_signals();
    let mut listeners: Vec<OwnedFd> = os::inherited().into_iter().map(|(_, fd)| fd).collect();
    loop {
        let mut server = Server::start(listeners, Manner::of(options));
        os::notify("READY=1");
        let signal = signals.wait().expect("signals can be waited for");
        listeners = server.stop();
        for listener in &listeners {
            shutdown(listener.as_raw_fd(), Shutdown::Both).expect("a socket can be shut down");
        }
        if signal != Signal::SIGUSR2 {
            return server.drain();
        }
    }
}
