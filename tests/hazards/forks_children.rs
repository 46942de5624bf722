//! A good service with children that ignore SIGTERM, one of them in a session of its own: `--leaves` them behind.

use nix::sys::signal::Signal;

use crate::http::{Manner, Server};
use crate::{Options, os};

pub(crate) fn main(options: &Options) {
    let signals = os::hold_stop_signals();
    let listeners = os::inherited().into_iter().map(|(_, fd)| fd).collect();
    let mut server = Server::start(listeners, Manner::of(options));
    let children = [os::spawn(&["sleeper", "--stubborn"]), os::spawn(&["sleeper", "--stubborn", "--session"])];
    os::notify("READY=1");
    signals.wait().expect("signals can be waited for");
    drop(server.stop());
    server.drain();
    drop(children);
}

/// Sleeps until somebody ends it. `--stubborn`: not by SIGTERM. `--session`: in a session of its own.
pub(crate) fn sleeper(options: &Options) {
    if options.has("--session") {
        nix::unistd::setsid().expect("it leads no group");
    }
    if options.has("--stubborn") {
        os::ignore(Signal::SIGTERM);
    } else {
        // Whoever started it may hold its own signals, and that is inherited.
        nix::sys::signal::SigSet::all().thread_unblock().expect("signals can be unblocked");
    }
    os::hang();
}
