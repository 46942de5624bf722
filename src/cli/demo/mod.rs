//! `zdsup demo`: a real supervisor, a real service, a real load, and ten upgrades, three of them bad on purpose.
//!
//! Everything is done as a user would do it: the supervisor is a process of its own (`zdsup run -c FILE`), each
//! upgrade is a `zdsup reload` that is waited for, and no request that the clients make is left out of the sum.
//! It happens in a private directory on a port of 127.0.0.1, and nothing of it is left afterwards.
//!
//! `stage` is the directory and the supervisor, `upgrade` one reload, `service` the server that is upgraded, `screen`
//! what moves while it runs, `render` what stays.

use std::net::SocketAddr;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::failure::Failure;
use super::terminal::Style;
use crate::exit::Exit;
use crate::load::{Load, Plan, Report, Running, Target};
use screen::Screen;
use stage::Stage;
use upgrade::Outcome;

mod render;
mod screen;
pub mod service;
mod stage;
mod upgrade;

/// `zdsup demo` takes no arguments.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct DemoArgs {}

/// What is wrong with a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    NeverReady,
    Crash,
    NotExecutable,
}

/// One release: what its service answers with, and what is wrong with it.
#[derive(Clone, Copy, Debug)]
struct Release {
    name: &'static str,
    fault: Fault,
}

/// What runs first.
const FIRST: Release = Release { name: "v1", fault: Fault::None };

/// What it is upgraded to, one after the other.
const RELEASES: [Release; 10] = [
    Release { name: "v2", fault: Fault::None },
    Release { name: "v3", fault: Fault::None },
    Release { name: "v4", fault: Fault::NeverReady },
    Release { name: "v5", fault: Fault::None },
    Release { name: "v6", fault: Fault::None },
    Release { name: "v7", fault: Fault::Crash },
    Release { name: "v8", fault: Fault::None },
    Release { name: "v9", fault: Fault::NotExecutable },
    Release { name: "v10", fault: Fault::None },
    Release { name: "v11", fault: Fault::None },
];

/// Clients that make a connection for each request.
const CLIENTS_NEW: usize = 4;

/// Clients that keep their connection.
const CLIENTS_KEEP_ALIVE: usize = 4;

/// Each client's pause after a request.
const CLIENT_PAUSE: Duration = Duration::from_millis(2);

/// How long there is load alone: before the first upgrade, between two, and after the last.
const CALM: Duration = Duration::from_millis(500);

/// How often the counters on the screen move.
const TICK: Duration = Duration::from_millis(80);

/// Runs it.
///
/// # Errors
/// When the stage cannot be set: no directory, no supervisor. What the demo itself finds is in the exit code:
/// [`Exit::Failed`] if a request failed, or an upgrade did not end as it must.
pub fn run(_: &DemoArgs) -> Result<Exit, Failure> {
    let interrupt = Interrupt::watch()?;
    let screen = Screen::new();
    let style = Style::of(&std::io::stdout());
    let stage = Stage::set(FIRST, &interrupt)?;
    let address = stage.address(&interrupt)?;

    screen.lines(&render::opening(address, CLIENTS_NEW + CLIENTS_KEEP_ALIVE, RELEASES.len(), style))?;
    let load = start_load(address)?;
    let outcomes = upgrades(&stage, &load, &screen, style, &interrupt);
    screen.end();
    let report = load.stop();
    let ended = stage.end();

    let outcomes = outcomes.map_err(|failure| match failure.exit {
        Exit::Interrupted => {
            let so_far = render::counted(report.total, report.failed());
            Failure::new(Exit::Interrupted, format!("interrupted; {so_far} until then"))
        }
        _ => failure,
    })?;
    let windows: Vec<Range<Instant>> = outcomes.iter().map(|outcome| outcome.window.clone()).collect();
    screen.lines(&render::closing(&report, &report.split(&windows), &outcomes, style))?;
    ended?;
    let good = report.failed() == 0
        && outcomes.iter().all(Outcome::is_as_it_must)
        && answered_otherwise(&report, &outcomes).is_empty();
    Ok(if good { Exit::Done } else { Exit::Failed })
}

/// Does the work of one of the demo's own processes if this process was started as one; else gives `None`.
#[must_use]
pub fn main_if_part() -> Option<ExitCode> {
    let mut args = std::env::args_os().skip(1);
    let part = args.next()?;
    if part == service::ARGUMENT {
        Some(service::main())
    } else if part == stage::ARGUMENT {
        Some(stage::main(args))
    } else {
        None
    }
}

fn start_load(address: SocketAddr) -> Result<Running, Failure> {
    let plan = Plan {
        threads_new: CLIENTS_NEW,
        threads_keep_alive: CLIENTS_KEEP_ALIVE,
        pause_between: CLIENT_PAUSE,
        ..Plan::default()
    };
    Ok(Load::start(Target::Tcp(address), plan)?)
}

fn upgrades(
    stage: &Stage,
    load: &Running,
    screen: &Screen,
    style: Style,
    interrupt: &Interrupt,
) -> Result<Vec<Outcome>, Failure> {
    let mut outcomes = Vec::with_capacity(RELEASES.len());
    calm(load, screen, FIRST, interrupt)?;
    let mut serving = FIRST;
    for release in RELEASES {
        let outcome = upgrade::to(release, stage, interrupt, &mut |step| {
            screen.progress(&format!("to {}: {step}", release.name), load);
        })?;
        if outcome.is_good() {
            serving = release;
        }
        outcomes.push(outcome);
        if let Some(outcome) = outcomes.last() {
            screen.lines(&render::row(outcomes.len(), outcome, serving.name, style))?;
        }
        screen.done(outcomes.len());
        calm(load, screen, serving, interrupt)?;
    }
    Ok(outcomes)
}

/// Releases that answered no client although they went live, or some although they did not.
fn answered_otherwise(report: &Report, outcomes: &[Outcome]) -> Vec<&'static str> {
    let answers = report.answers();
    let otherwise = outcomes.iter().filter(|outcome| answers.contains_key(outcome.release.name) != outcome.is_good());
    otherwise.map(|outcome| outcome.release.name).collect()
}

/// Nothing but load.
fn calm(load: &Running, screen: &Screen, serving: Release, interrupt: &Interrupt) -> Result<(), Failure> {
    let until = Instant::now() + CALM;
    while Instant::now() < until {
        interrupt.check()?;
        screen.progress(&format!("{} serves", serving.name), load);
        thread::sleep(TICK);
    }
    Ok(())
}

/// Whether somebody wants it to end before it has ended.
#[derive(Clone, Debug)]
struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From here on the signals only set a flag, so that whatever was started is ended in order.
    fn watch() -> Result<Self, Failure> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&flag))?;
        }
        Ok(Self(flag))
    }

    fn check(&self) -> Result<(), Failure> {
        if self.0.load(Ordering::Relaxed) {
            return Err(Failure::new(Exit::Interrupted, "interrupted"));
        }
        Ok(())
    }
}
