//! For services: everything that a program needs to be upgraded without a client noticing.
//!
//! This is all that is left of the crate without its default features; it then depends on libc alone:
//!
//! ```toml
//! zdsup = { version = "0.1", default-features = false }                        # std types
//! zdsup = { version = "0.1", default-features = false, features = ["tokio"] }  # and tokio types and futures
//! ```
//!
//! It speaks systemd's protocols (sd_listen_fds(3), sd_notify(3)), so a service that uses it runs under systemd as
//! well. Started by hand it binds its own listeners and tells nobody that it is ready; nothing else changes.
//!
//! # The five things a service does
//! 1. It watches for its stop signal from the start: [`Shutdown::install`].
//! 2. It takes its listeners instead of binding them: [`Listeners::take`].
//! 3. It says when it is ready, after everything that can fail and that takes time: [`ready`].
//! 4. When it is told to stop it goes on for a [`LameDuck`] time in which each answer ends its connection.
//! 5. Then it finishes what it has begun, and exits.
//!
//! ```no_run
//! use std::io::{BufRead, BufReader, Write};
//! use std::thread;
//! use std::time::Duration;
//! use zdsup::service::{self, LameDuck, Listeners, Shutdown};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let shutdown = Shutdown::install()?;
//!     let http = Listeners::take()?.tcp_or_bind("http", "127.0.0.1:8080")?;
//!     let duck = LameDuck::new(&shutdown, Duration::from_secs(4));
//!     service::ready()?;
//!
//!     while let Some((stream, _peer)) = duck.accept(&http)? {
//!         let connection = duck.connection();
//!         thread::spawn(move || -> std::io::Result<()> {
//!             let mut reader = BufReader::new(&stream);
//!             // Until the peer closes, or the lame-duck time ends with nothing asked.
//!             while !reader.buffer().is_empty() || connection.await_request(&stream)? {
//!                 let mut line = String::new();
//!                 while reader.read_line(&mut line)? > 2 {
//!                     line.clear();
//!                 }
//!                 if line.is_empty() {
//!                     break;
//!                 }
//!                 let close = connection.is_closing();
//!                 let header = if close { "connection: close\r\n" } else { "" };
//!                 write!(&stream, "HTTP/1.1 200 OK\r\n{header}content-length: 6\r\n\r\nhello\n")?;
//!                 if close {
//!                     break;
//!                 }
//!             }
//!             Ok(())
//!         });
//!     }
//!     service::stopping()?;
//!     duck.wait_idle(Duration::from_secs(25));
//!     Ok(())
//! }
//! ```
//!
//! What lives in its memory passes on to the next generation as well, if it wants that: descriptors that it keeps with the
//! supervisor ([`store()`], [`Listeners::stored`]), and connections with their state, from process to process
//! ([`Handover`]).
//!
//! With hyper or axum see [`LameDuck`]; `examples/` has complete servers, also in other languages.

mod handover;
mod lame_duck;
mod listeners;
mod notify;
#[expect(unsafe_code, reason = "the library without default features has no `sys`: its few system calls are here")]
mod os;
mod shutdown;
mod store;

pub use handover::{Handover, Parcel, Successor};
pub use lame_duck::{Connection, LameDuck, Phase};
#[cfg(feature = "tokio")]
pub use listeners::TokioAccept;
pub use listeners::{Accept, ListenError, Listeners};
pub use notify::{extend_timeout, notify, ping, ready, status, stopping, watchdog};
pub use shutdown::Shutdown;
pub use store::{remove, store};

/// The name of this process, such as `web@3.1`; `None` when it was not started by zdsup.
///
/// A good thing to have in logs: it says which generation did something.
#[must_use]
pub fn instance() -> Option<String> {
    std::env::var("ZDSUP_INSTANCE").ok()
}

/// The generation of the service that this process belongs to; `None` when it was not started by zdsup.
#[must_use]
pub fn generation() -> Option<u64> {
    std::env::var("ZDSUP_GENERATION").ok()?.parse().ok()
}
