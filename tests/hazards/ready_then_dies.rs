//! Serves, says that it is ready, and dies soon after: `--after MS`, `--signal` (SIGSEGV rather than exit status 1).

use nix::sys::signal::Signal;

use crate::http::{Manner, Server};
use crate::{Options, os};

pub(crate) fn main(options: &Options) {
    let listeners = os::inherited().into_iter().map(|(_, fd)| fd).collect();
    // It accepts nothing where the test is about what the old generation serves.
    let _server = options.has("--serves").then(|| Server::start(listeners, Manner::of(options)));
    os::notify("READY=1");
    println!("ready");
    std::thread::sleep(options.span("--after").unwrap_or_default());
    eprintln!("the cache is corrupt");
    if options.has("--signal") {
        os::die_by(Signal::SIGSEGV);
    }
    std::process::exit(1);
}
