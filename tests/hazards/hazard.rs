//! Programs that behave as services in the wild do, well and badly: `hazard NAME [--OPTION [VALUE]]...`.
//!
//! They know the protocols from their documents and share no code with what they test. Each is one file; what they
//! have in common is `os` (descriptors, signals, notify) and `http` (a small server with a graceful end).

#![expect(unsafe_code, reason = "inherited descriptors and raw signals are what these programs are about")]

mod http;
mod os;

mod chatty;
mod exits;
mod floods_notify;
mod foreign_ready;
mod forks_away;
mod forks_children;
mod grandchild;
mod hangs_drain;
mod ignores_term;
mod late_notify;
mod later;
mod main_pid;
mod namespace;
mod never_ready;
mod nonblock;
mod ready_then_dies;
mod report;
mod segfault;
mod serve;
mod shutdown_shared;
mod slow_handler;
mod sockets;
mod stores;
mod unlinks_path;
mod watchdog;

type Program = fn(&Options);

/// A program by its name.
const PROGRAMS: &[(&str, Program)] = &[
    ("serve", serve::main),
    ("sockets", sockets::main),
    ("report", report::main),
    ("never-ready", never_ready::main),
    ("exits", exits::main),
    ("segfault", segfault::main),
    ("forks-away", forks_away::main),
    ("ready-then-dies", ready_then_dies::main),
    ("shutdown-shared", shutdown_shared::main),
    ("nonblock-flip", nonblock::main),
    ("unlinks-path", unlinks_path::main),
    ("ignores-term", ignores_term::main),
    ("forks-children", forks_children::main),
    ("grandchild-holds-port", grandchild::main),
    ("sleeper", forks_children::sleeper),
    ("late-notify", late_notify::main),
    ("says", late_notify::says),
    ("foreign-ready", foreign_ready::main),
    ("floods-notify", floods_notify::main),
    ("chatty", chatty::main),
    ("slow-handler", slow_handler::main),
    ("hangs-drain", hangs_drain::main),
    ("later", later::main),
    ("main-pid", main_pid::main),
    ("watchdog", watchdog::main),
    ("namespace", namespace::main),
    ("stores", stores::main),
];

fn main() {
    let mut words = std::env::args().skip(1);
    let name = words.next().unwrap_or_default();
    let Some((_, program)) = PROGRAMS.iter().find(|(known, _)| *known == name) else {
        eprintln!("hazard: no such program: {name:?}");
        std::process::exit(64);
    };
    program(&Options(words.collect()));
}

/// `--NAME VALUE` pairs and `--NAME` alone.
struct Options(Vec<String>);

impl Options {
    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|word| word == name)
    }

    fn text(&self, name: &str) -> Option<&str> {
        let place = self.0.iter().position(|word| word == name)?;
        self.0.get(place + 1).map(String::as_str)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name).map(|text| text.parse().unwrap_or_else(|_| panic!("{name} takes a number, not {text:?}")))
    }

    /// Milliseconds.
    fn span(&self, name: &str) -> Option<std::time::Duration> {
        self.number(name).map(std::time::Duration::from_millis)
    }
}
