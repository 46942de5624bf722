//! `zdsup status`.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;

use super::failure::Failure;
use super::terminal::{Style, print};
use super::{Global, block_on, render};
use crate::exit::Exit;

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(global: &Global, args: &StatusArgs) -> Result<Exit, Failure> {
    let mut client = global.client()?;
    let status = block_on(client.status())??;
    if args.json {
        let json = serde_json::to_string_pretty(&status);
        return print(json.map_err(|error| Failure::new(Exit::Internal, error.to_string()))? + "\n");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    print(render::status(&status, now.as_secs_f64(), Style::of(&io::stdout())))
}
