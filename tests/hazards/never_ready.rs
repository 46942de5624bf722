//! Runs, prints something, and never gets ready. `--serves`: answers requests all the same.

use crate::http::{Manner, Server};
use crate::{Options, os};

pub(crate) fn main(options: &Options) {
    println!("waiting for the database");
    os::notify("STATUS=waiting for the database");
    let signals = os::hold_stop_signals();
    let listeners = os::inherited().into_iter().map(|(_, fd)| fd).collect();
    let mut server = options.has("--serves").then(|| Server::start(listeners, Manner::of(options)));
    signals.wait().expect("signals can be waited for");
    if let Some(server) = &mut server {
        drop(server.stop());
        server.drain();
    }
}
