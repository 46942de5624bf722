//! `zdsup check`: prints what [`super::check`] found.

use std::path::PathBuf;

use clap::Args;

use super::failure::Failure;
use super::terminal::print;
use super::{Global, check};
use crate::exit::Exit;

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The config file.
    file: PathBuf,
}

pub(super) fn run(global: &Global, args: &CheckArgs) -> Result<Exit, Failure> {
    print(check::check(&args.file, global.name.as_deref())?.to_string())
}
