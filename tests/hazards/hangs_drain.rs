//! A good service that, once it is told to stop, never comes to an end: it waits for a connection that stays.

use crate::http::{Manner, Server};
use crate::{Options, os};

pub(crate) fn main(options: &Options) {
    let signals = os::hold_stop_signals();
    let listeners = os::inherited().into_iter().map(|(_, fd)| fd).collect();
    let mut server = Server::start(listeners, Manner::of(options));
    os::notify("READY=1");
    signals.wait().expect("signals can be waited for");
    os::notify("STOPPING=1\nSTATUS=waiting for the last connection");
    drop(server.stop());
    os::hang();
}
