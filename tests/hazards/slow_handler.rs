//! Says that it is ready before it has a handler for its stop signal: `--after MS` it has one, `--never` none.

use crate::http::{Manner, Server};
use crate::{Options, os};

pub(crate) fn main(options: &Options) {
    let listeners = os::inherited().into_iter().map(|(_, fd)| fd).collect();
    if options.has("--never") {
        let _server = Server::start(listeners, Manner::of(options));
        os::notify("READY=1");
        os::hang();
    }
    // Everything before its handler takes a while: a signal in this time would kill it.
    std::thread::sleep(options.span("--after").unwrap_or_default());
    let signals = os::hold_stop_signals();
    let mut server = Server::start(listeners, Manner::of(options));
    os::notify("READY=1");
    signals.wait().expect("signals can be waited for");
    drop(server.stop());
    server.drain();
}
