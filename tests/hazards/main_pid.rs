//! Names other processes as its main one: `--child` one of its own, which then serves; else some that are not its own,
//! `--foreign PID` among them.

use crate::http::{Manner, Server};
use crate::{Options, os};

pub(crate) fn main(options: &Options) {
    let signals = os::hold_stop_signals();
    let listeners = os::inherited().into_iter().map(|(_, fd)| fd).collect();
    let mut server = Server::start(listeners, Manner::of(options));
    let mut child = options.has("--child").then(|| os::spawn(&["sleeper"]));
    match &child {
        Some(child) => os::notify(&format!("MAINPID={}\nREADY=1", child.id())),
        None => {
            let parent = std::os::unix::process::parent_id();
            let foreign = options.text("--foreign").unwrap_or("1");
            for pid in ["1", "0", "-1", "4194305", "many", &parent.to_string(), foreign] {
                os::notify(&format!("MAINPID={pid}"));
            }
            os::notify("READY=1");
        }
    }
    if let Some(child) = &mut child {
        // Now the child is the one that is told to stop; this one follows it.
        child.wait().expect("it ends");
    } else {
        signals.wait().expect("signals can be waited for");
    }
    drop(server.stop());
    server.drain();
}
