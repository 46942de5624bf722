//! Serves, and says that it lives as often as its watchdog wants (sd_watchdog_enabled(3)), until something is wrong.
//!
//! `--interval MS` (it chooses another watchdog for itself), `--silent` (never says anything), `--silent-when FILE` and
//! `--trigger-when FILE` (once that is there; it takes the file away, so that its successor is well), `--trigger` (at
//! once), `--count FILE` (how often it has said that it lives), `--idle` (it accepts nothing).

use std::time::Duration;

use crate::http::{Manner, Server};
use crate::{Options, os};

pub(crate) fn main(options: &Options) {
    let signals = os::hold_stop_signals();
    let listeners = os::inherited().into_iter().map(|(_, fd)| fd).collect();
    let server = (!options.has("--idle")).then(|| Server::start(listeners, Manner::of(options)));
    let chosen = options.span("--interval");
    if let Some(span) = chosen {
        os::notify(&format!("WATCHDOG_USEC={}", span.as_micros()));
    }
    os::notify("READY=1");
    if options.has("--trigger") {
        os::notify("WATCHDOG=trigger");
    }
    let pause = chosen.or_else(given).map_or(Duration::from_millis(50), |span| span / 4);
    let file = |name| options.text(name).map(str::to_owned);
    let heart = Heart {
        silent: options.has("--silent"),
        silent_when: file("--silent-when"),
        trigger_when: file("--trigger-when"),
        count: file("--count"),
    };
    std::thread::spawn(move || heart.beat(pause));
    signals.wait().expect("signals can be waited for");
    if let Some(mut server) = server {
        drop(server.stop());
        server.drain();
    }
}

struct Heart {
    silent: bool,
    silent_when: Option<String>,
    trigger_when: Option<String>,
    count: Option<String>,
}

impl Heart {
    fn beat(mut self, pause: Duration) {
        let taken = |file: &Option<String>| file.as_ref().is_some_and(|file| std::fs::remove_file(file).is_ok());
        let mut count = 0;
        loop {
            self.silent |= taken(&self.silent_when);
            if taken(&self.trigger_when) {
                os::notify("WATCHDOG=trigger");
            }
            if !self.silent {
                os::notify("WATCHDOG=1");
                count += 1;
                if let Some(file) = &self.count {
                    let draft = format!("{file}.new");
                    std::fs::write(&draft, count.to_string()).expect("it can be written");
                    std::fs::rename(draft, file).expect("it can be put in its place");
                }
            }
            std::thread::sleep(pause);
        }
    }
}

/// The time that is in the environment, if it is meant for this process.
fn given() -> Option<Duration> {
    let variable = |name| std::env::var(name).ok();
    if variable("WATCHDOG_PID").is_some_and(|pid| pid != std::process::id().to_string()) {
        return None;
    }
    variable("WATCHDOG_USEC").map(|usec| Duration::from_micros(usec.parse().expect("WATCHDOG_USEC is a number")))
}
