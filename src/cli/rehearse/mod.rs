//! `zdsup rehearse`: the release that the config names now, tried where nobody is served by it.
//!
//! ```text
//!  rehearse ── reads the config, the environment of the supervisor that runs (meant.rs)
//!     │ lifeline: a pipe                     └─ asked for its status, and nothing else
//!     ▼
//!  a supervisor of its own, in a private directory (stage.rs, supervisor.rs)
//!     └─► the release, on sockets that nobody knows
//! ```
//!
//! - All that a rehearsal does is done by the supervisor that does it in earnest: the first start of a service goes
//!   through the steps of an upgrade ([`FirstFailure::Rehearse`](crate::core::FirstFailure)), its soak is the rehearsal's time.
//! - So is its probe, which asks what is rehearsed as clients would, and whose budget of errors counts.
//! - The supervisor in production has no part in it, so none of its descriptors, processes or memory can be harmed.
//! - The rehearsal ends with this process: when that dies, however it does, the lifeline is closed.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::sync::oneshot;

use super::failure::Failure;
use super::terminal::Style;
use super::upgrade::{Show, keep_moving};
use super::{Global, block_on, render, timeout};
use crate::config::{Address, Service};
use crate::control::client::Client;
use crate::control::types::{SupervisorEvent, Target, UpgradeEvent, Verdict};
use crate::exit::Exit;
use meant::Meant;
use stage::Stage;

mod http;
mod meant;
mod stage;
mod supervisor;

/// How long it lasts where neither the command line nor the soak says.
const SPAN: Duration = Duration::from_secs(5);

/// What the moving line says at the end.
const ENDING: &str = "ending what was rehearsed";

/// The upgrade that it is to its own supervisor.
const UPGRADE: u64 = 1;

/// `zdsup rehearse`.
#[derive(Debug, Args)]
pub struct RehearseArgs {
    /// The service; may be left out where there is one.
    #[arg(value_name = "SERVICE")]
    service: Option<String>,

    /// The config file [default: that of the supervisor that runs].
    ///
    /// No supervisor needs to run then, and the environment is that of this command.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// How long it must stay up once it is ready [default: its soak, or 5s where it has none].
    #[arg(long = "for", value_name = "TIME", value_parser = timeout, allow_hyphen_values = true)]
    span: Option<Duration>,

    /// Ask for this path once a second on its first TCP listener; every answer must be 2xx or 3xx.
    #[arg(long, value_name = "PATH", value_parser = http::path)]
    http: Option<String>,

    /// Print each event as a line of JSON on stdout.
    #[arg(long)]
    json: bool,
}

/// Does the work of the rehearsal's supervisor if this process was started as one; else gives `None`.
#[must_use]
pub fn main_if_supervisor() -> Option<ExitCode> {
    (std::env::args_os().nth(1)? == supervisor::ARGUMENT).then(supervisor::main)
}

pub(super) fn run(global: &Global, args: &RehearseArgs) -> Result<Exit, Failure> {
    let meant = |service| match &args.config {
        Some(file) => Meant::by_file(file, global.name.as_deref(), service),
        None => {
            let mut client = global.client()?;
            block_on(Meant::by_supervisor(&mut client, service))?
        }
    };
    let meant = meant(args.service.as_deref())?;
    check_http(args, &meant.service)?;
    let soak = meant.service.upgrade.soak;
    let span = args.span.unwrap_or(if soak.is_zero() { SPAN } else { soak });
    let mut rehearsal =
        Rehearsal { args, show: Show::whole(args.json), style: Style::of(&io::stderr()), began: None, last: 0 };
    block_on(async {
        rehearsal.show.line(&render::rehearsing(&meant.service.name, span));
        let mut stage = Stage::set(meant, span)?;
        let ended = rehearsal.take_place(&mut stage).await;
        rehearsal.show.end();
        // Whatever came of it, nothing stays.
        let closed = stage.close().await;
        match (ended, closed) {
            // Where its supervisor has died, all else follows from that.
            (Err(failure), Err(_)) if failure.exit == Exit::Interrupted => Err(failure),
            (_, Err(failure)) => Err(failure),
            (ended, Ok(())) => ended,
        }
    })?
}

fn check_http(args: &RehearseArgs, service: &Service) -> Result<(), Failure> {
    let has_tcp = service.listen.iter().any(|listen| matches!(listen.address, Address::Tcp(_)));
    match &args.http {
        Some(path) if !has_tcp => {
            let failure = format!("service {} has no TCP listener on which {path} could be asked for", service.name);
            Err(Failure::new(Exit::Usage, failure))
        }
        Some(_) | None => Ok(()),
    }
}

/// A rehearsal that takes place.
struct Rehearsal<'a> {
    args: &'a RehearseArgs,
    show: Show,
    style: Style,
    /// When it began, in seconds since the epoch.
    began: Option<f64>,
    /// The place of the last event that was told.
    last: u64,
}

