//! The machine alone. `instance` has the table of one process, `upgrade` the scenes of one
//! upgrade, `strategies` those of each way to do it, `several` those of several services, `pause` those of a pause, `random`
//! compares the machine with a small independent model over random orders of events.

use std::time::Duration;

use super::*;

mod instance;
mod pause;
mod random;
mod several;
mod strategies;
mod upgrade;

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn policy() -> Policy {
    Policy {
        instances: 1,
        readiness: Readiness::Reported,
        ready_timeout: secs(30),
        soak: Duration::ZERO,
        watchdog: None,
        drain_timeout: secs(30),
        drain_spread: Duration::ZERO,
        max_draining: 5,
        backoff: Backoff { min: millis(100), max: secs(30) },
        give_up_after: 10,
        strategy: Strategy::Overlap,
        health: false,
        hooks: Hooks::default(),
        keep_releases: 0,
    }
}
