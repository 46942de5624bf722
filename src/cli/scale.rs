//! `zdsup scale`.

use clap::Args;

use super::failure::Failure;
use super::terminal::say;
use super::{Global, block_on};
use crate::control::request::INSTANCES_MAX;
use crate::control::types::Scaling;
use crate::exit::Exit;

#[derive(Debug, Args)]
pub(super) struct ScaleArgs {
    /// The service.
    service: String,

    /// How many instances it is to have, 1 to 1024.
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(INSTANCES_MAX)))]
    instances: u32,
}

pub(super) fn run(global: &Global, args: ScaleArgs) -> Result<Exit, Failure> {
    let mut client = global.client()?;
    let ScaleArgs { service, instances } = args;
    let done = block_on(client.scale(&Scaling { service: Some(service), instances }))??;
    say(&done.message);
    Ok(Exit::Done)
}
