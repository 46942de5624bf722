//! Serves, and lets a short-lived process say that it is ready, as a shell script with systemd-notify does.

use crate::http::{Manner, Server};
use crate::{Options, os};

pub(crate) fn main(options: &Options) {
    let signals = os::hold_stop_signals();
    let listeners = os::inherited().into_iter().map(|(_, fd)| fd).collect();
    let mut server = Server::start(listeners, Manner::of(options));
    os::spawn(&["says", "--text", "READY=1"]).wait().expect("it ends");
    signals.wait().expect("signals can be waited for");
    drop(server.stop());
    server.drain();
}

/// Says `--text` on the notify socket, `--to` another one, and ends.
pub(crate) fn says(options: &Options) {
    let text = options.text("--text").expect("--text TEXT").replace("\\n", "\n");
    match options.text("--to") {
        Some(path) => os::notify_to(path, text.as_bytes()).expect("it can be sent"),
        None => os::notify(&text),
    }
}
