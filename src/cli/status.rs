//! `zdsup status`.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;

use super::failure::Failure;
use super::terminal::{Style, print};
use super::{Global, block_on, render, watch};
use crate::exit::Exit;

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
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
        return block_on(watch::watch(&mut client, args.json))?;
    }
    let status = block_on(client.status())??;
    if args.json {
        let json = serde_json::to_string_pretty(&status);
        return print(json.map_err(|error| Failure::new(Exit::Internal, error.to_string()))? + "\n");
    }
    print(render::status(&status, now(), Style::of(&io::stdout())))
}

/// Seconds since the epoch.
pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
