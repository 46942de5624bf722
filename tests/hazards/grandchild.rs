//! A good service that leaves a process behind which holds its listeners: no parent, no session, no environment of ours.

use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use crate::http::{Manner, Server};
use crate::{Options, os};

pub(crate) fn main(options: &Options) {
    let signals = os::hold_stop_signals();
    let listeners: Vec<_> = os::inherited().into_iter().map(|(_, fd)| fd).collect();
    for listener in &listeners {
        os::leak_to_children(listener.as_fd());
    }
    let program = std::env::current_exe().expect("this program has a path");
    let mut grandchild = Command::new(program);
    grandchild.args(["sleeper", "--stubborn", "--session"]).stdin(Stdio::null()).stdout(Stdio::null());
    grandchild.stderr(Stdio::null());
    if options.has("--clean-environment") {
        grandchild.env_clear();
    }
    drop(grandchild.spawn().expect("this program can be started"));
    let mut server = Server::start(listeners, Manner::of(options));
    os::notify("READY=1");
    signals.wait().expect("signals can be waited for");
    drop(server.stop());
    server.drain();
}
