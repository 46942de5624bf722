//! Traffic that is steered, end to end: real processes in slots of their own. Who answers is counted, and no request may
//! fail but those that the exception names: what a canary's own process had taken when it crashed.

mod callers;
mod hazards;
mod releases;
mod shares;
mod survival;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread::ScopedJoinHandle;

use nix::sys::signal::Signal;
use zdsup::control::types::{GenerationState, Status, Verdict};

use crate::support::client::{Answer, Connection};
use crate::support::supervisor::{Reload, generation};
use crate::support::{Place, Setup, Zdsup, process};

/// How many processes a service has here.
const INSTANCES: usize = 3;

/// A service of several processes, each in slots of its own, that serves. `upgrade`: its table of that name.
fn steered(words: &[&str], upgrade: &[&str]) -> Zdsup {
    steered_with(words, upgrade, |_, _| {})
}

fn steered_with(words: &[&str], upgrade: &[&str], adjust: impl FnOnce(&mut Setup, &Place)) -> Zdsup {
    let z = Zdsup::serving_with(words, |setup, place| {
        setup.service = vec!["traffic = \"steered\"".into(), format!("instances = {INSTANCES}")];
        setup.upgrade = lines(upgrade);
        setup.restart = vec!["backoff = \"50ms..200ms\"".into()];
        adjust(setup, place);
    });
    z.wait_for("all of it is ready", |status| pids(status, 1).len() == INSTANCES);
    z
}

fn lines(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A canary with these steps, percent and milliseconds.
fn canary(steps: &[(u32, u64)], more: &str) -> Vec<String> {
    let step = |(weight, hold): &(u32, u64)| format!("{{ weight = {weight}, hold = \"{hold}ms\" }}");
    let steps: Vec<String> = steps.iter().map(step).collect();
    vec!["strategy = \"canary\"".into(), format!("canary = {{ steps = [{}]{more} }}", steps.join(", "))]
}

/// A canary that stays at this share until somebody ends it.
fn canary_at(weight: u32) -> Vec<String> {
    canary(&[(weight, 600_000)], "")
}

/// The processes of a generation that are ready.
fn pids(status: &Status, number: u64) -> Vec<u32> {
    let instances = generation(status, number).into_iter().flat_map(|generation| &generation.instances);
    let ready = |instance: &&zdsup::control::types::InstanceStatus| {
        serde_json::to_value(instance.state).is_ok_and(|state| state == "ready")
    };
    instances.filter(ready).filter_map(|instance| instance.pid).collect()
}

impl Zdsup {
    /// Waits until the candidate has the share of a canary's step.
    #[track_caller]
    fn is_canary(&self, number: u64) -> Status {
        self.wait_for("the canary has its share", |status| {
            let holds = |step: &str| ["weighted", "awaiting-promotion"].contains(&step);
            let weighted = status.services[0].upgrade.as_ref().is_some_and(|upgrade| holds(&upgrade.step));
            weighted && generation(status, number).is_some_and(|one| one.state == GenerationState::Canary)
        })
    }

    /// `zdsup abort`, and what the reload that it ends says.
    #[track_caller]
    fn abort(&self, reload: ScopedJoinHandle<'_, Reload>) -> Reload {
        let aborted = self.supervisor.run(&["abort"]);
        assert!(aborted.status.success(), "{aborted:?}");
        reload.join().expect("it does not panic").is(Verdict::Aborted)
    }

    /// Waits until only this generation is left, whole.
    #[track_caller]
    fn whole(&self, number: u64) -> Status {
        self.wait_for(&format!("only web@{number} is left, with all of its processes"), |status| {
            let service = &status.services[0];
            service.serving == Some(number)
                && service.generations.len() == 1
                && service.generations[0].instances.len() == INSTANCES
                && pids(status, number).len() == INSTANCES
        })
    }
}

/// What is done while a reload goes on. One that a panic leaves behind is aborted: it might go on for ever.
fn during<T>(z: &Zdsup, work: impl FnOnce(ScopedJoinHandle<'_, Reload>) -> T) -> T {
    std::thread::scope(|scope| {
        let reload = scope.spawn(|| z.reload(&[]));
        catch_unwind(AssertUnwindSafe(|| work(reload))).unwrap_or_else(|panic| {
            // Whatever it says, the test has failed.
            z.supervisor.run(&["abort"]);
            resume_unwind(panic)
        })
    })
}

/// Which process of which generation answered how many of so many requests, each over a connection of its own.
fn draw(address: SocketAddr, count: usize) -> BTreeMap<(u64, u32), usize> {
    const CLIENTS: usize = 4;
    let ask = || -> Vec<(u64, u32)> { (0..count / CLIENTS).map(|_| who(&ask_once(address))).collect() };
    let answers: Vec<(u64, u32)> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(ask)).collect();
        clients.into_iter().flat_map(|client| client.join().expect("every request is answered")).collect()
    });
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer).or_default() += 1;
    }
    counts
}

fn ask_once(address: SocketAddr) -> Answer {
    Connection::tcp(address).and_then(|mut one| one.get("/")).expect("it answers").expect("it answers")
}

/// The generation and the process.
fn who(answer: &Answer) -> (u64, u32) {
    (answer.generation(), answer.value("pid").and_then(|pid| pid.parse().ok()).expect("it says which it is"))
}

/// The answers of each generation.
fn by_generation(counts: &BTreeMap<(u64, u32), usize>) -> BTreeMap<u64, usize> {
    let mut sums = BTreeMap::new();
    for ((generation, _), count) in counts {
        *sums.entry(*generation).or_default() += count;
    }
    sums
}

/// Whether a count is within the interval that a binomial one is in with a probability of 99.9 %.
fn within_binomial(count: usize, of: usize, share: f64) -> bool {
    let of = of as f64;
    (count as f64 - of * share).abs() <= 3.2905 * (of * share * (1.0 - share)).sqrt() + 0.5
}

/// Ends a process that serves, from one moment to the next.
fn crash(pid: u32) {
    process::kill(pid, Signal::SIGKILL);
}
