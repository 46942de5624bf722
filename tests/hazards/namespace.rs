//! The first process of a process namespace: starts the command after `--`, and does as it is told on its standard
//! input. `take N`: starts a process that gets the number N, and says `taken`. `look`: says whether that process is
//! `alive`. The end of the input is the end of everything in the namespace.

use std::io::Write;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use crate::{Options, os};

const LAST: &str = "/proc/sys/kernel/ns_last_pid";

pub(crate) fn main(options: &Options) {
    let mut words = options.0.iter().skip_while(|word| *word != "--").skip(1);
    let mut command = Command::new(words.next().expect("a command after --"));
    let mut child = command.args(words).stdin(Stdio::null()).spawn().expect("the command can be started");
    let mut innocent = None;
    for line in std::io::stdin().lines() {
        let line = line.expect("the input is text");
        match line.split_once(' ') {
            Some(("take", number)) => {
                innocent = take(number.parse().expect("a number"));
                println!("{}", if innocent.is_some() { "taken" } else { "missed" });
            }
            None if line == "look" => {
                let dead = innocent.as_mut().and_then(|one: &mut Child| one.try_wait().ok().flatten());
                println!("{}", dead.map_or_else(|| "alive".to_owned(), |status| status.to_string()));
            }
            _ => println!("what?"),
        }
        std::io::stdout().flush().expect("somebody listens");
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// A process with this number, in a group and a session of its own.
fn take(number: u32) -> Option<Child> {
    for _ in 0..500 {
        std::fs::write(LAST, (number - 1).to_string()).expect("the next number can be chosen");
        let mut child = os::spawn(&["sleeper", "--session"]);
        if child.id() == number {
            return Some(child);
        }
        os::signal(child.id(), Signal::SIGKILL);
        let _ = child.wait();
    }
    None
}
