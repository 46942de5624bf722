//! `zdsup events`.

use std::io::{self, Write};

use clap::Args;

use super::failure::Failure;
use super::terminal::Style;
use super::{Global, block_on, render};
use crate::control::client::{Client, ClientError};
use crate::exit::Exit;

#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    /// Of this service only.
    #[arg(value_name = "SERVICE")]
    service: Option<String>,

    /// Go on with events as they happen.
    #[arg(long, short)]
    follow: bool,

    /// Print each as a line of JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(global: &Global, args: &EventsArgs) -> Result<Exit, Failure> {
    let mut client = global.client()?;
    block_on(async {
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => Ok(Exit::Interrupted),
            shown = show(&mut client, args) => shown,
        }
    })?
}

async fn show(client: &mut Client, args: &EventsArgs) -> Result<Exit, Failure> {
    let style = Style::of(&io::stdout());
    let mut events = client.events(0, args.follow);
    let mut seen = false;
    loop {
        let event = match events.next().await {
            Ok(Some(event)) => event,
            Ok(None) => return Ok(Exit::Done),
            Err(ClientError::NotRunning(_) | ClientError::Cut) if seen => {
                return Err(Failure::new(Exit::NoSupervisor, "the supervisor has ended, and no other took its place"));
            }
            Err(error) => return Err(error.into()),
        };
        seen = true;
        if args.service.is_some() && event.service.is_some() && args.service != event.service {
            continue;
        }
        let line = match args.json {
            true => {
                serde_json::to_string(&event).map_err(|error| Failure::new(Exit::Internal, error.to_string()))? + "\n"
            }
            false => render::told(&event, style),
        };
        if !printed(&line)? {
            return Ok(Exit::Done);
        }
    }
}

/// Whether somebody reads.
fn printed(line: &str) -> Result<bool, Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new(Exit::Internal, format!("cannot write to stdout: {error}"))),
    }
}
