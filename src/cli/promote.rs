//! `zdsup promote`.

use clap::Args;

use super::failure::Failure;
use super::terminal::say;
use super::{Global, block_on};
use crate::control::types::Promotion;
use crate::exit::Exit;

#[derive(Debug, Args)]
pub(super) struct PromoteArgs {
    /// The service; may be left out where there is one.
    service: Option<String>,

    /// Leave the further steps out: all new connections go to the canary at once.
    #[arg(long)]
    full: bool,
}

pub(super) fn run(global: &Global, args: PromoteArgs) -> Result<Exit, Failure> {
    let mut client = global.client()?;
    let PromoteArgs { service, full } = args;
    let done = block_on(client.promote(&Promotion { service, full }))??;
    say(&done.message);
    Ok(Exit::Done)
}
