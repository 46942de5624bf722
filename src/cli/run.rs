//! `zdsup run`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::failure::Failure;
use super::run_flags::RunFlags;
use super::{Global, LogFormat};
use crate::config::Config;
use crate::exit::Exit;
use crate::supervisor::{self, log};
use crate::sys::describe;
use crate::{config, keeper};

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The config file; it is read again at each reload.
    #[arg(short, long, value_name = "FILE", conflicts_with = "RunFlags")]
    config: Option<PathBuf>,

    /// Stay as the parent of the supervisor, to start it again if it dies.
    ///
    /// For containers and other places without systemd. This process becomes the keeper: it holds the supervisor's
    /// sockets meanwhile, passes signals on to it, and reaps orphans as process 1 must. It ends when the supervisor has
    /// ended as it should, with the same exit code. SIGUSR1 starts the supervisor anew while the service goes on.
    #[arg(long)]
    keeper: bool,

    /// The directory for what outlives the supervisor: the history of its upgrades.
    ///
    /// Without this option the first entry of STATE_DIRECTORY, or /var/lib/zdsup/NAME for root, or
    /// XDG_STATE_HOME/zdsup/NAME (~/.local/state/zdsup/NAME). Where it cannot be used there is no history.
    #[arg(long, value_name = "DIRECTORY")]
    state_dir: Option<PathBuf>,

    #[command(flatten)]
    flags: RunFlags,
}

/// Whether a successor could be started by these. A config that cannot be read is no reason why not.
pub(super) fn check(global: &Global, args: &RunArgs) -> Result<(), String> {
    let name = global.name.as_deref();
    let checked = match &args.config {
        Some(path) => config::name_of(path, name).map(drop),
        None => args.flags.config_in(&config::last_directory(), name).map(drop),
    };
    checked.map_err(|error| error.to_string())
}

/// What these say where they are given in `directory`: the config of a supervisor that was started by them.
pub(super) fn given(global: &Global, args: &RunArgs, directory: &Path) -> Result<Config, Failure> {
    let name = global.name.as_deref();
    Ok(match &args.config {
        Some(path) => config::load(&directory.join(path), name)?,
        None => args.flags.config_in(directory, name)?,
    })
}

pub(super) fn run(global: &Global, args: &RunArgs) -> Result<Exit, Failure> {
    if args.keeper {
        let error = describe(&keeper::become_keeper());
        return Err(Failure::new(Exit::Internal, format!("cannot become the keeper: {error}")));
    }
    // Before anything else takes a descriptor.
    let passed = supervisor::Passed::take()
        .map_err(|error| Failure::new(Exit::Usage, format!("what was passed by systemd cannot be used: {error}")))?;
    let name = global.name.as_deref();
    let config = match &args.config {
        Some(path) => config::load(path, name),
        None if args.flags.command.is_empty() => {
            let failure = Failure::new(Exit::Usage, "there is nothing to run");
            return Err(failure.hint(Some("zdsup run -c FILE, or zdsup run --listen 8080 -- COMMAND")));
        }
        None if passed.has_state() => args.flags.config_in(&config::last_directory(), name),
        None => args.flags.config(name),
    };
    let (name, source, config) = match (config, &args.config) {
        (Ok(config), _) => (config.name.clone(), config.source.clone(), Some(config)),
        // What runs goes on by the config that is in force; this one is an error at the next reload.
        (Err(_), Some(path)) if passed.has_state() => (config::name_of(path, name)?, Some(path.clone()), None),
        (Err(error), _) => return Err(error.into()),
    };
    let log_format = match global.log_format {
        LogFormat::Human => log::Format::Human,
        LogFormat::Json => log::Format::Json,
    };
    let (runtime_dir, state_dir) = (global.runtime_dir.clone(), args.state_dir.clone());
    let options = supervisor::Options { name, config, source, runtime_dir, state_dir, log_format, rehearsal: None };
    Ok(supervisor::run(options, passed)?)
}

#[cfg(test)]
mod tests {
    use super::super::check_run;

    #[test]
    fn a_successor_is_told_what_it_cannot_understand() {
        let check = |words: &[&str]| check_run(words.iter().map(Into::into).collect());
        assert_eq!(check(&["zdsup", "run", "-c", "/nowhere/web.toml", "--name", "web"]), Ok(()));
        assert_eq!(check(&["zdsup", "run", "--listen", "8080", "--", "true"]), Ok(()));
        for (words, reason) in [
            (&["zdsup", "run", "--of-another-version"][..], "--of-another-version"),
            (&["zdsup", "run", "--listen", "nonsense:", "--", "true"], "--listen"),
            (&["zdsup", "status"], "does not run"),
        ] {
            let error = check(words).expect_err("refused");
            assert!(error.contains(reason), "{error}");
        }
    }
}