impl Rehearsal<'_> {
    async fn take_place(&mut self, stage: &mut Stage) -> Result<Exit, Failure> {
        self.show.waits("beginning the rehearsal");
        let interrupted = || Failure::new(Exit::Interrupted, "interrupted: the rehearsal was ended");
        let line = self.show.moving();
        let mut client = tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => return Err(interrupted()),
            client = stage.client() => client?,
        };
        let mut others = [stage.client().await?, stage.client().await?];
        let exit = tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => None,
            () = keep_moving(line.clone()) => None,
            exit = self.until_verdict(&mut client, &mut others) => Some(exit?),
        };
        self.show.waits(ENDING);
        tokio::select! {
            biased;
            // Whoever asks again does not want to wait for it: the end of its supervisor ends it at once.
            _ = tokio::signal::ctrl_c() => return Err(interrupted()),
            () = keep_moving(line) => {}
            ended = self.end(&mut client) => ended?,
        }
        exit.ok_or_else(interrupted)
    }

    /// The exit code that the verdict means.
    async fn until_verdict(&mut self, client: &mut Client, others: &mut [Client; 2]) -> Result<Exit, Failure> {
        let [asking, telling] = others;
        let (is_over, over) = oneshot::channel::<()>();
        let asked = ask(self.args.http.as_deref(), asking, async { drop(over.await) });
        tokio::pin!(asked);
        let (mut is_ready, mut wrong) = (false, None);
        let mut events = client.watch(UPGRADE, 0);
        let mut verdict = loop {
            let event = tokio::select! {
                event = events.next() => event?,
                found = &mut asked, if is_ready && wrong.is_none() => {
                    wrong = Some(found?);
                    // Where its time is over just now, the verdict is ours all the same.
                    let _ = telling.abort(&Target::default()).await;
                    continue;
                }
            };
            let Some(event) = event else {
                return Err(Failure::new(Exit::Internal, "the rehearsal ended without a verdict"));
            };
            self.began.get_or_insert(event.at - event.elapsed);
            is_ready |= matches!(event.event.as_str(), "soaking" | "serving");
            match event.verdict {
                Some(_) => break event,
                // It serves nobody.
                None if event.event == "serving" => {}
                None => self.tell(event)?,
            }
        };
        let succeeded = verdict.verdict.as_ref().is_some_and(|verdict| verdict.verdict == Verdict::Upgraded);
        if succeeded && wrong.is_none() {
            // What was asked for is waited for, and it was asked for at least once.
            drop(is_over);
            wrong = Some(asked.await?);
        }
        if let (Some(Some(wrong)), Some(verdict)) = (wrong, &mut verdict.verdict) {
            verdict.verdict = Verdict::RolledBack;
            verdict.exit_code = Exit::Failed.code();
            verdict.reason = Some(wrong);
            verdict.hint = None;
        }
        if let Some(seen) = telling.upgrade(UPGRADE).await?.probe {
            let message = render::rehearsal_seen(&seen);
            let event = "probed".to_owned();
            self.tell(UpgradeEvent { event, message, verdict: None, ..verdict.clone() })?;
        }
        self.conclude(verdict)
    }

    fn tell(&mut self, event: UpgradeEvent) -> Result<(), Failure> {
        let event = self.as_told(event);
        self.show.event(&event)
    }

    /// It is no generation of the service, and has a place of its own among those that are told.
    fn as_told(&mut self, event: UpgradeEvent) -> UpgradeEvent {
        self.last += 1;
        UpgradeEvent { seq: self.last, generation: None, ..event }
    }

    fn conclude(&mut self, event: UpgradeEvent) -> Result<Exit, Failure> {
        let mut event = self.as_told(event);
        let Some(verdict) = &mut event.verdict else { return Ok(Exit::Internal) };
        verdict.serving = None;
        event.message = render::rehearsed_in_short(verdict);
        let exit = Exit::from_code(verdict.exit_code).unwrap_or(Exit::Internal);
        match self.args.json {
            true => self.show.event(&event)?,
            false => self.show.line(render::rehearsed(&event, self.style).trim_end()),
        }
        Ok(exit)
    }

    /// Ends the service as an old generation is ended, and says how that went.
    async fn end(&mut self, client: &mut Client) -> Result<(), Failure> {
        let service = client.status().await?.services.into_iter().next().map(|service| service.name);
        client.stop(&Target { service }).await?;
        let mut events = client.events(0, true);
        let (mut concluded, mut overdue) = (false, false);
        while let Some(event) = events.next().await? {
            match event.event.as_str() {
                "verdict" => concluded = true,
                "stopped" => break,
                "exited" | "overdue" | "undead" if concluded => {
                    overdue |= event.event == "overdue";
                    self.tell(self.as_upgrade(event))?;
                    self.show.waits(ENDING);
                }
                _ => {}
            }
        }
        if overdue && !self.args.json {
            self.show.line(&render::rehearsal_overdue(self.style));
        }
        Ok(())
    }

    fn as_upgrade(&self, event: SupervisorEvent) -> UpgradeEvent {
        let elapsed = self.began.map_or(0.0, |began| (event.at - began).max(0.0));
        UpgradeEvent {
            seq: 0,
            at: event.at,
            elapsed,
            upgrade: UPGRADE,
            service: event.service.unwrap_or_default(),
            event: event.event,
            message: event.message,
            generation: None,
            verdict: None,
        }
    }
}

/// What is wrong with what is answered to `--http`, if anything is.
async fn ask(
    path: Option<&str>,
    client: &mut Client,
    over: impl Future<Output = ()>,
) -> Result<Option<String>, Failure> {
    let Some(path) = path else {
        over.await;
        return Ok(None);
    };
    let status = client.status().await?;
    let mut listeners = status.services.iter().flat_map(|service| &service.listeners);
    let address = listeners.find_map(|listener| listener.address.parse::<SocketAddr>().ok());
    let Some(address) = address else {
        return Err(Failure::new(Exit::Internal, "the address of the rehearsed listener is not known"));
    };
    Ok(http::failure(address, path, over).await)
}
