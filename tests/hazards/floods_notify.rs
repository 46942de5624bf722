//! A good service that says something all the time, as fast as it can, on several threads.

use crate::http::{Manner, Server};
use crate::{Options, os};

pub(crate) fn main(options: &Options) {
    let signals = os::hold_stop_signals();
    let listeners = os::inherited().into_iter().map(|(_, fd)| fd).collect();
    let mut server = Server::start(listeners, Manner::of(options));
    os::notify("READY=1");
    for _ in 0..2 {
        std::thread::spawn(|| {
            let junk = [b'x'; 5000];
            let path = std::env::var("NOTIFY_SOCKET").expect("it was started with one");
            for count in 0_u64.. {
                let _ = os::notify_to(&path, format!("STATUS={count}\nWATCHDOG=1").as_bytes());
                if count % 64 == 0 {
                    let _ = os::notify_to(&path, &junk);
                    let _ = os::notify_to(&path, b"\0\xff=\n\n==\nREADY");
                }
            }
        });
    }
    signals.wait().expect("signals can be waited for");
    drop(server.stop());
    server.drain();
}
