//! A process supervisor that upgrades any network service without a client noticing, and the library for services.
//!
//! The `zdsup` program owns a service's listening sockets, starts the new release beside the old one with the sockets
//! inherited, waits until the new one proves that it is ready, tells the old one to finish, and ends it. If the new one
//! fails at any point, the old one has never stopped serving. README.md shows how to use it, ARCHITECTURE.md how it is
//! made.
//!
//! **For services:** [`service`] is the only public interface of this crate, and all that is left of it without its
//! default features. The rest is the program: public so that `main.rs`, the tests and the benchmarks can reach it,
//! hidden because it may change in any version.
//!
//! # What the program promises
//! 1. A listener stays bound and listening from its first bind until the config drops it, whatever happens to the
//!    processes that use it.
//! 2. Until a candidate is ready and has lived through its soak, nothing is done to the serving generation.
//! 3. At most one upgrade of a service is in flight; requests that arrive meanwhile share the next.
//! 4. A process is signalled through its pidfd; its group by number only while its leader is unreaped.
//! 5. Every wait has a deadline. Every upgrade ends in exactly one verdict, with a reason a person can act on.
//! 6. No resource grows with the number of upgrades.
//! 7. Bad input gets an error that names the place, and changes nothing.
//!
//! # The code, from the top down; each depends only on those below it
//! - `main.rs`: the shim that becomes a service, the keeper, the parts of the demo, else the command line.
//! - `exit`: the exit codes, in one place.
//! - `cli`: a file for each command; rendering.
//! - `supervisor`: the shell, the only place that holds both `core` and `sys`.
//! - `keeper`: the small parent that restarts a supervisor without systemd, and holds its descriptors meanwhile.
//! - `control`: HTTP/1.1 and JSON over the control socket: types, server, client.
//! - `history`: what became of every upgrade, in a file that outlives the supervisor.
//! - `config`: a file or flags, to a `Config` that cannot be invalid.
//! - `notify`: datagram bytes to messages.
//! - `core`: the state machine of an upgrade. Pure: no clock, no descriptors, no pids.
//! - `sys`: system calls; the only unsafe code of the program.
//! - [`service`]: the library for services.
//! - `load`: a load client that accounts for every request, for the demo, the tests and the benchmarks.

pub mod service;

#[cfg(feature = "supervisor")]
#[doc(hidden)]
pub mod cli;
#[cfg(feature = "supervisor")]
#[doc(hidden)]
pub mod config;
#[cfg(feature = "supervisor")]
#[doc(hidden)]
pub mod control;
#[cfg(feature = "supervisor")]
#[doc(hidden)]
pub mod core;
#[cfg(feature = "supervisor")]
#[doc(hidden)]
pub mod exit;
#[cfg(feature = "supervisor")]
#[doc(hidden)]
pub mod history;
#[cfg(feature = "supervisor")]
#[doc(hidden)]
pub mod keeper;
#[cfg(feature = "supervisor")]
#[doc(hidden)]
pub mod load;
#[cfg(feature = "supervisor")]
#[doc(hidden)]
pub mod notify;
#[cfg(feature = "supervisor")]
#[doc(hidden)]
pub mod supervisor;
#[cfg(feature = "supervisor")]
#[doc(hidden)]
#[expect(unsafe_code, reason = "the one place where unsafe code lives")]
pub mod sys;
#[cfg(feature = "supervisor")]
mod text;
