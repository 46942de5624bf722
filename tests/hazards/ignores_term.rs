//! Serves, and ignores the signal that tells it to stop. `--no-ready`: it does not say that it is ready either.
//! `--idle`: it accepts nothing.

use nix::sys::signal::Signal;

use crate::http::{Manner, Server};
use crate::{Options, os};

pub(crate) fn main(options: &Options) {
    os::ignore(Signal::SIGTERM);
    let listeners = os::inherited().into_iter().map(|(_, fd)| fd).collect();
    let _server = (!options.has("--idle")).then(|| Server::start(listeners, Manner::of(options)));
    if !options.has("--no-ready") {
        os::notify("READY=1");
    }
    os::hang();
}
