//! `zdsup stop`.

use std::time::{Duration, Instant};

use clap::Args;

use super::failure::Failure;
use super::moving::MovingLine;
use super::render::{self, span};
use super::terminal::say;
use super::{Global, block_on, leftovers, over, timeout};
use crate::control::client::{Client, ClientError};
use crate::control::types::{ServiceState, Status, Target};
use crate::exit::Exit;
use crate::sys::pidfd::PidFd;

/// How often it is looked how far things are: at first, and at least. A supervisor that ends cannot tell that it has.
const LOOK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));

#[derive(Debug, Args)]
pub(super) struct StopArgs {
    /// The service; left out, the supervisor with everything in it.
    service: Option<String>,

    /// Return as soon as it drains.
    #[arg(long, conflicts_with = "timeout")]
    no_wait: bool,

    /// How long to wait, such as 30s; stopping goes on after that. With --leftovers, when to kill: 30s.
    #[arg(long, value_name = "TIME", value_parser = timeout, allow_hyphen_values = true)]
    timeout: Option<Duration>,

    /// End the processes of a supervisor that is gone.
    ///
    /// Each is told by SIGTERM, and killed when the time is over. What the supervisor has left in its runtime directory
    /// is removed. Refused where a supervisor lives, or is about to be started again.
    #[arg(long, conflicts_with_all = ["service", "no_wait"])]
    leftovers: bool,

    /// Only if systemd stops this unit, and its supervisor could not end everything; for ExecStopPost=.
    ///
    /// Nothing is ended when the unit is restarted, or started again by itself. Cgroup controllers that are enabled
    /// below the unit are disabled: systemd could not start it again.
    #[arg(long, value_name = "UNIT", requires = "leftovers")]
    if_stopping: Option<String>,
}

pub(super) fn run(global: &Global, args: StopArgs) -> Result<Exit, Failure> {
    if args.leftovers {
        return leftovers::run(global, args.timeout, args.if_stopping.as_deref());
    }
    let mut client = global.client()?;
    block_on(async {
        let began = Instant::now();
        let mut confirmed = false;
        let (exit, why) = tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => (Exit::Interrupted, "interrupted".to_owned()),
            () = over(args.timeout) => (Exit::TimedOut, format!("after {}", span(began.elapsed().as_secs_f64()))),
            ended = stop(&mut client, &args, &mut confirmed) => return ended,
        };
        if !confirmed {
            return Err(Failure::new(exit, format!("{why}: the supervisor had not confirmed the request")));
        }
        let failure = Failure::new(exit, format!("{why}: stopping goes on"));
        Err(failure.hint(Some("`zdsup status` shows how far it is, `zdsup stop` again ends everything at once")))
    })?
}

async fn stop(client: &mut Client, args: &StopArgs, confirmed: &mut bool) -> Result<Exit, Failure> {
    let before = client.status().await?.supervisor.pid;
    let process = client.supervisor().filter(|_| args.service.is_none()).and_then(|pid| PidFd::open(pid).ok());
    match client.stop(&Target { service: args.service.clone() }).await {
        Ok(done) => {
            *confirmed = true;
            say(&done.message);
        }
        // With nothing left to drain it may end before it has answered: the first look will tell.
        Err(ClientError::Cut) if args.service.is_none() => {}
        Err(error) => return Err(error.into()),
    }
    if args.no_wait {
        return Ok(Exit::Done);
    }
    let line = MovingLine::new(true);
    let mut pause = LOOK.0;
    loop {
        match client.status().await {
            Ok(status) if has_stopped(&status, before, args.service.as_deref()) => break,
            Ok(status) if !*confirmed && !status.supervisor.stopping => return Err(ClientError::Cut.into()),
            Ok(status) => {
                if let Some(line) = &line {
                    line.set(format!("draining {}", render::draining(&status)));
                    line.tick();
                }
            }
            Err(ClientError::NotRunning(_)) => break,
            // It ends just now, or is too busy with that: the next look will tell.
            Err(ClientError::Cut | ClientError::NoAnswer) => {}
            Err(error) if error.is_for_now() => {}
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(pause).await;
        pause = LOOK.1.min(pause * 2);
    }
    // Only when its process is gone can another take its place.
    while process.as_ref().is_some_and(|process| !process.has_exited()) {
        tokio::time::sleep(LOOK.0).await;
    }
    if let Some(line) = line {
        line.clear();
    }
    say("stopped");
    Ok(Exit::Done)
}

/// Whether what was to stop has stopped. Another supervisor in its place means that it has.
fn has_stopped(status: &Status, before: u32, service: Option<&str>) -> bool {
    let Some(service) = service else { return status.supervisor.pid != before };
    let services = status.services.iter().filter(|one| one.name == service);
    services.map(|one| one.state).all(|state| state == ServiceState::Stopped)
}
