//! `zdsup pause` and `zdsup resume`.

use std::time::Duration;

use clap::Args;

use super::failure::Failure;
use super::terminal::say;
use super::{Global, block_on, timeout};
use crate::control::types::{PauseRequest, Target};
use crate::exit::Exit;

#[derive(Debug, Args)]
pub(super) struct PauseArgs {
    /// The service; may be left out where there is one.
    service: Option<String>,

    /// For how long at most, up to 10m.
    #[arg(long, value_name = "TIME", value_parser = timeout, default_value = "30s", allow_hyphen_values = true)]
    max: Duration,
}

#[derive(Debug, Args)]
pub(super) struct ResumeArgs {
    /// The service; may be left out where there is one.
    service: Option<String>,
}

pub(super) fn pause(global: &Global, args: PauseArgs) -> Result<Exit, Failure> {
    let request = PauseRequest { service: args.service, max: Some(args.max.as_secs_f64()) };
    let mut client = global.client()?;
    let done = block_on(client.pause(&request))??;
    say(&done.message);
    Ok(Exit::Done)
}

pub(super) fn resume(global: &Global, args: ResumeArgs) -> Result<Exit, Failure> {
    let mut client = global.client()?;
    let done = block_on(client.resume(&Target { service: args.service }))??;
    say(&done.message);
    Ok(Exit::Done)
}
