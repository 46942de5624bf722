//! Sets O_NONBLOCK on the shared listeners as it starts, and dies without ever getting ready: `--ready` lives on.

use crate::{Options, os};

pub(crate) fn main(options: &Options) {
    let signals = os::hold_stop_signals();
    let listeners = os::inherited();
    for (_, listener) in &listeners {
        os::set_nonblocking(listener, true);
    }
    if options.has("--ready") {
        os::notify("READY=1");
        signals.wait().expect("signals can be waited for");
        return;
    }
    std::process::exit(1);
}
