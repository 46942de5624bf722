//! Becomes a daemon, as old programs do: the process that was started ends at once, another goes on.

use crate::{Options, os};

pub(crate) fn main(_: &Options) {
    println!("going to the background");
    // Not waited for: that is the point.
    drop(os::spawn(&["sleeper"]));
}
