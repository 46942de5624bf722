//! A good service that prints as fast as it can, on both streams; `--binary` prints what is no text, without lines.

use std::io::Write;

use crate::http::{Manner, Server};
use crate::{Options, os};

pub(crate) fn main(options: &Options) {
    let signals = os::hold_stop_signals();
    let listeners = os::inherited().into_iter().map(|(_, fd)| fd).collect();
    let mut server = Server::start(listeners, Manner::of(options));
    os::notify("READY=1");
    let line: Vec<u8> = if options.has("--binary") {
        (0..=255).filter(|byte| *byte != b'\n').cycle().take(64 * 1024).collect()
    } else {
        b"a line that nobody reads, again and again and again and again\n".to_vec()
    };
    let other = line.clone();
    std::thread::spawn(move || while std::io::stdout().write_all(&line).is_ok() {});
    std::thread::spawn(move || while std::io::stderr().write_all(&other).is_ok() {});
    signals.wait().expect("signals can be waited for");
    drop(server.stop());
    server.drain();

    // Without waiting for the locks that the printing threads hold.
    os::exit_now();
}
