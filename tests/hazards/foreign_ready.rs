//! A good service that, once it runs, claims that every other instance is ready: READY=1 on each notify socket beside
//! its own, again and again.

use std::path::Path;
use std::time::Duration;

use crate::http::{Manner, Server};
use crate::{Options, os};

pub(crate) fn main(options: &Options) {
    let signals = os::hold_stop_signals();
    let listeners = os::inherited().into_iter().map(|(_, fd)| fd).collect();
    let mut server = Server::start(listeners, Manner::of(options));
    os::notify("READY=1");
    std::thread::spawn(|| {
        let own = std::env::var("NOTIFY_SOCKET").expect("it was started with one");
        let beside = Path::new(&own).parent().expect("it lies in a directory").to_owned();
        loop {
            for entry in std::fs::read_dir(&beside).into_iter().flatten().flatten() {
                let path = entry.path().display().to_string();
                if path != own && os::notify_to(&path, b"READY=1\nSTATUS=I am somebody else").is_ok() {
                    println!("claimed that {path} is ready");
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    signals.wait().expect("signals can be waited for");
    drop(server.stop());
    server.drain();
}
