//! `zdsup completions`.

use clap::Args;
use clap_complete::Shell;

use super::command;
use super::failure::Failure;
use super::terminal::print;
use crate::exit::Exit;

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command(), "zdsup", &mut script);
    print(script)
}
