//! zdsup under a real systemd: the unit template as installed, under load, with good and with bad releases.
//!
//! Each test boots a machine of its own (see [`machine`]); without root or systemd the tests say that they were
//! skipped, and why.

mod adoption;
mod cgroups;
mod crash;
mod deaths;
mod harness;
mod leftovers;
mod logs;
mod machine;
mod packaging;
mod protocol;
mod release;
mod reload;
mod services;
mod shell;
mod sockets;
mod start;
mod stop;
