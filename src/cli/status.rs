//! `zdsup status`.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;

use super::failure::Failure;
use super::terminal::{Style, print};
use super::{Global, block_on, render, watch};
use crate::control::types::Status;
use crate::exit::Exit;

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// The services; without one, all of them.
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,

    /// Show it as it changes, until ^C.
    #[arg(long, short)]
    watch: bool,

    /// Print it as JSON; with --watch, a line a second.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(global: &Global, args: &StatusArgs) -> Result<Exit, Failure> {
    let mut client = global.client()?;
    if args.watch {
        return block_on(watch::watch(&mut client, &args.services, args.json))?;
    }
    let mut status = block_on(client.status())??;
    only(&mut status, &args.services)?;
    if args.json {
        let json = serde_json::to_string_pretty(&status);
        return print(json.map_err(|error| Failure::new(Exit::Internal, error.to_string()))? + "\n");
    }
    print(render::status(&status, now(), Style::of(&io::stdout())))
}

/// Leaves only these services, all of them where none is named.
pub(super) fn only(status: &mut Status, names: &[String]) -> Result<(), Failure> {
    if let Some(unknown) = names.iter().find(|name| status.services.iter().all(|service| service.name != **name)) {
        let known: Vec<&str> = status.services.iter().map(|service| service.name.as_str()).collect();
        let failure = Failure::new(Exit::Usage, format!("there is no service {unknown}"));
        return Err(failure.hint(Some(format!("this supervisor has {}", known.join(", ")))));
    }
    status.services.retain(|service| names.is_empty() || names.contains(&service.name));
    Ok(())
}

/// Seconds since the epoch.
pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
