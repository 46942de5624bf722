//! `zdsup abort`.

use clap::Args;

use super::failure::Failure;
use super::terminal::say;
use super::{Global, block_on};
use crate::control::types::Target;
use crate::exit::Exit;

#[derive(Debug, Args)]
pub(super) struct AbortArgs {
    /// The service; may be left out where there is one.
    service: Option<String>,
}

pub(super) fn run(global: &Global, args: AbortArgs) -> Result<Exit, Failure> {
    let mut client = global.client()?;
    let done = block_on(client.abort(&Target { service: args.service }))??;
    say(&done.message);
    Ok(Exit::Done)
}
