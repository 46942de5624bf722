//! Dies by SIGSEGV before it is ready.

use nix::sys::signal::Signal;

use crate::{Options, os};

pub(crate) fn main(_: &Options) {
    println!("about to follow a null pointer");
    os::die_by(Signal::SIGSEGV);
}
